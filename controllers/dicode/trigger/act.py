"""The trigger-engine's shell: it looks at the tasks and the clock, lets `decide` decide, fires, and writes what is now true."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Iterator
from functools import partial

from dicode.messages.commands import Append, Enqueue, Enqueued, Put, Refused
from dicode.messages.kinds import Condition, Config, Event, Kind, Route, Run, Schedule, Source, Task
from dicode.process.blobs import BadBundle, Bundles, MissingBundle
from dicode.process.clock import mono, wall_ms
from dicode.process.logs import Log
from dicode.process.mirror import Mirror, append, delete, put
from dicode.process.queue import KeyedQueue
from dicode.process.role import explain
from dicode.process.settings import Settings
from dicode.process.zone import machine_zone
from dicode.spec.template import Expanded, expand, variables_of
from dicode.trigger.decide import ROLE, Bound, Hook, hook_of, route_of, tick, turn
from dicode.trigger.push import PUSHES, route_of_pushes, secret_of
from dicode.trigger.relaying import RELAYS
from dicode.trigger.state import Hooks
from dicode.wire.client import Wire

KINDS: tuple[type[Kind], ...] = (Task, Schedule, Route, Config, Source)
STEP = 1.0  # seconds; the wall clock is looked at again at least so often: it may have been set, or the machine slept
STEPPED = 1_000  # ms the wall clock may drift from the monotonic one before every schedule is looked at again
FULL_AGAIN = 1.0  # seconds until a slot the queue had no room for is tried again


class TriggerEngine:
    """Keeps schedules and routes what the registered tasks say, and fires what is due."""

    def __init__(self, wire: Wire, settings: Settings, log: Log) -> None:
        deaf = settings.environ.get("DICODE_TEST_DROP_HINTS") == "1"
        self.mirror = Mirror(wire, KINDS, self._changed, drop_hints=deaf)
        self.queue: KeyedQueue[str] = KeyedQueue(self._work, on_error=self._failed, width=128)
        self.hooks = Hooks()
        self.configured = asyncio.Event()  # the Config is another than before
        self.relay_configured = asyncio.Event()  # the same, for who follows `relay:`
        self._bound = Bound()
        self._wire = wire
        self._settings = settings
        self._log = log
        self._zone = machine_zone(settings.environ)
        self._next: dict[str, int] = {}  # task → when its schedule is looked at, ms
        self._times: list[tuple[int, str]] = []  # a heap of the same; entries that `_next` does not confirm are out of date
        self._retimed = asyncio.Event()

    def _changed(self, kind: type[Kind], key: str, cause: str) -> None:
        if kind is Config:
            self.configured.set()
            self.relay_configured.set()
            return
        if kind is Task:
            self._serve(key)  # at once: a route is never missing while its task is updated
            if not self._ours(key):
                return
        if not key.startswith(RELAYS):
            self.queue.add(PUSHES + key if kind is Source else key)

    def _ours(self, key: str) -> bool:
        """Has this task a schedule or a route, or is it to have one? Most tasks of a big installation have none."""
        task = self.mirror.get(Task, key)
        wanted = task is not None and task.spec is not None and task.spec.trigger.type in ("cron", "webhook")
        return wanted or key in self._next or bool(self.mirror.rev(Schedule, key) or self.mirror.rev(Route, key))

    def _failed(self, key: str, error: BaseException, delay: float) -> None:
        self._log.debug(f"{key}: {explain(error)}; again in {delay:g} s")

    def rebound(self, bound: Bound) -> None:
        """The listener has moved, or cannot be had: every hook is looked at again."""
        self._bound = bound
        for key, _ in self.mirror.all(Task):
            self._serve(key)
        for key, _ in self.mirror.all(Route):
            if not key.startswith(RELAYS):
                self.queue.add(key)

    # --- one task

    async def _work(self, key: str) -> float | None:
        if key.startswith(PUSHES):
            await self._route_pushes(key)
            return None
        task = self.mirror.get(Task, key)
        kind = task.spec.trigger.type if task is not None and task.spec is not None else ""
        if kind != "cron":
            self._next.pop(key, None)
            await self._delete(Schedule, key)
        if kind != "webhook":
            await self._delete(Route, key)
        if task is None:
            return None
        if kind == "webhook":
            await self._route(task)
        return await self._tick(task) if kind == "cron" else None

    async def _delete(self, kind: type[Kind], key: str) -> None:
        if self.mirror.get(kind, key) is not None:
            await self.mirror.write(delete(kind, key, self.mirror.rev(kind, key)))

    async def _tick(self, task: Task) -> float | None:
        """First the runs, then the cursor: a crash between the two fires the same runs again, which their unique keys make harmless."""
        known = self.mirror.get(Schedule, task.id)
        decided = tick(task, known, wall_ms(), self._zone)
        events = [decided.event] if decided.event else []
        for run in decided.runs:
            reply = await self._wire.ask_any(Enqueue(run=run))
            if isinstance(reply, Refused):
                if reply.reason == "full":
                    return FULL_AGAIN
                events.append(_not_fired(run, reply))
            elif not isinstance(reply, Enqueued):
                raise TypeError(f"an enqueue was answered {reply}")
        operations: list[Put | Append] = [append(event, task.cause) for event in events]
        if decided.schedule is not None:
            operations.append(put(decided.schedule, task.id, self.mirror.rev(Schedule, task.id), task.cause))
        if operations:
            await self.mirror.write(*operations)
        schedule = decided.schedule or known
        self._look_at(task.id, schedule.next if schedule else 0)
        return None

    def _look_at(self, task: str, at: int) -> None:
        if not at:
            self._next.pop(task, None)
        elif self._next.get(task) != at:
            self._next[task] = at
            heapq.heappush(self._times, (at, task))
            if self._times[0] == (at, task):
                self._retimed.set()

    # --- hooks

    def _serve(self, key: str) -> None:
        task = self.mirror.get(Task, key)
        hook = None
        if task is not None and task.spec is not None and task.spec.trigger.type == "webhook":
            hook = self._hook_of(task)
        if isinstance(hook, Hook):
            self.hooks.serve(hook)
        else:
            self.hooks.drop(key)

    def _hook_of(self, task: Task) -> Hook | Condition:
        return hook_of(task, self._bound, partial(self._expanded, task))

    def _expanded(self, task: Task, text: str) -> Expanded:
        environ = self._settings.environ
        folder = self._folder(task.digest) if "${TASK_DIR}" in text else ""
        own = variables_of(task_dir=folder, set_dir=task.set_dir, data_dir=str(self._settings.data_dir), home=environ.get("HOME", "/"))
        return expand(text, own, environ)

    def _folder(self, digest: str) -> str:
        """Where the files of this digest lie, "" when they cannot be had."""
        try:
            return str(Bundles(self._settings.bundles, self._settings.trees).unpack(digest))
        except (MissingBundle, BadBundle, OSError):
            return ""

    async def _route(self, task: Task) -> None:
        known = self.mirror.get(Route, task.id)
        route = route_of(task, known, self._hook_of(task), self._bound, wall_ms())
        if route != known:
            await self.mirror.write(put(route, task.id, self.mirror.rev(Route, task.id), task.cause))

    async def _route_pushes(self, key: str) -> None:
        """Of one source: what people should know of its push hook."""
        source = self.mirror.get(Source, key.removeprefix(PUSHES))
        secret = secret_of(source, self._settings.environ) if source is not None else None
        if source is None or secret is None:
            await self._delete(Route, key)
            return
        known = self.mirror.get(Route, key)
        why_not = secret if isinstance(secret, Condition) else None
        route = route_of_pushes(source, known, why_not, self._bound, wall_ms())
        if route == known:
            return
        await self.mirror.write(put(route, key, self.mirror.rev(Route, key)))
        if why_not is not None and (known is None or why_not.message not in (each.message for each in known.conditions)):
            self._log.say(f"source/{source.name}: {why_not.message}")

    # --- time

    async def keep_time(self) -> None:
        """Put each task on the queue when its schedule is due, and all of them when the wall clock was set."""
        lead = wall_ms() - mono() * 1000
        while True:
            now = wall_ms()
            drift = now - mono() * 1000 - lead
            if abs(drift) > STEPPED:
                lead += drift
                due = sorted(self._next)
            else:
                due = list(self._due(now))
            for number, task in enumerate(due):
                self._next.pop(task, None)  # its turn sets it again
                wait = turn(number, len(due), self._period(task))
                self.queue.add_after(task, wait) if wait else self.queue.add(task)
            await self._sleep((self._times[0][0] if self._times else now + 60_000) - now)

    def _period(self, task: str) -> int:
        """ms from the slot its cursor stands at to the next."""
        schedule = self.mirror.get(Schedule, task)
        return schedule.next - schedule.last if schedule is not None else 0

    def _due(self, now: int) -> Iterator[str]:
        times = self._times
        while times and times[0][0] <= now:
            at, task = heapq.heappop(times)
            if self._next.get(task) == at:
                yield task

    async def _sleep(self, ms: float) -> None:
        """At most STEP, and until a schedule has moved."""
        self._retimed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._retimed.wait(), min(STEP, max(0.0, ms / 1000)))


def _not_fired(run: Run, refusal: Refused) -> Event:
    return Event(object=f"task/{run.task}", type="Warning", reason="NotFired", message=refusal.message, at=wall_ms(), role=ROLE, cause=run.cause)
