"""source add, remove, list, sync, dev, confirm: where tasks come from, as far as the store keeps it. dicode.yaml is never written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Annotated

import msgspec
import typer

from dicode.admin import show
from dicode.admin.ask import ANSWER, request, talking
from dicode.admin.errors import Usage
from dicode.admin.get import Output, get
from dicode.admin.nouns import unknown
from dicode.admin.place import Place
from dicode.messages.kinds import ConfigSource, Source
from dicode.process.clock import wall_ms
from dicode.process.logs import clean
from dicode.spec.names import NOT_TELLABLE, is_tellable, speakable

SYNC_WAIT = 120.0  # seconds `sync --wait` waits: a reading may take its time
OPTION = {"poll_interval": "--poll", "auth": "--token-env", "webhook_secret_env": "--webhook-secret-env"}
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
    place: Annotated[str, typer.Argument(metavar="PATH|URL", help="a folder of task folders or with a taskset.yaml, or a git repository")],
    branch: Annotated[str | None, typer.Option(metavar="B", help="git: the branch to follow (main)")] = None,
    path: Annotated[str | None, typer.Option(metavar="P", help="git: a folder or TaskSet inside the repository")] = None,
    poll: Annotated[str | None, typer.Option(metavar="D", help="git: how often to look (30s)")] = None,
    token_env: Annotated[str | None, typer.Option(metavar="V", help="git: the variable that holds the token")] = None,
    webhook_secret_env: Annotated[str | None, typer.Option(metavar="V", help="git: the variable with the secret of its push webhook")] = None,
) -> None:
    """Draw tasks from another folder or repository; kept in the store, beside those of dicode.yaml. Example: dicode source add infra https://github.com/acme/tasks --path taskset.yaml"""
    options = {
        "branch": branch,
        "path": path,
        "poll_interval": poll,
        "auth": {"token_env": token_env} if token_env is not None else None,
        "webhook_secret_env": webhook_secret_env,
    }
    spec = as_written(name, place, {key: value for key, value in options.items() if value is not None})
    if spec.type == "local" and not os.path.exists(spec.path):
        raise Usage(f"{place}: no such folder")
    with talking(Place.of(ctx).settings) as wire:
        print(f"source/{name} {request(wire, 'source.add', name, args_of(spec)) or 'added'}")


def as_written(name: str, place: str, options: Mapping[str, object]) -> ConfigSource:
    """The source as dicode.yaml would have it, relative to the working directory. Raises Usage with what it would say."""
    from dicode.spec.config import parse_config

    entry: dict[str, object]
    if URL.match(place):
        entry = {"name": name, "type": "git", "url": place, **options}
    elif options:
        raise Usage(f"{', '.join(OPTION.get(key, f'--{key}') for key in options)}: only for git; {place} is a folder")
    else:
        entry = {"name": name, "type": "local", "path": place}
        if not is_tellable(os.path.abspath(place)):
            raise Usage(f"{speakable(place)}: {NOT_TELLABLE}")
    written = json.dumps({"sources": [entry]}, ensure_ascii=False).encode(errors="surrogateescape")
    parsed = parse_config(written, "", base_dir=os.getcwd(), home=os.path.expanduser("~"))
    if parsed.config is None:
        raise Usage(f"source {name}: {parsed.faults[0].message}")
    return parsed.config.sources[0]


def args_of(spec: ConfigSource) -> dict[str, object]:
    """As `source.add` takes them."""
    fields: dict[str, object] = msgspec.to_builtins(spec)
    return {"type": spec.type, **{name: value for name, value in fields.items() if name not in ("name", "type")}}


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
    wait: Annotated[bool, typer.Option("--wait", help="until it has been read, and tell what it is at")] = False,
) -> None:
    """Read a source now instead of at its next turn. Example: dicode source sync examples --wait"""
    place = Place.of(ctx)
    with talking(place.settings) as wire:
        known(place, name)
        said = request(wire, "source.sync", name, wait=SYNC_WAIT if wait else 0)
        print(f"source/{name} {clean(said) or ('read' if wait else 'is asked to be read')}{reached(known(place, name)) if wait else ''}")


def reached(source: Source) -> str:
    """` at abc1234: Fix the digest (Ada, 3m ago)`: the commit the source is at; "" for a folder."""
    if source.commit is None:
        return f" at {show.short_revision(source.revision)}" if source.revision else ""
    author = source.commit.author.partition(" <")[0]
    when = f"{show.age(source.commit.at, wall_ms())} ago" if source.commit.at else ""
    by = ", ".join(filter(None, (author, when)))
    return clean(f" at {show.short_revision(source.commit.id)}: {source.commit.subject}" + (f" ({by})" if by else ""))


@app.command()
def dev(
    ctx: typer.Context,
    name: Name,
    local_path: Annotated[str | None, typer.Option(metavar="P", help="read it from this working copy, with the speed of local editing")] = None,
    branch: Annotated[str | None, typer.Option(metavar="B", help="read it from this branch")] = None,
    disable: Annotated[bool, typer.Option("--disable", help="go back to what the source says")] = False,
) -> None:
    """Point a whole source at your working copy or at a branch, and back. Example: dicode source dev infra --local-path ~/code/tasks"""
    args = dev_args(local_path, branch, disable)
    place = Place.of(ctx)
    with talking(place.settings) as wire:
        if known(place, name).type == "local" and branch is not None:
            raise Usage(f"source {name} is a folder and has no branches: use --local-path P")
        said = request(wire, "source.dev", name, args, wait=SYNC_WAIT)
        print(f"source/{name} {clean(said) or ('is back at what it says' if disable else f'in dev mode at {local_path or branch}')}")


def dev_args(local_path: str | None, branch: str | None, disable: bool) -> dict[str, object]:
    """As `source.dev` takes them. Raises Usage unless exactly one was said, and the path is there."""
    if (local_path is not None) + (branch is not None) + disable != 1:
        raise Usage("say one of --local-path P, --branch B, --disable")
    if disable:
        return {"disable": True}
    if branch is not None:
        if not branch.strip():
            raise Usage("--branch needs the name of a branch")
        return {"branch": branch}
    folder = os.path.abspath(os.path.expanduser(str(local_path)))
    if not os.path.exists(folder):
        raise Usage(f"{local_path}: no such file or folder")
    if not is_tellable(folder):
        raise Usage(f"{speakable(folder)}: {NOT_TELLABLE}")
    return {"local_path": folder}


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
