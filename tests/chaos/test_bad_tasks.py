"""Row 36 and the abuse list against the running system: who writes nonsense hurts himself alone, and is told where it is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest
from tests.chaos import abuse, validators
from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.kinds import Schedule, Task

pytestmark = pytest.mark.process
ON_TIME = 50.0  # seconds: five times row 36's bound
GROWTH = 32 << 20  # bytes a role may grow by
PLACE = re.compile(r"\S*/(task\.yaml|task\.sh):\d+:\d+: \S")


def test_200_bad_tasks_5_bombs_1_good(system: System) -> None:
    up = system.up()
    system.write_task("before", 'name: before\nruntime: shell\ntrigger: {cron: "@every 1s", catch_up: all}\n', task_sh="true\n")
    system.object(Schedule, "before", lambda schedule: schedule.last)
    pids = system.pids(up)
    sizes = {pid: psutil.Process(pid).memory_info().rss for found in pids.values() for pid in found}

    bad = abuse.write_all(system.tasks, 200)
    system.write_task("good", "name: good\nruntime: shell\ntrigger: {manual: true}\n", task_sh="echo I am well\n")
    system.object(Task, "good", lambda task: task.sync == "Synced" and task.digest, ON_TIME)
    done = system.run("run", "good")
    assert (done.returncode, done.stdout) == (0, "I am well\n")

    wait_for(lambda: not system.objects(Task).keys() ^ {*bad, "good", "before"}, "each bad task is there", ON_TIME)
    tasks = system.objects(Task)
    untold = {id: refusal for id in bad if not PLACE.match(refusal := validators.refusal(tasks[id]))}
    assert not untold, untold
    assert system.pids(up) == pids
    grown = {pid: size - sizes[pid] for pid in sizes if (size := psutil.Process(pid).memory_info().rss) > sizes[pid] + GROWTH}
    assert not grown, grown
    assert not Path("/tmp/dicode-was-here").exists()

    shown = {each["id"]: each for each in system.get("tasks")}
    assert shown.keys() == tasks.keys()
    described = system.run("describe", "task", "a17-unknown-0")
    assert "unknown field 'scedule'" in described.stdout


def test_what_was_bad_is_good_after_a_save(system: System) -> None:
    """Whatever a folder has been through, good files make it a good task."""
    system.up()
    for id, make in abuse.TASKS.items():
        (system.tasks / id).mkdir()
        make(system.tasks / id)
    system.write_task("good", abuse.GOOD, task_sh="true\n")
    system.object(Task, "good", lambda task: task.digest)
    for id in abuse.TASKS:
        folder = system.tasks / id
        for name in ("task.yaml", "task.sh"):
            (folder / name).rmdir() if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
        system.write_task(id, abuse.GOOD, task_sh="true\n")
    wait_for(lambda: _all_good(system), "all are good", ON_TIME)


def _all_good(system: System) -> bool:
    tasks = system.objects(Task)
    assert len(tasks) == len(abuse.TASKS) + 1
    bad = {id: validators.refusal(task) for id, task in tasks.items() if not task.digest or task.sync != "Synced"}
    assert not bad, bad
    return True
