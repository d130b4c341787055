"""What differs between two versions of a task: its spec field by field, its files line by line. Pure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

from dicode.messages.task import TaskSpec
from dicode.spec.view import view

Files = dict[str, tuple[str, bytes]]  # path → (kind, content), as bundles hold them: `-` file, `x` program, `l` link
_KINDS = {"-": "file", "x": "program", "l": "link"}
_NO_NEWLINE = "\\ No newline at end of file"


def spec_diff(old: TaskSpec, new: TaskSpec) -> list[str]:
    """`~ trigger.cron: "0 3 * * *" → "0 4 * * *"`, `+ timeout: 30`, `- params[who].default: "Ada"`; durations in seconds."""
    before, after = dict(_fields("", _shown(old))), dict(_fields("", _shown(new)))
    return [_field(name, before.get(name), after.get(name)) for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]


def _shown(spec: TaskSpec) -> dict[str, Any]:
    """As task.yaml has it, without what `view` fills in."""
    fields = view(spec, spec.runtime or "deno")
    written = {"runtime": spec.runtime, "timeout": spec.timeout}
    return {name: value for name, value in fields.items() if written.get(name, value) is not None}


def _fields(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every leaf as (where it stands, its JSON); what has a name is told by it, not by its place."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _fields(f"{name}.{key}" if name else key, each)
    elif isinstance(value, list) and value and all(isinstance(each, dict) and "name" in each for each in value):
        for each in value:
            yield from _fields(f"{name}[{each['name']}]", {key: field for key, field in each.items() if key != "name"})
        yield f"{name} (order)", ", ".join(each["name"] for each in value)
    else:
        yield name, json.dumps(value, ensure_ascii=False)


def _field(name: str, before: str | None, after: str | None) -> str:
    if before is None:
        return f"+ {name}: {after}"
    return f"- {name}: {before}" if after is None else f"~ {name}: {before} → {after}"


def files_diff(old: Files, new: Files, old_name: str, new_name: str) -> list[str]:
    """A unified diff by path; of what is no text one line, and one of what became a program, a link or a file."""
    result: list[str] = []
    for path in sorted({*old, *new}):
        before, after = old.get(path), new.get(path)
        if before is not None and after is not None and before[0] != after[0]:
            result.append(f"{path}: was a {_KINDS[before[0]]}, is a {_KINDS[after[0]]}")
        result += _content_diff(path, before and before[1], after and after[1], old_name, new_name)
    return result


def _content_diff(path: str, before: bytes | None, after: bytes | None, old_name: str, new_name: str) -> Iterator[str]:
    if before == after:
        return
    lines = [_lines(content) for content in (before, after)]
    if lines[0] is None or lines[1] is None:
        yield f"binary file {path} {'was added' if before is None else 'was removed' if after is None else 'differs'}"
        return
    names = [f"{name}/{path}" if content is not None else "/dev/null" for name, content in ((old_name, before), (new_name, after))]
    told = list(difflib.unified_diff(lines[0], lines[1], names[0], names[1], lineterm=""))
    yield from told or (f"--- {names[0]}", f"+++ {names[1]}")  # an empty file came or went


def _lines(content: bytes | None) -> list[str] | None:
    """Split at line feeds only, so that every other difference shows; None for what is no text."""
    if content is None or content == b"":
        return []
    if b"\0" in content:
        return None
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError:
        return None
    return lines[:-1] if lines[-1] == "" else [*lines, _NO_NEWLINE]
