"""The connection, the transaction of a batch, and the one counter of revs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import apsw

from dicode.process.clock import mono
from dicode.store import sql
from dicode.store.engine import BadCommand, Committed, Corrupt, Moment, Retention, Unavailable
from dicode.store.migrate import migrate
from dicode.store.sqlite.leases import SqliteLeases
from dicode.store.sqlite.memory import Memory
from dicode.store.sqlite.objects import SqliteObjects
from dicode.store.sqlite.queue import SqliteQueue
from dicode.store.sqlite.tidy import Tidying

SAFE = (3, 51, 3)  # the first SQLite without the WAL-reset bug
WAL_MAX = 16 << 20  # bytes; a longer log is emptied when nobody waits
CHECK_WITHIN = 1.0  # seconds the check of the file may take at start; damage found later is found by the query that meets it
DAMAGED = (apsw.CorruptError, apsw.NotADBError)
PASSING = (
    apsw.FullError, apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError, apsw.BusyError, apsw.LockedError, apsw.NoMemError,
    apsw.InterruptError, apsw.PermissionsError, apsw.AuthError,
)  # fmt: skip


class Sqlite:
    """The Engine on the file `path`. Belongs to one thread. Raises Corrupt, TooNew, Unavailable on opening."""

    def __init__(self, path: Path, at: Moment) -> None:
        self._path = path
        self.memory = Memory()
        self._changes: list[Committed] = []
        self._synced = True  # each commit waits for the disk
        with told_apart():
            self._db = opened(path)
            migrate(self._db)
        self.execute: Any = self._db.execute  # rows of any shape
        self.objects = SqliteObjects(self)
        self.queue = SqliteQueue(self)
        self.leases = SqliteLeases(self)
        self._tidying = Tidying(self)
        self._inode = os.stat(path).st_ino
        with told_apart():
            self._jump(at)
            self._remember(at)

    def _jump(self, at: Moment) -> None:
        """Go on counting from the clock: a database that was lost, or restored from a backup, gives no rev a second time."""
        self.last = self._meta("rev")  # revs after this one and before `first` were never given by this database
        self.first = max(self.last, at.wall)
        self.memory.head = self.first

    def _remember(self, at: Moment) -> None:
        """Fill the memory from the tables. Leases start anew: the store was away, not their holders."""
        for kind, rev in self.execute(sql.READ_HEADS):
            if rev is not None:
                self.memory.heads[kind] = max(rev, self.memory.heads.get(kind, 0))
        self.memory.purged.update(self.execute(sql.READ_PURGED).fetchall())
        self.queue.remember(at)
        self.leases.remember(at)

    def _meta(self, name: str) -> int:
        row = self.execute(sql.READ_META, (name,)).fetchone()
        return int(row[0]) if row else 0

    def begin(self, *, promised: bool = True) -> None:
        self._began = self.memory.mark()
        with told_apart():
            if promised != self._synced:
                self.execute(sql.SYNC_EACH if promised else sql.SYNC_LATER)
                self._synced = promised
            self.execute("BEGIN IMMEDIATE")

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        mark, told = self.memory.mark(), len(self._changes)
        try:
            with told_apart():
                self.execute("SAVEPOINT command")
                yield
                self.execute("RELEASE command")
        except (Unavailable, Corrupt):
            raise  # the whole batch is lost: SQLite may have rolled it back by itself
        except BaseException:
            self.memory.undo(mark)
            del self._changes[told:]
            with told_apart():
                self.execute("ROLLBACK TO command; RELEASE command")
            raise

    def commit(self) -> list[Committed]:
        with told_apart():
            if self.memory.head != self._began[1]:
                self.execute(sql.SAVE_META, ("rev", self.memory.head))
            self.execute("COMMIT")
        self.memory.keep()
        changes, self._changes = self._changes, []
        return changes

    def rollback(self) -> None:
        self.memory.undo(self._began)
        self._changes = []
        if self._db.in_transaction:
            with contextlib.suppress(apsw.Error):  # it is gone either way
                self.execute("ROLLBACK")

    def head(self) -> int:
        return self.memory.head

    def heads(self) -> Mapping[str, int]:
        return self.memory.heads

    def sweep(self, retention: Retention, at: Moment) -> bool:
        return self._tidying.step(retention, at)

    def idle(self) -> None:
        with contextlib.suppress(OSError, apsw.Error):  # full disk, a long reader: another time
            if os.stat(f"{self._path}-wal").st_size > WAL_MAX:
                self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def still_there(self) -> bool:
        """False when the file was deleted or replaced under us: what we write now, nobody will ever read."""
        try:
            return os.stat(self._path).st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """SQLite empties the log into the file when the last connection goes."""
        with contextlib.suppress(apsw.Error):
            self._db.close()

    # for the parts

    def next_rev(self) -> int:
        self.memory.head += 1
        return self.memory.head

    def tell(self, kind: str, key: str, rev: int, body: bytes | None, cause: str) -> None:
        """This change is published once it is committed."""
        heads = self.memory.heads
        self._changes.append(Committed(kind, key, rev, heads.get(kind, 0), body, cause))
        self.memory.set(heads, kind, rev)

    def one(self, statement: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The first row, or None."""
        row: tuple[Any, ...] | None = self.execute(statement, values).fetchone()
        return row


