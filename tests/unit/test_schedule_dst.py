"""Fires around clock changes: a golden table, and a walk minute by minute that knows nothing of our shortcuts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dicode.messages.task import Dst, Trigger
from dicode.spec.schedule import fires

GOLDEN = Path(__file__).with_name("schedule_dst.golden")
MINUTE = 60_000


def shown(zone: str, slots: list[int]) -> str:
    """`03:00+02`: local times with their offset, as the golden table has them."""
    times = [datetime.fromtimestamp(slot / 1000, ZoneInfo(zone)) for slot in slots]
    return " ".join(time.strftime("%d.%H:%M%z").removesuffix("00") for time in times)


def golden_rows() -> list[tuple[str, str, str, str]]:
    """(zone, first local day, expression, expected) of each line."""
    rows, place = [], ("", "")
    for line in GOLDEN.read_text().splitlines():
        if line.startswith("["):
            zone, day = line.strip("[]").split()
            place = (zone, day)
        elif line and not line.startswith("#"):
            expression, _, expected = line.partition("|")
            rows.append((*place, expression.strip(), expected.strip()))
    return rows


def fires_of(zone: str, day: str, expression: str) -> list[int]:
    """Slots in the 30 hours from 20:00 of the evening before `day`, local time."""
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)) - timedelta(hours=4)
    first = int(start.timestamp() * 1000) - 1
    return list(takewhile(lambda slot: slot < first + 30 * 60 * MINUTE, fires(Trigger(cron=expression, timezone=zone), first)))


@pytest.mark.parametrize(("zone", "day", "expression", "expected"), golden_rows())
def test_dst_golden(zone: str, day: str, expression: str, expected: str) -> None:
    assert shown(zone, fires_of(zone, day, expression)) == expected


def test_the_golden_table_is_all_there() -> None:
    rows = golden_rows()
    assert len({row[:2] for row in rows}) >= 13 and len({row[2] for row in rows}) >= 19


def slots(cron: str, zone: str, start: str, hours: int, **dst: str) -> str:
    first = int(datetime.fromisoformat(start).timestamp() * 1000)
    trigger = Trigger(cron=cron, timezone=zone, dst=Dst(**dst) if dst else None)  # type: ignore[arg-type]
    return shown(zone, list(takewhile(lambda slot: slot < first + hours * 60 * MINUTE, fires(trigger, first))))


def test_a_skipped_time_runs_right_after_the_gap_or_not_at_all() -> None:
    assert slots("30 2 * * *", "Europe/Berlin", "2026-03-28T20:00Z", 12) == "29.03:00+02"
    assert slots("30 2 * * *", "Europe/Berlin", "2026-03-28T20:00Z", 12, gap="skip") == ""
    assert slots("0 3 * * *", "Europe/Berlin", "2026-03-28T20:00Z", 12, gap="skip") == "29.03:00+02"


def test_a_repeated_time_runs_once_or_both_times() -> None:
    assert slots("30 2 * * *", "Europe/Berlin", "2026-10-24T20:00Z", 12) == "25.02:30+02"
    assert slots("30 2 * * *", "Europe/Berlin", "2026-10-24T20:00Z", 12, fold="both") == "25.02:30+02 25.02:30+01"


def test_a_starred_field_follows_elapsed_time() -> None:
    assert slots("*/30 2 * * *", "Europe/Berlin", "2026-03-28T20:00Z", 12) == ""
    assert slots("0 * * * *", "Europe/Berlin", "2026-10-24T23:30Z", 4) == "25.02:00+02 25.02:00+01 25.03:00+01 25.04:00+01"


# --- the minute walk


def values(field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for item in field.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            found |= set(range(low, high + 1, int(step or 1)))
        else:
            end = int(last or (high if step else first))
            found |= set(range(int(first), end + 1, int(step or 1)))
    return found


def matches(cron: str, local: datetime) -> bool:
    minute, hour, day, month, weekday = cron.split()
    in_day = local.day in values(day, 1, 31)
    in_week = local.isoweekday() % 7 in {value % 7 for value in values(weekday, 0, 6)}
    days = in_day or in_week if not day.startswith("*") and not weekday.startswith("*") else in_day and in_week
    return days and local.minute in values(minute, 0, 59) and local.hour in values(hour, 0, 23) and local.month in values(month, 1, 12)


def walked(cron: str, zone: ZoneInfo, start: datetime, minutes: int, gap: str, fold: str) -> list[int]:
    """Debian's cron as its manual tells it, one minute of UTC after the other."""
    starred = cron.split()[0].startswith("*") or cron.split()[1].startswith("*")
    found = []
    before = start.astimezone(zone)
    for number in range(1, minutes + 1):
        now = start + timedelta(minutes=number)
        local = now.astimezone(zone)
        leap = int((local.utcoffset() - before.utcoffset()).total_seconds() // 60)  # type: ignore[operator]  # aware
        skipped = [local.replace(tzinfo=None) - timedelta(minutes=back) for back in range(1, leap + 1)]
        fire = matches(cron, local) and (starred or fold == "both" or not local.fold)
        if fire or (not starred and gap == "run_after" and any(matches(cron, each) for each in skipped)):
            found.append(int(now.timestamp() * 1000))
        before = local
    return found


CHANGES = {
    "Europe/Berlin": ["2026-03-29T01:00", "2026-10-25T01:00", "2027-03-28T01:00", "2027-10-31T01:00"],
    "America/New_York": ["2026-03-08T07:00", "2026-11-01T06:00"],
    "Australia/Lord_Howe": ["2026-04-04T15:00", "2026-10-03T15:30"],
    "Africa/Casablanca": ["2026-02-15T02:00", "2026-03-22T02:00"],
    "Pacific/Apia": ["2011-12-30T10:00", "2012-03-31T14:00"],
    "America/Santiago": ["2026-04-05T03:00", "2026-09-06T04:00"],
    "UTC": ["2026-02-28T00:00"],
}


def fields(low: int, high: int, *likely: str) -> st.SearchStrategy[str]:
    number = st.integers(low, high).map(str)
    spans = st.tuples(st.integers(low, high), st.integers(low, high), st.integers(1, 7)).map(lambda t: f"{min(t[:2])}-{max(t[:2])}/{t[2]}")
    lists = st.lists(number, min_size=1, max_size=3).map(",".join)
    return st.one_of(st.sampled_from(["*", *likely]), lists, spans, st.integers(1, high).map(lambda step: f"*/{step}"))


expressions = st.tuples(fields(0, 59, "0", "30"), fields(0, 23, "1", "2", "3", "0"), fields(1, 31, "*"), st.just("*"), fields(0, 6, "*")).map(
    " ".join
)
changes = st.sampled_from([(zone, change) for zone, found in CHANGES.items() for change in found])


@settings(max_examples=60, deadline=None)
@given(expressions, changes, st.integers(-600, 300), st.sampled_from(["run_after", "skip"]), st.sampled_from(["once", "both"]))
@example("0 12 * * *", ("Pacific/Apia", "2011-12-30T10:00"), -300, "run_after", "once")
@example("15 2 * * *", ("Australia/Lord_Howe", "2026-10-03T15:30"), -1, "run_after", "once")
@example("45 1 * * *", ("Australia/Lord_Howe", "2026-04-04T15:00"), -60, "skip", "both")
def test_every_fire_is_one_of_the_minute_walk(cron: str, change: tuple[str, str], offset: int, gap: str, fold: str) -> None:
    zone, at = change
    start = datetime.fromisoformat(at).replace(tzinfo=UTC) + timedelta(minutes=offset)
    minutes = 900
    trigger = Trigger(cron=cron, timezone=zone, dst=Dst(gap=gap, fold=fold))  # type: ignore[arg-type]  # sampled from its values
    first = int(start.timestamp() * 1000)
    found = list(takewhile(lambda slot: slot <= first + minutes * MINUTE, fires(trigger, first)))
    assert found == walked(cron, ZoneInfo(zone), start, minutes, gap, fold)
