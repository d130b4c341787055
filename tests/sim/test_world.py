"""All cores in one thread, in virtual time: hints are lost, doubled and late, roles die between any two steps and come back.

Then the faults end and one claim is made: what is actual is what is desired. A failure prints its seed.
"""

from __future__ import annotations

import hashlib
import random

import msgspec
import pytest
from tests.support.small_store import SmallStore

from dicode.messages.commands import Append, Delete, Put
from dicode.messages.fault import Fault
from dicode.messages.kinds import Daemon, DesiredTask, Event, History, Kind, Request, Route, Run, Schedule, Task
from dicode.messages.task import TaskSpec, Trigger
from dicode.process.mirror import append, delete, put
from dicode.process.tables import Tables
from dicode.reconciler.decide import Facts, decide
from dicode.spec.admit import Actual
from dicode.spec.claims import Claims, wanted_path
from dicode.supervisor import lifecycle
from dicode.supervisor.lifecycle import Absent, Alive, Bury, Ended, Forget, Kill, Prepare, Process, Relabel, Start, Stop, Wait, next_step
from dicode.trigger.decide import tick
from dicode.wire.frames import Heard

START = 1_800_000_000_000  # ms
IDS = ("a", "b", "c", "d")
TRIGGERS = (Trigger(daemon=True), Trigger(cron="* * * * *"), Trigger(manual=True), Trigger(daemon=True, restart="never"))


class Crash(Exception):
    """The role died here."""


class Saved(msgspec.Struct, frozen=True):
    """What lies on disk of one task. `text` stands for its files."""

    text: str
    trigger: Trigger
    broken: bool = False

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.text}{self.trigger}".encode()).hexdigest()

    @property
    def process(self) -> str:
        """Without the `d…` of the text, which stands for a description; of the trigger what concerns a process."""
        told = msgspec.structs.replace(self.trigger, cron=None)
        return hashlib.sha256(f"{self.text.partition(' ')[0]}{told}".encode()).hexdigest()


class World:
    """The machine: disk, process table, the store, and the roles on it."""

    def __init__(self, seed: int, loss: float) -> None:
        self.chance = random.Random(seed)
        self.loss = loss
        self.now = START
        self.disk: dict[str, Saved] = {}
        self.good: dict[str, Saved] = {}  # the last save of each task that was not broken
        self.store = SmallStore(*(kind.__name__ for kind in (DesiredTask, Task, Schedule, Route, Daemon, History, Request, Event)))
        self.queue: dict[str, Run] = {}  # by unique key: what the store's queue promises
        self.processes: dict[int, Daemon] = {}  # pid → what it was started as
        self.exits: dict[int, bool] = {}  # pid → clean; what the keeper has seen
        self.records: dict[str, Daemon] = {}  # run/daemons/*.json
        self.starts: list[str] = []
        self.last_pid = 100
        self.faulty = True
        self.roles: list[Role] = [Source(self), Reconciler(self), Triggers(self), Supervisor(self)]

    def publish(self, heard: list[Heard]) -> None:
        for role in self.roles:
            for hint in heard:
                role.inbox += [hint] * self.chance.choice([1, 1, 2]) if not self.faulty or self.chance.random() >= self.loss else []

    def maybe_crash(self) -> None:
        """Any line of a shell is a place to die."""
        if self.faulty and self.chance.random() < 0.02:
            raise Crash

    def edit(self) -> None:
        id, dice = self.chance.choice(IDS), self.chance.random()
        if dice < 0.15:
            self.disk.pop(id, None)
            self.good.pop(id, None)
            return
        version = f"v{self.chance.randrange(3)} d{self.chance.randrange(3)}"
        known = self.disk.get(id)
        trigger = known.trigger if known and dice < 0.8 else self.chance.choice(TRIGGERS)
        self.disk[id] = Saved(version, trigger, broken=0.7 < dice < 0.8)
        if not self.disk[id].broken:
            self.good[id] = self.disk[id]

    def disturb(self) -> None:
        """Something goes wrong outside of the roles' own steps."""
        dice = self.chance.random()
        if dice < 0.02:
            self.store.epoch = f"e{self.now}"
        elif dice < 0.04:
            self.roles[self.chance.randrange(len(self.roles))].crash()
        elif dice < 0.06 and self.processes:
            self.end(self.chance.choice(sorted(self.processes)), clean=self.chance.random() < 0.3)

    def end(self, pid: int, *, clean: bool) -> None:
        del self.processes[pid]
        self.exits[pid] = clean

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.now += self.chance.choice([1, 10, 100, 5_000])
            if self.chance.random() < 0.1:
                self.edit()
            self.disturb()
            self.chance.choice(self.roles).turn()

    def settle(self) -> None:
        """No more faults: give everyone time until nobody has anything to do."""
        self.faulty = False
        for _ in range(300):
            self.now += 2_000
            for role in self.roles:
                role.inbox.append(self.store.heartbeat())
                role.turn()