@contextlib.contextmanager
def told_apart() -> Iterator[None]:
    """Say of an error of SQLite what it means to us."""
    try:
        yield
    except DAMAGED as error:
        raise Corrupt(str(error)) from error
    except PASSING as error:
        raise _unavailable(error) from error
    except (apsw.Error, OverflowError) as error:
        raise BadCommand(f"the database refuses it: {error}") from error


def _unavailable(error: apsw.Error) -> Unavailable:
    match error:
        case apsw.FullError():
            return Unavailable("the disk is full: make room, nothing new is accepted until then")
        case apsw.ReadOnlyError() | apsw.CantOpenError() | apsw.PermissionsError() | apsw.AuthError():
            return Unavailable(f"cannot be written ({error}): check the owner and mode of the data folder", lasting=True)
        case _:
            return Unavailable(f"the database cannot be used now: {error}")


def opened(path: Path) -> apsw.Connection:
    """A connection as we want it, on a file that has been looked at. Raises Corrupt, Unavailable, and apsw's own errors."""
    if tuple(map(int, apsw.sqlite_lib_version().split("."))) < SAFE:
        raise Unavailable(f"SQLite {apsw.sqlite_lib_version()} can corrupt its log: pip install -U apsw", lasting=True)
    if path.is_dir():
        raise Corrupt("a folder stands in its place")
    with contextlib.suppress(OSError):  # SQLite says it better
        os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = apsw.Connection(str(path), statementcachesize=200)
    db.set_busy_timeout(2000)
    db.pragma("journal_mode", "wal")
    db.pragma("synchronous", "full")
    db.pragma("wal_autocheckpoint", 2 * WAL_MAX // 4096)  # for a store that is never idle
    db.pragma("cache_size", -16_000)
    db.pragma("temp_store", "memory")
    _check(db)
    return db


def _check(db: apsw.Connection) -> None:
    """Raises Corrupt. A big file is not read to its end."""
    until = mono() + CHECK_WITHIN
    db.set_progress_handler(lambda: mono() > until, 10_000)
    try:
        verdict = db.execute("PRAGMA quick_check(1)").fetchall()
    except apsw.InterruptError:
        return
    finally:
        db.set_progress_handler(None)
    if verdict != [("ok",)]:
        raise Corrupt(str(verdict[0][0]))


def set_aside(path: Path, at: Moment) -> Path:
    """Move a damaged database out of the way, its log with it. Gives the new name."""
    aside = path.with_name(f"{path.name}.corrupt-{at.wall}")
    os.rename(path, aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    return aside
