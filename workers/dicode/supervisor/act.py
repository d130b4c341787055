"""The supervisor's shell: it gathers the facts of one daemon, asks `next_step`, and does that."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress

import msgspec
import psutil
from msgspec.structs import replace

from dicode.messages.commands import Append, Delete, Put
from dicode.messages.kinds import Answer, Config, Daemon, Event, Kind, Request, Task
from dicode.process.blobs import Bundles
from dicode.process.child import Child, spawn
from dicode.process.clock import wall_ms
from dicode.process.mirror import Mirror, append, delete, put
from dicode.process.queue import KeyedQueue
from dicode.process.role import Context, explain
from dicode.process.tasklog import Stream, daemon_log
from dicode.runtime.command import CannotStart
from dicode.supervisor.adopt import KEEPER_TELLS, PIPES, adopt, ended, listen, stale
from dicode.supervisor.family import ask_to_go, end, is_left
from dicode.supervisor.figures import figures
from dicode.supervisor.launch import DAEMON_ID, Launcher, Ready, trouble_of
from dicode.supervisor.lifecycle import (
    LIVE,
    Absent,
    Alive,
    Bury,
    Ended,
    Facts,
    Forget,
    Kill,
    Nothing,
    Prepare,
    Process,
    Relabel,
    Said,
    Start,
    Step,
    Stop,
    Wait,
    next_step,
)
from dicode.supervisor.output import Outputs, pipe
from dicode.supervisor.records import Records, StillHeld
from dicode.supervisor.state import Held
from dicode.wire.client import Wire

WIDTH = 32  # daemons worked on at once; most of that time is waiting
LEAVE_EARLY = 0.8  # seconds of our time to go that are for SIGKILL and the last writing
LOOK_AGAIN = 0.01  # seconds until the loop has been told of an end
KILL_AGAIN = 0.2  # seconds until we try again to kill what is still there
LOCK_TRIES = 50
BUILD_DEADLINE = 900.0  # seconds to build the environment of a daemon
FIGURES = "daemon.figures"  # verb of a Request
EVENTS_KEPT = 100  # of one daemon, while the store is away


class Interrupted(Exception):
    """What was being made ready is not wanted any more."""


class Supervisor:
    """Keeps the daemons among the registered tasks running. All methods belong to the event loop."""

    def __init__(self, context: Context, wire: Wire, *, drop_hints: bool = False) -> None:
        settings = context.settings
        self.mirror = Mirror(wire, (Task, Daemon, Request, Config), self._changed, drop_hints=drop_hints)
        self.queue: KeyedQueue[str] = KeyedQueue(self._work, on_error=self._failed, width=WIDTH)
        self.writing: KeyedQueue[str] = KeyedQueue(self._write, on_error=self._unwritten, width=WIDTH)
        self.answering: KeyedQueue[str] = KeyedQueue(self._answer, on_error=self._unwritten, width=2)
        self._context = context
        self._keeper = context.keeper
        self._log = context.log
        self._logs = settings.logs
        self._launcher = Launcher(settings, Bundles(settings.bundles, settings.trees))
        (settings.run / "daemons").mkdir(mode=0o700, exist_ok=True)
        (settings.logs / "daemon").mkdir(mode=0o700, exist_ok=True)
        self._records = Records(settings.run / "daemons")
        self._outputs = Outputs()
        self._book: dict[str, Held] = {}
        self._exits = dict(context.keeper.exits)
        self._untold: dict[str, list[Event]] = {}  # events that are not in the store yet
        self._started = False  # the tables are full: from now on absence means something
        self._leave_by: int | None = None
        self._gone = asyncio.Event()  # nothing runs any more; of interest when we leave
        context.on_exit = self._orphan_ended

    # ---- life

    async def take_up(self) -> None:
        """Hold again what a supervisor before us has left running."""
        self._book = await adopt(self._records, self._exits, self._launcher.installation())
        for task, held in self._book.items():
            if held.child is not None or held.exit:
                listen(held, self._keeper.kept, self._outputs, self._logs)
            if held.child is not None:
                self._await_end(task, held, held.child)
                if held.daemon is not None and held.daemon.state == "stopping":  # it may not have been told yet; twice does no harm
                    await ask_to_go(held.child, held.daemon, self._records)
        for name in stale(list(self._keeper.kept), self._book):
            os.close(self._keeper.kept[name])
            self._keeper.drop(name)

    async def live(self, *, keep_daemons: bool) -> None:
        """Supervise until the role is told to stop, then leave. Raises what goes wrong in any part; the daemons live on then."""
        await self.take_up()
        works = [self.mirror.run(), self.queue.run(), self.writing.run(), self.answering.run(), self._begin()]
        tasks = [asyncio.create_task(work) for work in works]
        stopping = asyncio.create_task(self._context.stopping.wait(), name="stopping")
        try:
            running = set(tasks)
            while not stopping.done():
                done, _ = await asyncio.wait({stopping, *running}, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stopping}:
                    await task
                    running.discard(task)
            await self.leave(keep_daemons=keep_daemons)
        finally:
            for task in (stopping, *tasks):
                task.cancel()
            await asyncio.gather(stopping, *tasks, return_exceptions=True)
            self._close()

    async def _begin(self) -> None:
        await self.mirror.start()
        self._started = True
        for task, daemon in self.mirror.all(Daemon):
            if task not in self._book:
                self._book[task] = Held(daemon if daemon.state not in LIVE else replace(daemon, state="stopped", pid=0))
        for task in {*self._book, *(id for id, task in self.mirror.all(Task) if _is_daemon(task))}:
            self.queue.add(task)
            self.writing.add(task)  # a supervisor before us may have died between doing and saying so
        for token, _ in self.mirror.all(Request):
            self._changed(Request, token, "")
        self._keeper.ready()

    async def leave(self, *, keep_daemons: bool) -> None:
        """Stop all daemons, side by side, in the time that is left; or leave them to whoever comes next."""
        if not keep_daemons:
            self._leave_by = wall_ms() + int(max(0.0, self._context.stop_left() - LEAVE_EARLY) * 1000)
            self._interrupt(self._book)
            for task in self._book:
                self.queue.add(task)
            self._note_gone()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), max(0.0, self._context.stop_left() - LEAVE_EARLY / 4))
        with suppress(TimeoutError):
            await asyncio.wait_for(self.writing.idle(), max(0.0, self._context.stop_left() - LEAVE_EARLY / 8))

    def _close(self) -> None:
        self._outputs.stop()
        for held in self._book.values():
            if held.child is not None:
                asyncio.get_running_loop().remove_reader(held.child)
                held.child.close()

    def _note_gone(self) -> None:
        if all(held.child is None and not held.exit for held in self._book.values()):
            self._gone.set()

    # ---- hints

    def _changed(self, kind: type[Kind], key: str, cause: str) -> None:
        if not self._started:
            return  # everything is looked at when the tables are full
        if kind is Task:
            task = self.mirror.get(Task, key)
            if key in self._book or _is_daemon(task):
                self._interrupt([key], unless=task.digest if task is not None and not task.suspended else "")
                self.queue.add(key)
        elif kind is Daemon and key in self._book:
            self.writing.add(key)
        elif kind is Request:
            request = self.mirror.get(Request, key)
            if request is not None and request.verb == FIGURES and request.answer is None:
                self.answering.add(key)

    def _interrupt(self, tasks: Iterable[str], unless: str = "") -> None:
        for task in tasks:
            held = self._book.get(task)
            if held is not None and held.making_ready is not None and held.making_ready[0] != unless:
                held.making_ready[1].cancel()

    def _orphan_ended(self, pid: int, code: int) -> None:
        for task, held in self._book.items():
            if held.adopted and held.child is not None and held.child.pid == pid:
                self._ended(task, held, held.child, code)
                return
        self._exits[pid] = code

    def _await_end(self, task: str, held: Held, child: Child) -> None:
        loop = asyncio.get_running_loop()

        def readable() -> None:
            loop.remove_reader(child)
            child.ended()
            if held.adopted:
                loop.call_later(KEEPER_TELLS, self._ended, task, held, child, None)
            else:
                self._ended(task, held, child, child.exit_code)

        loop.add_reader(child, readable)

    def _ended(self, task: str, held: Held, child: Child, code: int | None) -> None:
        if held.child is not child or held.exit or not child.ended():
            return  # told twice
        ended(held, code)
        self.queue.add(task)

    # ---- one daemon

    async def _work(self, task: str) -> float | None:
        held = self._book.get(task) or Held()
        while True:
            step = next_step(await self._facts(task, held))
            if not isinstance(step, Nothing | Wait):
                self._book[task] = held
            match step:
                case Nothing():
                    return None
                case Wait(until=until):
                    return max(0.0, (until - wall_ms()) / 1000)
                case Kill():
                    launch = held.daemon.launch if held.daemon else ""
                    return LOOK_AGAIN if await end(self._records, task, launch, held.child) else KILL_AGAIN
                case _:
                    await self._do(task, held, step)

    async def _facts(self, task: str, held: Held) -> Facts:
        process = await self._seen(held)
        return Facts(task, self.mirror.get(Task, task), held.daemon, process, wall_ms(), held.prepared, held.trouble, self._leave_by)

    async def _seen(self, held: Held) -> Process:
        if held.exit:
            left = held.daemon is not None and await asyncio.to_thread(is_left, held.daemon, self._records)
            return Ended(held.exit, held.clean, leftovers=left)
        return Absent() if held.child is None else Alive()

    async def _do(self, task: str, held: Held, step: Step) -> None:
        match step:
            case Prepare():
                await self._prepare(task, held)
            case Start(daemon=daemon):
                await self._start(task, held, daemon)
            case Stop(daemon=daemon, said=said):
                self._become(task, held, daemon, said)
                if held.child is not None:
                    await ask_to_go(held.child, daemon, self._records)
            case Bury(daemon=daemon, said=said):
                await self._bury(task, held, daemon, said)
            case Relabel(daemon=daemon, said=said):
                held.trouble = None
                self._become(task, held, daemon, said)
            case Forget():
                self._records.forget(task)
                held.daemon = None
                self._book.pop(task, None)
                self.writing.add(task)
            case _:
                raise TypeError(f"{step} is for _work")

    def _become(self, task: str, held: Held, daemon: Daemon, said: Said | None) -> None:
        """The daemon is now this: remembered here at once, in the store soon."""
        held.daemon = daemon
        if daemon.pid:
            with suppress(OSError):  # a full disk: after a crash of ours this process would be started anew
                self._records.note(daemon)
        if said is not None:
            self._tell(task, said)
        self.writing.add(task)

    def _tell(self, task: str, said: Said) -> None:
        event = Event(
            object=f"task/{task}",
            type="Warning" if said.warning else "Normal",
            reason=said.reason,
            message=said.message,
            at=wall_ms(),
            role="supervisor",
        )
        self._untold[task] = [*self._untold.get(task, ()), event][-EVENTS_KEPT:]
        if self._leave_by is None:
            self._log.say(f"task/{task} {said.message}", task=task)

    # ---- start

    async def _prepare(self, task: str, held: Held) -> None:
        wanted = self.mirror.get(Task, task)
        if wanted is None or not wanted.digest:
            return
        try:
            await self._ready(held, wanted)
        except Interrupted:
            return
        except Exception as error:
            held.trouble = trouble_of(wanted.digest, error)
            return
        held.prepared = wanted.digest

    async def _start(self, task: str, held: Held, daemon: Daemon) -> None:
        wanted = self.mirror.get(Task, task)
        if wanted is None or wanted.digest != daemon.digest:
            return  # it has changed since: decide anew
        try:
            ready = await self._ready(held, wanted)
            if self._leave_by is None:
                await self._spawn(task, held, daemon, ready)
        except Interrupted:
            return
        except StillHeld:
            held.trouble = trouble_of(wanted.digest, CannotStart("StillThere: something of the last start is still there and does not die"))
        except Exception as error:
            held.trouble = trouble_of(wanted.digest, error)

    async def _ready(self, held: Held, task: Task) -> Ready:
        """Everything that can be done before the process exists. Raises what Launcher.ready does, and Interrupted."""
        making = asyncio.create_task(self._make_ready(task), name=f"make {task.id} ready")
        held.making_ready = task.digest, making
        try:
            await asyncio.wait((making,))
        finally:
            held.making_ready = None
            making.cancel()
        if making.cancelled():
            raise Interrupted
        return making.result()

    async def _make_ready(self, task: Task) -> Ready:
        config = self.mirror.get(Config, "dicode.yaml")
        ready = await asyncio.to_thread(self._launcher.ready, task, config.withheld_env if config else ())
        if ready.build:
            await _build(ready.build, self._context.settings.environ)
        return ready

    async def _spawn(self, task: str, held: Held, daemon: Daemon, ready: Ready) -> None:
        """Everything that finds the process again stands before the process does. Raises OSError, StillHeld."""
        lock = await self._lock(task)
        log = daemon_log(self._logs, task)
        starting = replace(daemon, launch=self._launcher.new_launch(), log=f"daemon/{log.name}")
        theirs: dict[Stream, int] = {}
        ours: dict[Stream, int] = {}
        try:
            self._records.note(starting)
            for stream, (name, _) in PIPES.items():
                ours[stream], theirs[stream] = pipe()
                self._keeper.keep(f"{name}:{starting.launch}", ours[stream])
            child = spawn(
                ready.argv, env={**ready.env, DAEMON_ID: starting.launch}, cwd=ready.cwd,
                stdout_fd=theirs["o"], stderr_fd=theirs["e"], pass_fds=(lock,),
            )  # fmt: skip
        except Exception:
            await end(self._records, task, starting.launch)
            self._drop_pipes(starting.launch)
            self._records.clear(task)
            for fd in ours.values():
                os.close(fd)
            raise
        finally:
            for fd in (lock, *theirs.values()):
                os.close(fd)
        boot_id, pid, start_time = child.identity
        held.child, held.exit, held.adopted, held.prepared, held.trouble = child, "", False, "", None
        self._become(task, held, replace(starting, pid=pid, start_time=start_time, boot_id=boot_id), None)
        self._outputs.follow(starting.launch, log, ours)
        self._outputs.say(starting.launch, f"started (hash: {starting.digest[:6]}, pid {pid})")
        self._await_end(task, held, child)

    async def _lock(self, task: str) -> int:
        """The lock, after ending whoever still has it. Raises StillHeld, OSError."""
        for _ in range(LOCK_TRIES):
            with suppress(StillHeld):
                return self._records.take(task)
            await end(self._records, task, "")
            await asyncio.sleep(LOOK_AGAIN)
        return self._records.take(task)

    # ---- end

    async def _bury(self, task: str, held: Held, daemon: Daemon, said: Said | None) -> None:
        await asyncio.wrap_future(self._outputs.finish(daemon.launch, last=daemon.exit))
        self._drop_pipes(daemon.launch)
        self._records.clear(task)
        if held.child is not None:
            asyncio.get_running_loop().remove_reader(held.child)
            held.child.close()
        held.child, held.exit, held.clean, held.adopted = None, "", False, False
        self._become(task, held, daemon, said)
        self._note_gone()

    def _drop_pipes(self, launch: str) -> None:
        for name, _ in PIPES.values():
            self._keeper.drop(f"{name}:{launch}")

    # ---- the store

    def _failed(self, key: str, error: BaseException, delay: float) -> None:
        self._log.say(f"task/{key}: {explain(error)}; tried again in {delay:g} s", task=key)

    def _unwritten(self, key: str, error: BaseException, delay: float) -> None:
        self._log.debug(f"{key} is not in the store yet: {explain(error)}; again in {delay:g} s")

    async def _write(self, task: str) -> None:
        """Have the store say what we hold."""
        daemon = held.daemon if (held := self._book.get(task)) else None
        events = self._untold.pop(task, [])
        operations: list[Put | Delete | Append] = [append(event) for event in events]
        revision = self.mirror.rev(Daemon, task)
        if daemon is None and revision:
            operations.append(delete(Daemon, task, revision))
        elif daemon is not None and daemon != self.mirror.get(Daemon, task):
            operations.append(put(daemon, task, revision))
        if not operations:
            return
        try:
            await self.mirror.write(*operations)
        except Exception:
            self._untold[task] = [*events, *self._untold.get(task, ())][-EVENTS_KEPT:]
            raise

    async def _answer(self, token: str) -> None:
        request = self.mirror.get(Request, token)
        if request is None or request.answer is not None:
            return
        answer = await self._measured(request.target)
        await self.mirror.write(put(replace(request, answer=answer), token, self.mirror.rev(Request, token)))

    async def _measured(self, task: str) -> Answer:
        held = self._book.get(task)
        if held is None or held.child is None:
            return Answer(False, f"task {task} has no process now", wall_ms())
        try:
            return Answer(True, msgspec.json.encode(await figures(held.child.pid)).decode(), wall_ms())
        except psutil.Error:
            return Answer(False, f"task {task} has no process now", wall_ms())


def _is_daemon(task: Task | None) -> bool:
    return task is not None and task.spec is not None and task.spec.trigger.type == "daemon"


async def _build(argv: tuple[str, ...], environ: dict[str, str]) -> None:
    """Build the environment a daemon needs. Raises CannotStart."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, words = await asyncio.wait_for(process.communicate(), BUILD_DEADLINE)
    except TimeoutError:
        raise CannotStart(f"DependenciesFailed: not built within {BUILD_DEADLINE:.0f} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        last = words.decode(errors="replace").strip().splitlines()[-3:]
        raise CannotStart(" · ".join(last) if last else f"DependenciesFailed: exit code {process.returncode}")
