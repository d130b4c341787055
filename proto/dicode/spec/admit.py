"""Admission: which of the claims to an id is registered, and what is said of it. Pure.

The rules of SPEC 4: whoever holds an id or a webhook path keeps it; with no holder, the source that stands first in
dicode.yaml, then the smaller id. What is refused carries a condition and keeps its last admitted digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from dicode.messages.kinds import (
    Condition,
    Daemon,
    DesiredTask,
    Health,
    History,
    Operation,
    Revision,
    Route,
    Schedule,
    Sync,
    Task,
)
from dicode.messages.task import Runtime, TaskSpec
from dicode.spec.claims import Rivals, keeper_of, wanted_path
from dicode.spec.condition import carried
from dicode.spec.template import Unknown, secretless

NotBuilt = Callable[[TaskSpec, Runtime | None], tuple[str, ...]]  # spec.task.not_built
UnknownIn = Callable[[TaskSpec, str], tuple[Unknown, ...]]  # spec.template.unknown_in, of an environment: spec and set_dir in


def all_known(spec: TaskSpec, set_dir: str) -> tuple[Unknown, ...]:
    """Where nobody can tell which variables there are."""
    return ()


class Actual(NamedTuple):
    """What really is, of one task."""

    schedule: Schedule | None = None
    route: Route | None = None
    daemon: Daemon | None = None


class Registered(NamedTuple):
    """`task` as it should be written; `change` names what happened, for people."""

    task: Task
    change: str = ""  # `registered`, `updated`, `kept`, `refused`, or "" when nothing a person asked about changed


def path_holder(desired: DesiredTask, rivals: Rivals) -> str:
    """The id that keeps the webhook path `desired` wants; "" when it wants none."""
    if not wanted_path(desired):
        return ""
    return min(((not served, rival.order, rival.id) for rival, served in rivals), default=(False, 0, desired.id))[2]


def register(
    claims: Iterable[DesiredTask],
    present: Task | None,
    actual: Actual,
    rivals: Rivals,
    *,
    not_built: NotBuilt,
    now: int,
    unknown_in: UnknownIn = all_known,
) -> Registered:
    """The Task that follows from everything known about one id.

    `rivals`: who wants the same webhook path, as `path_rivals` tells; `now` in ms.
    """
    claims = list(claims)
    desired = keeper_of(claims, present)
    base = present or Task(id=desired.id, source=desired.source)
    refusal = _refusal(desired, path_holder(desired, rivals), unknown_in)
    takes = bool(desired.digest) and refusal is None
    moved = takes and (desired.digest != base.digest or desired.source != base.source)
    task = _taken(base, desired, now, moved=moved) if takes else msgspec.structs.replace(base, source=desired.source)
    conditions = carried(base.conditions, _conditions(task, desired, claims, refusal, not_built, unknown_in), task.generation, now)
    task = msgspec.structs.replace(
        task,
        conditions=conditions,
        sync=sync_of(task, desired, actual, refusal),
        health=health_of(task, actual),
    )
    return Registered(task, _change(base, task, moved=moved))


def _taken(base: Task, desired: DesiredTask, now: int, *, moved: bool) -> Task:
    return msgspec.structs.replace(
        base,
        source=desired.source,
        digest=desired.digest,
        process=desired.process,
        spec=desired.spec,
        runtime=desired.runtime,
        dir=desired.dir,
        revision=desired.revision,
        set_dir=desired.set_dir,
        generation=base.generation + (1 if moved else 0),
        registered_at=now if moved else base.registered_at,
        operation=Operation("update" if base.digest else "register", now, message=desired.revision) if moved else base.operation,
        cause=desired.cause if moved else base.cause,
    )


def _refusal(desired: DesiredTask, holder: str, unknown_in: UnknownIn) -> Condition | None:
    if holder and holder != desired.id:
        return Condition("Ready", False, "PathTaken", f"webhook {wanted_path(desired)} belongs to task {holder}; choose another path")
    why = secretless(unknown_in(desired.spec, desired.set_dir)) if desired.spec is not None else ""
    return Condition("Ready", False, "UnknownVariable", why) if why else None


def _few(messages: list[str]) -> str:
    """The first three, and how many more there are."""
    return "; ".join(messages[:3]) + (f" (+{len(messages) - 3} more)" if len(messages) > 3 else "")


def _conditions(
    task: Task,
    desired: DesiredTask,
    claims: list[DesiredTask],
    refusal: Condition | None,
    not_built: NotBuilt,
    unknown_in: UnknownIn,
) -> list[Condition]:
    found = [_ready(task, desired, refusal)]
    others = sorted(claim.source for claim in claims if claim.source != desired.source)
    if others:
        found.append(Condition("DuplicateId", True, "ClaimedTwice", f"source {', '.join(others)} claims this id too; {desired.source} keeps it"))
    if task.spec is not None:
        missing = not_built(task.spec, task.runtime)
        if missing:
            found.append(Condition("NotImplemented", True, "NotBuiltYet", f"accepted, but without effect in this release: {', '.join(missing)}"))
        unknown = [each.message for each in unknown_in(task.spec, task.set_dir) if each.place.kind != "secret"]  # that is for Ready to say
        if unknown:
            found.append(Condition("UnknownVariable", True, "NotKnown", _few(unknown)))
        if task.spec.permissions is None or task.spec.permissions.net is None:
            found.append(Condition("NetOpen", True, "NetNotSet", "permissions.net is absent: the whole network is open to this task"))
    if task.suspended:
        found.append(Condition("Suspended", True, "Asked", "no new runs until `dicode resume`"))
    return [*found, *desired.conditions]


def _ready(task: Task, desired: DesiredTask, refusal: Condition | None) -> Condition:
    if desired.faults:
        more = f" (+{len(desired.faults) - 1} more)" if len(desired.faults) > 1 else ""
        return Condition("Ready", False, "BadSpec", f"{desired.faults[0]}{more}")
    return refusal or Condition("Ready", True, "Admitted", f"as {task.digest[:6]}")


def sync_of(task: Task, desired: DesiredTask, actual: Actual, refusal: Condition | None) -> Sync:
    """Does every actual carry the desired digest? Measured, never assumed."""
    if not task.digest:
        return "Unknown"
    if desired.faults or refusal is not None or desired.digest != task.digest:
        return "OutOfSync"
    return "Synced" if all(digest == task.digest for digest in reported(task, actual)) else "OutOfSync"


def reported(task: Task, actual: Actual) -> list[str]:
    """The digests that the actuals of this task's trigger report; "" for one that is not there."""
    assert task.spec is not None, "a task with a digest has a spec"
    match task.spec.trigger.type:
        case "cron":
            return [actual.schedule.digest if actual.schedule else ""]
        case "webhook":
            return [actual.route.digest if actual.route else ""]
        case "daemon":
            if actual.daemon is None:
                return [""]
            same_process = actual.daemon.process == task.process or actual.daemon.state in ("stopped", "exited")
            return [actual.daemon.digest if same_process else ""]
        case _:
            return []


