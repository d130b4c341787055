"""Task ids: which are allowed, and what to say of the others."""

from __future__ import annotations

import re

MAX_SEGMENTS = 16
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def is_segment(text: str) -> bool:
    """May this stand between the slashes of an id, or name a source?"""
    return _SEGMENT.fullmatch(text) is not None


def check_id(id: str) -> str | None:
    """What is wrong with a task id; None when it is fine."""
    segments = id.split("/")
    if len(segments) > MAX_SEGMENTS:
        return f"the id has {len(segments)} segments, at most {MAX_SEGMENTS} are allowed: move the task further up"
    for segment in segments:
        if not is_segment(segment):
            return bad_segment(segment)
    return None


def bad_segment(text: str) -> str:
    """What to say of a text that is no segment."""
    short = text if len(text) <= 70 else text[:70] + "…"
    shown = short if short.isprintable() else ascii(short)[1:-1]
    return f"'{shown}' cannot be part of an id: use 1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit"
