"""Starting is recovering: find what a supervisor before us has left running, and take it up without touching it.

The local records say which processes there should be, the keeper how those that ended did, the process table what is
there. Afterwards every process with a mark of this installation is one we hold; any other was started by someone who
died before he could write it down, and is ended: nobody has ever been told of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL

from msgspec.structs import replace

from dicode.messages.kinds import Daemon
from dicode.process.child import Identity, boot_id, kill_tree
from dicode.process.child import adopt as adopt_process
from dicode.process.keeper import told_by
from dicode.process.tasklog import Stream, daemon_log
from dicode.supervisor.launch import DAEMON_ID
from dicode.supervisor.output import Outputs, reopened
from dicode.supervisor.records import Records
from dicode.supervisor.state import Held

PIPES: Mapping[Stream, tuple[str, int]] = {"o": ("out", 1), "e": ("err", 2)}  # name of the kept pipe, its number in the daemon


def identity_of(daemon: Daemon) -> Identity:
    return Identity(daemon.boot_id, daemon.pid, daemon.start_time)


def mark_of(launch: str) -> str:
    """The line in the environment of everything that came of this start."""
    return f"{DAEMON_ID}={launch}"


def take_up(daemon: Daemon, exits: Mapping[int, int]) -> Held:
    """One process that was left to us: as it runs, or as it ended. `exits`: pid → exit code of orphans, from the keeper."""
    if daemon.boot_id != boot_id():
        return Held(replace(daemon, state="stopped", pid=0, start_time=0.0, boot_id="", exit="ended with the machine"))
    try:
        return Held(daemon, adopt_process(identity_of(daemon)), adopted=True)
    except ProcessLookupError:
        held = Held(daemon, adopted=True)
        ended(held, exits.get(daemon.pid))
        return held


def ended(held: Held, code: int | None) -> None:
    """Note how the process ended; None when nobody can say."""
    held.exit = "ended, nobody saw how" if code is None else told_by(code)
    held.clean = code == 0


async def adopt(records: Records, exits: Mapping[int, int], installation: str) -> dict[str, Held]:
    """All daemons that were left to us, by task. Unfinished starts and strays are ended."""
    book: dict[str, Held] = {}
    for daemon in records.noted():
        if daemon.pid:
            book[daemon.task] = held = take_up(daemon, exits)
            if held.child is None and not held.exit:
                records.clear(daemon.task)
        else:
            await end_start(records, daemon.task, daemon.launch)
            records.clear(daemon.task)
    known = {held.daemon.launch for held in book.values() if held.daemon is not None}
    for launch in launches_seen(installation) - known:
        await kill_tree(None, mark_of(launch), stop_signal=SIGKILL, grace=0)
    return book


async def end_start(records: Records, task: str, launch: str) -> None:
    """End whatever has the mark or the lock of a start that is not ours to keep."""
    if launch:
        await kill_tree(None, mark_of(launch), stop_signal=SIGKILL, grace=0)
    for pid in records.holders(task):
        with suppress(OSError):
            os.kill(pid, SIGKILL)


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


def listen(held: Held, kept: Mapping[str, int], outputs: Outputs, logs: Path) -> None:
    """Follow the pipes of an adopted process: the kept ones, else opened through the process itself."""
    daemon = held.daemon
    assert daemon is not None
    fds: dict[Stream, int] = {}
    for stream, (name, number) in PIPES.items():
        fd = kept.get(f"{name}:{daemon.launch}")
        if fd is None and held.child is not None:
            fd = reopened(daemon.pid, number)
        if fd is not None:
            fds[stream] = fd
    outputs.follow(daemon.launch, daemon_log(logs, daemon.task), fds)


def stale(kept: Iterable[str], book: Mapping[str, Held]) -> list[str]:
    """Names of kept pipes whose daemon has been accounted for."""
    launches = {held.daemon.launch for held in book.values() if held.daemon is not None}
    return [name for name in kept if name.partition(":")[0] in ("out", "err") and name.partition(":")[2] not in launches]
