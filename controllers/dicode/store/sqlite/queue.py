"""The run queue: facts are looked up here, spec.runs decides, the answer is written here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import msgspec
from msgspec.structs import replace

from dicode.messages.commands import Claimed, Enqueued, Finished, Found, Held, Refused, Renewed
from dicode.messages.kinds import ENDED, Result, Run, RunStatus, Task
from dicode.spec import runs
from dicode.store import sql
from dicode.store.engine import MAX_ERROR, MAX_OBJECT, MAX_PAGE, MAX_RUN, RUN, BadCommand, Moment
from dicode.store.sqlite.memory import Lease

if TYPE_CHECKING:
    from dicode.store.sqlite.engine import Sqlite

CLAIM_MAX = 256  # runs of one claim
TASKS_MAX = 2_000  # decoded tasks kept

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Run).decode
_task = msgspec.msgpack.Decoder(Task).decode
_json = msgspec.json.Encoder().encode


class SqliteQueue:
    def __init__(self, engine: Sqlite) -> None:
        self._engine = engine
        self._memory = engine.memory
        self._tasks: dict[str, tuple[int, Task]] = {}  # by rev, so it is never wrong

    def remember(self, at: Moment) -> None:
        """Fill the memory; every lease is good for one more ttl."""
        memory = self._memory
        memory.waiting.update(self._engine.execute(sql.WAITING_CLASSES).fetchall())
        for token, ttl, body in self._engine.execute(sql.RUNNING):
            run = _decode(body)
            memory.running[run.id] = Lease(run.task, run.worker, run.fence, token, ttl, at.mono + ttl, run.cancel)
            memory.busy[run.task] = memory.busy.get(run.task, 0) + 1
            memory.tokens[token] = (*memory.tokens.get(token, ()), run.id)

    def enqueue(self, run: Run, at: Moment) -> Enqueued | Refused:
        run = _named(run)
        known = self._known(run)
        if known is not None:
            return known
        filled = runs.filled(run, self._task(run.task), at.wall)
        if isinstance(filled, runs.Declined):
            return self._refuse(filled, at)
        live = self._live(run.task) if filled.overlap in ("skip", "replace") else ()
        verdict = runs.admitted(filled, live, sum(self._memory.waiting.values()), at.wall)
        if isinstance(verdict, runs.Declined):
            return self._refuse(verdict, at)
        for replaced in verdict.replaced:
            self.cancel(replaced, f"run {run.id}, which replaces it", at)
        self._add(verdict.run, at)
        return Enqueued(run=run.id)

    def _known(self, run: Run) -> Enqueued | Refused | None:
        """The answer for a unique key, or an id, that was seen before."""
        row = self._engine.one(sql.GET_UNIQUE, (run.unique,)) if run.unique else None
        row = row or self._engine.one(sql.GET_STATUS, (run.id,))
        if row is None:
            return None
        if row[1] == "skipped":
            return Refused(reason="overlap", message="skipped when it was first asked for", run=row[0])
        return Enqueued(run=row[0], created=False, status=cast(RunStatus, row[1]))

    def _task(self, key: str) -> Task | None:
        row = self._engine.one(sql.GET_OBJECT, ("Task", key))
        if row is None or row[1] is None:
            return None
        known = self._tasks.get(key)
        if known is not None and known[0] == row[0]:
            return known[1]
        if len(self._tasks) >= TASKS_MAX:
            self._tasks.clear()
        task = _task(row[1])
        self._tasks[key] = (row[0], task)
        return task

    def _live(self, task: str) -> list[runs.Live]:
        return [runs.Live(*row) for row in self._engine.execute(sql.LIVE_RUNS, (task,))]

    def _refuse(self, declined: runs.Declined, at: Moment) -> Refused:
        if declined.record is not None:
            self._add(declined.record, at)
        return Refused(reason=declined.reason, message=declined.message, run=declined.record.id if declined.record else "")

    def claim(self, worker: str, token: str, n: int, labels: Sequence[str], runtimes: Sequence[str], lease: int, at: Moment) -> Claimed:
        if token in self._memory.tokens:
            return self._claimed([run for run in map(self._run, self._memory.tokens[token]) if run is not None and run.status == "running"])
        taken: list[Run] = []
        size = 0
        for rev in self._due(n, labels, runtimes, at):
            row = self._engine.one(sql.BY_REV, (rev,))
            assert row is not None
            size += len(row[0])
            if size > MAX_PAGE and taken:
                break
            run = runs.started(_decode(row[0]), worker, self._engine.next_rev(), at.wall)
            self._save(run, run.fence, token, lease)
            self._hold(run, token, lease, at)
            taken.append(run)
        if taken:
            self._memory.set(self._memory.tokens, token, tuple(run.id for run in taken))
        return self._claimed(taken)

    def _claimed(self, taken: list[Run]) -> Claimed:
        return Claimed(runs=tuple(taken), waiting=sum(self._memory.waiting.values()))

    def _due(self, n: int, labels: Sequence[str], runtimes: Sequence[str], at: Moment) -> list[int]:
        """Revs of up to `n` queued runs this worker may start now, the longest due first."""
        classes = [name for name in self._memory.waiting if _suits(name, labels, runtimes)]
        if not classes or n <= 0:
            return []
        rows = self._engine.execute(sql.DUE, (at.wall, _json(classes).decode(), _json(self._memory.busy).decode()))
        chosen: list[int] = []
        taken: dict[str, int] = {}
        for rev, task, slots, busy in rows:
            if slots and busy + taken.get(task, 0) >= slots:
                continue
            taken[task] = taken.get(task, 0) + 1
            chosen.append(rev)
            if len(chosen) >= min(n, CLAIM_MAX):
                break
        return chosen

    def renew(self, worker: str, held: Sequence[Held], lease: int, at: Moment) -> Renewed:
        cancel: list[str] = []
        gone: list[str] = []
        for run, fence in ((one.run, one.fence) for one in held):
            mine = self._memory.running.get(run)
            if mine is None or mine.worker != worker or mine.fence != fence:
                gone.append(run)
                continue
            self._memory.running[run] = mine._replace(ttl=lease, until=at.mono + lease)  # true at once, in no transaction
            if mine.cancel:
                cancel.append(run)
        return Renewed(cancel=tuple(cancel), lost=tuple(gone))

    def finish(self, run: str, fence: int, status: RunStatus, exit_code: int | None, result: Result | None, error: str, at: Moment) -> Finished:
        if status not in runs.TOLD:
            raise BadCommand(f"a run does not finish as {status}")
        known = self._run(run)
        if known is None or known.fence != fence:
            return Finished(fenced=True, status="lost" if known is None else known.status)
        if known.status != "running":
            return Finished(status=known.status)  # this very fence has finished it before
        after = runs.ended(known, status, at.wall, exit_code=exit_code, result=result, error=error)
        self._leave(after, at)
        return Finished(status=after.status)

    def cancel(self, run: str, who: str, at: Moment) -> Found:
        known = self._run(run)
        if known is None:
            return Found()
        after = runs.cancelled(known, who, at.wall)
        if after is not known:
            rev = self._engine.next_rev()
            held = self._memory.running.get(run)
            self._save(after, rev, held.token if held else "", held.ttl if held else 0)
            if held is None:
                self._memory.add(self._memory.waiting, _class(after), -1)
            else:
                self._memory.set(self._memory.running, run, held._replace(cancel=True))
        return self._engine.objects.get(RUN, run)

    def overdue(self, at: Moment) -> bool:
        return any(lease.until <= at.mono for lease in self._memory.running.values())

    def expire(self, at: Moment) -> int:
        over = [run for run, lease in self._memory.running.items() if lease.until <= at.mono]
        for name in over:
            run = self._run(name)
            assert run is not None
            self._leave(replace(runs.lost(run, at.wall), fence=run.fence + 1), at)
        return len(over)

    def leased(self) -> int:
        return len(self._memory.running)

    def _run(self, key: str) -> Run | None:
        row = self._engine.one(sql.GET_RUN, (key,))
        return _decode(row[1]) if row is not None else None

    def _add(self, run: Run, at: Moment) -> None:
        rev, body = self._engine.next_rev(), _encode(run)
        if len(body) > MAX_RUN:
            raise BadCommand(f"a run has at most {MAX_RUN} bytes, this one has {len(body)}: put the input into a file")
        self._engine.execute(
            sql.ADD_RUN,
            (run.id, rev, run.task, run.status, run.finished, run.due, runs.slots(run), _class(run), run.unique, run.cause, body),
        )
        if run.unique:
            self._engine.execute(sql.ADD_UNIQUE, (run.unique, run.id, at.wall))
        if run.status == "queued":
            self._memory.add(self._memory.waiting, _class(run), 1)
        self._engine.tell(RUN, run.id, rev, body, run.cause)

    def _save(self, run: Run, rev: int, token: str = "", lease: int = 0) -> None:
        body = _body(run)
        ended = max(run.finished, 1) if run.status in ENDED else 0
        self._engine.execute(sql.SET_RUN, (run.id, rev, run.status, ended, run.due, token, lease, body))
        self._engine.tell(RUN, run.id, rev, body, run.cause)

    def _hold(self, run: Run, token: str, lease: int, at: Moment) -> None:
        memory = self._memory
        memory.add(memory.waiting, _class(run), -1)
        memory.add(memory.busy, run.task, 1)
        memory.set(memory.running, run.id, Lease(run.task, run.worker, run.fence, token, lease, at.mono + lease, run.cancel))

    def _leave(self, run: Run, at: Moment) -> None:
        """A running run ended, or went back to the queue."""
        memory = self._memory
        held = memory.running[run.id]
        self._save(run, self._engine.next_rev())
        memory.drop(memory.running, run.id)
        memory.add(memory.busy, run.task, -1)
        others = tuple(other for other in memory.tokens.get(held.token, ()) if other != run.id)
        if others:
            memory.set(memory.tokens, held.token, others)
        else:
            memory.drop(memory.tokens, held.token)
        if run.status == "queued":
            memory.add(memory.waiting, _class(run), 1)


def _named(run: Run) -> Run:
    """With an id; one is derived from the unique key where the caller gave none."""
    if not run.task:
        raise BadCommand("a run needs a task")
    if run.id:
        return run
    if not run.unique:
        raise BadCommand("a run needs an id or a unique key")
    return replace(run, id=runs.run_id(run.task, run.trigger.type, run.unique))


def _body(run: Run) -> bytes:
    """A run that is there already, as it is stored: never refused. A result that does not fit is left out, and the run says so."""
    body = _encode(run)
    if len(body) > MAX_OBJECT and run.result is not None:
        run = replace(run, result=None, error=run.error or f"its result of {len(_encode(run.result))} bytes was too big to keep")
        body = _encode(run)
    if len(body) > MAX_OBJECT:
        body = _encode(replace(run, error=run.error.encode()[:MAX_ERROR].decode(errors="ignore")))
    return body


def _class(run: Run) -> str:
    """What a worker must offer: the runtime and the labels."""
    return "\x1f".join((run.runtime or "", *sorted(run.labels)))


def _suits(name: str, labels: Sequence[str], runtimes: Sequence[str]) -> bool:
    runtime, *wanted = name.split("\x1f")
    return set(wanted) <= set(labels) and (not runtimes or not runtime or runtime in runtimes)
