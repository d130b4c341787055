"""Lengths of time as people write them: `30s`, `1m30s`, `500ms`, `2d`, `0`. In code they are whole milliseconds."""

from __future__ import annotations

import re

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_PART = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?(ms|d|h|m|s)", re.ASCII)
LONGEST = 3650 * _UNITS["d"]


def parse(written: str) -> int:
    """Whole milliseconds. Raises ValueError whose text is for people and holds the word `duration`."""
    if written == "0":
        return 0
    total, position = 0, 0
    while position < len(written):
        part = _PART.match(written, position)
        if part is None:
            break
        whole, fraction, unit = part.groups()
        scale = _UNITS[unit]
        total += int(whole) * scale
        if fraction:
            share, rest = divmod(int(fraction) * scale, 10 ** len(fraction))
            if rest:
                raise ValueError(f"'{_short(written)}' is not a duration of whole milliseconds")
            total += share
        position = part.end()
    if not written or position < len(written):
        hint = (
            f"write {written}s for seconds"
            if written.isascii() and written.isdigit() and len(written) < 10
            else "write it like 30s, 1m30s, 500ms, 2d or 0"
        )
        raise ValueError(f"'{_short(written)}' is not a duration: {hint}")
    if total > LONGEST:
        raise ValueError(f"'{_short(written)}' is too long a duration: at most {text(LONGEST)}")
    return total


def text(millis: int) -> str:
    """The shortest way to write it: `1m30s`. `parse(text(x)) == x`."""
    if millis == 0:
        return "0"
    parts = []
    for unit, scale in _UNITS.items():
        count, millis = divmod(millis, scale)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def _short(written: str) -> str:
    return written if len(written) <= 40 else written[:40] + "…"
