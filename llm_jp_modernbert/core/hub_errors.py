"""Errors of the Hub and its client: which ones are transient, and how they read in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from .errors import UsageError, describe, first_line, is_failed_write
from .terminal import printable

LONGEST_WAIT = 300.0
"""Longest `Retry-After` that is waited for, in seconds: the period of the Hub's rate limits."""

TIMEOUT = 30.0
"""Seconds without a byte after which a request fails. Most requests of huggingface_hub have no timeout."""

# Timeouts, conflicts with another commit, rate limits and server errors.
_TRANSIENT = (408, 409, 412, 425, 429, 500, 502, 503, 504)
# Errors of the storage, which the client wraps in a RuntimeError: a retry requests a new upload URL.
_TRANSIENT_UPLOAD = (400, 403)
# Characters of a message of the Hub that are shown.
_LONGEST_DETAIL = 300
# Raised by the client for responses that are not the Hub's, such as the login page of a network.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)

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
    """Seconds to wait before a retry, if the Hub's response gives them as a number or a date."""
    return _requested_wait(_response(error))


def _requested_wait(response: Any) -> float | None:
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    headers = getattr(response, "headers", {})
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    value = str(headers.get("Retry-After", "")).strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def limit_waiting() -> None:
    """Gives requests of the client a timeout where they have none, and fails where the client would wait for hours."""
    from huggingface_hub import get_session

    session = get_session()
    hooks = session.event_hooks
    if _set_timeout not in hooks["request"]:
        session.event_hooks = {
            "request": [*hooks["request"], _set_timeout],
            "response": [*hooks["response"], _refuse_long_wait],
        }


def _set_timeout(request: Any) -> None:
    # Some calls set the timeout to None themselves, so that a default of the session has no effect.
    timeout = request.extensions["timeout"]
    request.extensions["timeout"] = {part: TIMEOUT if value is None else value for part, value in timeout.items()}


def _refuse_long_wait(response: Any) -> None:
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

    if response.is_error and (_requested_wait(response) or 0) > LONGEST_WAIT:
        response.read()
        hf_raise_for_status(response)


@contextmanager
def one_line_errors(repository: str) -> Iterator[None]:
    """Turns errors of the Hub, its client and the network into a one-line `UsageError` that names the repository."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{repository}: {explain(error)}") from error


def explain(error: BaseException) -> str:
    """An error of the Hub in one line, with the way out. Tokens and terminal escapes in it are never shown."""
    return printable(" ".join(_explain(error).split()))


def _explain(error: BaseException) -> str:
    from huggingface_hub import constants, errors

    messages: tuple[tuple[type[BaseException], str], ...] = (
        (errors.GatedRepoError, "the repository is gated: request access on its page, and log in (hf auth login)."),
        (errors.RevisionNotFoundError, "there is no such revision."),
        (errors.RemoteEntryNotFoundError, "there is no such file."),
        (
            errors.RepositoryNotFoundError,
            "no such repository, or the token has no access to it. Check the name, and log in (hf auth login).",
        ),
        (errors.OfflineModeIsEnabled, "the Hub is needed, but HF_HUB_OFFLINE is set. Unset it."),
        (errors.HFValidationError, "not the name of a repository on the Hub. Write ORG/NAME."),
        (errors.LocalTokenNotFoundError, "no token found. Log in (hf auth login), or set HF_TOKEN."),
    )
    for cause in _causes(error):
        for kind, message in messages:
            if isinstance(cause, kind):
                return message
    if _status(error) is not None:
        return _explain_status(error)
    if _is_connection_error(error):
        *_, cause = _causes(error)
        return f"the connection failed ({type(cause).__name__}). Run the same command again to resume."
    if is_failed_write(error):
        return f"{describe(error)} The Hub's cache is in {constants.HF_HUB_CACHE}; HF_HOME sets another place."
    if isinstance(error, _MALFORMED) and not isinstance(error, UsageError):
        return (
            f"the response is not the Hub's ({type(error).__name__}), but perhaps that of a proxy or a login page. "
            "Check the network and HF_ENDPOINT, and run the same command again."
        )
    return first_line(error)


def _explain_status(error: BaseException) -> str:
    status, wait = _status(error), retry_after(error) or 0
    detail = next((text for cause in _causes(error) if (text := getattr(cause, "server_message", None))), "")
    message = f"the Hub answers {status}{f': {detail[:_LONGEST_DETAIL]}' if detail else '.'}"
    if status is not None and status >= 500:
        message = f"the Hub answers {status}. Run the same command again to resume."
    message = _STATUS_MESSAGES.get(status or 0, message)
    return message if wait <= LONGEST_WAIT else f"{message} It asks to wait {wait:,.0f} s before the next attempt."


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
