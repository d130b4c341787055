"""The relay's end of the connection that one home keeps."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

from dicode.process.bodies import Receive, Send
from dicode.relay.frames import BYTES_MAX, WAITING_MAX, WITHIN, BadFrame, Call, Reply, encode, read_reply


class Busy(Exception):
    """This home has more calls waiting than it may."""


class Lost(Exception):
    """The home went away while it had the call: nobody knows whether it was carried out."""


class Slow(Exception):
    """No answer came in time."""


class Line:
    """One WebSocket. What waits is bounded in number and bytes; what nobody waits for any more is not sent."""

    def __init__(self, name: str, receive: Receive, send: Send) -> None:
        self.name = name
        self._receive = receive
        self._send = send
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._bytes = 0
        self._unsent: asyncio.Queue[Call] = asyncio.Queue()
        self._over = asyncio.Event()
        self._farewell = (1000, "")

    async def live(self) -> None:
        """Carry calls and answers until the home has gone or `end` was called."""
        works = [asyncio.create_task(work) for work in (self._hear(), self._tell(), self._over.wait())]
        try:
            await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)
            self._lose()
            with contextlib.suppress(Exception):  # whatever it is, the line has ended
                await asyncio.wait_for(self._send({"type": "websocket.close", "code": self._farewell[0], "reason": self._farewell[1]}), 1.0)

    def end(self, code: int, reason: str) -> None:
        """Close it, for this reason; who waits on it hears so at once."""
        self._farewell = (code, reason)
        self._over.set()
        self._lose()

    def _lose(self) -> None:
        self._over.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Lost())

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def call(self, call: Call) -> Reply:
        """The home's answer. Raises Busy, Lost, Slow."""
        if self._over.is_set():
            raise Lost
        if len(self._waiting) >= WAITING_MAX or (self._bytes and self._bytes + len(call.body) > BYTES_MAX):
            raise Busy
        numbered = Call(next(self._ids), call.method, call.target, call.headers, call.body, call.remote)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[numbered.id] = future
        self._bytes += len(call.body)
        self._unsent.put_nowait(numbered)
        try:
            return await asyncio.wait_for(future, WITHIN)
        except TimeoutError:
            raise Slow from None
        finally:
            del self._waiting[numbered.id]
            self._bytes -= len(call.body)

    async def _tell(self) -> None:
        while True:
            call = await self._unsent.get()
            if call.id in self._waiting:
                await self._send({"type": "websocket.send", "bytes": encode(call)})

    async def _hear(self) -> None:
        while True:
            message: Any = await self._receive()
            if message["type"] != "websocket.receive":
                return
            try:
                reply = read_reply(message.get("bytes") or b"")
            except BadFrame as bad:
                self._farewell = (1008, str(bad))
                return
            future = self._waiting.get(reply.id)
            if future is not None and not future.done():
                future.set_result(reply)
