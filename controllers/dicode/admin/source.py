"""source add, remove, list, sync, confirm: where tasks come from, as far as the store keeps it. dicode.yaml is never written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from dicode.admin.ask import ANSWER, request, talking
from dicode.admin.errors import Usage
from dicode.admin.get import Output, get
from dicode.admin.nouns import unknown
from dicode.admin.place import Place
from dicode.messages.kinds import Source

SYNC_WAIT = 120.0  # seconds `sync --wait` waits: a reading may take its time
URL = re.compile(r"[a-z+]+://|[\w.-]+@[\w.-]+:", re.ASCII)

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Say where tasks come from. Example: dicode source add jobs ./jobs",
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="a source's name")]


@app.command()
def add(
    ctx: typer.Context,
    name: Name,
    path: Annotated[str, typer.Argument(metavar="PATH", help="a folder of task folders")],
) -> None:
    """Watch another folder; it is kept in the store, beside those of dicode.yaml. Example: dicode source add jobs ./jobs"""
    if URL.match(path):
        raise Usage(f"{path}: git sources are not in this release; clone it and add the folder")
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise Usage(f"{path}: no such folder")
    with talking(Place.of(ctx).settings) as wire:
        print(f"source/{name} {request(wire, 'source.add', name, {'type': 'local', 'path': str(folder)}) or 'added'}")


@app.command()
def remove(ctx: typer.Context, name: Name) -> None:
    """Forget a source that was added here; its tasks are unregistered. Example: dicode source remove jobs"""
    place = Place.of(ctx)
    with talking(place.settings) as wire:
        found = known(place, name)
        if found.origin == "file":
            raise Usage(f"source {name} is from {written_in(place, name)}: take it out there")
        if found.origin == "up":
            raise Usage(f"source {name} was given to `dicode up`: it is gone when that ends")
        print(f"source/{name} {request(wire, 'source.remove', name) or 'removed'}")


@app.command("list")
def list_(ctx: typer.Context, output: Output = "table") -> None:
    """List the sources, the same as `dicode get sources`. Example: dicode source list -o wide"""
    get(ctx, "sources", output=output)


@app.command()
def sync(
    ctx: typer.Context,
    name: Name,
    wait: Annotated[bool, typer.Option("--wait", help="until it has been read")] = False,
) -> None:
    """Read a source now instead of at its next turn. Example: dicode source sync examples --wait"""
    place = Place.of(ctx)
    with talking(place.settings) as wire:
        known(place, name)
        said = request(wire, "source.sync", name, wait=SYNC_WAIT if wait else 0)
        print(f"source/{name} {said or ('read' if wait else 'is asked to be read')}")


@app.command()
def confirm(ctx: typer.Context, name: Name) -> None:
    """Agree that a source has lost most of its tasks, which is held until then. Example: dicode source confirm examples"""
    place = Place.of(ctx)
    with talking(place.settings) as wire:
        known(place, name)
        print(f"source/{name} {request(wire, 'source.confirm', name, wait=ANSWER) or 'confirmed'}")


def known(place: Place, name: str) -> Source:
    """The source of this name. Raises Usage, with the nearest name, when there is none."""
    found = place.store.get(Source, name)
    if found is None:
        raise Usage(unknown("source", name, place.store.all(Source)))
    return found


def written_in(place: Place, name: str) -> str:
    """`dicode.yaml:7`, the line that names the source; only the file where the line cannot be told."""
    file = place.settings.config
    if file is None:
        return "dicode.yaml"
    end = rf"""{re.escape(name)}["']?\s*([,}}\]#]|$)"""
    lines = file.read_text(errors="replace").splitlines()
    for key in (rf"""\bname:\s*["']?{end}""", rf"""\b(path|url):\s*(\S*/)?{end}"""):
        for number, text in enumerate(lines, 1):
            if re.search(key, text):
                return f"{file.name}:{number}"
    return file.name
