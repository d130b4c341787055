"""Which slots are fired after an absence, a clock that was set, with jitter."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.messages.task import Trigger
from dicode.spec.schedule import CATCH_UP_MAX, ON_TIME, Due, delay_of, due, expression_of, fires, next_fire

HOUR = 3_600_000
NOON = 1_800_014_400_000  # 2027-01-15T12:00:00Z


def decide(catch_up: str | None, cursor: int, now: int, cron: str = "0 * * * *", delay: int = 0) -> Due:
    return due(Trigger(cron=cron, catch_up=catch_up), cursor, now, delay=delay)  # type: ignore[arg-type]


@pytest.mark.parametrize(("catch_up", "fired"), [(None, 1), ("last", 1), ("none", 0), ("all", 3)])
def test_after_three_hours_down_each_policy_fires_its_exact_count(catch_up: str | None, fired: int) -> None:
    found = decide(catch_up, NOON - 3 * HOUR, NOON + 1_800_000)
    slots = (NOON - 2 * HOUR, NOON - HOUR, NOON)
    assert found.fire == slots[3 - fired :]
    assert found.missed == slots[: 3 - fired]
    assert found.cursor == NOON


def test_a_slot_that_is_decided_in_time_is_fired_whatever_the_policy() -> None:
    for catch_up in ("none", "last", "all"):
        assert decide(catch_up, NOON - HOUR, NOON + ON_TIME).fire == (NOON,)
    assert decide("none", NOON - HOUR, NOON + ON_TIME + 1) == Due((), (NOON,), NOON)


def test_the_last_missed_slot_gives_way_to_one_that_is_on_time() -> None:
    found = decide("last", NOON - 2 * HOUR, NOON + 10)
    assert found.fire == (NOON,) and found.missed == (NOON - HOUR,)


def test_nothing_is_due_before_its_slot_or_twice() -> None:
    assert decide("all", NOON - 1, NOON - 1).fire == ()
    assert decide("all", NOON - 1, NOON).fire == (NOON,)
    assert decide("all", NOON, NOON + HOUR - 1) == Due((), (), NOON)


def test_all_is_at_most_a_hundred_of_the_last_day() -> None:
    found = decide("all", NOON - 200 * 60_000, NOON, cron="* * * * *")
    assert len(found.fire) == CATCH_UP_MAX + 1  # the hundred that were missed, and the one on time
    assert found.fire[-1] == NOON and found.more
    week = decide("all", NOON - 168 * HOUR, NOON + 10_000)
    assert len(week.fire) == 24 and week.more


@pytest.mark.parametrize("years", [1, 40])
def test_a_leap_of_the_clock_costs_next_to_nothing(years: int) -> None:
    before = time.perf_counter()
    found = decide("all", NOON, NOON + years * 8766 * HOUR, cron="@every 1s")
    assert len(found.fire) <= CATCH_UP_MAX + 3 and found.more
    assert len(decide("last", 0, NOON, cron="* * * * *").fire) == 1  # 1970
    assert time.perf_counter() - before < 0.5


def test_what_was_fired_stays_fired_when_the_clock_steps_back() -> None:
    for back in (10_000, HOUR):
        assert decide("all", NOON, NOON - back) == Due((), (), NOON)


def test_a_cursor_from_a_clock_that_was_years_ahead_is_put_back() -> None:
    found = decide("all", NOON + 8766 * HOUR, NOON)
    assert found == Due((), (), NOON, stepped=True)


def test_jitter_delays_the_firing_and_not_the_slot() -> None:
    assert decide("none", NOON - HOUR, NOON + 29_999, delay=30_000).fire == ()
    assert decide("none", NOON - HOUR, NOON + 30_000, delay=30_000) == Due((NOON,), (), NOON)


def test_jitter_is_stable_and_spreads() -> None:
    delays = [delay_of(f"task-{number}", 60_000) for number in range(200)]
    assert delays == [delay_of(f"task-{number}", 60_000) for number in range(200)]
    assert 0 <= min(delays) < 5_000 and 55_000 < max(delays) < 60_000
    assert delay_of("a", None) == delay_of("a", 0) == 0


def test_every_is_multiples_since_the_epoch() -> None:
    trigger = Trigger(cron="@every 90s")
    assert next_fire(trigger, 0) == 90_000
    assert next_fire(trigger, 90_000) == 180_000
    assert next_fire(trigger, NOON) == NOON // 90_000 * 90_000 + 90_000


def test_the_expression_is_all_that_moves_a_slot_and_nothing_else() -> None:
    plain = Trigger(cron="0 0 * * *")
    assert expression_of(plain, "Europe/Berlin") == expression_of(Trigger(cron=" 0 0 *  * *", catch_up="all", jitter=5, timezone="Europe/Berlin"))
    assert expression_of(plain, "Europe/Berlin") != expression_of(plain, "UTC")


@given(
    st.integers(0, 48 * 60),
    st.lists(st.integers(1, 400), min_size=1, max_size=8),
    st.sampled_from(["*/7 * * * *", "0 * * * *", "30 2 * * *", "@every 11m"]),
)
def test_deciding_in_many_steps_explains_every_slot_exactly_once(start: int, steps: list[int], cron: str) -> None:
    cursor = first = NOON + start * 60_000
    now, decided = first, []
    for step in steps:
        now += step * 60_000
        found = decide("all", cursor, now, cron=cron)
        decided += [*found.missed, *found.fire]
        cursor = found.cursor
    slots = fires(Trigger(cron=cron), first)
    assert decided == [slot for slot in (next(slots) for _ in range(len(decided) + 1)) if slot <= now]
