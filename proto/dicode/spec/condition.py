"""Lists of conditions. `since` is when the status of a type last changed, however often it is said again."""

from __future__ import annotations

from collections.abc import Iterable

from dicode.messages.kinds import Condition


def find(conditions: Iterable[Condition], type: str) -> Condition | None:
    """The condition of this type."""
    return next((condition for condition in conditions if condition.type == type), None)


def carried(present: Iterable[Condition], found: Iterable[Condition], generation: int, now: int) -> tuple[Condition, ...]:
    """What was found to be true, as it should be written: each keeps `since` while its status stays the same.

    Types that were not found again are gone. Of a type found twice the first counts. `now` in ms.
    """
    before = {condition.type: condition for condition in present}
    result: dict[str, Condition] = {}
    for condition in found:
        if condition.type not in result:
            result[condition.type] = _dated(condition, before.get(condition.type), generation, now)
    return tuple(result.values())


def put(present: Iterable[Condition], condition: Condition, now: int) -> tuple[Condition, ...]:
    """The list with this condition in place of the one of its type."""
    kept = list(present)
    old = find(kept, condition.type)
    new = _dated(condition, old, condition.observed_generation, now)
    if old is None:
        return (*kept, new)
    return tuple(new if each is old else each for each in kept)


def clear(present: Iterable[Condition], type: str) -> tuple[Condition, ...]:
    """The list without the condition of this type."""
    return tuple(condition for condition in present if condition.type != type)


def _dated(condition: Condition, old: Condition | None, generation: int, now: int) -> Condition:
    since = old.since if old is not None and old.status == condition.status else now
    return Condition(condition.type, condition.status, condition.reason, condition.message, since, generation)
