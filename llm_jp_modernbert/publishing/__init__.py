"""Releases, pulls, dataset releases and exports."""
