"""Waiting for facts: never sleep, never assert on time passed."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F")
DEADLINE = 30.0  # seconds: generous, for a machine whose cores are busy


def wait_for(fact: Callable[[], F | None], what: str = "", deadline: float = DEADLINE) -> F:
    """Ask until the fact is true, and give it back. An AssertionError of the fact itself counts as not yet."""
    until = time.monotonic() + deadline
    while True:
        refused: AssertionError | None = None
        try:
            found = fact()
        except AssertionError as error:
            refused = error
        else:
            if found:
                return found
        if time.monotonic() > until:
            raise AssertionError(f"not within {deadline:g} s: {what or getattr(fact, '__name__', 'the fact')}") from refused
        select.select([], [], [], 0.01)


async def until(fact: Callable[[], F | None], what: str = "", deadline: float = DEADLINE) -> F:
    """The same on an event loop, while everything else on it goes on."""
    end = time.monotonic() + deadline
    while not (found := fact()):
        assert time.monotonic() < end, f"not within {deadline:g} s: {what or getattr(fact, '__name__', 'the fact')}"
        await asyncio.sleep(0.01)
    return found