def health_of(task: Task, actual: Actual) -> Health:
    """Is it able to do its work?"""
    if task.spec is None:
        return "Missing"
    if task.suspended:
        return "Suspended"
    match task.spec.trigger.type:
        case "cron":
            return _served(actual.schedule)
        case "webhook":
            return _served(actual.route)
        case "daemon":
            return _daemon_health(actual.daemon)
        case _:
            return "Healthy"


TROUBLE = frozenset({"Failed", "OpenHook", "PortInUse", "BadSecret", "CrashLoop", "StartFailed"})  # conditions of actual kinds


def _served(found: Schedule | Route | None) -> Health:
    if found is None:
        return "Progressing"
    return "Degraded" if _in_trouble(found.conditions) else "Healthy"


def _in_trouble(conditions: Iterable[Condition]) -> bool:
    return any(condition.status and condition.type in TROUBLE for condition in conditions)


_DAEMON_HEALTH: Mapping[str, Health] = {
    "running": "Healthy",
    "exited": "Healthy",
    "starting": "Progressing",
    "stopping": "Progressing",
    "stopped": "Progressing",
    "backoff": "Degraded",
    "crash_loop": "Degraded",
    "failed": "Degraded",
}


def _daemon_health(daemon: Daemon | None) -> Health:
    if daemon is None:
        return "Progressing"
    return "Degraded" if _in_trouble(daemon.conditions) else _DAEMON_HEALTH[daemon.state]


def _change(base: Task, task: Task, *, moved: bool) -> str:
    if moved:
        return "updated" if base.digest else "registered"
    before, after = ready_text(base), ready_text(task)
    if after != before and not _is_ready(task):
        return "kept" if task.digest else "refused"
    return ""


def ready_text(task: Task) -> str:
    """Message of the Ready condition, "" when there is none."""
    return next((condition.message for condition in task.conditions if condition.type == "Ready"), "")


def _is_ready(task: Task) -> bool:
    return any(condition.type == "Ready" and condition.status for condition in task.conditions)


def remembered(history: History | None, task: Task, now: int, kept: int) -> History:
    """The history with this task's digest at its head; `kept`: how many it holds, the present one in any case."""
    known = history.revisions if history else ()
    head = Revision(task.digest, task.process, now, task.source, task.revision, generation=task.generation)
    return History(task=task.id, revisions=(head, *known)[: max(kept, 1)])
