"""What plan says is exactly what then happens: plan beside the real deciders, over the same before and after."""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dicode.messages.fault import Fault
from dicode.messages.kinds import ConfigSource, Daemon, DesiredTask, Schedule, Source, Task
from dicode.messages.task import TaskSpec, Trigger
from dicode.reconciler.decide import Facts, decide
from dicode.spec.admit import Actual
from dicode.spec.claims import Claims, keeper_of, path_rivals
from dicode.spec.condition import find
from dicode.spec.plan import Error, Offer, Offered, Plan, World, offer_of, plan
from dicode.supervisor import lifecycle
from dicode.supervisor.lifecycle import Absent, Alive, Start, Stop, next_step
from dicode.trigger.decide import tick

NOW = 1_800_000_000_000
ZONE = "Europe/Berlin"
ONE = Source(name="one", spec=ConfigSource(name="one"), order=0)
TRIGGERS = (
    Trigger(manual=True),
    Trigger(daemon=True),
    Trigger(cron="*/5 * * * *"),
    Trigger(cron="0 3 * * *", jitter=600_000),
    Trigger(webhook="/hooks/x"),
    Trigger(webhook="/hooks/y"),
)
IDS = st.sampled_from(("a", "b", "c", "set/d", "set/e", "sets"))
FAULTS = (Fault("task.yaml", 3, 1, "unknown field 'tigger'"),)


@st.composite
def offered(draw: st.DrawFn, id: str, *, faulty: bool = True) -> Offered:
    """A task as some folder would say it: the text decides the digest, its first letter the process."""
    trigger, text = draw(st.sampled_from(TRIGGERS)), draw(st.sampled_from(("ax", "ay", "bx")))
    faults = FAULTS if faulty and draw(st.integers(0, 4)) == 0 else ()
    told = f"{TRIGGERS.index(trigger)}{text}"
    process = f"{text[0]}{trigger.daemon}".ljust(64, "0")
    return Offered(id, told.ljust(64, "0"), process, TaskSpec(name=id, trigger=trigger), "python", f"/src/{id}", faults)


def reading(*, faulty: bool = True) -> st.SearchStrategy[list[Offered]]:
    return st.lists(IDS, unique=True).flatmap(lambda ids: st.tuples(*(offered(id, faulty=faulty) for id in ids)).map(list))


def desired(each: Offered, source: str, order: int, before: DesiredTask | None = None) -> DesiredTask:
    if each.faults:
        before = before or DesiredTask(id=each.id, source=source)
        return msgspec.structs.replace(before, faults=each.faults, order=order, dir=before.dir or each.dir)
    return DesiredTask(
        id=each.id, source=source, digest=each.digest, process=each.process, spec=each.spec, runtime=each.runtime, dir=each.dir, order=order
    )


class Installation:
    """The reconciler's decisions, written down at once; the trigger-engine's and the supervisor's are asked for when needed."""

    def __init__(self) -> None:
        self.written: dict[str, DesiredTask] = {}
        self.claims = Claims()
        self.tasks: dict[str, Task] = {}
        self.schedules: dict[str, Schedule] = {}
        self.daemons: dict[str, Daemon] = {}

    def say(self, source: str, order: int, found: Iterable[Offered], gone: Iterable[str], chance: random.Random) -> dict[str, str]:
        """The source says so; gives what the reconciler did, by id, whatever order it looked in."""
        touched: set[str] = set()
        for each in found:
            key = f"{source}/{each.id}"
            self.written[key] = desired(each, source, order, self.written.get(key))
            touched |= self.claims.take(key, self.written[key])
        for id in gone:
            del self.written[f"{source}/{id}"]
            touched |= self.claims.take(f"{source}/{id}", None)
        return self._reconcile(touched, chance)

    def _reconcile(self, touched: set[str], chance: random.Random) -> dict[str, str]:
        did: dict[str, str] = {}
        queue = sorted(touched) * 2  # an id that was just written is looked at again
        chance.shuffle(queue)
        for id in queue:
            claims, present = self.claims.of(id), self.tasks.get(id)
            rivals = path_rivals(keeper_of(claims, present), self.claims, self.tasks.get) if claims else []
            actual = Actual(self.schedules.get(id), None, self.daemons.get(id))
            decision = decide(id, Facts(claims, present, actual, None, rivals), not_built=lambda *_: (), now=NOW)
            if decision is None:
                continue
            word = decision.line.split()[1] if decision.line else ""
            if word in ("registered", "updated", "unregistered"):
                did[id] = word
            if decision.task is None:
                del self.tasks[id]
            else:
                self.tasks[id] = decision.task
        return did

    def act(self, daemon_states: st.DataObject) -> None:
        """The actuals there might be of these tasks."""
        for id, task in self.tasks.items():
            if task.spec is None:
                continue
            if task.spec.trigger.type == "cron":
                self.schedules[id] = tick(task, None, NOW - 3_600_000, ZONE).schedule or Schedule(task=id)
            if task.spec.trigger.type == "daemon":
                daemon = Daemon(task=id, digest=task.digest, process=task.process, generation=task.generation)
                match daemon_states.draw(st.sampled_from(("running", "older", "stopped", "exited", "failed", "none"))):
                    case "running":
                        daemon = msgspec.structs.replace(daemon, state="running", pid=7)
                    case "older":
                        daemon = msgspec.structs.replace(daemon, state="running", pid=7, process="f" * 64, digest="f" * 64)
                    case "stopped" | "exited" as state:
                        daemon = msgspec.structs.replace(daemon, state=state)
                    case "failed":
                        daemon = msgspec.structs.replace(daemon, state="failed", failed=task.digest, retry_at=NOW + 60_000)
                    case _:
                        continue
                self.daemons[id] = daemon

    def world(self) -> World:
        return World(dict(self.written), dict(self.tasks), self.schedules, self.daemons, lambda *_: (), NOW, ZONE)

    def of(self, source: str) -> dict[str, DesiredTask]:
        return {each.id: each for each in self.written.values() if each.source == source}


