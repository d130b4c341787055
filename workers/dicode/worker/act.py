"""The worker at work: claim what is due, carry it out, finish it; keep the leases alive meanwhile."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any

from dicode.messages.commands import Claim, Claimed, Finish, Finished, Held, Renew, Renewed
from dicode.messages.kinds import Condition, Config, Event, Result, Run, RunStatus, Worker
from dicode.process.blobs import BadBundle, Bundles, MissingBundle
from dicode.process.clock import mono, wall_ms
from dicode.process.mirror import Lost, Mirror, append, put
from dicode.process.role import Context, explain
from dicode.process.tasklog import LogWriter, run_log
from dicode.runtime.command import CannotStart, RuntimeMissing, find_program
from dicode.wire.client import Wire
from dicode.wire.frames import BadMessage, Heard, StoreAway, StoreFailed, decode_body
from dicode.worker import decide
from dicode.worker.job import Outcome, Stop
from dicode.worker.nursery import Herd, Nursery, clear, end_runs
from dicode.worker.prepare import Workshop, mark_of, runs_folder
from dicode.worker.state import Holding, Holdings

LOOK_AGAIN = 1.0  # seconds between two claims while something is queued: it may become due without a word
LOOK_ANYWAY = 10.0  # seconds between two claims when nothing is, and nobody says that there is
TELL = 2.0  # seconds between two looks whether our own object is still true
RUNTIMES_AGAIN = 15.0  # seconds between two looks for the programs that tasks need
CANCEL_GRACE = 2.0  # seconds between SIGTERM and SIGKILL of a cancelled run
GOODBYE = 1.2  # of the seconds a stopping worker has, those it needs to end its runs and say so
STOP_GRACE = 0.5  # seconds between SIGTERM and SIGKILL of a run whose worker is told to stop
CONFIG = "dicode.yaml"


class WorkerRole:
    """One worker process. `work` lives until the role is told to stop, and some seconds longer for the runs it holds."""

    def __init__(self, context: Context, wire: Wire, labels: tuple[str, ...]) -> None:
        settings = context.settings
        self._context = context
        self._wire = wire
        self._labels = labels
        self._name = context.name
        self._deaf = settings.environ.get("DICODE_TEST_DROP_HINTS") == "1"
        self._mirror = Mirror(wire, [Config, Worker], self._changed, drop_hints=self._deaf)
        self._holdings = Holdings()
        self._herds: dict[tuple[str, int], Herd] = {}  # by run and fence: a run may come back while its lost attempt still ends
        self._carrying: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        runs = runs_folder(settings, self._name)
        clear(runs)
        self._nursery = Nursery(mark_of(settings, self._name), runs, settings.environ)
        self._workshop = Workshop(settings, self._name, Bundles(settings.bundles, settings.trees))
        self._started = wall_ms()
        self._runs_head = 0  # the newest rev of any run that we heard of
        self._missing: tuple[Condition, ...] = ()
        self._missing_at = -RUNTIMES_AGAIN  # when we looked
        self._told: Worker | None = None

    @property
    def _config(self) -> Config:
        return self._mirror.get(Config, CONFIG) or Config()

    @property
    def _slots(self) -> int:
        return decide.slots(self._config.max_concurrent_runs, os.cpu_count() or 1)

    async def work(self) -> None:
        self._nursery.start()
        works = (self._mirror.run(), self._listen(), self._keep_leases(), self._keep_told())
        listening = [asyncio.create_task(work) for work in works]
        claiming = asyncio.create_task(self._claim_for_ever())
        stopping = asyncio.create_task(self._context.stopping.wait())
        try:
            done, _ = await asyncio.wait([*listening, claiming, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
            await self._wind_up(claiming)
        finally:
            waiting: list[asyncio.Task[Any]] = [*listening, claiming, stopping]
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)  # they let go of the wire before it is closed
            self._nursery.close()

    # --- what is due ---

    async def _claim_for_ever(self) -> None:
        await self._mirror.start()
        await self._tell()
        self._context.keeper.ready()
        token, pause = "", LOOK_AGAIN
        while not self._context.stopping.is_set():
            self._wake.clear()
            free = self._slots - len(self._holdings.by_run)
            more = False
            if free > 0:
                token = token or os.urandom(12).hex()
                asked_at = mono()
                try:
                    claimed = await self._wire.ask(Claim(worker=self._name, token=token, n=free, labels=self._labels), Claimed)
                except StoreAway:
                    continue  # the same token finds the same runs
                except StoreFailed:  # it says so at once: not asked again at once
                    await self._sleep(LOOK_AGAIN)
                    continue
                token, pause = "", LOOK_AGAIN if claimed.waiting or claimed.runs else LOOK_ANYWAY
                for run in claimed.runs if mono() - asked_at <= decide.TRUST else await self._still_ours(claimed.runs):
                    self._begin(run)
                more = bool(claimed.runs) and claimed.waiting > 0 and len(claimed.runs) < free
            if not more:
                await self._sleep(pause if free > 0 else LOOK_AGAIN)

    async def _still_ours(self, runs: Sequence[Run]) -> list[Run]:
        """We slept over their claim (SIGSTOP, suspend, a disk that stalled): only what can be renewed is not someone else's by now."""
        held = tuple(Held(run.id, run.fence) for run in runs)
        while not self._context.stopping.is_set():
            asked_at = mono()
            try:
                renewed = await self._wire.ask(Renew(worker=self._name, held=held), Renewed, deadline=decide.RENEW)
            except (StoreAway, StoreFailed):
                await self._sleep(LOOK_AGAIN)
                continue
            if mono() - asked_at <= decide.TRUST:
                return [run for run in runs if run.id not in renewed.lost]
        return []

    async def _sleep(self, seconds: float) -> None:
        """Until something may be due, or we stop."""
        waits = [asyncio.create_task(self._wake.wait()), asyncio.create_task(self._context.stopping.wait())]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()

    async def _listen(self) -> None:
        """Changes of runs are hints: something may be due, or one of ours is to be cancelled. A lost hint shows in the heartbeat."""
        ear = self._wire.subscribe(["Run"])
        try:
            while True:
                for heard in await ear.hear(timeout=10.0):
                    self._hear(heard)
        finally:
            ear.close()

    def _hear(self, heard: Heard) -> None:
        if heard.heads is not None:
            head = heard.heads.kinds.get("Run", 0)
            if head != self._runs_head:
                self._runs_head = head
                self._wake.set()
            return
        if self._deaf or not heard.body:
            return
        self._runs_head = max(self._runs_head, heard.header.rev)
        try:
            run = decode_body("Run", heard.body)
        except BadMessage:
            return
        if not isinstance(run, Run):
            return
        if run.status == "queued":
            self._wake.set()
        elif run.cancel and run.status == "running":
            self._cancel([each for each in self._holdings.of([run.id]) if each.run.fence == run.fence])

    def _changed(self, kind: type, key: str, cause: str) -> None:
        self._wake.set()  # more slots, perhaps

    # --- one run ---

    def _begin(self, run: Run) -> None:
        holding = self._holdings.take(run)
        if holding is not None:
            task = asyncio.create_task(self._carry_out(holding), name=f"run {run.id}")
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)

    async def _carry_out(self, holding: Holding) -> None:
        try:
            outcome = await self._execute(holding)
            await self._finish(holding, outcome)
        finally:
            self._holdings.let_go(holding)
            self._wake.set()

    async def _execute(self, holding: Holding) -> Outcome:
        run = holding.run
        try:
            herd = await self._start(holding)
        except (CannotStart, MissingBundle, BadBundle) as error:
            return self._not_started(run, str(error))
        except OSError as error:
            return self._not_started(run, f"SpawnError: {error.filename or ''} {error.strerror or error}".replace("  ", " "))
        except Exception as error:  # whatever it is: the run ends and says why
            return self._not_started(run, f"InternalError: {explain(error)}")
        if herd is None:
            return self._not_started(run, "cancelled", "cancelled")
        self._herds[run.id, run.fence] = herd
        if holding.refused:
            self._refuse([holding])
        elif holding.cancelled:
            self._cancel([holding])
        try:
            outcome = await herd.outcome()
        finally:
            del self._herds[run.id, run.fence]
        if outcome.status == "lost" and not holding.refused:
            await asyncio.to_thread(end_runs, run.id)
        return outcome

    async def _start(self, holding: Holding) -> Herd | None:
        """Have a shepherd carry it out; None when it is not to be started any more. Raises CannotStart, MissingBundle, BadBundle, OSError."""
        run = holding.run
        spare = await self._nursery.spare()
        try:
            if self._workshop.is_unpacked(run.digest):  # then it takes half a millisecond, and a thread would take another
                job = self._workshop.job(run, self._config, spare.folder)
            else:
                job = await asyncio.to_thread(self._workshop.job, run, self._config, spare.folder)
        except BaseException:
            spare.close()
            raise
        if holding.refused or holding.cancelled or run.cancel:
            spare.close()
            return None
        return await self._nursery.begin(spare, job)

    def _not_started(self, run: Run, why: str, status: RunStatus = "failed") -> Outcome:
        """It ended before its first line; its log says so."""
        outcome = Outcome(status=status, error=why)
        try:
            log = LogWriter(run_log(self._context.settings.logs, run.id, run.attempt))
        except OSError:
            return outcome
        log.say(why)
        log.close()
        return outcome

    async def _finish(self, holding: Holding, outcome: Outcome) -> None:
        """Until the store has it, or says that the run is not ours any more."""
        run, result = holding.run, None
        if outcome.value or outcome.content_type:
            result = Result(outcome.value, outcome.content_type, outcome.content)
        command = Finish(run=run.id, fence=run.fence, status=outcome.status, exit_code=outcome.exit_code, result=result, error=outcome.error)
        while not holding.refused:
            try:
                finished = await self._wire.ask(command, Finished)
            except (StoreAway, StoreFailed) as error:
                self._context.log.debug(f"run {run.id}: {error}")
                await asyncio.sleep(0.2)
                continue
            if finished.fenced:
                break
            await self._tell_people(run, outcome, finished)
            return
        self._context.log.say(f"task/{run.task} run {run.id}: its result is refused, the lease was lost")

    async def _tell_people(self, run: Run, outcome: Outcome, finished: Finished) -> None:
        if outcome.status == "succeeded":
            return
        again = ", it is tried again" if finished.status == "queued" else ""
        self._context.log.say(f"task/{run.task} run {run.id} {outcome.status.replace('_', ' ')}: {outcome.error}{again}")
        event = Event(
            object=f"task/{run.task}", type="Warning", reason="Run" + outcome.status.title().replace("_", ""),
            message=f"run {run.id}: {outcome.error}{again}", at=wall_ms(), role=self._name, cause=run.cause,
        )  # fmt: skip
        try:
            await self._mirror.write(append(event, run.cause))
        except (StoreAway, StoreFailed):
            return  # an event is for people; the run itself is finished

    # --- leases ---

    async def _keep_leases(self) -> None:
        """Nothing else is waited for here: a write may take as long as a lease lasts."""
        while True:
            await asyncio.sleep(decide.RENEW)
            held = self._holdings.held()
            if not held:
                continue
            try:
                renewed = await self._wire.ask(Renew(worker=self._name, held=held), Renewed, deadline=decide.RENEW)
            except (StoreAway, StoreFailed):
                continue  # a store that comes back has extended every lease; one that does not come back cannot give the run to another
            self._cancel(self._holdings.of(renewed.cancel, held))
            self._refuse(self._holdings.of(renewed.lost, held))

    def _cancel(self, holdings: list[Holding]) -> None:
        for holding in holdings:
            holding.cancelled = True
            self._stop(holding, Stop("cancelled", "cancelled", CANCEL_GRACE))

    def _refuse(self, holdings: list[Holding]) -> None:
        for holding in holdings:
            holding.refused = True
            self._stop(holding, Stop("lost", "the lease of this run was lost"))

    def _stop(self, holding: Holding, order: Stop) -> None:
        herd = self._herds.get((holding.run.id, holding.run.fence))
        if herd is not None:
            herd.stop(order)

    # --- the end ---

    async def _wind_up(self, claiming: asyncio.Task[None]) -> None:
        """No new runs; those under way get what time there is, then end as lost, which a `retry` repairs."""
        await asyncio.wait([claiming], timeout=0.5)
        if self._carrying:
            await asyncio.wait(self._carrying, timeout=max(0.0, self._context.stop_left() - GOODBYE))
        for holding in list(self._holdings.by_run.values()):
            self._stop(holding, Stop("lost", "interrupted: its worker was told to stop", STOP_GRACE))
        if self._carrying:
            await asyncio.wait(self._carrying, timeout=max(0.0, self._context.stop_left() - 0.2))
        await self._tell("gone")

    async def _keep_told(self) -> None:
        while True:
            await asyncio.sleep(TELL)
            await self._tell()

    async def _tell(self, state: str = "ready") -> None:
        """Keep our own object true; quiet when nothing changed."""
        if mono() - self._missing_at >= RUNTIMES_AGAIN:
            self._missing, self._missing_at = _missing_runtimes(self._context.settings.environ, self._started), mono()
        missing = self._missing
        told = Worker(
            name=self._name,
            pid=os.getpid(),
            host=socket.gethostname(),
            slots=self._slots,
            busy=len(self._holdings.by_run),
            labels=self._labels,
            runtimes=("python", "shell") if missing else ("python", "shell", "deno"),
            started=self._started,
            state="gone" if state == "gone" else "ready",
            conditions=missing,
        )
        if told == self._told:
            return
        try:
            await self._mirror.write(put(told, self._name))
            self._told = told
        except (StoreAway, StoreFailed, Lost) as error:
            self._context.log.debug(f"{self._name}: {error}")


def _missing_runtimes(environ: dict[str, str], since: int) -> tuple[Condition, ...]:
    try:
        find_program("deno", environ, "tasks in TypeScript need deno: pip install 'dicode[deno]'")
    except RuntimeMissing as missing:
        return (Condition("RuntimeMissing", True, "RuntimeMissing", str(missing), since),)
    return ()
