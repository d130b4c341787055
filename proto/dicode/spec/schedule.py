"""When a cron trigger fires: checked at admission, computed across daylight saving, caught up after an absence. Pure.

croniter only walks naive local time; which instant a local time is, is decided here, as Debian's cron does it:

* a fixed time that a clock change skips runs once, right after the gap (`dst.gap: skip` drops it);
* a fixed time that comes twice runs the first time (`dst.fold: both`: each time);
* an expression whose minute or hour field starts with `*` follows elapsed time: it fires whenever the clock on the wall matches.

`@every D` fires at the multiples of D since the Unix epoch, so neither a reload nor a restart moves its phase.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from itertools import takewhile
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from dicode.messages.task import Trigger
from dicode.spec import duration

MAX_LENGTH = 200  # characters of an expression
NEVER_YEARS = 5  # an expression that does not fire within so many years never does
WALK_YEARS = 9  # 29 February skips 2100
ON_TIME = 2_000  # ms; a slot decided within this is on time, later it was missed and `catch_up` decides
WINDOW = 86_400_000  # ms; missed slots older than this are not caught up
CATCH_UP_MAX = 100  # slots, of `catch_up: all`
STEPPED_BACK = 3 * 3_600_000  # ms; a cursor further ahead than this comes from a clock that was wrong
EVERY_MIN, EVERY_MAX = 1_000, 366 * 86_400_000  # ms, of `@every`
_DAY = 86_400  # seconds
_MARCH_2000 = 951_868_800  # just after a 29 February

_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    words: dict[str, int]


_FIELDS = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of month", 1, 31, {}),
    _Field("month", 1, 12, {word: number for number, word in enumerate(_MONTHS, 1)}),
    _Field("day of week", 0, 7, {word: number for number, word in enumerate(_DAYS)}),
)
_ITEM = re.compile(r"(?:(?P<star>\*)|(?P<first>[0-9]{1,4}|[a-z]{3})(?:-(?P<last>[0-9]{1,4}|[a-z]{3}))?)(?:/(?P<step>[0-9]{1,11}))?")


class BadCron(ValueError):
    """The text is no schedule; the message says where and why."""


class _Cron(NamedTuple):
    """An expression, read. `fields` is what croniter walks; `every` (ms) stands instead of it for `@every`."""

    fields: str = ""
    either_day: bool = True
    elapsed: bool = False
    every: int = 0


def check_cron(text: str) -> str | None:
    """What is wrong with this expression, for its author; None when it is fine."""
    try:
        _read(text)
    except BadCron as error:
        return str(error)
    return None


def check_zone(key: str) -> str | None:
    """What is wrong with this `timezone`; None when it is a zone of the tz database."""
    try:
        _zone(key)
    except BadCron as error:
        return str(error)
    return None


def next_fire(trigger: Trigger, after_ms: int, machine_zone: str = "UTC") -> int | None:
    """The first slot (ms) after `after_ms`; None when there is none in WALK_YEARS. Raises BadCron."""
    return next(fires(trigger, after_ms, machine_zone), None)


def fires(trigger: Trigger, after_ms: int, machine_zone: str = "UTC") -> Iterator[int]:
    """All slots (ms) after `after_ms`, ascending. Raises BadCron."""
    cron = _read(trigger.cron or "")
    if cron.every:
        return _multiples(cron.every, after_ms)
    dst = trigger.dst
    return _slots(
        cron,
        _zone(trigger.timezone or machine_zone),
        after_ms // 1000,
        run_after_gap=not cron.elapsed and not (dst and dst.gap == "skip"),
        both=cron.elapsed or bool(dst and dst.fold == "both"),
    )


def expression_of(trigger: Trigger, machine_zone: str = "UTC") -> str:
    """All that decides the slots, as one text: a schedule's cursor holds while it stays the same."""
    dst = trigger.dst
    gap = (dst and dst.gap) or "run_after"
    fold = (dst and dst.fold) or "once"
    return f"{' '.join((trigger.cron or '').split())} {trigger.timezone or machine_zone} {gap} {fold}"


def delay_of(task: str, jitter: int | None) -> int:
    """By how many ms this task's fires come later than their slots: stable, spread over [0, jitter)."""
    if not jitter:
        return 0
    return int.from_bytes(hashlib.sha256(task.encode()).digest()[:8], "big") % jitter


class Due(NamedTuple):
    """What to do with the slots that have come: fire these, oldest first; then the cursor is here.

    `missed` came too late or too many and are not fired (the newest CATCH_UP_MAX of them); `more`: there were others.
    `stepped`: the cursor lay so far ahead that the clock must have been wrong; it was put back to now.
    """

    fire: tuple[int, ...]
    missed: tuple[int, ...]
    cursor: int
    more: bool = False
    stepped: bool = False


