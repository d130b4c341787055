"""get, events: listings. They read the store's file, so they answer whether or not anything runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from dicode.admin import show
from dicode.admin.errors import Usage
from dicode.admin.nouns import NOUNS, Noun, noun_of, status_of, unknown
from dicode.admin.place import Place
from dicode.messages.kinds import Daemon, Delivery, Event, Kind, Route, Run, Schedule, Source, Task, Worker
from dicode.process.clock import wall_ms

FORMATS = ("table", "wide", "json", "yaml", "name")
LOOK_AGAIN = 1.0  # seconds --watch waits for a hint before it looks all the same

Output = Annotated[str, typer.Option("--output", "-o", metavar="|".join(FORMATS[1:]), help="how to print it")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="go on and print each change")]


def get(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="KIND", help=", ".join(noun.plural for noun in NOUNS))],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="only this one; for events: what they are about")] = None,
    output: Output = "table",
    watch: Watch = False,
    source: Annotated[str | None, typer.Option(help="only what comes from this source")] = None,
    status: Annotated[str | None, typer.Option(help="only what is in one of these states, by comma")] = None,
    task: Annotated[str | None, typer.Option(help="only what belongs to this task")] = None,
) -> None:
    """List objects of one kind, or show one by its name. Example: dicode get tasks -o wide"""
    noun = noun_of(kind)
    if noun is None:
        raise Usage(unknown("kind", kind, [noun.plural for noun in NOUNS]))
    _check_format(output)
    place = Place.of(ctx)
    wanted = Wanted(place, noun, name, source, status, task)
    printer = Printer(noun, output, single=wanted.named)
    if watch:
        follow(place, wanted, printer)
    else:
        printer.all(wanted.now())


def events(
    ctx: typer.Context,
    about: Annotated[str | None, typer.Argument(metavar="[OBJECT]", help="a task's id, a source's name, or `task/x`")] = None,
    output: Output = "table",
    watch: Watch = False,
) -> None:
    """Tell what happened, oldest first. Example: dicode events backup --watch"""
    get(ctx, "events", about, output, watch)


def _check_format(output: str) -> None:
    if output not in FORMATS:
        raise Usage(unknown("output format", output, FORMATS[1:]))


class Wanted:
    """Which objects of one kind were asked for. Raises Usage for names, sources and states that do not exist."""

    def __init__(self, place: Place, noun: Noun, name: str | None, source: str | None, status: str | None, task: str | None) -> None:
        self._place = place
        self.noun = noun
        self._name = name
        self._source = source
        self._task = task
        self._statuses = _statuses(noun, status)
        self.named = name is not None and noun.kind is not Event
        if source is not None and place.store.get(Source, source) is None:
            raise Usage(unknown("source", source, place.store.all(Source)))
        if task is not None:
            place.task(task)

    def now(self) -> list[tuple[str, Kind]]:
        """What there is at this moment, in the order of the listing."""
        if self.named:
            return [self._one(str(self._name))]
        return sorted(((key, value) for key, value in self._place.store.all(self.noun.kind).items() if self.fits(key, value)), key=_place_in_list)

    def fits(self, key: str, value: Kind) -> bool:
        if self._name is not None and not (_is_about(value, self._name) if isinstance(value, Event) else key == self._name):
            return False
        if self._task is not None and task_of(value) != self._task:
            return False
        if self._source is not None and self._source_of(value) != self._source:
            return False
        return not self._statuses or bool(self._statuses & set(states_of(value)))

    def _one(self, name: str) -> tuple[str, Kind]:
        found = self._place.store.get(self.noun.kind, name)
        if found is not None:
            return name, found
        known = self._place.store.all(self.noun.kind)
        if self.noun.kind is Run and len(name) >= 4:
            begun = [key for key in known if key.startswith(name)]
            if len(begun) == 1:
                return begun[0], known[begun[0]]
        raise Usage(unknown(self.noun.singular, name, known))

    def _source_of(self, value: Kind) -> str:
        if isinstance(value, Source):
            return value.name
        if isinstance(value, Task):
            return value.source
        task = self._place.store.get(Task, task_of(value))
        return task.source if task is not None else ""


def _statuses(noun: Noun, written: str | None) -> set[str]:
    if written is None:
        return set()
    if not noun.statuses:
        raise Usage(f"{noun.plural} have no status to choose by")
    result = set()
    for word in written.split(","):
        status = status_of(noun, word.strip())
        if status is None:
            raise Usage(unknown("status", word.strip(), noun.statuses))
        result.add(status)
    return result


def states_of(value: Kind) -> tuple[str, ...]:
    """What `--status` may match."""
    match value:
        case Task():
            return (value.health, value.sync, *(("Suspended",) if value.suspended else ()))
        case Run() | Source():
            return (value.status,)
        case Daemon() | Worker():
            return (value.state,)
        case Event():
            return (value.type,)
    return ()


def task_of(value: Kind) -> str:
    """The task an object belongs to; "" for none."""
    match value:
        case Task():
            return value.id
        case Run() | Daemon() | Schedule() | Route() | Delivery():
            return value.task
        case Event():
            return value.object.removeprefix("task/") if value.object.startswith("task/") else ""
    return ""


def _is_about(event: Event, name: str) -> bool:
    return event.object == name or event.object.partition("/")[2] == name


def _place_in_list(item: tuple[str, Kind]) -> tuple[int, str]:
    """Runs by age, sources as dicode.yaml has them, the rest by key."""
    key, value = item
    if isinstance(value, Run):
        return value.created, key
    if isinstance(value, Delivery):
        return value.at, key
    return (value.order if isinstance(value, Source) else 0), key


class Printer:
    """Prints objects of one kind in one format; `single`: the one that was named, not a list."""

    def __init__(self, noun: Noun, output: str, *, single: bool) -> None:
        self._noun = noun
        self._output = output
        self._single = single
        self._widths: list[int] = []

    def all(self, items: list[tuple[str, Kind]]) -> None:
        match self._output:
            case "json" | "yaml":
                shapes = [show.shape(key, value) for key, value in items]
                value = shapes[0] if self._single else shapes
                print(show.as_json(value) if self._output == "json" else as_yaml(value), end="" if self._output == "yaml" else "\n")
            case "name":
                for key, _ in items:
                    print(f"{self._noun.singular}/{key}")
            case _ if items:
                print(self._table(value for _, value in items))
            case _:
                print(f"no {self._noun.plural}", file=sys.stderr)
        sys.stdout.flush()

    def one(self, key: str, value: Kind | None) -> None:
        """A change; None: the object is gone."""
        match self._output:
            case "json":
                print(show.as_json_line(show.shape(key, value) if value is not None else {"id": key, "removed": True}))
            case "yaml":
                print("---\n" + as_yaml(show.shape(key, value) if value is not None else {"id": key, "removed": True}), end="")
            case "name":
                print(f"{self._noun.singular}/{key}" + ("" if value is not None else " removed"))
            case _ if value is None:
                print(show.for_terminal(f"{key}{show.GAP}removed"))
            case _:
                print(self._table([value]).split("\n", 1)[1] if self._widths else self._table([value]))
        sys.stdout.flush()

    def _table(self, values: Iterable[Kind]) -> str:
        wide = self._output == "wide"
        now = wall_ms()
        text, self._widths = show.aligned(show.header(self._noun.kind, wide), [show.row(value, now, wide) for value in values], at_least=self._widths)
        return text


def as_yaml(value: object) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False)


def follow(place: Place, wanted: Wanted, printer: Printer) -> None:
    """Print what there is and then each change, until Ctrl-C. Hints of the store hurry; without them the file is looked at anyway."""
    kind = wanted.noun.kind
    since = place.store.head(kind)
    items = wanted.now()
    printer.all(items)
    shown = {key for key, _ in items}
    for _ in hints(place, kind):
        listed, since = place.store.changes(kind, since)
        for key, value in listed:
            if value is not None and wanted.fits(key, value):
                printer.one(key, value)
                shown.add(key)
            elif value is None and key in shown:
                printer.one(key, None)
                shown.discard(key)


def hints(place: Place, kind: type[Kind]) -> Iterator[None]:
    """Yields when it is worth looking again: at each published change of this kind, and after LOOK_AGAIN of silence."""
    from dicode.wire.blocking import BlockingWire
    from dicode.wire.frames import endpoints

    wire = BlockingWire(*endpoints(place.settings.data_dir))
    wire.subscribe([kind.__name__])
    try:
        while True:
            wire.hear(LOOK_AGAIN)  # a heartbeat makes us look, too: the newest change may be the one that was lost
            yield
    finally:
        wire.close()
