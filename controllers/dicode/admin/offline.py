"""`render`, `validate`, `schema`: what can be said of task folders without a running system. No store, no network."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dicode.messages.fault import Fault
from dicode.process.logs import clean, complain
from dicode.process.settings import CONFIG_NAME, default_data_dir
from dicode.process.tree import TASK_FILE, Found, find_tasks, ignores_for, read_folder
from dicode.spec import template
from dicode.spec.resolve import Resolved, resolve_folder
from dicode.spec.view import view

TASKSET_FILE = "taskset.yaml"


class Rendered(NamedTuple):
    """What is in a folder: each id once, resolved or with what is wrong. Faults name files absolutely."""

    tasks: dict[str, Resolved | tuple[Fault, ...]]
    root: str


def render(
    path: Path,
    *,
    output: str = "json",
    source_name: str = "",
    root: Path | None = None,
    dev: bool = False,
    manifest: str | None = None,
    spec: str | None = None,
) -> int:
    """Print the resolution of the source at `path`. Exit code 1 if anything in it failed, 2 if there is nothing to read.

    `manifest`, `spec`: print only this task's manifest or spec JSON, byte for byte.
    """
    if not path.is_dir() and not (path.is_file() and path.name in (TASK_FILE, TASKSET_FILE)):
        complain(f"{path}: no such folder of tasks")
        return 2
    rendered = _resolve(path, root)
    for wanted, field in ((manifest, "manifest"), (spec, "spec_json")):
        if wanted is not None:
            return _print_bytes(rendered, wanted, field)
    items = [_item(id, found, rendered.root) for id, found in sorted(rendered.tasks.items())]
    _print(items, output)
    return 1 if any("error" in item for item in items) else 0


def validate(path: Path) -> int:
    """Print every fault at `path` (a folder, a task.yaml or a dicode.yaml), one a line. Exit code 2 when there is one."""
    if not path.exists():
        complain(f"{path}: no such file or folder")
        return 2
    if path.is_file() and path.name not in (TASK_FILE, TASKSET_FILE):
        return _report(_config_faults(path), f"{path.name} is fine")
    rendered = _resolve(path, None)
    config = path / CONFIG_NAME
    faults = _config_faults(config) if config.is_file() else []
    bad = [found for found in rendered.tasks.values() if not isinstance(found, Resolved)]
    faults += [fault for found in bad for fault in found]
    count = len(rendered.tasks)
    return _report(faults, f"{count} task{'' if count == 1 else 's'}, no faults" if count else f"no {TASK_FILE} below {path}")


def schema() -> int:
    """Print the JSON Schema of task.yaml."""
    from dicode.spec.jsonschema import task_schema

    print(json.dumps(task_schema(), indent=2))
    return 0


def _resolve(path: Path, root: Path | None) -> Rendered:
    top = os.path.realpath(path)
    if os.path.isfile(top) and os.path.basename(top) == TASK_FILE:
        top = os.path.dirname(top)
    if os.path.isfile(top) or os.path.lexists(f"{top}/{TASKSET_FILE}"):
        file = top if os.path.isfile(top) else f"{top}/{TASKSET_FILE}"
        fault = Fault(file, 1, 1, "TaskSets are not read in this release yet: point at a folder of task folders")
        return Rendered({"": (fault,)}, os.path.dirname(file))
    limit = os.path.realpath(root) if root is not None else work_tree(top)
    tasks: dict[str, Resolved | tuple[Fault, ...]] = {}

    def unreadable(error: OSError) -> None:
        tasks[os.path.relpath(error.filename, top)] = (Fault(error.filename, 1, 1, error.strerror or "cannot be read"),)

    try:
        for found in find_tasks(top, unreadable, ignores=ignores_for(top, limit)):
            tasks[found.id] = _task(found, limit)
    except OSError as error:
        tasks = {"": (Fault(top, 1, 1, error.strerror or "cannot be read"),)}
    return Rendered(tasks, top)


def _task(found: Found, root: str) -> Resolved | tuple[Fault, ...]:
    return resolve_folder(read_folder(found.dir, root=root, ignores=found.ignores), found.id)


def work_tree(folder: str) -> str:
    """The enclosing git work tree, else the folder itself: what includes and refs may not leave."""
    place = folder
    while True:
        if os.path.exists(f"{place}/.git"):
            return place
        above = os.path.dirname(place)
        if above == place:
            return folder
        place = above


def _item(id: str, found: Resolved | tuple[Fault, ...], root: str) -> dict[str, Any]:
    if not isinstance(found, Resolved):
        first = found[0]
        error = {"file": os.path.relpath(first.file, root), "line": first.line, "column": first.column, "message": first.message}
        return {"id": id, "error": error}
    return {"id": id, "digest": found.digest, "process": found.process, "dir": found.dir, "spec": _spec(found, root)}


def _spec(found: Resolved, root: str) -> dict[str, Any]:
    variables = {"TASK_DIR": found.dir, "TASK_SET_DIR": root, "DATADIR": str(default_data_dir()), "HOME": os.path.expanduser("~")}
    return view(template.expand_spec(found.spec, variables, {}).spec, found.runtime)


def _print_bytes(rendered: Rendered, id: str, field: str) -> int:
    found = rendered.tasks.get(id)
    if isinstance(found, Resolved):
        content: bytes = getattr(found, field)
        sys.stdout.buffer.write(content + (b"" if content.endswith(b"\n") else b"\n"))
        sys.stdout.buffer.flush()
        return 0
    if found is None:
        complain(_unknown_id(id, rendered))
        return 2
    complain(str(found[0]))
    return 1


def _unknown_id(id: str, rendered: Rendered) -> str:
    import difflib

    near = difflib.get_close_matches(id, rendered.tasks, 1)
    return f"no task {id} here" + (f", did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(rendered.tasks)) or 'none'}")


def _print(items: list[dict[str, Any]], output: str) -> None:
    if output == "json":
        print(json.dumps(items, indent=2, ensure_ascii=False))
    elif output == "yaml":
        import yaml

        print(yaml.safe_dump(items, sort_keys=False, allow_unicode=True), end="")
    else:
        for item in items:
            error = item.get("error")
            told = f"{error['file']}:{error['line']}:{error['column']}: {error['message']}" if error else item["digest"][:6]
            print(clean(item["id"] if output == "name" else f"{item['id'] or '.'}  {told}"))


def _config_faults(file: Path) -> list[Fault]:
    from dicode.spec.config import parse_config

    try:
        data = file.read_bytes()
    except OSError as error:
        return [Fault(str(file), 1, 1, error.strerror or "cannot be read")]
    return list(parse_config(data, str(file), base_dir=str(file.absolute().parent), home=os.path.expanduser("~")).faults)


def _report(faults: list[Fault], fine: str) -> int:
    """Faults on stdout, with paths as short as they can be; exit code 2 when there is one."""
    here = os.getcwd()
    for fault in faults:
        file = os.path.relpath(fault.file, here) if os.path.abspath(fault.file).startswith(f"{here}/") else fault.file
        print(clean(str(msgspec.structs.replace(fault, file=file))))
    if not faults:
        print(fine)
    return 2 if faults else 0
