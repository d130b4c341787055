"""Facts kept beside the database because they are asked for all the time. What a transaction changed here is undone with it."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

K = TypeVar("K")
V = TypeVar("V")
_ABSENT: Any = object()


class Lease(NamedTuple):
    """A run that a worker holds. `until` is monotonic ms."""

    task: str
    worker: str
    fence: int
    token: str
    ttl: int
    until: int
    cancel: bool


class Memory:
    """Comes back from the tables: `Sqlite` fills it on start and after a batch that failed.

    Dicts that take part in transactions are changed through `set` and `drop` only.
    """

    def __init__(self) -> None:
        self.head = 0
        self.heads: dict[str, int] = {}  # kind → its newest rev
        self.purged: dict[str, int] = {}  # kind → deletions up to this rev are forgotten
        self.waiting: dict[str, int] = {}  # class of runs → how many are queued
        self.running: dict[str, Lease] = {}  # run → who holds it
        self.busy: dict[str, int] = {}  # task → how many of its runs are running
        self.tokens: dict[str, tuple[str, ...]] = {}  # claim → the runs it took
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []

    def set(self, table: dict[K, V], key: K, value: V) -> None:
        self._undo.append((table, key, table.get(key, _ABSENT)))
        table[key] = value

    def drop(self, table: dict[K, V], key: K) -> None:
        if key in table:
            self._undo.append((table, key, table.pop(key)))

    def add(self, table: dict[K, int], key: K, n: int) -> None:
        """Count up or down; what falls to nothing is dropped."""
        total = table.get(key, 0) + n
        if total > 0:
            self.set(table, key, total)
        else:
            self.drop(table, key)

    def mark(self) -> tuple[int, int]:
        return len(self._undo), self.head

    def undo(self, mark: tuple[int, int]) -> None:
        depth, self.head = mark
        while len(self._undo) > depth:
            table, key, old = self._undo.pop()
            if old is _ABSENT:
                table.pop(key, None)
            else:
                table[key] = old

    def keep(self) -> None:
        """The transaction is durable: there is nothing to undo any more."""
        self._undo.clear()
