"""Errors whose message is shown to the user without a traceback."""


class UsageError(ValueError):
    """A mistake in the user's input. The message names the file, option or row at fault and the way out."""


def first_line(error: BaseException) -> str:
    """The first non-empty line of an error's message, or its class name if there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
