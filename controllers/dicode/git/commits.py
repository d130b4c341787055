"""The files of one commit as the object database has them: folders by path, the ignore rules that hold there, task folders.

Nothing is ever checked out. Names are looked up one by one as they are written, so none leads anywhere but to the entry
of that name; the limits hold before anything is read. Blocks; runs in a child of the fetcher.
"""

from __future__ import annotations

import posixpath
import re
from collections import OrderedDict, deque
from typing import Final, NamedTuple

from dicode.git.packs import BLOB, TREE, Damaged, Database, Unusable
from dicode.process.finding import FIND_DEPTH, MAX_IGNORE_FILE, SET_FILE, TASK_FILE
from dicode.process.ways import MAX_LINKS
from dicode.spec.expand import MAX_TASKS
from dicode.spec.folder import MAX_BYTES, MAX_LINK, bad_git_name
from dicode.spec.ignore import IGNORE_FILES, Ignores
from dicode.spec.trees import Look, NothingSeen, SetSeen, TaskSeen
from dicode.spec.yaml import CONFIG

FOLDER: Final = "/"
LINK: Final = "l"
SUBMODULE: Final = "submodule"
#: What the modes of git say. 100664 is of its first days; its own fsck lets it pass. Any other mode is shown as it is.
_KINDS = {b"100644": "-", b"100664": "-", b"100755": "x", b"120000": LINK, b"40000": FOLDER, b"040000": FOLDER, b"160000": SUBMODULE}
FILES = ("-", "x")

MAX_TREE = 8 * 1024**2  # bytes of one folder's listing: about 200,000 entries
MAX_FOLDERS = 200_000  # looked into for one finding
MAX_DIFFERENCES = 2_000
PLACES = 50_000  # paths that are remembered
NODES = 150_000  # entries of folders that are remembered
_ENTRY = re.compile(rb"([0-7]{1,8}) ([^\0]*)\0(.{20})", re.DOTALL)
_BROKEN = "its listing is broken: run git fsck there"


class Entry(NamedTuple):
    """What has a name in a folder. `kind`: `-`, `x` or `l` as in FolderFile, FOLDER, SUBMODULE, or a mode that means nothing."""

    kind: str
    id: bytes


class Node(NamedTuple):
    """A folder. Names are UTF-8 with surrogates for other bytes. `twice`: what stands in it more than once."""

    entries: dict[str, Entry]
    twice: frozenset[str]


class Place(NamedTuple):
    """A folder at a path. `above`: the ignore rules that hold in it, `rules`: with those of its own ignore files.

    `stamp` tells apart what made `above`, `own` what made `rules`.
    """

    id: bytes
    above: Ignores
    rules: Ignores
    stamp: bytes
    own: bytes


class NoFolder(Exception):
    """There is no folder at a path. The text says why. `gone`: nor anything else that must be put right."""

    def __init__(self, why: str, *, gone: bool = False) -> None:
        super().__init__(why)
        self.gone = gone


