"""Shared by every package: errors, files, the Hub client, progress bars, versions."""
