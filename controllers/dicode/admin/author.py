"""init, validate, render, schema: for whoever writes tasks; nothing need run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicode.admin import starters
from dicode.admin.errors import Failed, Usage
from dicode.admin.nouns import unknown

Folder = Annotated[Path, typer.Argument(metavar="PATH", help="a task folder, a folder of them, or a TaskSet")]
SCHEMAS = ("task", "taskset", "config")
FORMATS = ("json", "yaml", "name", "table")


def init(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="the new folder; its name is the task's id")] = "hello",
    runtime: Annotated[str, typer.Option(metavar="|".join(starters.RUNTIMES), help="what it is written in")] = "python",
) -> None:
    """Write a first task that runs as it is, and a dicode.yaml if there is none. Example: dicode init backup --runtime shell"""
    if runtime not in starters.RUNTIMES:
        raise Usage(unknown("runtime", runtime, starters.RUNTIMES))
    folder = Path(name)
    fault = starters.bad_name(folder.name)
    if fault:
        raise Usage(fault)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Failed(f"{name} is there already: choose another name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in starters.files(folder.name, runtime).items():
            (folder / file).write_text(text)
            if text.startswith("#!"):
                (folder / file).chmod(0o755)
            print(f"wrote {folder / file}")
        config = Path("dicode.yaml")
        if not config.exists():
            config.write_text(starters.config())
            print(f"wrote {config}")
    except OSError as error:
        raise Failed(f"{error.filename}: {error.strerror}") from None
    if starters.is_watched(folder):
        print(f"next: dicode up, and in another terminal: dicode run {folder.as_posix()}")
    else:
        print(f"next: dicode up {folder.parent}, and in another terminal: dicode run {folder.name}")


def validate(path: Folder = Path()) -> int:
    """Check a task folder, a folder of them, a TaskSet or a dicode.yaml, and print every fault with its line. Example: dicode validate examples"""
    from dicode.admin import offline

    return offline.validate(path)


def render(
    path: Folder,
    output: Annotated[str, typer.Option("--output", "-o", metavar="|".join(FORMATS), help="how to print it")] = "json",
    source_name: Annotated[str, typer.Option(metavar="NAME", help="the name the source would have")] = "",
    root: Annotated[Path | None, typer.Option(help="the folder nothing may lead out of; default: the git work tree, else PATH")] = None,
    dev: Annotated[bool, typer.Option("--dev", help="as in dev mode")] = False,
    manifest: Annotated[str | None, typer.Option(metavar="ID", help="print only this task's manifest: its sha256 is the digest")] = None,
    spec: Annotated[str | None, typer.Option(metavar="ID", help="print only this task's spec, as it is hashed")] = None,
) -> int:
    """Print what a folder resolves to, as a running dicode would see it: ids, digests, specs. Example: dicode render examples -o name"""
    from dicode.admin import offline

    if output not in FORMATS:
        raise Usage(unknown("output format", output, FORMATS))
    return offline.render(path, output=output, source_name=source_name, root=root, dev=dev, manifest=manifest, spec=spec)


def schema(
    kind: Annotated[str, typer.Argument(metavar="[task|taskset|config]", help="which file it is for")] = "task",
) -> int:
    """Print the JSON Schema of task.yaml, taskset.yaml or dicode.yaml, for an editor. Example: dicode schema taskset > taskset.schema.json"""
    from dicode.admin import offline

    if kind not in SCHEMAS:
        raise Usage(unknown("kind of file", kind, SCHEMAS))
    return offline.schema(kind)
