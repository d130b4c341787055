"""plan: what would change if a source said something else, told by the functions that would change it. Pure.

A source offers (`Offer`), admission is asked for every id that concerns (`spec.admit.register`), and the difference
between the Task that is and the Task that would be is the plan. Nothing is decided here that the roles decide.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from dicode.messages.fault import Fault
from dicode.messages.kinds import Condition, Daemon, DesiredTask, Schedule, Source, Task
from dicode.messages.task import Runtime, TaskSpec
from dicode.spec import condition
from dicode.spec.admit import Actual, NotBuilt, path_holder, register
from dicode.spec.chains import cycles, starts_of
from dicode.spec.claims import Claims, keeper_of, path_rivals
from dicode.spec.removal import loses_too_much
from dicode.spec.schedule import BadCron, delay_of, expression_of, fires
from dicode.spec.template import TASK_VARIABLES, unknown_in, uses

FIRES = 3  # fires shown of a schedule, before and after


# ── what a source would say ──


class Error(msgspec.Struct, frozen=True):
    """A fault and what it concerns: a task, an entry of a TaskSet with everything below it, or "" for the whole source."""

    id: str
    file: str
    line: int
    column: int
    message: str

    @classmethod
    def of(cls, id: str, fault: Fault) -> Error:
        return cls(id, fault.file, fault.line, fault.column, fault.message)


class Offered(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task as the source would say it. With faults it keeps what is written of it, whatever else stands here.

    `set_dir`: where the root TaskSet lies, as it is told; "" outside of TaskSets.
    """

    id: str
    digest: str = ""
    process: str = ""
    spec: TaskSpec | None = None
    runtime: Runtime | None = None
    dir: str = ""
    faults: tuple[Fault, ...] = ()
    set_dir: str = ""


class Offer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a source would say, where it differs from what is written: the answer to `source.plan`, as JSON; `offer_of` makes it.

    `held`: the controller itself would wait before it removes these. `revision`: the commit it was read from.
    `file`: an offer too big for a message lies there instead (absolute path, this JSON); its reader removes it.
    `unset`: variables that secrets of webhooks name and that are not set where dicode runs.
    """

    tasks: tuple[Offered, ...] = ()
    removed: tuple[str, ...] = ()
    errors: tuple[Error, ...] = ()
    held: bool = False
    revision: str = ""
    file: str = ""
    unset: tuple[str, ...] = ()


class AllBut:
    """An environment in which everything is set but these."""

    def __init__(self, unset: Collection[str] = ()) -> None:
        self._unset = unset

    def __contains__(self, name: object) -> bool:
        return name not in self._unset


EVERYTHING = AllBut()


def offer_of(
    found: Iterable[Offered],
    written: Mapping[str, DesiredTask],
    errors: Iterable[Error] = (),
    revision: str = "",
    host: Container[str] = EVERYTHING,
) -> Offer:
    """The offer of a source in which `found` is all there is. `written`: its DesiredTasks by id; `host`: the environment of dicode.

    What lies at or below an error keeps what is written. Whatever has faults is offered even if they are written already.
    """
    found, errors = list(found), tuple(errors)
    ids = {each.id for each in found}
    differing = tuple(each for each in found if each.faults or _differs(each, written.get(each.id)))
    removed = tuple(sorted(id for id in written.keys() - ids if not any(_is_below(id, error.id) for error in errors)))
    held = loses_too_much(len(removed), len(written))
    return Offer(differing, removed, errors, held, revision, unset=tuple(sorted(_unset(found, host))))


def _unset(found: Iterable[Offered], host: Container[str]) -> set[str]:
    named = (use for each in found if each.spec is not None and each.spec.trigger.webhook_secret for use in uses(each.spec))
    return {use.variable for use in named if use.place.kind == "secret" and use.variable not in TASK_VARIABLES and use.variable not in host}


def _differs(offered: Offered, present: DesiredTask | None) -> bool:
    return present is None or bool(present.faults) or present.digest != offered.digest


def _is_below(id: str, top: str) -> bool:
    return not top or id == top or id.startswith(f"{top}/")


# ── what would come of it ──


class Updated(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """Another digest, or the same one from another source."""

    id: str
    from_: str
    to: str


class Collision(msgspec.Struct, frozen=True, rename={"with_": "with"}):
    """Two claims to one thing; `with_`: the task that keeps the path, the source that keeps the id, the tasks of the chain."""

    id: str
    kind: Literal["id", "path", "chain"]
    with_: tuple[str, ...]
    message: str


class Fires(msgspec.Struct, frozen=True):
    """The next fires of a task, ms: as things are, and as they would be."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """What would happen, ids in order. `restarted`: daemons whose process is replaced; `started`, `stopped`: that have none now, or then.

    `held`: the removals wait until they were seen twice a minute apart, or for `dicode source confirm`.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    updated: tuple[Updated, ...] = ()
    restarted: tuple[str, ...] = ()
    started: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    collisions: tuple[Collision, ...] = ()
    errors: tuple[Error, ...] = ()
    next: dict[str, Fires] = {}
    held: bool = False

    @property
    def changes(self) -> bool:
        """Would anything that is registered change?"""
        return bool(self.added or self.removed or self.updated)


