"""Schedules under kills, reloads and lost hints: a real store, a real keeper, the real clock."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.trigger_desk import Desk
from tests.support.waiting import wait_for

from dicode.messages.commands import Write, Written
from dicode.messages.kinds import Event, Route, Run, Schedule, Task
from dicode.messages.task import Trigger
from dicode.process.clock import wall_ms
from dicode.process.mirror import delete

pytestmark = pytest.mark.process


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    desk.start("store")
    desk.configure()
    yield desk
    desk.close()


def slots(desk: Desk, task: str) -> list[int]:
    return sorted(int(run.trigger.key) for run in desk.all(Run) if run.task == task)


def test_every_slot_is_fired_exactly_once_however_often_the_engine_is_killed(desk: Desk) -> None:
    desk.start("trigger-engine")
    desk.register("t", Trigger(cron="@every 1s", catch_up="all"))
    for count in (1, 3, 5):
        wait_for(lambda count=count: len(slots(desk, "t")) >= count, f"{count} slots were fired")  # type: ignore[misc]  # bound now
        desk.signal("trigger-engine", signal.SIGKILL)
    wait_for(lambda: len(slots(desk, "t")) >= 7 and "ready: " in desk.said(), "slots are fired after the last kill, and it is ready")
    desk.signal("trigger-engine", signal.SIGKILL)
    wait_for(lambda: len(slots(desk, "t")) >= 10, "slots are fired by one that takes the place of a ready one")
    fired = slots(desk, "t")
    assert fired == list(range(fired[0], fired[-1] + 1, 1000))
    assert desk.said().count("ready: ") == 1


def test_a_reload_storm_loses_no_tick(desk: Desk) -> None:
    desk.start("trigger-engine")
    storm = 0

    def fired(count: int) -> bool:
        nonlocal storm
        storm += 1
        desk.register("t", Trigger(cron="@every 1s"), digest=f"{storm:064x}")
        return len(slots(desk, "t")) >= count

    wait_for(lambda: fired(4), "four slots were fired")
    found = slots(desk, "t")
    assert found == list(range(found[0], found[-1] + 1, 1000)) and storm > 50
    digest = f"{storm:064x}"
    wait_for(lambda: (schedule := desk.get(Schedule, "t")) and schedule.digest == digest, "the schedule carries the newest digest")


def test_what_was_missed_while_down_is_fired_as_the_policy_says(desk: Desk) -> None:
    for policy in ("none", "last", "all"):
        desk.register(policy, Trigger(cron="@every 1s", catch_up=policy))  # type: ignore[arg-type]  # its three values
    desk.start("trigger-engine")
    wait_for(lambda: all(slots(desk, policy) for policy in ("none", "last", "all")), "all have fired")
    engine = desk.role_pid("trigger-engine")
    desk.signal("trigger-engine", signal.SIGSTOP)
    stopped = {policy: slots(desk, policy) for policy in ("none", "last", "all")}
    wait_for(lambda: _seconds_since(stopped["all"][-1]) > 5, "five slots have passed")
    desk.signal("trigger-engine", signal.SIGCONT)
    wait_for(lambda: all(len(slots(desk, policy)) > len(stopped[policy]) for policy in stopped), "all fire again")
    assert desk.role_pid("trigger-engine") == engine
    everything = slots(desk, "all")
    assert everything == list(range(everything[0], everything[-1] + 1, 1000))
    for policy in ("none", "last"):
        found = [slot for slot in slots(desk, policy) if slot > stopped[policy][-1]]
        assert 0 < found[0] - stopped[policy][-1] - 1000  # some were not fired
    assert any(event.reason == "Missed" and event.object == "task/none" for event in desk.all(Event))


def _seconds_since(slot: int) -> float:
    return (wall_ms() - slot) / 1000


def test_slots_of_a_suspended_task_are_skipped_and_said_so(desk: Desk) -> None:
    desk.start("trigger-engine")
    desk.register("t", Trigger(cron="@every 1s"), suspended=True)
    wait_for(lambda: any(event.reason == "Skipped" for event in desk.all(Event)), "a slot was skipped")
    assert slots(desk, "t") == []
    schedule = desk.get(Schedule, "t")
    assert schedule is not None and schedule.suspended and schedule.last > 0


def test_a_removed_task_leaves_no_schedule_and_no_route(desk: Desk) -> None:
    desk.start("trigger-engine")
    desk.register("c", Trigger(cron="0 0 1 1 *"))
    desk.register("h", Trigger(webhook="/hooks/h"))
    wait_for(lambda: desk.get(Schedule, "c") and desk.get(Route, "h"), "both are there")
    desk.register("h", Trigger(cron="0 0 1 1 *"))
    wait_for(lambda: desk.get(Route, "h") is None and desk.get(Schedule, "h"), "a webhook that became a cron has a schedule only")
    desk.wire.ask(Write(ops=(delete(Task, "c"), delete(Task, "h"))), Written)
    wait_for(lambda: desk.get(Schedule, "c") is None and desk.get(Schedule, "h") is None, "both are gone")


def test_with_every_hint_dropped_it_converges_all_the_same(tmp_path: Path) -> None:
    desk = Desk(tmp_path, {"DICODE_TEST_DROP_HINTS": "1"})
    try:
        desk.start("store", "trigger-engine")
        desk.configure()
        desk.register("h", Trigger(webhook="/hooks/h"))
        desk.serves("/hooks/h")
        desk.register("c", Trigger(cron="@every 1s"))
        wait_for(lambda: slots(desk, "c"), "it fires", deadline=5)
    finally:
        desk.close()


def test_five_hundred_due_at_one_moment_are_all_fired_and_each_once(desk: Desk) -> None:
    desk.start("trigger-engine")
    herd = [f"t{number:03}" for number in range(500)]
    for task in herd:
        desk.register(task, Trigger(cron="@every 10s", catch_up="all"))
    wait_for(lambda: len({run.task for run in desk.all(Run)}) == len(herd), "every task was fired", deadline=60)
    for task in herd:
        fired = slots(desk, task)
        assert fired == list(range(fired[0], fired[-1] + 1, 10_000))
