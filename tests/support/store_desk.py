"""A store without sockets: ask it commands, read what it would publish, stop it and start it again. For any engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

from dicode.messages.commands import AnyCommand, AnyReply, Claim, Claimed, Enqueue, Finish, Finished, List, Listing, Put, Reply, Write, Written
from dicode.messages.kinds import Kind, Run, RunStatus, RunTrigger, Task
from dicode.messages.task import Retry, TaskSpec, Trigger
from dicode.store.engine import Committed, Engine, Moment
from dicode.store.service import Asked, Service
from dicode.wire.frames import decode_body, decode_reply, encode

R = TypeVar("R", bound=Reply)
START = Moment(1_800_000_000_000, 5_000_000)


class Desk:
    """`open` makes an engine on the same database each time. Time stands still unless it is moved by `wait`."""

    def __init__(self, open: Callable[[Moment], Engine]) -> None:
        self._open = open
        self.at = START
        self.news: list[Committed] = []
        self._requests = itertools.count()
        self._start(1)

    def _start(self, number: int) -> None:
        self.number = number
        self.engine = self._open(self.at)
        self.service = Service(self.engine, f"epoch {number}")

    def restart(self) -> None:
        self.engine.close()
        self._start(self.number + 1)

    def wait(self, ms: int) -> None:
        self.at = Moment(self.at.wall + ms, self.at.mono + ms)

    def expire(self) -> None:
        self.news += self.service.expire(self.at)

    def tidy(self) -> None:
        """One whole round."""
        more = True
        while more:
            more, changes = self.service.tidy(self.at)
            self.news += changes

    def batch(self, *commands: AnyCommand) -> list[AnyReply]:
        return self.send([Asked(f"request {next(self._requests)}".encode(), command) for command in commands])

    def send(self, batch: Sequence[Asked]) -> list[AnyReply]:
        replies, changes = self.service.answer(batch, self.at)
        self.news += changes
        return [decode_reply(reply) for reply in replies]

    def ask(self, command: AnyCommand, reply: type[R]) -> R:
        answer = self.batch(command)[0]
        assert isinstance(answer, reply), answer
        return answer

    # the words most tests use

    def put(self, value: Kind, key: str, expect: int | None = None) -> int:
        return self.ask(Write(ops=(put(value, key, expect),)), Written).revs[0]

    def list(self, kind: str, since: int = 0) -> Listing:
        """All pages as one."""
        pages = [self.ask(List(what=kind, since=since), Listing)]
        while pages[-1].more:
            pages.append(self.ask(List(what=kind, since=since, after=pages[-1].changes[-1].rev), Listing))
        return Listing(
            epoch=pages[0].epoch, head=pages[-1].head, full=pages[0].full, changes=tuple(change for page in pages for change in page.changes)
        )

    def register(self, name: str, **fields: object) -> int:
        return self.put(task(name, **fields), name)

    def enqueue(self, run: Run) -> AnyReply:
        return self.batch(Enqueue(run=run))[0]

    def claim(self, token: str, n: int = 1, worker: str = "w1", **fields: object) -> tuple[Run, ...]:
        return self.ask(Claim(worker=worker, token=token, n=n, **fields), Claimed).runs  # type: ignore[arg-type]

    def finish(self, run: Run, status: RunStatus = "succeeded", **fields: object) -> Finished:
        return self.ask(Finish(run=run.id, fence=run.fence, status=status, **fields), Finished)  # type: ignore[arg-type]

    def run(self, key: str) -> Run:
        rev_and_body = self.engine.objects.get("Run", key)
        value = decode_body("Run", rev_and_body.body)
        assert isinstance(value, Run)
        return value


def task(
    name: str, *, suspended: bool = False, digest: str = "d1", retry: Retry | None = None, trigger: Trigger | None = None, **spec: object
) -> Task:
    return Task(
        id=name,
        source="s",
        digest=digest,
        runtime="python",
        suspended=suspended,
        spec=TaskSpec(name=name, trigger=trigger or Trigger(manual=True), retry=retry, **spec),  # type: ignore[arg-type]
    )


def run(key: str, task: str = "a", **fields: object) -> Run:
    """A run whose id is its unique key."""
    trigger = fields.pop("trigger", None) or RunTrigger(type="manual", key=key)
    return Run(id=key, unique=f"{task}:{key}", task=task, trigger=trigger, **fields)  # type: ignore[arg-type]


def put(value: Kind, key: str, expect: int | None = None) -> Put:
    return Put(type(value).__name__, key, encode(value), expect)