def due(trigger: Trigger, cursor: int, now_ms: int, machine_zone: str = "UTC", delay: int = 0) -> Due:
    """Decide all slots in (cursor, now]. `delay` is the task's jitter: a slot comes so much later. Raises BadCron."""
    now = now_ms - delay
    if cursor > now + STEPPED_BACK:
        return Due((), (), now, stepped=True)
    slots = _newest(trigger, cursor, now, machine_zone)
    if not slots:
        return Due((), (), cursor)
    on_time = [slot for slot in slots if slot >= now - ON_TIME]
    late = slots[: len(slots) - len(on_time)]
    keep = _caught_up(trigger.catch_up or "last", late, bool(on_time))
    missed = tuple(late[: len(late) - keep])
    return Due((*late[len(late) - keep :], *on_time), missed, slots[-1], more=len(slots) > CATCH_UP_MAX or cursor < now - WINDOW)


def _caught_up(policy: Literal["last", "none", "all"], late: list[int], on_time: bool) -> int:
    """How many of the late slots, counted from the newest, are fired after all."""
    match policy:
        case "none":
            return 0
        case "last":
            return 0 if on_time else min(1, len(late))
        case "all":
            return min(CATCH_UP_MAX, len(late))


def _newest(trigger: Trigger, cursor: int, now: int, machine_zone: str) -> list[int]:
    """The newest slots in (cursor, now], ascending, of the last WINDOW: all of them, or more than CATCH_UP_MAX.

    Looks back in doubling spans, so that a month's absence of an every-second schedule costs what a minute's does.
    """
    since = max(cursor, now - WINDOW)
    if since >= now:
        return []  # asked again in the same moment, as at every first look: no walk
    span = 60_000
    while True:
        start = max(since, now - span)
        slots = list(takewhile(lambda slot: slot <= now, fires(trigger, start, machine_zone)))
        if start == since or len(slots) > CATCH_UP_MAX:
            return slots
        span *= 2


# --- reading an expression


@lru_cache(maxsize=4096)
def _read(text: str) -> _Cron:
    if len(text) > MAX_LENGTH:
        raise BadCron(f"a schedule has at most {MAX_LENGTH} characters, this has {len(text)}")
    if not text.isascii() or not text.isprintable():
        raise BadCron("a schedule is written in plain ASCII on one line")
    if text.startswith("@"):
        return _read_named(text)
    fields = text.split()
    if len(fields) != 5:
        raise BadCron(f"a schedule has exactly 5 fields (minute hour day month weekday), this has {len(fields)}")
    sets = [_values(field, written) for field, written in zip(_FIELDS, fields, strict=True)]
    starred = [written.startswith("*") for written in fields]
    cron = _normal(sets, either_day=not starred[2] and not starred[4], elapsed=starred[0] or starred[1])
    if not _ever_fires(cron):
        raise BadCron(f"{text!r} never fires: no such date comes within {NEVER_YEARS} years (day of month, month, day of week)")
    return cron


def _read_named(text: str) -> _Cron:
    if text in _NAMED:
        return _read(_NAMED[text])
    word, _, rest = text.partition(" ")
    if word != "@every":
        raise BadCron(f"unknown {word!r}: write 5 fields, {' '.join(_NAMED)} or @every 90s")
    try:
        every = duration.parse(rest.strip())
    except ValueError as error:
        raise BadCron(f"@every: {error}") from None
    if not EVERY_MIN <= every <= EVERY_MAX:
        raise BadCron("@every: must lie between 1s and 366d")
    return _Cron(every=every)


def _values(field: _Field, written: str) -> frozenset[int]:
    """The numbers a field stands for; Sunday is 0."""
    values = {value for item in written.split(",") for value in _item(field, item)}
    return frozenset(0 if field.high == 7 and value == 7 else value for value in values)


def _item(field: _Field, item: str) -> range:
    match = _ITEM.fullmatch(item.lower())
    if match is None:
        raise BadCron(f"{field.name}: {item!r} is not *, a number, a range like 1-5 or one with a step like */5")
    step = int(match["step"] or 1)
    if not 1 <= step <= field.high:
        raise BadCron(f"{field.name}: the step {step} of {item!r} must lie between 1 and {field.high}")
    if match["star"]:
        first, last = field.low, min(field.high, 6) if field.high == 7 else field.high
    else:
        first = _number(field, match["first"])
        last = _last(field, match, first)
    if first > last:
        raise BadCron(f"{field.name}: the range {item!r} runs backwards")
    return range(first, last + 1, step)