class World(NamedTuple):
    """What is: the kinds by key. `now` in ms; `zone`: the machine's time zone."""

    desired: Mapping[str, DesiredTask]
    tasks: Mapping[str, Task]
    schedules: Mapping[str, Schedule]
    daemons: Mapping[str, Daemon]
    not_built: NotBuilt
    now: int
    zone: str = "UTC"


class Outcome(NamedTuple):
    """One id before and after; None: not registered. `change`: as in `spec.admit.Registered`, and `unregistered`."""

    id: str
    before: Task | None
    after: Task | None
    change: str

    @property
    def moved(self) -> bool:
        return self.change in ("registered", "updated", "unregistered")


def plan(offer: Offer, source: Source, world: World) -> Plan:
    """What would happen if `source` said what is offered."""
    claims = Claims()
    for key, desired in world.desired.items():
        claims.take(key, desired)
    touched: set[str] = set()
    for key, said in _said(offer, source, world.desired):
        touched |= claims.take(key, said)
    host = AllBut(offer.unset)
    outcomes = [_outcome(id, claims, world, host) for id in sorted(touched)]
    moved = [outcome for outcome in outcomes if outcome.moved]
    offered = {each.id for each in offer.tasks}
    written = sum(desired.source == source.name for desired in world.desired.values())
    return Plan(
        added=tuple(outcome.id for outcome in moved if outcome.change == "registered"),
        removed=tuple(outcome.id for outcome in moved if outcome.change == "unregistered"),
        updated=tuple(_updated(outcome) for outcome in moved if outcome.change == "updated"),
        restarted=tuple(outcome.id for outcome in moved if _is_restarted(outcome, world)),
        started=tuple(outcome.id for outcome in moved if _is_started(outcome, world)),
        stopped=tuple(outcome.id for outcome in moved if _is_stopped(outcome, world)),
        collisions=(*_collisions(outcomes, offered, claims, world), *_chain_collisions(outcomes, world)),
        errors=(*offer.errors, *(Error.of(each.id, fault) for each in offer.tasks for fault in each.faults), *_secretless(outcomes, offer)),
        next=dict(_next(moved, world)),
        held=offer.held or loses_too_much(len(offer.removed), written),
    )


def _secretless(outcomes: Iterable[Outcome], offer: Offer) -> Iterator[Error]:
    """Webhooks that would be refused for a secret nobody has set."""
    dirs = {each.id: each.dir for each in offer.tasks}
    for outcome in outcomes:
        ready = condition.find(outcome.after.conditions, "Ready") if outcome.after is not None and outcome.id in dirs else None
        if ready is not None and ready.reason == "UnknownVariable":
            yield Error(outcome.id, dirs[outcome.id], 1, 1, ready.message)


def _said(offer: Offer, source: Source, written: Mapping[str, DesiredTask]) -> Iterator[tuple[str, DesiredTask | None]]:
    """The DesiredTasks as the source-controller would write them; None: removed."""
    for each in offer.tasks:
        key = f"{source.name}/{each.id}"
        yield key, _desired(each, source, written.get(key))
    for id in offer.removed:
        yield f"{source.name}/{id}", None


def _desired(offered: Offered, source: Source, present: DesiredTask | None) -> DesiredTask:
    before = present or DesiredTask(id=offered.id, source=source.name)
    if offered.faults:
        return replace(before, faults=offered.faults, order=source.order, dir=before.dir or offered.dir)
    return replace(
        before,
        digest=offered.digest,
        process=offered.process,
        spec=offered.spec,
        runtime=offered.runtime,
        dir=offered.dir,
        set_dir=offered.set_dir,
        faults=(),
        order=source.order,
    )


def _outcome(id: str, claims: Claims, world: World, host: AllBut) -> Outcome:
    """One look at each id is enough: whether a rival serves a path only counts while it claims it."""
    mine, present = claims.of(id), world.tasks.get(id)
    if not mine:
        return Outcome(id, present, None, "unregistered" if present is not None else "")
    rivals = path_rivals(keeper_of(mine, present), claims, world.tasks.get)
    actual = Actual(world.schedules.get(id), None, world.daemons.get(id))
    unknown = partial(unknown_in, host=host)
    registered = register(mine, present, actual, rivals, not_built=world.not_built, now=world.now, unknown_in=unknown)
    return Outcome(id, present, registered.task, registered.change)


