"""next, history, diff, explain: what a task will do, what it was, and what made it what it is."""

from __future__ import annotations

import sys
from itertools import islice
from typing import Annotated

import typer

from dicode.admin import show
from dicode.admin.errors import Failed, Usage
from dicode.admin.nouns import unknown
from dicode.admin.place import Place
from dicode.messages.kinds import History, Schedule, Task
from dicode.messages.task import TaskSpec
from dicode.process.blobs import BadBundle, Bundles, MissingBundle
from dicode.process.clock import wall_ms
from dicode.process.logs import clean

TaskId = Annotated[str, typer.Argument(metavar="ID", help="a task's id")]
Json = Annotated[str, typer.Option("--output", "-o", metavar="json", help="print JSON")]


def next_fires(ctx: typer.Context, task_id: TaskId, n: Annotated[int, typer.Option("-n", help="how many")] = 10, output: Json = "table") -> None:
    """Print the next fires of a cron task, with its time zone, DST policy and jitter applied. Example: dicode next backup -n 3"""
    from dicode.process.zone import machine_zone
    from dicode.spec.schedule import delay_of, fires

    place = Place.of(ctx)
    task = place.task(task_id)
    trigger = _spec(task).trigger
    if trigger.type != "cron":
        raise Usage(f"{task_id} has no schedule: its trigger is {show.trigger_text(trigger)}")
    if n < 1:
        raise Usage("-n is a number from 1 on")
    now = wall_ms()
    schedule = place.store.get(Schedule, task_id)
    machine = machine_zone(place.settings.environ)
    delay = delay_of(task_id, trigger.jitter)
    slots = [slot + delay for slot in islice(fires(trigger, now - delay, machine), n)]
    if output == "json":
        print(show.as_json([show.when(slot) for slot in slots]))
        return
    if task.suspended or (schedule is not None and schedule.suspended):
        print(f"dicode: {task_id} is suspended: these are recorded as skipped until dicode resume {task_id}", file=sys.stderr)
    zone = trigger.timezone or machine
    print(show.table(["NEXT", "IN", "UTC"], [[show.local(slot, zone), show.until(slot, now), str(show.when(slot))] for slot in slots]))


def history(ctx: typer.Context, task_id: TaskId, output: Json = "table") -> None:
    """List the digests a task has had, newest first, and where each came from. Example: dicode history backup"""
    place = Place.of(ctx)
    place.task(task_id)
    found = place.store.get(History, task_id) or History(task=task_id)
    if output == "json":
        print(show.as_json([show.revision_shape(found, at) for at in range(len(found.revisions))]))
        return
    now = wall_ms()
    rows = [
        [r.digest[: show.HASH], r.process[: show.HASH], str(r.generation), show.age(r.at, now), r.source, show.short_revision(r.revision), r.who]
        for r in found.revisions
    ]
    print(show.table(["HASH", "PROCESS", "GENERATION", "AGE", "SOURCE", "REVISION", "WHO"], rows))


def explain(
    ctx: typer.Context,
    task_id: TaskId,
    manifest: Annotated[bool, typer.Option("--manifest", help="print exactly the text whose sha256 is the digest")] = False,
) -> None:
    """Tell which files and which spec make a task's digest, and what changed since the one before. Example: dicode explain backup --manifest | sha256sum"""
    place = Place.of(ctx)
    task = place.task(task_id)
    _spec(task)
    bundles = Bundles(place.settings.bundles, place.settings.trees)
    text = _manifest(bundles, task.digest)
    if manifest:
        sys.stdout.buffer.write(text)
        return
    print(show.fields([("Task", task_id), ("Digest", task.digest), ("Process", task.process), ("Folder", task.dir)]))
    rows = [_row_of(line) for line in text.decode().splitlines()[1:]]
    print("\n" + show.table(["KIND", "SHA256", "SIZE", "PATH"], rows))
    before = _before(_digests(place, task), task.digest)
    if before is None:
        return
    print(f"\nsince {before[: show.HASH]}:")
    if bundles.has(before):
        print("\n".join(f"  {clean(line)}" for line in changes(_lines(_manifest(bundles, before)), _lines(text))) or "  nothing")
    else:
        print("  its bundle is no longer kept")


