"""The life of a daemon: a state table, and the one question asked of it, `next_step`. Pure.

`recreate` is the strategy this table knows: stop the old process, wait until it and all its children are really gone,
start the new one. `starting` is a process that is not ready yet; without a `ready:` probe it is ready once it exists.
A rolling replacement is one more row pair: a second process beside `running`, and its own READY.

Nothing here acts on a command. A restart is a token on the Task that differs from the one the Daemon echoes; a
suspension is a flag; the end of the supervisor is a time by which everything must be gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, NamedTuple, assert_never

import msgspec

from dicode.messages.kinds import Condition, Daemon, DaemonState, Task
from dicode.messages.task import Trigger
from dicode.spec import condition

HEALTHY = 60_000  # ms without an exit after which earlier failures are forgotten
CRASH_LOOP = 5  # failures in a row, none of them after a healthy spell
BACKOFF_FIRST = 200  # ms before the second restart; the first one is immediate
BACKOFF_MAX = 300_000  # ms
RETRY_FIRST = 1_000  # ms before what could not be started is tried again
STOP_GRACE = 10_000  # ms; SPEC 3
LOOK_AGAIN = 50  # ms between two looks at the children a stopped process left behind

LIVE: frozenset[DaemonState] = frozenset({"starting", "running", "stopping"})


class Absent(msgspec.Struct, frozen=True):
    """There is no process, and whatever there was has been accounted for."""


class Alive(msgspec.Struct, frozen=True):
    """The process exists, by identity."""


class Ended(msgspec.Struct, frozen=True):
    """The process is gone. `how` is for people; `leftovers`: some of its children are not gone."""

    how: str = "ended while nobody watched"
    clean: bool = False  # exit code 0
    leftovers: bool = False


Process = Absent | Alive | Ended


class Trouble(NamedTuple):
    """What came of an attempt to prepare or start `digest`: why it cannot be done, in a word and for a person."""

    digest: str
    reason: str
    why: str


class Facts(NamedTuple):
    """All that is known about one daemon. Times in ms since the epoch."""

    id: str
    task: Task | None
    daemon: Daemon | None
    process: Process
    now: int
    prepared: str = ""  # the digest whose files and command were made ready while the old process runs
    trouble: Trouble | None = None
    leave_by: int | None = None  # the supervisor goes down: everything must be gone by then


class Said(NamedTuple):
    """What people are told: `task/x <message>`."""

    reason: str
    message: str
    warning: bool = False


class Prepare(msgspec.Struct, frozen=True):
    """Make sure this digest can be started, while the old process still runs."""

    digest: str


class Start(msgspec.Struct, frozen=True):
    """Start the task's digest. `daemon` lacks what only the start can tell: launch, pid, start time."""

    daemon: Daemon


class Stop(msgspec.Struct, frozen=True):
    """Ask the process and its group to go."""

    daemon: Daemon
    said: Said


class Kill(msgspec.Struct, frozen=True):
    """SIGKILL to everything that is left of it."""


class Bury(msgspec.Struct, frozen=True):
    """The process and its children are gone: take in its last words, close what belonged to it."""

    daemon: Daemon
    said: Said | None


class Relabel(msgspec.Struct, frozen=True):
    """Only write down; the process, if there is one, notices nothing."""

    daemon: Daemon
    said: Said | None = None


class Forget(msgspec.Struct, frozen=True):
    """The task is gone and so is its process: delete the object."""


class Wait(msgspec.Struct, frozen=True):
    """Look again at this time, in ms since the epoch."""

    until: int


class Nothing(msgspec.Struct, frozen=True):
    """All is as it should be."""


Step = Prepare | Start | Stop | Kill | Bury | Relabel | Forget | Wait | Nothing


class Cue(StrEnum):
    """What is true of a daemon that calls for a step. The words stand in the state diagram."""

    WANTED = "wanted"  # a process is wanted and there is none
    DUE = "time to try again"
    READY = "ready"
    RELABELLED = "new digest, same process"
    UNPREPARED = "new process digest or restart asked for"
    REPLACED = "the new one can be started"
    UNSTARTABLE = "cannot be started"
    HEALTHY = "60 s without an exit"
    UNWANTED = "suspended, removed or going down"
    REMOVED = "task removed"
    ENDED = "gone, as asked"
    FINISHED = "exited, not to be restarted"
    CRASHED = "exited"
    CRASHED_OFTEN = "exited 5 times in a row"
    LEFTOVERS = "its children are still there"
    OVERDUE = "grace is over"


