"""What to write for one task id, or one request. Pure: facts in, operations and log lines out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from dicode.messages.kinds import Answer, Config, DesiredTask, Event, History, Operation, Request, Task
from dicode.spec.admit import Actual, NotBuilt, UnknownIn, all_known, ready_text, register, remembered
from dicode.spec.claims import Rivals, keeper_of


class Facts(NamedTuple):
    """Everything known about one id."""

    claims: list[DesiredTask]
    present: Task | None
    actual: Actual
    history: History | None
    rivals: Rivals  # who wants the same webhook path
    kept: int = Config().retention_bundles  # digests the history holds
    unknown_in: UnknownIn = all_known


class Decision(NamedTuple):
    """`task` and `history` as they should be (None for `task`: remove it), what to tell people, and the line to print."""

    task: Task | None
    history: History | None = None
    event: Event | None = None
    line: str = ""


def decide(id: str, facts: Facts, *, not_built: NotBuilt, now: int) -> Decision | None:
    """What to do about one id; None when all is as it should be. `now` in ms."""
    if not facts.claims:
        return _gone(id, facts, now) if facts.present is not None else None
    registered = register(facts.claims, facts.present, facts.actual, facts.rivals, not_built=not_built, now=now, unknown_in=facts.unknown_in)
    task = registered.task
    if task == facts.present:
        return None
    match registered.change:
        case "registered" | "updated" as change:
            history = remembered(facts.history, task, now, facts.kept)
            desired = keeper_of(facts.claims, facts.present)
            line = f"task/{id} {change} (hash: {task.digest[:6]})" + _took(change, desired, now)
            return Decision(task, history, _event(task, change.capitalize(), f"hash {task.digest[:6]}", now), line)
        case "kept":
            reason = ready_text(task)
            return Decision(task, None, _event(task, "Kept", reason, now, warning=True), f"task/{id} kept at {task.digest[:6]}: {reason}")
        case "refused":
            reason = ready_text(task)
            return Decision(task, None, _event(task, "Refused", reason, now, warning=True), f"task/{id} refused: {reason}")
        case _:
            return Decision(task)


def _gone(id: str, facts: Facts, now: int) -> Decision:
    assert facts.present is not None
    return Decision(None, None, _event(facts.present, "Unregistered", "no source has it any more", now), f"task/{id} unregistered")


def _took(change: str, desired: DesiredTask, now: int) -> str:
    """`  ← 14ms`, from the file event to now; only where there was one."""
    if change != "updated" or not desired.seen_at:
        return ""
    return f"  ← {max(0, round(now - desired.seen_at * 1000))}ms"


def _event(task: Task, reason: str, message: str, now: int, *, warning: bool = False) -> Event:
    return Event(
        object=f"task/{task.id}",
        type="Warning" if warning else "Normal",
        reason=reason,
        message=message,
        at=now,
        role="reconciler",
        cause=task.cause,
    )


VERBS = frozenset({"task.suspend", "task.resume", "task.restart"})


def carry_out(request: Request, task: Task | None, known: Iterable[str], now: int) -> tuple[Task | None, Answer]:
    """The task after the request, and the answer to it. Doing it twice changes nothing."""
    if task is None:
        return None, Answer(False, f"no task {request.target!r}" + _suggest(request.target, known), now)
    match request.verb:
        case "task.suspend":
            return _asked(task, request, now, suspended=True), Answer(True, "suspended", now)
        case "task.resume":
            return _asked(task, request, now, suspended=False), Answer(True, "resumed", now)
        case "task.restart":
            if task.spec is None or task.spec.trigger.type != "daemon":
                return None, Answer(False, f"task {task.id} is no daemon; `dicode run {task.id}` starts a run", now)
            return msgspec.structs.replace(_asked(task, request, now), restart_token=request.token), Answer(True, "restart asked for", now)
        case _:
            return None, Answer(False, f"the reconciler knows no {request.verb!r}", now)


def _asked(task: Task, request: Request, now: int, *, suspended: bool | None = None) -> Task:
    operation = Operation(request.verb.removeprefix("task."), now, request.who)
    return msgspec.structs.replace(task, operation=operation, suspended=task.suspended if suspended is None else suspended)


def _suggest(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(known), 1)
    return f", did you mean {close[0]!r}?" if close else ""
