"""The line `ready: …`: said once, when everything that was there at the start has been read and admitted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from dicode.messages.kinds import Config, DesiredTask, Kind, Source, Task
from dicode.process.clock import wall
from dicode.process.mirror import Mirror
from dicode.process.role import Context
from dicode.trigger.decide import Bound, all_admitted
from dicode.wire.client import Wire

LOOK = 0.05  # seconds
NOTICE = 1.0  # seconds a source-controller has to say `pending`, from when it took its lock; until then a status may be its predecessor's


async def say_ready(context: Context, wire: Wire, engine: Mirror, bound: Callable[[], Bound]) -> None:
    """Wait until all is admitted and say so; after a restart of this role alone it has been said."""
    if context.first_start:
        await engine.start()
        await _wait(wire, engine, bound, context.settings.run / "source-controller.lock")
        where = bound()
        hooks = f"hooks {where.url}" if where.url else "hooks nowhere yet"
        count = sum(bool(task.digest) for _, task in engine.all(Task))
        context.log.say(f"ready: {count} task{'' if count == 1 else 's'}, {hooks}")
    await context.stopping.wait()


async def _wait(wire: Wire, engine: Mirror, bound: Callable[[], Bound], lock: Path) -> None:
    """A mirror of our own for what is only needed now: thousands of DesiredTasks are let go afterwards."""
    claims = Mirror(wire, (Source, DesiredTask), _unheard)
    following = asyncio.create_task(claims.run(), name="claims until ready")
    try:
        await claims.start()
        at_first = _epochs(claims)
        while not (_present(claims, engine, at_first, lock) and _admitted(claims, engine) and (bound().url or bound().why)):
            await asyncio.sleep(LOOK)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def _unheard(kind: type[Kind], key: str, cause: str) -> None:
    """Looking twenty times a second costs less than looking at each of ten thousand changes."""


def _epochs(claims: Mirror) -> set[str]:
    """Of the controllers that wrote the Sources; those not read yet are certainly of the present one."""
    return {source.epoch for _, source in claims.all(Source) if source.status != "pending"}


def _present(claims: Mirror, engine: Mirror, at_first: set[str], lock: Path) -> bool:
    """What the Sources say is said by the controller that runs now."""
    epochs = {source.epoch for _, source in claims.all(Source)}
    if epochs and not epochs & at_first:
        return True
    try:
        taken = lock.stat().st_mtime
    except FileNotFoundError:
        return False  # none was ever started here
    nothing_older = all(task.registered_at >= taken * 1000 for _, task in engine.all(Task))
    return (bool(epochs) and nothing_older) or wall() - taken > NOTICE


def _admitted(claims: Mirror, engine: Mirror) -> bool:
    sources = dict(claims.all(Source))
    desired = [claim for _, claim in claims.all(DesiredTask)]
    return all_admitted(engine.get(Config, "dicode.yaml"), sources, desired, lambda id: engine.get(Task, id))
