"""All sources together: dicode.yaml and what was added, what people ask for, and a queue that gives each its turns."""

from __future__ import annotations

import asyncio
import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

from dicode.messages.kinds import Answer, Config, ConfigSource, DesiredTask, Event, Kind, Request, Source
from dicode.process.blobs import Bundles
from dicode.process.clock import mono, wall_ms
from dicode.process.logs import Log
from dicode.process.mirror import Lost, Mirror, append, delete, put
from dicode.process.queue import KeyedQueue
from dicode.process.role import explain
from dicode.process.settings import Settings
from dicode.source.act import LocalSource, Op, Tools, in_chunks
from dicode.source.configuration import CONFIG_KEY, Configuration
from dicode.source.decide import source_of, wanted_sources
from dicode.source.requests import VERBS, Refusal, added, line_of, removable, target_of
from dicode.source.snapshot import way_to
from dicode.source.state import Touched
from dicode.source.watch import Watcher, open_watcher
from dicode.wire.client import Wire
from dicode.wire.frames import StoreAway, StoreFailed

KINDS: tuple[type[Kind], ...] = (Config, Source, DesiredTask, Request)
REQUEST = "request:"  # keys of the queue: names of sources, requests behind this prefix (no name holds a colon), and
CONFIG = "config:"  # the configuration; as an owner of watches, too
CONFIG_SETTLE = 0.01  # seconds dicode.yaml must lie still
CONFIG_UNREST = 0.1  # seconds after which it is read anyway
CONFIG_ROUND = 10.0  # seconds between two looks at it that no event asked for
STORE_WAIT = 0.5  # seconds before the store is asked again, when it could not
LOST_WAIT = 0.05  # seconds before a write is tried again that was made from an old state
WIDTH = 4  # sources that have a turn at the same time: one reads while others write


class SourceController:
    """Files → DesiredTask and bundles, for every source there is."""

    def __init__(self, wire: Wire, settings: Settings, log: Log, *, drop_hints: bool = False) -> None:
        self.mirror = Mirror(wire, KINDS, self._changed, drop_hints=drop_hints)
        self.queue: KeyedQueue[str] = KeyedQueue(self._work, on_error=self._failed, width=WIDTH)
        self._settings = settings
        self._log = log
        self._epoch = str(wall_ms())
        self._ids: dict[str, set[str]] = {}  # source → ids that are written
        self._sources: dict[str, LocalSource] = {}
        self._syncing: dict[str, tuple[str, int]] = {}  # token of a request → source, the round it waits for
        self._configuration = Configuration(settings)
        self._config_touched = (0.0, 0.0)  # first and last event that has not been looked at
        self._config_writing = False
        self._tools: Tools | None = None

    async def start(self) -> None:
        """Learn what is written, read dicode.yaml and say what will be read. Raises NoConfig when there is no good one."""
        await self.mirror.start()  # nothing may be decided from absence before the tables are full
        loop = asyncio.get_running_loop()
        disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        bundles = Bundles(self._settings.bundles, self._settings.trees)
        working_dir = os.path.realpath(os.getcwd())
        self._tools = Tools(self.mirror, bundles, self._log, disk, self._open_watcher(loop), working_dir, os.path.realpath(self._settings.data_dir))
        await loop.run_in_executor(disk, bundles.sweep)
        await self._configure(first=True)
        self.queue.add(CONFIG)
        for token, request in self.mirror.all(Request):
            self._consider(token, request)

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
        self._log.say(f"{key.removesuffix(':')}: {explain(error)}; again in {delay:g} s")

    # ── what we do ──

    async def _work(self, key: str) -> float | None:
        try:
            if key == CONFIG:
                return await self._look_at_config()
            if key.startswith(REQUEST):
                return await self._answer(key.removeprefix(REQUEST))
            return await self._turn(key)
        except (StoreAway, StoreFailed):
            return STORE_WAIT  # the store says what is wrong with it
        except Lost:
            return LOST_WAIT  # our copy of what is written is old; it is made new all the time

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
            if renew or present is None or running is None or running.spec != each.spec:
                ops.append(put(source_of(each, present, self._epoch), name, self.mirror.rev(Source, name)))
                self._begin(each.spec)
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

    def _begin(self, spec: ConfigSource) -> None:
        assert self._tools is not None
        running = self._sources.get(spec.name)
        if running is not None:
            running.close()
        self._sources[spec.name] = LocalSource(spec, self._tools, self._ids.setdefault(spec.name, set()), partial(self.queue.add, spec.name))

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
            await self._close(token, request, Answer(False, str(refusal), wall_ms()))
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
            case "source.confirm":
                held = self._sources[source.name].confirm()
                return f"confirmed: {held} tasks are removed" if held else "nothing is held"
            case _:
                return self._sync(token, source)

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
        if not suspended:
            self._sources[source.name].look_again()
        return "suspended" if suspended else "resumed"

    def _sync(self, token: str, source: Source) -> str | None:
        running = self._sources[source.name]
        if source.suspended:
            raise Refusal(f"source {source.name} is suspended: `dicode resume {source.name}` first")
        if token not in self._syncing:
            self._syncing[token] = (source.name, running.look_again())
            return None
        if running.rounds_done < self._syncing[token][1] or not running.at_rest:
            return None
        if running.problem is not None:
            raise Refusal(running.problem[1])
        return f"read: {len(self._ids.get(source.name, ()))} tasks"


def _event(source: Source, reason: str, message: str) -> Event:
    return Event(object=f"source/{source.name}", reason=reason, message=message, at=wall_ms(), role="source-controller")


def _text_of(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
