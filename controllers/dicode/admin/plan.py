"""plan: what would change if a source said something else, against what is registered.

What it would say is asked of the source-controller where one runs, else found out here; what would come of it is told
by `spec.plan`, from the objects in the store.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from dicode.admin import show
from dicode.admin.ask import NOTHING_RUNS, request, talking
from dicode.admin.errors import Failed, Usage
from dicode.admin.nouns import nearest, unknown
from dicode.admin.place import Place
from dicode.messages.kinds import Daemon, DesiredTask, Schedule, Source, Task
from dicode.process.clock import wall_ms
from dicode.process.finding import work_tree
from dicode.process.logs import clean
from dicode.process.zone import machine_zone
from dicode.spec.plan import Error, Offer, Offered, Plan, World, offer_of
from dicode.spec.plan import plan as made_of
from dicode.spec.task import not_built

WAIT = 120.0  # seconds: a ref may have to be fetched and read whole
FORMATS = ("text", "json", "yaml")
CHANGES, UNSOUND = 3, 1  # exit codes


class Asked(NamedTuple):
    """What is compared with what. `args` as `source.plan` takes them; `path`: where to read it when nothing runs, None for a ref."""

    source: Source
    args: dict[str, str]
    path: Path | None
    words: str


def plan(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="PATH|NAME", help="a working copy, or a source's name")],
    ref: Annotated[str | None, typer.Option(metavar="B", help="this branch of a git source instead of the one it follows")] = None,
    source: Annotated[str | None, typer.Option(metavar="NAME", help="the source PATH is a working copy of")] = None,
    output: Annotated[str, typer.Option("--output", "-o", metavar="|".join(FORMATS), help="how to print it")] = "text",
) -> int:
    """Tell what would change against what is registered; exit 3 if anything would, 1 for nothing but errors. Example: dicode plan infra --ref my-branch"""
    if output not in FORMATS:
        raise Usage(unknown("output format", output, FORMATS))
    place = Place.of(ctx)
    asked = asked_for(known_sources(place), target, ref, source)
    offer = offer_for(place, asked)
    found = made_of(offer, asked.source, world(place))
    if output == "text":
        print("\n".join(clean(line) for line in text(found, asked, offer)))
    else:
        print_shape(shape(found, asked, offer), output)
    if asked.source.suspended:
        print(f"dicode: source {asked.source.name} is suspended: nothing of this happens before dicode resume {asked.source.name}", file=sys.stderr)
    if found.changes:
        return CHANGES
    return UNSOUND if found.errors or found.collisions else 0


def world(place: Place) -> World:
    """What is, as the store has it."""
    store = place.store
    return World(
        desired=store.all(DesiredTask),
        tasks=store.all(Task),
        schedules=store.all(Schedule),
        daemons=store.all(Daemon),
        not_built=not_built,
        now=wall_ms(),
        zone=machine_zone(place.settings.environ),
    )


# ── what was asked for ──


def known_sources(place: Place) -> dict[str, Source]:
    """Those of the store; where nothing ever ran, those of dicode.yaml."""
    found = place.store.all(Source)
    file = place.settings.config
    if found or file is None:
        return found
    from dicode.spec.config import parse_config  # YAML costs 20 ms, and the store knew in every other case

    parsed = parse_config(file.read_bytes(), str(file), base_dir=str(file.parent), home=os.path.expanduser("~"))
    specs = parsed.config.sources if parsed.config else ()
    return {spec.name: Source(name=spec.name, type=spec.type, spec=spec, order=order) for order, spec in enumerate(specs)}


def asked_for(sources: dict[str, Source], target: str, ref: str | None, source: str | None) -> Asked:
    """Raises Usage when it cannot be told which source is meant, or what of it."""
    if source is not None:
        if source not in sources:
            raise Usage(unknown("source", source, sources))
        if ref is not None:
            raise Usage("--ref and a PATH are two things to compare with: keep one")
        return _of_path(sources[source], existing(target))
    if target in sources:
        return _of_name(sources[target], ref)
    if ref is not None or not os.path.lexists(target):
        near = nearest(target, sources)
        raise Usage(f"no source {target!r}" + (", and nothing at this path" if ref is None else "") + (f", did you mean {near!r}?" if near else ""))
    path = existing(target)
    return _of_path(source_at(sources, path), path)


def existing(path: str) -> Path:
    if not os.path.exists(path):
        raise Usage(f"{path}: no such file or folder")
    return Path(os.path.realpath(path))


def _of_name(source: Source, ref: str | None) -> Asked:
    if ref is None:
        place = home_of(source)
        return Asked(source, {}, Path(place) if place else None, source.name)
    if source.type != "git":
        raise Usage(f"source {source.name} is a folder and has no refs: dicode plan PATH --source {source.name}")
    return Asked(source, {"branch": ref}, None, f"{source.name} at {ref}")


def _of_path(source: Source, path: Path) -> Asked:
    """A path inside of what the source reads means the source; any other is read in its place."""
    home = home_of(source)
    if home and (_lies_in(path, home) or _lies_in(path, reach_of(source))):
        return Asked(source, {}, Path(home), source.name)
    return Asked(source, {"local_path": str(path)}, entry_in(path, source), f"{source.name} from {path}")


def home_of(source: Source) -> str:
    """Where on this machine the source is read from, without links; "" when that is a repository."""
    if source.dev.startswith("/"):
        return os.path.realpath(source.dev)
    return os.path.realpath(source.spec.path) if source.type == "local" and not source.dev else ""


def reach_of(source: Source) -> str:
    """What its refs and includes may reach."""
    home = home_of(source)
    if source.spec.root and not source.dev:
        return os.path.realpath(source.spec.root)
    return work_tree(home) if os.path.isdir(home) else os.path.dirname(home)


def source_at(sources: dict[str, Source], path: Path) -> Source:
    """The source the path lies in; of several the innermost. Raises Usage."""
    for place in (home_of, reach_of):
        homes = {name: place(source) for name, source in sources.items() if home_of(source)}
        holding = [name for name, home in homes.items() if _lies_in(path, home)]
        longest = max((len(homes[name]) for name in holding), default=0)
        innermost = [name for name in holding if len(homes[name]) == longest]
        if len(innermost) == 1:
            return sources[innermost[0]]
        if innermost:
            raise Usage(f"{path} belongs to {', '.join(sorted(innermost))}: say which with --source")
    names = f"; there is {', '.join(sorted(sources))}" if sources else ", and there is no source yet: dicode init"
    raise Usage(f"{path} lies in no source: say with --source NAME what to compare it with{names}")


def _lies_in(path: Path, folder: str) -> bool:
    return bool(folder) and (str(path) == folder or str(path).startswith(folder.rstrip("/") + "/"))


def entry_in(path: Path, source: Source) -> Path:
    """Where the source begins in a working copy: at its `path:` there, else at the copy itself."""
    inside = path / source.spec.path if source.type == "git" and source.spec.path else path
    return inside if inside.exists() else path


# ── what it would say ──


def offer_for(place: Place, asked: Asked) -> Offer:
    """Raises Failed when it cannot be told."""
    try:
        with talking(place.settings) as wire:
            return decoded(request(wire, "source.plan", asked.source.name, asked.args, wait=WAIT))
    except Failed as failed:
        if str(failed) != NOTHING_RUNS:
            raise
    if asked.path is None:
        raise Failed(f"{NOTHING_RUNS}; what {asked.words} says must be fetched")
    return offer_here(place, asked.source, asked.path, dev=bool(asked.source.dev))


def decoded(message: str) -> Offer:
    offer = msgspec.json.decode(message, type=Offer)
    if not offer.file:
        return offer
    file = Path(offer.file)
    try:
        return msgspec.json.decode(file.read_bytes(), type=Offer)
    finally:
        file.unlink(missing_ok=True)


def offer_here(place: Place, source: Source, path: Path, *, dev: bool) -> Offer:
    """Read the folder ourselves: nothing else runs."""
    from dicode.admin.rendering import resolve
    from dicode.spec.resolve import Resolved

    if not path.exists():
        raise Failed(f"source {source.name}: {path} is not there")
    root = source.spec.root if not dev else ""
    rendered = resolve(path, root or None, name=source.name, dev=dev)
    written = {desired.id: desired for desired in place.store.all(DesiredTask).values() if desired.source == source.name}
    found: list[Offered] = []
    errors: list[Error] = []
    for id, each in rendered.tasks.items():
        if isinstance(each, Resolved):
            found.append(Offered(id, each.digest, each.process, each.spec, each.runtime, each.dir, set_dir=rendered.top if rendered.is_set else ""))
        elif id in written or _names_a_task(id, each[0].file):
            found.append(Offered(id, faults=each))
        else:
            errors += [Error.of(id, fault) for fault in each]
    return offer_of(found, written, errors)


def _names_a_task(id: str, file: str) -> bool:
    """A fault in a task.yaml is one of the task; any other is one of what leads to tasks."""
    return bool(id) and os.path.basename(file) == "task.yaml"


# ── for people, and for CI ──


def shape(plan: Plan, asked: Asked, offer: Offer) -> dict[str, Any]:
    """As SPEC 6 says, and `source`, `revision`, `started`, `stopped`, `held`."""
    fires = {id: {"before": [show.when(at) for at in each.before], "after": [show.when(at) for at in each.after]} for id, each in plan.next.items()}
    told: dict[str, Any] = {**msgspec.json.decode(msgspec.json.encode(plan)), "next": fires}
    more = {name: told.pop(name) for name in ("started", "stopped", "held")}
    return {**told, **more, "source": asked.source.name, "revision": offer.revision or None}


def print_shape(value: dict[str, Any], output: str) -> None:
    if output == "json":
        print(show.as_json(value))
        return
    from dicode.admin.get import as_yaml

    print(as_yaml(value), end="")


def text(plan: Plan, asked: Asked, offer: Offer) -> Iterator[str]:
    """Line by line: what comes, what changes, what goes, and what is wrong."""
    at = f" ({show.short_revision(offer.revision)})" if offer.revision else ""
    yield f"{asked.words}{at}, against what is registered:"
    yield from show.indented(show.columns(_rows(plan, offer))).splitlines()
    for collision in plan.collisions:
        yield f"  ! {collision.id}: {collision.message}"
    for error in plan.errors:
        yield f"  ✗ {error.id + ': ' if error.id else ''}{_shown(error.file)}:{error.line}:{error.column}: {error.message}"
    if plan.held:
        yield f"  the removals are held until seen twice 60 s apart, or dicode source confirm {asked.source.name}"
    yield summary(plan)


def _rows(plan: Plan, offer: Offer) -> Iterator[list[str]]:
    specs = {each.id: each.spec for each in offer.tasks}
    ways = {"daemon restarts": plan.restarted, "daemon starts": plan.started, "daemon stops": plan.stopped}
    daemons = {id: words for words, ids in ways.items() for id in ids}
    for id in plan.added:
        spec = specs.get(id)
        yield ["+", id, show.trigger_text(spec.trigger) if spec else "", *_then(plan, id, daemons)]
    for each in plan.updated:
        yield ["~", each.id, f"{each.from_[: show.HASH]} → {each.to[: show.HASH]}", *_then(plan, each.id, daemons)]
    for id in plan.removed:
        yield ["-", id, "", *_then(plan, id, daemons)]


def _then(plan: Plan, id: str, daemons: dict[str, str]) -> Iterator[str]:
    """What it does to the daemon or the schedule, if anything."""
    if id in daemons:
        yield f"↻ {daemons[id]}"
    fires = plan.next.get(id)
    if fires is not None:
        before, after = (show.local(times[0]) if times else "never" for times in (fires.before, fires.after))
        yield f"next {after}" if not fires.before else f"next {before} → {after}"


def _shown(file: str) -> str:
    here = os.getcwd() + "/"
    return file.removeprefix(here)


def summary(plan: Plan) -> str:
    """`1 to add, 2 to update, 1 to remove, 1 daemon restarts, 1 collision, 2 errors`; `nothing would change`."""
    counts = ((plan.added, "to add"), (plan.updated, "to update"), (plan.removed, "to remove"))
    told = [f"{len(items)} {words}" for items, words in counts if items]
    if not told:
        told = ["nothing would change"]
    if plan.restarted:
        told.append(_count(plan.restarted, "daemon restarts", "daemons restart"))
    if plan.collisions:
        told.append(_count(plan.collisions, "collision", "collisions"))
    if plan.errors:
        told.append(_count(plan.errors, "error", "errors"))
    return ", ".join(told)


def _count(items: Iterable[object], one: str, many: str) -> str:
    number = len(list(items))
    return f"{number} {one if number == 1 else many}"
