"""Where task folders are on disk, and which ignore rules hold there. Everything here blocks.

Whoever looks for tasks goes the same way, `visits`: a source round by round (dicode.source.snapshot), and commands once.
What a task folder holds is gone through in two other ways, on purpose: `tree` reads it, through open folders and within limits, for it
believes nothing; `snapshot` only asks stat what looks different, a hundred times as often, and who is fooled there reads once more.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from dicode.process.opening import FILE
from dicode.spec.ignore import IGNORE_FILES, Ignores

TASK_FILE = "task.yaml"
SET_FILE = "taskset.yaml"
MAX_IGNORE_FILE = 64 * 1024
FIND_DEPTH = 64  # folders; an id holds 16 segments, so what lies deeper could only be an error

Entry = tuple[str, bool, os.DirEntry[str]]  # of a folder: its name, whether it is a folder, and what else can be asked
#: Is told of each folder that matters and its inode, before it is listed: so nothing that comes after is missed.
OnFolder = Callable[[str, int], None]
OnError = Callable[[OSError], None]


class Visit(NamedTuple):
    """A folder on the way, where tasks may be: `id` is its path below the root, "" for the root. `rules` hold in it, before its own ignore files."""

    id: str
    dir: str
    rules: Ignores
    listed: list[Entry]
    is_task: bool


def visits(
    dir: str, on_error: Callable[[str, OSError], None], on_folder: OnFolder, *, id: str = "", rules: Ignores, apart: str = ""
) -> Iterator[Visit]:
    """Every folder at and below `dir`, by path, but what is ignored, below a task, or `apart`.

    `on_error` hears of every folder that could not be listed: then the finding is not complete, and nothing may be taken for removed.
    """
    waiting = [(id, dir, rules, id.count("/") + 1 if id else 0)]
    while waiting:
        id, dir, rules, depth = waiting.pop()
        try:
            listed = list_folder(dir)
        except OSError as error:
            if not (id and isinstance(error, FileNotFoundError)):  # else it is gone since its parent was listed
                on_error(dir, error)
            continue
        names = {name for name, _, _ in listed}
        yield Visit(id, dir, rules, listed, TASK_FILE in names)
        if TASK_FILE in names or depth == FIND_DEPTH:
            continue
        rules = with_ignore_files(rules, dir, [name for name in IGNORE_FILES if name in names])
        for name, is_folder, entry in sorted(listed, key=_by_name, reverse=True):
            if is_folder and not rules.ignored(name, True) and f"{dir}/{name}" != apart:
                on_folder(f"{dir}/{name}", entry.inode())
                waiting.append((f"{id}/{name}" if id else name, f"{dir}/{name}", rules.below(name), depth + 1))


class Found(NamedTuple):
    """A task folder. `ignores` are the rules that hold in it, before its own ignore files."""

    id: str
    dir: str
    ignores: Ignores


def find_tasks(root: str | os.PathLike[str], on_error: OnError, *, ignores: Ignores | None = None) -> Iterator[Found]:
    """The task folders below `root`, at any depth, by path; inside a task folder nothing else is a task.

    The id is the path below the root; a root that is a task folder itself gives one task, called like the folder.
    `on_error` as in `visits`. Raises OSError when the root itself cannot be read.
    """
    top = os.path.abspath(root)

    def tell(dir: str, error: OSError) -> None:
        if dir == top:
            raise error
        on_error(error)

    for visit in visits(top, tell, lambda folder, inode: None, rules=ignores or Ignores()):
        if visit.is_task:
            yield Found(visit.id or os.path.basename(top), visit.dir, visit.rules)


def list_folder(dir: str, most: int | None = None) -> list[Entry]:
    """What stands in a folder, up to `most`. Raises OSError."""
    with os.scandir(dir) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False), entry) for entry in islice(entries, most)]


def _by_name(entry: Entry) -> str:
    return entry[0]


def ignores_for(dir: str | os.PathLike[str], root: str | os.PathLike[str]) -> Ignores:
    """The rules that hold in `dir` by the ignore files of the folders from `root` down to the one above it."""
    top, bottom = os.path.abspath(root), os.path.abspath(dir)
    steps = os.path.relpath(bottom, top).split("/") if bottom != top else []
    if ".." in steps:
        return Ignores()
    rules, place = Ignores(), top
    for step in steps:
        rules = with_ignore_files(rules, place)
        rules, place = rules.below(step), f"{place}/{step}"
    return rules


def with_ignore_files(rules: Ignores, folder: str | int, names: Iterable[str] = IGNORE_FILES) -> Ignores:
    """With those of these ignore files that stand in the folder, which is named or open; one that is a link or cannot be read says nothing."""
    for name in names:
        try:
            fd = os.open(name, FILE, dir_fd=folder) if isinstance(folder, int) else os.open(f"{folder}/{name}", FILE)
        except OSError:
            continue
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                rules = rules.with_file(os.read(fd, MAX_IGNORE_FILE).decode(errors="surrogateescape"))
        finally:
            os.close(fd)
    return rules


def work_tree(folder: str) -> str:
    """The git work tree around `folder`, else the folder itself: what includes and refs may not leave."""
    place = folder
    while not os.path.lexists(f"{place}/.git"):
        above = os.path.dirname(place)
        if above == place:
            return folder
        place = above
    return place
