"""One plain local source: look where something was touched, read what is quiet, write what differs from what is written.

A step does one small thing and says when to come again, so that a save waits for nobody. All disk work is done on one
thread; what it needs is handed to it, what it finds comes back as values. Folders are watched before they are listed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

from dicode.messages.kinds import ConfigSource
from dicode.process.blobs import Batch, Bundles
from dicode.process.clock import mono, wall, wall_ms
from dicode.process.finding import OnFolder
from dicode.source.decide import View, agrees, dirty_keys
from dicode.source.ground import Ground
from dicode.source.reading import not_bundled, read_task
from dicode.source.rounds import Rounds
from dicode.source.snapshot import Glance, Root, Walk, find_root
from dicode.source.state import ALL, MAX_DIRTY, Burst, Dirt, Known, Reading, Territory, Touched
from dicode.source.tools import FAILED_WAIT, RACY, ROUND_SLICE, SLICE, Tools, burst_now, deaf, new_cause
from dicode.source.work import BecameSet, Problem
from dicode.source.writing import Op, Pen
from dicode.spec.ignore import is_noise

BATCH = 200  # task folders handed to the disk thread at a time
SIFTED = 100  # task folders compared before the time is looked at
MAX_DUE = 100  # folders that are looked at together


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


class PlainSource:
    """The work on one source; `step` is called by one worker at a time, everything else by the loop's thread."""

    def __init__(self, spec: ConfigSource, tools: Tools, pen: Pen, rounds: Rounds, wake: Callable[[], None]) -> None:
        self.spec = spec
        self._tools = tools
        self._pen = pen
        self._rounds = rounds
        self._wake = wake
        self._root: Root | None = None
        self._problem: Problem | None = None
        self._remote = ""
        self._failed = ""
        self._ground = Ground(spec, tools)
        self._territory = Territory()
        self._dirt = Dirt(max(spec.settle, 1) / 1000)
        self._unclaimed: dict[str, Touched] = {}  # path → what was touched there and belonged to no task that we knew
        self._waiting: dict[str, Waiting] = {}
        self._unwritten: list[tuple[Reading, Burst | None]] = []
        self._round: Walk | None = None
        self._sifting: Iterator[Walk | None] | None = None
        self._read = False

    # ── what others ask ──

    def touched(self, touches: list[Touched] | None) -> None:
        """Something happened on disk; None: anything may have."""
        self._ground.hear(touches, self._dirt, self._concerned)
        self._wake()

    def _concerned(self, touched: Touched) -> set[str]:
        keys = dirty_keys(self._territory, self._root.path if self._root else "", self._ground.way, touched)
        self._territory.groups -= keys  # it is not known any more that they are no tasks
        if self._territory.tasks.keys().isdisjoint(keys) and len(self._unclaimed) < MAX_DIRTY:
            self._unclaimed[touched.path] = touched
        return keys

    def _claim(self) -> None:
        """What was touched while a task was read for the first time may be included by it, which nobody could know."""
        unclaimed, self._unclaimed = self._unclaimed, {}
        for touched in unclaimed.values():
            for key in self._territory.tasks_of(touched.path) if not is_noise(touched.name) else ():
                self._dirt.touch(key, mono(), touched.at, new_cause())

    def look_again(self, pushed_at: float = 0.0) -> int:
        self._wake()
        return self._rounds.want()

    @property
    def problem(self) -> Problem | None:
        return self._problem

    @property
    def synced_at(self) -> int:
        return 0

    @property
    def at_rest(self) -> bool:
        """All that was seen has been read and written."""
        return not self._waiting and not self._unwritten

    def freeze(self) -> None:
        """There is nobody who would be asked."""

    def close(self) -> None:
        self._ground.leave()

    # ── the loop: wait, observe, decide, act ──

    async def step(self) -> float:
        """One small piece of work; gives the seconds after which there is more."""
        due = self._dirt.take(mono(), MAX_DUE)
        if due.pop(ALL, None) is not None:
            self._rounds.want()
        if due and self._root is not None:
            await self._write_read()  # an older reading must not come after a newer one
            await self._look(due, self._root)
        elif self._sifting is not None:
            await self._go_on_sifting(self._sifting)
        elif self._root is not None and not self.at_rest:
            await self._read_waiting(self._root)
        elif self._round is not None:
            await self._go_round(self._round)
        elif mono() >= self._rounds.at:
            await self._begin_round()
        if self._unclaimed and self.at_rest:
            self._claim()
        await self._tell()
        return self._rest()

    def _rest(self) -> float:
        if self._round is not None or self._sifting is not None or (not self.at_rest and not self._ground.waits_for_git):
            return 0.0
        if not self.at_rest:
            return self._dirt.settle
        next_due = self._dirt.next_due()
        return max(0.0, min(self._rounds.at, math.inf if next_due is None else next_due) - mono())

    async def _look(self, due: dict[str, Burst], root: Root) -> None:
        looked = await self._tools.on_disk(self._look_at, due, root)
        if looked.locked:
            self._dirt.wait_on(due, mono())
            return
        if looked.missing:
            self._rounds.want()
        self._territory.groups |= looked.groups
        self._territory.groups -= looked.tasks
        self._waiting.update(looked.waiting)
        await self._take_in(looked.readings)

    def _look_at(self, due: dict[str, Burst], root: Root) -> Looked:
        """On the disk thread."""
        looked = Looked(locked=self._ground.locked())
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
                    looked.readings.append((self._read_one(folder, glanced, root, self._tools.bundles), burst))
                else:
                    looked.waiting[folder] = Waiting(glanced, burst)
        return looked

    async def _read_waiting(self, root: Root) -> None:
        """Read some while what was read before is being written."""
        batch = dict(islice(self._waiting.items(), BATCH))
        looked, _ = await asyncio.gather(self._tools.on_disk(self._read_some, batch, root), self._write_read())
        for reading, _ in looked.readings:
            self._waiting.pop(reading.folder, None)
        self._unwritten = looked.readings

    async def _write_read(self) -> None:
        readings, self._unwritten = self._unwritten, []
        await self._take_in(readings)

    def _read_some(self, waiting: dict[str, Waiting], root: Root) -> Looked:
        """On the disk thread."""
        looked = Looked(locked=self._ground.locked())
        until = mono() + SLICE
        batch = self._tools.bundles.together()
        for folder, each in waiting.items() if not looked.locked else ():
            looked.readings.append((self._read_one(folder, each.glance, root, batch), each.burst))
            if mono() >= until:
                break
        try:
            batch.write()
        except OSError as error:
            failed = not_bundled(error)
            looked.readings = [(reading._replace(failed=failed) if reading.resolved else reading, burst) for reading, burst in looked.readings]
        return looked

    def _read_one(self, folder: str, glanced: Glance, root: Root, bundles: Bundles | Batch) -> Reading:
        return read_task(glanced, folder, root, self._territory.tasks.get(folder), self._on_folder, bundles)

    async def _take_in(self, readings: list[tuple[Reading, Burst | None]]) -> None:
        """Remember what was read and write what differs; what could not be written is read again."""
        source = self._pen.source
        if source is None:
            return
        now = mono()
        ops: list[Op] = []
        learned: list[Reading] = []
        for reading, burst in readings:
            if reading.failed:
                self._failed = reading.failed
                self._dirt.touch(reading.folder, now + FAILED_WAIT, wall(), new_cause())
            elif reading.known is None:
                self._territory.lose(reading.folder)
                self._rounds.want()
            elif reading.unsettled and (burst is None or not self._dirt.expired(burst, now)):
                self._dirt.put_back(reading.folder, burst or burst_now(), now)
            else:
                self._failed = ""
                learned.append(reading)
                ops += self._pen.say(source, reading, burst)
        try:
            await self._pen.write(ops)
        except BaseException:
            for reading in learned:
                self._forget_reading(reading)
            raise
        for reading in learned:
            if reading.known is not None:
                self._territory.learn(reading.folder, self._racy(reading, reading.known))

    def _racy(self, reading: Reading, known: Known) -> Known:
        """Without events a second change within the grain of the clock would never be seen: look once more."""
        return replace(known, fingerprint=None) if self._polled and reading.newest > wall_ms() * 1_000_000 - RACY else known

    def _forget_reading(self, reading: Reading) -> None:
        known = self._territory.tasks.get(reading.folder) or reading.known
        if known is not None:
            self._territory.learn(reading.folder, replace(known, fingerprint=None))
        self._rounds.want()

    # ── rounds through everything ──

    async def _begin_round(self) -> None:
        found = await self._tools.on_disk(self._ground.find)
        if found.composed:
            raise BecameSet
        self._remote = found.remote
        if found.root != self._root:
            self.close()
            self._territory = Territory()
            self._waiting.clear()
            self._unwritten.clear()
            await self._tools.on_disk(self._ground.listen)
        self._root = found.root
        if found.root is None:
            self._problem = found.problem
            self._rounds.fail(mono())
            return
        self._rounds.begin()
        self._round = Walk(found.root, self._territory.tasks, self._on_folder)

    async def _go_round(self, walk: Walk) -> None:
        began = mono()
        done = await self._tools.on_disk(walk.advance, ROUND_SLICE if self._read else SLICE)
        self._rounds.spend(mono() - began)
        if done:
            self._rounds.through(mono(), polled=self._polled)
            self._round = None
            await self._seen_all(walk)

    async def _seen_all(self, walk: Walk) -> None:
        there, bundled = await self._tools.on_disk(self._what_is_there, walk.root)
        if there:
            self._sifting = self._sift(walk, bundled)
        else:
            self._rounds.end()
            self._rounds.want()

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
        self._rounds.end()

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
        source = self._pen.source
        present = self._pen.present(glanced.id)
        return source is not None and not agrees(present, known.digest, known.faulty, source.order)

    def _noticed(self) -> Burst | None:
        """A round found it, not an event: then there is no moment to measure from. None for the first reading."""
        return burst_now() if self._read else None

    async def _settle_missing(self, walk: Walk) -> None:
        """Tasks that two complete readings did not find are removed; too many at once are held."""
        for folder in self._territory.tasks.keys() - walk.found.keys():
            self._territory.lose(folder)
            self._waiting.pop(folder, None)
        again = await self._pen.settle_missing(glanced.id for glanced in walk.found.values())
        self._rounds.within(again, mono())
        self._read = True

    # ── what is told ──

    @property
    def _polled(self) -> bool:
        return bool(self._remote) or self._tools.limited

    async def _tell(self) -> None:
        if (self._read is False and self._problem is None) or not self.at_rest:
            return
        if self._pen.holding and self._read and self._problem is None:
            await self._pen.release(self._forget_readings)
        await self._pen.tell(View(self._read, 0, self._problem, 0, self._remote, self._tools.limited, self._failed))

    def _forget_readings(self) -> None:
        self._territory.forget_readings()
        self._rounds.want()

    @property
    def _on_folder(self) -> OnFolder:
        return deaf if self._remote else self._tools.ears_of(self.spec.name)
