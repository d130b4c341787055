"""Which tasks start which, and where that never ends. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping

from dicode.messages.task import TaskSpec

Starts = dict[str, set[str]]  # id → the ids its end starts


def starts_of(specs: Mapping[str, TaskSpec]) -> Starts:
    """By `trigger.chain` and by `on_failure_chain`, among the tasks there are."""
    starts: Starts = {id: set() for id in specs}
    for id, spec in specs.items():
        if spec.trigger.chain is not None and spec.trigger.chain.from_ in starts:
            starts[spec.trigger.chain.from_].add(id)
        if spec.on_failure_chain is not None and spec.on_failure_chain.task in starts:
            starts[id].add(spec.on_failure_chain.task)
    return starts


def cycles(starts: Mapping[str, Collection[str]]) -> Iterator[tuple[str, ...]]:
    """Ways round, so that every task that can start itself again is in one of them; each begins with the smallest id none before it had."""
    core = _within_cycles(starts)
    told: set[str] = set()
    for id in sorted(core):
        if id not in told:
            way = _way_back(id, starts, core)
            told.update(way)
            if way:
                yield way


def _within_cycles(starts: Mapping[str, Collection[str]]) -> set[str]:
    """What is left when whatever starts nothing that is left is taken away, again and again: cycles and what leads to them."""
    started_by: dict[str, list[str]] = {}
    for id, others in starts.items():
        for other in others:
            started_by.setdefault(other, []).append(id)
    open_ends = {id: len(others) for id, others in starts.items()}
    ends = [id for id, count in open_ends.items() if count == 0]
    while ends:
        for id in started_by.get(ends.pop(), ()):
            open_ends[id] -= 1
            if open_ends[id] == 0:
                ends.append(id)
    return {id for id, count in open_ends.items() if count}


def _way_back(id: str, starts: Mapping[str, Collection[str]], core: Collection[str]) -> tuple[str, ...]:
    """The shortest way from a task to itself, without its end; () when there is none."""
    came_from: dict[str, str] = {}
    queue = deque([id])
    while queue:
        here = queue.popleft()
        for other in sorted(starts[here]):
            if other == id:
                return _path(came_from, here)
            if other in core and other not in came_from:
                came_from[other] = here
                queue.append(other)
    return ()


def _path(came_from: Mapping[str, str], last: str) -> tuple[str, ...]:
    way = [last]
    while way[-1] in came_from:
        way.append(came_from[way[-1]])
    return tuple(reversed(way))
