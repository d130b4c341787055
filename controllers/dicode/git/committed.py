"""The files of one commit as a `Tree`: every question is answered by a child of the fetcher, out of the object database.

`Readers` keeps children for a moment, so that the questions of one update share one. `Memory` remembers what was found in
the commit before, so that only what differs is looked at again. Everything here belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence, Set
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dicode.git.frames import GitFault
from dicode.git.questions import Differ, Differing, Export, Files, FindIn, FoundIn, LookFor, Read, Seen, SomeRead, TaskRead, WantOf, heard, told
from dicode.git.session import Children, Session
from dicode.process.clock import mono
from dicode.spec.expand import MAX_TASKS
from dicode.spec.folder import Folder, FolderFile
from dicode.spec.ignore import IGNORE_FILES
from dicode.spec.trees import CommitInfo, Finding, FolderRead, Look, NothingSeen, SetSeen, TaskFound, TaskSeen, Want

T = TypeVar("T")

IDLE = 0.25  # seconds a child is kept for the next question
YOUNG = 15.0  # seconds after its start in which a child is asked something new: it has about 60 in all
ASKED = 500  # wants in one question
ASKED_BYTES = 1024**2
MAX_HELD = 50_000  # wants that are remembered from one commit to the next
REMEMBERED = 64  # findings, and trees that were found damaged, of one repository


class Readers:
    """Children that read mirrors. One that has answered is kept for `idle` seconds."""

    def __init__(self, children: Children, idle: float = IDLE) -> None:
        self._children = children
        self._seconds = idle
        self._idle: dict[str, list[_Reader]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def reader(self, mirror: str) -> AsyncIterator[Session]:
        """One for ourselves. Raises GitFault, as every question does; a reader that said so is not used again."""
        reader = self._take(mirror) or await self._open()
        try:
            yield reader.session
        except GitFault as fault:
            if fault.reason == "CacheCorrupt":
                self._forget(mirror)  # they have the same damaged files open
            raise
        else:
            reader.good = True
        finally:
            if reader.good:
                self._keep(mirror, reader)
            else:
                await reader.stack.aclose()

    def _take(self, mirror: str) -> _Reader | None:
        while idle := self._idle.get(mirror):
            reader = idle.pop()
            if reader.timer is not None:
                reader.timer.cancel()
            if mono() - reader.born < YOUNG:
                reader.good = False
                return reader
            self._end(reader)
        return None

    async def _open(self) -> _Reader:
        stack = AsyncExitStack()
        return _Reader(await stack.enter_async_context(self._children.session()), stack, mono())

    def _keep(self, mirror: str, reader: _Reader) -> None:
        idle = self._idle.setdefault(mirror, [])
        idle.append(reader)

        def end() -> None:
            if reader in idle:
                idle.remove(reader)
                self._end(reader)

        reader.timer = asyncio.get_running_loop().call_later(self._seconds, end)

    def _forget(self, mirror: str) -> None:
        for reader in self._idle.pop(mirror, []):
            if reader.timer is not None:
                reader.timer.cancel()
            self._end(reader)

    def _end(self, reader: _Reader) -> None:
        task = asyncio.get_running_loop().create_task(reader.stack.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """End those that are idle."""
        for mirror in list(self._idle):
            self._forget(mirror)
        while self._closing:
            await asyncio.gather(*self._closing)


@dataclass(eq=False)
class _Reader:
    session: Session
    stack: AsyncExitStack
    born: float
    good: bool = False  # it answered to the end
    timer: asyncio.TimerHandle | None = None


@dataclass
class Memory:
    """What is known of earlier commits of one repository: the wants that held in the newest, with all they
    are known to need; by root path the newest complete finding; trees that were damaged."""

    held: tuple[str, set[Want]] = field(default_factory=lambda: ("", set()))
    findings: OrderedDict[tuple[str, str], tuple[str, Finding]] = field(default_factory=OrderedDict)
    damaged: OrderedDict[str, object] = field(default_factory=OrderedDict)

    def remember(self, root: tuple[str, str], tree: str, finding: Finding) -> None:
        self.findings[root] = tree, finding
        _forget_oldest(self.findings)

    def was_damaged(self, tree: str, mirror: object) -> None:
        """`mirror`: which copy it was."""
        self.damaged[tree] = mirror
        _forget_oldest(self.damaged)

    def copied_again(self, tree: str, mirror: object) -> bool:
        """Was something missing from this tree in another copy of the repository than `mirror`? Then cloning once more does not help."""
        return tree in self.damaged and self.damaged[tree] != mirror


def _forget_oldest(kept: OrderedDict[Any, Any]) -> None:
    while len(kept) > REMEMBERED:
        kept.popitem(last=False)


class GitTree:
    """`Tree` of the commit, in the bare repository `mirror`. `exports`: the folder of all exports, absolute. What is raised is a GitFault."""

    def __init__(self, readers: Readers, mirror: str, commit: CommitInfo, name: str, exports: str, memory: Memory) -> None:
        self._readers = readers
        self._mirror = mirror
        self._commit = commit
        self._name = name
        self._exports = exports
        self._memory = memory

    def shown(self, path: str) -> str:
        return f"{self._name}@{self._commit.id[:7]}:{path}"

    # ── what refs lead to ──

    async def look(self, paths: Sequence[str]) -> dict[str, Look]:
        seen: dict[str, Look] = {}
        for start in range(0, len(paths), ASKED):
            some = paths[start : start + ASKED]
            answers = [answer async for answer in self._ask("look", LookFor(self._files(), [told(path) for path in some]), Seen)]
            seen.update(zip(some, map(_look_of, answers), strict=True))
        return seen

    # ── which tasks there are ──

    async def find(self, path: str) -> Finding:
        root = path, self._name
        tree, before = self._memory.findings.get(root, ("", Finding(())))
        if tree == self._commit.tree:
            return before
        (found,) = [each async for each in self._ask("find", FindIn(self._files(), told(path), tree), FoundIn)]
        finding = merged(before, found, path, self._name)
        if not finding.unreadable:
            self._memory.remember(root, self._commit.tree, finding)
        return finding

    # ── what is in them ──

    async def read(self, wants: Sequence[Want]) -> AsyncIterator[list[FolderRead]]:
        held = await self._held()
        if same := [_unread(want) for want in wants if want in held]:
            yield same
        for some in portions([want for want in wants if want not in held]):
            asked = Read(self._files(), self.shown(""), [_want_of(want) for want in some])
            async with aclosing(self._ask("read", asked, SomeRead)) as answers:
                async for answer in answers:
                    reads = [_unread(some[number]) for number in answer.same]
                    reads += [self._read_of(some[read.number], read) for read in answer.read]
                    held.update(read.want._replace(fingerprint=read.fingerprint, includes=read.includes) for read in reads if read.fingerprint)
                    yield reads

    async def _held(self) -> set[Want]:
        """The wants that hold in this commit as far as is known: what they need has not changed since they were read."""
        tree, held = self._memory.held
        if tree == self._commit.tree:
            return held
        if held:
            ((paths,),) = [(each.paths,) async for each in self._ask("differ", Differ(self._files(), tree), Differing)]
            held = set() if paths is None or len(held) > MAX_HELD else still_held(held, map(heard, paths))
        self._memory.held = self._commit.tree, held
        return held

    def _read_of(self, want: Want, read: TaskRead) -> FolderRead:
        if read.content is None:
            return FolderRead(want, missing=True)
        files, faults = read.content
        folder = Folder(self.shown(want.path), tuple(FolderFile(*file) for file in files), tuple(faults))
        return FolderRead(want, folder, read.fingerprint, tuple(map(heard, read.includes)), tuple(map(heard, read.ignore)))

    async def export(self, path: str) -> str:
        (made,) = [each async for each in self._ask("export", Export(self._files(), told(path), self._exports), str)]
        return made

    # ── asking ──

    def _files(self) -> Files:
        return Files(self._commit.tree, self._memory.copied_again(self._commit.tree, _copy(self._mirror)))

    async def _ask(self, verb: str, args: object, type: type[T]) -> AsyncGenerator[T, None]:
        copy = _copy(self._mirror)
        try:
            async with self._readers.reader(self._mirror) as session:
                async for answer in session.stream(verb, self._mirror, args, type):
                    yield answer
        except GitFault as fault:
            if fault.reason == "CacheCorrupt":
                self._memory.was_damaged(self._commit.tree, copy)
            raise


def _copy(mirror: str) -> object:
    """Tells one copy of a repository from another at the same path."""
    try:
        found = os.stat(f"{mirror}/HEAD")
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _look_of(seen: Seen) -> Look:
    text = heard(seen.text)
    if seen.kind == "set":
        return SetSeen(text, seen.content)
    return TaskSeen(text) if seen.kind == "task" else NothingSeen(text)


def _unread(want: Want) -> FolderRead:
    return FolderRead(want, None, want.fingerprint, want.includes, want.ignore)


def _want_of(want: Want) -> WantOf:
    include, ignore, includes = ([*map(told, texts)] for texts in (want.include, want.ignore, want.includes))
    return WantOf(told(want.path), want.key, include, ignore, want.fingerprint, includes)


def portions(wants: Sequence[Want]) -> Iterator[list[Want]]:
    """As many as are asked for at once."""
    some: list[Want] = []
    weight = 0
    for want in wants:
        some.append(want)
        weight += 200 + len(want.path) + sum(len(text) + 8 for texts in (want.include, want.ignore, want.includes) for text in texts)
        if len(some) == ASKED or weight >= ASKED_BYTES:
            yield some
            some, weight = [], 0
    if some:
        yield some


def merged(before: Finding, found: FoundIn, root: str, name: str) -> Finding:
    """The whole finding below `root`: what was found before and has not gone, and what is new. Pure."""
    tasks = before.tasks
    if found.gone:
        gone = frozenset(map(heard, found.gone))
        tasks = tuple(task for task in tasks if not _lies_in(task.path, gone))
    if found.tasks:
        known = {task.path for task in tasks}
        new = [TaskFound(_id(path, root, name), path) for path in map(heard, found.tasks) if path not in known]
        tasks = tuple(sorted((*tasks, *new), key=lambda task: task.path.split("/")))
    unreadable = [(heard(path), heard(why)) for path, why in found.unreadable]
    if len(tasks) > MAX_TASKS:
        tasks = tasks[:MAX_TASKS]
        unreadable.append((root, f"holds more than {MAX_TASKS:,} tasks: split it into several sources"))
    return Finding(tasks, tuple(unreadable))


def _id(path: str, root: str, name: str) -> str:
    if path == root:
        return posixpath.basename(path) or name
    return path[len(root) + 1 :] if root else path


def _lies_in(path: str, folders: Set[str]) -> bool:
    if "" in folders:
        return True
    while path not in folders:
        path, slash, _ = path.rpartition("/")
        if not slash:
            return False
    return True


def still_held(held: Iterable[Want], differing: Iterable[str]) -> set[Want]:
    """Of the wants that held in one commit those that hold in another, which differs from it in these files and folders. Pure."""
    replaced = set(differing)
    replaced |= {posixpath.dirname(path) for path in replaced if posixpath.basename(path) in IGNORE_FILES}  # all below may differ
    touched = {""} if replaced else set()
    for path in replaced:
        while path and path not in touched:
            touched.add(path)
            path = posixpath.dirname(path)
    return {want for want in held if not any(place in touched or _lies_in(place, replaced) for place in (want.path, *want.includes))}
