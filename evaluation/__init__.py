"""Evaluation of encoders: one module per task, one schema of results, leaderboard and plots."""