Verb = Literal["prepare", "start", "stop", "kill", "bury", "relabel", "ready", "heal", "refuse", "rest", "forget"]


class Move(NamedTuple):
    verb: Verb
    to: DaemonState


_ENDS: Mapping[Cue, Move] = {
    Cue.LEFTOVERS: Move("kill", "running"),
    Cue.ENDED: Move("bury", "stopped"),
    Cue.FINISHED: Move("bury", "exited"),
    Cue.CRASHED: Move("bury", "backoff"),
    Cue.CRASHED_OFTEN: Move("bury", "crash_loop"),
}

TABLE: Mapping[DaemonState, Mapping[Cue, Move]] = {
    "stopped": {
        Cue.WANTED: Move("start", "starting"),
        Cue.UNSTARTABLE: Move("refuse", "failed"),
        Cue.RELABELLED: Move("relabel", "stopped"),
        Cue.REMOVED: Move("forget", "stopped"),
    },
    "starting": {
        **_ENDS,
        Cue.LEFTOVERS: Move("kill", "starting"),
        Cue.READY: Move("ready", "running"),
        Cue.UNWANTED: Move("stop", "stopping"),
    },
    "running": {
        **_ENDS,
        Cue.RELABELLED: Move("relabel", "running"),
        Cue.HEALTHY: Move("heal", "running"),
        Cue.UNPREPARED: Move("prepare", "running"),
        Cue.UNSTARTABLE: Move("refuse", "running"),
        Cue.REPLACED: Move("stop", "stopping"),
        Cue.UNWANTED: Move("stop", "stopping"),
    },
    "stopping": {
        Cue.OVERDUE: Move("kill", "stopping"),
        Cue.ENDED: Move("bury", "stopped"),
    },
    "backoff": {
        Cue.DUE: Move("start", "starting"),
        Cue.WANTED: Move("start", "starting"),
        Cue.UNSTARTABLE: Move("refuse", "failed"),
        Cue.RELABELLED: Move("relabel", "backoff"),
        Cue.UNWANTED: Move("rest", "stopped"),
        Cue.REMOVED: Move("forget", "backoff"),
    },
    "crash_loop": {
        Cue.DUE: Move("start", "starting"),
        Cue.WANTED: Move("start", "starting"),
        Cue.UNSTARTABLE: Move("refuse", "failed"),
        Cue.RELABELLED: Move("relabel", "crash_loop"),
        Cue.UNWANTED: Move("rest", "stopped"),
        Cue.REMOVED: Move("forget", "crash_loop"),
    },
    "failed": {
        Cue.DUE: Move("start", "starting"),
        Cue.WANTED: Move("start", "starting"),
        Cue.UNSTARTABLE: Move("refuse", "failed"),
        Cue.UNWANTED: Move("rest", "stopped"),
        Cue.REMOVED: Move("forget", "failed"),
    },
    "exited": {
        Cue.WANTED: Move("start", "starting"),
        Cue.UNSTARTABLE: Move("refuse", "failed"),
        Cue.RELABELLED: Move("relabel", "exited"),
        Cue.UNWANTED: Move("rest", "stopped"),
        Cue.REMOVED: Move("forget", "exited"),
    },
}


def next_step(facts: Facts) -> Step:
    """The one thing to do now for this daemon. Done, and asked again, it ends in Wait or Nothing."""
    facts, daemon = _coherent(facts)
    cue = cue_of(facts, daemon)
    if cue is None:
        return _patience(facts, daemon)
    verb, to = TABLE[daemon.state][cue]
    match verb:
        case "prepare":
            return Prepare(_wanted(facts).digest)
        case "start":
            return Start(_starting(daemon, _wanted(facts), cue, facts.now))
        case "stop":
            return Stop(_in_state(daemon, to, facts.now, retry_at=0), Said("Stopping", f"stops: {_reason_to_stop(facts, daemon)}"))
        case "kill":
            return Kill()
        case "bury":
            assert isinstance(facts.process, Ended), "the cue says so"
            return _burial(facts.process, daemon, to, facts.now)
        case "relabel":
            return Relabel(_labelled(daemon, _wanted(facts)))
        case "ready":
            return Relabel(_in_state(daemon, to, facts.now), _started(daemon))
        case "heal":
            return _healed(daemon)
        case "refuse":
            return _refusal(facts, daemon, to)
        case "rest":
            calm = condition.clear(condition.clear(daemon.conditions, "CrashLoop"), "StartFailed")
            return Relabel(_in_state(daemon, to, facts.now, failures=0, retry_at=0, failed="", conditions=calm))
        case "forget":
            return Forget()
        case _:
            assert_never(verb)


