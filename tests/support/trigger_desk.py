"""A data folder with a real store and a real trigger-engine; a test plays reconciler, worker and caller."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from tests.support.strangers import Strangers
from tests.support.waiting import wait_for

from dicode.messages.commands import Claim, Claimed, Delete, Finish, Finished, Found, Get, List, Listing, Ping, Pong, Write, Written
from dicode.messages.kinds import Config, Kind, Result, Run, RunStatus, Task
from dicode.messages.task import TaskSpec, Trigger
from dicode.process.blobs import Bundles
from dicode.process.clock import wall_ms
from dicode.process.mirror import put
from dicode.process.settings import Settings
from dicode.wire.blocking import BlockingWire
from dicode.wire.frames import decode_body, endpoints

T = TypeVar("T")
K = TypeVar("K", bound=Kind)


class Desk(Strangers):
    """`close` stops everything, and fails when something did not go."""

    def __init__(self, folder: Path, environ: dict[str, str] | None = None) -> None:
        self.settings = Settings(folder / "data", None)
        self.settings.make()
        (self.settings.run / "source-controller.lock").touch()  # the trigger-engine takes our word for that role, too
        self.output = folder / "output.txt"
        self._environ = {**os.environ, "DICODE_DATA_DIR": str(self.settings.data_dir), **(environ or {})}
        self._environ.pop("DICODE_KEEPER_FD", None)
        self.keepers: dict[str, subprocess.Popen[bytes]] = {}
        self.wire = BlockingWire(*endpoints(self.settings.data_dir))

    def start(self, *roles: str) -> None:
        """Start the keepers of these roles."""
        for role in roles:
            with open(self.output, "ab") as output:
                command = [sys.executable, "-P", "-m", "dicode", role]
                self.keepers[role] = subprocess.Popen(
                    command, env=self._environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True
                )
            if role == "store":
                self.wire.ask(Ping(), Pong)

    def said(self) -> str:
        return self.output.read_text()

    def role_pid(self, role: str) -> int:
        """The process behind a keeper."""
        keeper = self.keepers[role].pid

        def child() -> int:
            children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
            return int(children[0]) if children else 0

        return wait_for(child, f"{role} runs")

    def signal(self, role: str, number: signal.Signals) -> None:
        """To the role itself, not to its keeper."""
        os.kill(self.role_pid(role), number)

    def close(self) -> None:
        self.wire.close()
        stuck = [role for role in reversed(self.keepers) if not _stopped(self.keepers[role])]
        assert not stuck, f"{stuck} did not stop\n{self.said()}"

    # --- the reconciler

    def write(self, *values: tuple[Kind, str]) -> None:
        self.wire.ask(Write(ops=tuple(put(value, key) for value, key in values)), Written)

    def delete(self, kind: str, key: str) -> None:
        self.wire.ask(Write(ops=(Delete(kind, key),)), Written)

    def configure(self, listen: str = "127.0.0.1:0") -> None:
        self.write((Config(hooks_listen=listen, epoch=str(wall_ms())), "dicode.yaml"))

    def bundle(self, files: Mapping[str, bytes]) -> str:
        """The digest of a bundle of these files, which is there from now on."""
        lines = [f"- {hashlib.sha256(files[path]).hexdigest()} {len(files[path])} {path}\n" for path in sorted(files)]
        manifest = f"dicode-digest/1\nspec {hashlib.sha256(b'{}').hexdigest()}\n{''.join(lines)}".encode()
        digest = hashlib.sha256(manifest).hexdigest()
        Bundles(self.settings.bundles, self.settings.trees).put(digest, manifest, b"{}", [(path, "-", content) for path, content in files.items()])
        return digest

    def register(self, id: str, trigger: Trigger, *, digest: str = "", suspended: bool = False, **spec: Any) -> None:
        digest = digest or self.bundle({"task.py": id.encode()})
        task = Task(
            id=id, source="s", digest=digest, suspended=suspended, runtime="python", generation=1, spec=TaskSpec(name=id, trigger=trigger, **spec)
        )
        self.write((task, id))

    def get(self, kind: type[K], key: str) -> K | None:
        body = self.wire.ask(Get(what=kind.__name__, key=key), Found).body
        return decode_body(kind.__name__, body) if body else None  # type: ignore[return-value]  # the body of that kind

    def all(self, kind: type[K]) -> list[K]:
        found: list[Any] = []
        listing = self.wire.ask(List(what=kind.__name__), Listing)
        while True:
            found += [decode_body(kind.__name__, change.body) for change in listing.changes if change.body is not None]
            if not listing.more:
                return found
            listing = self.wire.ask(List(what=kind.__name__, after=listing.changes[-1].rev), Listing)

    # --- the worker

    def finish_next(self, status: RunStatus = "succeeded", result: Result | None = None, error: str = "") -> Run:
        """Claim the next run and end it so."""

        def claimed() -> Run | None:
            return next(iter(self.wire.ask(Claim(worker="w", token=os.urandom(8).hex(), n=1), Claimed).runs), None)

        run = wait_for(claimed, "a run is on the queue")
        assert run is not None
        self.wire.ask(Finish(run=run.id, fence=run.fence, status=status, result=result, error=error), Finished)
        return run

    # --- the caller

    @property
    def address(self) -> tuple[str, int]:
        """Where the hooks are."""
        path = self.settings.run / "hooks.addr"
        wait_for(path.exists, "the hooks are listened for")
        host, _, port = path.read_text().strip().rpartition(":")
        return host, int(port)

    def serves(self, path: str) -> None:
        """Wait until a hook at this path answers something else than 404."""
        wait_for(lambda: self.call(path, method="PUT").status != 404, f"{path} is served")


def _stopped(keeper: subprocess.Popen[bytes]) -> bool:
    keeper.terminate()
    try:
        keeper.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(keeper.pid, signal.SIGKILL)
        keeper.wait()
        return False
    return True
