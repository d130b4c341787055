"""Bring a database forward to the schema this program knows. One transaction a step, so a kill leaves a whole version."""

from __future__ import annotations

import apsw

from dicode.store.engine import TooNew
from dicode.store.sql import MIGRATIONS


def migrate(db: apsw.Connection, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Apply what is missing. Raises TooNew when the database is ahead of this program."""
    version = db.pragma("user_version")
    if version > len(migrations):
        raise TooNew(f"written by a newer dicode (schema {version}, this one knows {len(migrations)}): upgrade, or restore a backup")
    for number, statements in enumerate(migrations[version:], version + 1):
        with db:
            db.execute(statements)
            db.pragma("user_version", number)
