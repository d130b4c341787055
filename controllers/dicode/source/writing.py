"""What one source writes: its tasks, once their bundles are stored, what is gone from it, and how it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from dicode.messages.commands import Append, Delete, Put
from dicode.messages.kinds import DesiredTask, Event, Source
from dicode.process.clock import mono, wall_ms
from dicode.process.mirror import append, delete, put
from dicode.source.decide import Removals, View, changed_line, desired, missing, removals, source_now
from dicode.source.reading import for_people, shown
from dicode.source.state import Burst, Reading
from dicode.source.tools import Tools, new_cause

MAX_OPS = 100  # of one write
MAX_BYTES = 256 * 1024  # of one write

Op = Put | Delete | Append


@dataclass
class Pen:
    """Writes for source `name`. `ids`: its tasks that are written; the caller keeps it true."""

    name: str
    tools: Tools
    ids: set[str]
    _absent: dict[str, float] = field(default_factory=dict)
    _held: frozenset[str] = frozenset()
    _confirmed: frozenset[str] = frozenset()
    _kept: dict[str, Op] | None = None  # what waits for `release`: key → the newest operation

    @property
    def source(self) -> Source | None:
        """As it is written."""
        return self.tools.mirror.get(Source, self.name)

    def present(self, id: str) -> DesiredTask | None:
        """The task as it is written."""
        return self.tools.mirror.get(DesiredTask, f"{self.name}/{id}")

    # ── tasks ──

    def say(self, source: Source, reading: Reading, burst: Burst | None) -> Iterator[Op]:
        """What to write of a reading; nothing when that is already written. People hear which file it was."""
        key = f"{self.name}/{reading.id}"
        reading = for_people(reading, self.tools.working_dir)
        said = desired(source, reading, self.tools.mirror.get(DesiredTask, key), burst, wall_ms())
        if said is None:
            return
        line = changed_line(reading, reading.folder and shown(reading.folder, self.tools.working_dir)) if burst is not None else ""
        if line:
            self.tools.log.say(line, cause=said.cause)
        yield put(said, key, self.tools.mirror.rev(DesiredTask, key), said.cause)

    async def write(self, ops: Iterable[Op]) -> None:
        """Raises Lost, StoreAway, StoreFailed."""
        if self._kept is not None:
            self._kept.update((op.key, op) for op in ops if not isinstance(op, Append))
            return
        for chunk in in_chunks(ops):
            await self.tools.mirror.write(*chunk)

    def hold(self) -> None:
        """Write no task and remove none until `release`: another tree is being read, and it counts when it is read whole."""
        self._kept = {} if self._kept is None else self._kept

    @property
    def holding(self) -> bool:
        return self._kept is not None

    async def release(self, forget: Callable[[], None]) -> None:
        """Write what was kept back. When that fails it is lost and must be read again, which `forget` is to see to."""
        kept, self._kept = self._kept, None
        try:
            await self.write((kept or {}).values())
        except BaseException:
            forget()
            raise

    # ── what is no longer there ──

    async def settle_missing(self, found: Iterable[str]) -> float | None:
        """After a complete reading. Tasks that two of them did not find are removed; too many at once are held.

        Gives the seconds after which to look again, if that may change anything.
        """
        self._absent = missing(self.ids, found, self._absent, mono())
        if not self._absent:
            self._confirmed = frozenset()
        verdict: Removals = removals(self._absent, len(self.ids), self._confirmed, mono())
        self._held = verdict.held
        await self.remove(verdict.remove)
        self._absent = {id: since for id, since in self._absent.items() if id not in verdict.remove}
        return verdict.again

    async def remove(self, ids: Iterable[str]) -> None:
        await self.write([delete(DesiredTask, f"{self.name}/{id}", cause=new_cause()) for id in sorted(ids)])

    def confirm(self) -> int:
        """Somebody agrees to lose what is missing; gives how many tasks that is."""
        self._confirmed = frozenset(self._absent)
        return len(self._held)

    @property
    def confirmed(self) -> bool:
        return bool(self._confirmed)

    # ── how the source stands ──

    async def tell(self, view: View) -> None:
        """Write the Source when something about it changed that people or controllers look at."""
        present = self.source
        if present is None:
            return
        said = source_now(present, view._replace(tasks=len(self.ids), held=len(self._held)), wall_ms())
        if said == present:
            return
        ops: list[Op] = [put(said, said.name, self.tools.mirror.rev(Source, said.name))]
        for line in filter(None, (told_of(present, said), made_of(present, said))):
            self.tools.log.say(f"source/{said.name} {line}")
            ops.append(append(event_of(said, line)))
        await self.tools.mirror.write(*ops)


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


def made_of(before: Source, now: Source) -> str:
    """What people should hear of another vector of commits; "" when it is the one before."""
    if now.resolutions[:1] == before.resolutions[:1] or not now.resolutions:
        return ""
    revisions = now.resolutions[0].revisions
    if not revisions:
        return ""  # a working copy, of which dev mode has told
    return "now at " + ", ".join(f"{repository or now.name}@{commit[:7]}" for repository, commit in revisions.items())


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
