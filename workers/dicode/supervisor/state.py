"""What the supervisor remembers of one daemon: told again by the store, its local record and the process table."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from dicode.messages.kinds import Daemon
from dicode.process.child import Child
from dicode.supervisor.lifecycle import Trouble


@dataclass
class Held:
    """`daemon` is ahead of the store: it is written down there without anybody waiting for that."""

    daemon: Daemon | None = None
    child: Child | None = None
    exit: str = ""  # how the process ended, for people; "" while it runs
    clean: bool = False  # it ended with exit code 0
    adopted: bool = False  # not our child: the keeper tells its exit code
    prepared: str = ""  # digest
    trouble: Trouble | None = None
    making_ready: tuple[str, asyncio.Task[object]] | None = None  # digest, and the work under way for it
