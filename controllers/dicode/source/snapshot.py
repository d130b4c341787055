"""Looking at a source by stat alone: which task folders there are, and whether one looks different from before.

Events only say where to look; this is what is believed. A walk is taken in slices, so that a save never waits for the
round through ten thousand other tasks. The way to the task folders is that of `process.finding`, where it says why what stands in
one is gone through here in another way than when it is read. Everything here blocks.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from dicode.process.clock import mono
from dicode.process.finding import SET_FILE, TASK_FILE, Entry, OnFolder, Visit, ignores_for, list_folder, visits, with_ignore_files, work_tree
from dicode.source.state import Known
from dicode.spec.folder import MAX_DEPTH, MAX_FILES
from dicode.spec.ignore import IGNORE_FILES, Ignores
from dicode.spec.names import speakable

MAX_TASKS = 20_000  # a source; SPEC 9


class Root(NamedTuple):
    """Where a source is: `path` without links, `device` and `inode` tell when another folder stands there."""

    path: str
    device: int
    inode: int
    reach: str  # what includes may not leave, and where ignore files begin to count
    apart: str = ""  # our own data folder, which is no part of any source, wherever it lies


class Glance(NamedTuple):
    """A task folder as stat shows it. `rules` hold in it, before its own ignore files; `newest`: of its changes, ns."""

    id: str
    rules: Ignores
    fingerprint: int
    newest: int


def find_root(path: str, reach: str = "", apart: str = "") -> Root:
    """Raises OSError when there is no such folder."""
    real = os.path.realpath(path, strict=True)
    found = os.stat(real)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(20, "is no folder", path)
    os.scandir(real).close()  # may we list it?
    return Root(real, found.st_dev, found.st_ino, os.path.realpath(reach) if reach else work_tree(real), apart)


def index_lock(reach: str) -> str:
    """The file that git holds while it changes the work tree at `reach`; "" when that is none."""
    git = f"{reach}/.git"
    try:
        with open(git, encoding="utf-8") as link:  # of a linked work tree: `gitdir: …`
            written = link.read(4096).strip().removeprefix("gitdir: ")
    except (IsADirectoryError, UnicodeDecodeError):
        return f"{git}/index.lock"
    except OSError:
        return ""
    return f"{os.path.join(reach, written)}/index.lock"


@dataclass
class Walk:
    """A round through `root`, or through the part of it at and below `start`; `advance` until it is done.

    `found`: the task folders; `groups`: those without a task.yaml, where others may be. `unreadable`: what could not be listed, with why; then the finding is not complete, and nothing may be taken for removed.
    """

    root: Root
    tasks: Mapping[str, Known]
    on_folder: OnFolder
    start: str = ""
    found: dict[str, Glance] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    unreadable: dict[str, str] = field(default_factory=dict)
    _visits: Iterator[Visit] | None = None
    _included: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Is it a round through the whole source?"""
        return not self.start

    @property
    def complete(self) -> bool:
        return self.whole and not self.unreadable

    def advance(self, seconds: float) -> bool:
        """Go on for about `seconds`; True when all has been seen."""
        if self._visits is None:
            self._visits = self._begin()
        until = mono() + seconds
        for visit in self._visits:
            if not visit.is_task:
                self.groups.add(visit.dir)
            elif len(self.found) < MAX_TASKS:
                self._look_at(visit)
            else:
                self.unreadable[self.root.path] = f"holds more than {MAX_TASKS:,} tasks: split it into several sources"
                return True
            if mono() >= until:
                return False
        return True

    def _begin(self) -> Iterator[Visit]:
        folder = self.start or self.root.path
        if not self._leads_here(folder) or _lies_in(folder, self.root.apart):
            return iter(())
        try:
            inode = os.stat(folder, follow_symlinks=False).st_ino
        except OSError:
            return iter(())  # nothing there: nothing found
        id = posixpath.relpath(folder, self.root.path) if folder != self.root.path else ""
        self.on_folder(folder, inode)
        rules = ignores_for(folder, self.root.reach)
        return visits(folder, self._not_listed, self.on_folder, id=id, rules=rules, apart=self.root.apart)

    def _not_listed(self, folder: str, error: OSError) -> None:
        self.unreadable[folder] = error.strerror or "cannot be read"

    def _leads_here(self, folder: str) -> bool:
        """Is the way from the root to `folder` free of links, ignored folders and other tasks?"""
        if folder == self.root.path:
            return True
        rules = ignores_for(self.root.path, self.root.reach)
        place = self.root.path
        for step in posixpath.relpath(folder, place).split("/"):
            if os.path.lexists(f"{place}/{TASK_FILE}"):
                return False
            rules = with_ignore_files(rules, place)
            if rules.ignored(step, True):
                return False
            place, rules = f"{place}/{step}", rules.below(step)
            if not _is_folder(place):
                return False
        return True

    def _look_at(self, visit: Visit) -> None:
        folder = visit.dir
        id = speakable(visit.id or posixpath.basename(folder))
        self.found[folder] = glance(id, folder, visit.rules, self.tasks.get(folder), self.on_folder, self._included, visit.listed)


