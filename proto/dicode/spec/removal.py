"""When what a source no longer has is really removed: the numbers of SPEC 9. Pure."""

from __future__ import annotations

TWICE = 1.0  # seconds between two complete readings, both without a task, that remove it
HELD = 60.0  # seconds the same takes when too much would be lost at once


def loses_too_much(absent: int, tasks: int) -> bool:
    """Must losing `absent` of the `tasks` that are written be seen twice a minute apart, or confirmed by a person?"""
    return absent > 0 and (absent == tasks or (absent > 5 and absent * 2 > tasks))
