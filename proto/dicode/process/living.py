"""The life of an asyncio role between its start and its stop: several endless pieces of work, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from dicode.process.role import Context


async def until_stopped(context: Context, *works: Coroutine[Any, Any, Any]) -> None:
    """Run these until the role is told to stop; then cancel them. An error in one ends all and is raised."""
    stopping = asyncio.create_task(context.stopping.wait(), name="stopping")
    tasks = [stopping, *(asyncio.create_task(work) for work in works)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            await task  # an error is raised here; a work that ended by itself is a reason to stop, too
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
