"""The HTTP server, including failing connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from .api import answer
from .calls import Answer, Call, Refusal
from .faults import Fault, Faults
from .storage import Storage


@dataclass
class Request:
    """A logged request. `status` is None without a response."""

    method: str
    path: str
    query: str
    range: str | None
    has_token: bool
    status: int | None = None


class LoopbackHub(Storage):
    """The server, a context manager; see the package's docstring.

    Args:
        folder: directory of the repositories.
    """

    token = "hf_loopback_token"
    guest_token = "hf_loopback_guest_token"
    user = "loopback"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.log: list[Request] = []
        self.is_down = False
        self.page_size = 1000
        # Kind and name of the repository, SHA-256 and size by upload URL.
        self.uploads: dict[str, tuple[str, str, str, int]] = {}
        self.faults = Faults()
        self.closed = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Open connections get no responses either.
        self.is_down = True
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def requests(self) -> list[str]:
        """Method and path of each request."""
        return [f"{request.method} {request.path}" for request in self.log]

    def down(self) -> None:
        """Drops every connection from now on."""
        self.is_down = True

    def up(self) -> None:
        """Accepts connections again."""
        self.is_down = False

    def fail(
        self,
        method: str,
        path: str,
        how: int | str,
        *,
        times: int | None = 1,
        after: int = 0,
        headers: dict[str, str] | None = None,
        seconds: float = 0.1,
        content: bytes | None = None,
    ) -> Fault:
        """Makes requests fail; see the package's docstring."""
        return self.faults.add(Fault(method, path, how, times, after, headers or {}, seconds, content))

    def mend(self) -> None:
        """Removes all faults."""
        self.faults.clear()

    def faults_left(self) -> int:
        """Number of pending failures."""
        return self.faults.left()

    def gate(self, repository: str, kind: str = "model") -> None:
        """Restricts the contents of a repository to its owner; the repository stays visible."""
        with self.lock:
            self.repositories[kind, repository].gated = True
            self.repositories[kind, repository].save()

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Environment variables that make a process use this Hub, by default as the owner."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": self.token if token is None else token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }


class _Server(ThreadingHTTPServer):
    request_queue_size = 128


class _Cut(Exception):
    """Closes the connection."""


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    # Otherwise the content waits until the header is acknowledged.
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Suppresses the log on standard error."""

    def do_GET(self) -> None:
        try:
            self._answer()
        except (_Cut, ConnectionError):
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path, token = unquote(url.path), self.headers.get("Authorization")
        request = Request(self.command, path, url.query, self.headers.get("Range"), token is not None)
        with self.hub.lock:
            self.hub.log.append(request)
        if self.hub.is_down:
            raise _Cut
        fault = self.hub.faults.strike(self.command, path)
        how = fault.how if fault else None
        body = self._body(fault)
        if how == "cut":
            raise _Cut
        if fault and isinstance(fault.how, int):
            response = Refusal(fault.how, "a fault requested by a test", headers=fault.headers).answer()
            if fault.content is not None:
                response = response._replace(content=fault.content)
        else:
            call = Call(self.hub, self.command, url.path, parse_qs(url.query), self.headers, body)
            with self.hub.lock:
                try:
                    response = answer(call)
                except Refusal as refusal:
                    response = refusal.answer()
        if how == "lost":
            raise _Cut
        request.status = response.status
        self._send(response, fault, slowly=how == "slow" and not body)

    def _body(self, fault: Fault | None) -> bytes:
        """Reads the request's body, with the failures of a fault."""
        how = fault.how if fault else None
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        sizes = self._chunks() if chunked else _eighths(int(self.headers.get("Content-Length") or 0))
        cut = how == "cut-body" and self.command not in ("GET", "HEAD")
        parts = []
        for index, size in enumerate(sizes):
            if cut and (chunked or index == 4):
                self._read(size // 2)
                raise _Cut
            if fault and how == "slow":
                self.hub.closed.wait(fault.seconds)
            parts.append(self._read(size))
        body = b"".join(parts)
        if cut:
            raise _Cut
        return _damaged(body) if how == "corrupt" and self.command not in ("GET", "HEAD") else body

    def _chunks(self) -> Iterator[int]:
        while line := self.rfile.readline():
            size = int(line.split(b";")[0], 16)
            if size:
                yield size
            self.rfile.readline()
            if not size:
                return
        raise _Cut

    def _read(self, size: int) -> bytes:
        content = self.rfile.read(size)
        # An incomplete request has no effect.
        if len(content) < size:
            raise _Cut
        return content

    def _send(self, response: Answer, fault: Fault | None, slowly: bool) -> None:
        content, how = response.content, fault.how if fault else None
        if self.command == "HEAD" and how == "cut-body":
            raise _Cut
        if fault and slowly and (self.command == "HEAD" or not content):
            self.hub.closed.wait(fault.seconds)
        self.send_response(response.status)
        for name, value in {"Content-Length": str(len(content)), **response.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.command == "GET" and how == "cut-body":
            self.wfile.write(content[: len(content) // 2])
            raise _Cut
        if self.command == "GET" and how == "corrupt":
            content = _damaged(content)
        if fault and slowly and content:
            first = 0
            for size in _eighths(len(content)):
                self.hub.closed.wait(fault.seconds)
                self.wfile.write(content[first : first + size])
                first += size
        else:
            self.wfile.write(content)


def _eighths(size: int) -> list[int]:
    """Sizes of eight parts; an empty list for size 0."""
    bounds = [size * count // 8 for count in range(9)]
    return [after - before for before, after in pairwise(bounds)] if size else []


def _damaged(content: bytes) -> bytes:
    """The content with its middle byte changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :] if content else content
