"""What an encoder is worth: one file for each evaluation, one schema of results, leaderboard and plots."""
