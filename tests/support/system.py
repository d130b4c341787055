"""A whole installation of its own for one test: real commands, real processes, and nothing of it left at the end."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.support import processes
from tests.support.waiting import DEADLINE, wait_for

from dicode.messages.commands import AnyCommand, Reply, Write, Written
from dicode.messages.kinds import Answer, Kind, Request
from dicode.process.mirror import put
from dicode.store.read import Reader
from dicode.wire.blocking import BlockingWire
from dicode.wire.frames import endpoints

K = TypeVar("K", bound=Kind)
R = TypeVar("R", bound=Reply)
REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DICODE = str(BIN / "dicode")
STOPS_WITHIN = 5.0  # seconds: then a Procfile manager kills
SLACK = 3.0  # seconds more that a busy machine may need
TASK_ONLY_ENV = ("PATH", "HOME", "LANG")


class System:
    """`home` holds dicode.yaml, `tasks/` (the one source) and `data/`. What it started is ended by `close`, which fails if that was not easy."""

    def __init__(self, home: Path | None = None) -> None:
        self._made = home is None
        # Short, for the name of a socket has 107 bytes and pytest's own folders are long.
        self.home = home or Path(tempfile.mkdtemp(prefix="dic", dir="/tmp"))
        self.data = self.home / "data"
        self.tasks = self.home / "tasks"
        self.tasks.mkdir(exist_ok=True)
        self.mark = secrets.token_hex(8)
        self.output = self.home / "output"
        self.started: list[subprocess.Popen[bytes]] = []
        self._wire: BlockingWire | None = None
        self.write_config()

    # ---- files

    def write_config(self, text: str = "") -> Path:
        """dicode.yaml with free ports; `text` (more keys) takes the place of `sources:` if it has any."""
        sources = "" if "sources:" in text else "sources:\n  - {name: tasks, type: local, path: ./tasks}\n"
        hooks = "" if "hooks:" in text else 'hooks: {listen: "127.0.0.1:0"}\n'
        admin = "" if "admin:" in text else 'admin: {listen: "127.0.0.1:0"}\n'
        path = self.home / "dicode.yaml"
        _write(path, f"data_dir: ./data\n{sources}{hooks}{admin}{text}")
        return path

    def write_task(self, id: str, yaml: str, **files: str) -> Path:
        """tasks/<id>/task.yaml and the scripts, named `task_sh="…"` for task.sh; the yaml last. Replaced files are renamed into place."""
        folder = self.tasks / id
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = folder / name.replace("_", ".")
            _write(path, text)
        _write(folder / "task.yaml", yaml)
        return folder

    # ---- processes

    def environ(self, **more: str) -> dict[str, str]:
        passed = {name: value for name, value in os.environ.items() if name in TASK_ONLY_ENV or name.startswith(("COVERAGE_", "PYTHON"))}
        return {
            **passed,
            "PATH": f"{BIN}:{passed.get('PATH', '/usr/bin:/bin')}",
            "DICODE_CONFIG": str(self.home / "dicode.yaml"),
            processes.MARK: self.mark,
            **more,
        }

    def start(self, *words: str, cwd: Path | None = None, **environ: str) -> subprocess.Popen[bytes]:
        """`dicode <words>` in a session of its own, output to a file."""
        return self.start_program([DICODE, *words], cwd, (), **environ)

    def up(self, *words: str, **environ: str) -> subprocess.Popen[bytes]:
        """`dicode up`, when all its roles have their locks."""
        return self._when_locked(self.start("up", *words, cwd=None, **environ))

    def honcho(self, *words: str, **environ: str) -> subprocess.Popen[bytes]:
        """`honcho start` with the Procfile of the repository."""
        return self.start_program(
            [str(BIN / "honcho"), "-f", str(REPOSITORY / "Procfile"), "-d", str(self.home), "start", *words], None, (), **environ
        )

    def start_program(self, argv: list[str], cwd: Path | None = None, pass_fds: tuple[int, ...] = (), **environ: str) -> subprocess.Popen[bytes]:
        with open(self.output, "ab") as output:
            program = subprocess.Popen(
                argv,
                env=self.environ(**environ),
                cwd=cwd or self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        self.started.append(program)
        return program

    def run(self, *words: str, deadline: float = DEADLINE, **environ: str) -> subprocess.CompletedProcess[str]:
        """A command of the CLI, to its end."""
        return subprocess.run(
            [DICODE, *words], env=self.environ(**environ), cwd=self.home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=deadline
        )

    def get(self, *words: str) -> Any:
        """What `dicode get … -o json` prints."""
        done = self.run("get", *words, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def pids(self, keeper: subprocess.Popen[bytes]) -> dict[str, list[int]]:
        """Role word → its processes below this keeper."""
        return processes.role_pids(keeper.pid)

    def pid(self, keeper: subprocess.Popen[bytes], role: str) -> int:
        """The process of this role, once there is one."""
        return wait_for(lambda: self.pids(keeper).get(role), f"{role} runs")[0]

    def kill(self, keeper: subprocess.Popen[bytes], role: str, number: int = signal.SIGKILL) -> int:
        """Signal a role; gives the pid it had."""
        pid = self.pid(keeper, role)
        os.kill(pid, number)
        return pid

    def replaced(self, keeper: subprocess.Popen[bytes], role: str, pid: int, deadline: float = DEADLINE) -> int:
        """The process that came after `pid`, when it has beaten for the first time: it has its lock."""
        return wait_for(lambda: next((new for new in self.pids(keeper).get(role, []) if new != pid), 0), f"{role} is back", deadline)

    def holds(self, name: str) -> int:
        """The pid in run/<name>.lock, 0 when there is none: the keeper whose role has this name."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.data / "run" / f"{name}.lock").read_text())
        return 0

    def stop(self, program: subprocess.Popen[bytes], number: int = signal.SIGTERM, within: float = STOPS_WITHIN + SLACK) -> int:
        """Tell it to stop; gives its exit code. Fails when it does not."""
        with contextlib.suppress(ProcessLookupError):
            program.send_signal(number)
        try:
            return program.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{program.args!r} did not stop in {within:g} s") from None

    def _when_locked(self, keeper: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        def locked() -> bool:
            if keeper.poll() is not None:
                pytest.fail(f"it ended with {keeper.returncode}:\n{self.said()}")
            roles = self.pids(keeper)
            return bool(roles) and all(self.holds("worker-1" if role == "worker" else role) == keeper.pid for role in roles)

        wait_for(locked, "every role has its lock")
        return keeper

    # ---- what is true, and what was said

    def reader(self) -> Reader:
        """Read-only, past the store process: works when nothing runs."""
        return Reader(self.data / "dicode.db")

    def objects(self, kind: type[K]) -> dict[str, K]:
        return self.reader().all(kind)

    def object(self, kind: type[K], key: str, fact: Callable[[K], object] = bool, deadline: float = DEADLINE) -> K:
        """The object, once it is there and the fact is true of it."""

        def there() -> K | None:
            found = self.reader().get(kind, key)
            return found if found is not None and fact(found) else None

        return wait_for(there, f"{kind.__name__} {key}", deadline)

    def ask(self, command: AnyCommand, reply: type[R], deadline: float = DEADLINE) -> R:
        """A command to the running store."""
        if self._wire is None:
            self._wire = BlockingWire(*endpoints(self.data))
        return self._wire.ask(command, reply, deadline)

    def request(self, verb: str, target: str, **args: object) -> Answer:
        """What a Request is answered with."""
        token = os.urandom(6).hex()
        self.ask(Write(ops=(put(Request(token=token, verb=verb, target=target, args=args, who="test"), token),)), Written)
        answer = self.object(Request, token, lambda request: request.answer).answer
        assert answer is not None
        return answer

    def said(self) -> str:
        """All that its processes have printed."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def hears(self, text: str, deadline: float = DEADLINE) -> str:
        """All that was printed, once this text is in it."""
        return wait_for(lambda: self.said() if text in self.said() else "", f"{text!r} is printed", deadline)

    # ---- the end

    def left(self) -> list[Any]:
        return processes.left_behind(self.mark, self.home)

    def nothing_left(self, deadline: float = STOPS_WITHIN + SLACK) -> None:
        """Fails when a process of this test is still there after the deadline."""
        try:
            wait_for(lambda: not self.left(), "no process is left", deadline)
        except AssertionError:
            raise AssertionError(f"left behind:\n{processes.describe(self.left())}") from None

    def close(self) -> None:
        """End everything. Fails, after it has killed it, when something did not go by itself."""
        if self._wire is not None:
            self._wire.close()
        stubborn: list[str] = []
        running = [program for program in self.started if program.poll() is None]
        for program in running:
            program.terminate()
        for program in running:
            try:
                program.wait(STOPS_WITHIN + SLACK)
            except subprocess.TimeoutExpired:
                stubborn.append(f"did not stop on SIGTERM: {program.args!r}")
        try:
            self.nothing_left()
        except AssertionError as error:
            stubborn.append(str(error))
        for process in self.left():
            processes.kill(process.pid, signal.SIGCONT)
            processes.kill(process.pid)
        for program in self.started:
            program.wait(STOPS_WITHIN)
        said = self.said()
        stubborn += [f"a role lost an error: {line}" for line in said.splitlines() if "never retrieved" in line]
        if self._made:
            make_removable(self.home)
            shutil.rmtree(self.home)
        assert not stubborn, "\n".join([*stubborn, "--- output ---", said])


def _write(path: Path, text: str) -> None:
    """As an editor saves: the whole new file in the place of the old one."""
    fresh = path.with_name(f".{path.name}.new~")
    fresh.write_text(text)
    if path.suffix == ".sh" or text.startswith("#!"):
        fresh.chmod(0o755)
    fresh.replace(path)


def make_removable(home: Path) -> None:
    """Unpacked trees are read-only, and what is in a read-only folder cannot be removed."""
    for folder, _, _ in os.walk(home):
        os.chmod(folder, 0o700)
