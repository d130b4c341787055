"""A task folder as it was read: plain values, whether from disk or from a git tree."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from dicode.messages.fault import Fault
from dicode.spec import yaml
from dicode.spec.names import speakable
from dicode.spec.yaml import Place

MAX_FILES = 2_000
MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 16

MAX_NAME = 255  # bytes; no file system has longer ones
MAX_LINK = 4095  # bytes, as Linux has it
MAX_STEPS = 400  # from a link to what it leads to
_RENAME = "rename it, or name it in .dicodeignore"
_USUAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{,63}")
_SHORT_GIT = re.compile(r"git~[0-9]+(?::.*)?", re.DOTALL)  # how Windows calls `.git` in short
_IGNORABLE = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])  # macOS does not see them in names

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

    `moved` names files that changed while they were read: read again, or take it and say Unsettled. `unread`: a file could
    not be read, and when it can nothing about it need look different (a disk or a file server that failed).
    """

    dir: str
    files: tuple[FolderFile, ...]
    faults: tuple[Fault, ...] = ()
    moved: tuple[str, ...] = ()
    unread: bool = False

    def find(self, path: str) -> FolderFile | None:
        return next((file for file in self.files if file.path == path), None)


TOO_MANY_FILES = f"more than {MAX_FILES:,} files: name in .dicodeignore what does not belong"
TOO_MANY_BYTES = f"more than {MAX_BYTES // 1024**2} MiB: name in .dicodeignore what does not belong"
TOO_DEEP = f"deeper than {MAX_DEPTH} folders: name it in .dicodeignore"


def bad_name(name: str) -> str | None:
    """What is wrong with the name of a file of a task, wherever it stands (surrogates stand for bytes that are not UTF-8); None when it is fine."""
    if name.isprintable():
        return None
    for char in name:
        if "\ud800" <= char <= "\udfff":
            return f"the name '{speakable(name)}' is not UTF-8: {_RENAME}"
        if char < " " or "\x7f" <= char < "\xa0":
            return f"the name '{speakable(name)}' holds control characters: {_RENAME}"
    return None


def bad_git_name(name: str) -> str | None:
    """What is wrong with the name of an entry of a commit, before anything else is asked of it; None when it is fine.

    Git never makes such names, and a checkout somewhere could take them for something else: the rules are those of its fsck.
    """
    if _USUAL.fullmatch(name):
        return None
    if len(name) > MAX_NAME or len(name.encode(errors="surrogateescape")) > MAX_NAME:
        return f"the name {shortened(name)} is longer than {MAX_NAME} bytes"
    plain = name.translate(_IGNORABLE).casefold().rstrip(". ")
    if name in ("", ".", "..") or "/" in name or "\\" in name or plain == ".git" or plain.startswith(".git:") or _SHORT_GIT.fullmatch(plain):
        return f"the name {shortened(name)} is not allowed in a commit"
    return None


def shortened(name: str) -> str:
    """A name for a message, whatever it holds, however long it is."""
    return ascii(name) if len(name) <= 64 else f"{name[:64]!a}…"


def bad_links(links: dict[str, str]) -> dict[str, str]:
    """Of the links of one folder (path → target), those that do not stay inside, each with what is wrong."""
    return {path: wrong for path in links if (wrong := _bad_link(path, links)) is not None}


def _bad_link(path: str, links: dict[str, str]) -> str | None:
    """Follows the link as the kernel would, through other links, without a file system."""
    todo = path.split("/")[::-1]
    place: list[str] = []
    hops = steps = 0
    while todo:
        step = todo.pop()
        steps += 1
        if steps > MAX_STEPS:
            return f"{path}: the link to {links[path][:64]}… leads through more than {MAX_STEPS} folders"
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


def include_target(folder: str, written: str) -> str | None:
    """Where an include leads, relative to the root; None when that is outside. `folder`: the task's, relative to the root."""
    target = posixpath.normpath(posixpath.join("/", folder, written))[1:]
    outside = posixpath.normpath(posixpath.join(folder or ".", written))
    return None if written.startswith("/") or outside == ".." or outside.startswith("../") else target


def own_names(names: Iterable[str], key: str) -> list[str]:
    """Of the files beside a taskset.yaml those of its inline task `key`: `KEY.*`, or where there are none `task.*`."""
    seen = [name for name in names if name not in ("task.yaml", "taskset.yaml")]
    return [name for name in seen if name.startswith(f"{key}.")] or [name for name in seen if name.startswith("task.")]


def _scalars(node: yaml.Node | None) -> list[yaml.Scalar]:
    return [item for item in node.items if isinstance(item, yaml.Scalar)] if isinstance(node, yaml.Sequence) else []
