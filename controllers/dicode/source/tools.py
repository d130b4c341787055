"""What the works of all sources share: the store's mirror, the bundles, one disk thread, one pair of ears."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from dicode.git.trees import Repositories
from dicode.process.blobs import Bundles
from dicode.process.clock import mono
from dicode.process.finding import OnFolder
from dicode.process.logs import Log
from dicode.process.mirror import Mirror
from dicode.source.state import Burst
from dicode.source.watch import Watcher

T = TypeVar("T")

SLICE = 0.02  # seconds of reading before someone else has a turn
ROUND_SLICE = 0.004  # the same for a round that nobody waits for
LOCK_WAIT = 5.0  # seconds to wait for git to let go of its index
FAILED_WAIT = 1.0  # seconds before a bundle that could not be written is tried again
RACY = 2_000_000_000  # ns; what changed less than this ago may have changed again unseen, where there are no events


@dataclass
class Tools:
    """What all sources share."""

    mirror: Mirror
    bundles: Bundles
    log: Log
    disk: Executor  # one thread
    watcher: Watcher | None
    working_dir: str
    data_dir: str  # without links; no part of any source
    repositories: Callable[[], Repositories]  # made when somebody first needs one
    answered_at: float = 0.0  # when a repository was last heard of for the first time, on the clock of `mono`

    async def on_disk(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.disk, work, *args)

    def ears_of(self, name: str) -> OnFolder:
        """What must be told of each folder that source `name` wants to hear of."""
        watcher = self.watcher
        if watcher is None:
            return deaf
        return lambda folder, inode: watcher.watch(folder, inode, name)

    @property
    def limited(self) -> bool:
        """Is there anything that cannot be heard?"""
        return self.watcher is None or self.watcher.limited


def deaf(folder: str, inode: int) -> None:
    """Where nothing can be heard, nothing is watched."""


def burst_now(at: float = 0.0) -> Burst:
    """A reason to read that begins now. `at`: of the push that led to it; 0.0: a timer, and there is no moment to measure from."""
    now = mono()
    return Burst(new_cause(), at, now, now)


def new_cause() -> str:
    """An id by which every log line of one save can be joined."""
    return os.urandom(6).hex()
