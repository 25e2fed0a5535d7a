"""Findings and comparisons behind the finished cards. Not installed."""
