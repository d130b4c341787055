"""One local source: look where something was touched, read what is quiet, write what differs from what is written.

A step does one small thing and says when to come again, so that a save waits for nobody. All disk work is done on one
thread; what it needs is handed to it, what it finds comes back as values. Folders are watched before they are listed.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple, TypeVar

from dicode.messages.commands import Append, Delete, Put
from dicode.messages.kinds import ConfigSource, DesiredTask, Event, Source
from dicode.process.blobs import Bundles
from dicode.process.clock import mono, wall, wall_ms
from dicode.process.logs import Log
from dicode.process.mirror import Mirror, append, delete, put
from dicode.source.decide import (
    Removals,
    View,
    agrees,
    changed_line,
    desired,
    dirty_keys,
    every,
    missing,
    removals,
    source_now,
)
from dicode.source.reading import for_people, read_task, shown
from dicode.source.snapshot import Glance, OnFolder, Root, Walk, find_root, index_lock, way_to
from dicode.source.state import ALL, Burst, Dirt, Known, Reading, Territory, Touched
from dicode.source.watch import Watcher, remote_type

BATCH = 200  # task folders handed to the disk thread at a time
SLICE = 0.02  # seconds of reading before someone else has a turn
ROUND_SLICE = 0.004  # the same for a round that nobody waits for
LOCK_WAIT = 5.0  # seconds to wait for git to let go of its index
SIFTED = 100  # task folders compared before the time is looked at
FAILED_WAIT = 1.0  # seconds before a bundle that could not be written is tried again
MISSING_ROOT = 2.0  # seconds between two looks for a root that is not there
RACY = 2_000_000_000  # ns; what changed less than this ago may have changed again unseen, where there are no events
MAX_OPS = 100  # of one write
MAX_BYTES = 256 * 1024  # of one write

T = TypeVar("T")
Op = Put | Delete | Append
Reason = tuple[str, str]


@dataclass
class Tools:
    """What all sources share."""

    mirror: Mirror
    bundles: Bundles
    log: Log
    disk: Executor  # one thread
    watcher: Watcher | None
    working_dir: str
    data_dir: str  # without links; no part of any source


class Waiting(NamedTuple):
    """A task folder that looks different and has not been read yet. `burst`: what told us, if anything did."""

    glance: Glance
    burst: Burst | None


@dataclass
class Looked:
    """What came of looking at some folders."""

    readings: list[tuple[Reading, Burst | None]] = field(default_factory=list)
    waiting: dict[str, Waiting] = field(default_factory=dict)
    tasks: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)  # folders without a task.yaml
    missing: bool = False  # something that was a task is none, or not there
    locked: bool = False  # git is at work: nothing was looked at


class Beginning(NamedTuple):
    """The root as it is found when a round begins, or why there is none. `remote`: the filesystem, if it must be polled."""

    root: Root | None
    problem: Reason | None = None
    remote: str = ""
    lock: str = ""


class LocalSource:
    """The work on one source; `step` is called by one worker at a time, everything else by the loop's thread."""

    def __init__(self, spec: ConfigSource, tools: Tools, ids: set[str], wake: Callable[[], None]) -> None:
        """`ids`: the tasks that are written for this source; the caller keeps it true."""
        self.spec = spec
        self.rounds_begun = 0
        self.rounds_done = 0
        self._tools = tools
        self._ids = ids
        self._wake = wake
        self._root: Root | None = None
        self._problem: Reason | None = None
        self._remote = ""
        self._failed = ""
        self._lock = ""
        self._lock_since: float | None = None
        self._way: frozenset[str] = frozenset()
        self._territory = Territory()
        self._dirt = Dirt(max(spec.settle, 1) / 1000)
        self._waiting: dict[str, Waiting] = {}
        self._unwritten: list[tuple[Reading, Burst | None]] = []
        self._round: Walk | None = None
        self._sifting: Iterator[Walk | None] | None = None
        self._round_at = 0.0
        self._round_took = 0.0
        self._round_again = False
        self._read = False
        self._absent: dict[str, float] = {}
        self._held: frozenset[str] = frozenset()
        self._confirmed: frozenset[str] = frozenset()

    # ── what others ask ──

    def touched(self, touches: list[Touched] | None) -> None:
        """Something happened on disk; None: anything may have."""
        now, cause = mono(), _cause()
        root = self._root.path if self._root else ""
        for each in touches if touches is not None else ():
            if each.gone and (each.directory or not each.name) and self._tools.watcher is not None:
                self._tools.watcher.forget(each.path, self.spec.name)
            for key in dirty_keys(self._territory, root, self._way, each):
                self._territory.groups.discard(key)
                self._dirt.touch(key, now, each.at, cause, path=each.path, writing=each.writing)
        if touches is None:
            self._dirt.touch(ALL, now, wall(), cause)
        self._wake()

    def look_again(self) -> int:
        """Look at everything now; gives the number of the round that will have done so."""
        self._want_round()
        self._wake()
        return self.rounds_begun + 1

    def _want_round(self) -> None:
        self._round_again = self._round is not None
        self._round_at = 0.0

    def confirm(self) -> int:
        """Somebody agrees to lose what is missing; gives how many tasks that is."""
        self._confirmed = frozenset(self._absent)
        if self._confirmed:
            self.look_again()
        return len(self._held)

    @property
    def problem(self) -> Reason | None:
        return self._problem

    @property
    def at_rest(self) -> bool:
        """All that was seen has been read and written."""
        return not self._waiting and not self._unwritten

    def close(self) -> None:
        if self._tools.watcher is not None:
            self._tools.watcher.forget_all(self.spec.name)

    # ── the loop: wait, observe, decide, act ──

    async def step(self) -> float:
        """One small piece of work; gives the seconds after which there is more."""
        due = self._dirt.take(mono(), MAX_OPS)
        if due.pop(ALL, None) is not None:
            self._want_round()
        if due and self._root is not None:
            await self._write_read()  # an older reading must not come after a newer one
            await self._look(due, self._root)
        elif self._sifting is not None:
            await self._go_on_sifting(self._sifting)
        elif self._root is not None and not self.at_rest:
            await self._read_waiting(self._root)
        elif self._round is not None:
            await self._go_round(self._round)
        elif mono() >= self._round_at:
            await self._begin_round()
        await self._tell()
        return self._rest()

    def _rest(self) -> float:
        if self._round is not None or self._sifting is not None or (not self.at_rest and self._lock_since is None):
            return 0.0
        if not self.at_rest:
            return self._dirt.settle
        next_due = self._dirt.next_due()
        return max(0.0, min(self._round_at, math.inf if next_due is None else next_due) - mono())

    async def _look(self, due: dict[str, Burst], root: Root) -> None:
        looked = await self._on_disk(self._look_at, due, root)
        if looked.locked:
            for key, burst in due.items():
                self._dirt.put_back(key, burst._replace(first=mono()), mono())  # as if it had just begun
            return
        if looked.missing:
            self._want_round()
        self._territory.groups |= looked.groups
        self._territory.groups -= looked.tasks
        self._waiting.update(looked.waiting)
        await self._take_in(looked.readings)

    def _look_at(self, due: dict[str, Burst], root: Root) -> Looked:
        """On the disk thread."""
        looked = Looked(locked=self._locked())
        until = mono() + SLICE
        for key, burst in due.items() if not looked.locked else ():
            walk = Walk(root, self._territory.tasks, self._on_folder, start=key)
            walk.advance(math.inf)
            looked.groups |= walk.groups
            looked.tasks |= walk.found.keys()
            looked.missing = looked.missing or any(task not in walk.found for task in self._territory.below(key))
            for folder, glanced in walk.found.items():
                known = self._territory.tasks.get(folder)
                if known is not None and known.fingerprint == glanced.fingerprint:
                    continue
                if mono() < until:
                    looked.readings.append((self._read_one(folder, glanced, root), burst))
                else:
                    looked.waiting[folder] = Waiting(glanced, burst)
        return looked

    async def _read_waiting(self, root: Root) -> None:
        """Read some while what was read before is being written."""
        batch = dict(islice(self._waiting.items(), BATCH))
        looked, _ = await asyncio.gather(self._on_disk(self._read_some, batch, root), self._write_read())
        for reading, _ in looked.readings:
            self._waiting.pop(reading.folder, None)
        self._unwritten = looked.readings

    async def _write_read(self) -> None:
        readings, self._unwritten = self._unwritten, []
        await self._take_in(readings)

    def _read_some(self, waiting: dict[str, Waiting], root: Root) -> Looked:
        """On the disk thread."""
        looked = Looked(locked=self._locked())
        until = mono() + SLICE
        for folder, each in waiting.items() if not looked.locked else ():
            looked.readings.append((self._read_one(folder, each.glance, root), each.burst))
            if mono() >= until:
                break
        return looked

    def _read_one(self, folder: str, glanced: Glance, root: Root) -> Reading:
        return read_task(glanced, folder, root, self._territory.tasks.get(folder), self._on_folder, self._tools.bundles)

    def _locked(self) -> bool:
        """Is a checkout under way, and has it not been for too long?"""
        if not self._lock or not os.path.exists(self._lock):
            self._lock_since = None
            return False
        self._lock_since = self._lock_since or mono()
        return mono() - self._lock_since < LOCK_WAIT

    async def _take_in(self, readings: list[tuple[Reading, Burst | None]]) -> None:
        """Remember what was read and write what differs; what could not be written is read again."""
        source = self._source
        if source is None:
            return
        now = mono()
        ops: list[Op] = []
        learned: list[Reading] = []
        for reading, burst in readings:
            if reading.failed:
                self._failed = reading.failed
                self._dirt.touch(reading.folder, now + FAILED_WAIT, wall(), _cause())
            elif reading.known is None:
                self._territory.lose(reading.folder)
                self._want_round()
            elif reading.unsettled and (burst is None or not self._dirt.expired(burst, now)):
                self._dirt.put_back(reading.folder, burst or Burst(_cause(), 0.0, now, now), now)
            else:
                self._failed = ""
                learned.append(reading)
                ops += self._ops(source, reading, burst)
        try:
            await self._write(ops)
        except BaseException:
            for reading in learned:
                self._forget_reading(reading)
            raise
        for reading in learned:
            if reading.known is not None:
                self._territory.learn(reading.folder, self._racy(reading, reading.known))

    def _ops(self, source: Source, reading: Reading, burst: Burst | None) -> Iterator[Op]:
        key = f"{source.name}/{reading.id}"
        reading = for_people(reading, self._tools.working_dir)
        said = desired(source, reading, self._tools.mirror.get(DesiredTask, key), burst, wall_ms())
        if said is None:
            return
        line = changed_line(reading, shown(reading.folder, self._tools.working_dir)) if burst is not None else ""
        if line:
            self._tools.log.say(line, cause=said.cause)
        yield put(said, key, self._tools.mirror.rev(DesiredTask, key), said.cause)

    def _racy(self, reading: Reading, known: Known) -> Known:
        """Without events a second change within the grain of the clock would never be seen: look once more."""
        return replace(known, fingerprint=None) if self._polled and reading.newest > wall_ms() * 1_000_000 - RACY else known

    def _forget_reading(self, reading: Reading) -> None:
        known = self._territory.tasks.get(reading.folder) or reading.known
        if known is not None:
            self._territory.learn(reading.folder, replace(known, fingerprint=None))
        self._want_round()

    # ── rounds through everything ──

    async def _begin_round(self) -> None:
        found = await self._on_disk(self._find)
        self._remote, self._lock = found.remote, found.lock
        if found.root != self._root:
            self.close()
            self._territory = Territory()
            self._waiting.clear()
            self._unwritten.clear()
            await self._on_disk(self._watch_way)
        self._root = found.root
        self.rounds_begun += 1
        if found.root is None:
            self._problem = found.problem
            self.rounds_done = self.rounds_begun
            self._round_at = mono() + min(MISSING_ROOT, self.spec.rescan / 1000)
            return
        self._round_again = False
        self._round = Walk(found.root, self._territory.tasks, self._on_folder)
        self._round_took = 0.0

    def _find(self) -> Beginning:
        """On the disk thread."""
        self._way = frozenset(way_to(self.spec.path))
        self._watch_way()
        path = self.spec.path
        if self.spec.type == "git":
            return Beginning(None, ("NotImplemented", "git sources are not in this release: clone it and use the folder"))
        try:
            root = find_root(path, self.spec.root, self._tools.data_dir)
        except NotADirectoryError:
            return Beginning(None, ("NotImplemented", f"{path} is a file: TaskSets are not in this release"))
        except OSError as error:
            reason = "NotFound" if isinstance(error, FileNotFoundError) else "Unreadable"
            return Beginning(None, (reason, f"{path}: {error.strerror}"))
        if os.path.lexists(f"{root.path}/taskset.yaml"):
            return Beginning(None, ("NotImplemented", f"{path}/taskset.yaml: TaskSets are not in this release"))
        return Beginning(root, None, remote_type(root.path), index_lock(root.reach))

    def _watch_way(self) -> None:
        """Hear when the root, or a link that leads to it, is replaced."""
        for path in self._way:
            folder, name = os.path.split(path)
            try:
                inode = os.stat(folder).st_ino
            except OSError:
                continue
            if self._tools.watcher is not None:
                self._tools.watcher.watch(folder, inode, self.spec.name, frozenset((name,)))

    async def _go_round(self, walk: Walk) -> None:
        began = mono()
        done = await self._on_disk(walk.advance, ROUND_SLICE if self._read else SLICE)
        self._round_took += mono() - began
        if done:
            self._round_at = 0.0 if self._round_again else mono() + every(self.spec.rescan / 1000, self._polled, self._round_took)
            self._round = None
            await self._seen_all(walk)

    async def _seen_all(self, walk: Walk) -> None:
        there, bundled = await self._on_disk(self._what_is_there, walk.root)
        if there:
            self._sifting = self._sift(walk, bundled)
        else:
            self._round_at = 0.0
            self.rounds_done = self.rounds_begun

    def _what_is_there(self, root: Root) -> tuple[bool, set[str]]:
        """On the disk thread: is the root still this one, and which bundles are there?"""
        return self._still_there(root), self._tools.bundles.digests()

    async def _go_on_sifting(self, sifting: Iterator[Walk | None]) -> None:
        until = mono() + ROUND_SLICE
        for walk in sifting:
            if walk is not None:
                self._sifting = None
                await self._settle_round(walk)
            if walk is not None or mono() >= until:
                return

    def _sift(self, walk: Walk, bundled: set[str]) -> Iterator[Walk | None]:
        """Pick out what must be read, a little at a time; gives the walk when it is through."""
        for count, (folder, glanced) in enumerate(walk.found.items()):
            if folder not in self._waiting and self._differs(folder, glanced, bundled):
                self._waiting[folder] = Waiting(glanced, self._noticed())
            if count % SIFTED == SIFTED - 1:
                yield None
        yield walk

    async def _settle_round(self, walk: Walk) -> None:
        self._problem = next((("Unreadable", f"{folder}: {why}") for folder, why in walk.unreadable.items()), None)
        if walk.complete:
            self._territory.groups = walk.groups
            await self._settle_missing(walk)
        self.rounds_done = self.rounds_begun

    def _still_there(self, root: Root) -> bool:
        try:
            return find_root(self.spec.path, self.spec.root, self._tools.data_dir) == root
        except OSError:
            return False

    def _differs(self, folder: str, glanced: Glance, bundled: set[str]) -> bool:
        """From what was read, or is what was read no longer written or stored?"""
        known = self._territory.tasks.get(folder)
        if known is None or known.fingerprint != glanced.fingerprint or (known.digest and known.digest not in bundled):
            return True
        source = self._source
        present = self._tools.mirror.get(DesiredTask, f"{self.spec.name}/{glanced.id}")
        return source is not None and not agrees(present, known.digest, known.faulty, source.order)

    def _noticed(self) -> Burst | None:
        """A round found it, not an event: then there is no moment to measure from. None for the first reading."""
        now = mono()
        return Burst(_cause(), 0.0, now, now) if self._read else None

    async def _settle_missing(self, walk: Walk) -> None:
        """Tasks that two complete readings did not find are removed; too many at once are held."""
        for folder in self._territory.tasks.keys() - walk.found.keys():
            self._territory.lose(folder)
            self._waiting.pop(folder, None)
        self._absent = missing(self._ids, (glanced.id for glanced in walk.found.values()), self._absent, mono())
        if not self._absent:
            self._confirmed = frozenset()
        verdict: Removals = removals(self._absent, len(self._ids), self._confirmed, mono())
        self._held = verdict.held
        await self._write([delete(DesiredTask, f"{self.spec.name}/{id}", cause=_cause()) for id in sorted(verdict.remove)])
        self._absent = {id: since for id, since in self._absent.items() if id not in verdict.remove}
        if verdict.again is not None:
            self._round_at = min(self._round_at, mono() + verdict.again)
        self._read = True

    # ── what is told ──

    @property
    def _source(self) -> Source | None:
        return self._tools.mirror.get(Source, self.spec.name)

    @property
    def _polled(self) -> bool:
        watcher = self._tools.watcher
        return bool(self._remote) or watcher is None or watcher.limited

    async def _tell(self) -> None:
        """Write the Source when something about it changed that people or controllers look at."""
        present = self._source
        if present is None or (self._read is False and self._problem is None) or not self.at_rest:
            return
        limited = self._tools.watcher is None or self._tools.watcher.limited
        view = View(self._read, len(self._ids), self._problem, len(self._held), self._remote, limited, self._failed)
        said = source_now(present, view, wall_ms())
        if said == present:
            return
        ops: list[Op] = [put(said, said.name, self._tools.mirror.rev(Source, said.name))]
        line = told_of(present, said)
        if line:
            self._tools.log.say(f"source/{said.name} {line}")
            ops.append(append(event_of(said, line)))
        await self._tools.mirror.write(*ops)

    async def _write(self, ops: Iterable[Op]) -> None:
        for chunk in in_chunks(ops):
            await self._tools.mirror.write(*chunk)

    async def _on_disk(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._tools.disk, work, *args)

    @property
    def _on_folder(self) -> OnFolder:
        watcher, name = self._tools.watcher, self.spec.name
        if watcher is None or self._remote:
            return _deaf
        return lambda folder, inode: watcher.watch(folder, inode, name)


def event_of(source: Source, message: str) -> Event:
    return Event(
        object=f"source/{source.name}",
        type="Normal" if source.status == "ok" else "Warning",
        reason=source.status.capitalize(),
        message=message,
        at=wall_ms(),
        role="source-controller",
    )


def told_of(before: Source, now: Source) -> str:
    """What people should hear of a change of a source; "" when nothing."""
    if now.status == before.status and now.conditions == before.conditions:
        return ""
    words = "; ".join(condition.message for condition in now.conditions)
    if now.status == "ok" and not words:
        return "" if before.status == "pending" else f"ok: {now.tasks} tasks"
    return f"{now.status}: {words}"


def in_chunks(ops: Iterable[Op]) -> Iterator[list[Op]]:
    """Lists that fit into one write each."""
    chunk: list[Op] = []
    size = 0
    for op in ops:
        weight = 0 if isinstance(op, Delete) else len(op.body)
        if chunk and (len(chunk) == MAX_OPS or size + weight > MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(op)
        size += weight
    if chunk:
        yield chunk


def _deaf(folder: str, inode: int) -> None:
    """Where nothing can be heard, nothing is watched."""


def _cause() -> str:
    """An id by which every log line of one save can be joined."""
    return os.urandom(6).hex()