def begun(first: list[Offered], second: list[Offered], chance: random.Random, data: st.DataObject) -> Installation:
    here = Installation()
    for name, order, found in (("two", 1, second), ("one", 0, first)):
        here.say(name, order, found, (), chance)
    for id in data.draw(st.sets(IDS)) & here.tasks.keys():
        here.tasks[id] = msgspec.structs.replace(here.tasks[id], suspended=True)
    here._reconcile(set(here.tasks), chance)
    here.act(data)
    here._reconcile(set(here.tasks), chance)
    return here


@settings(max_examples=300, deadline=None)
@given(reading(), reading(), reading(), st.randoms(use_true_random=False), st.data())
def test_what_plan_says_is_exactly_what_then_happens(
    first: list[Offered], second: list[Offered], then: list[Offered], chance: random.Random, data: st.DataObject
) -> None:
    here = begun(first, second, chance, data)
    before = dict(here.tasks)
    offer = offer_of(then, here.of("one"))
    told = plan(offer, ONE, here.world())
    did = here.say("one", 0, offer.tasks, offer.removed, chance)
    updated = {each.id: "updated" for each in told.updated}
    assert dict.fromkeys(told.added, "registered") | dict.fromkeys(told.removed, "unregistered") | updated == did
    assert {each.id: (each.from_, each.to) for each in told.updated} == {
        id: (before[id].digest, here.tasks[id].digest) for id, word in did.items() if word == "updated"
    }
    _agrees_with_daemons(told, here, did)
    _agrees_with_schedules(told, here, before, did)
    _agrees_with_collisions(told, here, offer)


def _agrees_with_daemons(told: Plan, here: Installation, did: dict[str, str]) -> None:
    stops, starts = set(), set()
    for id in did:
        task, daemon = here.tasks.get(id), here.daemons.get(id)
        alive = daemon is not None and daemon.pid != 0
        match next_step(lifecycle.Facts(id, task, daemon, Alive() if alive else Absent(), NOW, task.digest if task else "")):
            case Stop():
                stops.add(id)
            case Start():
                starts.add(id)
    assert stops == {*told.restarted, *told.stopped}
    assert starts == set(told.started)
    assert all(here.tasks[id].spec.trigger.daemon for id in told.restarted)  # type: ignore[union-attr]


def _agrees_with_schedules(told: Plan, here: Installation, before: dict[str, Task], did: dict[str, str]) -> None:
    for id in did:
        known = here.schedules.get(id)
        then = _ticked(here.tasks.get(id), known)
        now = _ticked(before.get(id), known)
        if id in told.next:
            assert told.next[id].after[:1] == then
            assert told.next[id].before[:1] == now
        else:
            assert then == now, "a schedule that is not named fires as before"


def _ticked(task: Task | None, known: Schedule | None) -> tuple[int, ...]:
    """The next fire, when the trigger-engine has decided what came till now."""
    if task is None or task.spec is None or task.spec.trigger.cron is None or task.suspended:
        return ()
    schedule = tick(task, known, NOW, ZONE).schedule or known
    assert schedule is not None
    return (schedule.next,)


def _agrees_with_collisions(told: Plan, here: Installation, offer: Offer) -> None:
    said = {(each.id, each.kind) for each in told.collisions}
    for each in offer.tasks:
        task = here.tasks[each.id]
        ready = find(task.conditions, "Ready")
        assert ((each.id, "path") in said) == (ready is not None and ready.reason == "PathTaken")
        assert ((each.id, "id") in said) == (find(task.conditions, "DuplicateId") is not None)
    for collision in told.collisions:
        if collision.kind == "path":
            holder = here.tasks[collision.with_[0]]
            assert holder.spec is not None and holder.spec.trigger.webhook in collision.message


@given(reading(faulty=False), st.randoms(use_true_random=False), st.data())
def test_when_the_same_is_said_again_nothing_would_change(found: list[Offered], chance: random.Random, data: st.DataObject) -> None:
    here = begun(found, [], chance, data)
    offer = offer_of(found, here.of("one"))
    assert offer == Offer()
    assert plan(offer, ONE, here.world()) == Plan()


@given(reading(faulty=False), st.sampled_from(("", "set", "a")), st.randoms(use_true_random=False), st.data())
def test_what_lies_below_an_error_keeps_what_is_written(found: list[Offered], top: str, chance: random.Random, data: st.DataObject) -> None:
    here = begun(found, [], chance, data)
    offer = offer_of((), here.of("one"), [Error(top, "taskset.yaml", 1, 1, "is broken")])
    kept = {each.id for each in found if not top or each.id == top or each.id.startswith(f"{top}/")}
    told = plan(offer, ONE, here.world())
    assert set(told.removed) == {each.id for each in found} - kept
    assert [each.message for each in told.errors] == ["is broken"]
