"""What lies in run/daemons of each daemon: a lock that its process holds, and a record of the process.

Both stand before the process does, so a crash between its start and any other writing is found and mended: the lock is
held by an inherited file, no second copy can start while anything of the first has it (RELIABILITY R16); the record
names the mark that stands in its environment. A record that names no pid is a start that was not finished.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from dicode.messages.kinds import Daemon
from dicode.process.filenames import file_name

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Daemon)


class StillHeld(Exception):
    """Something of the last start still has the lock."""


class Records:
    """All methods are short and block. One process at a time uses a folder: the one with the supervisor's lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)

    def take(self, task: str) -> int:
        """The lock, as a file to be inherited; close it when the process has it. Raises StillHeld, OSError."""
        fd = os.open(self._path(task, "lock"), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise StillHeld(task) from None
        return fd

    def holders(self, task: str) -> list[int]:
        """Processes that have the lock's file open. Slow: it looks at every open file of the machine."""
        try:
            wanted = os.stat(self._path(task, "lock"))
        except FileNotFoundError:
            return []
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid() and _has_open(name, wanted)]

    def note(self, daemon: Daemon) -> None:
        """Remember this process, whole or not at all. Raises OSError."""
        path = self._path(daemon.task, "json")
        passing = path.with_suffix(".new")
        passing.write_bytes(_encoder.encode(daemon))
        passing.replace(path)

    def clear(self, task: str) -> None:
        """The process is gone and has been accounted for."""
        self._path(task, "json").unlink(missing_ok=True)

    def forget(self, task: str) -> None:
        self.clear(task)
        self._path(task, "lock").unlink(missing_ok=True)

    def noted(self) -> list[Daemon]:
        """Every process that has not been accounted for. An unreadable record is passed over: its process is found by the lock."""
        found = []
        for path in self._folder.glob("*.json"):
            try:
                found.append(_decoder.decode(path.read_bytes()))
            except (OSError, msgspec.MsgspecError):
                path.unlink(missing_ok=True)
        return found

    def _path(self, task: str, suffix: str) -> Path:
        return self._folder / f"{file_name(task)}.{suffix}"


def _has_open(pid: str, wanted: os.stat_result) -> bool:
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            there = os.stat(f"/proc/{pid}/fd/{name}")
            if (there.st_ino, there.st_dev) == (wanted.st_ino, wanted.st_dev):
                return True
    except OSError:  # it ended, or belongs to someone else
        pass
    return False
