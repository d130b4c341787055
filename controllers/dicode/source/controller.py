"""All sources together: dicode.yaml and what was added, what people ask for, and a queue that gives each its turns."""

from __future__ import annotations

import asyncio
import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from dicode.git.trees import Repositories
from dicode.messages.kinds import Answer, Config, DesiredTask, Event, Kind, Request, Source
from dicode.process.blobs import Bundles
from dicode.process.clock import mono, wall_ms
from dicode.process.logs import Log
from dicode.process.mirror import Lost, Mirror, append, delete, put
from dicode.process.queue import KeyedQueue
from dicode.process.role import explain
from dicode.process.settings import Settings
from dicode.source.act import Origin, SourceWork
from dicode.source.configuration import CONFIG_KEY, Configuration
from dicode.source.decide import Wanted, source_of, synced, wanted_sources
from dicode.source.dev import missing_place, wanted_dev
from dicode.source.plan import Planner, answer_of, by_id
from dicode.source.requests import VERBS, Refusal, added, line_of, removable, target_of
from dicode.source.snapshot import way_to
from dicode.source.state import Touched
from dicode.source.tools import Tools
from dicode.source.watch import Watcher, open_watcher
from dicode.source.writing import Op, in_chunks
from dicode.spec.names import speakable
from dicode.wire.client import Wire
from dicode.wire.frames import StoreAway, StoreFailed

KINDS: tuple[type[Kind], ...] = (Config, Source, DesiredTask, Request)
REQUEST = "request:"  # keys of the queue: names of sources, requests behind this prefix (no name holds a colon), and
CONFIG = "config:"  # the configuration; as an owner of watches, too
SYNCED = "synced:"  # when the remotes were last reached
PLAN = "plan:"  # before the token of a plan, as an owner of repositories
MAX_PLANS = 2  # made at the same time
CONFIG_SETTLE = 0.01  # seconds dicode.yaml must lie still
CONFIG_UNREST = 0.1  # seconds after which it is read anyway
CONFIG_ROUND = 10.0  # seconds between two looks at it that no event asked for
SYNCED_ROUND = 60.0  # seconds between two times that is written
STORE_WAIT = 0.5  # seconds before the store is asked again, when it could not
LOST_WAIT = 0.05  # seconds before a write is tried again that was made from an old state
WIDTH = 12  # sources that have a turn at the same time: what one waits for, a commit to be read or a write, keeps few others waiting


