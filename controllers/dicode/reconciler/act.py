"""The reconciler's shell: it looks up the facts of a key, lets `decide` decide, and writes what came of it."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import msgspec

from dicode.messages.commands import Append, Delete, Put
from dicode.messages.kinds import Config, Daemon, DesiredTask, Event, History, Kind, Request, Route, Schedule, Source, Task
from dicode.process.clock import wall_ms
from dicode.process.logs import Log
from dicode.process.mirror import Mirror, append, delete, put
from dicode.process.queue import KeyedQueue
from dicode.process.role import explain
from dicode.reconciler.decide import VERBS, Decision, Facts, carry_out, decide
from dicode.spec.admit import Actual
from dicode.spec.claims import Claims, Rivals, keeper_of, path_rivals
from dicode.spec.task import not_built
from dicode.spec.template import unknown_in, uses
from dicode.wire.client import Wire

WIDTH = 128  # ids worked on at once: what they write travels together
REQUEST = "request:"  # keys of the queue: task ids, and requests behind this prefix (no id holds a colon)
CONFIG_KEY = "dicode.yaml"
KINDS: tuple[type[Kind], ...] = (Config, DesiredTask, Task, Source, Schedule, Route, Daemon, History, Request)


class Reconciler:
    """Admits what the sources desire, and measures whether reality agrees."""

    def __init__(self, wire: Wire, log: Log, host: Collection[str], *, drop_hints: bool = False) -> None:
        """`host`: the names of our environment, which is that of the other roles."""
        self.mirror = Mirror(wire, KINDS, self._changed, drop_hints=drop_hints)
        self.queue: KeyedQueue[str] = KeyedQueue(self._work, on_error=self._failed, width=WIDTH)
        self._claims = Claims()
        self._decided: dict[str, Task | None] = {}  # what is being written now
        self._log = log
        self._host = host
        self._withheld: tuple[str, ...] = ()

    def _changed(self, kind: type[Kind], key: str, cause: str) -> None:
        if kind is DesiredTask:
            for id in self._claims.take(key, self.mirror.get(DesiredTask, key)):
                self.queue.add(id)
        elif kind is Request:
            request = self.mirror.get(Request, key)
            if request is not None and request.answer is None and request.verb in VERBS:
                self.queue.add(REQUEST + key)
        elif kind is Task and key in self._decided and self._decided[key] == self.mirror.get(Task, key):
            return  # our own word: what has changed since it was decided tells of itself
        elif kind in (Task, Schedule, Route, Daemon):
            self.queue.add(key)
        elif kind is Config and self._withheld != (withheld := self._config().withheld_env):
            self._withheld = withheld
            for id, task in self.mirror.all(Task):
                if task.spec is not None and uses(task.spec):
                    self.queue.add(id)

    def _config(self) -> Config:
        return self.mirror.get(Config, CONFIG_KEY) or Config()

    def _failed(self, key: str, error: BaseException, delay: float) -> None:
        self._log.debug(f"{key}: {explain(error)}; again in {delay:g} s")

    async def _work(self, key: str) -> None:
        if key.startswith(REQUEST):
            await self._answer(key.removeprefix(REQUEST))
        else:
            await self._reconcile(key)

    async def _reconcile(self, id: str) -> None:
        decision = decide(id, self._facts(id), not_built=not_built, now=wall_ms())
        if decision is not None:
            self._decided[id] = decision.task
            try:
                await self.mirror.write(*self._operations(id, decision))
            finally:
                del self._decided[id]
            if decision.line:
                self._log.say(decision.line, task=id)

    def _facts(self, id: str) -> Facts:
        claims, present = self._claims.of(id), self.mirror.get(Task, id)
        actual = Actual(self.mirror.get(Schedule, id), self.mirror.get(Route, id), self.mirror.get(Daemon, id))
        rivals: Rivals = path_rivals(keeper_of(claims, present), self._claims, self._task) if claims else []
        config = self._config()
        unknown = partial(unknown_in, host=self._host, withheld=config.withheld_env)
        return Facts(claims, present, actual, self.mirror.get(History, id), rivals, config.retention_bundles, unknown)

    def _task(self, id: str) -> Task | None:
        return self.mirror.get(Task, id)

    def _operations(self, id: str, decision: Decision) -> list[Put | Delete | Append]:
        operations: list[Put | Delete | Append] = []
        expect = self.mirror.rev(Task, id)
        if decision.task is None:
            operations.append(delete(Task, id, expect))
        else:
            operations.append(put(decision.task, id, expect, decision.task.cause))
        if decision.history is not None:
            operations.append(put(decision.history, id))
        if decision.event is not None:
            operations.append(append(decision.event))
        return operations

    async def _answer(self, token: str) -> None:
        request = self.mirror.get(Request, token)
        if request is None or request.answer is not None:
            return
        now = wall_ms()
        before = self.mirror.get(Task, request.target)
        after, answer = carry_out(request, before, [key for key, _ in self.mirror.all(Task)], now)
        operations: list[Put | Delete | Append] = []
        if after is not None and after != before:
            event = Event(
                object=f"task/{after.id}",
                reason=request.verb.removeprefix("task.").capitalize(),
                message=f"asked for by {request.who}",
                at=now,
                role="reconciler",
            )
            operations += [put(after, after.id, self.mirror.rev(Task, after.id)), append(event)]
        answered = msgspec.structs.replace(request, answer=answer)
        await self.mirror.write(*operations, put(answered, token, self.mirror.rev(Request, token)))
