"""The engine on one SQLite file: one writing connection, write-ahead log, every commit on the disk before it is answered."""

from dicode.store.sqlite.engine import Sqlite, set_aside

__all__ = ["Sqlite", "set_aside"]
