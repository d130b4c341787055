"""What the source-controller remembers of one source. All of it is seen again after a restart, or told by the store. Pure.

Folders are absolute real paths, as the watches name them. Times are seconds: `now` of a clock that never steps back,
`at` of the wall clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from dicode.messages.fault import Fault
from dicode.spec.resolve import Resolved

MAX_DIRTY = 10_000  # keys; more than that means "everything"
ALL = ""  # as a key of Dirt: the whole source
UNREST = 10  # times settle: after that a folder is read whether it is quiet or not


class Touched(NamedTuple):
    """Something happened to `name` in `folder`; `at` is when it began, seconds since the epoch.

    `writing`: a file that was opened for writing and has not been closed yet. `gone`: it left this name.
    A name of "" is the folder itself: it was removed, moved or unmounted.
    """

    folder: str
    name: str
    at: float
    directory: bool = False
    writing: bool = False
    gone: bool = False

    @property
    def path(self) -> str:
        return f"{self.folder.rstrip('/')}/{self.name}" if self.name else self.folder


class Burst(NamedTuple):
    """Why a folder is dirty: one save, as far as anybody can tell."""

    cause: str
    at: float
    first: float
    last: float
    writing: frozenset[str] = frozenset()  # files that were opened for writing and not closed yet


@dataclass
class Dirt:
    """Folders that must be read again, each once it is quiet. A key is a folder; ALL is the whole source."""

    settle: float = 0.01
    bursts: dict[str, Burst] = field(default_factory=dict)

    def touch(self, key: str, now: float, at: float, cause: str, *, path: str = "", writing: bool = False) -> None:
        """Something happened below `key` to `path`."""
        burst = self.bursts.get(key)
        if burst is None:
            if len(self.bursts) >= MAX_DIRTY:
                self.bursts.clear()
                key = ALL
            burst = Burst(cause, at, now, now)
        open_files = burst.writing | {path} if writing else burst.writing - {path}
        self.bursts[key] = burst._replace(last=now, writing=open_files)

    def due_at(self, key: str) -> float:
        """When this key may be read: it was quiet for `settle` and no file is open, or its unrest lasted too long."""
        burst = self.bursts[key]
        limit = burst.first + UNREST * self.settle
        return limit if burst.writing else min(burst.last + self.settle, limit)

    def next_due(self) -> float | None:
        return min(map(self.due_at, self.bursts), default=None)

    def take(self, now: float, most: int) -> dict[str, Burst]:
        """Up to `most` keys that are due, oldest first; they are clean from now on."""
        due = [key for key in self.bursts if self.due_at(key) <= now][:most]
        return {key: self.bursts.pop(key) for key in due}

    def expired(self, burst: Burst, now: float) -> bool:
        """Its unrest lasted long enough: take what is there."""
        return now >= burst.first + UNREST * self.settle

    def wait_on(self, due: dict[str, Burst], now: float) -> None:
        """These could not even be looked at: as if they had just begun."""
        for key, burst in due.items():
            self.put_back(key, burst._replace(first=now), now)

    def put_back(self, key: str, burst: Burst, now: float) -> None:
        """It could not be read well: once more after another `settle`, or whatever came meanwhile."""
        newer = self.bursts.get(key, burst)
        self.bursts[key] = burst._replace(last=max(now, newer.last), writing=newer.writing)


@dataclass(frozen=True)
class Known:
    """One task folder: what it looked like when it was last read, where else its files stand, and what came of it."""

    id: str
    fingerprint: int | None = None  # None: not read yet or not wholly, or it would not hold still
    includes: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    digest: str = ""
    faulty: bool = False


class Reading(NamedTuple):
    """A task folder as it was read. `known`: what to remember of it; None when the folder is no task any more.

    `changed`: the files whose content is another than in the bundle before, where that is known. `unsettled`: it moved
    under each of the readings, so it may hold parts of two saves. `failed`: our own disk refused the bundle; nothing
    is known to be wrong with the task. `revision`: the commit it was read from; `set_dir`: as in DesiredTask.
    With a `folder` of "" the changed files are named as people call them.
    """

    id: str
    folder: str
    known: Known | None
    dir: str = ""  # the folder as it is told
    resolved: Resolved | None = None
    faults: tuple[Fault, ...] = ()
    changed: tuple[str, ...] = ()
    newest: int = 0  # of the changes stat knows of, ns
    unsettled: bool = False
    failed: str = ""
    revision: str = ""
    set_dir: str = ""
    asks_set_dir: bool = False


@dataclass
class Territory:
    """Which folders are tasks, and which of them a touched path belongs to. `groups`: folders known to be none."""

    tasks: dict[str, Known] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    _including: dict[str, set[str]] = field(default_factory=dict)  # included path → task folders

    def tasks_of(self, path: str) -> set[str]:
        """The task folders whose bundle holds `path`: the one it lies in, and those that include it."""
        found: set[str] = set()
        for ancestor in ancestors(path):
            if ancestor in self.tasks:
                found.add(ancestor)
            found |= self._including.get(ancestor, set())
        return found

    def below(self, folder: str) -> list[str]:
        """The task folders at or below `folder`."""
        if folder in self.tasks:
            return [folder]
        return [task for task in self.tasks if task.startswith(folder + "/")]

    def learn(self, folder: str, known: Known) -> None:
        """Remember this task as it is now."""
        before = self.tasks.get(folder)
        if before is not None and before.includes != known.includes:
            self._unlink(folder, before.includes)
        for path in known.includes:
            self._including.setdefault(path, set()).add(folder)
        self.tasks[folder] = known

    def forget_readings(self) -> None:
        """What was read is to be read again."""
        self.tasks.update({folder: replace(known, fingerprint=None) for folder, known in self.tasks.items()})

    def lose(self, folder: str) -> None:
        known = self.tasks.pop(folder, None)
        if known is not None:
            self._unlink(folder, known.includes)

    def _unlink(self, folder: str, includes: Iterable[str]) -> None:
        for path in includes:
            self._including[path].discard(folder)
            if not self._including[path]:
                del self._including[path]


def ancestors(path: str) -> Iterable[str]:
    """The path itself and every folder above it, the deepest first."""
    while len(path) > 1:
        yield path
        path = path.rpartition("/")[0] or "/"
