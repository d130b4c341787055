"""The files of a folder on this disk as a tree: what is looked at, read or found missing is listened to from then on.

Answers for sources that are composed. Paths given and told are relative to `reach`, the work tree or folder that nothing
may leave; keys of `concerned` are absolute.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace

from dicode.git.trees import TreeGone
from dicode.process.clock import mono
from dicode.process.finding import SET_FILE, TASK_FILE, OnFolder, with_ignore_files
from dicode.process.tree import read_inline
from dicode.process.ways import look
from dicode.source.reading import READ_AGAIN, Still, read_still, watch_includes
from dicode.source.snapshot import Glance, Root, Walk, glance, glance_inline
from dicode.source.state import Known, Territory, Touched, ancestors
from dicode.source.tools import ROUND_SLICE, SLICE, Tools
from dicode.spec.ignore import IGNORE_FILES, Ignores, is_noise
from dicode.spec.trees import Finding, FolderRead, Look, TaskFound, Want

LOOK = "look:"  # before the paths of looks that are to be done again; no absolute path begins so
READ = "read:"  # before the folders to read again


class LocalTree:
    """A `Tree` of now. `concerned` and the rest of the loop's thread only read what the disk thread has finished."""

    def __init__(self, root: Root, tools: Tools, on_folder: OnFolder) -> None:
        self.root = root
        self.reach = root.reach
        self._tools = tools
        self._on_folder = on_folder
        self._folders = Territory()  # what is a task, and what it includes
        self._inline: dict[str, set[str]] = {}  # folder → KEYs of the inline tasks whose files stand in it
        self._ends: dict[str, set[str]] = {}  # absolute place where a look ended → paths that were looked at
        self._ways: set[str] = set()  # folders on the way to them
        self._links: dict[str, set[str]] = {}  # links on the way → paths

    def shown(self, path: str) -> str:
        return self.place(path)

    def place(self, path: str) -> str:
        """Where a path of this tree is on this machine."""
        return posixpath.normpath(posixpath.join(self.reach, path)) if path else self.reach

    async def export(self, path: str) -> str:
        return self.place(path)

    # ── what is there ──

    async def look(self, paths: Sequence[str]) -> dict[str, Look]:
        return await self._tools.on_disk(self._look, paths)

    def _look(self, paths: Sequence[str]) -> dict[str, Look]:
        """On the disk thread."""
        known: dict[str, bool] = {}
        seen: dict[str, Look] = {}
        for path in paths:
            self._listen(path, known)
            seen[path] = look(self.reach, path)
        return seen

    def _listen(self, path: str, known: dict[str, bool]) -> None:
        """Hear of what stands on the way to `path`, through links, and of the first name on it that is not there."""
        todo = [step for step in path.split("/") if step][::-1]
        place = self.reach
        self._hear(place, known)
        while todo:
            here = posixpath.normpath(posixpath.join(place, todo.pop()))
            if not f"{here}/".startswith(f"{self.reach}/".replace("//", "/")):
                return  # leads out: whoever looks will say so
            if self._hear(here, known):
                place = here
            elif os.path.islink(here) and path not in self._links.setdefault(here, set()):
                self._links[here].add(path)
                target = _target_of(here)
                todo += [step for step in target.split("/") if step][::-1]
                place = "/" if target.startswith("/") else place
            else:
                place = here
                break  # a file, or nothing
        self._ends.setdefault(place, set()).add(path)

    def _hear(self, folder: str, known: dict[str, bool]) -> bool:
        """Listen to it; is it a folder?"""
        if folder not in known:
            try:
                found = os.stat(folder, follow_symlinks=False)
            except OSError:
                return False
            known[folder] = stat.S_ISDIR(found.st_mode)
            if known[folder]:
                self._on_folder(folder, found.st_ino)
                self._ways.add(folder)
        return known[folder]

    async def find(self, path: str) -> Finding:
        return await self._tools.on_disk(self._find, path)

    def _find(self, path: str) -> Finding:
        """On the disk thread."""
        try:
            there = os.stat(self.place(path))
        except OSError as error:
            raise TreeGone("Unreadable", f"{self.place(path)}: {error.strerror}") from None
        walk = Walk(Root(self.place(path), there.st_dev, there.st_ino, self.reach, self.root.apart), {}, self._on_folder)
        walk.advance(float("inf"))
        found = tuple(TaskFound(glanced.id, posixpath.relpath(folder, self.reach), glanced.rules) for folder, glanced in walk.found.items())
        return Finding(found, tuple(walk.unreadable.items()))

    # ── reading ──

    async def read(self, wants: Sequence[Want]) -> AsyncIterator[list[FolderRead]]:
        reading = _Reading(self.reach, self._on_folder)
        left = iter(wants)
        while reads := await self._tools.on_disk(self._read_some, reading, left):
            yield reads

    def _read_some(self, reading: _Reading, left: Iterator[Want]) -> list[FolderRead]:
        """On the disk thread: as much as one turn allows; to look is cheap, and then the turn is short."""
        reads: list[FolderRead] = []
        began, busy = mono(), False
        for want in left:
            read = reading.one(want)
            self._remember(want, read)
            reads.append(read)
            busy = busy or read.folder is not None
            if mono() - began >= (SLICE if busy else ROUND_SLICE):
                break
        return reads

    def _remember(self, want: Want, read: FolderRead) -> None:
        includes = tuple(self.place(path) for path in (read.includes if read.folder is not None else want.includes))
        folder = self.place(want.path)
        if want.key:
            self._inline.setdefault(folder, set()).add(want.key)
        if read.missing:
            self._folders.lose(_key(folder, want.key))
        else:
            self._folders.learn(_key(folder, want.key), Known("", includes=includes))

    # ── what a touch may mean ──

    def concerned(self, touched: Touched) -> set[str]:
        """What must be looked at (LOOK + path) or read (READ + folder, and KEY behind a \\0) because of it."""
        path = touched.path
        found = {LOOK + each for each in (*self._ends.get(path, ()), *self._links.get(path, ()))}
        if touched.name in (SET_FILE, TASK_FILE):
            found |= {LOOK + each for each in self._ends.get(touched.folder, ())}
        if path in self._ways:
            found |= self._below(path)
        if is_noise(touched.name):
            return found
        if touched.name in IGNORE_FILES and touched.folder in self._ways:
            found |= {each for each in self._below(touched.folder) if each.startswith(READ)}
        found |= {READ + each for each in self._folders.tasks_of(path)}
        return found | {READ + _key(touched.folder, key) for key in self._keys_of(touched)}

    def _keys_of(self, touched: Touched) -> Iterator[str]:
        """The inline tasks that a file may belong to: `KEY.*`, or `task.*` of any."""
        keys = frozenset(self._inline.get(touched.folder, ()))
        if keys and touched.name.startswith("task."):
            yield from keys
        parts = touched.name.split(".") if keys else []
        for end in range(1, len(parts)):
            if (key := ".".join(parts[:end])) in keys:
                yield key

    def _below(self, folder: str) -> set[str]:
        """A folder came, went or was replaced: everything that stands on it."""
        inside = f"{folder.rstrip('/')}/"
        looks = {LOOK + path for end, paths in list(self._ends.items()) if f"{end}/".startswith(inside) for path in tuple(paths)}
        return looks | {READ + key for key in list(self._folders.tasks) if f"{key}/".startswith(inside)}

    def key_of(self, path: str, key: str) -> str:
        """What `places_of` takes apart."""
        return _key(self.place(path), key)

    def places_of(self, key: str) -> tuple[str, str]:
        """(path, KEY) of what was named with READ."""
        folder, _, inline = key.partition("\0")
        path = posixpath.relpath(folder, self.reach)
        return "" if path == "." else path, inline

    def forget_but(self, looked: set[str], wants: set[tuple[str, str]]) -> None:
        """Nobody needs anything else any more. On the loop's thread, while the disk thread has nothing to do for this tree."""
        self._ends = {end: kept for end, paths in self._ends.items() if (kept := paths & looked)}
        self._links = {link: kept for link, paths in self._links.items() if (kept := paths & looked)}
        self._ways = {way for end in (*self._ends, *self._links) for way in ancestors(end)}
        keys = {_key(self.place(path), key) for path, key in wants}
        for gone in self._folders.tasks.keys() - keys:
            self._folders.lose(gone)
        inline: dict[str, set[str]] = {}
        for path, key in wants:
            if key:
                inline.setdefault(self.place(path), set()).add(key)
        self._inline = inline


