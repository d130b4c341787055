"""The wire for a program without an event loop: the CLI, tests, benches."""

from __future__ import annotations

import os
from typing import TypeVar

import zmq

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
    encode_command,
    heard_of,
)

R = TypeVar("R", bound=Reply)


class BlockingWire:
    """Ask and hear, one at a time, on the calling thread."""

    def __init__(self, commands: str, changes: str) -> None:
        self._context = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.setsockopt(zmq.LINGER, 500)
        self._dealer.setsockopt(zmq.RECONNECT_IVL, 20)
        self._dealer.connect(commands)
        self._changes = changes
        self._ear: zmq.Socket[bytes] | None = None
        self._prefix = os.urandom(8)
        self._count = 0

    def ask(self, command: AnyCommand, reply: type[R], deadline: float = DEADLINE) -> R:
        """The answer, which must be a `reply`. Raises StoreAway, StoreFailed, TypeError."""
        answer = self.ask_any(command, deadline)
        if not isinstance(answer, reply):
            raise TypeError(f"{type(command).__name__} was answered {answer}")
        return answer

    def ask_any(self, command: AnyCommand, deadline: float = DEADLINE) -> AnyReply:
        """The answer, whatever it is. Raises StoreAway, StoreFailed."""
        self._count += 1
        request = self._prefix + self._count.to_bytes(8, "big")
        frames = [request, encode_command(command)]
        left = deadline
        while left > 0:
            self._dealer.send_multipart(frames)
            left -= ASK_AGAIN
            while self._dealer.poll(int(ASK_AGAIN * 1000)):
                parts = self._dealer.recv_multipart()
                if len(parts) != 2 or parts[0] != request:
                    continue  # the answer to an older, repeated question
                answer = decode_reply(parts[1])
                if isinstance(answer, Failed):
                    raise StoreFailed(answer.message)
                return answer
        raise StoreAway(f"no answer to {type(command).__name__} in {deadline:g} s")

    def subscribe(self, kinds: list[str]) -> None:
        """Start hearing changes of these kinds; then call `hear`."""
        self._ear = self._context.socket(zmq.SUB)
        self._ear.setsockopt(zmq.RCVHWM, 100_000)
        for topic in (HEARTBEAT_TOPIC, *(f"{kind}/".encode() for kind in kinds)):
            self._ear.setsockopt(zmq.SUBSCRIBE, topic)
        self._ear.connect(self._changes)

    def hear(self, timeout: float) -> Heard | None:
        """The next change or heartbeat; None after `timeout` seconds of silence."""
        assert self._ear is not None, "subscribe first"
        if not self._ear.poll(int(timeout * 1000)):
            return None
        try:
            return heard_of(self._ear.recv_multipart())
        except BadMessage:
            return None

    def close(self) -> None:
        self._context.destroy(linger=200)
