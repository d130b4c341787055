"""What stands at a path, resolved without a running system: the same rules as the real thing, no store, no network."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from dicode.messages.fault import Fault
from dicode.process.finding import SET_FILE, TASK_FILE, find_tasks, ignores_for, work_tree
from dicode.process.tree import read_folder, read_wanted
from dicode.process.ways import look
from dicode.spec.config import default_name
from dicode.spec.expand import Away, Expansion, Nothing, Seen, SetAt, TaskAt, expand, name_of, told
from dicode.spec.resolve import Resolved, resolve_folder, resolve_leaf, want_of
from dicode.spec.taskset import parse_set
from dicode.spec.trees import At, SetSeen, TaskSeen

ELSEWHERE = "is in another repository, which cannot be read offline"
Found = dict[str, Resolved | tuple[Fault, ...]]


class Rendered(NamedTuple):
    """Each id once, resolved or with what is wrong; "" for the whole. Faults name files absolutely.

    `top`: the folder that was meant, which is TASK_SET_DIR for a set (`is_set`).
    """

    tasks: Found
    top: str
    is_set: bool = False


def resolve(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, *, name: str = "", dev: bool = False) -> Rendered:
    """The tasks of the source at `path`: a folder of task folders, a task, or a TaskSet.

    `root` is what refs and includes may not leave, by default the git work tree, else the folder. `name`: the source's.
    """
    top = os.path.realpath(path)
    if os.path.isfile(top) and os.path.basename(top) == TASK_FILE:
        top = os.path.dirname(top)
    folder = os.path.dirname(top) if os.path.isfile(top) else top
    reach = os.path.realpath(root) if root is not None else work_tree(folder)
    if os.path.isfile(top) or os.path.lexists(f"{top}/{SET_FILE}"):
        return Rendered(_of_set(top, reach, name or default_name(os.path.abspath(path)), dev), folder, True)
    return Rendered(_of_folders(top, reach), top)


def _of_folders(top: str, reach: str) -> Found:
    tasks: Found = {}

    def unreadable(error: OSError) -> None:
        tasks[os.path.relpath(error.filename, top)] = (Fault(error.filename, 1, 1, error.strerror or "cannot be read"),)

    try:
        for found in find_tasks(top, unreadable, ignores=ignores_for(top, reach)):
            tasks[found.id] = resolve_folder(read_folder(found.dir, root=reach, ignores=found.ignores), found.id)
    except OSError as error:
        return {"": (Fault(top, 1, 1, error.strerror or "cannot be read"),)}
    return tasks


def _of_set(top: str, reach: str, name: str, dev: bool) -> Found:
    path = os.path.relpath(top, reach)
    if path.startswith(".."):
        return {"": (Fault(top, 1, 1, f"lies outside the root {reach}"),)}
    expansion = _expanded(At("", "" if path == "." else path), reach, name, dev)
    shown = _shown(reach)
    tasks: Found = {id: told(faults, shown) for id, faults in expansion.faults.items()}
    for leaf in expansion.leaves.values():
        resolved = resolve_leaf(leaf, read_wanted(reach, want_of(leaf)))
        tasks[leaf.id] = resolved if isinstance(resolved, Resolved) else told(resolved, shown)
    return tasks


def _expanded(root: At, reach: str, name: str, dev: bool) -> Expansion:
    known: dict[At, Seen] = {}
    while True:
        expansion = expand(root, known.get, source=name, dev=dev)
        if not expansion.wanted:
            return expansion
        known |= {at: _seen(at, reach) for at in expansion.wanted}


def _seen(at: At, reach: str) -> Seen:
    if at.tree:
        return Away(ELSEWHERE)
    found = look(reach, at.path)
    if isinstance(found, SetSeen):
        place = At("", found.path)
        return SetAt(place, parse_set(found.content, name_of(place)))
    return TaskAt(At("", found.path)) if isinstance(found, TaskSeen) else Nothing(found.why)


def _shown(reach: str) -> Callable[[At], str]:
    return lambda at: os.path.normpath(os.path.join(reach, at.path))
