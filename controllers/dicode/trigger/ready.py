"""The line `ready: …`: said once, when everything that was there at the start has been read and admitted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from dicode.messages.commands import List, Listing
from dicode.messages.kinds import Config, DesiredTask, Kind, Source, Task
from dicode.process.clock import mono, wall
from dicode.process.mirror import Mirror
from dicode.process.role import Context
from dicode.trigger.decide import Bound, all_admitted
from dicode.wire.client import Wire
from dicode.wire.frames import StoreAway, StoreFailed, decode_body

LOOK = 0.02  # seconds
LOOK_SHARE = 10  # a look that took long is followed by a pause that many times as long
SAID = "ready-was-said"  # a file the keeper holds: it lives as long as our keeper, longer than we do
NOTICE = 1.0  # seconds a source-controller has to say `pending`, from when it took its lock; until then a status may be its predecessor's


async def say_ready(context: Context, wire: Wire, engine: Mirror, bound: Callable[[], Bound]) -> None:
    """Wait until all is admitted and say so; a process that takes the place of one that said it does not say it again."""
    if SAID not in context.keeper.kept:
        await _wait(wire, engine, bound, context.settings.run / "source-controller.lock")
        where = bound()
        hooks = f"hooks {where.url}" if where.url else "hooks nowhere yet"
        count = sum(bool(task.digest) for _, task in engine.all(Task))
        context.log.say(f"ready: {count} task{'' if count == 1 else 's'}, {hooks}")
        with open(os.devnull) as mark:
            context.keeper.keep(SAID, mark.fileno())
    await context.stopping.wait()


async def _wait(wire: Wire, engine: Mirror, bound: Callable[[], Bound], lock: Path) -> None:
    """A mirror of our own for what is only needed now: thousands of DesiredTasks are let go afterwards."""
    claims = Mirror(wire, (Source, DesiredTask), _unheard)
    following = asyncio.create_task(claims.run(), name="claims until ready")
    try:
        before = await _epochs(wire)  # first of all: a source-controller that starts beside us has not written yet
        await engine.start()
        await claims.start()
        while True:
            began = mono()
            if _present(claims, engine, before, lock) and _admitted(claims, engine) and (bound().url or bound().why):
                return
            await asyncio.sleep(max(LOOK, LOOK_SHARE * (mono() - began)))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _epochs(wire: Wire) -> set[str]:
    """Of the controllers that wrote the Sources which are there now."""
    while True:
        try:
            listing = await wire.ask(List(what="Source"), Listing)
        except (StoreAway, StoreFailed):
            await asyncio.sleep(LOOK)  # it is starting
            continue
        sources = (decode_body("Source", change.body) for change in listing.changes if change.body is not None)
        return {source.epoch for source in sources if isinstance(source, Source)}


def _unheard(kind: type[Kind], key: str, cause: str) -> None:
    """Looking now and then costs less than looking at each of ten thousand changes."""


def _present(claims: Mirror, engine: Mirror, before: set[str], lock: Path) -> bool:
    """What the Sources say is said by the controller that runs now."""
    epochs = {source.epoch for _, source in claims.all(Source)}
    if epochs and not epochs & before:
        return True
    try:
        taken = lock.stat().st_mtime
    except FileNotFoundError:
        return False  # none was ever started here
    nothing_older = all(task.registered_at >= taken * 1000 for _, task in engine.all(Task))
    return (bool(epochs) and nothing_older) or wall() - taken > NOTICE


def _admitted(claims: Mirror, engine: Mirror) -> bool:
    sources = dict(claims.all(Source))
    desired = (claim for _, claim in reversed(list(claims.all(DesiredTask))))  # the newest first: they are the ones to wait for
    return all_admitted(engine.get(Config, "dicode.yaml"), sources, desired, lambda id: engine.get(Task, id))
