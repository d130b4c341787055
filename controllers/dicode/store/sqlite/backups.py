"""Copies of the database that are made by themselves, and what is put back in the place of a damaged one.

A copy is minutes old, so what it says of things under way is not believed: a run that waited or ran then is lost, for nobody
knows whether it has ended since; schedules go on from now; requests are forgotten. Nothing is done a second time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec

from dicode.messages.kinds import Run
from dicode.store import sql
from dicode.store.engine import Corrupt, Moment, TooNew, Unavailable
from dicode.store.migrate import migrate
from dicode.store.read import Reader
from dicode.store.sqlite.engine import opened, told_apart

KEPT = 6
ROOM = 3  # times the database must be free before a copy is made
_PREFIX, _SUFFIX = "dicode-", ".db"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Run).decode


def copy(database: Path, folder: Path, at: Moment) -> Path:
    """Make a copy in `folder` and keep the last KEPT. Blocks for as long as it takes; the store works on. Raises Unreadable, OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for half in folder.glob(".*.part"):
        half.unlink(missing_ok=True)  # of one who was killed
    if database.exists() and shutil.disk_usage(folder).free < ROOM * database.stat().st_size:
        raise OSError(errno.ENOSPC, f"less room than {ROOM} times the database: a copy could fill the disk", str(folder))
    made = folder / f"{_PREFIX}{at.wall}{_SUFFIX}"
    reader = Reader(database)
    try:
        reader.backup(made)
    finally:
        reader.close()
    for old in newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return made


def newest_first(folder: Path) -> list[Path]:
    """The copies there are."""
    found = [path for path in folder.glob(f"{_PREFIX}*{_SUFFIX}") if path.stem.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=made_at, reverse=True)


def made_at(path: Path) -> int:
    """When a copy was made, ms since the epoch."""
    return int(path.stem.removeprefix(_PREFIX))


def put_back(database: Path, folder: Path, at: Moment) -> Path | None:
    """Put the newest copy that is good in the place of the database, which is not there; gives that copy, None when there is none."""
    passing = database.with_name(f".{database.name}.restored")
    for found in newest_first(folder):
        try:
            shutil.copyfile(found, passing)
            _bring_up(passing, made_at(found), at)
            os.replace(passing, database)
        except (Corrupt, TooNew, Unavailable, OSError):
            continue  # the one before it, then
        else:
            return found
        finally:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{passing}{suffix}")
    return None


def _bring_up(path: Path, made: int, at: Moment) -> None:
    """Make an old copy one that may be gone on from. Raises Corrupt, TooNew, Unavailable."""
    with told_apart():
        db = opened(path)
        try:
            migrate(db)
            with db:
                db.execute(sql.FORGET_UNDER_WAY)
                live: list[Any] = db.execute(sql.LIVE_BODIES).fetchall()
                for (body,) in live:
                    run = _lost(body, made, at)
                    db.execute(sql.END_RUN, (run.id, run.finished, _encode(run)))
        except msgspec.MsgspecError as error:
            raise Corrupt(f"a run cannot be read: {error}") from None
        finally:
            db.close()


def _lost(body: bytes, made: int, at: Moment) -> Run:
    minutes = max(0, at.wall - made) // 60_000
    why = f"lost with the database, which was put back as it was {minutes} min ago: whether it ended since is not known"
    return msgspec.structs.replace(_decode(body), status="lost", finished=at.wall, error=why)
