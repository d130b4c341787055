"""The only place that asks what time it is."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def wall_ms() -> int:
    """Milliseconds since the Unix epoch, UTC."""
    return time.time_ns() // 1_000_000


def wall() -> float:
    """Seconds since the Unix epoch, with fraction."""
    return time.time()


def mono() -> float:
    """Seconds that never step back; the same in all processes of this machine (CLOCK_MONOTONIC)."""
    return time.monotonic()


def rfc3339(ms: int) -> str:
    """`2026-11-23T10:00:00.123Z`."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def of_day(seconds: float) -> str:
    """`10:00:14`, local: the stamp of a log line."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))
