"""Look into the store's file without the store: for a CLI that must answer when nothing runs. Light: apsw and msgspec.

Every call is one short read of what is committed at that moment; the role may run, start or die beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

import apsw
import msgspec

from dicode.messages.kinds import Event, Kind, Run, RunStatus
from dicode.store import sql

K = TypeVar("K", bound=Kind)
PATIENCE = 1000  # ms to wait for a lock, which only a store that is starting or ending holds


class Unreadable(Exception):
    """The file is there and is no database of ours, or may not be read. The message says which."""


class Reader:
    """Read-only. A file that does not exist is an empty store, and is looked for again at each call.

    Objects that this program cannot decode are left out. Every method raises Unreadable.
    """

    def __init__(self, database: Path) -> None:
        self._path = database
        self._db: apsw.Connection | None = None

    def get(self, kind: type[K], key: str) -> K | None:
        found = self._rows(sql.GET_RUN, (key,)) if kind is Run else self._rows(sql.GET_OBJECT, (kind.__name__, key))
        return _decoded(kind, found[0][1]) if found and found[0][1] is not None else None

    def rev(self, kind: type[Kind], key: str) -> int:
        """The rev of one object, 0 when it does not exist: what a write expects."""
        found = self._rows(sql.GET_RUN, (key,)) if kind is Run else self._rows(sql.GET_OBJECT, (kind.__name__, key))
        return int(found[0][0]) if found and found[0][1] is not None else 0

    def all(self, kind: type[K]) -> dict[str, K]:
        """Every object of this kind by its key, the oldest change first."""
        rows = self._rows(sql.ALL_RUNS) if kind is Run else self._rows(sql.ALL_OBJECTS, (kind.__name__,))
        values = ((key, _decoded(kind, body)) for key, body in rows)
        return {key: value for key, value in values if value is not None}

    def runs(self, task: str | None = None, status: RunStatus | None = None, limit: int = 100) -> list[Run]:
        """The newest first."""
        rows = self._rows(sql.SOME_RUNS, (task, status, limit))
        return [run for run in (_decoded(Run, body) for (body,) in rows) if run is not None]

    def events(self, since: int = 0, limit: int = 100, *, about: str | None = None) -> list[Event]:
        """The last `limit` of those at or after `since` (ms), the newest last; `about`: only of this object, `task/x`."""
        found: list[Event] = []
        for (body,) in self._walk(sql.EVENTS_BACKWARDS):
            event = _decoded(Event, body)
            if event is None or (about is not None and event.object != about):
                continue
            if event.at < since or len(found) >= limit:
                break
            found.append(event)
        return found[::-1]

    def head(self, kind: type[Kind]) -> int:
        """The newest rev of this kind: where to go on from with `changes`."""
        rows = self._rows(sql.RUNS_HEAD) if kind is Run else self._rows(sql.OBJECTS_HEAD, (kind.__name__,))
        return int(rows[0][0] or 0) if rows else 0

    def changes(self, kind: type[K], since: int) -> tuple[list[tuple[str, K | None]], int]:
        """What changed after this rev, in order (None: deleted), and the rev to go on from."""
        rows = self._rows(sql.LIST_RUNS, (since,)) if kind is Run else self._rows(sql.LIST_OBJECTS, (kind.__name__, since))
        listed: list[tuple[str, K | None]] = []
        for key, rev, body, _ in rows:
            since = rev
            value = _decoded(kind, body) if body is not None else None
            if body is None or value is not None:
                listed.append((key, value))
        return listed, since

    def backup(self, target: Path) -> None:
        """Write all that is committed now to `target`, a whole database of its own; also while the store works.

        What stood there before stays until the copy is complete. Raises Unreadable, OSError.
        """
        if not self._rows(sql.READ_META, ("rev",)):
            raise Unreadable(f"{self._path}: nothing to copy: no store has worked here yet")
        half = target.with_name(f".{target.name}.part")
        os.close(os.open(half, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        assert self._db is not None
        try:
            copy = apsw.Connection(str(half))
            with copy.backup("main", self._db, "main") as work:
                work.step()  # in one go: between two steps another commit would make it begin anew
            copy.close()
            os.replace(half, target)
        except apsw.Error as error:
            half.unlink(missing_ok=True)
            raise Unreadable(f"{target}: {error}") from None

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _rows(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return list(self._walk(statement, values))

    def _walk(self, statement: str, values: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
        """Rows; none where there is no store yet."""
        if not self._path.exists():
            self.close()
            return
        try:
            yield from self._query(statement, values)
        except apsw.SQLError as error:
            if "no such table" not in str(error):
                raise Unreadable(f"{self._path}: {error}: written by another version of dicode") from None
        except apsw.Error as error:
            self.close()
            raise Unreadable(f"{self._path}: {error}") from None

    def _query(self, statement: str, values: tuple[Any, ...]) -> Iterable[tuple[Any, ...]]:
        if self._db is not None:
            yield from self._db.execute(statement, values)
            return
        try:
            db = _open(str(self._path), apsw.SQLITE_OPEN_READONLY)
            cursor = db.execute(statement, values)
        except (apsw.CantOpenError, apsw.ReadOnlyError):
            # A folder we may not write to, where no log lies and none can be made: then the file alone is all there is.
            db = _open(f"file:{quote(str(self._path))}?immutable=1", apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
            cursor = db.execute(statement, values)
        self._db = db
        yield from cursor


def _open(name: str, flags: int) -> apsw.Connection:
    db = apsw.Connection(name, flags=flags)
    db.set_busy_timeout(PATIENCE)
    return db


@cache
def _decoder(kind: type[Kind]) -> Callable[[bytes], Kind]:
    return msgspec.msgpack.Decoder(kind).decode


def _decoded(kind: type[K], body: bytes) -> K | None:
    with suppress(msgspec.MsgspecError, ValueError, RecursionError):
        return cast(K, _decoder(kind)(body))
    return None