class Role:
    """A role's shell, as thin as the real one: hear, list when stale, decide one key after the other, do it."""

    kinds: tuple[type[Kind], ...] = ()

    def __init__(self, world: World) -> None:
        self.world = world
        self.inbox: list[Heard] = []
        self.begin()

    def begin(self) -> None:
        """Starting is recovering: nothing is remembered."""
        self.tables = Tables(self.kinds, self.changed)
        self.todo: dict[str, None] = {}
        self.inbox.clear()

    def crash(self) -> None:
        self.begin()

    def changed(self, kind: type[Kind], key: str, cause: str) -> None:
        self.todo[key] = None

    def turn(self) -> None:
        chance = self.world.chance
        if not self.tables.epoch and not any(hint.heads for hint in self.inbox):
            self.inbox.append(self.world.store.heartbeat())
        if chance.random() < 0.1:
            chance.shuffle(self.inbox)
        heard, self.inbox = self.inbox, []
        self.world.store.resync(self.tables, self.tables.hear(heard))
        try:
            self.work()
        except Crash:
            self.crash()

    def work(self) -> None:
        some = self.world.chance.randint(0, 4) if self.world.faulty else None
        for key in list(self.todo)[:some]:
            del self.todo[key]
            self.step(key)
            self.world.maybe_crash()

    def step(self, key: str) -> None:
        raise NotImplementedError

    def write(self, *ops: Put | Delete | Append) -> bool:
        """False: a conflict, somebody else was first."""
        self.world.maybe_crash()
        published = self.world.store.commit(ops)
        if published is None:
            return False
        self.world.publish(published)
        self.world.maybe_crash()  # committed, and the answer was not heard
        for hint in published:
            kind = next((kind for kind in self.kinds if kind.__name__ == hint.header.kind), None)
            if kind is not None:
                self.tables.set(kind, hint.header.key, hint.header.rev, hint.body or None, "")
        return True


class Source(Role):
    kinds = (DesiredTask,)

    def work(self) -> None:
        for id in {*self.world.disk, *(key.partition("/")[2] for key, _ in self.tables.all(DesiredTask))}:
            self.step(id)

    def step(self, key: str) -> None:
        saved, known = self.world.disk.get(key), self.tables.get(DesiredTask, f"s/{key}")
        expect = self.tables.rev(DesiredTask, f"s/{key}")
        if saved is None:
            if known is not None:
                self.write(delete(DesiredTask, f"s/{key}", expect))
            return
        base = known or DesiredTask(id=key, source="s")
        if saved.broken:
            fault = Fault(f"{key}/task.yaml", 1, 1, f"broken {saved.text}")
            new = msgspec.structs.replace(base, faults=(fault,))
        else:
            spec = TaskSpec(name=saved.text, trigger=saved.trigger)
            new = msgspec.structs.replace(base, digest=saved.digest, process=saved.process, spec=spec, runtime="shell", faults=())
        if new != known:
            self.write(put(new, f"s/{key}", expect))


