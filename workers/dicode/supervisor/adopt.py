"""Starting is recovering: find what a supervisor before us has left running, and take it up without touching it.

The local records say which processes there should be, the keeper how those that ended did, the process table what is
there. Afterwards every process with a mark of this installation is one we hold; any other was started by someone who
died before he could write it down, and is ended: nobody has ever been told of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from signal import SIGKILL

from msgspec.structs import replace

from dicode.messages.kinds import Daemon
from dicode.process.child import adopt as adopt_process
from dicode.process.child import boot_id, kill_tree
from dicode.process.clock import mono
from dicode.process.endings import told_by
from dicode.process.tasklog import Stream, daemon_log
from dicode.supervisor.family import end, identity_of, launches_seen, mark_of
from dicode.supervisor.output import Outputs, reopened
from dicode.supervisor.records import Records
from dicode.supervisor.state import Held

KEEPER_TELLS = 0.1  # seconds the keeper may take to tell how an orphan ended
PIPES: Mapping[Stream, tuple[str, int]] = {"o": ("out", 1), "e": ("err", 2)}  # name of the kept pipe, its number in the daemon


async def take_up(daemon: Daemon, exits: Mapping[int, int]) -> Held:
    """One process that was left to us: as it runs, or as it ended. `exits`: pid → exit code of orphans, as the keeper tells it."""
    if daemon.boot_id != boot_id():
        return Held(replace(daemon, state="stopped", pid=0, start_time=0.0, boot_id="", exit="ended with the machine"))
    try:
        return Held(daemon, adopt_process(identity_of(daemon)), adopted=True)
    except ProcessLookupError:
        held = Held(daemon, adopted=True)
        until = mono() + KEEPER_TELLS
        while daemon.pid not in exits and mono() < until:
            await asyncio.sleep(KEEPER_TELLS / 20)
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
            book[daemon.task] = held = await take_up(daemon, exits)
            if held.child is None and not held.exit:
                records.clear(daemon.task)
        else:
            await end(records, daemon.task, daemon.launch)
            records.clear(daemon.task)
    known = {held.daemon.launch for held in book.values() if held.daemon is not None}
    for launch in launches_seen(installation) - known:
        await kill_tree(None, mark_of(launch), stop_signal=SIGKILL, grace=0)
    return book


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
