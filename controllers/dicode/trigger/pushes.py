"""POST /hooks/git/<source>: verify, ask for a sync, answer. The request is committed before a 2xx that names it leaves."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from dicode.messages.commands import Conflict, Found, Get, Write, Written
from dicode.messages.kinds import Delivery, Source
from dicode.process.clock import mono, wall, wall_ms
from dicode.process.mirror import Mirror, put
from dicode.spec.names import is_segment
from dicode.trigger import push, webhook
from dicode.trigger.push import PUSHES, Minute, Push
from dicode.trigger.request import Request
from dicode.trigger.webhook import NOT_FOUND, Answer, Malformed, problem
from dicode.wire.client import Wire
from dicode.wire.frames import StoreAway, StoreFailed, decode_body

STORE_WITHIN = 5.0  # seconds the store may take to accept a request
AGAIN = 3  # times a write that met another of the same delivery is tried
NO_SECRET = os.urandom(32)  # what calls for sources that have none are compared with: they take as long as others


class Verified(NamedTuple):
    """A push that asks for a sync."""

    source: str
    delivery: str
    push: Push
    at: float  # seconds since the epoch, when it came in
    remote: str
    size: int


class Pushes:
    """Answers the git hosts, from the mirror's sources and the secrets in `environ`."""

    def __init__(self, wire: Wire, mirror: Mirror, environ: dict[str, str], remember: Callable[[Delivery], None]) -> None:
        self._wire = wire
        self._mirror = mirror
        self._environ = environ
        self._remember = remember
        self._minutes: dict[str, Minute] = {}
        self._under_way: dict[str, asyncio.Task[Answer]] = {}  # by source and delivery: the same one at the same time is asked for once

    async def answer(self, request: Request, read_body: Callable[[], Awaitable[bytes | None]]) -> Answer:
        """Of a path below /hooks/git. Which sources there are shows in no answer but a verified one. Raises StoreAway, StoreFailed, Gone, Crowded."""
        at = wall()
        name = request.path.removeprefix(push.PATH).removesuffix("/")
        if not request.path.startswith(push.PATH) or not is_segment(name):
            return NOT_FOUND
        if request.method != "POST":
            return problem(405, "this hook answers POST", headers=((b"allow", b"POST"),))
        body = await read_body()
        if body is None:
            return problem(413, f"a body has at most {webhook.BODY_MAX} bytes")
        source = self._mirror.get(Source, name)
        secret = push.secret_of(source, self._environ) if source is not None else None
        known = push.verified(secret if isinstance(secret, bytes) else NO_SECRET, body, request.headers)
        if source is None or not isinstance(secret, bytes) or not known:
            return NOT_FOUND
        try:
            told = push.read(request.headers, body)
        except Malformed as error:
            return problem(400, str(error))
        return await self._sync(source, Verified(name, push.delivery_of(request.headers), told, at, request.remote, len(body)))

    async def _sync(self, source: Source, call: Verified) -> Answer:
        if not call.push.asks or not push.concerns(source, call.push.ref, (other for _, other in self._mirror.all(Source))):
            if call.delivery:
                self._remember(_record(call, ""))
            return push.idle(call.push)
        if self._mirror.silent:
            raise StoreAway("it has not been heard of")  # what we sent now would be done later, though we had said no
        key = f"{call.source}:{call.delivery or os.urandom(16).hex()}"
        asking = self._under_way.get(key)
        if asking is None:
            asking = self._under_way[key] = asyncio.create_task(self._ask(call))
            asking.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(asking)

    async def _ask(self, call: Verified) -> Answer:
        """Ask for a sync, unless this delivery was answered before."""
        asked = push.sync_of(call.source, call.delivery, os.urandom(16).hex(), call.at)
        for _ in range(AGAIN):
            rev, before = await self._answered(call) if call.delivery else (0, "")
            if before:
                return push.accepted(before)
            minute = self._minute(call.source)
            wait = minute.take(mono())
            if wait:
                return problem(429, f"at most {push.RATE} pushes a minute", retry_after=math.ceil(wait))
            ops = [put(asked, asked.token, 0)]
            if call.delivery:
                ops.append(put(_record(call, asked.token), _key(call), rev))
            try:
                reply = await self._wire.ask_any(Write(ops=tuple(ops)), STORE_WITHIN)
            except (StoreAway, StoreFailed):
                minute.give_back()
                raise
            if isinstance(reply, Written):
                return push.accepted(asked.token)
            minute.give_back()
            if isinstance(reply, Conflict) and reply.what == "Request":
                return push.accepted(asked.token)  # it was asked, and our answer was lost
        raise StoreAway("others write the same")

    async def _answered(self, call: Verified) -> tuple[int, str]:
        """What is known of this delivery: the rev of its record, and the request it was answered with ("" for none)."""
        found = await self._wire.ask(Get(what="Delivery", key=_key(call)), Found, STORE_WITHIN)
        value = decode_body("Delivery", found.body) if found.body else None
        return found.rev, value.run if isinstance(value, Delivery) else ""

    def _minute(self, source: str) -> Minute:
        if source not in self._minutes:
            self._minutes = {name: minute for name, minute in self._minutes.items() if self._mirror.get(Source, name) is not None}
        return self._minutes.setdefault(source, Minute())


def _key(call: Verified) -> str:
    return f"{PUSHES}{call.source}:{call.delivery}"


def _record(call: Verified, request: str) -> Delivery:
    return push.record_of(call.source, call.delivery, call.push.event, request=request, remote=call.remote, size=call.size, now=wall_ms())
