"""A task folder as it was read: plain values, whether from disk or from a git tree."""

from __future__ import annotations

from typing import Literal, NamedTuple

from dicode.messages.fault import Fault
from dicode.spec import yaml
from dicode.spec.yaml import Place

MAX_FILES = 2_000
MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 16

FileKind = Literal["x", "-", "l"]


class FolderFile(NamedTuple):
    """One file. `path` is relative to the task folder (`../lib/c.py` for an include).

    `kind`: `x` its owner may execute it, `-` plain, `l` a link, whose `content` is its target.
    """

    path: str
    kind: FileKind
    content: bytes


class Folder(NamedTuple):
    """Everything that belongs to one task. With `faults` it must not be used; each names its file by `dir`.

    `moved` names files that changed while they were read: read again, or take it and say Unsettled.
    """

    dir: str
    files: tuple[FolderFile, ...]
    faults: tuple[Fault, ...] = ()
    moved: tuple[str, ...] = ()

    def find(self, path: str) -> FolderFile | None:
        return next((file for file in self.files if file.path == path), None)


TOO_MANY_FILES = f"more than {MAX_FILES:,} files: name in .dicodeignore what does not belong"
TOO_MANY_BYTES = f"more than {MAX_BYTES // 1024**2} MiB: name in .dicodeignore what does not belong"
TOO_DEEP = f"deeper than {MAX_DEPTH} folders: name it in .dicodeignore"


def bad_name(name: str) -> str | None:
    """What is wrong with a file name (surrogates stand for bytes that are not UTF-8); None when it is fine."""
    if name.isprintable():
        return None
    for char in name:
        if "\ud800" <= char <= "\udfff":
            return f"the name {name!a} is not UTF-8"
        if char < " " or "\x7f" <= char < "\xa0":
            return f"the name {name!a} holds control characters"
    return None


def bad_links(links: dict[str, str]) -> dict[str, str]:
    """Of the links of one folder (path → target), those that do not stay inside, each with what is wrong."""
    return {path: wrong for path in links if (wrong := _bad_link(path, links)) is not None}


def _bad_link(path: str, links: dict[str, str]) -> str | None:
    """Follows the link as the kernel would, through other links, without a file system."""
    todo = path.split("/")[::-1]
    place: list[str] = []
    hops = 0
    while todo:
        step = todo.pop()
        if step in ("", "."):
            continue
        if step == "..":
            if not place:
                return f"{path}: the link to {links[path]} leaves the folder; copy the file, or name it under include"
            place.pop()
            continue
        place.append(step)
        target = links.get("/".join(place))
        if target is None:
            continue
        hops += 1
        if hops > 40:
            return f"{path}: the link to {links[path]} goes round in a circle"
        if target.startswith("/") or not target:
            return f"{path}: the link to {target} leaves the folder; copy the file, or name it under include"
        place.pop()
        todo += target.split("/")[::-1]
    return None


class Wanted(NamedTuple):
    """What a task.yaml says about which files belong: `include` with the place of each item, and `ignore`."""

    include: tuple[tuple[str, Place], ...] = ()
    ignore: tuple[str, ...] = ()


def wanted(task_yaml: bytes) -> Wanted:
    """Which files are asked for. What is wrong with the file is left to `parse_task`; then nothing is asked for."""
    if b"include" not in task_yaml and b"ignore" not in task_yaml:
        return Wanted()
    root = yaml.read(task_yaml, "", yaml.TASK).root
    if not isinstance(root, yaml.Mapping):
        return Wanted()
    include = tuple((item.text, Place(item.line, item.column)) for item in _scalars(root.items.get("include")))
    return Wanted(include, tuple(item.text for item in _scalars(root.items.get("ignore"))))


def _scalars(node: yaml.Node | None) -> list[yaml.Scalar]:
    return [item for item in node.items if isinstance(item, yaml.Scalar)] if isinstance(node, yaml.Sequence) else []
