"""What the whole control plane costs while nothing happens: keeper, roles and their children, with 1,000 tasks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
from bench.place import Place, up, write_tasks
from bench.table import Budget, Figure, Finding, Row
from tests.support.processes import descendants, proportional_memory

TASKS = 1_000
REST = 3.0  # seconds after ready, until the first start's work is done


def run(quick: bool) -> Iterator[Finding]:
    seconds = 4.0 if quick else 20.0
    with up(prepare=partial(write_tasks, count=TASKS)) as place:
        time.sleep(REST)
        before, woken, began = _worked(place), _woken(place), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        core = (_worked(place) - before) / took * 100
        wakes = (_woken(place) - woken) / took
        memory = sum(proportional_memory(process.pid) for process in _all(place)) / 1024
        count = len(_all(place))
    yield Row(f"idle, {TASKS:,} tasks: memory (PSS) of all {count} processes", Figure(memory), "MB", Budget(200))
    yield Row(f"idle, {TASKS:,} tasks: of one core, over {seconds:g} s", Figure(core), "%", Budget(1))
    yield Row("  wake-ups of all threads", Figure(wakes), "times a second")


def _all(place: Place) -> list[psutil.Process]:
    return [psutil.Process(place.keeper.pid), *descendants(place.keeper.pid)]


def _worked(place: Place) -> float:
    """CPU seconds of all, ended children too."""
    return sum(sum(process.cpu_times()[:4]) for process in _all(place))


def _woken(place: Place) -> int:
    """How often any thread that lives now has given up its core to wait."""
    tasks = (task for process in _all(place) for task in Path(f"/proc/{process.pid}/task").iterdir())
    return sum(int(line.split()[1]) for task in tasks for line in (task / "status").read_text().splitlines() if line.startswith("voluntary_ctxt"))