def _coherent(facts: Facts) -> tuple[Facts, Daemon]:
    """What was written down and what was seen may disagree after a crash; what was seen counts."""
    daemon = facts.daemon or Daemon(task=facts.id)
    if daemon.state in LIVE:
        return (facts._replace(process=Ended()) if isinstance(facts.process, Absent) else facts), daemon
    if not isinstance(facts.process, Absent):
        return facts, msgspec.structs.replace(daemon, state="running")
    return facts, daemon


# ---- which cue


def cue_of(facts: Facts, daemon: Daemon) -> Cue | None:
    """What calls for a step, the most pressing first; None when nothing does."""
    match facts.process:
        case Ended(leftovers=True):
            return _of_leftovers(facts, daemon)
        case Ended():
            return _of_ended(facts.process, facts, daemon)
        case Alive():
            return _of_alive(facts, daemon)
        case Absent():
            return _of_absent(facts, daemon)
        case _:
            assert_never(facts.process)


def _of_leftovers(facts: Facts, daemon: Daemon) -> Cue | None:
    if daemon.state == "stopping":  # they were asked as well, and have the same time
        return Cue.OVERDUE if _is_due(_kill_at(facts, daemon), facts.now, daemon.stop_grace) else None
    return Cue.LEFTOVERS


def _of_ended(ended: Ended, facts: Facts, daemon: Daemon) -> Cue:
    task = facts.task
    if daemon.state == "stopping" or task is None or not _is_wanted(facts) or _is_replaced(task, daemon):
        return Cue.ENDED
    policy = _trigger(task).restart or "always"
    if policy == "never" or (policy == "on-failure" and ended.clean):
        return Cue.FINISHED
    return Cue.CRASHED_OFTEN if _failures(daemon, facts.now) >= CRASH_LOOP else Cue.CRASHED


def _of_alive(facts: Facts, daemon: Daemon) -> Cue | None:
    if daemon.state == "stopping":
        return Cue.OVERDUE if _is_due(_kill_at(facts, daemon), facts.now, daemon.stop_grace) else None
    task = facts.task
    if task is None or not _is_wanted(facts):
        return Cue.UNWANTED
    if daemon.state == "starting":
        return Cue.READY
    if _is_unstartable(facts, task):
        return Cue.UNSTARTABLE
    if _is_replaced(task, daemon):
        if facts.prepared == task.digest:
            return Cue.REPLACED
        if not _waits(task, daemon, facts.now):
            return Cue.UNPREPARED
    elif not _is_labelled(task, daemon) or daemon.failed:
        return Cue.RELABELLED
    return Cue.HEALTHY if daemon.failures and _is_due(daemon.since + HEALTHY, facts.now, HEALTHY) else None


def _of_absent(facts: Facts, daemon: Daemon) -> Cue | None:
    task = facts.task
    if facts.leave_by is not None:
        return None
    if task is None or not _is_daemon(task):
        return None if facts.daemon is None else Cue.REMOVED
    if task.suspended:
        return Cue.UNWANTED if daemon.state != "stopped" else _label_cue(task, daemon)
    if _is_unstartable(facts, task):
        return Cue.UNSTARTABLE
    if _waits(task, daemon, facts.now):
        return None
    if daemon.state == "stopped" or _is_replaced(task, daemon) or (daemon.state == "failed" and daemon.failed != task.digest):
        return Cue.WANTED
    if daemon.state != "exited" and _is_due(daemon.retry_at, facts.now, BACKOFF_MAX):
        return Cue.DUE
    return _label_cue(task, daemon)


def _label_cue(task: Task, daemon: Daemon) -> Cue | None:
    return None if _is_labelled(task, daemon) else Cue.RELABELLED


def _is_daemon(task: Task) -> bool:
    return bool(task.digest) and task.spec is not None and task.spec.trigger.type == "daemon"


def _is_wanted(facts: Facts) -> bool:
    """Should there be a process?"""
    return facts.task is not None and _is_daemon(facts.task) and not facts.task.suspended and facts.leave_by is None


