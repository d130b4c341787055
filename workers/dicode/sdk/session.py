"""The task's end of DICODE_SOCKET: length-prefixed JSON, one question at a time. Standard library only."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from typing import Any

_LENGTH = struct.Struct("<I")


class SdkError(Exception):
    """dicode refused what the task asked for, or this process is not run by dicode."""


class Session:
    """A connection that is made when first needed, again after a fork, and may be used by several threads."""

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._token = token
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._pid = 0

    def call(self, method: str, **args: Any) -> Any:
        """The answer. Raises SdkError with dicode's words."""
        with self._lock:
            try:
                if self._socket is None or self._pid != os.getpid():
                    self._connect()
                self._send({"method": method, "args": args})
                reply = self._receive()
            except OSError as error:
                self.close()
                raise SdkError(f"{method}: dicode cannot be reached: {error.strerror or error}") from None
            except BaseException:  # an alarm, a Ctrl-C: the answer that is on its way is not the next one's
                self.close()
                raise
        if "error" in reply:
            raise SdkError(reply["error"])
        return reply.get("result")

    def close(self) -> None:
        """Give the file descriptor back; the next call connects again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> None:
        if not self._address:
            raise SdkError("this is not a dicode run: DICODE_SOCKET is not set")
        if self._pid == os.getpid():
            self.close()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._pid = os.getpid()
        self._socket.connect(self._address)
        self._send({"token": self._token})
        reply = self._receive()
        if "error" in reply:
            raise SdkError(reply["error"])

    def _send(self, message: dict[str, Any]) -> None:
        assert self._socket is not None
        body = json.dumps(message, ensure_ascii=False, allow_nan=False).encode()
        self._socket.sendall(_LENGTH.pack(len(body)) + body)

    def _receive(self) -> dict[str, Any]:
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        reply = json.loads(self._exactly(length))
        return reply if isinstance(reply, dict) else {"error": "dicode answered no object"}

    def _exactly(self, count: int) -> bytes:
        assert self._socket is not None
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(count - len(parts))
            if not part:
                raise OSError("the connection was closed")
            parts += part
        return bytes(parts)
