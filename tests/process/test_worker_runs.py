"""Runs from the queue to their result: a real store, real workers, real task processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dicode.messages.commands import Cancel, Enqueue, Enqueued, Found, Get, Write, Written
from dicode.messages.kinds import ENDED, Run, RunTrigger, Task, Worker
from dicode.messages.task import EnvGrant, Param, Permissions, Retry, TaskSpec, Trigger
from dicode.process.blobs import Bundles
from dicode.process.clock import mono
from dicode.process.mirror import put
from dicode.process.settings import Settings
from dicode.process.tasklog import LOG_MAX, Record, read_log, run_log
from dicode.spec.runs import run_id
from dicode.wire.blocking import BlockingWire
from dicode.wire.frames import StoreAway, decode_body, endpoints

pytestmark = pytest.mark.process
HOST = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8", "HOST_SECRET": "canary"}


def until(fact: Callable[[], Any], what: str, within: float = 20.0) -> Any:
    """The fact, once it is one. Fails after `within` seconds."""
    deadline = mono() + within
    pause = threading.Event()
    while not (found := fact()):
        assert mono() < deadline, f"not within {within} s: {what}"
        pause.wait(0.01)
    return found


class Installation:
    """A data folder with a store, and as many workers as a test starts."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(folder / "data", None)
        self.settings.make()
        self.output = folder / "output.txt"
        self.roles: list[subprocess.Popen[bytes]] = []
        self.wire = BlockingWire(*endpoints(self.settings.data_dir))
        self._count = 0

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        with open(self.output, "ab") as output:
            role = subprocess.Popen(
                [sys.executable, "-P", "-m", "dicode", *words],
                env={**HOST, **COVERAGE, "DICODE_DATA_DIR": str(self.settings.data_dir)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
            )
        self.roles.append(role)
        return role

    def start_worker(self, *words: str) -> subprocess.Popen[bytes]:
        """A worker's keeper, once its worker is ready."""
        keeper = self.start("worker", *words)
        name = f"worker-{sum('worker' in role.args for role in self.roles)}"  # type: ignore[operator]
        until(lambda: (worker := self.get("Worker", name)) is not None and worker.state == "ready", f"{name} is ready")
        return keeper

    def stop(self, role: subprocess.Popen[bytes]) -> int:
        role.terminate()
        return role.wait(10)

    def close(self) -> None:
        for role in reversed(self.roles):
            if role.poll() is None:
                self.stop(role)
        self.wire.close()
        left = processes_of(self.settings.data_dir)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"left behind: {left}"

    def get(self, kind: str, key: str) -> Any:
        try:
            found = self.wire.ask(Get(what=kind, key=key), Found)
        except StoreAway:
            return None
        return decode_body(kind, found.body) if found.rev else None

    def task(self, id: str, files: dict[str, str | bytes], **spec: Any) -> str:
        """Register a task as the reconciler would. Gives its digest."""
        trigger = spec.pop("trigger", Trigger(manual=True))
        wanted = TaskSpec(name=id, trigger=trigger, **spec)
        digest = bundle(self.settings, wanted, files)
        names = {"task.py": "python", "task.sh": "shell", "task": "shell", "task.ts": "deno", "task.js": "deno"}
        runtime = wanted.runtime or next(names[name] for name in files if name in names)
        task = Task(id=id, source="tests", digest=digest, process=digest, spec=wanted, runtime=runtime, generation=1)  # type: ignore[arg-type]
        self.wire.ask(Write(ops=(put(task, id),)), Written)
        return digest

    def enqueue(self, task: str, **fields: Any) -> str:
        self._count += 1
        key = f"{task}-{self._count}"
        run = Run(id=run_id(task, "manual", key), task=task, unique=key, trigger=RunTrigger("manual", key), **fields)
        return self.wire.ask(Enqueue(run=run), Enqueued).run

    def ended(self, run: str, within: float = 30.0) -> Run:
        def end() -> Run | None:
            found = self.get("Run", run)
            return found if found is not None and found.status in ENDED else None

        return until(end, f"run {run} has ended", within)  # type: ignore[no-any-return]

    def run(self, task: str, **fields: Any) -> Run:
        return self.ended(self.enqueue(task, **fields))

    def log(self, run: Run) -> list[Record]:
        return list(read_log(run_log(self.settings.logs, run.id, run.attempt)))

    def printed(self, run: Run, stream: str = "o") -> list[str]:
        return [record.text for record in self.log(run) if record.stream == stream]


COVERAGE = {name: value for name, value in os.environ.items() if name.startswith("COV") or name == "PYTHONPATH"}


def bundle(settings: Settings, spec: TaskSpec, files: dict[str, str | bytes]) -> str:
    """The bundle of a task with these files; `task` and names ending in `!` are executable."""
    spec_json = msgspec.json.encode(spec, order="deterministic")
    entries = sorted(
        (name.rstrip("!"), "x" if name == "task" or name.endswith("!") else "-", text.encode() if isinstance(text, str) else text)
        for name, text in files.items()
    )
    lines = [f"{kind} {hashlib.sha256(text).hexdigest()} {len(text)} {name}\n" for name, kind, text in entries]
    manifest = f"dicode-digest/1\nspec {hashlib.sha256(spec_json).hexdigest()}\n{''.join(lines)}".encode()
    digest = hashlib.sha256(manifest).hexdigest()
    Bundles(settings.bundles, settings.trees).put(digest, manifest, spec_json, entries)
    return digest


def processes_of(data_dir: Path) -> list[int]:
    """Processes that stand in a tree of this installation, or were started as part of it."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                here = os.readlink(f"/proc/{name}/cwd")
                environ = Path(f"/proc/{name}/environ").read_bytes()
                zombie = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            if not zombie and (here.startswith(str(data_dir)) or str(data_dir).encode() in environ):
                found.append(int(name))
    return found


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A store and one worker, shared by the tests that harm neither."""
    installation = Installation(tmp_path_factory.mktemp("worker"))
    try:
        installation.start("store")
        installation.start_worker()
        yield installation
    finally:
        print(installation.output.read_text())
        installation.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Installation]:
    """A store alone, for a test that kills and starts workers."""
    installation = Installation(tmp_path)
    try:
        installation.start("store")
        yield installation
    finally:
        print(installation.output.read_text())
        installation.close()


# --- python


def test_main_is_given_what_it_asks_for_and_its_return_value_is_the_result(here: Installation) -> None:
    script = "def main(params, input, log):\n    log.info('hello', params['who'])\n    return {'got': input, 'n': params['n']}\n"
    here.task("py/main", {"task.py": script}, params=(Param(name="who"), Param(name="n", type="number", default="4")))
    run = here.run("py/main", params={"who": "ada"}, input='{"x": [1]}')
    assert (run.status, run.exit_code, run.error) == ("succeeded", 0, "")
    assert run.result is not None and json.loads(run.result.value) == {"got": {"x": [1]}, "n": 4}
    assert here.printed(run) == ["hello ada"]
