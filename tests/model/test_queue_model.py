"""The run queue against a slow, obvious model: whatever is asked in whatever order, both tell the same story."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from tests.support.store_desk import Desk, run

from dicode.messages.commands import (
    Cancel,
    Claim,
    Claimed,
    Enqueue,
    Enqueued,
    Failed,
    Finish,
    Finished,
    Found,
    Held,
    Put,
    Refused,
    Renew,
    Renewed,
    Write,
)
from dicode.messages.kinds import Run
from dicode.messages.task import Retry
from dicode.store.sqlite import Sqlite
from dicode.wire.frames import decode_body

LEASE = 6000
TASKS = ("a", "b")
WORKERS = {"w1": (), "w2": ("gpu",)}


@dataclass
class Plan:
    """What the spec of a task says."""

    overlap: str = "allow"
    concurrency: int = 0
    retries: int = 0
    label: bool = False
    suspended: bool = False

    @property
    def limit(self) -> int:
        return self.concurrency if self.overlap == "allow" else max(self.concurrency, 1)


PLANS = st.builds(
    Plan,
    overlap=st.sampled_from(["allow", "skip", "queue", "replace"]),
    concurrency=st.integers(0, 2),
    retries=st.integers(0, 2),
    label=st.sampled_from([False, False, True]),
    suspended=st.sampled_from([False, False, False, True]),
)


@dataclass
class Sheet:
    """One run, as somebody with paper and pencil would keep it."""

    key: str
    task: str
    plan: Plan
    due: int
    order: int  # of its last change
    status: str = "queued"
    attempt: int = 1
    worker: str = ""
    fence: int = -1
    until: int = 0
    cancel: bool = False

    @property
    def live(self) -> bool:
        return self.status in ("queued", "running")

    def over(self, status: str, now: int) -> str:
        self.worker = ""
        if self.cancel and status in ("failed", "timed_out", "lost"):
            status = "cancelled"
        if status in ("failed", "timed_out", "lost") and self.attempt <= self.plan.retries:
            self.status = "queued"
            self.due = now + 100 * 2 ** (self.attempt - 1)
            self.attempt += 1
        else:
            self.status = status
        return self.status


class QueueMachine(RuleBasedStateMachine):
    taken = Bundle("taken")  # what workers believe they hold: (run, fence, worker)

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="dicode-model-"))
        self.desk = Desk(lambda at: Sqlite(self.folder / "store.db", at))
        self.plans: dict[str, Plan] = {}
        self.sheets: dict[str, Sheet] = {}
        self.claims: dict[str, list[str]] = {}
        self.count = 0
        self.changed = 0

    def teardown(self) -> None:
        self.desk.engine.close()
        shutil.rmtree(self.folder)

    @property
    def now(self) -> int:
        return self.desk.at.wall

    @initialize(plans=st.tuples(PLANS, PLANS))
    def begin(self, plans: tuple[Plan, Plan]) -> None:
        for name, plan in zip(TASKS, plans, strict=True):
            self.register(name, plan)

    def touch(self, sheet: Sheet) -> None:
        self.changed += 1
        sheet.order = self.changed

    @rule(name=st.sampled_from(TASKS), plan=PLANS)
    def register(self, name: str, plan: Plan) -> None:
        self.plans[name] = plan
        self.desk.register(
            name,
            overlap=plan.overlap,
            concurrency=plan.concurrency,
            retry=Retry(attempts=plan.retries, backoff=100, multiplier=2.0),
            run_on=("gpu",) if plan.label else None,
            suspended=plan.suspended,
        )

    @rule(name=st.sampled_from(TASKS), delay=st.sampled_from([0, 0, 0, 150]), again=st.integers(0, 4))
    def enqueue(self, name: str, delay: int, again: int) -> None:
        if again == 0 and self.sheets:
            key = list(self.sheets)[-1]
            name = self.sheets[key].task
        else:
            self.count += 1
            key = f"r{self.count}"
        answer = self.desk.enqueue(run(key, task=name, due=self.now + delay))
        known = self.sheets.get(key)
        plan = self.plans.get(name)
        if known is not None and known.status == "skipped":
            assert isinstance(answer, Refused) and answer.run == key
        elif known is not None:
            assert answer == Enqueued(run=key, created=False, status=known.status)  # type: ignore[arg-type]
        elif plan is None or plan.suspended:
            assert isinstance(answer, Refused) and answer.reason == ("unknown" if plan is None else "suspended")
        else:
            self._enqueued(key, name, plan, self.now + delay, answer)

    def _enqueued(self, key: str, name: str, plan: Plan, due: int, answer: object) -> None:
        live = [sheet for sheet in self.sheets.values() if sheet.task == name and sheet.live]
        sheet = Sheet(key, name, plan, due, 0)
        if plan.overlap == "skip" and len(live) >= plan.limit:
            assert isinstance(answer, Refused) and (answer.reason, answer.run) == ("overlap", key)
            sheet.status = "skipped"
        else:
            assert answer == Enqueued(run=key)
        if plan.overlap == "replace":
            for old in live[: max(0, len(live) - plan.limit + 1)]:
                self._cancel(old)
        self.sheets[key] = sheet
        self.touch(sheet)

    def _cancel(self, sheet: Sheet) -> None:
        if sheet.status == "queued":
            sheet.status = "cancelled"
            self.touch(sheet)
        elif sheet.status == "running" and not sheet.cancel:
            sheet.cancel = True
            self.touch(sheet)

    @rule(target=taken, name=st.sampled_from(TASKS), n=st.integers(1, 3))
    def enqueue_and_claim(self, name: str, n: int) -> object:
        for _ in range(n):
            self.enqueue(name, 0, 1)
        return self.claim("w2", n, 1)

    @rule(target=taken, worker=st.sampled_from(sorted(WORKERS)), n=st.integers(0, 3), repeat=st.integers(0, 5))
    def claim(self, worker: str, n: int, repeat: int) -> object:
        if repeat == 0 and self.claims:
            token = list(self.claims)[-1]
            expected = [key for key in self.claims[token] if self.sheets[key].status == "running"]
            if not expected:
                return multiple()  # all of it is over: nobody asks any more
        else:
            self.count += 1
            token = f"t{self.count}"
            expected = self._chosen(WORKERS[worker], n)
        got = self.desk.ask(Claim(worker=worker, token=token, n=n, labels=WORKERS[worker], lease=LEASE), Claimed).runs
        assert [one.id for one in got] == expected
        if token not in self.claims:
            self.claims[token] = expected
            for one in got:
                sheet = self.sheets[one.id]
                assert one.fence > sheet.fence and one.attempt == sheet.attempt
                sheet.status, sheet.worker, sheet.fence, sheet.until = "running", worker, one.fence, self.desk.at.mono + LEASE
                self.touch(sheet)
        return multiple(*((one.id, one.fence, one.worker) for one in got))

    def _chosen(self, labels: tuple[str, ...], n: int) -> list[str]:
        running = [sheet.task for sheet in self.sheets.values() if sheet.status == "running"]
        chosen: list[str] = []
        for sheet in sorted(self.sheets.values(), key=lambda sheet: (sheet.due, sheet.order)):
            if sheet.status != "queued" or sheet.due > self.now or (sheet.plan.label and "gpu" not in labels):
                continue
            if sheet.plan.limit and running.count(sheet.task) >= sheet.plan.limit:
                continue
            if len(chosen) < n:
                chosen.append(sheet.key)
                running.append(sheet.task)
        return chosen

    @rule(held=taken)
    def renew(self, held: tuple[str, int, str]) -> None:
        key, fence, worker = held
        sheet = self.sheets[key]
        answer = self.desk.ask(Renew(worker=worker, held=(Held(key, fence),), lease=LEASE), Renewed)
        if sheet.status == "running" and sheet.fence == fence:
            assert answer == Renewed(cancel=(key,) if sheet.cancel else ())
            sheet.until = self.desk.at.mono + LEASE
        else:
            assert answer == Renewed(lost=(key,))

    @rule(held=taken, status=st.sampled_from(["succeeded", "failed", "timed_out", "cancelled", "lost"]))
    def finish(self, held: tuple[str, int, str], status: str) -> None:
        key, fence, _ = held
        sheet = self.sheets[key]
        answer = self.desk.ask(Finish(run=key, fence=fence, status=status), Finished)  # type: ignore[arg-type]
        if sheet.fence != fence:
            assert answer.fenced
        elif sheet.status != "running":
            assert answer == Finished(status=sheet.status)  # type: ignore[arg-type]
        else:
            assert answer == Finished(status=sheet.over(status, self.now))  # type: ignore[arg-type]
            self.touch(sheet)

    @rule(which=st.integers(0, 50))
    def cancel(self, which: int) -> None:
        if not self.sheets:
            return
        key = list(self.sheets)[which % len(self.sheets)]
        self.desk.ask(Cancel(run=key), Found)
        self._cancel(self.sheets[key])

    @rule(ms=st.sampled_from([1, 99, 100, 2000, LEASE]))
    def wait(self, ms: int) -> None:
        self.desk.wait(ms)

    @rule()
    def expire(self) -> None:
        self.desk.expire()
        for sheet in self.sheets.values():
            if sheet.status == "running" and sheet.until <= self.desk.at.mono:
                sheet.over("lost", self.now)
                sheet.fence += 1
                self.touch(sheet)

    @rule()
    def everything_held_is_lost(self) -> None:
        self.wait(LEASE)
        self.expire()

    @rule()
    def restart(self) -> None:
        self.desk.restart()
        for sheet in self.sheets.values():
            if sheet.status == "running":
                sheet.until = self.desk.at.mono + LEASE

    @rule(name=st.sampled_from(TASKS))
    def a_command_that_fails_leaves_no_trace(self, name: str) -> None:
        """An enqueue that works, in one transaction with a write that does not: both are undone when the batch is."""
        bad = Write(ops=(Put("Task", "fine", b"x"), Put("Run", "never", b"x")))
        assert isinstance(self.desk.batch(bad)[0], Failed)

    @rule(name=st.sampled_from(TASKS))
    def a_batch_that_cannot_be_committed_leaves_no_trace(self, name: str) -> None:
        self.desk.engine.begin()
        for number in range(3):
            self.desk.service._tried(Enqueue(run=run(f"never {number}", task=name)), self.desk.at)
        self.desk.service._tried(Claim(worker="w1", token="never", n=2), self.desk.at)
        self.desk.engine.rollback()

    @invariant()
    def both_tell_the_same(self) -> None:
        stored = {}
        for change in self.desk.list("Run").changes:
            value = decode_body("Run", change.body or b"")
            assert isinstance(value, Run)
            stored[value.id] = (value.status, value.attempt, value.cancel and value.status == "running")
        assert stored == {sheet.key: (sheet.status, sheet.attempt, sheet.cancel and sheet.status == "running") for sheet in self.sheets.values()}

    @invariant()
    def the_memory_equals_the_tables(self) -> None:
        running = [sheet for sheet in self.sheets.values() if sheet.status == "running"]
        assert self.desk.engine.queue.leased() == len(running)
        waiting = sum(sheet.status == "queued" for sheet in self.sheets.values())
        assert self.desk.ask(Claim(worker="nobody", token="none", n=0), Claimed).waiting == waiting


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
