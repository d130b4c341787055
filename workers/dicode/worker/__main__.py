"""`dicode worker [--labels a,b]`."""

from __future__ import annotations

from dicode.process import role
from dicode.process.settings import Settings
from dicode.wire.client import Wire
from dicode.wire.frames import endpoints
from dicode.worker.act import WorkerRole
from dicode.worker.nursery import end_orphans


def main(argv: list[str], settings: Settings) -> int:
    """Live as a worker until told to stop. Gives the exit code."""
    return role.run("worker", argv, settings, _main)


async def _main(context: role.Context) -> None:
    labels = labels_of(context.argv)
    orphans = await end_orphans(context.settings, context.name)
    if orphans:
        context.log.say(f"{context.name}: killed {orphans} processes a former worker had left")
    wire = Wire(*endpoints(context.settings.data_dir))
    try:
        await WorkerRole(context, wire, labels).work()
    finally:
        wire.close()


def labels_of(argv: list[str]) -> tuple[str, ...]:
    """`--labels a,b` or `--labels=a,b`. Raises Refused (2) for anything else."""
    labels = ""
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--labels":
            raise role.Refused(f"worker: unknown option {word!r}; there is --labels a,b", 2)
        labels = value if equals else next(words, "")
    return tuple(label.strip() for label in labels.split(",") if label.strip())
