"""Proof that a released model computes the same in the runtimes that people serve with."""
