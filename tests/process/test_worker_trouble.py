"""A worker in trouble: real sockets, a real queue and real task processes, in one process that can make things go wrong at the right moment."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.store_desk import put, task
from tests.support.waiting import until

from dicode.messages.commands import AnyCommand, AnyReply, Claim, Enqueue, Failed, Renew, Renewed, Write, WriteAll
from dicode.messages.kinds import ENDED, Config, Run, RunTrigger
from dicode.process.logs import Log
from dicode.process.settings import Settings
from dicode.process.tasklog import read_log, run_log
from dicode.store.loop import now
from dicode.store.service import Asked, Service
from dicode.store.sqlite import Sqlite
from dicode.wire.client import Wire
from dicode.wire.frames import decode_body, endpoints
from dicode.wire.server import Server
from dicode.worker import act, decide, nursery
from dicode.worker.act import WorkerRole
from dicode.worker.job import Job

pytestmark = pytest.mark.process
SILENCE = b""
Intrusion = Callable[[AnyCommand], AnyReply | bytes | None]


def nothing(command: AnyCommand) -> None:
    """It answers for itself."""


class Store:
    """A queue on a file, asked over sockets. `instead` may answer in its place."""

    def __init__(self, settings: Settings) -> None:
        self.service = Service(Sqlite(settings.database, now()), "e")
        self.heard: list[AnyCommand] = []
        self.turns = 0
        self.instead: Intrusion = nothing
        self._server = Server(*endpoints(settings.data_dir))

    async def serve(self) -> None:
        while True:
            for peer, request, command in self._server.asked(0):
                self.heard.append(command)
                reply: Any = self.instead(command)
                if reply is None:
                    (reply,), changes = self.service.answer([Asked(request, command)], now())
                    for change in changes:
                        self._server.publish("e", *change)
                if reply != SILENCE:
                    self._server.reply(peer, request, reply)
            self._server.heartbeat("e", self.service.engine.head(), self.service.engine.heads())
            self.turns += 1
            await asyncio.sleep(0.01)

    def do(self, command: AnyCommand) -> None:
        self.service.answer([Asked(os.urandom(8), command)], now())

    def run(self, id: str) -> Run:
        run = decode_body("Run", self.service.engine.objects.get("Run", id).body)
        assert isinstance(run, Run)
        return run

    def counted(self, kind: type) -> int:
        return sum(isinstance(command, kind) for command in self.heard)

    def close(self) -> None:
        self._server.close()
        self.service.engine.close()


class Workshop:
    """Every run writes its id into `ran`. `trouble` is called when one is prepared."""

    def __init__(self, settings: Settings) -> None:
        self.ran = settings.data_dir / "ran"
        self.trouble: Callable[[Run], object] = lambda run: None
        self.script = f"echo $0 >> {self.ran}"
        self._logs = settings.logs

    def is_unpacked(self, digest: str) -> bool:
        return False

    def job(self, run: Run, config: Config, folder: str) -> Job:
        self.trouble(run)
        argv = ("/bin/sh", "-c", self.script, run.id)
        log = str(run_log(self._logs, run.id, run.attempt))
        return Job(run=run.id, task=run.task, argv=argv, cwd="/", env={}, folder=folder, log=log, kv="/nowhere", token="t", params={})

    def has_run(self) -> list[str]:
        return self.ran.read_text().split() if self.ran.exists() else []


class Scene:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings)
        self.workshop = Workshop(settings)

    def enqueue(self, id: str) -> None:
        self.store.do(Enqueue(run=Run(id=id, task="a", unique=id, trigger=RunTrigger("manual", id))))

    async def ended(self, id: str) -> Run:
        await until(lambda: self.store.run(id).status in ENDED)
        return self.store.run(id)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[WorkerRole]:
        context: Any = SimpleNamespace(settings=self.settings, name="worker-1", stopping=asyncio.Event(), log=Log("worker-1"), stop_left=lambda: 2.0)
        context.keeper = SimpleNamespace(ready=lambda: None)
        wire = Wire(*endpoints(self.settings.data_dir))
        role = WorkerRole(context, wire, ())
        role._workshop = self.workshop  # type: ignore[assignment]  # what is made of a bundle is another test's
        serving = asyncio.create_task(self.store.serve())
        working = asyncio.create_task(role.work())
        try:
            yield role
        finally:
            context.stopping.set()
            await working
            serving.cancel()
            wire.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="dcw-") as folder:  # short: a socket's path ends at 107 bytes
        settings = Settings(Path(folder) / "d", None, (), {"PATH": os.environ["PATH"]})
        settings.make()
        made = Scene(settings)
        made.store.do(Write(ops=(put(task("a"), "a"),)))
        try:
            yield made
        finally:
            made.store.close()


def test_a_claim_that_is_refused_is_not_repeated_without_a_pause(scene: Scene) -> None:
    async def watch() -> int:
        scene.store.instead = lambda command: Failed(message="the disk is full", retry=True) if isinstance(command, Claim) else None
        async with scene.worker():
            await until(lambda: scene.store.counted(Claim))
            turns = scene.store.turns
            await until(lambda: scene.store.turns > turns + 40)
            return scene.store.counted(Claim)

    assert asyncio.run(watch()) <= 20  # without a pause it is once a turn


def test_a_zygote_that_cannot_be_started_is_tried_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "START_AGAIN", 0.1)

    async def work() -> tuple[Run, Run]:
        async with scene.worker() as role:
            await until(lambda: role._nursery._spares.qsize())
            zygote = role._nursery._process
            assert zygote is not None
            with no_processes(nursery) as refused:
                os.kill(zygote.pid, signal.SIGKILL)
                await until(lambda: refused)
            scene.enqueue("r")
            scene.enqueue("s")  # one of them may have found a shepherd of the old zygote
            return await scene.ended("r"), await scene.ended("s")

    assert [run.status for run in asyncio.run(work())] == ["succeeded", "succeeded"]


@contextmanager
def no_processes(module: Any) -> Iterator[list[str]]:
    """As long as this lasts this machine starts none."""
    refused: list[str] = []

    def refuse(*args: object, **named: object) -> None:
        refused.append("")
        raise BlockingIOError("no process slot")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module.subprocess, "Popen", refuse)
        yield refused


def test_a_run_whose_lease_is_lost_while_it_is_prepared_is_not_started(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "RENEW", 0.05)
    let_go = threading.Event()

    def lost(command: AnyCommand) -> AnyReply | None:
        return Renewed(lost=tuple(one.run for one in command.held)) if isinstance(command, Renew) else None

    async def work() -> list[str]:
        scene.store.instead = lost
        scene.workshop.trouble = lambda run: let_go.wait(30)
        async with scene.worker() as role:
            scene.enqueue("r")
            await until(lambda: any(holding.refused for holding in role._holdings.by_run.values()))
            let_go.set()
            await until(lambda: not role._holdings.by_run)
        return scene.workshop.has_run()

    assert asyncio.run(work()) == []


@pytest.mark.parametrize("ours", [True, False])
def test_a_claim_that_was_slept_over_is_carried_out_if_it_can_be_renewed(scene: Scene, monkeypatch: pytest.MonkeyPatch, ours: bool) -> None:
    monkeypatch.setattr(decide, "TRUST", -1.0)  # whatever is answered comes too late

    def renewed(command: AnyCommand) -> AnyReply | None:
        if not isinstance(command, Renew):
            return None
        monkeypatch.setattr(decide, "TRUST", 1e9)
        return None if ours else Renewed(lost=tuple(one.run for one in command.held))

    async def work() -> None:
        scene.store.instead = renewed
        async with scene.worker():
            scene.enqueue("r")
            await until(lambda: scene.store.counted(Renew))
            scene.store.instead = nothing
            scene.enqueue("s")
            for id in ("r", "s") if ours else ("s",):
                assert (await scene.ended(id)).status == "succeeded"

    asyncio.run(work())
    assert sorted(scene.workshop.has_run()) == (["r", "s"] if ours else ["s"])


def test_whatever_goes_wrong_with_a_run_it_ends_and_says_so(scene: Scene) -> None:
    def fail(run: Run) -> None:
        raise ValueError("nobody foresaw this")

    async def work() -> Run:
        scene.workshop.trouble = fail
        async with scene.worker():
            scene.enqueue("r")
            return await scene.ended("r")

    run = asyncio.run(work())
    assert (run.status, run.error) == ("failed", "InternalError: ValueError: nobody foresaw this")
    assert [record.text for record in read_log(run_log(scene.settings.logs, "r", 1))] == [run.error]


def test_leases_are_kept_while_a_write_waits(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "RENEW", 0.05)
    monkeypatch.setattr(act, "TELL", 0.05)

    async def work() -> None:
        scene.workshop.script = "exec sleep 1000"
        async with scene.worker():
            await until(lambda: scene.store.counted(WriteAll))  # it is ready
            scene.store.instead = lambda command: SILENCE if isinstance(command, WriteAll) else None
            written = scene.store.counted(WriteAll)
            scene.enqueue("r")
            await until(lambda: scene.store.counted(WriteAll) > written)  # it tells that it is busy
            renewed = scene.store.counted(Renew)
            await until(lambda: scene.store.counted(Renew) > renewed + 5)
            scene.store.instead = nothing

    asyncio.run(work())
