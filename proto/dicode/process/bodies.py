"""Bodies of HTTP requests, read within bounds: of each, and of all that are on their way in at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

BODY_MAX = 5 << 20  # bytes; SPEC 9
DRAIN_MAX = 4 * BODY_MAX  # bytes read and dropped of a body that is too big, so that its sender hears why
SMALL = 64 << 10  # bytes of each body that always find room
ROOM = 32 << 20  # bytes of bodies, beyond the small ones, that may be on their way in at once

Headers = Iterable[tuple[bytes, bytes]]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Gone(Exception):
    """The caller hung up."""


class Crowded(Exception):
    """Too many big bodies are on their way in: this one can come again."""


class Room:
    """The memory that bodies on their way in share, so that many callers cannot take more than a few."""

    def __init__(self, size: int = ROOM) -> None:
        self.left = size

    async def read_body(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body; None when it is too big. Raises Gone, Crowded.

        One that is not taken is read and dropped all the same, up to DRAIN_MAX: only then its sender hears why.
        """
        declared = next((value for name, value in headers if name == b"content-length"), b"")
        if declared.isdigit() and int(declared) > DRAIN_MAX:
            return None
        parts: list[bytes] = []
        size = held = 0
        crowded = False
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                size += len(message["body"])
                wanted = max(0, size - SMALL) if size <= BODY_MAX and not crowded else 0
                crowded = crowded or wanted - held > self.left
                if size <= BODY_MAX and not crowded:
                    parts.append(message["body"])
                else:
                    parts.clear()
                    wanted = 0
                self.left -= wanted - held
                held = wanted
                if message["more_body"] and size <= DRAIN_MAX:
                    continue
                if size > BODY_MAX:
                    return None
                if crowded:
                    raise Crowded
                return b"".join(parts)
        finally:
            self.left += held
