"""Log lines of the controllers: events for people, one a line on stdout, never blocking (RELIABILITY P4, L1)."""

from __future__ import annotations

import os
import select
import stat
import sys
from contextlib import suppress

from dicode.process.clock import of_day, rfc3339, wall

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127)} | {
    code: f"\\u{code:04x}" for code in (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029)
}


def clean(text: str) -> str:
    """The text on one line, without anything a terminal would obey."""
    return text.translate(_ESCAPES)


class Log:
    """Writes `[10:00:14] text`, or the same as a JSON object. A reader that stalls costs lines, never time.

    Several processes share stdout, so O_NONBLOCK cannot be set on it: a pipe or terminal is opened once more for us
    alone. Where that is refused, a line is written when poll() says it fits. What does not fit is dropped and counted.
    """

    def __init__(self, role: str, *, as_json: bool = False, debug: bool = False, fd: int = 1) -> None:
        self.role = role
        self.debug_on = debug
        self.dropped = 0
        self._json = as_json
        self._fd = _opened_again(fd)

    def say(self, text: str, **fields: object) -> None:
        """One line. Fields only show in JSON."""
        now = wall()
        if self._json:
            import json  # the standard library's: the keeper, who logs too, must stay small

            line = json.dumps({"time": rfc3339(int(now * 1000)), "role": self.role, "message": text, **fields}, ensure_ascii=False, default=str)
        else:
            line = f"[{of_day(now)}] {clean(text)}"
        self._write(line)

    def debug(self, text: str, **fields: object) -> None:
        if self.debug_on:
            self.say(f"{self.role}: {text}", **fields)

    def _write(self, line: str) -> None:
        if self.dropped and not self._put(self._counted()):
            self.dropped += 1
            return
        self.dropped = 0 if self._put(line) else self.dropped + 1

    def _counted(self) -> str:
        text = f"{self.dropped} log lines dropped: the reader of stdout had stopped"
        return f'{{"role": "{self.role}", "message": "{text}"}}' if self._json else f"({text})"

    def _put(self, line: str) -> bool:
        """Whole or not at all: a pipe takes PIPE_BUF bytes in one piece. Longer lines are cut."""
        data = line.encode(errors="replace")
        if len(data) >= select.PIPE_BUF:
            data = data[: select.PIPE_BUF - 4].decode(errors="ignore").encode() + "…".encode()
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        with suppress(OSError):
            return any(event & select.POLLOUT for _, event in poller.poll(0)) and os.write(self._fd, data + b"\n") > 0
        return False


def _opened_again(fd: int) -> int:
    """A non-blocking description of the same pipe or terminal, of our own; else `fd` itself. A file never blocks and is shared as it is."""
    with suppress(OSError):  # closed, another user's, or no /proc
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or os.isatty(fd):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return fd


def complain(text: str) -> None:
    """One line on stderr, for whoever started us."""
    with suppress(OSError):  # stderr is closed: there is nobody to tell
        print(f"dicode: {clean(text)}", file=sys.stderr, flush=True)
