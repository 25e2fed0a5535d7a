"""Requests, permissions, and responses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from email.message import Message
from typing import TYPE_CHECKING, Any, NamedTuple

from .storage import Commit, Repository

if TYPE_CHECKING:
    from .server import LoopbackHub


class Answer(NamedTuple):
    """A response: status, content and headers."""

    status: int
    content: bytes
    headers: dict[str, str]


def json_answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """A JSON response."""
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


class Refusal(Exception):
    """Ends a request with a status, a message and the Hub's error code, if it has one."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}

    def answer(self) -> Answer:
        """The error response."""
        line = " ".join(str(self).encode("ascii", "replace").decode().split())
        headers = {"X-Error-Message": line, "X-Error-Code": self.code, "Content-Type": "application/json"}
        headers = {name: value for name, value in {**headers, **self.headers}.items() if value}
        return Answer(self.status, json.dumps({"error": str(self)}).encode(), headers)


@dataclass
class Call:
    """A request. Its path is percent-encoded."""

    hub: LoopbackHub
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes

    @property
    def user(self) -> str | None:
        """Name of the user, by the token; None without a token."""
        token = self.headers.get("Authorization")
        if token is None:
            return None
        users = {f"Bearer {self.hub.token}": self.hub.user, f"Bearer {self.hub.guest_token}": "guest"}
        if token not in users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return users[token]

    @property
    def is_owner(self) -> bool:
        """Whether the user may write."""
        return self.user == self.hub.user

    def has_flag(self, name: str) -> bool:
        """Whether a flag of the query string is set."""
        return self.query.get(name, ["false"])[0].lower() in ("true", "1")

    def json(self) -> Any:
        """The request's body, parsed as JSON."""
        try:
            return json.loads(self.body or b"{}")
        except ValueError:
            raise Refusal(400, "the body is not JSON") from None

    def must_write(self) -> None:
        """Raises unless the user may write."""
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        if not self.is_owner:
            raise Refusal(403, "you have no rights to write here")

    def repository(self, kind: str | None, name: str, contents: bool = False) -> Repository:
        """A repository that the user may see; with `contents`, also read."""
        repository = self.hub.repositories.get(((kind or "models").rstrip("s"), name))
        if repository is None or (repository.private and not self.is_owner):
            if self.user is None:
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if contents and repository.gated and not self.is_owner:
            message = f"Access to {name} is restricted"
            raise Refusal(401 if self.user is None else 403, message, "GatedRepo")
        return repository

    def commit(self, kind: str | None, name: str, revision: str, contents: bool = False) -> Commit:
        """The commit of a revision."""
        commit = self.repository(kind, name, contents).find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit
