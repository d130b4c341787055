"""Everybody else's end of the wire: ask the store, hear its changes. Asyncio; `blocking.py` has the one for a CLI."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import zmq

from dicode.messages.commands import AnyCommand, AnyReply, Append, Conflict, Delete, Failed, Put, Reply, WriteAll, Written, WroteAll
from dicode.wire.frames import (
    ASK_AGAIN,
    DEADLINE,
    HEARTBEAT_TOPIC,
    BadMessage,
    Heard,
    StoreAway,
    StoreFailed,
    decode_reply,
    encode_command,
    heard_of,
)

R = TypeVar("R", bound=Reply)
Ops = tuple[Put | Delete | Append, ...]
Unsent = tuple[Ops, "asyncio.Future[Written | Conflict]"]
IN_FLIGHT = 2  # one is committed while the next is on its way
AT_ONCE = 1_000  # changes heard before others get a turn
FITTING = 512 * 1024  # bytes of bodies in one command; a frame holds twice that


@dataclass
class Open:
    """A question without an answer yet. Times of the event loop's clock."""

    what: str
    frames: list[bytes]
    answer: asyncio.Future[AnyReply]
    again_at: float
    until: float
    stuck: bool = False  # it waits to be sent


class Wire:
    """One DEALER and one SUB to the store of a data folder; belongs to the running event loop."""

    def __init__(self, commands: str, changes: str) -> None:
        self._context = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.setsockopt(zmq.LINGER, 500)
        self._dealer.setsockopt(zmq.RECONNECT_IVL, 20)
        self._dealer.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
        self._dealer.setsockopt(zmq.IMMEDIATE, 1)  # no connection, no pipe: what nobody takes may not pile up, nor be done late
        self._dealer.connect(commands)
        self._changes = changes
        self._waiting: dict[bytes, Open] = {}
        self._stuck: deque[Open] = deque()  # what there was no pipe for, or no room in it
        self._patrol: asyncio.TimerHandle | None = None
        self._prefix = os.urandom(8)
        self._count = itertools.count()
        self._unsent: list[Unsent] = []
        self._in_flight = 0  # commands that carry writes
        self._sending: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._dealer.fileno(), self._read)
        self.malformed = 0

    async def ask(self, command: AnyCommand, reply: type[R], deadline: float = DEADLINE) -> R:
        """The answer, which must be a `reply`. Raises StoreAway after `deadline` seconds, StoreFailed, TypeError."""
        answer = await self.ask_any(command, deadline)
        if not isinstance(answer, reply):
            raise TypeError(f"{type(command).__name__} was answered {answer}")
        return answer

    async def ask_any(self, command: AnyCommand, deadline: float = DEADLINE) -> AnyReply:
        """The answer, whatever it is. Raises StoreAway, StoreFailed."""
        loop = asyncio.get_running_loop()
        request = self._prefix + next(self._count).to_bytes(8, "big")
        now = loop.time()
        asked = Open(type(command).__name__, [request, encode_command(command)], loop.create_future(), now + ASK_AGAIN, now + deadline)
        self._waiting[request] = asked
        if self._patrol is None:
            self._patrol = loop.call_later(ASK_AGAIN / 4, self._look_after)
        try:
            self._send(asked)
            answer = await asked.answer
        finally:
            self._waiting.pop(request, None)
            asked.frames.clear()  # its error would hold on to them until the garbage is collected
        if isinstance(answer, Failed):
            raise StoreFailed(answer.message)
        return answer

    def _look_after(self) -> None:
        """Ask again what has not been answered; give up what has waited too long. Runs only while something is open."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for asked in self._waiting.values():
            if asked.answer.done():
                continue
            if now >= asked.until:
                asked.answer.set_exception(StoreAway(f"no answer to {asked.what}"))
            elif now >= asked.again_at:
                asked.again_at = now + ASK_AGAIN
                self._send(asked)
        self._patrol = loop.call_later(ASK_AGAIN / 4, self._look_after) if self._waiting else None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def write(self, ops: Ops) -> Written | Conflict:
        """Commit these together. What is written in the same moment travels as one command. Raises StoreAway, StoreFailed."""
        future: asyncio.Future[Written | Conflict] = asyncio.get_running_loop().create_future()
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send_off)
        self._unsent.append((ops, future))
        return await future

    def _send_off(self) -> None:
        """Under load writes gather while IN_FLIGHT others are on their way; an idle wire sends at once."""
        if self._in_flight >= IN_FLIGHT:
            return
        unsent, self._unsent = self._unsent, []
        for some in _fitting(unsent):
            self._in_flight += 1
            self._spawn(self._write_all(some))

    async def _write_all(self, some: list[Unsent]) -> None:
        try:
            await self._write_some(some)
        finally:
            self._in_flight -= 1
            if self._unsent:
                self._send_off()

    async def _write_some(self, some: list[Unsent]) -> None:
        try:
            answer = await self.ask(WriteAll(writes=tuple(ops for ops, _ in some)), WroteAll)
        except Exception as error:  # whatever it is: who waits must hear of it
            for _, future in some:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), each in zip(some, answer.answers, strict=True):
            if future.done():
                continue  # who asked has gone
            if isinstance(each, Failed):
                future.set_exception(StoreFailed(each.message))
            else:
                future.set_result(each)

    def _send(self, asked: Open) -> None:
        if not asked.stuck:
            asked.stuck = True
            self._stuck.append(asked)
        self._send_stuck()
        self._loop.call_soon(self._read)

    def _send_stuck(self) -> None:
        while self._stuck:
            asked = self._stuck[0]
            if not asked.answer.done():
                try:
                    self._dealer.send_multipart(asked.frames, zmq.NOBLOCK)
                except zmq.Again:
                    return  # the descriptor tells when there is room
            asked.stuck = False
            self._stuck.popleft()

    def _read(self) -> None:
        """Take all that has been answered. ZeroMQ's descriptor tells that something has changed, and tells it once: sending may swallow that."""
        while not self._dealer.closed:
            try:
                parts = self._dealer.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._take(parts)
        if self._stuck and not self._dealer.closed:
            self._send_stuck()

    def _take(self, parts: list[bytes]) -> None:
        if len(parts) != 2:
            self.malformed += 1
            return
        asked = self._waiting.get(parts[0])
        if asked is None or asked.answer.done():
            return
        try:
            asked.answer.set_result(decode_reply(parts[1]))
        except BadMessage:
            self.malformed += 1

    def subscribe(self, kinds: list[str]) -> Ear:
        """Hear every change of these kinds from now on; the first frame proves that the subscription took."""
        return Ear(self._context, self._changes, kinds)

    def close(self) -> None:
        self._unsent.clear()  # or the end of what is on its way would send the rest into closed sockets
        self._loop.remove_reader(self._dealer.fileno())
        for task in self._sending:
            task.cancel()
        if self._patrol is not None:
            self._patrol.cancel()
        self._dealer.close()
        self._context.destroy(linger=200)


