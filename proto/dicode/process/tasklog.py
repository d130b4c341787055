"""What tasks print, kept in files: one record a line, `<ms since the epoch>\\t<o|e|s>\\t<text>`.

`o` is stdout, `e` stderr, `s` our own words. A line is at most LINE_MAX bytes of text; longer ones become several records.
Bytes that are not UTF-8 become U+FFFD, a lone carriage return the two characters `\\r`, so a record is always one line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from dicode.process.clock import wall_ms
from dicode.process.filenames import file_name

Stream = Literal["o", "e", "s"]
LINE_MAX = 64 * 1024  # bytes of text; SPEC 8
LOG_MAX = 10 * 1024 * 1024  # bytes a run may print, newlines included; where a daemon's log rotates. SPEC 9
TRUNCATED = "truncated"


class Record(NamedTuple):
    at: int  # ms since the epoch
    stream: Stream
    text: str


def run_log(logs: Path, run: str, attempt: int) -> Path:
    """Where the log of one attempt of a run lies."""
    return logs / f"{run}.{attempt}.log"


def daemon_log(logs: Path, task: str) -> Path:
    """Where the log of a daemon lies; the one before the last rotation has `.1` behind it."""
    return logs / "daemon" / f"{file_name(task)}.log"


class LogWriter:
    """Appends records to `path`. Belongs to one thread. A full disk costs lines, never an exception.

    With `rotate` the file is moved to `<path>.1` when `cap` bytes are reached (daemons); without, nothing a task prints
    is kept beyond `cap` bytes and one record says `truncated` (runs).
    Raises OSError when the file cannot be opened; a symbolic link is not followed (a task may have put it there).
    """

    def __init__(self, path: Path, cap: int = LOG_MAX, *, rotate: bool = False) -> None:
        self._path = path
        self._cap = cap
        self._rotate = rotate
        self._partial: dict[Stream, bytes] = {}
        self._truncated = False
        self._torn = False  # the disk took a part of the last record
        self._fd = _opened(path)
        self._used = os.fstat(self._fd).st_size if rotate else 0

    def write(self, stream: Stream, data: bytes) -> None:
        """Take what a task printed, in pieces of any size."""
        if self._truncated:
            return
        *lines, rest = (self._partial.pop(stream, b"") + data).split(b"\n")
        while len(rest) > LINE_MAX:
            cut = _cut(rest, LINE_MAX)
            self._write_all(stream, [rest[:cut]], newlines=0)
            rest = rest[cut:]
        self._write_all(stream, lines, newlines=1)
        if rest and not self._truncated:
            self._partial[stream] = rest

    def _write_all(self, stream: Stream, lines: list[bytes], newlines: int) -> None:
        head = f"{wall_ms()}\t{stream}\t".encode()
        records = []
        for line in lines:
            cost = len(line) + newlines
            if not self._rotate and self._used + cost > self._cap:
                self._truncated = True
                line = line[: _cut(line, self._cap - self._used)]
            self._used += cost
            for piece in _pieces(line):
                records.append(head + _clean(piece) + b"\n")
            if self._truncated:
                records.append(f"{wall_ms()}\ts\t{TRUNCATED}\n".encode())
                self._partial.clear()
                break
            if self._rotate and self._used >= self._cap:
                self._append(records)
                records = []
                self._turn()
        self._append(records)

    def say(self, text: str) -> None:
        """Our own words, one record, after what a task left without a newline; they are kept also after `truncated`."""
        self._end_lines()
        self._append([f"{wall_ms()}\ts\t".encode() + _clean(text.replace("\n", "\\n").encode()[:LINE_MAX]) + b"\n"])

    def close(self) -> None:
        """Write the last lines that had no newline, and close."""
        self._end_lines()
        os.close(self._fd)

    def _end_lines(self) -> None:
        for stream, rest in list(self._partial.items()):
            self._partial.pop(stream, None)
            self._write_all(stream, [rest], newlines=0)

    def _append(self, records: list[bytes]) -> None:
        if not records:
            return
        data = b"".join([b"\n", *records] if self._torn else records)
        with suppress(OSError):  # a full disk: the task goes on, its words are lost
            self._torn = os.write(self._fd, data) < len(data)

    def _turn(self) -> None:
        """Go on in a new file; where none can be had, in the one we have, from its beginning."""
        self._used = 0
        with suppress(OSError):  # somebody has removed it
            os.replace(self._path, f"{self._path}.1")
        try:
            fresh = _opened(self._path)
        except OSError:  # its folder is gone, too: nobody reads it any more, and it shall not fill the disk
            os.ftruncate(self._fd, 0)
            return
        os.close(self._fd)
        self._fd = fresh


def _opened(path: Path) -> int:
    if not path.parent.exists():  # somebody cleared up
        path.parent.mkdir(mode=0o700, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _pieces(line: bytes) -> Iterator[bytes]:
    """The line in pieces of at most LINE_MAX bytes; an empty line is one empty piece."""
    while len(line) > LINE_MAX:
        cut = _cut(line, LINE_MAX)
        yield line[:cut]
        line = line[cut:]
    yield line


def _cut(line: bytes, at: int) -> int:
    """The greatest place ≤ `at` that is not inside a UTF-8 character; `at` itself when these are no characters."""
    if at >= len(line):
        return len(line)
    for back in range(min(4, at)):
        if line[at - back] & 0xC0 != 0x80:
            return at - back
    return at


def _clean(text: bytes) -> bytes:
    if text.endswith(b"\r"):
        text = text[:-1]
    if not text.isascii():
        text = text.decode(errors="replace").encode()
    return text.replace(b"\r", b"\\r") if b"\r" in text else text


def read_log(path: Path, since_ms: int | None = None) -> Iterator[Record]:
    """The records of a log, oldest first, from `since_ms` on; none when there is no such file. A line still being written is left out."""
    try:
        file = open(path, "rb")  # noqa: SIM115  # closed below; the generator holds it
    except FileNotFoundError:
        return
    with file:
        for line in file:
            record = parse_record(line)
            if record is not None and (since_ms is None or record.at >= since_ms):
                yield record


def parse_record(line: bytes) -> Record | None:
    """One line of a log, with its newline; None for what is none of our lines, or cut off by a crash."""
    at, _, rest = line.partition(b"\t")
    stream, tab, text = rest.partition(b"\t")
    if not tab or not text.endswith(b"\n") or stream not in (b"o", b"e", b"s") or not at.isdigit():
        return None
    kind: Stream = "o" if stream == b"o" else "e" if stream == b"e" else "s"
    return Record(int(at), kind, text[:-1].decode(errors="replace"))
