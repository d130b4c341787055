"""A role's copy of some kinds: list once, then follow. Hints may be lost, doubled or late; the copy still converges.

The rules (RELIABILITY R2): subscribe, wait for a first frame (proof that the subscription took), list, then apply what
is newer. List again on a gap (`prev` is not what we have), on a new epoch, when a heartbeat's heads are ahead of us,
after SILENCE without any frame, and every RESYNC seconds in any case.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar, cast

from dicode.messages.commands import Append, Conflict, Delete, Listing, Put, Write, Written
from dicode.messages.commands import List as ListCommand
from dicode.messages.kinds import KINDS, Kind, kind_of
from dicode.process.clock import mono
from dicode.wire.client import Ear, Wire
from dicode.wire.frames import HEARTBEAT, BadMessage, Heard, StoreAway, decode_body, encode

K = TypeVar("K", bound=Kind)
SILENCE = 3 * HEARTBEAT  # seconds
RESYNC = 60.0  # seconds, ± 20 %


class Entry(NamedTuple):
    value: Kind
    rev: int


class Lost(Exception):
    """A write was refused: the object is not where we thought. Look again and decide anew."""


class Mirror:
    """Typed tables of `kinds`, kept equal to the store's. All methods belong to the event loop's thread.

    `on_change(kind, key, cause)` is called for each key that changed, after the table has been changed.
    `drop_hints` makes it deaf to publications but heartbeats: the system must converge all the same.
    """

    def __init__(
        self, wire: Wire, kinds: Iterable[type[Kind]], on_change: Callable[[type[Kind], str, str], None], *, drop_hints: bool = False
    ) -> None:
        self._wire = wire
        self._kinds = tuple(kinds)
        self._on_change = on_change
        self._drop_hints = drop_hints
        self._tables: dict[type[Kind], dict[str, Entry]] = {kind: {} for kind in self._kinds}
        self._rev = dict.fromkeys(self._kinds, 0)  # this table is complete up to here
        self._gone: dict[type[Kind], dict[str, int]] = {kind: {} for kind in self._kinds}  # our own deletes, not heard of yet
        self._listed: set[type[Kind]] = set()
        self._epoch = ""
        self._heard_at = 0.0
        self._next_resync = 0.0
        self._ready = asyncio.Event()
        self.resyncs = 0
        self.skipped = 0  # unknown or malformed frames

    def get(self, kind: type[K], key: str) -> K | None:
        entry = self._tables[kind].get(key)
        return cast(K, entry.value) if entry else None

    def rev(self, kind: type[Kind], key: str) -> int:
        """The rev of the object as we know it, 0 when it does not exist: what a write expects."""
        entry = self._tables[kind].get(key)
        return entry.rev if entry else 0

    def all(self, kind: type[K]) -> Iterator[tuple[str, K]]:
        for key, entry in list(self._tables[kind].items()):
            yield key, cast(K, entry.value)

    @property
    def silent(self) -> bool:
        """Nothing was heard for SILENCE: the store is away or the bus is cut."""
        return mono() - self._heard_at > SILENCE

    async def start(self) -> None:
        """Wait until the tables are filled for the first time: before that nothing may be decided from absence."""
        await self._ready.wait()

    async def run(self) -> None:
        """Follow the store until cancelled."""
        ear = self._wire.subscribe([kind_of_type(kind) for kind in self._kinds])
        try:
            while True:
                await self._follow(ear)
        finally:
            ear.close()

    async def _follow(self, ear: Ear) -> None:
        heard = await ear.hear(timeout=SILENCE / 2)
        if heard:
            self._heard_at = mono()
        stale = self._apply(heard)
        if self._epoch and mono() >= self._next_resync:
            stale.update(self._kinds)
        if not self._epoch and not heard:
            return  # the subscription is not proven yet
        for kind in stale:
            await self._list(kind)
        if len(self._listed) == len(self._kinds):
            self._ready.set()

    def _apply(self, heard: list[Heard]) -> set[type[Kind]]:
        """Take in what was heard; give back the kinds of which something is missing."""
        stale: set[type[Kind]] = set()
        for header, body, heads in heard:
            if header.epoch != self._epoch:
                self._epoch = header.epoch
                stale.update(self._kinds)
            if heads is not None:
                for kind in self._kinds:
                    if heads.kinds.get(kind_of_type(kind), 0) > self._rev[kind]:
                        stale.add(kind)
                continue
            kind_type = KINDS.get(header.kind)
            if kind_type is None or kind_type not in self._tables:
                self.skipped += 1
                continue
            if self._drop_hints or header.rev <= self._rev[kind_type]:
                continue
            if header.prev > self._rev[kind_type] or kind_type in stale:
                stale.add(kind_type)  # a gap: the list brings this change too
                continue
            self._set(kind_type, header.key, header.rev, body or None, header.cause)
            self._rev[kind_type] = header.rev
        return stale

    async def _list(self, kind: type[Kind]) -> None:
        self.resyncs += 1
        self._next_resync = mono() + RESYNC * random.uniform(0.8, 1.2)  # jitter, not a decision
        seen: set[str] = set()
        since, after, until, full = self._rev[kind], 0, 0, False
        while True:
            command = ListCommand(what=kind_of_type(kind), since=since, after=after, until=until)
            try:
                listing = await self._wire.ask(command, Listing)
            except StoreAway:
                self._epoch = ""  # whatever is heard next makes us list again
                return
            full = full or listing.full
            for change in listing.changes:
                seen.add(change.key)
                self._set(kind, change.key, change.rev, change.body, change.cause)
                after = change.rev
            if not listing.more:
                break
            until = listing.head
        if full:
            for key in [key for key, entry in self._tables[kind].items() if key not in seen and entry.rev <= listing.head]:
                self._set(kind, key, listing.head, None, "")
        self._rev[kind] = listing.head if full else max(self._rev[kind], listing.head)
        self._gone[kind] = {key: rev for key, rev in self._gone[kind].items() if rev > self._rev[kind]}
        self._listed.add(kind)

    def _set(self, kind: type[Kind], key: str, rev: int, body: bytes | None, cause: str) -> None:
        table = self._tables[kind]
        known = table.get(key)
        if body is None:
            self._gone[kind][key] = rev
            if known is not None and known.rev <= rev:
                del table[key]
                self._on_change(kind, key, cause)
            return
        if self._gone[kind].get(key, 0) > rev:
            return  # an older word about something we have deleted since
        if known is not None and known.rev >= rev:
            return  # our own write, or told twice
        try:
            table[key] = Entry(decode_body(kind_of_type(kind), body), rev)
        except BadMessage:
            self.skipped += 1
            return
        self._on_change(kind, key, cause)

    async def write(self, *ops: Put | Delete | Append) -> tuple[int, ...]:
        """Commit these together, and know them at once. Raises Lost when someone else was there first, StoreAway, StoreFailed."""
        answer = await self._wire.ask_any(Write(ops=ops))
        if isinstance(answer, Conflict):
            raise Lost(f"{answer.what} {answer.key} is at rev {answer.rev}")
        if not isinstance(answer, Written):
            raise TypeError(f"a write was answered {answer}")
        for op, rev in zip(ops, answer.revs, strict=True):
            kind = KINDS[op.kind]
            if kind not in self._tables or isinstance(op, Append):
                continue
            body = op.body if isinstance(op, Put) else None
            self._set(kind, op.key, rev, body, op.cause)
        return answer.revs


def kind_of_type(kind: type[Kind]) -> str:
    return kind.__name__


def put(value: Kind, key: str, expect: int | None = None, cause: str = "") -> Put:
    """The operation that writes `value`."""
    return Put(kind_of(value), key, encode(value), expect, cause)


def delete(kind: type[Kind], key: str, expect: int | None = None, cause: str = "") -> Delete:
    return Delete(kind_of_type(kind), key, expect, cause)


def append(value: Kind, cause: str = "") -> Append:
    return Append(kind_of(value), encode(value), cause)
