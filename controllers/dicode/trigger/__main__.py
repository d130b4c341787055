"""The trigger-engine: wiring only."""

from __future__ import annotations

import asyncio

from dicode.messages.kinds import Config
from dicode.process import role
from dicode.process.http import Server
from dicode.process.living import until_stopped
from dicode.process.settings import Settings
from dicode.trigger.act import TriggerEngine
from dicode.trigger.hooks import HookApp
from dicode.trigger.listening import Listening
from dicode.trigger.ready import say_ready
from dicode.trigger.relaying import Relaying
from dicode.wire.client import Wire
from dicode.wire.frames import endpoints


def main(argv: list[str], settings: Settings) -> int:
    return role.run("trigger-engine", argv, settings, _main)


async def _main(context: role.Context) -> None:
    settings = context.settings
    wire = Wire(*endpoints(settings.data_dir))
    engine = TriggerEngine(wire, settings, context.log)
    app = HookApp(wire, engine.mirror, engine.hooks, settings, context.log)
    relaying = Relaying(app, engine.mirror, settings.environ, context.log)
    server = Server(app)
    listening = Listening(server, context.keeper, settings.run / "hooks.addr", context.log, engine.rebound)
    try:
        await listening.take_kept()  # before anything is known: callers wait a moment instead of being refused
        await until_stopped(
            context,
            engine.mirror.run(),
            _engage(context, engine, app, listening, relaying),
            app.watch.follow(),
            say_ready(context, wire, engine.mirror, lambda: listening.bound),
        )
        app.closing.set()
        left = max(0.0, context.stop_left() - 1.0)
        await asyncio.gather(server.close(within=left), relaying.close(within=left))
    finally:
        wire.close()


async def _engage(context: role.Context, engine: TriggerEngine, app: HookApp, listening: Listening, relaying: Relaying) -> None:
    await engine.mirror.start()  # nothing may be decided from absence before the tables are full
    app.known.set()
    context.keeper.ready()
    await until_stopped(
        context,
        engine.queue.run(),
        engine.keep_time(),
        listening.follow(lambda: _wanted(engine), engine.configured),
        relaying.follow(engine.relay_configured),
    )


def _wanted(engine: TriggerEngine) -> str | None:
    config = engine.mirror.get(Config, "dicode.yaml")
    return config.hooks_listen if config else None
