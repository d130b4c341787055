"""Ten thousand tasks: a cold start, and a reading of the whole source that finds nothing new."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from bench.place import Place, up, write_tasks
from bench.table import Budget, Finding, Row, figure

from dicode.admin import ask
from dicode.messages.kinds import Request

READ_WITHIN = 60.0  # seconds


def run(quick: bool) -> Iterator[Finding]:
    tasks, times = (1_000, 3) if quick else (10_000, 10)
    with up(prepare=partial(write_tasks, count=tasks)) as place:
        yield Row(f"cold start: `dicode up` → ready, {tasks:,} tasks", figure([place.seconds]), "s", Budget(5))
        place.subscribe(Request)
        place.calm(1.0)
        yield Row(f"no-op resync, {tasks:,} tasks: request → answer", figure([_resync(place) for _ in range(times)]), budget=Budget(300))
        yield Row("  `dicode source sync tasks --wait`, whole command", figure([_command(place) for _ in range(times)]))


def _resync(place: Place) -> float:
    """ms from the request to its owner's answer."""
    began = time.monotonic()
    ask.request(place.wire, "source.sync", "tasks", wait=READ_WITHIN)
    return (time.monotonic() - began) * 1000


def _command(place: Place) -> float:
    began = time.monotonic()
    done = place.system.run("source", "sync", "tasks", "--wait", deadline=READ_WITHIN)
    assert done.returncode == 0, done.stderr
    return (time.monotonic() - began) * 1000
