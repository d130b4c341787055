"""What a composed source remembers: what was seen where, which tasks that makes, and what each task folder looked like. Pure.

Everything goes one way: places are seen → `adopt` an expansion of them → task folders are due → they are read → tasks are
resolved. What did not change on the way is not touched again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from typing import NamedTuple

from dicode.messages.fault import Fault
from dicode.source.state import Burst
from dicode.spec.expand import Expansion, Leaf, Nothing, Seen, SetAt, TaskAt
from dicode.spec.names import speakable
from dicode.spec.resolve import want_of
from dicode.spec.trees import At, FolderRead, Look, SetSeen, TaskFound, TaskSeen, Want

NOBODY: Mapping[str, str] = {}


class Place(NamedTuple):
    """A task folder, or the part of a folder that belongs to an inline task. Several tasks may stand on one."""

    tree: str
    path: str
    key: str = ""
    include: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


class Piece(NamedTuple):
    """One task to be. `leaf` is None in a plain source, where the folder says everything."""

    id: str
    place: Place
    leaf: Leaf | None = None


class Stood(NamedTuple):
    """What a place looked like when it was last read."""

    fingerprint: str = ""
    includes: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


class Done(NamedTuple):
    """What came of a task when it was last resolved."""

    digest: str = ""
    faulty: bool = False
    asks_set_dir: bool = False  # it asks for TASK_SET_DIR


@dataclass
class Due:
    """Why a place is to be read: `ids` must be resolved whatever it looks like, all others if it looks different.

    `said` names the files that changed, if it was not the place itself.
    """

    burst: Burst | None
    ids: set[str] = field(default_factory=set)
    said: tuple[str, ...] = ()

    @property
    def calm(self) -> bool:
        """Nobody waits for it: it is read for the first time, or a timer found it."""
        return self.burst is None or not self.burst.at


class Raw(NamedTuple):
    """What a set file was parsed from."""

    path: str
    sha256: bytes


@dataclass
class Documents:
    """What was seen at every place that was asked for; a set is parsed again only when its bytes differ."""

    seen: dict[At, Seen] = field(default_factory=dict)
    _raw: dict[At, Raw] = field(default_factory=dict)

    def must_parse(self, at: At, seen: Look) -> bool:
        """Is it a set file with other bytes than before? Then `parsed` must be told; everything else is noted here."""
        if isinstance(seen, SetSeen):
            return self._raw.get(at) != _raw_of(seen)
        self._raw.pop(at, None)
        self.seen[at] = TaskAt(At(at.tree, seen.path)) if isinstance(seen, TaskSeen) else Nothing(seen.why)
        return False

    def parsed(self, at: At, seen: SetSeen, document: SetAt) -> None:
        self._raw[at] = _raw_of(seen)
        self.seen[at] = document

    def asked_in(self, tree: str) -> list[At]:
        """The places of a tree that were looked at."""
        return [at for at in self.seen if at.tree == tree]

    def worth_another_look(self, tree: str) -> list[At]:
        """The same without task folders: whether they are still that shows when they are read."""
        return [at for at, seen in self.seen.items() if at.tree == tree and not (isinstance(seen, TaskAt) and seen.at == at)]

    def forget_unasked(self, asked: Iterable[At]) -> None:
        """Keep of the documents only these."""
        kept = set(asked)
        for at in self.seen.keys() - kept:
            del self.seen[at]
            self._raw.pop(at, None)


@dataclass
class Book:
    """All of one source. `pieces`: its tasks by id; `faults`: as in Expansion."""

    pieces: dict[str, Piece] = field(default_factory=dict)
    faults: Mapping[str, tuple[Fault, ...]] = field(default_factory=dict)
    stood: dict[Place, Stood] = field(default_factory=dict)
    done: dict[str, Done] = field(default_factory=dict)
    due: dict[tuple[bool, str], dict[Place, Due]] = field(default_factory=dict)  # (nobody waits, tree) → places
    _users: dict[Place, set[str]] = field(default_factory=dict)

    # ── what is to be ──

    def adopt(
        self, pieces: Mapping[str, Piece], faults: Mapping[str, tuple[Fault, ...]], burst: Burst | None, said: Mapping[str, str] = NOBODY
    ) -> bool:
        """These tasks are to be now: what is new or different is due. Gives whether some are no more, or no longer wrong."""
        before, self.pieces = self.pieces, dict(pieces)
        mended = self.faults.keys() - faults.keys()
        self.faults = faults
        gone = before.keys() - self.pieces.keys()
        for id in gone:
            self._leave(before[id])
            self.done.pop(id, None)
        for id, piece in self.pieces.items():
            old = before.get(id)
            if old is piece or (old == piece and not self.done.get(id, Done()).faulty):
                continue
            if old is not None and old.place != piece.place:
                self._leave(old)
            self._users.setdefault(piece.place, set()).add(id)
            self.must_read(id, burst, said)
        return bool(gone or mended)

    def _leave(self, piece: Piece) -> None:
        users = self._users.get(piece.place, set())
        users.discard(piece.id)
        if not users:
            self._users.pop(piece.place, None)
            self.stood.pop(piece.place, None)
            self._take(piece.place)

    def must_read(self, id: str, burst: Burst | None, said: Mapping[str, str] = NOBODY) -> None:
        """This task is to be resolved again, whatever its folder looks like. `said`: the set files that changed, as they are called and shown."""
        piece = self.pieces.get(id)
        if piece is not None:
            due = self._mark(piece.place, burst)
            due.ids.add(id)
            due.said = due.said or said_for(piece, said)

    def suspect(self, place: Place, burst: Burst | None) -> None:
        """It may look different."""
        if place in self._users:
            self._mark(place, burst)

    def give_back(self, place: Place, due: Due) -> None:
        """It was taken, and could not be read."""
        if place in self._users:
            mine = self._mark(place, due.burst)
            mine.ids |= due.ids
            mine.said = mine.said or due.said

    def _mark(self, place: Place, burst: Burst | None) -> Due:
        due = self._take(place) or Due(burst)
        due.burst = due.burst or burst
        self.due.setdefault((due.calm, place.tree), {})[place] = due
        return due

    def _take(self, place: Place) -> Due | None:
        for calm in (False, True):
            waiting = self.due.get((calm, place.tree))
            if waiting is not None and place in waiting:
                due = waiting.pop(place)
                if not waiting:
                    del self.due[calm, place.tree]
                return due
        return None

    def take(self, key: tuple[bool, str], most: int) -> dict[Place, Due]:
        """Some that are to be read, of those under this key."""
        waiting = self.due.pop(key)
        taken = dict(islice(waiting.items(), most))
        left = dict(islice(waiting.items(), most, None))
        if left:
            self.due[key] = left
        return taken

    def users(self, place: Place) -> set[str]:
        """The tasks that stand on a place."""
        return self._users.get(place, set())

    def places_of(self, tree: str) -> list[Place]:
        return [place for place in self._users if place.tree == tree]

    def places_at(self, tree: str, path: str, key: str) -> list[Place]:
        """Those of one folder, or of one inline KEY in it."""
        plain = Place(tree, path, key)
        if not key:
            return [plain] if plain in self._users else []
        return [place for place in self._users if place[:3] == plain[:3]]

    # ── what was read ──

    def want(self, place: Place, due: Due) -> Want:
        stood = self.stood.get(place, Stood())
        known = "" if due.ids else stood.fingerprint
        ignore = place.ignore if place.key else stood.ignore
        return Want(place.path, place.key, place.include, ignore, known, stood.includes)

    def read(self, place: Place, read: FolderRead, due: Due) -> list[Piece]:
        """Which tasks are to be resolved with what was read."""
        if read.folder is None or place not in self._users:
            return []
        looks_different = not read.fingerprint or self.stood.get(place, Stood()).fingerprint != read.fingerprint
        ids = self._users[place] if looks_different else self._users[place] & due.ids
        return [self.pieces[id] for id in sorted(ids)]

    def learn(self, place: Place, read: FolderRead) -> None:
        """What was read is written."""
        if place in self._users and read.folder is not None:
            self.stood[place] = Stood(read.fingerprint, read.includes, read.ignore)

    def unlearn(self, place: Place) -> None:
        """Nothing is there. Should it come back, it is read whatever it looks like."""
        self.stood.pop(place, None)

    def forget_readings(self) -> None:
        """Everything is to be read again: what was written may be lost."""
        self.stood = {place: stood._replace(fingerprint="") for place, stood in self.stood.items()}
        self.done.clear()

    # ── which ids stay ──

    def found(self, written: Iterable[str]) -> set[str]:
        """The ids that are here, and of those that are written the ones that a fault protects."""
        return {*self.pieces, *(id for id in self.faults if id), *(id for id in written if is_below(id, self.faults))}

    def faulted(self, written: Iterable[str]) -> Iterator[tuple[str, tuple[Fault, ...]]]:
        """The tasks that carry the fault of an entry: those that are written at or below it, else the entry itself."""
        below: dict[str, list[str]] = {id: [] for id in self.faults if id}
        for id in written if below else ():
            top = below_which(id, below)
            if top:
                below[top].append(id)
        for top, ids in below.items():
            for id in ids or [top]:
                yield id, self.faults[top]


def said_for(piece: Piece, said: Mapping[str, str]) -> tuple[str, ...]:
    """Of the set files that changed, those that have a say in this task; all of them when it was one that has no more."""
    if piece.leaf is None or not said:
        return ()
    files = {piece.leaf.file, *(layer.file for layer in piece.leaf.layers)}
    return tuple(shown for name, shown in said.items() if name in files) or tuple(said.values())


def pieces_of(expansion: Expansion, before: Mapping[str, Piece]) -> dict[str, Piece]:
    """The tasks of an expansion; one whose leaf is the same object stays the same object."""
    return {id: old if (old := before.get(id)) is not None and old.leaf is leaf else piece_of(leaf) for id, leaf in expansion.leaves.items()}


def pieces_found(tree: str, tasks: Iterable[TaskFound]) -> dict[str, Piece]:
    """The tasks of a plain source. A folder whose name cannot be told is one, too: it carries the fault."""
    pieces = (Piece(speakable(task.id), Place(tree, task.path)) for task in tasks)
    return {piece.id: piece for piece in pieces}


def piece_of(leaf: Leaf) -> Piece:
    want = want_of(leaf)
    return Piece(leaf.id, Place(leaf.at.tree, want.path, want.key, want.include, want.ignore), leaf)


def is_below(id: str, tops: Mapping[str, object]) -> bool:
    """Does it lie at or below one of these?"""
    return bool(tops) and ("" in tops or below_which(id, tops) != "")


def below_which(id: str, tops: Mapping[str, object]) -> str:
    """The nearest of these it lies at or below; "" for none."""
    while id:
        if id in tops:
            return id
        id = id.rpartition("/")[0]
    return ""


def _raw_of(seen: SetSeen) -> Raw:
    return Raw(seen.path, sha256(seen.content).digest())