class Ear:
    """A subscription. Loses messages when slow: whoever uses it compares revs and heads (process.mirror does)."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, kinds: list[str]) -> None:
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
        """What is there, waiting at most `timeout` seconds for the first; empty means silence. Others get a turn in any case."""
        heard = self._take()
        if heard:
            await asyncio.sleep(0)
            return heard
        until = asyncio.get_running_loop().time() + timeout
        while not heard and (left := until - asyncio.get_running_loop().time()) > 0:
            await self._stirred(left)
            heard = self._take()
        return heard

    async def _stirred(self, timeout: float) -> None:
        """Wait until something has changed about the socket, which need not be a message."""
        loop = asyncio.get_running_loop()
        stirred = loop.create_future()
        descriptor = self._socket.fileno()  # a socket that is closed meanwhile has none to ask for
        timer = loop.call_later(timeout, _resolve, stirred)
        loop.add_reader(descriptor, _resolve, stirred)
        try:
            await stirred
        finally:
            timer.cancel()
            loop.remove_reader(descriptor)

    def _take(self) -> list[Heard]:
        """Some of what is there."""
        heard: list[Heard] = []
        while len(heard) < AT_ONCE:
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                heard.append(heard_of(parts))
            except BadMessage:
                self.malformed += 1
        return heard

    def close(self) -> None:
        self._socket.close(linger=0)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fitting(unsent: list[Unsent]) -> Iterator[list[Unsent]]:
    """Groups that fit into one frame each."""
    group: list[Unsent] = []
    size = 0
    for ops, future in unsent:
        more = sum(map(_size, ops))
        if group and size + more > FITTING:
            yield group
            group, size = [], 0
        group.append((ops, future))
        size += more
    if group:
        yield group


def _size(op: Put | Delete | Append) -> int:
    """About as many bytes as it takes in a command."""
    key = "" if isinstance(op, Append) else op.key
    body = b"" if isinstance(op, Delete) else op.body
    return len(key) + len(op.cause) + len(body) + 64
