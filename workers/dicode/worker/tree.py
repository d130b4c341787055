"""A process and everything that came of it. The caller must be a child subreaper: then no double fork escapes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
from collections.abc import Callable, Iterator

from dicode.process.clock import mono

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Orphans of our descendants become our children. Raises OSError."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with_parent() -> None:
    """SIGKILL for us when the thread that forked us ends; kept over exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def descendants(of: int) -> Iterator[int]:
    """Every process below `of` that is there now, parents first."""
    for child in _children(of):
        yield child
        yield from descendants(child)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def reap(seen: Callable[[int, int], None]) -> bool:
    """Collect children that ended, telling `seen(pid, exit code)`; False when there are no children at all."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if not pid:
            return True
        seen(pid, os.waitstatus_to_exitcode(status))


def kill_all(seen: Callable[[int, int], None], within: float = 3.0) -> bool:
    """SIGKILL everything below us until we have no child left; False when something does not die `within` seconds.

    Having no children proves that nothing is left, for an orphan would have become our child.
    """
    until = mono() + within
    while True:
        for pid in list(descendants(os.getpid())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not reap(seen):
            return True
        if mono() > until:
            return False
        select.select([], [], [], 0.002)


def marked(mark: bytes) -> Iterator[int]:
    """Processes of this machine, but ourselves, whose environment at their start held the line `mark` (`NAME=value`)."""
    return (pid for pid, line in carrying(mark) if line == mark)


def carrying(start: bytes) -> Iterator[tuple[int, bytes]]:
    """The same for every line that begins so: (pid, the line)."""
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            for line in file.read().split(b"\0"):
                if line.startswith(start):
                    yield int(name), line
