"""A queue of keys, never of events: a key that is added ten times while it waits is worked on once.

One worker per key at a time; a key that changes while it is worked on is worked on again. Failures back off per key.
(The shape of controller-runtime's workqueue.)
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")

BACKOFF_FIRST = 0.2  # seconds
BACKOFF_MAX = 60.0


class KeyedQueue(Generic[K]):
    """`add` from the loop's thread only. `run` works until cancelled."""

    def __init__(self, work: Callable[[K], Awaitable[float | None]], *, on_error: Callable[[K, BaseException, float], None], width: int = 1) -> None:
        """`work(key)` does one step for one key and may give back seconds after which to look at it again.

        `on_error(key, error, delay)` hears of each failure; the key is tried again after `delay` seconds.
        """
        self._work = work
        self._on_error = on_error
        self._width = width
        self._ready: dict[K, None] = {}
        self._busy: dict[K, bool] = {}  # key → added again meanwhile
        self._later: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: asyncio.Future[None] | None = None  # while we run; an error that `on_error` itself raised ends us
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, key: K) -> None:
        """Work on this key soon."""
        if key in self._busy:
            self._busy[key] = True
            return
        timer = self._later.pop(key, None)
        if timer is not None:
            timer.cancel()
        self._ready[key] = None
        self._idle.clear()
        self._fill()

    def add_after(self, key: K, seconds: float) -> None:
        """Work on this key in `seconds`, or sooner if it is added sooner."""
        loop = asyncio.get_running_loop()
        known = self._later.get(key)
        if known is not None:
            if known.when() <= loop.time() + seconds:
                return
            known.cancel()
        self._later[key] = loop.call_later(seconds, self._due, key)

    def _due(self, key: K) -> None:
        self._later.pop(key, None)
        self.add(key)

    def depth(self) -> int:
        return len(self._ready) + len(self._busy)

    async def idle(self) -> None:
        """Wait until nothing is ready or under way (timers may be pending)."""
        await self._idle.wait()

    async def run(self) -> None:
        self._broken = asyncio.get_running_loop().create_future()
        self._fill()
        try:
            await self._broken
        finally:
            self._broken = None
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _fill(self) -> None:
        """Start work on what is ready, as far as the width goes."""
        while self._broken is not None and self._ready and len(self._busy) < self._width:
            key = next(iter(self._ready))
            del self._ready[key]
            self._busy[key] = False
            task = asyncio.create_task(self._step(key))
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._done, key))

    def _done(self, key: K, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        again = self._busy.pop(key)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)
        if again:
            self.add(key)
        self._fill()
        if not self._ready and not self._busy:
            self._idle.set()

    async def _step(self, key: K) -> None:
        try:
            again = await self._work(key)
        except Exception as error:  # the one broad catch: whatever it is becomes a visible, backed-off failure of this key
            count = self._failures.get(key, 0)
            self._failures[key] = count + 1
            delay = min(BACKOFF_FIRST * 2**count, BACKOFF_MAX)
            self._on_error(key, error, delay)
            self.add_after(key, delay)
        else:
            self._failures.pop(key, None)
            if again is not None:
                self.add_after(key, again)
