"""The state behind a mirror: typed tables of some kinds, and the rules by which they stay equal to the store's. Pure.

What is heard may be lost, doubled, late or cut off at the tail; what is listed is complete up to its head. The rules
(RELIABILITY R2): apply what follows on; list again on a gap (`prev` is beyond what we have), on a new epoch, and when a
heartbeat's heads are ahead of us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar, cast

from dicode.messages.commands import Change
from dicode.messages.kinds import KINDS, Kind
from dicode.wire.frames import BadMessage, Heard, decode_body

K = TypeVar("K", bound=Kind)
OnChange = Callable[[type[Kind], str, str], None]


class Entry(NamedTuple):
    value: Kind
    rev: int


class Tables:
    """`on_change(kind, key, cause)` is called for each key that changed, after the table has been changed."""

    def __init__(self, kinds: Iterable[type[Kind]], on_change: OnChange) -> None:
        self.kinds = tuple(kinds)
        self.epoch = ""
        self.skipped = 0  # unknown or malformed frames
        self._on_change = on_change
        self._tables: dict[type[Kind], dict[str, Entry]] = {kind: {} for kind in self.kinds}
        self._rev = dict.fromkeys(self.kinds, 0)  # each table is complete up to here
        self._gone: dict[type[Kind], dict[str, int]] = {kind: {} for kind in self.kinds}  # deletes ahead of _rev

    def get(self, kind: type[K], key: str) -> K | None:
        entry = self._tables[kind].get(key)
        return cast(K, entry.value) if entry else None

    def rev(self, kind: type[Kind], key: str) -> int:
        """The rev of the object as we know it, 0 when it does not exist."""
        entry = self._tables[kind].get(key)
        return entry.rev if entry else 0

    def all(self, kind: type[K]) -> Iterator[tuple[str, K]]:
        for key, entry in list(self._tables[kind].items()):
            yield key, cast(K, entry.value)

    def count(self, kind: type[Kind]) -> int:
        return len(self._tables[kind])

    def knows(self, kind: type[Kind]) -> bool:
        return kind in self._tables

    def complete_to(self, kind: type[Kind]) -> int:
        """What to list from."""
        return self._rev[kind]

    def hear(self, heard: Iterable[Heard], *, deaf: bool = False) -> set[type[Kind]]:
        """Take in what was published; gives the kinds of which something is missing. `deaf`: only heartbeats count."""
        stale: set[type[Kind]] = set()
        for header, body, heads in heard:
            if header.epoch != self.epoch:
                self.epoch = header.epoch
                stale.update(self.kinds)
            if heads is not None:
                stale.update(kind for kind in self.kinds if heads.kinds.get(kind.__name__, 0) > self._rev[kind])
                continue
            kind = KINDS.get(header.kind)
            if kind is None or kind not in self._tables:
                self.skipped += 1
            elif deaf or header.rev <= self._rev[kind] or kind in stale:
                continue
            elif header.prev > self._rev[kind]:
                stale.add(kind)  # a gap: the listing brings this change, too
            else:
                self.set(kind, header.key, header.rev, body or None, header.cause)
                self._rev[kind] = header.rev
        return stale

    def listed(self, kind: type[Kind], changes: Iterable[Change], head: int, *, full: bool) -> None:
        """Take in a whole listing from `complete_to`. `full`: what it does not name does not exist."""
        seen = set()
        for change in changes:
            seen.add(change.key)
            self.set(kind, change.key, change.rev, change.body, change.cause)
        if full:
            gone = [key for key, entry in self._tables[kind].items() if key not in seen and entry.rev <= head]
            for key in gone:
                self.set(kind, key, head, None, "")
        self._rev[kind] = head if full else max(self._rev[kind], head)
        self._gone[kind] = {key: rev for key, rev in self._gone[kind].items() if rev > self._rev[kind]}

    def set(self, kind: type[Kind], key: str, rev: int, body: bytes | None, cause: str) -> None:
        """This key is at `rev` with this body (None: deleted), unless we know of something newer."""
        table = self._tables[kind]
        known = table.get(key)
        if (known is not None and known.rev >= rev) or self._gone[kind].get(key, 0) > rev:
            return  # our own write, or told twice, or overtaken
        if body is None:
            self._gone[kind][key] = rev
            if known is None:
                return
            del table[key]
        else:
            try:
                table[key] = Entry(decode_body(kind.__name__, body), rev)
            except BadMessage:
                self.skipped += 1
                return
        self._on_change(kind, key, cause)
