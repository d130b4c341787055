"""The wall clock is set while real roles run: hours forward and back, a month, to 1970. Every role sees it step; nothing else is pretended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.support.trigger_desk import Desk
from tests.support.waiting import wait_for

from dicode.messages.kinds import Event, Run, Schedule
from dicode.messages.task import Trigger
from dicode.spec.schedule import CATCH_UP_MAX

pytestmark = pytest.mark.process

HOUR, DAY = 3_600_000, 86_400_000
NOON = 1_800_014_400_000  # 2027-01-15T12:00:00Z
START = NOON + HOUR // 2  # half an hour from any full one: the hour of the real day does not matter
SHIM = """\
import os, time
real_ns, file = time.time_ns, os.environ["CLOCK_OFFSET"]
def stepped_ns():
    with open(file) as offset:
        return real_ns() + int(offset.read()) * 1_000_000
time.time_ns, time.time = stepped_ns, lambda: stepped_ns() / 1e9
"""
POLICIES = ("none", "last", "all")


class Clock:
    """The wall clock of processes that start with its environment. The monotonic one goes on as it does."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "offset"
        (folder / "sitecustomize.py").write_text(SHIM)
        self.environ = {"PYTHONPATH": str(folder), "CLOCK_OFFSET": str(self._file), "TZ": "UTC"}

    def set(self, to: int) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(to - time.time_ns() // 1_000_000))
        fresh.replace(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    clock = Clock(tmp_path)
    clock.set(START)
    return clock


@pytest.fixture
def desk(tmp_path: Path, clock: Clock) -> Iterator[Desk]:
    desk = Desk(tmp_path, clock.environ)
    desk.start("store", "trigger-engine")
    desk.configure()
    for policy in POLICIES:
        desk.register(policy, Trigger(cron="0 * * * *", catch_up=policy))  # type: ignore[arg-type]  # its three values
    desk.register("second", Trigger(cron="@every 1s", catch_up="all"))
    wait_for(lambda: len(slots(desk, "second")) > 1 and all(desk.get(Schedule, policy) for policy in POLICIES), "every schedule is kept")
    yield desk
    desk.close()


def slots(desk: Desk, task: str) -> list[int]:
    """The slots that were fired, one each run. Fails when one was fired twice."""
    fired = [int(run.trigger.key) for run in desk.all(Run) if run.task == task]
    assert len(fired) == len(set(fired)), "fired twice"
    return sorted(fired)


def hourly(desk: Desk) -> dict[str, list[int]]:
    return {policy: slots(desk, policy) for policy in POLICIES}


def lives_at(desk: Desk, at: int, name: str) -> None:
    """Wait until a schedule that was made after the step has fired there: the engine has looked at the new time."""
    desk.register(name, Trigger(cron="@every 1s"))
    wait_for(lambda: [slot for slot in slots(desk, name) if at <= slot < at + HOUR // 2], f"{name} fires")
    wait_for(lambda: all((kept := desk.get(Schedule, policy)) and kept.next > at for policy in POLICIES), "every schedule looks ahead")


def told(desk: Desk, reason: str, task: str) -> list[str]:
    return [event.message for event in desk.all(Event) if (event.reason, event.object) == (reason, f"task/{task}")]


def test_however_the_clock_is_set_no_slot_is_fired_twice_and_the_missed_ones_by_policy(desk: Desk, clock: Clock) -> None:
    engine = psutil.Process(desk.role_pid("trigger-engine"))
    began, spent = time.monotonic(), sum(engine.cpu_times()[:2])

    clock.set(START + HOUR)
    wait_for(lambda: len(slots(desk, "all")) == 1, "an hour forward: what was missed is caught up with")
    lives_at(desk, START + HOUR, "forward")
    assert hourly(desk) == {"none": [], "last": [NOON + HOUR], "all": [NOON + HOUR]}
    assert told(desk, "Missed", "none") == ["1 slot missed, 0 fired (catch_up: none)"]

    before = slots(desk, "second")
    clock.set(START)
    lives_at(desk, START, "back")
    assert hourly(desk) == {"none": [], "last": [NOON + HOUR], "all": [NOON + HOUR]}
    assert slots(desk, "second")[-1] < START + 2 * HOUR and not [slot for slot in slots(desk, "second") if slot not in before and slot < before[-1]]

    clock.set(START + 2 * HOUR)
    wait_for(lambda: len(slots(desk, "all")) == 2, "what was fired before the clock was put back is not fired again")
    lives_at(desk, START + 2 * HOUR, "again")
    assert hourly(desk) == {"none": [], "last": [NOON + HOUR, NOON + 2 * HOUR], "all": [NOON + HOUR, NOON + 2 * HOUR]}

    month = START + 30 * DAY
    seconds = len(slots(desk, "second"))
    clock.set(month)
    lives_at(desk, month, "month")
    wait_for(lambda: len(slots(desk, "second")) > seconds + CATCH_UP_MAX, "a month forward: the newest of each are caught up with")
    of_the_day = [month - HOUR // 2 - HOUR * number for number in reversed(range(24))]
    after = {"none": [], "last": [NOON + HOUR, NOON + 2 * HOUR, of_the_day[-1]], "all": [NOON + HOUR, NOON + 2 * HOUR, *of_the_day]}
    assert hourly(desk) == after
    assert told(desk, "Missed", "second")[-1].startswith("at least ")

    epoch = HOUR // 2
    clock.set(epoch)
    lives_at(desk, epoch, "epoch")
    wait_for(lambda: all(told(desk, "ClockStepped", policy) for policy in POLICIES), "back to 1970: the schedules go on from there")
    assert hourly(desk) == after and slots(desk, "second")[0] < HOUR

    clock.set(month + HOUR // 4)
    lives_at(desk, month + HOUR // 4, "home")
    assert hourly(desk) == after, "and when it is right again, nothing is fired a second time"

    elapsed, spent = time.monotonic() - began, sum(engine.cpu_times()[:2]) - spent
    assert engine.is_running() and desk.role_pid("trigger-engine") == engine.pid, "one process through all of it"
    assert spent < elapsed / 2, "it does not spin"
    assert len(desk.all(Run)) < 4 * CATCH_UP_MAX + 10 * elapsed, "nor counts through a month of seconds"
