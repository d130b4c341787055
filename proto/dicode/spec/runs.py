"""What becomes of a run: its state table, and pure transitions. The queue in the store looks up the facts, asks here, and writes the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Literal, NamedTuple

from msgspec.structs import replace

from dicode.messages.kinds import ENDED, Result, Run, RunStatus, Task

RECORDED = ("cron", "chain")  # nobody waits for the answer: what is not run is written down as skipped
WAITING_MAX = 10_000  # runs on the queue; SPEC 9


class Cue(StrEnum):
    """What happens to a run. The words stand in the state diagram."""

    ASKED = "fired, or asked for"
    SKIPPED = "suspended, or overlap is skip"
    CLAIMED = "claimed by a worker"
    CANCEL = "to be cancelled"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "took too long"
    LOST = "its worker is gone"
    CANCELLED = "ended as it was to be cancelled"
    AGAIN = "ended badly, an attempt is left"


BEGINS: Mapping[Cue, RunStatus] = {Cue.ASKED: "queued", Cue.SKIPPED: "skipped"}

#: What has no row has ended. A retry waits on the queue until its backoff is over; who is to be cancelled runs until its worker has ended it.
TABLE: Mapping[RunStatus, Mapping[Cue, RunStatus]] = {
    "queued": {
        Cue.CLAIMED: "running",
        Cue.CANCEL: "cancelled",
    },
    "running": {
        Cue.CANCEL: "running",
        Cue.SUCCEEDED: "succeeded",
        Cue.FAILED: "failed",
        Cue.TIMED_OUT: "timed_out",
        Cue.LOST: "lost",
        Cue.CANCELLED: "cancelled",
        Cue.AGAIN: "queued",
    },
}

#: How a worker may say that an attempt ended.
TOLD: Mapping[RunStatus, Cue] = {
    "succeeded": Cue.SUCCEEDED, "failed": Cue.FAILED, "timed_out": Cue.TIMED_OUT, "lost": Cue.LOST, "cancelled": Cue.CANCELLED,
}  # fmt: skip
BAD = (Cue.FAILED, Cue.TIMED_OUT, Cue.LOST)

Reason = Literal["unknown", "not_ready", "suspended", "overlap", "full"]


class Declined(NamedTuple):
    """No run comes of it. `record`: the skipped run to write down, where listings should show it."""

    reason: Reason
    message: str
    record: Run | None = None


class Live(NamedTuple):
    """A run of the same task that is queued or running."""

    id: str
    status: RunStatus


class Admitted(NamedTuple):
    """Put `run` on the queue, after cancelling `replaced`."""

    run: Run
    replaced: tuple[str, ...] = ()


def run_id(task: str, trigger: str, key: str) -> str:
    """The id this task, trigger type and trigger key always give: the same fire twice is the same run (RELIABILITY R6)."""
    return hashlib.sha256("\0".join((task, trigger, key)).encode()).hexdigest()[:26]


def slots(run: Run) -> int:
    """How many runs of its task may run at once; 0: any number."""
    return run.concurrency if run.overlap == "allow" else max(1, run.concurrency)


def filled(run: Run, task: Task | None, now: int) -> Run | Declined:
    """The run as it would be queued: pinned to the registered digest, unless it names one already (a replay of old code)."""
    if task is None:
        return Declined("unknown", f"no task {run.task}: dicode get tasks lists them")
    if task.spec is None or not task.digest:
        return Declined("not_ready", f"{run.task} has no good version yet: dicode describe task {run.task}")
    if task.spec.trigger.type == "daemon":
        return Declined("not_ready", f"{run.task} is a daemon and is not run: dicode restart {run.task}")
    spec = task.spec
    if not run.digest:
        run = replace(
            run,
            digest=task.digest,
            set_dir=task.set_dir,
            runtime=task.runtime or spec.runtime,
            overlap=spec.overlap or "allow",
            concurrency=spec.concurrency or 0,
            labels=spec.run_on or (),
        )
        if spec.retry is not None:
            run = replace(
                run,
                attempts=1 + (spec.retry.attempts or 0),
                backoff=run.backoff if spec.retry.backoff is None else spec.retry.backoff,
                multiplier=run.multiplier if spec.retry.multiplier is None else spec.retry.multiplier,
                backoff_max=run.backoff_max if spec.retry.max is None else spec.retry.max,
            )
    run = replace(
        run,
        status=BEGINS[Cue.ASKED],
        attempt=1,
        fence=0,
        worker="",
        started=0,
        finished=0,
        cancel=False,
        created=run.created or now,
        due=run.due or now,
    )
    if task.suspended:
        record = skipped(run, "suspended", now) if run.trigger.type in RECORDED else None
        return Declined("suspended", f"{run.task} is suspended: dicode resume {run.task}", record)
    return run


def admitted(run: Run, live: Sequence[Live], waiting: int, now: int) -> Admitted | Declined:
    """What overlap and a full queue make of a filled run. `live`: the runs of its task, oldest first; needed for skip and replace only."""
    limit = slots(run)
    replaced: Sequence[Live] = ()
    if run.overlap == "skip" and len(live) >= limit:
        message = f"{run.task} still has {len(live)} run{'s' if len(live) > 1 else ''} under way, overlap is skip"
        return Declined("overlap", message, skipped(run, f"skipped: run {live[0].id} was still under way", now))
    if run.overlap == "replace":
        replaced = live[: max(0, len(live) - limit + 1)]
    if waiting - sum(old.status == "queued" for old in replaced) >= WAITING_MAX:
        return Declined("full", f"{waiting} runs are waiting already: try again later")
    return Admitted(run, tuple(old.id for old in replaced))


def skipped(run: Run, why: str, now: int) -> Run:
    return replace(run, status=BEGINS[Cue.SKIPPED], finished=now, error=why)


def started(run: Run, worker: str, fence: int, now: int) -> Run:
    """Claimed by `worker`. What an earlier attempt left is cleared."""
    status = TABLE[run.status][Cue.CLAIMED]
    return replace(run, status=status, worker=worker, fence=fence, started=now, finished=0, exit_code=None, result=None, error="")


def ended(run: Run, status: RunStatus, now: int, *, exit_code: int | None = None, result: Result | None = None, error: str = "") -> Run:
    """The running attempt is over: the run ended, or is queued again where a retry is left."""
    cue = _end(run, TOLD[status])
    run = replace(run, status=TABLE[run.status][cue], exit_code=exit_code, error=error)
    if cue is Cue.AGAIN:
        return replace(run, attempt=run.attempt + 1, due=now + backoff(run), worker="", started=0, result=None)
    return replace(run, finished=now, result=result)


def _end(run: Run, told: Cue) -> Cue:
    if told not in BAD:
        return told
    if run.cancel:
        return Cue.CANCELLED
    return Cue.AGAIN if run.attempt < run.attempts else told


def lost(run: Run, now: int) -> Run:
    """Its lease ended: nobody knows what became of the attempt."""
    return ended(run, "lost", now, error=f"{run.worker} was not heard of any more")


def cancelled(run: Run, who: str, now: int) -> Run:
    """A queued run ends at once, a running one is marked for its worker; one that has ended stays as it is."""
    if run.status in ENDED or run.cancel:
        return run
    run = replace(run, status=TABLE[run.status][Cue.CANCEL], cancel=True)
    return replace(run, finished=now, error=f"cancelled by {who}" if who else "cancelled") if run.status in ENDED else run


def backoff(run: Run) -> int:
    """Milliseconds to wait after this attempt before the next."""
    try:
        delay = run.backoff * run.multiplier ** (run.attempt - 1)
    except OverflowError:
        return run.backoff_max
    return int(min(max(delay, 0), run.backoff_max))


# ---- the diagram


def page() -> str:
    """The table as docs/states/run.md: `python -m dicode.spec.runs > docs/states/run.md`."""
    lines = [
        "# The life of a run",
        "",
        "Made from the table in `proto/dicode/spec/runs.py`; a test fails when they differ. An arrow says what happened.",
        "",
        "```mermaid",
        "stateDiagram-v2",
    ]
    lines += [f"    [*] --> {to}: {cue}" for cue, to in BEGINS.items()]
    lines += [f"    {status} --> {to}: {cue}" for status, moves in TABLE.items() for cue, to in moves.items()]
    return "\n".join([*lines, "```", ""])


if __name__ == "__main__":
    print(page(), end="")