class Reconciler(Role):
    kinds = (DesiredTask, Task, Schedule, Route, Daemon, History)

    def begin(self) -> None:
        self.claims = Claims()
        super().begin()

    def changed(self, kind: type[Kind], key: str, cause: str) -> None:
        ids = self.claims.take(key, self.tables.get(DesiredTask, key)) if kind is DesiredTask else {key}
        self.todo.update(dict.fromkeys(ids))

    def step(self, key: str) -> None:
        get = self.tables.get
        claims = self.claims.of(key)
        rivals = [(rival, False) for claim in claims if wanted_path(claim) for rival in self.claims.rivals(wanted_path(claim))]
        actual = Actual(get(Schedule, key), get(Route, key), get(Daemon, key))
        facts = Facts(claims, get(Task, key), actual, get(History, key), rivals)
        decision = decide(key, facts, not_built=lambda *_: (), now=self.world.now)
        if decision is None:
            return
        rev = self.tables.rev(Task, key)
        ops: list[Put | Delete | Append] = [put(decision.task, key, rev) if decision.task else delete(Task, key, rev)]
        ops += [put(decision.history, key)] if decision.history else []
        ops += [append(decision.event)] if decision.event else []
        if not self.write(*ops):
            self.todo[key] = None


class Triggers(Role):
    kinds = (Task, Schedule)

    def work(self) -> None:
        for key in sorted({*(key for key, _ in self.tables.all(Task)), *(key for key, _ in self.tables.all(Schedule))}):
            self.step(key)

    def step(self, key: str) -> None:
        task, known = self.tables.get(Task, key), self.tables.get(Schedule, key)
        rev = self.tables.rev(Schedule, key)
        if task is None or task.spec is None or task.spec.trigger.cron is None:
            if known is not None:
                self.write(delete(Schedule, key, rev))
            return
        found = tick(task, known, self.world.now, "UTC")
        for run in found.runs:
            self.world.maybe_crash()
            self.world.queue.setdefault(run.unique, run)
        if found.schedule is not None:
            self.write(put(found.schedule, key, rev))


class Supervisor(Role):
    kinds = (Task, Daemon)

    def begin(self) -> None:
        self.book: dict[str, Daemon | None] = dict(self.world.records)
        self.prepared: dict[str, str] = {}
        for daemon in list(self.world.records.values()):
            if not daemon.pid:  # a start that was not finished: whatever came of it is ended
                self.kill(daemon.task)
                self.world.records.pop(daemon.task, None)
                self.book[daemon.task] = None
        super().begin()

    def kill(self, task: str) -> None:
        for pid in [pid for pid, started in self.world.processes.items() if started.task == task]:
            self.world.end(pid, clean=False)

    def work(self) -> None:
        for key in sorted({*self.book, *(key for key, _ in self.tables.all(Task)), *(key for key, _ in self.tables.all(Daemon))}):
            self.step(key)

    def seen(self, daemon: Daemon | None) -> Process:
        if daemon is None or not daemon.pid:
            return Absent()
        if daemon.pid in self.world.processes:
            return Alive()
        return Ended("gone", clean=self.world.exits.get(daemon.pid, False))

    def step(self, key: str) -> None:
        if key not in self.book:
            known = self.tables.get(Daemon, key)
            live = known is not None and known.state in lifecycle.LIVE
            self.book[key] = msgspec.structs.replace(known, state="stopped", pid=0) if known and live else known
        for _ in range(20):
            daemon = self.book[key]
            task = self.tables.get(Task, key)
            facts = lifecycle.Facts(key, task, daemon, self.seen(daemon), self.world.now, self.prepared.get(key, ""))
            step = next_step(facts)
            self.world.maybe_crash()
            match step:
                case Prepare(digest=digest):
                    self.prepared[key] = digest
                case Start(daemon=daemon):
                    self.start(key, daemon)
                case Stop(daemon=daemon):
                    self.become(key, daemon)
                    if self.world.chance.random() < 0.7 and daemon.pid in self.world.processes:
                        self.world.end(daemon.pid, clean=True)
                case Kill():
                    self.kill(key)
                case Bury(daemon=daemon):
                    self.world.records.pop(key, None)
                    self.become(key, daemon)
                case Relabel(daemon=daemon):
                    self.become(key, daemon)
                case Forget():
                    self.world.records.pop(key, None)
                    self.book[key] = None
                case Wait():
                    break
                case _:
                    break
        self.write_down(key)

    def start(self, key: str, daemon: Daemon) -> None:
        """Intent, process, record: a crash may come between any two of them."""
        world = self.world
        world.records[key] = msgspec.structs.replace(daemon, pid=0)
        world.maybe_crash()
        world.last_pid += 1
        started = msgspec.structs.replace(daemon, pid=world.last_pid, start_time=float(world.last_pid), boot_id="b")
        assert not [d for d in world.processes.values() if d.task == key], f"two processes of {key}"
        world.processes[started.pid] = started
        world.starts.append(key)
        world.maybe_crash()
        self.become(key, started)

    def become(self, key: str, daemon: Daemon) -> None:
        self.book[key] = daemon
        if daemon.pid:
            self.world.records[key] = daemon

    def write_down(self, key: str) -> None:
        daemon, rev = self.book[key], self.tables.rev(Daemon, key)
        if daemon is None:
            if rev and self.tables.get(Task, key) is None:
                self.write(delete(Daemon, key, rev))
        elif daemon != self.tables.get(Daemon, key):
            self.write(put(daemon, key, rev))


