"""A real relay process, and homes that a test plays by hand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.strangers import Strangers
from tests.support.waiting import wait_for
from websockets.sync.client import ClientConnection, connect

from dicode.relay.frames import CONNECT_AT, MESSAGE_MAX, NAME_HEADER, Call, Reply, encode, read_call

STOPS_WITHIN = 8.0


class RelayProcess(Strangers):
    """`dicode relay serve` on a port of its own, the same one each time it is started."""

    def __init__(self, folder: Path, **tokens: str) -> None:
        self.tokens = folder / "tokens"
        self.output = folder / "relay.txt"
        self.allow(**tokens)
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ("127.0.0.1", 0)
        self.start()

    def allow(self, **tokens: str) -> None:
        self.tokens.write_text("# homes\n" + "".join(f"{name} {token}\n" for name, token in tokens.items()))

    def start(self) -> None:
        began = len(self.said())
        with self.output.open("ab") as output:
            words = [sys.executable, "-P", "-m", "dicode", "relay", "serve", "--listen", f"127.0.0.1:{self.address[1]}", "--tokens", str(self.tokens)]
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/")
        found = wait_for(lambda: re.search(r"listening at http://127\.0\.0\.1:(\d+)", self.said()[began:]), "the relay listens")
        assert found is not None
        self.address = ("127.0.0.1", int(found[1]))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def hears(self, text: str) -> None:
        wait_for(lambda: text in self.said(), f"the relay says {text!r}")

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(STOPS_WITHIN)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end()

    # --- strangers

    # --- homes

    @contextmanager
    def home(self, name: str, token: str) -> Iterator[ClientConnection]:
        """A home played by the test. Raises InvalidStatus when it is refused."""
        headers = {NAME_HEADER: name, "authorization": f"Bearer {token}"}
        with connect(
            f"ws://127.0.0.1:{self.address[1]}{CONNECT_AT}", additional_headers=headers, max_size=MESSAGE_MAX, compression=None, close_timeout=1
        ) as line:
            yield line


def hear(line: ClientConnection, timeout: float = 15) -> Call:
    message = line.recv(timeout)
    assert isinstance(message, bytes)
    return read_call(message)


def answer(line: ClientConnection, call: Call, status: int = 200, body: bytes = b"", **headers: str) -> None:
    fields = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
    line.send(encode(Reply(call.id, status, fields, body)))


def token() -> str:
    return os.urandom(16).hex()