class _Reading:
    """One pass: the ignore rules and includes that several folders share are looked at once. Blocks."""

    def __init__(self, reach: str, on_folder: OnFolder) -> None:
        self._reach = reach
        self._on_folder = on_folder
        self._rules: dict[str, Ignores] = {}
        self._included: dict[str, tuple[int, int]] = {}
        self._names: dict[str, list[str]] = {}

    def one(self, want: Want) -> FolderRead:
        folder = posixpath.join(self._reach, want.path) if want.path else self._reach
        includes = tuple(posixpath.normpath(posixpath.join(self._reach, path)) for path in want.includes)
        if want.key:
            includes = _asked(want, folder, self._reach)
        known = Known("", includes=includes, ignore=want.ignore)
        glanced = self._glance(want, folder, known)
        if want.fingerprint and want.fingerprint == str(glanced.fingerprint):
            return FolderRead(want)
        still = self._inline(want, glanced, folder, known) if want.key else read_still(glanced, folder, self._reach, known, self._on_folder)
        if still.folder is None:
            return FolderRead(want, missing=True)
        return FolderRead(
            want,
            still.folder,
            "" if still.known.fingerprint is None else str(still.known.fingerprint),
            tuple(posixpath.relpath(path, self._reach) for path in still.known.includes),
            still.known.ignore,
            unsettled=still.moved,
            newest=still.newest,
        )

    def _glance(self, want: Want, folder: str, known: Known) -> Glance:
        if not want.key:
            return glance("", folder, self._rules_in(folder), known, self._on_folder, self._included)
        return glance_inline(folder, want.key, self._rules_in(folder), known, self._on_folder, self._included, self._names)

    def _rules_in(self, folder: str) -> Ignores:
        """The rules that hold in a folder, before its own ignore files."""
        return Ignores() if folder == self._reach else self._rules_below(posixpath.dirname(folder)).below(posixpath.basename(folder))

    def _rules_below(self, folder: str) -> Ignores:
        if folder not in self._rules:
            self._rules[folder] = with_ignore_files(self._rules_in(folder), folder)
        return self._rules[folder]

    def _inline(self, want: Want, glanced: Glance, folder: str, known: Known) -> Still:
        first = glanced.fingerprint
        for _ in range(READ_AGAIN):
            self._names.pop(folder, None)
            if not os.path.isdir(folder):
                return Still(None, known)
            read = read_inline(folder, want.key, root=self._reach, include=want.include, ignore=want.ignore, ignores=glanced.rules)
            watch_includes(known.includes, self._on_folder)
            second = glance_inline(folder, want.key, glanced.rules, known, self._on_folder, {}, {})
            moved = bool(read.moved) or first != second.fingerprint
            if not moved:
                break
            first = second.fingerprint
        return Still(read, replace(known, fingerprint=None if moved or read.unread else second.fingerprint), second.newest, moved)


def _asked(want: Want, folder: str, reach: str) -> tuple[str, ...]:
    """The includes of an inline task; what leaves the root is a fault of the task and not looked at."""
    inside = reach.rstrip("/") + "/"
    targets = (posixpath.normpath(posixpath.join(folder, written)) for written in want.include)
    return tuple(target for target in targets if target.startswith(inside))


def _key(folder: str, key: str) -> str:
    return f"{folder}\0{key}" if key else folder


def _target_of(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""  # it was one a moment ago: its folder is listened to
