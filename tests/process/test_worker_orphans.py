"""Processes of runs whose worker, shepherd or both were killed: nothing of a run outlives the lease it was started under."""

from __future__ import annotations

import os
import signal

import pytest
from tests.support import processes
from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.commands import Enqueue, Enqueued
from dicode.messages.kinds import Run, RunTrigger, Task, Worker

pytestmark = pytest.mark.process
HIDES = 'setsid sleep 1000 & echo $! $PPID > "$DICODE_STATE_DIR/pids.new"; mv "$DICODE_STATE_DIR/pids.new" "$DICODE_STATE_DIR/pids"; wait\n'
YAML = "name: hides\nruntime: shell\ntrigger: {manual: true}\n"


def begun(system: System, id: str = "hides", labels: str = "") -> tuple[Run, int, int]:
    """A run that has left a child in a session of its own: the run, that child, and the shepherd of both."""
    system.write_task(id, YAML + labels, task_sh=HIDES)
    system.object(Task, id, lambda task: task.digest)
    run = system.ask(Enqueue(run=Run(id="", task=id, unique=id, trigger=RunTrigger("manual", key="test"))), Enqueued).run
    pids = system.data / "state" / id / "pids"
    wait_for(pids.exists, "it has begun")
    hidden, shepherd = map(int, pids.read_text().split())
    return system.object(Run, run, lambda run: run.status == "running"), hidden, shepherd


def test_what_a_killed_shepherd_leaves_is_ended_by_its_worker(system: System) -> None:
    system.up()
    run, hidden, shepherd = begun(system)
    os.kill(shepherd, signal.SIGKILL)
    wait_for(lambda: not processes.lives(hidden), "nothing is left of the run")
    assert system.object(Run, run.id, lambda run: run.finished).status == "lost"


def test_what_a_worker_and_a_shepherd_leave_that_die_together_is_ended_by_the_next_worker(system: System) -> None:
    up = system.up()
    run, hidden, shepherd = begun(system)
    worker = system.pid(up, "worker")
    die_together(worker, shepherd)
    system.replaced(up, "worker", worker)
    wait_for(lambda: not processes.lives(hidden), "nothing is left of the run")
    system.hears("worker-1: killed")
    assert system.object(Run, run.id, lambda run: run.finished).status == "lost"


def test_what_a_worker_left_whose_name_nobody_takes_again_is_ended_too_and_who_lives_is_spared(system: System) -> None:
    for role in ("store", "source-controller", "reconciler"):
        system.start(role)
    first = system.start("worker")
    wait_for(lambda: system.objects(Worker), "a worker is there")
    second = system.start("worker", "--labels", "second")
    wait_for(lambda: len(system.objects(Worker)) == 2, "two workers are there")
    run, hidden, shepherd = begun(system, labels="run_on: [second]\n")
    assert run.worker == "worker-2"
    third = system.start("worker")
    wait_for(lambda: len(system.objects(Worker)) == 3, "three workers are there")
    assert processes.lives(hidden) and processes.lives(shepherd)

    killed = [child.pid for keeper in (first, second, third) for child in processes.descendants(keeper.pid) if child.pid != hidden]
    die_together(first.pid, second.pid, third.pid, *killed)
    wait_for(lambda: not any(processes.lives(pid) for pid in killed), "they are dead")
    assert processes.lives(hidden)
    system.start("worker")
    system.hears("worker-1: killed 1 processes a former worker had left")
    wait_for(lambda: not processes.lives(hidden), "nothing is left of the run")


def die_together(*pids: int) -> None:
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            processes.kill(pid, number)
