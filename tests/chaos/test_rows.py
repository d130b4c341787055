"""The fault matrix of RELIABILITY 3.1, row by row: the whole system under load, one fault, then everything must be true again.

CI breaks little of it, `make soak` as often as the matrix says. Bounds count from the last fault; CI has five times as long.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.chaos import validators
from tests.chaos.load import EDITED, HOOK, SOAK, Load, daemon_script, daemon_yaml, seeded, write_hook
from tests.support import processes
from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.commands import Enqueue, Enqueued, Finish, Finished, WriteAll, WroteAll
from dicode.messages.kinds import Run, RunTrigger, Schedule, Source, Task
from dicode.messages.task import TaskSpec, Trigger
from dicode.process.clock import wall_ms
from dicode.process.mirror import put

pytestmark = [pytest.mark.process, pytest.mark.timeout(900 if SOAK else 60)]
SLACK = 1 if SOAK else 5  # times the bound of the matrix


def times(soak: int, ci: int = 3) -> int:
    return soak if SOAK else ci


@pytest.fixture
def load(system: System) -> Load:
    return Load(system)


def kill_often(load: Load, up: subprocess.Popen[bytes], role: str, count: int, dice: random.Random) -> None:
    """Each time at another moment, and only when the one before has been replaced."""
    for _ in range(count):
        load.after_more(dice.randint(4, 14))
        pid = load.system.kill(up, role)
        load.system.replaced(up, role, pid)


# ── rows 1 to 6: one role dies ──


@pytest.mark.parametrize(
    ("role", "count", "bound"),
    [
        pytest.param("store", times(10), 3, id="row 1: store"),
        pytest.param("reconciler", times(10), 3, id="row 2: reconciler"),
        pytest.param("source-controller", times(10), 5, id="row 3: source-controller"),
        pytest.param("supervisor", times(20), 3, id="row 5: supervisor"),
        pytest.param("worker", times(10), 10, id="row 6: worker"),
    ],
)
def test_a_role_that_is_killed_under_load_loses_and_doubles_nothing(system: System, load: Load, role: str, count: int, bound: int) -> None:
    up = system.up()
    pids = load.settled()
    with load.running():
        kill_often(load, up, role, count, seeded(role))
        load.after_more(3)
    validators.all_hold(system, load.client.accepted, bound * SLACK)
    assert load.steady() == pids  # nobody edited them, so nobody touched them
    assert (load.client.refused, load.client.given_up) == (0, [])


def test_row_3_a_bundle_is_whole_or_not_there_when_its_writer_dies_in_the_middle(system: System, load: Load) -> None:
    up = system.up()
    load.settled()
    bundles = system.data / "bundles"
    for number in range(10, 10 + times(10)):  # numbers of one length: some MB, so reading and writing it takes a while
        there = set(os.listdir(bundles))
        pid = system.pid(up, "source-controller")
        write_hook(system, number, weight=4_000_000)
        until = time.monotonic() + 20
        while set(os.listdir(bundles)) == there and time.monotonic() < until:
            pass  # a bundle is written in some milliseconds: no time to wait in
        os.kill(pid, signal.SIGKILL)
        system.replaced(up, "source-controller", pid)
        system.object(Task, HOOK, lambda task: task.spec and task.spec.description == f"save {number}")
    validators.converged(system, 5 * SLACK)
    validators.store_is_sound(system)
    wait_for(lambda: not list(bundles.glob(".*")), "what was left half-written is swept")


def test_row_4_a_trigger_engine_killed_at_the_edges_of_slots_fires_each_once(system: System, load: Load) -> None:
    up = system.up()
    pids = load.settled()
    dice = seeded("row 4")
    with load.running():
        for _ in range(times(20)):
            edge = dice.randint(-20, 30)  # ms from the slot
            wait_for(lambda: (wall_ms() - edge) % 1_000 < 15, "the edge of a slot")
            pid = system.kill(up, "trigger-engine")
            system.replaced(up, "trigger-engine", pid)
            load.after_more(2)
    validators.all_hold(system, load.client.accepted, 2 * SLACK)
    assert load.steady() == pids
    assert (load.client.refused, load.client.given_up) == (0, [])


def test_row_6_a_run_whose_worker_died_is_lost_or_retried_and_its_late_result_refused(system: System, load: Load) -> None:
    first_hangs = 'test -e "$DICODE_STATE_DIR/once" && exit 0; touch "$DICODE_STATE_DIR/once"; exec sleep 1000\n'
    system.write_task("plain", "name: plain\nruntime: shell\ntrigger: {manual: true}\n", task_sh=first_hangs)
    system.write_task(
        "retried", "name: retried\nruntime: shell\ntrigger: {manual: true}\nretry: {attempts: 1, backoff: 100ms}\n", task_sh=first_hangs
    )
    up = system.up()
    load.settled()
    held = {id: started(system, id) for id in ("plain", "retried")}
    system.kill(up, "worker")
    lost = system.object(Run, held["plain"].id, lambda run: run.status == "lost", deadline=10 * SLACK)
    again = system.object(Run, held["retried"].id, lambda run: run.status == "succeeded", deadline=10 * SLACK)
    assert (lost.attempt, again.attempt) == (1, 2)
    for run in held.values():
        late = system.ask(Finish(run=run.id, fence=run.fence, status="succeeded", exit_code=0), Finished)
        assert late.fenced
    assert system.reader().get(Run, lost.id) == lost
    validators.converged(system, 10 * SLACK)
    validators.every_slot_is_explained(system)
    validators.no_process_of_an_ended_run(system)


def started(system: System, id: str) -> Run:
    """A run of this task, when its script has begun."""
    system.object(Task, id, lambda task: task.digest)
    asked = system.ask(Enqueue(run=Run(id="", task=id, unique=f"{id} once", trigger=RunTrigger("manual", key="test"))), Enqueued)
    wait_for(lambda: list((system.data / "state").rglob(f"*{id}*/once")), f"{id} has begun")
    return system.object(Run, asked.run, lambda run: run.status == "running")


# ── rows 7 and 8: all of them die ──


def test_row_7_all_roles_die_at_once_and_come_back(system: System, load: Load) -> None:
    up = system.up()
    pids = load.settled()
    dice = seeded("row 7")
    with load.running():
        for _ in range(times(10)):
            load.after_more(dice.randint(4, 14))
            before = {role: found[0] for role, found in system.pids(up).items()}
            for pid in dice.sample(sorted(before.values()), len(before)):
                os.kill(pid, signal.SIGKILL)
            for role, pid in before.items():
                system.replaced(up, role, pid)
        load.after_more(3)
    validators.all_hold(system, load.client.accepted, 8 * SLACK)
    assert load.steady() == pids
    assert (load.client.refused, load.client.given_up) == (0, [])


def test_row_7_the_keeper_dies_with_its_roles_and_the_next_start_finds_everything(system: System, load: Load) -> None:
    up = system.up()
    pids = load.settled()
    with load.running():
        load.after_more(5)
        processes.kill(up.pid, signal.SIGSTOP)  # at once: a role that sees its keeper die would stop in order, and its daemons with it
        for pid in [*(pid for found in system.pids(up).values() for pid in found), up.pid]:
            processes.kill(pid)
        up.wait(5)
        system.up()
        load.after_more(3)
    validators.all_hold(system, load.client.accepted, 8 * SLACK)
    assert load.steady() == pids  # adopted, though nobody was there who knew them
    assert load.client.given_up == []


def test_row_8_a_killed_procfile_manager_leaves_one_set_of_roles_and_a_second_is_refused(system: System, load: Load) -> None:
    honcho = system.honcho()
    pids = load.settled()
    keepers = wait_for(lambda: _keepers(honcho, 6), "six keepers")
    with load.running():
        load.after_more(3)
        honcho.kill()
        honcho.wait(5)
        assert system.honcho().wait(20) == 75
        load.after_more(3)  # the first set works on
    assert _roles(system) == dict.fromkeys(keepers, 1)
    validators.all_hold(system, load.client.accepted, 5 * SLACK)
    assert load.steady() == pids
    assert (load.client.refused, load.client.given_up) == (0, [])
    for pid in keepers.values():
        os.kill(pid, signal.SIGTERM)
    system.nothing_left()
    third = system.honcho()
    wait_for(lambda: _keepers(third, 6), "six keepers again")
    validators.converged(system, 5 * SLACK)


def _keepers(honcho: subprocess.Popen[bytes], count: int) -> dict[str, int]:
    """Role → its keeper, once there are so many and each has a role that works."""
    found = {}
    for process in processes.descendants(honcho.pid):
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if len(words) > 2 and words[1].endswith("/dicode") and processes.role_pids(process.pid):
                found[words[2]] = process.pid
    return found if len(found) == count else {}


def _roles(system: System) -> dict[str, int]:
    """Role → how many keepers of this installation have one."""
    found: dict[str, int] = {}
    for process in system.left():
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[1:2] == [str(Path(process.cmdline()[0]).with_name("dicode"))]:
                for role, pids in processes.role_pids(process.pid).items():
                    found[role] = found.get(role, 0) + len(pids)
    return found


# ── row 11: one that does not listen ──

JUNK = 300  # keys
BURST = 500  # writes in one go


def test_row_11_who_slept_through_thousands_of_changes_has_missed_none_of_them(system: System, load: Load) -> None:
    up = system.up()
    pids = load.settled()
    sleeping = [system.pid(up, role) for role in ("reconciler", "trigger-engine", "supervisor")]
    awake = threading.Event()
    waker = threading.Timer(8.0 if SOAK else 3.0, awake.set)  # less than the watchdog's ten
    for pid in sleeping:
        os.kill(pid, signal.SIGSTOP)
    waker.start()
    written = 0
    began = time.monotonic()
    while not awake.is_set():
        ops = tuple((put(_junk((written + n) % JUNK, written + n), f"junk-{(written + n) % JUNK}"),) for n in range(BURST))
        system.ask(WriteAll(writes=ops), WroteAll)
        written += BURST
    print(f"{written} changes in {time.monotonic() - began:.1f} s")
    for pid in sleeping:
        os.kill(pid, signal.SIGCONT)
    # No source wants any of them, so the reconciler removes all, and the trigger-engine, should it have met some, forgets them.
    wait_for(lambda: not _junks(system), "what nobody wants is gone", 2 * SLACK + 10)
    validators.converged(system, 2 * SLACK)
    assert load.steady() == pids
    assert [system.pid(up, role) for role in ("reconciler", "trigger-engine", "supervisor")] == sleeping


def _junk(key: int, number: int) -> Task:
    spec = TaskSpec(name=f"junk {number}", trigger=Trigger(cron="@yearly"))
    return Task(id=f"junk-{key}", source="nobody", digest=f"{number:064x}", process="0" * 64, spec=spec, runtime="shell", generation=number + 1)


def _junks(system: System) -> list[str]:
    return [key for kind in (Task, Schedule) for key in system.objects(kind) if key.startswith("junk-")]


# ── rows 23 and 24: files that come and go without a word ──


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_row_23_more_events_than_the_kernel_keeps_lose_no_save(system: System, load: Load) -> None:
    up = system.up()
    pids = load.settled()
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with stopped(system.pid(up, "source-controller")):
        noise = system.tasks / HOOK / "noise"
        for number in range(most // 3 + 1000):  # at least three events each: made, closed, moved away
            noise.with_name(f"noise-{number % 2}").write_bytes(b"x")
            noise.with_name(f"noise-{number % 2}").rename(noise)
        noise.unlink()
        system.write_task("late", "name: late\nruntime: shell\ntrigger: {manual: true}\n", task_sh="echo late\n")
        system.write_task(EDITED, daemon_yaml(EDITED), task_sh=daemon_script(7))
    validators.converged(system, (2 + 2) * SLACK)
    assert load.steady() == pids


def test_row_23_with_too_few_watches_saves_are_found_by_looking(system: System, load: Load) -> None:
    few = ["unshare", "--user", "--map-root-user", "sh", "-c", "echo 8 > /proc/sys/user/max_inotify_watches"]
    if subprocess.run(few, capture_output=True).returncode:
        pytest.skip("this machine gives nobody a user namespace")
    for number in range(12):
        system.write_task(f"many-{number}", "name: many\nruntime: shell\ntrigger: {manual: true}\n", task_sh="echo 1\n")
    system.start_program([*few[:-1], f"{few[-1]}; exec dicode up"])
    load.settled()
    system.object(Source, "tasks", lambda source: any(condition.type == "WatchLimit" for condition in source.conditions))
    for number in range(12):
        system.write_task(f"many-{number}", "name: many\nruntime: shell\ntrigger: {manual: true}\n", task_sh="echo 2\n")
    validators.converged(system, (2 + 2) * SLACK)


def gone(system: System) -> None:
    system.tasks.rename(system.home / "away")


def swapped(system: System) -> None:
    """Another folder of the same name, with the same in it."""
    system.tasks.rename(system.home / "away")
    shutil.copytree(system.home / "away", system.tasks, symlinks=True)


def emptied(system: System) -> None:
    (system.home / "away").mkdir()
    for folder in system.tasks.iterdir():
        folder.rename(system.home / "away" / folder.name)


def forbidden(system: System) -> None:
    """To root nothing is: for root it is a folder as before."""
    system.tasks.chmod(0)


def made_a_file(system: System) -> None:
    system.tasks.rename(system.home / "away")
    system.tasks.write_text("not a folder\n")


def put_back(system: System) -> None:
    if system.tasks.is_file():
        system.tasks.unlink()
    elif system.tasks.exists():
        system.tasks.chmod(0o755)
    if (system.home / "away").exists():
        if system.tasks.exists():
            shutil.rmtree(system.tasks)
        (system.home / "away").rename(system.tasks)


@pytest.mark.parametrize("fault", [gone, swapped, emptied, forbidden, made_a_file])
def test_rows_23_and_24_a_source_that_is_taken_away_costs_no_task_and_its_return_is_noticed(
    system: System, load: Load, fault: Callable[[System], None]
) -> None:
    up = system.up()
    pids = load.settled()
    before = set(system.objects(Task))
    began = wall_ms()
    fault(system)
    if fault in (gone, made_a_file):
        system.object(Source, "tasks", lambda source: source.status == "stale")
    elif fault is emptied:
        system.object(Source, "tasks", lambda source: source.status == "held")
    wait_for(lambda: system.objects(Schedule)["cron-all"].last > began + 4_000, "two rescans later")
    assert set(system.objects(Task)) == before
    assert load.steady() == pids
    put_back(system)
    system.write_task(EDITED, daemon_yaml(EDITED), task_sh=daemon_script(9))
    validators.converged(system, (2 + 5) * SLACK)
    system.object(Source, "tasks", lambda source: source.status == "ok")
    assert load.steady() == pids
    assert up.poll() is None
    validators.every_slot_is_explained(system)