def _last(field: _Field, match: re.Match[str], first: int) -> int:
    if match["last"]:
        last = _number(field, match["last"])
        return 7 if match["last"] == "sun" and first else last  # mon-sun
    if match["step"]:
        return 6 if field.high == 7 else field.high  # 2/6: from 2 on
    return first


def _number(field: _Field, text: str) -> int:
    if text in field.words:
        return field.words[text]
    if not text.isdigit():
        raise BadCron(f"{field.name}: unknown name {text!r}")
    number = int(text)
    if not field.low <= number <= field.high:
        raise BadCron(f"{field.name}: {number} is not in {field.low}-{field.high}")
    return number


def _normal(sets: list[frozenset[int]], *, either_day: bool, elapsed: bool) -> _Cron:
    """The fields as plain lists. croniter reads more forms than we admit, and these it reads in one way only."""
    full = [len(values) == count for values, count in zip(sets, (60, 24, 31, 12, 7), strict=True)]
    if either_day and (full[2] or full[4]):
        full[2] = full[4] = True
    fields = " ".join("*" if whole else ",".join(map(str, sorted(values))) for whole, values in zip(full, sets, strict=True))
    return _Cron(fields, either_day, elapsed)


def _ever_fires(cron: _Cron) -> bool:
    """Whether it fires within NEVER_YEARS, whenever one begins to wait: weekdays of 29 February come round in 28 years."""
    walk = _walk(cron)
    for start in range(_MARCH_2000, _MARCH_2000 + 28 * 366 * _DAY, 1461 * _DAY):
        first = walk.at_or_after(start)
        if first is None or first - start > NEVER_YEARS * 366 * _DAY:
            return False
    return True


@lru_cache(maxsize=512)
def _zone(key: str) -> ZoneInfo:
    try:
        if not key.isascii():
            raise ValueError(key)
        return ZoneInfo(key)
    except (KeyError, ValueError, OSError):  # unknown; not a relative path; a folder
        raise BadCron(f"unknown timezone {key!r}: write a name of the tz database, like Europe/Berlin or UTC") from None


# --- from local time to instants; all in whole seconds, local time as if it were UTC


def _multiples(every: int, after: int) -> Iterator[int]:
    slot = after - after % every
    while True:
        slot += every
        yield slot


class _Walk:
    """The local times an expression matches. Keeps nothing between two questions."""

    def __init__(self, cron: _Cron) -> None:
        from croniter import croniter  # 50 ms to import: only for whoever has a schedule

        self._walker = croniter(cron.fields, 0, day_or=cron.either_day, max_years_between_matches=WALK_YEARS)

    def at_or_after(self, local: int) -> int | None:
        """The first match; None when there is none in WALK_YEARS."""
        from croniter import CroniterBadDateError

        self._walker.set_current(local - 1, force=True)
        try:
            return int(self._walker.get_next(float))
        except CroniterBadDateError:
            return None


@lru_cache(maxsize=4096)
def _walk(cron: _Cron) -> _Walk:
    """Making a croniter costs as much as asking it."""
    return _Walk(cron)


def _slots(cron: _Cron, zone: ZoneInfo, after: int, *, run_after_gap: bool, both: bool) -> Iterator[int]:
    """Slots in ms after `after` (seconds).

    Goes from one change of the zone's offset to the next: between two of them local times and instants run in step,
    and what a change does to fixed times is decided where it happens.
    """
    walk = _walk(cron)
    before, start, newest = _offset(zone, after), after + 1, after
    while True:
        offset = _offset(zone, start)
        if offset > before and run_after_gap:
            skipped = walk.at_or_after(start + before)
            if skipped is not None and skipped < start + offset:
                newest = start
                yield start * 1000
        match = walk.at_or_after(start + offset)
        if match is None:
            return
        slot = match - offset
        change = _change(zone, start, slot)
        before, start = offset, change or slot + 1
        if change is None and slot > newest and (both or not _repeated(zone, slot)):
            newest = slot
            yield slot * 1000


def _offset(zone: ZoneInfo, at: int) -> int:
    offset = datetime.fromtimestamp(at, zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def _repeated(zone: ZoneInfo, at: int) -> bool:
    """This local time was on the clock once before."""
    return datetime.fromtimestamp(at, zone).fold == 1


def _change(zone: ZoneInfo, start: int, end: int) -> int | None:
    """The first instant in (start, end] with another offset than at `start`."""
    offset = _offset(zone, start)
    low = start
    while low < end:
        high = min(low + _DAY, end)
        if _offset(zone, high) != offset:
            return _first_other(zone, low, high, offset)
        low = high
    return None


def _first_other(zone: ZoneInfo, low: int, high: int, offset: int) -> int:
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, middle) == offset:
            low = middle
        else:
            high = middle
    return high
