"""Errors of the Hub and its client: which ones are transient, and how they read in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import UsageError, first_line

# Timeouts, conflicts with another commit, rate limits and server errors.
_TRANSIENT = (408, 409, 412, 425, 429, 500, 502, 503, 504)
# Errors of the storage, which the client wraps in a RuntimeError: a retry requests a new upload URL.
_TRANSIENT_UPLOAD = (400, 403)


_STATUS_MESSAGES = {
    401: "the Hub does not know the token (401). Log in (hf auth login), or set HF_TOKEN.",
    403: "the token lacks the permission (403). Log in with another one (hf auth login), or choose another name.",
    409: "another commit was made at the same time (409).",
    412: "another commit was made at the same time (412).",
    429: "rate limit exceeded (429).",
}


def is_transient(error: BaseException) -> bool:
    """Whether a retry may succeed: a server error, a broken connection, or a concurrent commit."""
    status = _status(error)
    if isinstance(error, RuntimeError) and status in _TRANSIENT_UPLOAD:
        return True
    return status in _TRANSIENT if status is not None else _is_connection_error(error)


def retry_after(error: BaseException) -> float | None:
    """Seconds to wait before a retry, if the Hub's response gives them."""
    seconds = getattr(_response(error), "headers", {}).get("Retry-After", "")
    return float(seconds) if seconds.isdigit() else None


@contextmanager
def one_line_errors(repository: str) -> Iterator[None]:
    """Turns errors of the Hub, its client and the network into a one-line `UsageError` that names the repository."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    known = (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError, RuntimeError)
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        if not isinstance(error, known) and not _is_connection_error(error):
            raise
        raise UsageError(f"{repository}: {explain(error)}") from error


def explain(error: BaseException) -> str:
    """An error of the Hub in one line, with the way out. Request headers, which hold the token, are never shown."""
    from huggingface_hub import errors

    messages: tuple[tuple[type[BaseException], str], ...] = (
        (errors.GatedRepoError, "the repository is gated: request access on its page, and log in (hf auth login)."),
        (errors.RevisionNotFoundError, "there is no such revision."),
        (errors.EntryNotFoundError, "there is no such file."),
        (
            errors.RepositoryNotFoundError,
            "no such repository, or the token has no access to it. Check the name, and log in (hf auth login).",
        ),
        (errors.OfflineModeIsEnabled, "the Hub is needed, but HF_HUB_OFFLINE is set. Unset it."),
        (errors.LocalTokenNotFoundError, "no token found. Log in (hf auth login), or set HF_TOKEN."),
    )
    for cause in _causes(error):
        for kind, message in messages:
            if isinstance(cause, kind):
                return message
    status = _status(error)
    if status is not None:
        detail = next((text for cause in _causes(error) if (text := getattr(cause, "server_message", None))), "")
        message = f"the Hub answers {status}{': ' if detail else '.'}{' '.join(str(detail).split())}"
        if status >= 500:
            message = f"the Hub answers {status}. Run the same command again to resume."
        return _STATUS_MESSAGES.get(status, message)
    if _is_connection_error(error):
        *_, cause = _causes(error)
        return f"the connection failed ({type(cause).__name__}). Run the same command again to resume."
    return first_line(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and the errors that caused it: the client wraps those of uploads."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _response(error: BaseException) -> Any:
    responses = (getattr(cause, "response", None) for cause in _causes(error))
    return next((response for response in responses if response is not None), None)


def _status(error: BaseException) -> int | None:
    return getattr(_response(error), "status_code", None)


def _is_connection_error(error: BaseException) -> bool:
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    # HTTPError is also the base class of error responses; those have a status.
    return _status(error) is None and any(
        isinstance(cause, (HTTPError, ConnectionError, TimeoutError)) and not isinstance(cause, OfflineModeIsEnabled)
        for cause in _causes(error)
    )