class Commit:
    """The files of the commit whose tree is `root`. `mild`: what is missing from the repository is Unusable, not Damaged,
    so that it is the fault of those who need it; for a mirror that has been cloned again because of it."""

    def __init__(self, database: Database, root: bytes, mild: bool = False) -> None:
        self.root = root
        self._database = database
        self._mild = mild
        self._nodes: OrderedDict[bytes, Node] = OrderedDict()
        self._entries = 0
        self._places: dict[str, Place] = {}

    def node(self, id: bytes) -> Node:
        """A folder by its id. Raises Unusable, Damaged."""
        node = self._nodes.get(id)
        if node is None:
            node = self._nodes[id] = _parse(self._read(id, TREE, MAX_TREE))
            self._entries += len(node.entries)
            while self._entries > NODES and len(self._nodes) > 1:
                self._entries -= len(self._nodes.popitem(last=False)[1].entries)
        return node

    def blob(self, id: bytes, limit: int) -> bytes:
        """Raises Unusable, Damaged."""
        return self._read(id, BLOB, limit)

    def start(self, id: bytes, length: int) -> bytes:
        """The first bytes of a blob. Raises Unusable, Damaged."""
        try:
            return self._database.start(id, length, MAX_BYTES)
        except Damaged as damage:
            raise self._judged(damage) from None

    def size(self, id: bytes) -> int:
        """Raises Unusable, Damaged."""
        try:
            return self._database.size(id)
        except Damaged as damage:
            raise self._judged(damage) from None

    def _read(self, id: bytes, kind: int, limit: int) -> bytes:
        try:
            return self._database.read(id, kind, limit)
        except Damaged as damage:
            raise self._judged(damage) from None

    def _judged(self, damage: Damaged) -> Exception:
        return Unusable(f"{damage}: run git fsck there") if self._mild else damage

    def place(self, path: str) -> Place:
        """The folder at `path`. Raises NoFolder, Unusable, Damaged."""
        place = self._places.get(path)
        if place is not None:
            return place
        if len(self._places) > PLACES:
            self._places.clear()
        steps = path.split("/") if path else []
        known = len(steps)
        while (place := self._places.get("/".join(steps[:known]))) is None and known:
            known -= 1
        if place is None:
            place = self._places[""] = self._placed("", self.root, Ignores(), b"")
        for number in range(known, len(steps)):
            here = "/".join(steps[: number + 1])
            place = self._places[here] = self._below(place, steps[number], here)
        return place

    def _below(self, place: Place, name: str, path: str) -> Place:
        entry = self.entry(place, name)
        if entry is None:
            raise NoFolder("No such file or directory", gone=True)  # in the words of a disk
        if entry.kind == SUBMODULE:
            raise NoFolder("leads through a submodule: they are not supported, copy what is needed")
        if entry.kind != FOLDER:
            raise NoFolder("leads through a link or a file", gone=True)
        return self._placed(path, entry.id, place.rules.below(name), place.own)

    def _placed(self, path: str, id: bytes, above: Ignores, stamp: bytes) -> Place:
        node, own = self.node(id), stamp
        for name in IGNORE_FILES:
            entry = node.entries.get(name)
            if entry is not None and entry.kind in FILES:
                own += b"%s/%s %s\n" % (path.encode(errors="surrogateescape"), name.encode(), entry.id)
        return Place(id, above, self.with_own(above, node), stamp, own)

    def entry(self, place: Place, name: str) -> Entry | None:
        """What is called so in a folder. Raises NoFolder when that could be anything; Unusable, Damaged."""
        wrong = bad_git_name(name)
        if wrong is not None:
            raise NoFolder(wrong)
        node = self.node(place.id)
        if name in node.twice:
            raise NoFolder(f"{name!a} is there twice")
        return node.entries.get(name)

    def with_own(self, rules: Ignores, node: Node) -> Ignores:
        """The rules of a folder with those of its ignore files. Raises Unusable, Damaged."""
        for name in IGNORE_FILES:
            entry = node.entries.get(name)
            if entry is None or entry.kind not in FILES:
                continue  # a link says nothing
            if name in node.twice:
                raise Unusable(f"{name!a} is there twice")
            rules = rules.with_file(self.start(entry.id, MAX_IGNORE_FILE).decode(errors="surrogateescape"))
        return rules


