"""A client that loads one HTTP path: `python -m bench.client HOST PORT PATH CONNECTIONS REQUESTS`, in a process of its own.

Keep-alive, one request under way on each connection. Prints JSON: seconds of the whole, ms of each request, and how many had which status.
"""

from __future__ import annotations

import asyncio
import collections
import json
import sys
import time

WITHIN = 60.0  # seconds for the whole
BODY = b'{"ref": "refs/heads/main", "commits": [{"message": "Fix the typo"}]}'


class Connection(asyncio.Protocol):
    """Sends the next request when the last has been answered, as long as `left` gives one."""

    def __init__(self, request: bytes, left: list[None], taken: list[float], statuses: collections.Counter[str]) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._request = request
        self._left = left
        self._taken = taken
        self._statuses = statuses
        self._answer = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        self._taken.append((time.perf_counter() - self._sent) * 1000)
        self._statuses[head[9:12].decode()] += 1
        self._answer = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))

    def _next(self) -> None:
        if not self._left:
            self.done.set_result(None)
            self._transport.close()
            return
        self._left.pop()
        self._sent = time.perf_counter()
        self._transport.write(self._request)


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r\n", 1)[0]) if found else 0


async def load(host: str, port: int, path: str, connections: int, requests: int) -> dict[str, object]:
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    left = [None] * requests
    taken: list[float] = []
    statuses: collections.Counter[str] = collections.Counter()
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    made = [
        loop.create_connection(lambda: Connection(head.encode() + BODY, left, taken, statuses), host, port) for _ in range(min(connections, requests))
    ]
    await asyncio.gather(*(protocol.done for _, protocol in await asyncio.gather(*made)))
    return {"seconds": time.perf_counter() - began, "taken": taken, "statuses": statuses}


if __name__ == "__main__":
    host, port, path, connections, requests = sys.argv[1:]
    print(json.dumps(asyncio.run(asyncio.wait_for(load(host, int(port), path, int(connections), int(requests)), WITHIN))))
