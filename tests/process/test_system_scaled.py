"""Under a Procfile manager workers are scaled by number, and share one queue."""

from __future__ import annotations

from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.commands import Enqueue, Enqueued
from dicode.messages.kinds import ENDED, Run, RunTrigger, Task, Worker

RUNS = 24
YAML = "name: Slow\ntrigger: {manual: true}\n"
SCRIPT = '#!/bin/sh\nsleep 0.3\necho "$DICODE_RUN_ID" >> "$DICODE_STATE_DIR/ran"\n'


def ended(system: System) -> list[Run]:
    return [run for run in system.objects(Run).values() if run.status in ENDED]


def test_four_workers_share_the_queue_and_no_run_is_done_twice(system: System) -> None:
    system.write_task("slow", YAML, task_sh=SCRIPT)
    honcho = system.honcho("-c", "worker=4")
    wait_for(lambda: len(system.objects(Worker)) == 4, "four workers are there")
    system.object(Task, "slow", lambda task: task.digest)
    for number in range(RUNS):
        run = Run(id=f"{number:026d}", task="slow", unique=f"slow|{number}", trigger=RunTrigger("manual", key=str(number)))
        system.ask(Enqueue(run=run), Enqueued)
    wait_for(lambda: len(ended(system)) == RUNS, "every run has ended")
    runs = ended(system)
    assert {run.status for run in runs} == {"succeeded"} and {run.attempt for run in runs} == {1}
    assert len({run.worker for run in runs}) >= 2
    ran = (system.data / "state" / "slow" / "ran").read_text().split()
    assert sorted(ran) == sorted(run.id for run in runs)
    system.stop(honcho)
    system.nothing_left()