def _parse(listing: bytes) -> Node:
    """Raises Unusable when it is not what git would write, down to the last byte."""
    found = _ENTRY.findall(listing)
    if sum(len(mode) + len(name) for mode, name, _ in found) + 22 * len(found) != len(listing):
        raise Unusable(_BROKEN)
    entries = {name.decode(errors="surrogateescape"): Entry(_KINDS.get(mode) or mode.decode(), id) for mode, name, id in found}
    if len(entries) == len(found):
        return Node(entries, frozenset())
    names = [name.decode(errors="surrogateescape") for _, name, _ in found]
    seen: set[str] = set()
    return Node(entries, frozenset(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]


def called(entry: Entry) -> str:
    """What kind of thing it is, for a message."""
    if entry.kind == FOLDER:
        return "a folder"
    if entry.kind == LINK:
        return "a link"
    return "a submodule" if entry.kind == SUBMODULE else f"of mode {entry.kind}"


# ── what a ref leads to ──


def look(commit: Commit, path: str) -> Look:
    """What stands at `path`; links are followed inside the commit. Raises Damaged."""
    try:
        real, entry = _follow(commit, path)
        if entry.kind != FOLDER:
            return TaskSeen(posixpath.dirname(real)) if posixpath.basename(real) == TASK_FILE else _set_seen(commit, real, entry)
        there = commit.node(commit.place(real).id).entries
        if SET_FILE in there:
            return _set_seen(commit, *_follow(commit, posixpath.join(real, SET_FILE)))
        return TaskSeen(real) if TASK_FILE in there else NothingSeen(f"there is neither a {SET_FILE} nor a {TASK_FILE} in it")
    except (NoFolder, Unusable) as error:
        return NothingSeen(str(error))


def _set_seen(commit: Commit, path: str, entry: Entry) -> Look:
    name = posixpath.basename(path)
    if entry.kind in FILES:
        return SetSeen(path, commit.start(entry.id, CONFIG.bytes + 1))
    return NothingSeen(f"{name} is {called(entry)}: it must be a file")


def _follow(commit: Commit, path: str) -> tuple[str, Entry]:
    """Where `path` really stands, and what that is, as the kernel would find it. Raises NoFolder, Unusable, Damaged."""
    real = ""
    entry = Entry(FOLDER, commit.root)
    steps = path.split("/")[::-1]
    hops = walked = 0
    while steps:
        step = steps.pop()
        walked += 1
        if step in ("", "."):
            continue
        if entry.kind != FOLDER:
            raise NoFolder(
                "there is no such folder, a file is in its place" if entry.kind in FILES else "leads through a submodule: they are not supported"
            )
        if step == "..":
            if not real:
                raise NoFolder("leads outside the root")
            real = posixpath.dirname(real)
            entry = Entry(FOLDER, commit.place(real).id)
            continue
        found = commit.entry(commit.place(real), step)
        if found is None:
            raise NoFolder("there is no such file or folder")
        if found.kind != LINK:
            real, entry = posixpath.join(real, step), found
            continue
        hops += 1
        if hops > MAX_LINKS or walked > MAX_LINK:
            raise NoFolder("cannot be read: its links go round in a circle")
        target = commit.blob(found.id, MAX_LINK).decode(errors="surrogateescape")
        if target.startswith("/") or not target:
            raise NoFolder("leads outside the root")
        steps += target.split("/")[::-1]
    return real, entry


# ── the task folders of a plain source ──


class Found(NamedTuple):
    """What a finding has found, or only in what it differs from an earlier one: `gone` are paths at and below which that
    holds no more. `unreadable`: path and why; then it is not complete."""

    tasks: list[str]
    gone: list[str]
    unreadable: list[tuple[str, str]]


class _Waiting(NamedTuple):
    path: str
    id: bytes
    rules: Ignores
    depth: int
    before: bytes | None  # the id of the same folder then, with the same rules


def find(commit: Commit, path: str, before: Commit | None = None) -> Found:
    """The task folders at and below `path`, and inside a task folder nothing else. With `before` only what is not as it was there.

    Raises NoFolder when there is no such folder, Unusable when it cannot be read, Damaged.
    """
    return _Finding(commit, before).whole(path)


class _Finding:
    """One walk through the folders; those near the root first, so that a bomb deep down hides nobody beside it."""

    def __init__(self, commit: Commit, before: Commit | None) -> None:
        self._commit = commit
        self._before = before
        self._found = Found([], [], [])
        self._waiting: deque[_Waiting] = deque()

    def whole(self, path: str) -> Found:
        top = self._commit.place(path)
        self._waiting.append(_Waiting(path, top.id, top.above, 0, self._top_before(path, top)))
        looked_into = 0
        while self._waiting:
            looked_into += 1
            if looked_into > MAX_FOLDERS or len(self._found.tasks) > MAX_TASKS:
                what = f"{MAX_TASKS:,} tasks: split it into several sources"
                many = f"{MAX_FOLDERS:,} folders: name in .dicodeignore what does not belong"
                self._found.unreadable.append((path, f"holds more than {many if looked_into > MAX_FOLDERS else what}"))
                break
            waiting = self._waiting.popleft()
            try:
                self._step(waiting)
            except Unusable as error:
                self._found.unreadable.append((waiting.path, str(error)))
        del self._found.tasks[MAX_TASKS:]
        return self._found

    def _top_before(self, path: str, top: Place) -> bytes | None:
        """The folder as it was, if what is above it is as it was."""
        if self._before is None:
            return None
        try:
            before = self._before.place(path)
        except (NoFolder, Unusable, Damaged):
            before = None
        if before is None or before.stamp != top.stamp:
            self._found.gone.append(path)
            return None
        return before.id

    def _step(self, at: _Waiting) -> None:
        if at.id == at.before:
            return
        node = self._commit.node(at.id)
        before = self._node_before(at, node)
        if TASK_FILE in node.entries:
            if before is None:
                self._found.tasks.append(at.path)
            return
        if at.depth == FIND_DEPTH:
            return
        rules = self._commit.with_own(at.rules, node)
        for name, entry in node.entries.items():
            was = before.entries.get(name) if before is not None else None
            if entry.kind != FOLDER or entry == was or rules.ignored(name, True):
                continue
            below = posixpath.join(at.path, name)
            wrong = "is there twice" if name in node.twice else _no_step(name)
            if wrong is not None:
                self._found.unreadable.append((ascii(below)[1:-1], wrong))
                continue
            self._waiting.append(
                _Waiting(below, entry.id, rules.below(name), at.depth + 1, was.id if was is not None and was.kind == FOLDER else None)
            )
        if before is not None:
            for name, entry in before.entries.items():
                now = node.entries.get(name)
                if entry.kind == FOLDER and (now is None or now.kind != FOLDER):
                    self._found.gone.append(posixpath.join(at.path, name))

    def _node_before(self, at: _Waiting, node: Node) -> Node | None:
        """The folder as it was; None when nothing that was found there holds any more."""
        if at.before is None or self._before is None:
            return None
        try:
            before = self._before.node(at.before)
        except (Unusable, Damaged):
            before = None
        if (
            before is None
            or before.twice
            or (TASK_FILE in before.entries) != (TASK_FILE in node.entries)
            or any(before.entries.get(name) != node.entries.get(name) for name in IGNORE_FILES)
        ):
            self._found.gone.append(at.path)
            return None
        return before


def _no_step(name: str) -> str | None:
    """Why nothing can stand below this name: it would not be part of a path but lead elsewhere."""
    return bad_git_name(name) if name in ("", ".", "..") or "/" in name or len(name) > 4096 else None


# ── what differs ──


def differences(commit: Commit, before: Commit) -> list[str] | None:
    """The files, and the folders that are no folder in the other, that differ between two commits; None when that is not
    known or too much to tell. Raises Damaged."""
    found: list[str] = []
    waiting = [("", commit.root, before.root)]
    looked_into = 0
    while waiting:
        path, now, then = waiting.pop()
        if now == then:
            continue
        looked_into += 1
        try:
            here = commit.node(now)
            there = before.node(then)
        except Unusable:
            return None
        if here.twice or there.twice or looked_into > MAX_DIFFERENCES or len(found) > MAX_DIFFERENCES:
            return None
        for name, entry in here.entries.items() ^ there.entries.items():
            was, is_now = there.entries.get(name), here.entries.get(name)
            if was is None or is_now is None or was.kind != FOLDER or is_now.kind != FOLDER:
                found.append(posixpath.join(path, name))
            elif entry is is_now:  # it comes twice: as it is and as it was
                waiting.append((posixpath.join(path, name), is_now.id, was.id))
    return found
