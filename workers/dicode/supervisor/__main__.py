"""`dicode supervisor [--keep-daemons]`: wiring only."""

from __future__ import annotations

from dicode.process import role
from dicode.process.settings import Settings
from dicode.supervisor.act import Supervisor
from dicode.wire.client import Wire
from dicode.wire.frames import endpoints

KEEP_DAEMONS = "--keep-daemons"  # the keeper knows this word too: it leaves their processes alone


def main(argv: list[str], settings: Settings) -> int:
    """Live as the supervisor until told to stop. Gives the exit code."""
    return role.run("supervisor", argv, settings, _main)


async def _main(context: role.Context) -> None:
    unknown = [word for word in context.argv if word != KEEP_DAEMONS]
    if unknown:
        raise role.Refused(f"supervisor: unknown option {unknown[0]!r}; there is {KEEP_DAEMONS}", 2)
    wire = Wire(*endpoints(context.settings.data_dir))
    deaf = context.settings.environ.get("DICODE_TEST_DROP_HINTS") == "1"
    try:
        await Supervisor(context, wire, drop_hints=deaf).live(keep_daemons=KEEP_DAEMONS in context.argv)
    finally:
        wire.close()
