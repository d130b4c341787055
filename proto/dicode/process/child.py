"""Processes of others: start one, know it again, wait for it, and end it with everything that came of it.

A process is known by (boot id, pid, start time) and signalled through a pidfd, for numbers are given again within
seconds (RELIABILITY P1). Never a preexec_fn: it deadlocks with threads and costs 40 times as much (P12).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from dicode.process.clock import mono

SOFT_FILES = 1024  # open files at first, whatever we have ourselves: select() of a task knows no higher number
OOM_SCORE = 500  # when memory ends, a task goes before any role
KILL_WITHIN = 3.0  # seconds a family may take to die of SIGKILL
PASS = 0.01  # seconds between two looks for a family that is being killed
_TICKS = os.sysconf("SC_CLK_TCK")


class Identity(NamedTuple):
    """A process of this machine, for ever. `start_time`: seconds after the boot, as the kernel counts them: a clock that is set does not move it."""

    boot_id: str
    pid: int
    start_time: float


class Seen(NamedTuple):
    """A line of the process table."""

    pid: int
    parent: int
    session: int
    start_time: float
    dead: bool  # a zombie


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def look(pid: int) -> Seen | None:
    """The process with this number now; None when there is none."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)  # by hand: every process is looked at when a daemon is replaced
    except OSError:
        return None
    try:
        text = os.read(fd, 4096)
    except OSError:
        return None
    finally:
        os.close(fd)
    fields = text[text.rindex(b")") + 2 :].split(b" ", 20)  # its name may hold anything, brackets and blanks too
    return Seen(pid, int(fields[1]), int(fields[3]), int(fields[19]) / _TICKS, fields[0] in b"ZX")


