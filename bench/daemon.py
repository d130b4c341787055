"""Daemons: from a save to the new process, from kill -9 to the next one; beside circus and supervisor where they can be had.

The program is the same for all: a script of bash (the one shell with a clock of its own), whose first line writes down the time and its pid.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench import peers
from bench.place import DEADLINE, up
from bench.table import Budget, Figure, Finding, Note, Row, figure
from tests.support.system import System
from tests.support.waiting import wait_for

SCRIPT = '#!/bin/bash\nLC_ALL=C; echo "$EPOCHREALTIME $$" >> {births}\nexec sleep 1000 # {text}\n'
YAML = """name: {name}
runtime: shell
trigger: {{daemon: true}}
permissions:
  fs: [{{path: {folder}, permission: rw}}]
"""
STANDS = 1.3  # seconds a program is left alone before its first kill: supervisor calls it started after 1 s
KILLED_BUDGET = 50.0  # ms
SAVE_BUDGET = 30.0  # ms, and the start of the interpreter


class Birth(NamedTuple):
    at: float  # wall clock, by the process itself
    pid: int


class Program:
    """The script and what its processes wrote down."""

    def __init__(self, script: Path, births: Path) -> None:
        self.script = script
        self.births_file = births
        births.touch()
        self.save("first")

    def save(self, text: str) -> float:
        """Puts a new script in the place of the old one. Gives the wall clock from just before."""
        fresh = self.script.with_name(f".{self.script.name}.swp")
        began = time.time()
        fresh.write_text(SCRIPT.format(births=self.births_file, text=text))
        fresh.chmod(0o755)
        fresh.replace(self.script)
        return began

    def births(self) -> list[Birth]:
        lines = self.births_file.read_text().splitlines(keepends=True)
        return [Birth(float(at), int(pid)) for at, pid in (line.split() for line in lines if line.endswith("\n"))]

    def born(self, number: int) -> Birth:
        """The `number`-th process, once it has begun."""
        return wait_for(lambda: self.births()[number - 1 : number], f"process {number} of {self.script}", DEADLINE)[0]

    def kill(self) -> float:
        """kill -9 and wait for the next process; gives the ms between them."""
        before = self.births()
        began = time.time()
        os.kill(before[-1].pid, signal.SIGKILL)
        return (self.born(len(before) + 1).at - began) * 1000

    def change(self, text: str) -> float:
        """Save the script and wait for the next process; gives the ms between them."""
        before = len(self.births())
        began = self.save(text)
        return (self.born(before + 1).at - began) * 1000


def run(quick: bool) -> Iterator[Finding]:
    if not os.access("/bin/bash", os.X_OK):
        yield Note("daemons: skipped, there is no /bin/bash")
        return
    kills, saves = (3, 3) if quick else (20, 30)
    with tempfile.TemporaryDirectory(prefix="dcb-") as folder:
        back, changed = _ours(Path(folder), kills, saves)
        interpreter = _interpreter(Path(folder))
        theirs = {}
        for peer in (peers.supervisor, peers.circus):
            try:
                theirs[peer.__name__] = _theirs(Path(folder) / peer.__name__, peer, 2 if quick else 5)
            except peers.NotHere as why:
                yield Note(f"{peer.__name__}: skipped, {why}")
    yield Row(
        "daemon kill -9 → back",
        figure(back),
        budget=Budget(KILLED_BUDGET),
        peers=tuple((name, figure(kills)) for name, (kills, _) in theirs.items()),
    )
    yield Row(
        "save → new daemon process",
        figure(changed),
        budget=Budget(SAVE_BUDGET + interpreter.p50),
        peers=tuple((name, figure(changes)) for name, (_, changes) in theirs.items() if changes),
    )
    yield Row("  start of its interpreter alone (bash)", interpreter)


def _ours(folder: Path, kills: int, saves: int) -> tuple[list[float], list[float]]:
    """(ms of each kill, ms of each save); each daemon is killed once, for the second kill in a row would meet the backoff."""
    programs: list[Program] = []

    def prepare(system: System) -> None:
        for number in range(kills + 1):
            task = system.write_task(f"d{number}", YAML.format(name=f"d{number}", folder=folder))
            programs.append(Program(task / "task.sh", folder / f"d{number}.births"))

    with up(prepare=prepare):
        changed, *killed = programs
        first = [program.born(1) for program in programs]
        pause(max(birth.at for birth in first) + STANDS - time.time())
        changed.change("warm")
        return [program.kill() for program in killed], [changed.change(f"number {number}") for number in range(saves)]


def _theirs(folder: Path, peer: Callable[[Path, Path], peers.Peer], times: int) -> tuple[list[float], list[float]]:
    """The same of a peer; no saves when it does not watch files."""
    folder.mkdir()
    program = Program(folder / "program", folder / "births")
    with peer(folder, program.script) as watches:
        pause(program.born(1).at + STANDS - time.time())
        kills = []
        for _ in range(times):
            kills.append(program.kill())
            pause(STANDS)
        return kills, [program.change(f"number {number}") for number in range(times)] if watches else []


def _interpreter(folder: Path) -> Figure:
    """From just before the start of a bash to its first line."""
    program = Program(folder / "alone", folder / "alone.births")
    taken = []
    for number in range(20):
        began = time.time()
        with subprocess.Popen([program.script], start_new_session=True) as process:
            taken.append((program.born(number + 1).at - began) * 1000)
            process.kill()
    return figure(taken)


def pause(seconds: float) -> None:
    """Programs must stand for a while before what is done to them counts: the one place where time itself is waited for."""
    if seconds > 0:
        time.sleep(seconds)
