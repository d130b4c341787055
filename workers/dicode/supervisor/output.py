"""What daemons print: pipes that outlive us, read by one thread into the log files.

The keeper holds a copy of each read end, so a daemon never meets a pipe without a reader while we are replaced, and what
it printed meanwhile is still in the pipe. Its own end is open for reading too: even without keeper and supervisor
(`--keep-daemons`, or both killed) it gets no SIGPIPE, it only waits when the pipe is full.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from dicode.process.clock import mono
from dicode.process.tasklog import LogWriter, Stream

CHUNK = 64 * 1024  # bytes read in one go, so that one chatty daemon does not starve the others
LAST_WORDS = 0.5  # seconds to take in what a process left, should someone who escaped it print on for ever (P5)


def pipe() -> tuple[int, int]:
    """(our end, non-blocking; the daemon's end). Raises OSError."""
    ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return ours, os.open(f"/proc/self/fd/{theirs}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        os.close(ours)
        raise
    finally:
        os.close(theirs)


def reopened(pid: int, fd: int) -> int | None:
    """A read end of the pipe a process has as its stdout or stderr, where no copy was kept. None when it is no pipe."""
    path = f"/proc/{pid}/fd/{fd}"
    with suppress(OSError):
        if stat.S_ISFIFO(os.stat(path).st_mode):
            return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return None


class _Followed:
    def __init__(self, path: Path, fds: Mapping[Stream, int]) -> None:
        self.fds = dict(fds)
        try:
            self.writer: LogWriter | None = LogWriter(path, rotate=True)
        except OSError:
            self.writer = None  # a full disk, a missing folder: what it prints is lost, but it does not wait for us

    def take(self, stream: Stream) -> bool:
        """One chunk. False when there is nothing now, or never again."""
        fd = self.fds.get(stream)
        if fd is None:
            return False
        try:
            chunk = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if not chunk:
            os.close(self.fds.pop(stream))
        elif self.writer is not None:
            self.writer.write(stream, chunk)
        return bool(chunk)

    def close(self, last: str = "") -> None:
        """Take in what is there, add our own last word, and close."""
        until = mono() + LAST_WORDS
        for stream in list(self.fds):
            while mono() < until and self.take(stream):
                pass
        for fd in self.fds.values():
            os.close(fd)
        if self.writer is not None:
            if last:
                self.writer.say(last)
            self.writer.close()


class Outputs:
    """Follows the pipes of all daemons. Its methods may be called from any thread and do not block."""

    def __init__(self) -> None:
        self._followed: dict[str, _Followed] = {}  # of the reading thread
        self._orders: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopped = False
        self._thread = threading.Thread(target=self._read, name="output of daemons", daemon=True)
        self._thread.start()

    def follow(self, launch: str, path: Path, fds: Mapping[Stream, int]) -> None:
        """Write what comes from `fds` into the log at `path`; they are ours to close from now on."""
        self._order(lambda: self._followed.__setitem__(launch, _Followed(path, fds)))

    def say(self, launch: str, text: str) -> None:
        """Our own words, in the same log."""

        def speak() -> None:
            followed = self._followed.get(launch)
            if followed is not None and followed.writer is not None:
                followed.writer.say(text)

        self._order(speak)

    def finish(self, launch: str, last: str = "") -> Future[None]:
        """Take in the last words of a process that has ended, and close. Done when the log is whole."""
        done: Future[None] = Future()

        def close() -> None:
            followed = self._followed.pop(launch, None)
            if followed is not None:
                followed.close(last)
            if done.set_running_or_notify_cancel():  # who waited may have been cancelled: we go down
                done.set_result(None)

        self._order(close)
        return done

    def stop(self) -> None:
        """Take in what is there now, and end the thread. The pipes of those that live on stay with the keeper."""

        def stop() -> None:
            self._stopped = True

        self._order(stop)
        self._thread.join()
        os.close(self._wake)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        os.eventfd_write(self._wake, 1)

    def _read(self) -> None:
        while not self._stopped:
            poller = select.poll()
            poller.register(self._wake, select.POLLIN)
            owner: dict[int, tuple[_Followed, Stream]] = {}
            for followed in self._followed.values():
                for stream, fd in followed.fds.items():
                    owner[fd] = followed, stream
                    poller.register(fd, select.POLLIN)
            self._until_ordered(poller, owner)
            while self._orders:
                self._orders.popleft()()
        for followed in self._followed.values():
            followed.close()

    def _until_ordered(self, poller: select.poll, owner: dict[int, tuple[_Followed, Stream]]) -> None:
        while True:
            for fd, _ in poller.poll():
                if fd == self._wake:
                    with suppress(BlockingIOError):
                        os.eventfd_read(self._wake)
                    return
                followed, stream = owner[fd]
                followed.take(stream)
                if stream not in followed.fds:
                    poller.unregister(fd)
