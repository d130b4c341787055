"""What the whole control plane costs while nothing happens: keeper, roles and their children, with 1,000 tasks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

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
        before, began = _worked(place), time.monotonic()
        time.sleep(seconds)
        core = (_worked(place) - before) / (time.monotonic() - began) * 100
        memory = sum(proportional_memory(process.pid) for process in _all(place)) / 1024
        count = len(_all(place))
    yield Row(f"idle, {TASKS:,} tasks: memory (PSS) of all {count} processes", Figure(memory), "MB", Budget(200))
    yield Row(f"idle, {TASKS:,} tasks: of one core, over {seconds:g} s", Figure(core), "%", Budget(1))


def _all(place: Place) -> list[psutil.Process]:
    return [psutil.Process(place.keeper.pid), *descendants(place.keeper.pid)]


def _worked(place: Place) -> float:
    """CPU seconds of all, ended children too."""
    return sum(sum(process.cpu_times()[:4]) for process in _all(place))
