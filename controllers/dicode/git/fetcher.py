"""The fetcher: one process with the git library imported, which forks a child for each session and ends it when its time is over.

`python -m dicode.git.fetcher FD`, started by session.Children. FD is a SOCK_SEQPACKET socket: `Opening` with the child's end of a
session's socket comes in, `Kill` too; `Ended` goes out. Its end of file means the controller is gone: everything ends. While nothing happens
it sleeps in one poll. No threads and no asyncio: what is forked must be whole.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import resource
import select
import signal
import socket
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any, NoReturn

import msgspec

from dicode.git.frames import (
    ASK,
    END,
    EX_MEMORY,
    FAULT,
    FRAME_MAX,
    HEAD,
    ITEM,
    MESSAGE,
    Ask,
    Ended,
    GitFault,
    Kill,
    Limits,
    Opening,
    Said,
    Verb,
    out_of_memory,
    too_large,
)
from dicode.process import rights
from dicode.process.clock import mono

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
ASK_MAX = 4 << 20  # bytes of one ask: a list of wants, not of files
JOINED = 1 << 16  # bytes below which a frame goes out in one piece
SESSION = 3  # the number of the session's socket in a child


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is our controller's business; it tells us by its end
    control = socket.socket(fileno=int(argv[0]))
    control.setblocking(True)
    gc.disable()
    library()
    gc.collect()
    gc.freeze()  # what is imported is never looked through again, so that children share its pages
    Fetcher(control).run()
    return 0


def library() -> tuple[ModuleType, ...]:
    """Everything a child needs, imported before the first fork."""
    from dicode.git import mirror, objects

    return mirror, objects


def verbs() -> dict[str, Verb]:
    """What a child can do."""
    from dicode.git import mirror, objects

    return {**mirror.VERBS, **objects.VERBS}


class _Deaf(Exception):
    """Nobody listens to this session any more. (Not a ConnectionError: remotes cause those.)"""


class _Running:
    """A child, its deadline, and the session it is for."""

    def __init__(self, pid: int, id: int, deadline: float) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.id = id
        self.deadline = deadline
        self.late = False


class Fetcher:
    """The parent of all sessions' children."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._libc = ctypes.CDLL(None)
        self._running: dict[int, _Running] = {}  # pidfd → child
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def run(self) -> None:
        """Until the controller is gone; nobody of ours is left then."""
        try:
            while self._turn():
                pass
        finally:
            for child in self._running.values():
                _kill(child.pid)

    def _turn(self) -> bool:
        for fd, _ in self._poll.poll(self._patience()):
            if fd in self._running:
                self._reap(self._running[fd])
            elif not self._hear():
                return False
        now = mono()
        for child in self._running.values():
            if child.deadline <= now and not child.late:
                child.late = True
                _kill(child.pid)
        return True

    def _patience(self) -> int | None:
        """Milliseconds until the next deadline; None: nobody has one."""
        due = [child.deadline for child in self._running.values() if not child.late]
        return max(0, int((min(due) - mono()) * 1000) + 1) if due else None

    def _hear(self) -> bool:
        try:
            data, fds = rights.receive(self._control, MESSAGE, wait=True)
        except ConnectionError:  # the controller has gone without hearing us out
            return False
        if not data:
            return False
        try:
            match msgspec.msgpack.decode(data, type=Opening | Kill):
                case Opening() as opening:
                    self._fork(opening, fds[0])
                case Kill(id=id):
                    for child in self._running.values():
                        if child.id == id:
                            _kill(child.pid)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _fork(self, opening: Opening, link: int) -> None:
        if opening.tls:
            from dicode.git import channel

            channel.make_tls_ready()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            return self._told(Ended(opening.id, EX_MEMORY))
        if pid == 0:
            self._be_child(opening.limits, link, parent)
        child = _Running(pid, opening.id, mono() + opening.limits.seconds)
        self._running[child.pidfd] = child
        self._poll.register(child.pidfd, select.POLLIN)
        return None

    def _reap(self, child: _Running) -> None:
        """It has ended; whoever it left in its group (an ssh) ends with it. Until it is waited for, its number is its own."""
        _kill(child.pid)
        _, status = os.waitpid(child.pid, 0)
        self._poll.unregister(child.pidfd)
        del self._running[child.pidfd]
        os.close(child.pidfd)
        self._told(Ended(child.id, os.waitstatus_to_exitcode(status), child.late))

    def _told(self, ended: Ended) -> None:
        with suppress(OSError):  # the controller is gone or stopped; the first we hear soon, the second waits in vain
            rights.send(self._control, msgspec.msgpack.encode(ended))

    # ── the child ──

    def _be_child(self, limits: Limits, link: int, parent: int) -> NoReturn:
        code = 1
        try:
            os.setsid()
            self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(code)
            _shut_in(limits, link)
            code = serve(socket.socket(fileno=SESSION), limits)
        except MemoryError:
            code = EX_MEMORY
        finally:
            os._exit(code)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # itself, in case it has not yet made its group
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _shut_in(limits: Limits, link: int) -> None:
    """No file but the session's socket, and no more of anything than it may have."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    if link != SESSION:
        os.dup2(link, SESSION)
    os.closerange(SESSION + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    seconds = int(limits.seconds) + 1
    for which, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits.fetch),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_AS, limits.memory),
    ):
        _, hard = resource.getrlimit(which)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))


def serve(link: socket.socket, limits: Limits) -> int:
    """Answer asks until the other end is gone. Gives the exit code."""
    table = verbs()
    while True:
        head = _exactly(link, HEAD.size)
        if head is None:
            return 0
        size, kind = HEAD.unpack(head)
        if size > ASK_MAX or kind != ASK:
            return 1
        body = _exactly(link, size)
        if body is None:
            return 0
        try:
            _answer(link, table, msgspec.msgpack.decode(body, type=Ask), limits)
        except _Deaf:
            return 0


def _answer(link: socket.socket, table: dict[str, Verb], ask: Ask, limits: Limits) -> None:
    """Raises _Deaf, and MemoryError after it was told."""
    from dicode.git import mirror

    try:
        verb = table[ask.verb]
        for item in verb.answer(ask.mirror, msgspec.msgpack.decode(ask.args, type=verb.args)):
            body = msgspec.msgpack.encode(item)
            if len(body) > FRAME_MAX:
                raise too_large(limits)
            _send(link, ITEM, body)
        _send(link, END, b"")
    except _Deaf:
        raise
    except MemoryError:
        _send(link, FAULT, msgspec.msgpack.encode(_said(out_of_memory(limits))))
        raise
    except Exception as error:  # whatever it is, the other side must hear of it, in our words
        fault = _fault(error, limits)
        if fault.reason == "CacheCorrupt":
            mirror.distrust(ask.mirror)
        _send(link, FAULT, msgspec.msgpack.encode(_said(fault)))


def _said(fault: GitFault) -> Said:
    return Said(fault.reason, str(fault), fault.permanent)


def _fault(error: Exception, limits: Limits) -> GitFault:
    from dicode.git import mirror

    if isinstance(error, GitFault):
        return error
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return too_large(limits)
    if isinstance(error, OSError):
        return GitFault(
            "CacheUnwritable", f"the mirror cannot be used: {error.strerror or type(error).__name__}: look at the folder mirrors in data_dir"
        )
    if mirror.is_damage(error):
        return GitFault("CacheCorrupt", f"the mirror is damaged ({type(error).__name__}): it is fetched again")
    return GitFault("Crashed", f"git work failed in a way nobody thought of ({type(error).__name__}): please report it")


def _send(link: socket.socket, kind: int, body: bytes) -> None:
    try:
        if len(body) < JOINED:
            link.sendall(HEAD.pack(len(body), kind) + body)
        else:
            link.sendall(HEAD.pack(len(body), kind))
            link.sendall(body)
    except OSError:
        raise _Deaf from None


def _exactly(link: socket.socket, size: int) -> bytes | None:
    """None when the other end is gone."""
    parts: list[bytes] = []
    while size:
        try:
            part = link.recv(min(size, JOINED))
        except ConnectionError:
            return None
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


__all__: list[Any] = ["Fetcher", "main", "serve", "verbs"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
