"""Leaderboard, plots and side-by-side tables."""