@pytest.mark.parametrize("loss", [0.0, 0.3, 1.0], ids=["all hints arrive", "a third is lost", "every hint is lost"])
@pytest.mark.parametrize("seed", range(40))
def test_actual_becomes_desired(seed: int, loss: float) -> None:
    world = World(seed, loss)
    world.run(400)
    world.settle()
    tasks: dict[str, Task] = {key: msgspec.msgpack.decode(body, type=Task) for key, body in world.store.present("Task").items()}
    assert tasks.keys() == world.disk.keys(), "registered is what is on disk"
    for id, saved in world.disk.items():
        task = tasks[id]
        if not saved.broken:
            assert task.digest == saved.digest and task.sync == "Synced", f"{id}: {task}"
        elif task.digest:
            assert task.sync == "OutOfSync" and any(not c.status for c in task.conditions if c.type == "Ready")
    check_daemons(world, tasks)
    check_schedules(world, tasks)


def check_daemons(world: World, tasks: dict[str, Task]) -> None:
    running = sorted(daemon.task for daemon in world.processes.values())
    wanted = sorted(id for id, task in tasks.items() if task.spec and task.spec.trigger.daemon and task.spec.trigger.restart != "never")
    never = {id for id, task in tasks.items() if task.spec and task.spec.trigger.restart == "never"}
    assert [id for id in running if id not in never] == wanted, "one process for each daemon, and no other"
    assert len(running) == len(set(running))
    for daemon in world.processes.values():
        assert daemon.process == tasks[daemon.task].process, f"{daemon.task} runs what is registered"


def check_schedules(world: World, tasks: dict[str, Task]) -> None:
    cron = {id for id, task in tasks.items() if task.spec and task.spec.trigger.cron}
    schedules = {key: msgspec.msgpack.decode(body, type=Schedule) for key, body in world.store.present("Schedule").items()}
    assert schedules.keys() == cron
    for id, schedule in schedules.items():
        assert schedule.digest == tasks[id].digest and schedule.next > world.now - 60_000
        slots = [int(run.trigger.key) for run in world.queue.values() if run.task == id]
        assert all(slot % 60_000 == 0 for slot in slots) and len(slots) == len(set(slots))
        recent = [slot for slot in slots if slot > world.now - 300_000]
        assert len(recent) == 5, "in quiet times every slot is fired"
