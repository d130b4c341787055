"""H1: what was hashed is what runs, however fast somebody writes beside it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator

import pytest
from tests.chaos import validators
from tests.chaos.load import HOOK, SOAK, write_hook
from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.commands import Enqueue, Enqueued
from dicode.messages.kinds import Run, RunTrigger, Task

pytestmark = pytest.mark.process
RUNS = 300 if SOAK else 30
WRITES = 0.02  # seconds between two


@pytest.fixture
def mutated(system: System) -> Iterator[System]:
    """A running system whose task `hook` is written to fifty times a second: renamed into place, or overwritten in the middle."""
    write_hook(system, 0)
    system.write_config("retention: {bundles: 100000}\n")
    system.up()
    system.object(Task, HOOK, lambda task: task.digest)
    end = threading.Event()

    def write() -> None:
        text = system.tasks / HOOK / "text"
        number = 0
        while not end.wait(WRITES):
            number += 1
            if number % 3 == 0:
                write_hook(system, number)
                continue
            with open(text, "r+b", buffering=0) as file:  # as rsync --inplace does
                os.pwrite(file.fileno(), f"{number:06d}".encode(), number * 13 % 1000)

    writer = threading.Thread(target=write)
    writer.start()
    yield system
    end.set()
    writer.join()


def test_executed_bytes_equal_hash(mutated: System) -> None:
    asked: list[str] = []
    for number in range(RUNS):
        run = Run(id="", task=HOOK, unique=f"{HOOK} {number}", trigger=RunTrigger("manual", key="test"))
        asked.append(mutated.ask(Enqueue(run=run), Enqueued).run)
        if number % 5 == 4:  # a few at once, spread over many saves
            mutated.object(Run, asked[-1], lambda run: run.finished)

    def ended() -> list[Run]:
        runs = mutated.objects(Run)
        assert all(runs[id].finished for id in asked)
        return [runs[id] for id in asked]

    runs = wait_for(ended, "all have ended")
    assert {run.status for run in runs} == {"succeeded"}, [run.error for run in runs if run.error][:3]
    assert validators.what_ran_is_what_was_hashed(mutated) == RUNS
    digests = {run.digest for run in runs}
    assert len(digests) > 1, "nothing was ever saved"
    assert len({json.loads(run.result.value) for run in runs if run.result}) == len(digests)
