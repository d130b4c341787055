"""Log lines of the controllers: events for people, one a line on stdout, never blocking (RELIABILITY P4, L1)."""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from dicode.process.clock import of_day, rfc3339, wall

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127)} | {
    code: f"\\u{code:04x}" for code in (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029)
}


def clean(text: str) -> str:
    """The text on one line, without anything a terminal would obey."""
    return text.translate(_ESCAPES)


class Log:
    """Writes `[10:00:14] text`, or the same as a JSON object. A reader that stalls costs lines, never time.

    stdout is a pipe or a terminal that several processes share, so it is not made non-blocking: a line is written
    when poll() says it fits, else dropped and counted.
    """

    def __init__(self, role: str, *, as_json: bool = False, debug: bool = False, fd: int = 1) -> None:
        self.role = role
        self.debug_on = debug
        self.dropped = 0
        self._json = as_json
        self._fd = fd

    def say(self, text: str, **fields: Any) -> None:
        """One line. Fields only show in JSON."""
        now = wall()
        if self._json:
            line = msgspec.json.encode({"time": rfc3339(int(now * 1000)), "role": self.role, "message": text, **fields}).decode()
        else:
            line = f"[{of_day(now)}] {clean(text)}"
        self._write(line)

    def debug(self, text: str, **fields: Any) -> None:
        if self.debug_on:
            self.say(f"{self.role}: {text}", **fields)

    def _write(self, line: str) -> None:
        data = (line + "\n").encode(errors="replace")
        if self.dropped:
            data = f"({self.dropped} log lines dropped: the reader of stdout had stopped)\n".encode() + data
        import select

        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        try:
            events = poller.poll(0)
            if not events or not events[0][1] & select.POLLOUT:
                self.dropped += 1
                return
            os.write(self._fd, data[:4000] + (b"\n" if len(data) > 4000 else b""))  # at most PIPE_BUF: whole or not at all
            self.dropped = 0
        except OSError:
            self.dropped += 1


def complain(text: str) -> None:
    """One line on stderr, for whoever started us."""
    print(f"dicode: {clean(text)}", file=sys.stderr, flush=True)
