"""Reading what is due and writing what came of it: places of a `Book`, read in trees a few at a time.

What somebody waits for is read before what a round or a first reading wants. While some is read, what was read before is
written; what could not be written, or would not hold still, is due again.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

from dicode.git.trees import Tree, TreeGone
from dicode.process.clock import mono, wall_ms
from dicode.source.local import READ, LocalTree
from dicode.source.reading import not_bundled, shown
from dicode.source.remotes import OWN, Remotes
from dicode.source.resolving import Job, reading_of
from dicode.source.sets import Book, Done, Due, Piece, Place, is_below
from dicode.source.state import Burst, Dirt, Reading
from dicode.source.survey import GONE_WAIT, Survey
from dicode.source.tools import FAILED_WAIT, RACY, burst_now
from dicode.source.writing import Op, Pen
from dicode.spec.config import default_name
from dicode.spec.names import is_tellable
from dicode.spec.trees import FolderRead, Repo, Want

BATCH = 500  # places that are read together
_CLOSING: set[asyncio.Task[None]] = set()  # the loop itself would let go of them


@dataclass
class _Stream:
    """A reading under way in one tree. `places`: what has not come yet."""

    reads: AsyncIterator[list[FolderRead]]
    places: dict[Want, tuple[Place, Due]]
    urgent: bool


Unwritten = tuple[Place, Due, FolderRead, list[Reading]]


@dataclass
class Intake:
    """Of one source. `unwritten`: what was read and not written; `again`: tasks that could not be written → when to try again.

    `failed`: why our own disk refused something, "" when it did not.
    """

    _book: Book
    _survey: Survey
    _remotes: Remotes
    _pen: Pen
    _dirt: Dirt
    unwritten: list[Unwritten] = field(default_factory=list)
    again: dict[str, float] = field(default_factory=dict)
    failed: str = ""
    _streams: dict[str, _Stream] = field(default_factory=dict)
    _moving: dict[Place, Due] = field(default_factory=dict)  # would not hold still, and are waited for
    _missed: list[tuple[Place, Due]] = field(default_factory=list)
    _set_dirs: dict[str, str] = field(default_factory=dict)  # tree of the own commit → where its root set was exported to

    @property
    def at_rest(self) -> bool:
        """All that is due has been read and written."""
        return not (self._book.due or self._streams or self.unwritten or self._moving or self.again)

    def next_tree(self) -> str | None:
        """Where to read next: what somebody waits for comes first."""
        waiting = [(not stream.urgent, tree) for tree, stream in self._streams.items()]
        waiting += [key for key in self._book.due if key[1] not in self._streams]
        return min((key for key in waiting if self._survey.readable(key[1])), default=(False, None))[1]

    def is_calm(self, tree: str) -> bool:
        """Would the next thing that is read there be one that nobody waits for?"""
        stream = self._streams.get(tree)
        return not stream.urgent if stream is not None else (False, tree) not in self._book.due

    def suspect(self, place: Place, burst: Burst) -> None:
        """It was touched, and may look different. A reading that nobody waits for makes room."""
        if place.tree in self._streams and self.is_calm(place.tree):
            self.close(place.tree)
        moving = self._moving.pop(place, None)
        if moving is not None:
            moving.burst = burst
            self._book.give_back(place, moving)
        self._book.suspect(place, burst)

    def try_again(self, now: float, burst: Burst | None) -> None:
        """What could not be written a while ago is due again."""
        for id in [id for id, at in self.again.items() if at <= now]:
            del self.again[id]
            self._book.must_read(id, burst)

    async def advance(self, tree: str | None, *, polled: bool) -> list[tuple[Place, Due]]:
        """Read some in this tree while what was read before is being written. Gives the places where there is no task any more.

        Raises Lost, StoreAway, StoreFailed.
        """
        if tree is not None and tree not in self._streams:
            self._open(tree)
        reading = self._read_on(tree) if tree is not None else asyncio.sleep(0)
        for error in await asyncio.gather(reading, self._write_read(polled), return_exceptions=True):
            if error is not None:
                raise error
        if self.unwritten and self.next_tree() is None:
            await self._write_read(polled)
        missed, self._missed = self._missed, []
        return missed

    def _open(self, tree: str) -> None:
        key = min(key for key in self._book.due if key[1] == tree)
        taken = self._book.take(key, BATCH)
        places = {self._book.want(place, due): (place, due) for place, due in taken.items()}
        self._streams[tree] = _Stream(self._survey.trees[tree].read(list(places)), places, urgent=not key[0])

    def close(self, tree: str) -> None:
        """What is being read there is due again."""
        stream = self._streams.pop(tree, None)
        if stream is None:
            return
        for place, due in stream.places.values():
            self._book.give_back(place, due)
        if isinstance(stream.reads, AsyncGenerator):
            task = asyncio.get_running_loop().create_task(stream.reads.aclose())
            _CLOSING.add(task)
            task.add_done_callback(_CLOSING.discard)

    async def _read_on(self, tree: str) -> None:
        stream = self._streams[tree]
        try:
            reads = await anext(stream.reads, None)
        except TreeGone as gone:
            self._survey.lose(tree, gone)
            reads = None
        if reads is None:
            if self._streams.get(tree) is stream:
                self.close(tree)
            return
        got = [(*stream.places.pop(read.want), read) for read in reads if read.want in stream.places]
        if not stream.places:
            del self._streams[tree]
            await anext(stream.reads, None)  # to its end
        await self._resolve(tree, got)

    async def _resolve(self, tree: str, got: list[tuple[Place, Due, FolderRead]]) -> None:
        jobs: list[tuple[Place, Due, FolderRead, list[Job]]] = []
        for place, due, read in got:
            if read.missing:
                self._missed.append((place, due))
                self._book.unlearn(place)
            elif read.folder is None:
                continue  # as it was
            elif read.unsettled and (due.burst is None or not self._dirt.expired(due.burst, mono())):
                self._read_again(place, due)
            else:
                jobs.append((place, due, read, [self._job(tree, piece, due, read) for piece in self._book.read(place, read, due)]))
        if jobs:
            self.unwritten += await self._pen.tools.on_disk(self._resolve_some, jobs)

    def _resolve_some(self, jobs: list[tuple[Place, Due, FolderRead, list[Job]]]) -> list[tuple[Place, Due, FolderRead, list[Reading]]]:
        """On the disk thread."""
        done = []
        batch = self._pen.tools.bundles.together()
        for place, due, read, some in jobs:
            readings = [reading_of(job, batch, self._survey.shown, self._shown) for job in some]
            done.append((place, due, read._replace(folder=read.folder and read.folder._replace(files=())), readings))
        try:
            batch.write()
        except OSError as error:
            failed = not_bundled(error)
            return [(place, due, read, [each._replace(failed=failed) if each.resolved else each for each in some]) for place, due, read, some in done]
        return done

    def _shown(self, path: str) -> str:
        return shown(path, self._pen.tools.working_dir)

    def _job(self, tree: str, piece: Piece, due: Due, read: FolderRead) -> Job:
        present = self._pen.present(piece.id)
        commit = self._remotes.commits.get(tree)
        before = present.digest if present is not None else ""
        return Job(piece, read, self._survey.trees[tree], self._dir_of(piece.place), commit.id if commit else "", before, due.burst, due.said)

    def _dir_of(self, place: Place) -> str:
        """How the folder of a task is told: `/abs/path`, `infra:path`."""
        return told_folder(self._survey.trees[place.tree], self._remotes.repo(place.tree) if place.tree else None, self._pen.name, place.path)

    def _read_again(self, place: Place, due: Due) -> None:
        """It moved under the reading."""
        tree = self._survey.trees[place.tree]
        assert isinstance(tree, LocalTree), "only files on disk move"
        due.burst = due.burst or burst_now()
        self._moving[place] = due
        self._dirt.put_back(READ + tree.key_of(place.path, place.key), due.burst, mono())

    async def _write_read(self, polled: bool) -> None:
        """Remember what was read and write what differs; what could not be written is read again."""
        source = self._pen.source
        some, self.unwritten = self.unwritten, []
        if source is None or not some:
            return
        ops: list[Op] = []
        for _, due, _, readings in some:
            for number, reading in enumerate(readings):
                if reading.failed:
                    self.failed = reading.failed
                    self.again[reading.id] = mono() + FAILED_WAIT
                elif self._is_wanted(reading.id):
                    self.failed = ""
                    readings[number] = reading = await self._with_set_dir(reading)
                    ops += self._pen.say(source, reading, due.burst)
        try:
            await self._pen.write(ops)
        except BaseException:
            for _, due, _, readings in some:
                for reading in readings:
                    self._book.must_read(reading.id, due.burst)
            raise
        for place, _, read, readings in some:
            self._learn(place, read, readings, polled)

    def _is_wanted(self, id: str) -> bool:
        """It may have gone, or become part of something faulty, since it was read."""
        return id in self._book.pieces and not is_below(id, self._book.faults)

    def _learn(self, place: Place, read: FolderRead, readings: list[Reading], polled: bool) -> None:
        racy = polled and read.newest > wall_ms() * 1_000_000 - RACY
        self._book.learn(place, read._replace(fingerprint="") if racy or read.unsettled else read)
        for reading in readings:
            if not reading.failed and self._is_wanted(reading.id):
                digest = reading.resolved.digest if reading.resolved is not None else ""
                self._book.done[reading.id] = Done(digest, reading.resolved is None, reading.asks_set_dir)

    async def _with_set_dir(self, reading: Reading) -> Reading:
        """With the folder of the root set, as far as it can be told: of a commit it must be exported, so only for those who ask."""
        expansion = self._survey.expansion
        if expansion is None or (OWN in self._remotes.commits and not reading.asks_set_dir):
            return reading
        root = self._survey.documents.seen.get(self._survey.root)
        file = getattr(root, "at", self._survey.root)
        commit = self._remotes.commits.get(OWN)
        key = commit.tree if commit is not None else ""
        if key not in self._set_dirs:
            try:
                self._set_dirs = {key: await self._survey.trees[OWN].export(posixpath.dirname(file.path))}
            except TreeGone as gone:
                self.failed = f"the folder of the TaskSet cannot be exported: {gone}"
                self.again[reading.id] = mono() + GONE_WAIT
                return reading
        dir = self._set_dirs[key]
        return reading._replace(set_dir=dir if is_tellable(dir) else "")


def told_folder(tree: Tree, repo: Repo | None, source: str, path: str) -> str:
    """How the folder of a task is told. `repo` is None in the source's own tree."""
    return tree.place(path) if isinstance(tree, LocalTree) else f"{default_name(repo.url) if repo is not None else source}:{path}"
