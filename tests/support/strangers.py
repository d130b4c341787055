"""Calls from outside, as strangers make them: plain HTTP, and bytes that are none."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, NamedTuple


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Strangers:
    """Who may be called from outside, at `address`."""

    address: tuple[str, int]

    def call(self, path: str, body: bytes = b"", method: str = "POST", headers: dict[str, str] | None = None, timeout: float = 40) -> Answered:
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Answered(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def raw(self, request: bytes, timeout: float = 15) -> bytes:
        """All that comes back until the other end closes."""
        with socket.create_connection(self.address, timeout=timeout) as connection:
            connection.sendall(request)
            parts = []
            try:
                while part := connection.recv(65536):
                    parts.append(part)
            except ConnectionResetError:
                pass
            return b"".join(parts)
