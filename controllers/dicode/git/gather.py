"""Reading one task out of a commit: the same files, rules and words as process.tree has for a disk, so that the same tree has
the same digest. All is listed and weighed before any file is read. Blocks; runs in a child of the fetcher.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from dicode.git.commits import FILES, FOLDER, LINK, SUBMODULE, Commit, Entry, NoFolder, called
from dicode.git.packs import Unusable
from dicode.messages.fault import Fault
from dicode.process.finding import TASK_FILE
from dicode.spec.folder import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_FILES,
    MAX_LINK,
    TOO_DEEP,
    TOO_MANY_BYTES,
    TOO_MANY_FILES,
    Folder,
    FolderFile,
    Wanted,
    bad_git_name,
    bad_links,
    bad_name,
    include_target,
    own_names,
    shortened,
    wanted,
)
from dicode.spec.ignore import IGNORE_FILES, Ignores
from dicode.spec.trees import FolderRead, Want
from dicode.spec.yaml import TOP

RULES = b"dicode-commit/1\n"  # another number when the same commit should be read as something else: fingerprints of before do not hold then
_POINTER = b"version https://git-lfs.github.com/spec/"
MAX_POINTER = 1024


def read(commit: Commit, want: Want, dir: str) -> FolderRead:
    """The task that is wanted; `dir` is how faults call its folder. What is wrong comes back as faults. Raises Damaged."""
    if want.fingerprint and want.fingerprint == fingerprint(commit, want, want.includes):
        return FolderRead(want, fingerprint=want.fingerprint, includes=want.includes, ignore=want.ignore)
    reading = _Reading(commit, want, dir)
    folder = reading.whole()
    if folder is None:
        return FolderRead(want, missing=True)
    return FolderRead(want, folder, fingerprint(commit, want, reading.includes), reading.includes, reading.ignore)


def fingerprint(commit: Commit, want: Want, includes: Iterable[str]) -> str:
    """The ids of all that a reading would look at: the folder or, of an inline task, its files, the ignore files above, and each include. Raises Damaged."""
    stamp = sha256(RULES)
    if want.key:
        stamp.update(repr((want.key, want.include, want.ignore)).encode(errors="surrogatepass"))
        stamp.update(_stamp_of_own(commit, want))
    else:
        stamp.update(_stamp(commit, want.path))
    for path in includes:
        stamp.update(path.encode(errors="surrogatepass") + b"\0" + _stamp(commit, path))
    return stamp.hexdigest()[:40]


def _stamp(commit: Commit, path: str) -> bytes:
    """The id of what stands at `path`, and of the ignore files above it."""
    try:
        if not path:
            return commit.root
        above, name = posixpath.split(path)
        place = commit.place(above)
        entry = commit.entry(place, name)
    except (NoFolder, Unusable) as error:
        return str(error).encode(errors="backslashreplace")
    return place.own + (b"" if entry is None else entry.kind.encode() + entry.id)


def _stamp_of_own(commit: Commit, want: Want) -> bytes:
    try:
        place = commit.place(want.path)
        node = commit.node(place.id)
    except (NoFolder, Unusable) as error:
        return str(error).encode(errors="backslashreplace")
    names = [name for name in node.entries if name.startswith((f"{want.key}.", "task."))]
    rows = [(name, *node.entries[name], name in node.twice) for name in sorted(names)]
    return place.own + repr(rows).encode()


class _Stop(Exception):
    """The task is over a limit: no use in going on."""


class _Listed(NamedTuple):
    """A file that belongs to the task and is still to be read."""

    path: str
    entry: Entry
    base: str  # what it may not leave, if it is a link


class _Reading:
    """One pass over a task and its includes."""

    def __init__(self, commit: Commit, want: Want, dir: str) -> None:
        self.includes: tuple[str, ...] = ()
        self.ignore = want.ignore
        self._commit = commit
        self._want = want
        self._dir = dir
        self._base = ""
        self._seen: set[str] = set()
        self._folders = 0
        self._listed: list[_Listed] = []
        self._faults: list[Fault] = []

    def whole(self) -> Folder | None:
        """None when there is no such task."""
        try:
            place = self._commit.place(self._want.path)
            node = self._commit.node(place.id)
        except NoFolder as error:
            return None if error.gone else self._refused(str(error))
        except Unusable as error:
            return self._refused(str(error))
        if not self._want.key and TASK_FILE not in node.entries:
            return None
        try:
            self._list(place.id, place.rules)
            return self._folder_of(self._contents())
        except _Stop:
            return self._folder_of([])

    def _refused(self, why: str) -> Folder:
        return Folder(self._dir, (), (Fault(self._dir, 1, 1, why),))

    def _folder_of(self, files: list[FolderFile]) -> Folder:
        return Folder(self._dir, tuple(files), tuple(self._faults))

    # ── what belongs ──

    def _list(self, id: bytes, rules: Ignores) -> None:
        """Everything of the task: what is its own, and what it includes."""
        asked = self._asked(id)
        targets = [(written, position, include_target(self._want.path, written)) for written, position in asked.include]
        self.includes = tuple(target for _, _, target in targets if target is not None)
        self.ignore = asked.ignore
        rules = rules.with_patterns(asked.ignore) if asked.ignore else rules
        if self._want.key:
            self._own_files(id, rules)
        else:
            self._folder(id, "", rules, 1)
        for written, position, target in targets:
            wrong = self._include(target)
            if wrong is not None:
                self._faults.append(Fault(f"{self._dir}/{TASK_FILE}", position.line, position.column, f"include {written}: {wrong}"))

    def _asked(self, id: bytes) -> Wanted:
        if self._want.key:
            return Wanted(tuple((written, TOP) for written in self._want.include), self._want.ignore)
        return wanted(self._task_yaml(id))

    def _task_yaml(self, id: bytes) -> bytes:
        node = self._commit.node(id)
        entry = node.entries[TASK_FILE]
        self._seen.add(TASK_FILE)
        if TASK_FILE in node.twice:
            self._fault(TASK_FILE, f"{TASK_FILE} is there twice")
        elif entry.kind not in FILES:
            self._fault(TASK_FILE, f"{TASK_FILE} is {called(entry)}: it must be a plain file")
        else:
            self._listed.append(_Listed(TASK_FILE, entry, ""))
            try:
                return self._commit.blob(entry.id, MAX_BYTES)
            except Unusable as error:
                self._over(TASK_FILE, f"{TASK_FILE}: {error}")
        return b""

    def _own_files(self, id: bytes, rules: Ignores) -> None:
        node = self._commit.node(id)
        files = [name for name, entry in node.entries.items() if entry.kind not in (FOLDER, SUBMODULE) and not rules.ignored(name, False)]
        for name in own_names(files, self._want.key):
            wrong = bad_git_name(name)
            if wrong is None:
                self._entry(name, name, node.entries[name], name in node.twice)
            else:
                self._fault(shortened(name)[1:-1], wrong)

    def _folder(self, id: bytes, path: str, rules: Ignores, depth: int) -> None:
        """Everything in one folder; `rules` with those of its own ignore files. Recursion ends at MAX_DEPTH."""
        self._folders += 1
        if self._folders > MAX_FILES:
            self._over("", TOO_MANY_FILES)
        node = self._commit.node(id)
        below: list[tuple[str, Entry]] = []
        for name, entry in node.entries.items():
            wrong = bad_git_name(name)
            if wrong is not None:
                self._fault(f"{path}{shortened(name)[1:-1]}", wrong)
                continue
            if rules.ignored(name, entry.kind in (FOLDER, SUBMODULE)) and not (path == "" and name in IGNORE_FILES):
                continue
            if entry.kind == FOLDER and bad_name(name) is None and name not in node.twice:
                below.append((name, entry))
            else:
                self._entry(path + name, name, entry, name in node.twice)
        for name, entry in below:
            self._below(entry.id, f"{path}{name}/", rules.below(name), depth)

    def _below(self, id: bytes, path: str, rules: Ignores, depth: int) -> None:
        if depth == MAX_DEPTH:
            self._over(path[:-1], TOO_DEEP)
        try:
            inner = self._commit.with_own(rules, self._commit.node(id))
        except Unusable as error:
            self._fault(path[:-1], f"{path[:-1]}: {error}")
            return
        self._folder(id, path, inner, depth + 1)

    def _entry(self, path: str, name: str, entry: Entry, twice: bool) -> None:
        if path in self._seen:
            return
        self._seen.add(path)
        wrong = bad_name(name)
        if wrong is not None:
            self._fault(ascii(path)[1:-1], wrong)
        elif twice:
            self._fault(path, f"{path} is there twice")
        elif entry.kind == SUBMODULE:
            self._fault(path, f"{path} is a submodule: they are not supported, copy its files")
        elif entry.kind not in (*FILES, LINK):
            self._fault(path, f"{path} is {called(entry)}: only files, folders and links can belong to a task")
        else:
            self._listed.append(_Listed(path, entry, self._base))
            if len(self._listed) > MAX_FILES:
                self._over("", TOO_MANY_FILES)

    def _include(self, target: str | None) -> str | None:
        """Take an include; what is wrong with it, if anything."""
        if target is None:
            return "leaves the repository"
        if f"{self._want.path}/".startswith(f"{target}/") or not target:
            return "holds the task's own folder"
        path = posixpath.relpath(f"/{target}", f"/{self._want.path}")
        above, name = posixpath.split(target)
        try:
            entry = self._commit.entry(self._commit.place(above), name)
            if entry is None:
                return "No such file or directory"
            if entry.kind == LINK:
                return "is a link: name the file it leads to"
            if entry.kind == FOLDER:
                self._base = f"{path}/"
                place = self._commit.place(target)
                self._folder(place.id, self._base, place.rules, 1)
            else:
                self._entry(path, path, entry, False)
        except (NoFolder, Unusable) as error:
            return str(error)
        return None

    # ── what is in it ──

    def _contents(self) -> list[FolderFile]:
        """Nothing is read unless all together is small enough; where there are faults, nothing but the task.yaml is told."""
        self._weigh()
        files: list[FolderFile] = []
        links: dict[str, dict[str, str]] = {}
        for each in self._listed:
            file = self._content(each)
            if file is None:
                continue
            files.append(file)
            if file.kind == "l":
                links.setdefault(each.base, {})[each.path[len(each.base) :]] = file.content.decode(errors="surrogateescape")
        for base, below in links.items():
            for path, message in bad_links(below).items():
                self._fault(base + path, message)
        return [file for file in files if file.path == TASK_FILE] if self._faults else files

    def _weigh(self) -> None:
        weight = 0
        fine: list[_Listed] = []
        for each in self._listed:
            try:
                size = self._commit.size(each.entry.id)
            except Unusable as error:
                self._fault(each.path, f"{each.path}: {error}")
                continue
            if each.entry.kind == LINK and size > MAX_LINK:
                self._fault(each.path, f"{each.path} is a link of more than {MAX_LINK:,} bytes")
            else:
                weight += size
                fine.append(each)
        if weight > MAX_BYTES:
            self._over("", TOO_MANY_BYTES)
        self._listed = fine

    def _content(self, listed: _Listed) -> FolderFile | None:
        path, (kind, id), _ = listed
        try:
            content = self._commit.blob(id, MAX_BYTES)
        except Unusable as error:
            self._fault(path, f"{path}: {error}")
            return None
        if len(content) <= MAX_POINTER and content.startswith(_POINTER) and kind != LINK:
            self._fault(path, f"{path} is only a pointer to a file in Git LFS, which is not supported: commit the file itself")
        if kind == LINK and b"\0" in content:
            self._fault(path, f"{path} is a link to a name with a NUL byte")
        return FolderFile(path, "x" if kind == "x" else "l" if kind == LINK else "-", content)

    def _fault(self, path: str, message: str) -> None:
        self._faults.append(Fault(f"{self._dir}/{path}" if path else self._dir, 1, 1, message))

    def _over(self, path: str, message: str) -> None:
        self._fault(path, message)
        raise _Stop
