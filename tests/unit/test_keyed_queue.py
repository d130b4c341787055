"""A queue of keys: coalescing, one worker a key, backoff per key."""

from __future__ import annotations

import asyncio
from collections import Counter

from dicode.process.queue import KeyedQueue


def ignore(key: str, error: BaseException, delay: float) -> None:
    """Failures are counted by the work itself."""


def test_a_key_added_many_times_is_worked_on_once() -> None:
    async def scenario() -> Counter[str]:
        seen: Counter[str] = Counter()

        async def work(key: str) -> None:
            seen[key] += 1

        queue = KeyedQueue(work, on_error=ignore)
        for _ in range(10):
            queue.add("a")
        queue.add("b")
        running = asyncio.create_task(queue.run())
        await queue.idle()
        running.cancel()
        return seen

    assert asyncio.run(scenario()) == {"a": 1, "b": 1}


def test_a_key_added_while_it_is_worked_on_is_worked_on_again_and_never_twice_at_once() -> None:
    async def scenario() -> tuple[int, int]:
        runs = busy = most = 0

        async def work(key: str) -> None:
            nonlocal runs, busy, most
            runs, busy = runs + 1, busy + 1
            most = max(most, busy)
            if runs == 1:
                queue.add(key)
            await asyncio.sleep(0)
            busy -= 1

        queue = KeyedQueue(work, on_error=ignore, width=4)
        queue.add("a")
        running = asyncio.create_task(queue.run())
        await queue.idle()
        running.cancel()
        return runs, most

    assert asyncio.run(scenario()) == (2, 1)


def test_a_failing_key_backs_off_and_does_not_hold_up_its_neighbours() -> None:
    async def scenario() -> tuple[list[float], list[str]]:
        delays: list[float] = []
        worked: list[str] = []
        third = asyncio.Event()

        async def work(key: str) -> None:
            worked.append(key)
            if key == "bad":
                raise RuntimeError("no")

        def failed(key: str, error: BaseException, delay: float) -> None:
            delays.append(delay)
            if len(delays) == 2:
                third.set()

        queue = KeyedQueue(work, on_error=failed)
        queue.add("bad")
        queue.add("good")
        running = asyncio.create_task(queue.run())
        await asyncio.wait_for(third.wait(), 10)
        running.cancel()
        return delays, worked

    delays, worked = asyncio.run(scenario())
    assert delays == [0.2, 0.4] and worked[:2] == ["bad", "good"]


def test_work_may_ask_to_be_called_again_later() -> None:
    async def scenario() -> int:
        times = 0
        twice = asyncio.Event()

        async def work(key: str) -> float | None:
            nonlocal times
            times += 1
            if times == 2:
                twice.set()
            return 0.01 if times == 1 else None

        queue = KeyedQueue(work, on_error=ignore)
        queue.add("a")
        running = asyncio.create_task(queue.run())
        await asyncio.wait_for(twice.wait(), 10)
        running.cancel()
        return times

    assert asyncio.run(scenario()) == 2
