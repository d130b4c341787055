"""The public end: strangers call `/<name>/hooks/…`, the home of that name answers down its line. A bare ASGI application."""

from __future__ import annotations

import json
from typing import Any

from dicode.process.bodies import Crowded, Gone, Receive, Room, Send
from dicode.process.clock import mono
from dicode.process.http import remote_of
from dicode.process.logs import Log
from dicode.relay.frames import CONNECT_AT, NAME_HEADER, REPLACED, WITHDRAWN, Call, Reply, address_of, forwarded, passed_on
from dicode.relay.line import Busy, Line, Lost, Slow
from dicode.relay.tokens import Tokens

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
QUIET = 10.0  # seconds between two lines about callers nobody knows
_SET_BY_US = frozenset((b"content-length", b"date", b"server"))


class PublicApp:
    """Answers strangers and lets homes in. `tokens` may be replaced while it runs (`admit`)."""

    def __init__(self, tokens: Tokens, log: Log) -> None:
        self._tokens = tokens
        self._log = log
        self._lines: dict[str, Line] = {}
        self._room = Room()
        self._refused = 0  # connections since the last line about them
        self._said_at = -QUIET

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._home(scope, receive, send)
            return
        try:
            reply = await self._stranger(scope, receive)
        except Gone:
            return
        except Exception as error:
            self._log.say(f"relay: a call failed: {type(error).__name__}")
            reply = _problem(500, "internal error")
        headers = [*passed_on(reply.headers, without=_SET_BY_US), (b"content-length", str(len(reply.body)).encode())]
        if reply.status in (413, 503) and reply.id == OURS:
            headers.append((b"connection", b"close"))  # a body may be left unread
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    # --- strangers

    async def _stranger(self, scope: Any, receive: Receive) -> Reply:
        to = address_of(scope["raw_path"], scope["query_string"])
        if to is None or to.home not in self._tokens:
            return _problem(404, "not found")
        if scope["method"] not in METHODS:
            return _problem(405, "not a method of hooks")
        line = self._lines.get(to.home)
        if line is None:
            return _problem(503, "its home is not connected", retry_after=5)
        try:
            body = await self._room.read_body(scope["headers"], receive)
        except Crowded:
            return _problem(503, "too many big bodies at once", retry_after=1)
        if body is None:
            return _problem(413, "the body is too big")
        remote = remote_of(scope)
        try:
            return await line.call(Call(0, scope["method"], to.target, forwarded(scope["headers"], remote), body, remote))
        except Busy:
            return _problem(429, "too many calls wait for its home", retry_after=1)
        except Lost:
            return _problem(502, "its home went away")
        except Slow:
            return _problem(504, "its home did not answer in time")

    # --- homes

    async def _home(self, scope: Any, receive: Receive, send: Send) -> None:
        name, token = _credentials(scope["headers"])
        await receive()  # that somebody wants to connect
        if scope["path"] != CONNECT_AT or not self._tokens.admit(name, token):
            self._refuse()
            await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "websocket.http.response.body", "body": b"this relay does not know that name and token\n"})
            return
        await send({"type": "websocket.accept"})
        line = Line(name, receive, send)
        before = self._lines.get(name)
        self._lines[name] = line
        if before is not None:
            self._log.say(f"relay: {name} connected again from {remote_of(scope)}: the newer connection takes the place of the older")
            before.end(REPLACED, "a newer connection of the same name took its place")
        else:
            self._log.say(f"relay: {name} connected from {remote_of(scope)}")
        try:
            await line.live()
        finally:
            if self._lines.get(name) is line:
                del self._lines[name]
                self._log.say(f"relay: {name} is away")

    def _refuse(self) -> None:
        """Said at most now and then: anybody can be refused as often as he likes."""
        self._refused += 1
        if mono() - self._said_at >= QUIET:
            times = "" if self._refused == 1 else f" ({self._refused} times)"
            self._log.say(f"relay: refused a connection: unknown name or wrong token{times}")
            self._said_at, self._refused = mono(), 0

    def admit(self, tokens: Tokens) -> None:
        """From now on these; whose name or token is not among them any more is disconnected."""
        before, self._tokens = self._tokens, tokens
        for name, line in list(self._lines.items()):
            if name not in tokens or not tokens.same(name, before):
                line.end(WITHDRAWN, "this name and token were taken out")

    @property
    def waiting(self) -> int:
        """Calls that wait for an answer."""
        return sum(line.waiting for line in self._lines.values())


OURS = 0  # id of an answer that no home gave


def _problem(status: int, why: str, *, retry_after: int = 0) -> Reply:
    headers = [(b"content-type", b"application/json")]
    if retry_after:
        headers.append((b"retry-after", str(retry_after).encode()))
    return Reply(OURS, status, tuple(headers), json.dumps({"error": f"relay: {why}"}).encode())


def _credentials(headers: list[tuple[bytes, bytes]]) -> tuple[str, bytes]:
    """The name and token a home shows; nothing where something is missing or said twice."""
    names = [value for name, value in headers if name.lower() == NAME_HEADER.encode()]
    tokens = [value for name, value in headers if name.lower() == b"authorization"]
    if len(names) != 1 or len(tokens) != 1 or not tokens[0].startswith(b"Bearer "):
        return "", b""
    return names[0].decode("latin-1"), tokens[0].removeprefix(b"Bearer ")
