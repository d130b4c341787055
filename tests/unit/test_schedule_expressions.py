"""Which expressions are schedules, and what is said of those that are not."""

from __future__ import annotations

import time

import pytest

from dicode.messages.task import Trigger
from dicode.spec.schedule import MAX_LENGTH, BadCron, check_cron, check_zone, next_fire

BAD = {
    "": "5 fields",
    " ": "5 fields",
    "*": "5 fields",
    "* * * *": "5 fields",
    "* * * * * *": "5 fields",
    "0 * * * * * *": "5 fields",
    "60 * * * *": "minute: 60 is not in 0-59",
    "-1 * * * *": "minute",
    "1.5 * * * *": "minute",
    "00000 * * * *": "minute",
    "1,,2 * * * *": "minute",
    "1, 2 * * *": "minute",
    ", * * * *": "minute",
    "5-1 * * * *": "minute: the range '5-1' runs backwards",
    "1-2-3 * * * *": "minute",
    "*-5 * * * *": "minute",
    "*/0 * * * *": "minute: the step 0",
    "*/60 * * * *": "minute: the step 60",
    "*/99999999999 * * * *": "minute: the step 99999999999",
    "*/999999999999999 * * * *": "minute",
    "*/-5 * * * *": "minute",
    "*/ * * * *": "minute",
    "/5 * * * *": "minute",
    "R R * * *": "minute",
    "R(0-29) * * * *": "minute",
    "H H * * *": "minute",
    "H(0-29)/10 * * * *": "minute",
    "? * * * *": "minute",
    "mon * * * *": "minute",
    "0x5 * * * *": "minute",
    "0 24 * * *": "hour: 24 is not in 0-23",
    "0 1-24 * * *": "hour",
    "0 */24 * * *": "hour",
    "0 jan * * *": "hour",
    "0 0 0 * *": "day of month: 0 is not in 1-31",
    "0 0 32 * *": "day of month",
    "0 0 L * *": "day of month",
    "0 0 15W * *": "day of month",
    "0 0 ? * 1": "day of month",
    "0 0 1 0 *": "month: 0 is not in 1-12",
    "0 0 1 13 *": "month",
    "0 0 1 january *": "month",
    "0 0 1 mon *": "month: unknown name 'mon'",
    "0 0 1 nov-feb *": "month: the range",
    "0 0 * * 8": "day of week: 8 is not in 0-7",
    "0 0 * * xyz": "day of week: unknown name 'xyz'",
    "0 0 * * mon-": "day of week",
    "0 0 * * 5#2": "day of week",
    "0 0 * * L5": "day of week",
    "0 0 * * sat-mon": "day of week: the range",
    "0 0 30 2 *": "never",
    "0 0 31 2,4,6,9,11 *": "never",
    "15 0 31 4,6,9,11 *": "never",
    "0 0 30-31 feb *": "never",
    "0 0 29 2 */7": "never",
    "٣ * * * *": "ASCII",
    "* *\u00a0* * *": "ASCII",
    "* * * * *\n": "one line",
    "*\t* * * *": "one line",
    "* * * * *\0": "one line",
    ",".join(["1"] * 5000) + " * * * *": "at most 200 characters",
    "@reboot": "@reboot",
    "@midnight": "@midnight",
    "@every": "@every",
    "@every 0s": "@every",
    "@every 10ms": "@every",
    "@every 400d": "@every",
    "@every -5s": "@every",
    "@every 5": "@every",
    "@hourly ": "@hourly",
    "TZ=UTC * * * * *": "5 fields",
}


@pytest.mark.parametrize(("text", "reason"), BAD.items(), ids=lambda value: repr(value)[:40])
def test_a_bad_expression_is_refused_with_its_reason(text: str, reason: str) -> None:
    check_cron("0 0 29 2 *")  # the first loads croniter
    before = time.perf_counter()
    message = check_cron(text)
    assert time.perf_counter() - before < 0.05
    assert message is not None and reason in message
    assert "\n" not in message and len(message) < 300
    with pytest.raises(BadCron):
        next_fire(Trigger(cron=text), 0)


@pytest.mark.parametrize(
    "text",
    [
        "* * * * *",
        "*/5 * * * *",
        "0,30 8-18/2 * * mon-fri",
        "10 2/6 * * *",
        "0 0 29 2 *",
        "0 0 1-7 * MON",
        "0 0 * * 7",
        "0 0 * * mon-sun",
        "59 23 31 dec *",
        "  0   12  *  * * ",
        "@hourly",
        "@daily",
        "@weekly",
        "@monthly",
        "@yearly",
        "@every 90s",
        "@every 1h30m",
    ],
)
def test_a_good_expression_is_fine(text: str) -> None:
    assert check_cron(text) is None
    assert next_fire(Trigger(cron=text), 1_800_000_000_000) is not None


def test_the_length_limit_is_exact() -> None:
    text = "1," * 95 + "1 * * * *"
    text += " " * (MAX_LENGTH - len(text))
    assert len(text) == MAX_LENGTH and check_cron(text) is None
    assert "at most" in (check_cron(text + " ") or "")


@pytest.mark.parametrize("key", ["", "Mars/Base", "../../etc/passwd", "/etc/passwd", "Europe", "Europe/Berlin ", "a\0b", "x" * 300, "Zürich"])
def test_a_zone_that_does_not_exist_is_refused(key: str) -> None:
    assert "timezone" in (check_zone(key) or "")


def test_a_zone_of_the_database_is_fine() -> None:
    assert check_zone("Europe/Berlin") is None and check_zone("UTC") is None


def test_days_of_month_and_week_are_alternatives_only_when_both_are_given() -> None:
    def days(cron: str) -> list[int]:
        """The days of June 2026, whose first is a Monday, on which it fires."""
        at, found = 1_780_272_000_000 - 1, []
        while (at := next_fire(Trigger(cron=cron), at) or 0) < 1_780_272_000_000 + 30 * 86_400_000:
            found.append(1 + (at - 1_780_272_000_000) // 86_400_000)
        return found

    assert days("0 0 13 * 5") == [5, 12, 13, 19, 26]
    assert days("0 0 13 * *") == [13]
    assert days("0 0 * * 5") == [5, 12, 19, 26]
    assert days("0 0 */10 * 1") == [1]  # a field that starts with * does not count as given: both must hold
    assert days("0 0 1-31 * 5") == list(range(1, 31))
    assert days("0 0 * * sat,sun") == days("0 0 * * 6-7") == days("0 0 * * 0,6") == [6, 7, 13, 14, 20, 21, 27, 28]
