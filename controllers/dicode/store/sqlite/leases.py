"""Named leases with fencing numbers: one holder at a time, judged by our own monotonic clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dicode.messages.commands import Leased
from dicode.store import sql
from dicode.store.engine import Moment

if TYPE_CHECKING:
    from dicode.store.sqlite.engine import Sqlite


class Holding(NamedTuple):
    holder: str
    fence: int
    ttl: int
    until: int  # monotonic ms


class SqliteLeases:
    """Who holds what is in the table; until when is in memory, and starts anew with the store."""

    def __init__(self, engine: Sqlite) -> None:
        self._engine = engine
        self._held: dict[str, Holding] = {}

    def remember(self, at: Moment) -> None:
        self._held.clear()
        for name, holder, fence, ttl in self._engine.execute(sql.READ_LEASES):
            self._held[name] = Holding(holder, fence, ttl, at.mono + ttl)

    def acquire(self, name: str, holder: str, ttl: int, at: Moment) -> Leased:
        held = self._held.get(name)
        if held is not None and held.until > at.mono:
            if held.holder != holder:
                return Leased()
            self._engine.memory.set(self._held, name, Holding(holder, held.fence, ttl, at.mono + ttl))
            return Leased(fence=held.fence)
        fence = self._engine.next_rev()
        self._engine.execute(sql.SAVE_LEASE, (name, holder, fence, ttl))
        self._engine.memory.set(self._held, name, Holding(holder, fence, ttl, at.mono + ttl))
        return Leased(fence=fence)

    def release(self, name: str, holder: str) -> Leased:
        held = self._held.get(name)
        if held is not None and held.holder == holder:
            self._engine.execute(sql.DROP_LEASE, (name,))
            self._engine.memory.drop(self._held, name)
        return Leased()
