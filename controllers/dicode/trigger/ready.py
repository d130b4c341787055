"""The line `ready: …`: said once, when everything that was there at the start has been read and admitted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from dicode.messages.kinds import Config, DesiredTask, Kind, Source, Task
from dicode.process.clock import mono
from dicode.process.mirror import Mirror
from dicode.process.role import Context
from dicode.trigger.decide import Bound, all_read, settled
from dicode.wire.client import Wire

LOOK = 0.02  # seconds
LOOK_SHARE = 10  # a look that took long is followed by a pause that many times as long
SAID = "ready-was-said"  # a file the keeper holds: it lives as long as our keeper, longer than we do
CONFIG_KEY = "dicode.yaml"


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
    waited_for: dict[str, None] = {}  # keys of DesiredTasks that have not been seen registered, the longest first

    def heard(kind: type[Kind], key: str, cause: str) -> None:
        if kind is DesiredTask:
            waited_for[key] = None

    claims = Mirror(wire, (Config, Source, DesiredTask), heard)
    following = asyncio.create_task(claims.run(), name="claims until ready")
    try:
        await engine.start()
        await claims.start()
        while True:
            began = mono()
            _drop_settled(waited_for, claims, engine)
            if not waited_for and _present(claims, lock) and _all_read(claims) and (bound().url or bound().why):
                return
            await asyncio.sleep(max(LOOK, LOOK_SHARE * (mono() - began)))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def _drop_settled(waited_for: dict[str, None], claims: Mirror, engine: Mirror) -> None:
    """Up to the first that is not: so each of ten thousand is looked at about once."""
    while waited_for:
        key = next(iter(waited_for))
        claim = claims.get(DesiredTask, key)
        if claim is not None and not settled(claim, engine.get(Task, claim.id)):
            return
        del waited_for[key]


def _present(claims: Mirror, lock: Path) -> bool:
    """What the Config and the Sources say is said by the source-controller that holds the lock now, not by one before it."""
    try:
        taken = int(lock.stat().st_mtime * 1000)
    except FileNotFoundError:
        return False  # none was ever started here
    config = claims.get(Config, CONFIG_KEY)
    return config is not None and all(int(epoch or 0) >= taken for epoch in (config.epoch, *(source.epoch for _, source in claims.all(Source))))


def _all_read(claims: Mirror) -> bool:
    return all_read(claims.get(Config, CONFIG_KEY), dict(claims.all(Source)))
