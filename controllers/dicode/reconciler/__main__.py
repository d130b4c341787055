"""The reconciler: wiring only."""

from __future__ import annotations

from dicode.process import role
from dicode.process.living import until_stopped
from dicode.process.settings import Settings
from dicode.reconciler.act import Reconciler
from dicode.wire.client import Wire
from dicode.wire.frames import endpoints


def main(argv: list[str], settings: Settings) -> int:
    return role.run("reconciler", argv, settings, _main)


async def _main(context: role.Context) -> None:
    wire = Wire(*endpoints(context.settings.data_dir))
    deaf = context.settings.environ.get("DICODE_TEST_DROP_HINTS") == "1"
    reconciler = Reconciler(wire, context.log, context.settings.environ, drop_hints=deaf)
    try:
        await until_stopped(context, reconciler.mirror.run(), _reconcile(reconciler, context))
    finally:
        wire.close()


async def _reconcile(reconciler: Reconciler, context: role.Context) -> None:
    await reconciler.mirror.start()  # nothing may be decided from absence before the tables are full
    context.keeper.ready()
    await reconciler.queue.run()
