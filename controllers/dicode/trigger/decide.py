"""What follows from a registered task: its schedule, its route, the runs that are due now. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from dicode.messages.kinds import Condition, Config, DesiredTask, Event, Route, Run, RunTrigger, Schedule, Source, Task
from dicode.messages.task import TaskSpec, Trigger
from dicode.spec.condition import carried, find
from dicode.spec.runs import run_id
from dicode.spec.schedule import BadCron, delay_of, due, expression_of, next_fire
from dicode.spec.template import Expanded

ROLE = "trigger-engine"
TOGETHER = 20  # schedules due at one moment that are fired at once
RATE = 20  # of more, so many a second (RELIABILITY T5)
SPREAD = 25.0  # seconds after which the last of any number has been fired


class Tick(NamedTuple):
    """One step of a schedule: put these runs on the queue, then write `schedule` (None: it is as it should be)."""

    runs: tuple[Run, ...] = ()
    schedule: Schedule | None = None
    event: Event | None = None


def tick(task: Task, known: Schedule | None, now: int, machine_zone: str) -> Tick:
    """What is to be done for a cron task at `now` (ms).

    The cursor `last` lives as long as the expression: another digest of the task does not touch it.
    """
    assert task.spec is not None and task.spec.trigger.cron is not None, "only of a cron task"
    trigger = task.spec.trigger
    expression = expression_of(trigger, machine_zone)
    same = known is not None and known.expression == expression
    last = known.last if known is not None and same else now
    delay = delay_of(task.id, trigger.jitter)
    base = Schedule(task=task.id, digest=task.digest, expression=expression, last=last, suspended=task.suspended)
    if known is not None and same and last <= now < known.next:
        return Tick((), _changed(known, replace(base, next=known.next), (), task.generation, now))  # nothing can have come yet
    try:
        slots = due(trigger, last, now, machine_zone, delay)
        following = next_fire(trigger, max(slots.cursor, now - delay), machine_zone)
        upcoming = 0 if following is None else following + delay
    except BadCron as error:
        broken = (Condition("Failed", True, "BadSchedule", f"{error}; the task is not fired"),)
        return Tick((), _changed(known, base, broken, task.generation, now))
    schedule = _changed(known, replace(base, last=slots.cursor, next=upcoming), (), task.generation, now)
    if slots.stepped:
        return Tick((), schedule, _event(task, "ClockStepped", "the clock was put back by hours: the schedule goes on from now", now))
    if task.suspended:
        skipped = (*slots.missed, *slots.fire)
        event = _event(task, "Skipped", f"{_count(skipped, slots.more)} skipped: the task is suspended", now) if skipped else None
        return Tick((), schedule, event)
    event = None
    if slots.missed or slots.more:
        text = f"{_count(slots.missed, slots.more)} missed, {len(slots.fire)} fired (catch_up: {trigger.catch_up or 'last'})"
        event = _event(task, "Missed", text, now)
    return Tick(tuple(cron_run(task.id, slot, task.cause) for slot in slots.fire), schedule, event)


def _changed(known: Schedule | None, found: Schedule, conditions: tuple[Condition, ...], generation: int, now: int) -> Schedule | None:
    schedule = replace(found, conditions=carried(known.conditions if known else (), conditions, generation, now))
    return None if schedule == known else schedule


def _count(slots: tuple[int, ...], more: bool) -> str:
    return f"{'at least ' if more else ''}{len(slots)} slot{'' if len(slots) == 1 else 's'}"


def cron_run(task: str, slot: int, cause: str = "") -> Run:
    """The run of a slot: fired again, it is the same run."""
    key = str(slot)
    return Run(id=run_id(task, "cron", key), task=task, unique=f"{task}|cron|{key}", trigger=RunTrigger("cron", key=key), cause=cause)


def webhook_run(task: str, key: str, input: str, input_blob: str, params: dict[str, str]) -> Run:
    """The run of a delivery: delivered again, it is the same run."""
    return Run(
        id=run_id(task, "webhook", key),
        task=task,
        unique=f"{task}|webhook|{key}",
        trigger=RunTrigger("webhook", key=key),
        params=params or None,
        input=input,
        input_blob=input_blob,
    )


def _event(task: Task, reason: str, message: str, now: int) -> Event:
    return Event(object=f"task/{task.id}", type="Warning", reason=reason, message=message, at=now, role=ROLE, cause=task.cause)


def turn(number: int, count: int, period: int) -> float:
    """Seconds to wait for the `number`-th (from 0) of `count` schedules that are due at one moment: a full hour must not start a
    thousand runs at once. Never more than half the time to its next slot, `period` in ms: none is missed for it."""
    if count <= TOGETHER:
        return 0.0
    return min(number * min(1 / RATE, SPREAD / count), max(period, 0) / 2000)


# --- webhooks


class Hook(NamedTuple):
    """A webhook as it is served. `secret` None: anyone who reaches the listener may call it."""

    task: str
    digest: str
    path: str
    methods: frozenset[str]
    spec: TaskSpec
    secret: bytes | None = None
    accept_only: bool = False  # respond: accepted
    same_site: bool = False  # open, and nobody said `auth: false`: another site's page must not fire it


class Bound(NamedTuple):
    """Where the hooks listener listens. `url` "" and `why` set: it does not."""

    url: str = ""
    loopback: bool = True
    why: str = ""


def hook_of(task: Task, bound: Bound, expanded: Callable[[str], Expanded]) -> Hook | Condition:
    """The hook to serve for this webhook task, or the condition that says why it is not served.

    `expanded` fills in the `${…}` of the secret.
    """
    assert task.spec is not None and task.spec.trigger.webhook is not None, "only of a webhook task"
    trigger = task.spec.trigger
    if trigger.auth:
        return Condition(
            "Failed", True, "AuthNotBuilt", "auth: true needs sessions, which this release does not have: answered 404; use webhook_secret"
        )
    secret = None
    if trigger.webhook_secret is not None:
        text, unknown = expanded(trigger.webhook_secret)
        if unknown:
            message = f"webhook_secret: ${{{unknown[0]}}} is not set where dicode runs: answered 404; set it there and restart dicode"
            return Condition("BadSecret", True, "UnknownVariable", message)
        if not text:
            return Condition("BadSecret", True, "Empty", "webhook_secret is empty: answered 404")
        secret = text.encode()
    elif not bound.loopback and trigger.auth is None:
        message = "a webhook without webhook_secret is only served on a loopback listener: add one, or say auth: false"
        return Condition("OpenHook", True, "NoSecret", message)
    return Hook(
        task=task.id,
        digest=task.digest,
        path=trigger.webhook or "",
        methods=frozenset(_methods(trigger)),
        spec=task.spec,
        secret=secret,
        accept_only=trigger.respond == "accepted",
        same_site=secret is None and trigger.auth is None,
    )


def _methods(trigger: Trigger) -> tuple[str, ...]:
    return tuple(sorted({method.upper() for method in trigger.methods or ("POST",)}))


def route_of(task: Task, known: Route | None, hook: Hook | Condition, bound: Bound, now: int) -> Route:
    """What to say of a webhook task's route."""
    assert task.spec is not None and task.spec.trigger.webhook is not None, "only of a webhook task"
    trigger = task.spec.trigger
    found = [hook] if isinstance(hook, Condition) else []
    if bound.why:
        found.append(Condition("PortInUse", True, "NotListening", bound.why))
    return Route(
        task=task.id,
        digest=task.digest,
        path=trigger.webhook or "",
        url=f"{bound.url}{trigger.webhook}" if bound.url else "",
        methods=_methods(trigger),
        conditions=carried(known.conditions if known else (), found, task.generation, now),
    )


# --- ready


def all_read(config: Config | None, sources: dict[str, Source]) -> bool:
    """Was every source read, or found unavailable?"""
    if config is None or any(source.status == "pending" for source in sources.values()):
        return False
    return {source.name for source in config.sources} <= sources.keys()


def settled(claim: DesiredTask, task: Task | None) -> bool:
    """Is what this source says registered, or does the task carry the reason why not?"""
    if task is None:
        return False
    if claim.digest and task.digest == claim.digest:
        return True
    ready = find(task.conditions, "Ready")
    return ready is not None and (not ready.status or task.source != claim.source or bool(task.pinned))