def _is_replaced(task: Task, daemon: Daemon) -> bool:
    return task.process != daemon.process or task.restart_token != daemon.restart_token


def _is_labelled(task: Task, daemon: Daemon) -> bool:
    return task.digest == daemon.digest and task.generation == daemon.generation


def _is_unstartable(facts: Facts, task: Task) -> bool:
    return facts.trouble is not None and facts.trouble.digest == task.digest


def _waits(task: Task, daemon: Daemon, now: int) -> bool:
    """This very digest could not be started, and it is not yet time to try again."""
    return daemon.failed == task.digest and not _is_due(daemon.retry_at, now, BACKOFF_MAX)


def _is_due(at: int, now: int, longest: int) -> bool:
    """Is it time? Nothing is ever set further ahead than `longest`: if it is, the clock has been set back."""
    return now >= at or at - now > longest


def _failures(daemon: Daemon, now: int) -> int:
    """Failures in a row, with the exit that has just been seen."""
    return 1 if now >= daemon.since + HEALTHY else daemon.failures + 1


def _kill_at(facts: Facts, daemon: Daemon) -> int:
    own = daemon.since + daemon.stop_grace
    return own if facts.leave_by is None else min(own, facts.leave_by)


def _patience(facts: Facts, daemon: Daemon) -> Step:
    """Nothing calls for a step now: when might something, with no change in sight?"""
    times: list[int] = []
    if isinstance(facts.process, Absent):
        if daemon.retry_at > facts.now and _is_wanted(facts):
            times.append(daemon.retry_at)
    elif daemon.state == "stopping":
        times.append(_kill_at(facts, daemon))
        if isinstance(facts.process, Ended):
            times.append(facts.now + LOOK_AGAIN)
    else:
        times += [daemon.retry_at] if daemon.failed else []
        times += [daemon.since + HEALTHY] if daemon.failures else []
    return Wait(min(times)) if times else Nothing()


# ---- the daemon after the step


def _in_state(daemon: Daemon, state: DaemonState, now: int, **changes: object) -> Daemon:
    return msgspec.structs.replace(daemon, state=state, since=now, **changes)


def _wanted(facts: Facts) -> Task:
    assert facts.task is not None, "the cue says that a task is there"
    return facts.task


def _trigger(task: Task) -> Trigger:
    assert task.spec is not None, "a task with a digest has a spec"
    return task.spec.trigger


def _labelled(daemon: Daemon, task: Task) -> Daemon:
    settled = condition.clear(daemon.conditions, "StartFailed")
    return msgspec.structs.replace(daemon, digest=task.digest, generation=task.generation, failed="", conditions=settled)


def _starting(daemon: Daemon, task: Task, cue: Cue, now: int) -> Daemon:
    trigger = _trigger(task)
    same = daemon.process == task.process
    asked = task.restart_token != daemon.restart_token
    again = same and (asked or (cue is Cue.DUE and daemon.state != "failed"))
    failures = daemon.failures if same and not asked and daemon.state != "stopped" else 0
    labelled = _labelled(daemon, task)
    return _in_state(
        labelled,
        "starting",
        now,
        process=task.process,
        bundle=task.digest,
        set_dir=task.set_dir,
        restart_token=task.restart_token,
        restarts=daemon.restarts + 1 if again else daemon.restarts if same else 0,
        failures=failures,
        retry_at=0,
        stop_signal=trigger.stop_signal or "SIGTERM",
        stop_grace=STOP_GRACE if trigger.stop_grace is None else trigger.stop_grace,
        conditions=labelled.conditions if failures else condition.clear(labelled.conditions, "CrashLoop"),
    )


def backoff(failures: int) -> int:
    """Ms to wait after this many failures in a row: at once, then 0.2 s doubling up to 5 min."""
    return 0 if failures <= 1 else min(BACKOFF_FIRST * 2 ** min(failures - 2, 30), BACKOFF_MAX)


