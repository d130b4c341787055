"""The source-controller: wiring only."""

from __future__ import annotations

import gc
import sys

from dicode.process import role
from dicode.process.living import until_stopped
from dicode.process.settings import Settings
from dicode.source.configuration import NoConfig
from dicode.source.controller import SourceController
from dicode.wire.client import Wire
from dicode.wire.frames import endpoints

SWITCH = 0.001  # seconds; while the disk thread makes a round, a save must not wait the usual 5 ms for the interpreter
GARBAGE = (20_000, 10, 50)  # what is remembered of 10,000 tasks is looked through in 20 ms, which a save would have to wait for


def main(argv: list[str], settings: Settings) -> int:
    return role.run("source-controller", argv, settings, _main)


async def _main(context: role.Context) -> None:
    sys.setswitchinterval(SWITCH)
    gc.set_threshold(*GARBAGE)
    wire = Wire(*endpoints(context.settings.data_dir))
    deaf = context.settings.environ.get("DICODE_TEST_DROP_HINTS") == "1"
    controller = SourceController(wire, context.settings, context.log, drop_hints=deaf)
    try:
        await until_stopped(context, controller.mirror.run(), _work(controller, context))
    except NoConfig as error:
        context.keeper.refused(str(error))
        raise role.Refused(str(error), role.EX_CONFIG) from None
    finally:
        controller.close()
        wire.close()


async def _work(controller: SourceController, context: role.Context) -> None:
    await controller.start()
    context.keeper.ready()
    await controller.run()