def diff(
    ctx: typer.Context,
    task_id: TaskId,
    from_: Annotated[str | None, typer.Option("--from", metavar="D", help="a digest, or how it begins; default: the one before")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="D", help="a digest, or how it begins; default: what is registered")] = None,
) -> None:
    """Show what changed between two digests of a task, spec and files. Example: dicode diff backup --from a1b2c3"""
    place = Place.of(ctx)
    task = place.task(task_id)
    _spec(task)
    known = _digests(place, task)
    new = _digest(to, known) if to is not None else task.digest
    old = _digest(from_, known) if from_ is not None else _before(known, new)
    if old is None:
        raise Usage(f"{task_id} has had no other digest before {new[: show.HASH]}: name one with --from (dicode history {task_id})")
    if old == new:
        print(f"dicode: both are {new[: show.HASH]}", file=sys.stderr)
    bundles = Bundles(place.settings.bundles, place.settings.trees)
    for line in version_diff(bundles, old, new):
        print(show.for_terminal(line))


def version_diff(bundles: Bundles, old: str, new: str) -> list[str]:
    """The spec field by field, then the files. Raises Failed when one of the two is not kept any more."""
    from dicode.admin.difference import files_diff, spec_diff

    for digest in (old, new):
        _manifest(bundles, digest)
    fields = [f"  {line}" for line in spec_diff(bundles.spec(old), bundles.spec(new))]
    files = files_diff(bundles.files(old), bundles.files(new), old[: show.HASH], new[: show.HASH])
    return [*(["spec:", *fields] if fields else []), *files]


def _spec(task: Task) -> TaskSpec:
    if task.spec is None or not task.digest:
        raise Failed(f"{task.id} has no good version yet: dicode describe task {task.id}")
    return task.spec


def _digest(written: str, known: list[str]) -> str:
    found = sorted({digest for digest in known if digest.startswith(written.lower())})
    if len(found) == 1:
        return found[0]
    if found:
        raise Usage(f"{len(found)} digests begin with {written!r}: type more of it")
    raise Usage(unknown("digest", written, [digest[: show.HASH] for digest in known]))


def _digests(place: Place, task: Task) -> list[str]:
    """Every digest the task is known to have had, newest first; one it came back to stands there twice."""
    history = place.store.get(History, task.id) or History(task=task.id)
    return [task.digest, *(revision.digest for revision in history.revisions)]


def _before(known: list[str], digest: str) -> str | None:
    """The digest the task had before this one; of the oldest none."""
    return next((older for older in known[known.index(digest) + 1 :] if older != digest), None)


def _manifest(bundles: Bundles, digest: str) -> bytes:
    try:
        return bundles.manifest(digest)
    except MissingBundle:
        raise Failed(f"the bundle of {digest[: show.HASH]} is not kept here any more") from None
    except BadBundle as error:
        raise Failed(f"the bundle of {digest[: show.HASH]} is damaged: {error}") from None


def _lines(manifest: bytes) -> dict[str, str]:
    """Path → the rest of its line; the spec under `(spec)`."""
    rows = [_row_of(line) for line in manifest.decode().splitlines()[1:]]
    return {path: f"{kind} {digest}" for kind, digest, _, path in rows}


def _row_of(line: str) -> list[str]:
    """(kind, sha256, size, path) of one line of a manifest."""
    if line.startswith("spec "):
        return ["spec", line[5:], "", "(spec)"]
    kind, digest, size, path = line.split(" ", 3)
    return [{"x": "program", "-": "file", "l": "link"}[kind], digest, size, path]


def changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """`+ added`, `- removed`, `~ changed` paths, by path."""
    marks = {path: "+" if path not in old else "-" if path not in new else "~" for path in {*old, *new} if old.get(path) != new.get(path)}
    return [f"{marks[path]} {path}" for path in sorted(marks)]
