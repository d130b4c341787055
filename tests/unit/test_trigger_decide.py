"""What follows from a registered task: schedules, fires, routes, ready."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from dicode.messages.kinds import Condition, Config, ConfigSource, DesiredTask, Route, Schedule, Source, Task
from dicode.messages.task import TaskSpec, Trigger
from dicode.spec.runs import run_id
from dicode.spec.template import Expanded, expand
from dicode.trigger.decide import RATE, SPREAD, TOGETHER, Bound, Hook, all_read, cron_run, hook_of, route_of, settled, tick, turn
from dicode.trigger.state import Hooks

MINUTE = 60_000
NOON = 1_800_014_400_000


def cron_task(cron: str = "* * * * *", *, digest: str = "d1", suspended: bool = False, **trigger: Any) -> Task:
    return Task(id="t", source="s", digest=digest, suspended=suspended, spec=TaskSpec(name="t", trigger=Trigger(cron=cron, **trigger)))


def scheduled(task: Task, now: int = NOON) -> Schedule:
    found = tick(task, None, now, "UTC").schedule
    assert found is not None
    return found


def test_a_new_schedule_starts_now_and_fires_nothing() -> None:
    found = tick(cron_task(), None, NOON + 5, "UTC")
    assert found.runs == ()
    assert found.schedule == Schedule(task="t", digest="d1", expression="* * * * * UTC run_after once", last=NOON + 5, next=NOON + MINUTE)


def test_a_slot_is_fired_under_the_same_keys_however_often_it_is_decided() -> None:
    known = scheduled(cron_task())
    once, again = (tick(cron_task(), known, NOON + MINUTE + late, "UTC") for late in (0, 900))
    assert [run.id for run in once.runs] == [run.id for run in again.runs] == [run_id("t", "cron", str(NOON + MINUTE))]
    assert once.runs[0].unique == f"t|cron|{NOON + MINUTE}" and len(once.runs[0].id) == 26
    assert once.schedule is not None and once.schedule.last == NOON + MINUTE and once.schedule.next == NOON + 2 * MINUTE
    assert tick(cron_task(), once.schedule, NOON + MINUTE + 900, "UTC") == tick(cron_task(), once.schedule, NOON + MINUTE, "UTC")
    assert tick(cron_task(), once.schedule, NOON + MINUTE + 900, "UTC").runs == ()


def test_doing_what_was_decided_leaves_nothing_to_do() -> None:
    known = scheduled(cron_task())
    for now in (NOON + 1, NOON + MINUTE, NOON + 100 * MINUTE):
        after = tick(cron_task(), known, now, "UTC").schedule or known
        assert tick(cron_task(), after, now, "UTC") == tick(cron_task(), after, now + 1, "UTC")
        assert tick(cron_task(), after, now, "UTC").schedule is None


def test_a_reload_near_the_minute_loses_no_tick() -> None:
    known = scheduled(cron_task())
    found = tick(cron_task(digest="d2"), known, NOON + MINUTE, "UTC")
    assert len(found.runs) == 1 and found.schedule is not None and found.schedule.digest == "d2"
    only_digest = tick(cron_task(digest="d2"), known, NOON + 1, "UTC").schedule
    assert only_digest == replace(known, digest="d2")


def test_a_reload_storm_does_not_move_the_phase_of_every() -> None:
    known = scheduled(cron_task("@every 3s"))
    fired = 0
    for number in range(1, 31):
        now = NOON + number * 700
        found = tick(cron_task("@every 3s", digest=f"d{number}"), known, now, "UTC")
        fired += len(found.runs)
        known = found.schedule or known
    assert fired == 30 * 700 // 3000


@pytest.mark.parametrize("changed", [cron_task("*/2 * * * *"), cron_task(timezone="Asia/Tokyo")])
def test_another_expression_starts_at_the_moment_of_the_change(changed: Task) -> None:
    known = scheduled(cron_task())
    found = tick(changed, known, NOON + 10 * MINUTE + 1, "UTC")
    assert found.runs == () and found.schedule is not None and found.schedule.last == NOON + 10 * MINUTE + 1


def test_missed_slots_are_told_with_the_policy() -> None:
    found = tick(cron_task(catch_up="none"), scheduled(cron_task()), NOON + 3 * MINUTE + 30_000, "UTC")
    assert found.runs == () and found.event is not None
    assert found.event.reason == "Missed" and found.event.message == "3 slots missed, 0 fired (catch_up: none)"


def test_slots_of_a_suspended_task_are_skipped_and_stay_skipped() -> None:
    known = scheduled(cron_task())
    found = tick(cron_task(suspended=True), known, NOON + 2 * MINUTE, "UTC")
    assert found.runs == () and found.event is not None and found.event.reason == "Skipped"
    assert found.schedule is not None and found.schedule.suspended
    assert tick(cron_task(), found.schedule, NOON + 2 * MINUTE + 10, "UTC").runs == ()


def test_a_clock_that_was_years_ahead_starts_the_schedule_anew() -> None:
    found = tick(cron_task(), scheduled(cron_task(), NOON * 2), NOON, "UTC")
    assert found.schedule is not None and found.schedule.last == NOON and found.schedule.next == NOON + MINUTE
    assert found.runs == () and found.event is not None and found.event.reason == "ClockStepped"


def test_a_clock_that_steps_back_an_hour_fires_nothing_again() -> None:
    known = scheduled(cron_task())
    for now in range(NOON - 60 * MINUTE, NOON + 1, 7 * MINUTE):
        assert tick(cron_task(), known, now, "UTC").runs == ()


def test_a_zone_this_machine_does_not_know_is_a_condition() -> None:
    found = tick(cron_task(timezone="Mars/Base"), None, NOON, "UTC")
    assert found.schedule is not None and found.schedule.digest == "d1" and found.schedule.next == 0
    assert [condition.type for condition in found.schedule.conditions] == ["Failed"]


def test_jitter_moves_next_and_keeps_the_slot() -> None:
    task = cron_task(jitter=50_000)
    known = scheduled(task)
    assert NOON + MINUTE < known.next < NOON + MINUTE + 50_000
    assert tick(task, known, known.next - 1, "UTC").runs == ()
    assert tick(task, known, known.next, "UTC").runs == (cron_run("t", NOON + MINUTE),)


# --- hooks

HERE, WORLD = Bound("http://127.0.0.1:8080"), Bound("http://0.0.0.0:8080", loopback=False)


def hook_task(**trigger: Any) -> Task:
    return Task(id="t", source="s", digest="d1", generation=3, spec=TaskSpec(name="t", trigger=Trigger(webhook="/hooks/x", **trigger)))


def expanded(text: str) -> Expanded:
    return expand(text, {"KNOWN": "s3cret", "EMPTY": ""})


def test_an_open_hook_is_served_on_loopback_only() -> None:
    assert isinstance(hook_of(hook_task(), HERE, expanded), Hook)
    refusal = hook_of(hook_task(), WORLD, expanded)
    assert isinstance(refusal, Condition) and refusal.type == "OpenHook"
    assert isinstance(hook_of(hook_task(auth=False), WORLD, expanded), Hook)
    assert isinstance(hook_of(hook_task(webhook_secret="x"), WORLD, expanded), Hook)


def test_a_secret_is_expanded_where_it_is_used() -> None:
    hook = hook_of(hook_task(webhook_secret="${KNOWN}!"), WORLD, expanded)
    assert isinstance(hook, Hook) and hook.secret == b"s3cret!"


@pytest.mark.parametrize(
    ("trigger", "type"),
    [
        ({"webhook_secret": "${WHO}"}, "BadSecret"),
        ({"webhook_secret": "${EMPTY}"}, "BadSecret"),
        ({"webhook_secret": ""}, "BadSecret"),
        ({"auth": True}, "Failed"),
    ],
)
def test_what_cannot_be_checked_is_not_served(trigger: dict[str, Any], type: str) -> None:
    refusal = hook_of(hook_task(**trigger), HERE, expanded)
    assert isinstance(refusal, Condition) and refusal.type == type
    assert route_of(hook_task(**trigger), None, refusal, HERE, NOON).conditions[0].observed_generation == 3


def test_a_route_reports_the_digest_and_where_it_is() -> None:
    task = hook_task(methods=("post", "GET"))
    route = route_of(task, None, hook_of(task, HERE, expanded), HERE, NOON)
    assert route == Route(task="t", digest="d1", path="/hooks/x", url="http://127.0.0.1:8080/hooks/x", methods=("GET", "POST"))
    elsewhere = route_of(task, route, hook_of(task, HERE, expanded), Bound(why="port in use"), NOON)
    assert elsewhere.url == "" and elsewhere.conditions[0].type == "PortInUse" and elsewhere.conditions[0].since == NOON
    assert route_of(task, elsewhere, hook_of(task, HERE, expanded), Bound(why="port in use"), NOON + 5) == elsewhere


def hook(task: str, path: str) -> Hook:
    return Hook(task, "d", path, frozenset({"POST"}), TaskSpec(name=task, trigger=Trigger(webhook=path)))


def test_the_longest_path_wins_at_segment_borders() -> None:
    hooks = Hooks()
    for name, path in (("a", "/hooks/a"), ("ab", "/hooks/a/b"), ("aa", "/hooks/aa")):
        hooks.serve(hook(name, path))
    found = {
        path: hooks.find(path) for path in ("/hooks/a", "/hooks/a/", "/hooks/a/x.css", "/hooks/a/b/c/d", "/hooks/aa", "/hooks/ab", "/hooks", "/", "")
    }
    assert {path: each and (each.hook.task, each.below) for path, each in found.items()} == {
        "/hooks/a": ("a", ""),
        "/hooks/a/": ("a", ""),
        "/hooks/a/x.css": ("a", "x.css"),
        "/hooks/a/b/c/d": ("ab", "c/d"),
        "/hooks/aa": ("aa", ""),
        "/hooks/ab": None,
        "/hooks": None,
        "/": None,
        "": None,
    }


def test_a_task_has_one_path_and_dropping_it_takes_no_others() -> None:
    hooks = Hooks()
    hooks.serve(hook("a", "/one"))
    hooks.serve(hook("a", "/two"))
    assert hooks.find("/one") is None and len(hooks) == 1
    hooks.serve(hook("b", "/two"))
    hooks.drop("a")
    assert hooks.find("/two") is not None


# --- ready


def admitted(sources: list[Source], desired: list[DesiredTask], tasks: list[Task], config: Config | None = None) -> bool:
    config = config or Config(sources=(ConfigSource(name="s"),))
    known = {task.id: task for task in tasks}
    return all_read(config, {source.name: source for source in sources}) and all(settled(claim, known.get(claim.id)) for claim in desired)


READ = Source(name="s", spec=ConfigSource(name="s"), status="ok")
BAD = Condition("Ready", False, "BadSpec")


def test_ready_waits_for_every_source_and_every_admission() -> None:
    want = DesiredTask(id="t", source="s", digest="d1")
    assert admitted([READ], [want], [cron_task()])
    assert admitted([replace(READ, status="unavailable")], [], [])
    assert not all_read(None, {})
    assert not admitted([], [], [])
    assert not admitted([replace(READ, status="pending")], [], [])
    assert not admitted([READ], [want], [])
    assert not admitted([READ], [want], [cron_task(digest="d0")])


def test_what_is_refused_with_a_reason_does_not_hold_up_ready() -> None:
    want = DesiredTask(id="t", source="s", digest="d1")
    assert admitted([READ], [want], [replace(cron_task(digest="d0"), conditions=(BAD,))])
    assert admitted([READ], [replace(want, digest="")], [replace(cron_task(digest=""), conditions=(BAD,))])


# --- many at once


def test_a_few_that_are_due_together_are_fired_together() -> None:
    assert all(turn(number, TOGETHER, 60_000) == 0 for number in range(TOGETHER))


@pytest.mark.parametrize("count", [TOGETHER + 1, 500, 10_000])
def test_a_herd_is_fired_in_its_order_and_whole_within_the_spread(count: int) -> None:
    turns = [turn(number, count, 3_600_000) for number in range(count)]
    assert turns[0] == 0 and turns == sorted(turns) and turns[-1] <= SPREAD
    assert turns[1] == pytest.approx(1 / RATE if count <= RATE * SPREAD else SPREAD / count)


@pytest.mark.parametrize("period", [-5, 0, 1_000, 60_000])
def test_no_schedule_waits_so_long_that_it_meets_its_next_slot(period: int) -> None:
    assert all(0 <= turn(number, 2_000, period) <= max(period, 0) / 2000 for number in range(2_000))
