"""A role's copy of some kinds: list once, then follow. The rules are in `tables`; this is their shell.

Subscribe, wait for a first frame (proof that the subscription took), list, then apply what is heard. List again when the
tables say so, and every RESYNC seconds in any case.
"""

from __future__ import annotations

import asyncio
import random  # noqa: TID251  # jitter between roles, not a decision
from collections.abc import Iterable, Iterator
from typing import TypeVar

from dicode.messages.commands import Append, Change, Conflict, Delete, Listing, Put
from dicode.messages.commands import List as ListCommand
from dicode.messages.kinds import KINDS, Kind, kind_of
from dicode.process.clock import mono
from dicode.process.tables import OnChange, Tables
from dicode.wire.client import Ear, Wire
from dicode.wire.frames import HEARTBEAT, StoreAway, StoreFailed, encode

K = TypeVar("K", bound=Kind)
SILENCE = 3 * HEARTBEAT  # seconds
RESYNC = 60.0  # seconds, ± 20 %


class Lost(Exception):
    """A write was refused: the object is not where we thought. Look again and decide anew."""


class Mirror:
    """Typed tables of `kinds`, kept equal to the store's. All methods belong to the event loop's thread.

    `on_change(kind, key, cause)` is called for each key that changed, after the table has been changed.
    `drop_hints` makes it deaf to publications but heartbeats: the system must converge all the same.
    """

    def __init__(self, wire: Wire, kinds: Iterable[type[Kind]], on_change: OnChange, *, drop_hints: bool = False) -> None:
        self._wire = wire
        self._tables = Tables(kinds, on_change)
        self._drop_hints = drop_hints
        self._missing: set[type[Kind]] = set(self._tables.kinds)  # never listed yet
        self._heard_at = mono()
        self._next_resync = 0.0
        self._ready = asyncio.Event()
        self.resyncs = 0

    def get(self, kind: type[K], key: str) -> K | None:
        return self._tables.get(kind, key)

    def rev(self, kind: type[Kind], key: str) -> int:
        """The rev of the object as we know it, 0 when it does not exist: what a write expects."""
        return self._tables.rev(kind, key)

    def all(self, kind: type[K]) -> Iterator[tuple[str, K]]:
        return self._tables.all(kind)

    def count(self, kind: type[Kind]) -> int:
        return self._tables.count(kind)

    @property
    def skipped(self) -> int:
        """Unknown or malformed frames since the start."""
        return self._tables.skipped

    @property
    def silent(self) -> bool:
        """Nothing was heard for SILENCE: the store is away or the bus is cut."""
        return mono() - self._heard_at > SILENCE

    async def start(self) -> None:
        """Wait until the tables are filled for the first time: before that nothing may be decided from absence."""
        await self._ready.wait()

    async def run(self) -> None:
        """Follow the store until cancelled."""
        ear = self._wire.subscribe([kind.__name__ for kind in self._tables.kinds])
        try:
            while True:
                await self._follow(ear)
        finally:
            ear.close()

    async def _follow(self, ear: Ear) -> None:
        heard = await ear.hear(timeout=SILENCE / 2)
        if heard:
            self._heard_at = mono()
        stale = self._tables.hear(heard, deaf=self._drop_hints)
        if not self._tables.epoch:
            return  # the subscription is not proven yet
        if mono() >= self._next_resync:
            self._next_resync = mono() + RESYNC * random.uniform(0.8, 1.2)
            stale.update(self._tables.kinds)
        try:
            for kind in stale:
                await self._list(kind)
        except (StoreAway, StoreFailed):
            self._tables.epoch = ""  # whatever is heard next makes us list again

    async def _list(self, kind: type[Kind]) -> None:
        self.resyncs += 1
        changes: list[Change] = []
        since, after, full = self._tables.complete_to(kind), 0, False
        while True:
            listing = await self._wire.ask(ListCommand(what=kind.__name__, since=since, after=after), Listing)
            changes += listing.changes
            full = full or listing.full
            if not listing.more:
                break
            after = listing.changes[-1].rev  # what changes between two pages comes on a later one
        self._tables.listed(kind, changes, listing.head, full=full)
        self._missing.discard(kind)
        if not self._missing:
            self._ready.set()

    async def write(self, *ops: Put | Delete | Append) -> tuple[int, ...]:
        """Commit these together, and know them at once. Raises Lost when someone else was there first, StoreAway, StoreFailed."""
        answer = await self._wire.write(ops)
        if isinstance(answer, Conflict):
            raise Lost(f"{answer.what} {answer.key} is at rev {answer.rev}")
        for op, rev in zip(ops, answer.revs, strict=True):
            kind = KINDS[op.kind]
            if not isinstance(op, Append) and self._tables.knows(kind):
                self._tables.set(kind, op.key, rev, op.body if isinstance(op, Put) else None, op.cause)
        return answer.revs


def put(value: Kind, key: str, expect: int | None = None, cause: str = "") -> Put:
    """The operation that writes `value`."""
    return Put(kind_of(value), key, encode(value), expect, cause)


def delete(kind: type[Kind], key: str, expect: int | None = None, cause: str = "") -> Delete:
    return Delete(kind.__name__, key, expect, cause)


def append(value: Kind, cause: str = "") -> Append:
    return Append(kind_of(value), encode(value), cause)
