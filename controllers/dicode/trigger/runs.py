"""Waiting for runs to end, without a copy of all runs: changes are heard only while somebody waits."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from dicode.messages.commands import Found, Get
from dicode.messages.kinds import ENDED, Run
from dicode.process.clock import mono
from dicode.wire.client import Ear, Wire
from dicode.wire.frames import BadMessage, StoreAway, StoreFailed, decode_body

LISTEN_ON = 10.0  # seconds the ear stays open after the last waiter: the next call finds it proven
LOOK = (0.02, 0.1, 0.4)  # seconds between the first looks at the store, while the ear is not proven
LOOK_AGAIN = 1.0  # seconds; a publication may be lost, then this finds it


class RunWatch:
    """`follow` must run beside; `ended` may be called any number of times at once."""

    def __init__(self, wire: Wire, *, drop_hints: bool = False) -> None:
        self._wire = wire
        self._drop_hints = drop_hints
        self._waiting: dict[str, set[asyncio.Future[Run]]] = defaultdict(set)
        self._wanted = asyncio.Event()
        self._proven = False

    async def ended(self, run: str, within: float) -> Run | None:
        """The run once it has ended; None when it has not within so many seconds."""
        future: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
        self._waiting[run].add(future)
        self._wanted.set()
        try:
            return await self._await(run, future, mono() + within)
        finally:
            self._waiting[run].discard(future)
            if not self._waiting[run]:
                del self._waiting[run]

    async def _await(self, run: str, future: asyncio.Future[Run], until: float) -> Run | None:
        looks = iter(LOOK)
        while (left := until - mono()) > 0:
            pause = LOOK_AGAIN if self._proven else next(looks, LOOK_AGAIN)
            await asyncio.wait((future,), timeout=min(pause, left))
            if future.done():
                return future.result()
            found = await self._look(run)
            if found is not None:
                return found
        return None

    async def _look(self, run: str) -> Run | None:
        try:
            found = await self._wire.ask(Get(what="Run", key=run), Found, deadline=2.0)
        except (StoreAway, StoreFailed):
            return None  # the run goes on without the store; so do we
        value = decode_body("Run", found.body) if found.rev else None
        return value if isinstance(value, Run) and value.status in ENDED else None

    async def follow(self) -> None:
        """Hear of ended runs until cancelled."""
        while True:
            await self._wanted.wait()
            ear = self._wire.subscribe(["Run"])
            try:
                await self._listen(ear)
            finally:
                self._proven = False
                ear.close()

    async def _listen(self, ear: Ear) -> None:
        needed = mono()
        while mono() - needed < LISTEN_ON:
            for heard in await ear.hear(timeout=1.0):
                self._proven = True
                if heard.heads is None and heard.body and heard.header.key in self._waiting and not self._drop_hints:
                    self._tell(heard.header.key, heard.body)
            if self._waiting:
                needed = mono()
        self._wanted.clear()
        if self._waiting:
            self._wanted.set()

    def _tell(self, key: str, body: bytes) -> None:
        try:
            run = decode_body("Run", body)
        except BadMessage:
            return
        if isinstance(run, Run) and run.status in ENDED:
            for future in self._waiting.get(key, ()):
                if not future.done():
                    future.set_result(run)
