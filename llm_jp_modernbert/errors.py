"""Mistakes of the user's, as opposed to the program's."""

from __future__ import annotations


class UsageError(ValueError):
    """Something that the user can put right; the message names the option, file or text, and the way out."""
