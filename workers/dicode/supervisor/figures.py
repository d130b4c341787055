"""Figures of a daemon, measured when somebody asks and never otherwise."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
import psutil

WATCHED_FOR = 0.1  # seconds; the share of a core is taken over this time


class Figures(msgspec.Struct, frozen=True):
    """Of a process and all below it. `cpu`: percent of one core; `memory`: resident bytes; `children` without itself."""

    cpu: float
    cpu_seconds: float
    memory: int
    fds: int
    children: int


async def figures(pid: int) -> Figures:
    """Raises psutil.NoSuchProcess."""
    root = psutil.Process(pid)
    tree = [root, *root.children(recursive=True)]
    before = _cpu_seconds(tree)
    await asyncio.sleep(WATCHED_FOR)
    after = _cpu_seconds(tree)
    return Figures(
        cpu=round(max(0.0, after - before) / WATCHED_FOR * 100, 1),
        cpu_seconds=round(after, 2),
        memory=sum(_measured(process)[0] for process in tree),
        fds=sum(_measured(process)[1] for process in tree),
        children=len(tree) - 1,
    )


def _cpu_seconds(tree: list[psutil.Process]) -> float:
    total = 0.0
    for process in tree:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _measured(process: psutil.Process) -> tuple[int, int]:
    """(resident bytes, open files); nothing of one that has ended."""
    with suppress(psutil.Error):
        return process.memory_info().rss, process.num_fds()
    return 0, 0
