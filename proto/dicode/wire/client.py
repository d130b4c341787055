"""Everybody else's end of the wire: ask the store, hear its changes. Asyncio; `blocking.py` has the one for a CLI."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from typing import TypeVar

import zmq
import zmq.asyncio

from dicode.messages.commands import AnyCommand, AnyReply, Failed, Reply
from dicode.wire.frames import (
    ASK_AGAIN,
    DEADLINE,
    HEARTBEAT_TOPIC,
    BadMessage,
    Heard,
    StoreAway,
    StoreFailed,
    decode_reply,
    encode,
    heard_of,
)

R = TypeVar("R", bound=Reply)


class Wire:
    """One DEALER and one SUB to the store of a data folder; belongs to the running event loop."""

    def __init__(self, commands: str, changes: str) -> None:
        self._context = zmq.asyncio.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.setsockopt(zmq.LINGER, 500)
        self._dealer.setsockopt(zmq.RECONNECT_IVL, 20)
        self._dealer.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
        self._dealer.connect(commands)
        self._changes = changes
        self._waiting: dict[bytes, asyncio.Future[AnyReply]] = {}
        self._prefix = os.urandom(8)
        self._count = itertools.count()
        self._reader = asyncio.create_task(self._read(), name="wire replies")
        self.malformed = 0

    async def ask(self, command: AnyCommand, reply: type[R], deadline: float = DEADLINE) -> R:
        """The answer, which must be a `reply`. Raises StoreAway after `deadline` seconds, StoreFailed, TypeError."""
        answer = await self.ask_any(command, deadline)
        if not isinstance(answer, reply):
            raise TypeError(f"{type(command).__name__} was answered {answer}")
        return answer

    async def ask_any(self, command: AnyCommand, deadline: float = DEADLINE) -> AnyReply:
        """The answer, whatever it is. Raises StoreAway, StoreFailed."""
        request = self._prefix + next(self._count).to_bytes(8, "big")
        future: asyncio.Future[AnyReply] = asyncio.get_running_loop().create_future()
        self._waiting[request] = future
        frames = [request, encode(command)]
        until = asyncio.get_running_loop().time() + deadline
        try:
            while True:
                await self._send(frames)
                left = until - asyncio.get_running_loop().time()
                done, _ = await asyncio.wait((future,), timeout=min(ASK_AGAIN, max(left, 0)))
                if done:
                    answer = future.result()
                    if isinstance(answer, Failed):
                        raise StoreFailed(answer.message)
                    return answer
                if left <= ASK_AGAIN:
                    raise StoreAway(f"no answer to {type(command).__name__} in {deadline:g} s")
        finally:
            self._waiting.pop(request, None)

    async def _send(self, frames: list[bytes]) -> None:
        with contextlib.suppress(zmq.Again):  # the pipe is full while the store is away: it is sent again in a moment
            await self._dealer.send_multipart(frames, zmq.NOBLOCK)

    async def _read(self) -> None:
        while True:
            parts = await self._dealer.recv_multipart()
            if len(parts) != 2:
                self.malformed += 1
                continue
            future = self._waiting.get(parts[0])
            if future is None or future.done():
                continue
            try:
                future.set_result(decode_reply(parts[1]))
            except BadMessage:
                self.malformed += 1

    def subscribe(self, kinds: list[str]) -> Ear:
        """Hear every change of these kinds from now on; the first frame proves that the subscription took."""
        return Ear(self._context, self._changes, kinds)

    def close(self) -> None:
        self._reader.cancel()
        self._dealer.close()
        self._context.destroy(linger=200)


class Ear:
    """A subscription. Loses messages when slow: whoever uses it compares revs and heads (process.mirror does)."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str, kinds: list[str]) -> None:
        self._socket = context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, 100_000)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
        for topic in (HEARTBEAT_TOPIC, *(f"{kind}/".encode() for kind in kinds)):
            self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        self._socket.connect(endpoint)
        self.malformed = 0

    async def hear(self, timeout: float) -> list[Heard]:
        """All that is there, waiting at most `timeout` seconds for the first; empty means silence."""
        if not await self._socket.poll(int(timeout * 1000)):
            return []
        heard: list[Heard] = []
        while len(heard) < 10_000:
            try:
                parts = await self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                heard.append(heard_of(parts))
            except BadMessage:
                self.malformed += 1
        return heard

    def close(self) -> None:
        self._socket.close(linger=0)
