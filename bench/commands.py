"""What a person waits for at the terminal: `dicode up` until ready, `dicode get tasks`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from bench.place import up, write_tasks
from bench.table import Budget, Finding, Row, figure
from tests.support.system import System

TASKS = 30


def run(quick: bool) -> Iterator[Finding]:
    starts, gets = (2, 3) if quick else (8, 20)
    ready: list[float] = []
    listed: list[float] = []
    for number in range(starts):
        with up(prepare=partial(write_tasks, count=TASKS)) as place:
            ready.append(place.seconds * 1000)
            if number == starts - 1:
                place.system.run("get", "tasks")  # the first writes its byte code
                listed = [_get(place.system) for _ in range(gets)]
    yield Row(f"`dicode up` → ready, {TASKS} tasks", figure(ready), budget=Budget(1000))
    yield Row("`dicode get tasks`, whole command", figure(listed), budget=Budget(150))


def _get(system: System) -> float:
    """ms of the whole command."""
    began = time.monotonic()
    done = system.run("get", "tasks")
    taken = time.monotonic() - began
    assert done.returncode == 0 and len(done.stdout.splitlines()) > TASKS, done.stderr
    return taken * 1000
