"""Forgetting, in steps of a few milliseconds, when nobody waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from dicode.messages.kinds import Request
from dicode.store import sql
from dicode.store.engine import RUN, TOMBSTONES, Moment, Retention

if TYPE_CHECKING:
    from dicode.store.sqlite.engine import Sqlite

STEP = 200  # rows
TASKS = 100  # looked at in one step
TOMBSTONES_MAX = 100_000
UNIQUES_MAX = 1_000_000
DELIVERIES_MAX = 100_000
KNOWN = 72 * 3_600_000  # ms a delivery is known; SPEC 7
UNANSWERED = 7 * 86_400_000  # ms; nobody will answer any more

_request = msgspec.msgpack.Decoder(Request).decode


class Tidying:
    """One round goes through all chores once; `step` does the next bit of it."""

    def __init__(self, engine: Sqlite) -> None:
        self._engine = engine
        self._chores: list[Callable[[Retention, Moment], bool]] = []
        self._task = ""  # runs of the tasks up to here are done
        self._request = 0  # requests up to this rev are done

    def step(self, retention: Retention, at: Moment) -> bool:
        """False at the end of a round."""
        if not self._chores:
            self._task, self._request = "", 0
            self._chores = [self._tombstones, self._events, self._deliveries, self._histories, self._requests, self._uniques, self._runs]
        if not self._chores[-1](retention, at):
            self._chores.pop()
        return bool(self._chores)

    def _runs(self, retention: Retention, at: Moment) -> bool:
        dropped = 0
        for _ in range(TASKS):
            row = self._engine.one(sql.NEXT_TASK, (self._task,))
            if row is None:
                return False
            dropped += self._runs_of(row[0], retention, at)
            if dropped >= STEP:
                break
            self._task = row[0]
        return True

    def _runs_of(self, task: str, retention: Retention, at: Moment) -> int:
        rows = self._engine.execute(sql.OLD_RUNS, (task, at.wall - retention.runs, STEP)).fetchall()
        rows = rows or self._engine.execute(sql.MANY_RUNS, (task, STEP, retention.runs_per_task)).fetchall()
        for run, status, unique in rows:
            self._engine.execute(sql.DROP_RUN, (run,))
            if unique:
                self._engine.execute(sql.KEEP_STATUS, (status, unique))
            self._engine.objects.bury(RUN, run, "retention", at)
        return len(rows)

    def _events(self, retention: Retention, at: Moment) -> bool:
        """Events fall off the end without a tombstone: nobody decides by them."""
        return self._forget(self._engine.execute(sql.MANY_OF_KIND, ("Event", STEP, retention.events)))

    def _deliveries(self, retention: Retention, at: Moment) -> bool:
        """They too: the oldest stand first."""
        oldest = self._engine.execute(sql.OLDEST_OF_KIND, ("Delivery", STEP)).fetchall()
        old = [row for *row, written in oldest if written < at.wall - KNOWN]
        return self._forget(old) or self._forget(self._engine.execute(sql.MANY_OF_KIND, ("Delivery", STEP, DELIVERIES_MAX)))

    def _histories(self, retention: Retention, at: Moment) -> bool:
        """Of tasks that are gone: as long as their runs are kept after the last change, and as long as the task's tombstone stands."""
        rows = self._engine.execute(sql.GONE_HISTORIES, (at.wall - retention.runs, STEP)).fetchall()
        for (key,) in rows:
            self._engine.objects.bury("History", key, "retention", at)
        return len(rows) == STEP

    def _tombstones(self, retention: Retention, at: Moment) -> bool:
        old = self._forget(self._engine.execute(sql.OLD_TOMBSTONES, (at.wall - TOMBSTONES, STEP)))
        return old or self._forget(self._engine.execute(sql.MANY_TOMBSTONES, (STEP, TOMBSTONES_MAX)))

    def _forget(self, rows: Iterable[tuple[Any, ...]]) -> bool:
        """Drop these rows and remember up to which rev listings are no longer complete."""
        found = list(rows)
        for rowid, kind, rev in found:
            self._engine.execute(sql.DROP_OBJECT, (rowid,))
            if rev > self._engine.memory.purged.get(kind, 0):
                self._engine.memory.set(self._engine.memory.purged, kind, rev)
                self._engine.execute(sql.SAVE_PURGED, (kind, rev))
        return len(found) == STEP

    def _requests(self, retention: Retention, at: Moment) -> bool:
        rows = self._engine.execute(sql.OLD_OF_KIND, ("Request", self._request, at.wall - retention.requests, STEP)).fetchall()
        for rev, key, body in rows:
            self._request = rev
            if _is_over(body, at.wall - UNANSWERED):
                self._engine.objects.bury("Request", key, "retention", at)
        return len(rows) == STEP

    def _uniques(self, retention: Retention, at: Moment) -> bool:
        rows = self._engine.execute(sql.OLD_UNIQUES, (at.wall - KNOWN, STEP)).fetchall()
        rows = rows or self._engine.execute(sql.MANY_UNIQUES, (STEP, UNIQUES_MAX)).fetchall()
        for key, _ in rows:
            self._engine.execute(sql.DROP_UNIQUE, (key,))
        return len(rows) == STEP


def _is_over(body: bytes, unanswered_since: int) -> bool:
    """Whether this request was answered, or will never be."""
    try:
        request = _request(body)
    except msgspec.MsgspecError:
        return True  # nobody can read it
    return request.answer is not None or request.when < unanswered_since