def _burial(ended: Ended, daemon: Daemon, to: DaemonState, now: int) -> Bury:
    bare = msgspec.structs.replace(daemon, pid=0, start_time=0.0, boot_id="", exit=ended.how)
    if to == "stopped":
        resting = _in_state(bare, to, now, failures=0, retry_at=0, conditions=condition.clear(bare.conditions, "CrashLoop"))
        in_time = daemon.state != "stopping" or now < daemon.since + daemon.stop_grace
        return Bury(resting, None if in_time else Said("Killed", f"had to be killed: {daemon.stop_grace / 1000:g} s were not enough", True))
    if to == "exited":
        return Bury(_in_state(bare, to, now, failures=0, retry_at=0), Said("Exited", f"ended: {ended.how}"))
    failures = _failures(daemon, now)
    delay = backoff(failures)
    after = _in_state(bare, to, now, failures=failures, retry_at=now + delay)
    if to == "backoff":
        calm = condition.clear(after.conditions, "CrashLoop")
        when = f"again in {delay / 1000:g} s" if delay else "started again"
        return Bury(msgspec.structs.replace(after, conditions=calm), Said("Exited", f"ended: {ended.how}; {when}", True))
    looping = condition.find(daemon.conditions, "CrashLoop") is not None
    message = f"ends again and again, last: {ended.how}; tried again ever more slowly, see `dicode logs {daemon.task} --previous`"
    conditions = condition.put(after.conditions, Condition("CrashLoop", True, "ExitsAgain", message, observed_generation=daemon.generation), now)
    said = None if looping else Said("CrashLoop", f"is in a crash loop: {failures} exits in a row, last: {ended.how}", True)
    return Bury(msgspec.structs.replace(after, conditions=conditions), said)


def _started(daemon: Daemon) -> Said | None:
    if daemon.failures >= CRASH_LOOP:
        return None  # the crash loop has been told; its recovery will be
    reason, word = ("Restarted", "restarted") if daemon.restarts else ("Started", "started")
    return Said(reason, f"{word} (hash: {daemon.digest[:6]}, pid {daemon.pid})")


def _healed(daemon: Daemon) -> Relabel:
    looping = condition.find(daemon.conditions, "CrashLoop") is not None
    well = msgspec.structs.replace(daemon, failures=0, conditions=condition.clear(daemon.conditions, "CrashLoop"))
    return Relabel(well, Said("Recovered", f"has recovered: {HEALTHY // 1000} s without an exit") if looping else None)


def _refusal(facts: Facts, daemon: Daemon, to: DaemonState) -> Relabel:
    """Says why, and tries again after as long as it has been failing already: doubling without a counter."""
    assert facts.trouble is not None
    digest, reason, why = facts.trouble
    known = condition.find(daemon.conditions, "StartFailed")
    first = known is None or daemon.failed != digest
    before = condition.clear(daemon.conditions, "StartFailed") if first else daemon.conditions
    generation = _wanted(facts).generation
    conditions = condition.put(before, Condition("StartFailed", True, reason, why, observed_generation=generation), facts.now)
    failing_for = 0 if first or known is None else facts.now - known.since
    retry_at = facts.now + min(max(failing_for, RETRY_FIRST), BACKOFF_MAX)
    since = daemon.since if to == daemon.state else facts.now
    after = msgspec.structs.replace(daemon, state=to, since=since, failed=digest, retry_at=retry_at, conditions=conditions)
    kept = f"; {daemon.digest[:6]} keeps running" if to in LIVE else ""
    news = first or known is None or known.message != why
    return Relabel(after, Said("StartFailed", f"cannot start {digest[:6]}: {why}{kept}", True) if news else None)


def _reason_to_stop(facts: Facts, daemon: Daemon) -> str:
    task = facts.task
    if facts.leave_by is not None:
        return "dicode goes down"
    if task is None or not _is_daemon(task):
        return "no longer a daemon task"
    if task.suspended:
        return "suspended"
    return f"replaced by {task.digest[:6]}" if task.process != daemon.process else "restart asked for"


# ---- the diagram


def page() -> str:
    """The table as docs/states/daemon.md: `python -m dicode.supervisor.lifecycle > docs/states/daemon.md`."""
    lines = [
        "# The life of a daemon",
        "",
        "Made from the table in `workers/dicode/supervisor/lifecycle.py`; a test fails when they differ. An arrow says what is true, and what is done then.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> stopped",
    ]
    for state, moves in TABLE.items():
        for cue, move in moves.items():
            lines.append(f"    {state} --> {'[*]' if move.verb == 'forget' else move.to}: {cue.value} / {move.verb}")
    return "\n".join([*lines, "```", ""])


if __name__ == "__main__":
    print(page(), end="")
