"""Requests as the Hub understands them: who asks, what they may see, and what answers and refusals look like."""

from __future__ import annotations

import json
from dataclasses import dataclass
from email.message import Message
from typing import TYPE_CHECKING, Any, NamedTuple

from .storage import Commit, Repository

if TYPE_CHECKING:
    from .server import LoopbackHub


class Answer(NamedTuple):
    """A status, a content and headers."""

    status: int
    content: bytes
    headers: dict[str, str]


def json_answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """An answer in JSON."""
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


class Refusal(Exception):
    """Ends a request with a status, a message and, where the Hub has one, its code for the error."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}

    def answer(self) -> Answer:
        """The answer that says so."""
        line = " ".join(str(self).encode("ascii", "replace").decode().split())
        headers = {"X-Error-Message": line, "X-Error-Code": self.code, "Content-Type": "application/json"}
        headers = {name: value for name, value in {**headers, **self.headers}.items() if value}
        return Answer(self.status, json.dumps({"error": str(self)}).encode(), headers)


@dataclass
class Call:
    """One request; its path still has its percent signs."""

    hub: LoopbackHub
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes

    @property
    def user(self) -> str | None:
        """Whose token it brings."""
        token = self.headers.get("Authorization")
        if token is None:
            return None
        users = {f"Bearer {self.hub.token}": self.hub.user, f"Bearer {self.hub.guest_token}": "guest"}
        if token not in users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return users[token]

    @property
    def is_owner(self) -> bool:
        """Whether it may write."""
        return self.user == self.hub.user

    def asks(self, name: str) -> bool:
        """Whether a flag of the query is set."""
        return self.query.get(name, ["false"])[0].lower() in ("true", "1")

    def json(self) -> Any:
        """The body."""
        try:
            return json.loads(self.body or b"{}")
        except ValueError:
            raise Refusal(400, "the body is no JSON") from None

    def must_write(self) -> None:
        """Refuses whoever may not."""
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        if not self.is_owner:
            raise Refusal(403, "you have no rights to write here")

    def repository(self, kind: str | None, name: str, contents: bool = False) -> Repository:
        """A repository that one may see, or whose contents one may read."""
        found = self.hub.repositories.get(((kind or "models").rstrip("s"), name))
        if found is None or (found.private and not self.is_owner):
            if self.user is None:
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if contents and found.gated and not self.is_owner:
            message = f"Access to {name} is restricted"
            raise Refusal(401 if self.user is None else 403, message, "GatedRepo")
        return found

    def commit(self, kind: str | None, name: str, revision: str, contents: bool = False) -> Commit:
        """What a revision names."""
        found = self.repository(kind, name, contents).find(revision)
        if found is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found
