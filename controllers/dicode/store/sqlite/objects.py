"""Keyed objects of all kinds but Run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dicode.messages.commands import Append, Change, Conflict, Delete, Found, Listing, Put, Written
from dicode.store import sql
from dicode.store.engine import MAX_OBJECT, MAX_PAGE, RUN, BadCommand, Moment

if TYPE_CHECKING:
    from dicode.store.sqlite.engine import Sqlite

NAME_MAX = 64  # characters of a kind
KEY_MAX = 2048  # bytes of a key
OVERHEAD = 48  # bytes a listed change takes beside its texts


class SqliteObjects:
    def __init__(self, engine: Sqlite) -> None:
        self._engine = engine

    def get(self, kind: str, key: str) -> Found:
        row = self._engine.one(sql.GET_RUN, (key,)) if kind == RUN else self._engine.one(sql.GET_OBJECT, (kind, key))
        if row is None or row[1] is None:
            return Found()
        return Found(rev=row[0], body=row[1])

    def list(self, kind: str, since: int, after: int, until: int) -> Listing:
        full = not after and not self._known(kind, since)
        first = after or (0 if full else since)
        rows = self._engine.execute(sql.LIST_RUNS, (first,)) if kind == RUN else self._engine.execute(sql.LIST_OBJECTS, (kind, first))
        gone = 0
        if since == 0:  # who starts from nothing need not hear of old deletions, only of those between two pages
            gone = until if after else self._engine.head()
        changes: list[Change] = []
        size = 0
        for key, rev, body, cause in rows:
            if body is None and rev <= gone:
                continue
            size += len(key) + len(cause) + len(body or b"") + OVERHEAD
            if size > MAX_PAGE and changes:
                return Listing(epoch="", head=until or self._engine.head(), changes=tuple(changes), full=full, more=True)
            changes.append(Change(key, rev, body, cause))
        return Listing(epoch="", head=self._engine.head(), changes=tuple(changes), full=full)

    def _known(self, kind: str, since: int) -> bool:
        """Whether everything that happened after `since` can still be told one by one."""
        engine = self._engine
        if since == 0 or since > engine.head() or since < engine.memory.purged.get(kind, 0):
            return False
        return since <= engine.last or since >= engine.first

    def write(self, ops: Sequence[Put | Delete | Append], at: Moment) -> Written | Conflict:
        for op in ops:
            _check(op)
        present = [(0, None) if isinstance(op, Append) else self._present(op.kind, op.key) for op in ops]
        for op, (rev, _) in zip(ops, present, strict=True):
            if not isinstance(op, Append) and op.expect is not None and op.expect != rev:
                return Conflict(what=op.kind, key=op.key, rev=rev)
        revs = []
        touched: set[tuple[str, str]] = set()
        for op, (rev, body) in zip(ops, present, strict=True):
            if isinstance(op, Append):
                revs.append(self._append(op, at))
                continue
            if (op.kind, op.key) in touched:
                rev, body = self._present(op.kind, op.key)
            touched.add((op.kind, op.key))
            new = op.body if isinstance(op, Put) else None
            revs.append(rev if new == body else self._set(op.kind, op.key, new, op.cause, at))
        return Written(revs=tuple(revs))

    def _present(self, kind: str, key: str) -> tuple[int, bytes | None]:
        """Its rev and body; (0, None) when it does not exist."""
        row = self._engine.one(sql.GET_OBJECT, (kind, key))
        return (row[0], row[1]) if row is not None and row[1] is not None else (0, None)

    def _append(self, op: Append, at: Moment) -> int:
        rev = self._engine.next_rev()
        self._store(op.kind, f"{rev:016d}", rev, op.body, op.cause, at)
        return rev

    def _set(self, kind: str, key: str, body: bytes | None, cause: str, at: Moment) -> int:
        rev = self._engine.next_rev()
        self._store(kind, key, rev, body, cause, at)
        return rev

    def _store(self, kind: str, key: str, rev: int, body: bytes | None, cause: str, at: Moment) -> None:
        self._engine.execute(sql.PUT_OBJECT, (kind, key, rev, at.wall, cause, body))
        self._engine.tell(kind, key, rev, body, cause)

    def bury(self, kind: str, key: str, cause: str, at: Moment) -> None:
        """A tombstone, also for what is kept in another table."""
        self._set(kind, key, None, cause, at)


def _check(op: Put | Delete | Append) -> None:
    if op.kind == RUN:
        raise BadCommand("runs are written by the queue: enqueue, cancel")
    if not op.kind or "/" in op.kind or len(op.kind) > NAME_MAX:
        raise BadCommand(f"{op.kind[:NAME_MAX]!r} is no name of a kind")
    if not isinstance(op, Append) and not 0 < len(op.key.encode()) <= KEY_MAX:
        raise BadCommand(f"a key of {op.kind} has 1 to {KEY_MAX} bytes")
    if len(op.cause) > KEY_MAX:
        raise BadCommand(f"a cause has at most {KEY_MAX} characters")
    if not isinstance(op, Delete) and len(op.body) > MAX_OBJECT:
        raise BadCommand(f"an object has at most {MAX_OBJECT} bytes, this {op.kind} has {len(op.body)}")