def _updated(outcome: Outcome) -> Updated:
    assert outcome.before is not None and outcome.after is not None, "an update has both"
    return Updated(outcome.id, outcome.before.digest, outcome.after.digest)


# ── daemons: what the supervisor does of it (supervisor/lifecycle.py) ──


def _is_restarted(outcome: Outcome, world: World) -> bool:
    daemon = world.daemons.get(outcome.id)
    return outcome.after is not None and _runs(outcome.after) and daemon is not None and daemon.pid != 0 and daemon.process != outcome.after.process


def _is_started(outcome: Outcome, world: World) -> bool:
    after, daemon = outcome.after, world.daemons.get(outcome.id)
    if after is None or not _runs(after):
        return False
    if daemon is None:
        return True
    failed = daemon.state == "failed" and daemon.failed != after.digest
    return daemon.pid == 0 and (daemon.state == "stopped" or failed or daemon.process != after.process)


def _is_stopped(outcome: Outcome, world: World) -> bool:
    daemon = world.daemons.get(outcome.id)
    return daemon is not None and daemon.pid != 0 and (outcome.after is None or not _runs(outcome.after))


def _runs(task: Task) -> bool:
    return bool(task.digest) and task.spec is not None and task.spec.trigger.type == "daemon" and not task.suspended


# ── schedules ──


def _next(outcomes: Iterable[Outcome], world: World) -> Iterator[tuple[str, Fires]]:
    for outcome in outcomes:
        if _timing(outcome.before, world.zone) != _timing(outcome.after, world.zone):
            yield outcome.id, Fires(_fires(outcome.before, world), _fires(outcome.after, world))


def _timing(task: Task | None, zone: str) -> tuple[str, int]:
    """All that decides when a task fires; ("", 0) when time does not fire it."""
    if task is None or task.spec is None or task.spec.trigger.cron is None or task.suspended:
        return "", 0
    return expression_of(task.spec.trigger, zone), delay_of(task.id, task.spec.trigger.jitter)


def _fires(task: Task | None, world: World) -> tuple[int, ...]:
    """As the trigger-engine counts them: from the cursor while the expression is the same, else from now."""
    expression, delay = _timing(task, world.zone)
    if not expression or task is None or task.spec is None:
        return ()
    schedule = world.schedules.get(task.id)
    same = schedule is not None and schedule.expression == expression
    cursor = max(schedule.last, world.now - delay) if schedule is not None and same else world.now
    try:
        return tuple(slot + delay for slot in islice(fires(task.spec.trigger, cursor, world.zone), FIRES))
    except BadCron:
        return ()


# ── collisions ──


def _collisions(outcomes: Iterable[Outcome], offered: set[str], claims: Claims, world: World) -> Iterator[Collision]:
    """Of what is offered, and of what else would come into one by it."""
    for outcome in outcomes:
        for collision, said in _collisions_of(outcome, claims, world):
            known = outcome.before is not None and said in ((each.type, each.message) for each in outcome.before.conditions)
            if outcome.id in offered or not known:
                yield collision


def _collisions_of(outcome: Outcome, claims: Claims, world: World) -> Iterator[tuple[Collision, tuple[str, str]]]:
    id, after = outcome.id, outcome.after
    if after is None:
        return
    twice = condition.find(after.conditions, "DuplicateId")
    if twice is not None:
        yield Collision(id, "id", (after.source,), twice.message), ("DuplicateId", twice.message)
    ready = condition.find(after.conditions, "Ready")
    if ready is not None and _is_path_taken(ready):
        desired = keeper_of(claims.of(id), outcome.before)
        holder = path_holder(desired, path_rivals(desired, claims, world.tasks.get))
        yield Collision(id, "path", (holder,), ready.message), ("Ready", ready.message)


def _is_path_taken(ready: Condition) -> bool:
    return ready.reason == "PathTaken"


def _chain_collisions(outcomes: Iterable[Outcome], world: World) -> Iterator[Collision]:
    """Ways round that a change would close."""
    after = {id: task.spec for id, task in world.tasks.items() if task.spec is not None}
    before = set(cycles(starts_of(after)))
    changed: set[str] = set()
    for id, _, task, change in outcomes:
        if change:
            changed.add(id)
            after.pop(id, None)
        if change and task is not None and task.spec is not None:
            after[id] = task.spec
    if not any(_is_chained(after[id]) for id in changed & after.keys()):
        return
    for way in cycles(starts_of(after)):
        if way not in before:
            yield Collision(
                min(changed.intersection(way), default=way[0]), "chain", way, f"these would start each other for ever: {' → '.join((*way, way[0]))}"
            )


def _is_chained(spec: TaskSpec) -> bool:
    return spec.trigger.chain is not None or spec.on_failure_chain is not None