def table() -> dict[int, Seen]:
    """All processes of this machine."""
    seen = (look(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in seen if process is not None}


def identify(pid: int) -> Identity:
    """Who has this number now. Raises ProcessLookupError."""
    seen = look(pid)
    if seen is None:
        raise ProcessLookupError(f"no process {pid}")
    return Identity(boot_id(), pid, seen.start_time)


def is_alive(identity: Identity) -> bool:
    """It runs, and its number has not gone to another. A zombie does not live."""
    seen = look(identity.pid)
    return seen is not None and not seen.dead and seen.start_time == identity.start_time and identity.boot_id == boot_id()


class Child:
    """One process: spawned by us, or adopted. Belongs to the running event loop once waited for."""

    def __init__(self, identity: Identity, pidfd: int, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.identity = identity
        self.exit_code: int | None = None  # as of subprocess: negative for a signal; None for an adopted one, the keeper knows
        self._pidfd = pidfd
        self._popen = popen

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def stdin(self) -> IO[bytes] | None:
        """Our end of its stdin, where it was spawned with subprocess.PIPE."""
        return self._popen.stdin if self._popen else None

    def fileno(self) -> int:
        """Readable when the process has ended."""
        return self._pidfd

    def ended(self) -> bool:
        """Whether it has ended; sets `exit_code` of one that was spawned."""
        if self._pidfd < 0:
            return True
        if not _readable(self._pidfd):
            return False
        if self._popen is not None:
            self.exit_code = self._popen.wait()
        return True

    async def wait(self) -> int | None:
        """Wait for its end, whoever holds its pipes open (P5). Gives `exit_code`."""
        if not self.ended():
            await _until_readable(self._pidfd)
            self.ended()
        return self.exit_code

    def signal(self, number: int) -> bool:
        """False when it has ended already."""
        if self._pidfd < 0:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Forget it, alive or not."""
        if self._pidfd >= 0:
            self.ended()
            os.close(self._pidfd)
            self._pidfd = -1
        if self._popen is not None and self._popen.returncode is None:
            self._popen.returncode = 0  # it is to live on: nothing to wait for, nothing to warn of


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stdin: int = subprocess.DEVNULL,
    stdout_fd: int = subprocess.DEVNULL,
    stderr_fd: int = subprocess.DEVNULL,
    pass_fds: Iterable[int] = (),
    new_session: bool = True,
) -> Child:
    """Start a program with this environment and no file but those named. Raises OSError: not found, not executable, no room."""
    popen = subprocess.Popen(
        argv, env=env, cwd=cwd, stdin=stdin, stdout=stdout_fd, stderr=stderr_fd, pass_fds=tuple(pass_fds), start_new_session=new_session
    )
    pidfd = os.pidfd_open(popen.pid)  # not waited for: the number is its own
    seen = look(popen.pid)
    assert seen is not None, "a child that was not waited for is in the table"
    with contextlib.suppress(OSError):  # it may have ended
        _be_modest(popen.pid)
    return Child(Identity(boot_id(), popen.pid, seen.start_time), pidfd, popen)


def _be_modest(pid: int) -> None:
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    if soft > SOFT_FILES:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (SOFT_FILES, hard))
    Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE))


def adopt(identity: Identity) -> Child:
    """Take up a process that was started by someone before us. Raises ProcessLookupError when it is gone."""
    pidfd = os.pidfd_open(identity.pid)
    if not is_alive(identity):  # looked at after the pidfd was taken: it cannot change hands any more
        os.close(pidfd)
        raise ProcessLookupError(f"process {identity.pid} is gone")
    return Child(identity, pidfd)


def family(
    processes: Mapping[int, Seen], mark: bytes, carries: Callable[[int, bytes], bool], leader: Identity | None = None, known: Iterable[int] = ()
) -> set[int]:
    """Who came of a program: all in the session that `leader` leads, all that carry `mark` in their environment, who is `known`, and all below these.

    Pure: `carries(pid, mark)` looks. We and our ancestors are never of it. A session keeps its leader's number from
    being given again, so if another process has it, there is no such session any more. Nobody came of a program who was
    there before its leader: their environments need no look.
    """
    first = leader.start_time if leader is not None else 0.0
    if leader is not None and leader.pid in processes and processes[leader.pid].start_time != leader.start_time:
        leader = None
    found = {pid for pid, seen in processes.items() if leader is not None and leader.pid in (pid, seen.session)}
    found.update(pid for pid in known if pid in processes)
    found.update(pid for pid, seen in processes.items() if pid not in found and not seen.dead and seen.start_time >= first and carries(pid, mark))
    children: dict[int, list[int]] = {}
    for seen in processes.values():
        children.setdefault(seen.parent, []).append(seen.pid)
    below = list(found)
    while below:
        more = [pid for pid in children.get(below.pop(), ()) if pid not in found]
        found.update(more)
        below.extend(more)
    return {pid for pid in found if not processes[pid].dead} - _line_up(processes, os.getpid())


def _line_up(processes: Mapping[int, Seen], pid: int) -> set[int]:
    line: set[int] = set()
    while pid in processes and pid not in line:
        line.add(pid)
        pid = processes[pid].parent
    return line


def carries(pid: int, mark: bytes) -> bool:
    """Whether the environment this process was started with has the line `mark` (`NAME=value`)."""
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # ended, or not ours to look at: then not ours to kill either


async def kill_tree(child: Child | None, mark: str, *, stop_signal: int = signal.SIGTERM, grace: float = 10.0) -> bool:
    """End a program and everything that came of it: `stop_signal` to its session, `grace` seconds, SIGKILL to the rest.

    `mark` is the `NAME=value` in its environment that no other program has; without a child only it counts. Done when two looks in a row find nobody.
    False when something does not even die of SIGKILL (it hangs in the kernel).
    """
    hunted = _Hunted(None if child is None else child.identity, os.fsencode(mark))
    try:
        hunted.look()
        hunted.signal(stop_signal)
        hunted.signal(signal.SIGCONT)  # a stopped process would not hear the first
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hunted.ended(), grace)
        until = mono() + KILL_WITHIN
        empty = 0
        while empty < 2 and mono() < until:
            empty = 0 if hunted.look() else empty + 1
            hunted.signal(signal.SIGKILL)
            await asyncio.sleep(0 if empty else PASS)
        return empty == 2
    finally:
        hunted.close()
        if child is not None:
            child.ended()


class _Hunted:
    """A family that is being ended. Whoever was seen once is held by a pidfd: losing his parents and his session does not save him."""

    def __init__(self, leader: Identity | None, mark: bytes) -> None:
        self._leader = leader
        self._mark = mark
        self._pidfds: dict[int, int] = {}

    def look(self) -> bool:
        """Find more of them; False when none is alive."""
        for pid in [pid for pid, pidfd in self._pidfds.items() if _readable(pidfd)]:
            os.close(self._pidfds.pop(pid))
        processes = table()
        for pid in family(processes, self._mark, carries, self._leader, self._pidfds):
            if pid not in self._pidfds:
                with contextlib.suppress(ProcessLookupError):
                    self._take(processes[pid])
        return bool(self._pidfds)

    def _take(self, seen: Seen) -> None:
        pidfd = os.pidfd_open(seen.pid)
        again = look(seen.pid)
        if again is None or again.start_time != seen.start_time:
            os.close(pidfd)  # the number has changed hands since we looked
        else:
            self._pidfds[seen.pid] = pidfd

    def signal(self, number: int) -> None:
        for pidfd in self._pidfds.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(pidfd, number)

    async def ended(self) -> None:
        for pidfd in list(self._pidfds.values()):
            await _until_readable(pidfd)

    def close(self) -> None:
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()


async def _until_readable(fd: int) -> None:
    """On a copy of its own: a loop knows each number once, and several may wait for one process."""
    loop = asyncio.get_running_loop()
    copy = os.dup(fd)
    readable = loop.create_future()
    loop.add_reader(copy, lambda: None if readable.done() else readable.set_result(None))
    try:
        await readable
    finally:
        loop.remove_reader(copy)
        os.close(copy)


def _readable(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))