def _lies_in(folder: str, apart: str) -> bool:
    return bool(apart) and f"{folder}/".startswith(f"{apart}/")


def glance(
    id: str,
    folder: str,
    rules: Ignores,
    known: Known | None,
    on_folder: OnFolder,
    included: dict[str, tuple[int, int]] | None = None,
    listed: list[Entry] | None = None,
) -> Glance:
    """Look at one task folder and what it includes, as far as known. `included` remembers shared includes for one round, `listed` is
    what stands in the folder, if somebody has just looked."""
    stamps: list[tuple[object, ...]] = []
    inside = rules.with_patterns(known.ignore) if known is not None and known.ignore else rules
    newest = _stamp(folder, "", inside, stamps, on_folder, 0, listed)
    for path in known.includes if known is not None else ():
        shared = included.get(path) if included is not None else None
        if shared is None:
            shared = _glance_included(path, on_folder)
            if included is not None:
                included[path] = shared
        stamps.append(shared)
        newest = max(newest, shared[1])
    return Glance(id, rules, hash(tuple(stamps)), newest)


def glance_inline(
    folder: str, key: str, rules: Ignores, known: Known, on_folder: OnFolder, included: dict[str, tuple[int, int]], names: dict[str, list[str]]
) -> Glance:
    """The same for an inline task, to which of the folder only `KEY.*` belongs, or `task.*`. `names` remembers what stands in folders."""
    if folder not in names:
        names[folder] = _sorted_names(folder)
    stamps: list[tuple[object, ...]] = []
    newest = 0
    for name in names[folder]:
        if name.startswith((f"{key}.", "task.")) and name not in (TASK_FILE, SET_FILE):
            try:
                found = os.stat(f"{folder}/{name}", follow_symlinks=False)
            except OSError:
                continue  # gone since: the next event or round says so
            stamps.append((name, *_state(found)))
            newest = max(newest, found.st_ctime_ns)
    for path in known.includes:
        if path not in included:
            included[path] = _glance_included(path, on_folder)
        stamps.append(included[path])
        newest = max(newest, included[path][1])
    return Glance("", rules, hash(tuple(stamps)), newest)


def _sorted_names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _glance_included(path: str, on_folder: OnFolder) -> tuple[int, int]:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return 0, 0
    if not stat.S_ISDIR(found.st_mode):
        return hash(_state(found)), found.st_ctime_ns
    stamps: list[tuple[object, ...]] = []
    on_folder(path, found.st_ino)
    newest = _stamp(path, "", Ignores(), stamps, on_folder, 0)
    return hash(tuple(stamps)), newest


def _stamp(
    folder: str,
    path: str,
    rules: Ignores,
    stamps: list[tuple[object, ...]],
    on_folder: OnFolder,
    depth: int,
    listed: list[Entry] | None = None,
) -> int:
    """Add what stat says of everything that counts in `folder`, in a fixed order; gives the newest change, ns."""
    newest = 0
    most = MAX_FILES + 1 - len(stamps)  # reading it will say that it is too large
    try:
        entries = sorted(list_folder(folder, most) if listed is None else listed[:most], key=_by_name)
    except OSError as error:
        stamps.append((path, error.errno))
        return newest
    rules = with_ignore_files(rules, folder, [name for name, is_folder, _ in entries if not is_folder and name in IGNORE_FILES])
    for name, is_folder, entry in entries:
        if rules.ignored(name, is_folder) and not (depth == 0 and name in IGNORE_FILES):
            continue
        if is_folder:
            if depth < MAX_DEPTH:
                on_folder(entry.path, entry.inode())
                newest = max(newest, _stamp(entry.path, f"{path}{name}/", rules.below(name), stamps, on_folder, depth + 1))
            continue
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            continue  # gone since: the next event or round says so
        stamps.append((path + name, *_state(found)))
        newest = max(newest, found.st_ctime_ns)
    return newest


def _by_name(entry: Entry) -> str:
    return entry[0]


def _state(found: os.stat_result) -> tuple[int, int, int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_mode


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path, follow_symlinks=False).st_mode)
    except OSError:
        return False


def way_to(path: str) -> set[str]:
    """What must be watched to hear of another folder standing at `path`: it, each link that leads to it, and the first
    name on the way that does not exist. Each is named by the real path of the folder it stands in.
    """
    found: set[str] = set()
    place = "/"
    waiting = [step for step in os.path.abspath(path).split("/") if step][::-1]
    while waiting:
        step = waiting.pop()
        here = posixpath.normpath(posixpath.join(place, step))
        if os.path.islink(here):
            if here in found:
                break  # it goes round in a circle
            found.add(here)
            target = os.readlink(here)
            waiting += [part for part in target.split("/") if part][::-1]
            place = "/" if target.startswith("/") else place
            continue
        if not waiting or not os.path.lexists(here):
            found.add(here)
            break
        place = here
    return found
