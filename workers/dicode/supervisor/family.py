"""A daemon and everything that came of it, wherever it went: what is left, how it is asked to go, how it is ended.

Relatives are known by their session, their parents, the mark in their environment, and the lock they inherited. Whoever
leaves his session and his parents, clears his environment and closes his files is a stranger (a cgroup would know him).
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

from dicode.messages.kinds import Daemon
from dicode.process.child import Child, Identity, carries, family, kill_tree, table
from dicode.supervisor.launch import DAEMON_ID
from dicode.supervisor.records import Records, StillHeld


def identity_of(daemon: Daemon) -> Identity:
    return Identity(daemon.boot_id, daemon.pid, daemon.start_time)


def mark_of(launch: str) -> str:
    """The line in the environment of everything that came of this start."""
    return f"{DAEMON_ID}={launch}"


def relatives(daemon: Daemon) -> set[int]:
    """Who came of this daemon and lives, itself included; those who only have the lock are left out. Blocks a millisecond or two."""
    return family(table(), mark_of(daemon.launch).encode(), carries, identity_of(daemon))


def is_left(daemon: Daemon, records: Records) -> bool:
    """Is anything left of a process that has ended? Blocks a millisecond or two."""
    if relatives(daemon):
        return True
    try:
        os.close(records.take(daemon.task))
    except StillHeld:
        return True
    return False


async def ask_to_go(child: Child, daemon: Daemon, records: Records) -> None:
    """The stop signal to its group, all at once, then to each relative that has left the group."""
    if child.ended():
        return  # not waited for until here, so the number of its group is its own
    numbers = (getattr(signal, daemon.stop_signal, signal.SIGTERM), signal.SIGCONT)  # a stopped process hears nothing else
    for number in numbers:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
    for pid in await asyncio.to_thread(_away, daemon, records):
        for number in numbers:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


def _away(daemon: Daemon, records: Records) -> list[int]:
    found = relatives(daemon)
    try:
        os.close(records.take(daemon.task))  # most have gone by now; else it is worth the look at every open file of the machine
    except StillHeld:
        found.update(records.holders(daemon.task))
    return [pid for pid in found if _group(pid) not in (0, daemon.pid)]


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


async def end(records: Records, task: str, launch: str, child: Child | None = None) -> bool:
    """SIGKILL to everything that came of this start or has its lock. False when something does not even die of that."""
    dead = await kill_tree(child, mark_of(launch), stop_signal=signal.SIGKILL, grace=0) if launch else True
    try:
        os.close(records.take(task))
    except StillHeld:
        for pid in records.holders(task):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return False  # they are dying; look again
    return dead


def launches_seen(installation: str) -> set[str]:
    """The marks of this installation that stand in the environment of any process."""
    start = f"{DAEMON_ID}={installation}.".encode()
    found: set[str] = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError):
                lines = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
                found.update(line.decode(errors="replace").partition("=")[2] for line in lines if line.startswith(start))
    return found