class SourceController:
    """Files → DesiredTask and bundles, for every source there is."""

    def __init__(self, wire: Wire, settings: Settings, log: Log, *, drop_hints: bool = False) -> None:
        self.mirror = Mirror(wire, KINDS, self._changed, drop_hints=drop_hints)
        self.queue: KeyedQueue[str] = KeyedQueue(self._work, on_error=self._failed, width=WIDTH)
        self._settings = settings
        self._log = log
        self._epoch = str(wall_ms())
        self._ids: dict[str, set[str]] = {}  # source → ids that are written
        self._sources: dict[str, SourceWork] = {}
        self._syncing: dict[str, tuple[str, int]] = {}  # token of a request → source, the round it waits for
        self._configuration = Configuration(settings)
        self._config_touched = (0.0, 0.0)  # first and last event that has not been looked at
        self._config_writing = False
        self._refused: set[str] = set()  # keys whose last write the store did not take, which was said
        self._tools: Tools | None = None
        self._repositories: Repositories | None = None
        self._plans: dict[str, tuple[Planner, asyncio.Task[str]]] = {}
        self._keeping: asyncio.Task[None] | None = None  # of the repositories

    async def start(self) -> None:
        """Learn what is written, read dicode.yaml and say what will be read. Raises NoConfig when there is no good one."""
        await self.mirror.start()  # nothing may be decided from absence before the tables are full
        loop = asyncio.get_running_loop()
        disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        bundles = Bundles(self._settings.bundles, self._settings.trees)
        working_dir = os.path.realpath(os.getcwd())
        data_dir = os.path.realpath(self._settings.data_dir)
        self._tools = Tools(self.mirror, bundles, self._log, disk, self._open_watcher(loop), working_dir, data_dir, self._open_repositories)
        await loop.run_in_executor(disk, bundles.sweep)
        await loop.run_in_executor(disk, _sweep_plans, self._settings.run)
        await self._configure(first=True)
        self.queue.add(CONFIG)
        for token, request in self.mirror.all(Request):
            self._consider(token, request)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            await self.queue.run()
        finally:
            ending: list[asyncio.Task[Any]] = [task for _, task in self._plans.values()]
            ending += [self._keeping] if self._keeping is not None else []
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    def close(self) -> None:
        if self._tools is not None:
            self._tools.disk.shutdown(wait=False, cancel_futures=True)
            if self._tools.watcher is not None:
                self._tools.watcher.close()

    def _open_watcher(self, loop: asyncio.AbstractEventLoop) -> Watcher | None:
        try:
            return open_watcher(loop.call_soon_threadsafe, self._touched)
        except OSError as error:
            self._log.say(f"no file events here ({explain(error)}): sources are looked at every few seconds; raise fs.inotify.max_user_instances")
            return None

    def _open_repositories(self) -> Repositories:
        """Made when the first source draws from one: who has only folders pays nothing for git."""
        if self._repositories is None:
            from dicode.git.repositories import GitRepositories

            repositories = GitRepositories(os.path.realpath(self._settings.data_dir), self._settings.environ, self._log, self._woken)
            self._repositories = repositories
            self._keeping = asyncio.get_running_loop().create_task(repositories.run(), name="repositories")
            self.queue.add_after(SYNCED, SYNCED_ROUND)
        return self._repositories

    # ── what we hear ──

    def _changed(self, kind: type[Kind], key: str, cause: str) -> None:
        if kind is DesiredTask:
            name, _, id = key.partition("/")
            ids = self._ids.setdefault(name, set())
            if self.mirror.get(DesiredTask, key) is None:
                ids.discard(id)
            else:
                ids.add(id)
        elif self._tools is None:
            return
        elif kind is Request:
            request = self.mirror.get(Request, key)
            if request is not None:
                self._consider(key, request)
        elif self.mirror.get(kind, key) is None:
            self.queue.add(CONFIG)  # the store lost what we wrote

    def _consider(self, token: str, request: Request) -> None:
        if request.answer is None and request.verb in VERBS:
            self.queue.add(REQUEST + token)

    def _touched(self, owner: str, touches: list[Touched] | None) -> None:
        if owner == CONFIG:
            now = mono()
            self._config_touched = (self._config_touched[0] or now, now)
            self._config_writing = bool(touches) and any(each.writing for each in touches or ())
            self.queue.add(CONFIG)
        elif owner in self._sources:
            self._sources[owner].touched(touches)

    def _failed(self, key: str, error: BaseException, delay: float) -> None:
        self._log.say(f"{_called(key)}: {explain(error)}; again in {delay:g} s")

    # ── what we do ──

    async def _work(self, key: str) -> float | None:
        try:
            again = await self._work_on(key)
        except StoreAway:
            return STORE_WAIT  # its keeper says so
        except StoreFailed as failure:
            if key not in self._refused:
                self._log.say(f"{_called(key)}: the store did not take it, and is asked again: {failure}")
            self._refused.add(key)
            return STORE_WAIT
        except Lost:
            return LOST_WAIT  # our copy of what is written is old; it is made new all the time
        self._refused.discard(key)
        return again

    async def _work_on(self, key: str) -> float | None:
        if key == CONFIG:
            return await self._look_at_config()
        if key == SYNCED:
            return await self._tell_synced()
        if key.startswith(REQUEST):
            return await self._answer(key.removeprefix(REQUEST))
        return await self._turn(key)

    async def _turn(self, name: str) -> float | None:
        source, written = self._sources.get(name), self.mirror.get(Source, name)
        if source is None:
            await self._end(name)
            return None
        if written is None or written.suspended:
            return None
        again = await source.step()
        self._wake_syncing(name, source.rounds_done)
        return again

    async def _tell_synced(self) -> float:
        """A poll that brings no news wakes nobody, but people want to know that there was one: of all sources in one write."""
        ops: list[Op] = []
        for name, running in self._sources.items():
            present = self.mirror.get(Source, name)
            now = synced(present, running.synced_at) if present is not None else None
            if now is not None:
                ops.append(put(now, name, self.mirror.rev(Source, name)))
        for chunk in in_chunks(ops):
            await self.mirror.write(*chunk)
        return SYNCED_ROUND

    def _wake_syncing(self, name: str, rounds: float) -> None:
        for token, (waits_for, number) in self._syncing.items():
            if waits_for == name and rounds >= number:
                self.queue.add(REQUEST + token)

    # ── dicode.yaml ──

    async def _look_at_config(self) -> float:
        first, last = self._config_touched
        if first:
            due = first + CONFIG_UNREST if self._config_writing else min(last + CONFIG_SETTLE, first + CONFIG_UNREST)
            if mono() < due:
                return due - mono()
        self._config_touched = (0.0, 0.0)
        await self._configure(first=False)
        return CONFIG_ROUND

    async def _configure(self, *, first: bool) -> None:
        """Read dicode.yaml, write Config if it differs, and bring the sources in line."""
        assert self._tools is not None
        self._watch_config()
        loop = asyncio.get_running_loop()
        present = self.mirror.get(Config, CONFIG_KEY)
        read = await loop.run_in_executor(self._tools.disk, self._configuration.read, present)
        for line in read.lines:
            self._log.say(line)
        config = msgspec.structs.replace(read.config, epoch=self._epoch)
        if config != present:
            await self.mirror.write(put(config, CONFIG_KEY, self.mirror.rev(Config, CONFIG_KEY)))
        await self._align(renew=first)

    def _watch_config(self) -> None:
        watcher = self._tools.watcher if self._tools is not None else None
        if self._settings.config is None or watcher is None:
            return
        for path in way_to(str(self._settings.config)):
            folder, name = os.path.split(path)
            try:
                watcher.watch(folder, os.stat(folder).st_ino, CONFIG, frozenset((name,)))
            except OSError:
                continue  # it is looked at every few seconds anyway

    async def _align(self, *, renew: bool = False) -> None:
        """Write and begin what is wanted, end what is not. `renew`: at the start, everything is to be read again."""
        written = dict(self.mirror.all(Source))
        wanted = wanted_sources(self._configuration.config.sources, written.values(), map(str, self._settings.up_paths))
        ops: list[Op] = []
        for name, each in wanted.items():
            present, running = written.get(name), self._sources.get(name)
            origin = self._origin(each, present)
            if renew or present is None or running is None or _begins_anew(running, origin):
                ops.append(put(source_of(each, present, self._epoch), name, self.mirror.rev(Source, name)))
                self._begin(origin)
            elif present is not None and (present.order, present.origin) != (each.order, each.origin):
                moved = msgspec.structs.replace(present, order=each.order, origin=each.origin)
                ops.append(put(moved, name, self.mirror.rev(Source, name)))
                running.look_again()  # its tasks carry the order
        for chunk in in_chunks(ops):
            await self.mirror.write(*chunk)
        for name in self._sources.keys() - wanted.keys():
            self._sources.pop(name).close()
        for name in {*wanted, *written, *self._ids}:
            self.queue.add(name)  # those that are no longer wanted are ended in their own turn

    def _origin(self, wanted: Wanted, present: Source | None) -> Origin:
        return Origin(wanted.spec, present.dev if present is not None else "", self._configuration.config.credentials)

    def _begin(self, origin: Origin, *, whole: bool = False) -> None:
        assert self._tools is not None
        name = origin.spec.name
        running = self._sources.get(name)
        if running is not None:
            running.close()
        self._sources[name] = SourceWork(origin, self._tools, self._ids.setdefault(name, set()), partial(self.queue.add, name), whole=whole)

    async def _end(self, name: str) -> None:
        """A source is gone from where it was written: its tasks go with it."""
        tasks = [delete(DesiredTask, f"{name}/{id}") for id in sorted(self._ids.get(name, ()))]
        if not tasks and self.mirror.get(Source, name) is None:
            self._ids.pop(name, None)
            return
        for chunk in in_chunks([*tasks, delete(Source, name)]):
            await self.mirror.write(*chunk)
        self._log.say(f"source/{name} removed with its {len(tasks)} tasks")
        self._wake_syncing(name, math.inf)

    # ── what people ask for ──

    async def _answer(self, token: str) -> float | None:
        request = self.mirror.get(Request, token)
        if request is None or request.answer is not None:
            return None
        try:
            message = await self._carry_out(token, request)
        except Refusal as refusal:
            await self._close(token, request, Answer(False, speakable(str(refusal)), wall_ms()))
            return None
        if message is not None:
            await self._close(token, request, Answer(True, message, wall_ms()))
        return None

    async def _close(self, token: str, request: Request, answer: Answer) -> None:
        self._syncing.pop(token, None)
        await self.mirror.write(put(msgspec.structs.replace(request, answer=answer), token, self.mirror.rev(Request, token)))

    async def _carry_out(self, token: str, request: Request) -> str | None:
        """What to answer; None: not done yet. Raises Refusal. Done twice, it changes nothing."""
        sources = dict(self.mirror.all(Source))
        match request.verb:
            case "source.add":
                return await self._add(request, sources)
            case "source.remove":
                return await self._remove(request, sources)
        source = target_of(request, sources)
        match request.verb:
            case "source.suspend":
                return await self._suspend(source, request, suspended=True)
            case "source.resume":
                return await self._suspend(source, request, suspended=False)
            case "source.dev":
                return await self._dev(token, source, request)
            case "source.plan":
                answer = self._planned(token)
                if answer is None:
                    self._plan(token, source, request)
                return answer
            case "source.confirm":
                return self._confirm(token, source)
            case _:
                return self._sync(token, source, _pushed_at(request))

    async def _add(self, request: Request, sources: dict[str, Source]) -> str:
        spec = added(request, sources)
        if spec.name not in sources:
            source = Source(name=spec.name, type=spec.type, spec=spec, origin="store", order=len(sources), epoch=self._epoch)
            await self.mirror.write(put(source, spec.name, 0), append(_event(source, "Added", f"asked for by {request.who}")))
            await self._align()
        return "added"

    async def _remove(self, request: Request, sources: dict[str, Source]) -> str:
        source = removable(request, sources, await self._line_of(request.target))
        if source is not None:
            await self.mirror.write(delete(Source, source.name), append(_event(source, "Removed", f"asked for by {request.who}")))
            await self._align()
        return "removed"

    async def _line_of(self, name: str) -> str:
        assert self._tools is not None
        file = self._settings.config
        if file is None:
            return "dicode.yaml"
        text = await asyncio.get_running_loop().run_in_executor(self._tools.disk, _text_of, file)
        return line_of(name, str(file), text)

    async def _suspend(self, source: Source, request: Request, *, suspended: bool) -> str:
        if source.suspended != suspended:
            reason = "Suspended" if suspended else "Resumed"
            after = msgspec.structs.replace(source, suspended=suspended)
            event = append(_event(source, reason, f"asked for by {request.who}"))
            await self.mirror.write(put(after, source.name, self.mirror.rev(Source, source.name)), event)
            self._log.say(f"source/{source.name} {reason.lower()}")
        if suspended:
            self._sources[source.name].freeze()
        else:
            self._sources[source.name].look_again()
        return "suspended" if suspended else "resumed"

    def _confirm(self, token: str, source: Source) -> str | None:
        running = self._sources[source.name]
        if not source.suspended and running.rounds_done == 0:
            self._syncing.setdefault(token, (source.name, 1))
            return None  # what is missing shows with the first reading
        held = running.confirm()
        return f"confirmed: {held} tasks are removed" if held else "nothing is held"

    def _sync(self, token: str, source: Source, pushed_at: float) -> str | None:
        if source.suspended:
            raise Refusal(f"source {source.name} is suspended: `dicode resume {source.name}` first")
        problem = self._waited(token, source, pushed_at)
        if problem is None:
            return None
        if problem:
            raise Refusal(problem)
        return f"read: {len(self._ids.get(source.name, ()))} tasks"

    def _waited(self, token: str, source: Source, pushed_at: float = 0.0) -> str | None:
        """None while the round this request waits for is not over; then why it could not read everything, "" when it could."""
        running = self._sources[source.name]
        if token not in self._syncing:
            self._syncing[token] = (source.name, running.look_again(pushed_at))
            return None
        if running.rounds_done < self._syncing[token][1] or not running.at_rest:
            return None
        return running.problem[1] if running.problem is not None else ""

    async def _dev(self, token: str, source: Source, request: Request) -> str | None:
        """Read the source from elsewhere, or from itself again; answered when that was read whole."""
        assert self._tools is not None
        dev = wanted_dev(source, request.args)
        if dev != source.dev:
            if dev.startswith("/"):
                why = await self._tools.on_disk(missing_place, source.spec, dev)
                if why:
                    raise Refusal(why)
            said = msgspec.structs.replace(source, dev=dev, status="pending" if not source.suspended else source.status)
            words = f"read from {dev}" if dev else "read from where dicode.yaml says"
            event = append(_event(source, "DevMode", f"{words}, asked for by {request.who}"))
            await self.mirror.write(put(said, source.name, self.mirror.rev(Source, source.name)), event)
            self._log.say(f"source/{source.name} {words}")
            self._begin(Origin(source.spec, dev, self._configuration.config.credentials), whole=True)
        if source.suspended:
            return f"{dev or 'itself'}, when it is resumed"
        problem = self._waited(token, source)
        if problem is None:
            return None
        if problem:
            raise Refusal(f"{source.name} is read from {dev or source.spec.url or source.spec.path} now, but {problem}")
        return (
            f"read from {dev}: {len(self._ids.get(source.name, ()))} tasks"
            if dev
            else f"dev mode is off: {len(self._ids.get(source.name, ()))} tasks"
        )

    def _plan(self, token: str, source: Source, request: Request) -> None:
        """Begin to plan. It may have to wait for a remote, so it takes no turn of the queue, which is told when the answer is there."""
        assert self._tools is not None
        owner = PLAN + token
        if owner in self._plans:
            return
        if len(self._plans) >= MAX_PLANS:
            raise Refusal("too many plans are being made: try again in a moment")
        planner = Planner(source, self._configuration.config.credentials, self._tools, owner, self._settings.environ)
        task = asyncio.get_running_loop().create_task(self._make_plan(planner, request), name=owner)
        self._plans[owner] = planner, task
        task.add_done_callback(lambda _: self.queue.add(REQUEST + token))

    async def _make_plan(self, planner: Planner, request: Request) -> str:
        assert self._tools is not None
        try:
            offer = await planner.offer(request.args, by_id(self.mirror.all(DesiredTask), planner.source.name))
        except Refusal:
            raise
        except Exception as error:  # whatever it is, who asked must hear of it, and asking again would not help
            self._log.say(f"plan of {planner.source.name}: {explain(error)}")
            raise Refusal(f"the plan could not be made: {explain(error)}") from error
        return await self._tools.on_disk(answer_of, offer, partial(_write_plan, self._settings.run, request.token))

    def _planned(self, token: str) -> str | None:
        """The answer to a plan, once it is made; None: not yet, or nobody has begun. Raises Refusal."""
        planned = self._plans.get(PLAN + token)
        if planned is None or not planned[1].done():
            return None
        del self._plans[PLAN + token]
        return planned[1].result()

    def _woken(self, owner: str) -> None:
        """Something is new about a repository."""
        planned = self._plans.get(owner)
        if planned is not None:
            planned[0].news.set()
        elif not owner.startswith(PLAN):
            self.queue.add(owner)


def _called(key: str) -> str:
    return "request" if key.startswith(REQUEST) else {CONFIG: "dicode.yaml", SYNCED: "sources"}.get(key, f"source/{key}")


def _event(source: Source, reason: str, message: str) -> Event:
    return Event(object=f"source/{source.name}", reason=reason, message=message, at=wall_ms(), role="source-controller")


def _text_of(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _pushed_at(request: Request) -> float:
    pushed_at = request.args.get("pushed_at", 0.0)
    return float(pushed_at) if isinstance(pushed_at, int | float) else 0.0


def _begins_anew(running: SourceWork, origin: Origin) -> bool:
    """Is it read from elsewhere, or in another way? Credentials concern only what draws from repositories."""
    before = running.origin if running.composed else running.origin._replace(credentials=origin.credentials)
    return before != origin


def _write_plan(folder: Path, token: str, said: bytes) -> str:
    """An answer that is too big for a message; who asked removes it."""
    path = folder / f"plan-{sha256(token.encode()).hexdigest()[:16]}.json"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(said)
    return str(path.absolute())


def _sweep_plans(folder: Path) -> None:
    """Those that nobody fetched."""
    for path in folder.glob("plan-*.json"):
        path.unlink(missing_ok=True)
