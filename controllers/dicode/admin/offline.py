"""`render`, `validate`, `schema`: what can be said of task folders without a running system. No store, no network."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from dicode.admin.rendering import ELSEWHERE, Rendered, resolve
from dicode.messages.fault import Fault
from dicode.process.finding import SET_FILE, TASK_FILE
from dicode.process.logs import clean, complain
from dicode.process.settings import CONFIG_NAME, default_data_dir
from dicode.spec import template, yaml
from dicode.spec.resolve import Resolved
from dicode.spec.view import view


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
    if not path.is_dir() and not (path.is_file() and path.suffix == ".yaml"):
        complain(f"{path}: no such folder of tasks")
        return 2
    rendered = resolve(path, root, name=source_name, dev=dev)
    for wanted, field in ((manifest, "manifest"), (spec, "spec_json")):
        if wanted is not None:
            return _print_bytes(rendered, wanted, field)
    items = [_item(id, found, rendered) for id, found in sorted(rendered.tasks.items())]
    _print(items, output)
    return 1 if any("error" in item for item in items) else 0


def validate(path: Path) -> int:
    """Print every fault at `path` (a folder, a task.yaml, a TaskSet or a dicode.yaml), one a line. Exit code 2 when there is one.

    What lies in other repositories is not checked, and no fault. A variable that is unknown here is a note on stderr: dicode may
    run where it is known.
    """
    if not path.exists():
        complain(f"{path}: no such file or folder")
        return 2
    if path.is_file() and not _is_source(path):
        return _report(_config_faults(path), f"{path.name} is fine")
    rendered = resolve(path)
    config = path / CONFIG_NAME
    faults = _config_faults(config) if config.is_file() else []
    bad = [found for found in rendered.tasks.values() if not isinstance(found, Resolved)]
    elsewhere = [found for found in bad if found[0].message.endswith(ELSEWHERE)]
    faults += [fault for found in bad for fault in found if found not in elsewhere]
    _note_unknown(rendered)
    return _report(list(dict.fromkeys(faults)), _fine(path, len(rendered.tasks) - len(elsewhere), len(elsewhere)))


def _note_unknown(rendered: Rendered) -> None:
    host = os.environ  # noqa: TID251  # what is set here may well be set where dicode runs
    for id, found in sorted(rendered.tasks.items()):
        for each in template.unknown_in(found.spec, _set_dir(rendered), host) if isinstance(found, Resolved) else ():
            complain(f"note, as seen from here: {id or rendered.top}: {each.message}")


def _is_source(file: Path) -> bool:
    """Is it a task or a TaskSet, by its name or by what it says it is?"""
    if file.name in (TASK_FILE, SET_FILE):
        return True
    try:
        root = yaml.read(file.read_bytes(), "", yaml.CONFIG).root
    except OSError:
        return False
    return isinstance(root, yaml.Mapping) and "kind" in root.items


def _fine(path: Path, tasks: int, elsewhere: int) -> str:
    if not tasks and not elsewhere:
        return f"no {TASK_FILE} below {path}"
    checked = f"{tasks} task{'' if tasks == 1 else 's'}, no faults"
    return checked if not elsewhere else f"{checked}; not checked: {elsewhere} in other repositories"


def schema(kind: str = "task") -> int:
    """Print the JSON Schema of a kind of file: one of `jsonschema.KINDS`."""
    from dicode.spec.jsonschema import KINDS

    print(json.dumps(KINDS[kind](), indent=2))
    return 0


def _item(id: str, found: Resolved | tuple[Fault, ...], rendered: Rendered) -> dict[str, Any]:
    if not isinstance(found, Resolved):
        first = found[0]
        error = {"file": os.path.relpath(first.file, rendered.top), "line": first.line, "column": first.column, "message": first.message}
        return {"id": id, "error": error}
    return {"id": id, "digest": found.digest, "process": found.process, "dir": found.dir, "spec": _spec(found, rendered)}


def _spec(found: Resolved, rendered: Rendered) -> dict[str, Any]:
    variables = template.variables_of(task_dir=found.dir, set_dir=_set_dir(rendered), data_dir=str(default_data_dir()), home=os.path.expanduser("~"))
    return view(template.expand_spec(found.spec, variables, {}).spec, found.runtime)


def _set_dir(rendered: Rendered) -> str:
    return rendered.top if rendered.is_set else ""


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
