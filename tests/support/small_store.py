"""The store's rules on a screen, for tests without a process: revs, tombstones, expectations, publications."""

from __future__ import annotations

from collections.abc import Sequence

from dicode.messages.commands import Append, Change, Delete, Put
from dicode.process.tables import Tables
from dicode.wire.frames import Header, Heads, Heard


class SmallStore:
    """`write` gives what is published; nothing is delivered: that is the test's choice."""

    def __init__(self, *kinds: str) -> None:
        self.epoch, self.rev = "e0", 0
        self.rows: dict[tuple[str, str], tuple[int, bytes | None]] = {}
        self.last = dict.fromkeys(kinds, 0)

    def write(self, kind: str, key: str, body: bytes | None) -> Heard:
        self.rev += 1
        self.rows[kind, key] = (self.rev, body)
        prev, self.last[kind] = self.last[kind], self.rev
        return Heard(Header(1, self.epoch, kind, key, self.rev, prev), body or b"")

    def commit(self, ops: Sequence[Put | Delete | Append]) -> list[Heard] | None:
        """All or none; None is a conflict."""
        for op in ops:
            if not isinstance(op, Append) and op.expect is not None and op.expect != self.rev_of(op.kind, op.key):
                return None
        published = []
        for op in ops:
            match op:
                case Append():
                    published.append(self.write(op.kind, f"{self.rev + 1:016d}", op.body))
                case Put():
                    if self.rows.get((op.kind, op.key), (0, None))[1] != op.body:
                        published.append(self.write(op.kind, op.key, op.body))
                case Delete():
                    if self.rev_of(op.kind, op.key):
                        published.append(self.write(op.kind, op.key, None))
        return published

    def rev_of(self, kind: str, key: str) -> int:
        rev, body = self.rows.get((kind, key), (0, None))
        return rev if body is not None else 0

    def heartbeat(self) -> Heard:
        return Heard(Header(1, self.epoch, "", "", self.rev, self.rev), b"", Heads(self.rev, dict(self.last)))

    def listing(self, kind: str, since: int) -> list[Change]:
        rows = [(rev, key, body) for (k, key), (rev, body) in self.rows.items() if k == kind and rev > since]
        return [Change(key, rev, body, "") for rev, key, body in sorted(rows)]

    def present(self, kind: str) -> dict[str, bytes]:
        return {key: body for (k, key), (_, body) in self.rows.items() if k == kind and body is not None}

    def resync(self, tables: Tables, stale: set[type]) -> None:
        """What a mirror does when its tables are stale."""
        for kind in stale:
            tables.listed(kind, self.listing(kind.__name__, tables.complete_to(kind)), self.rev, full=False)
