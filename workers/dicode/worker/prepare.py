"""From a claimed run to a job: its bundle unpacked, its params, command and environment worked out. All of it blocks."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dicode.messages.kinds import Config, Run
from dicode.messages.task import TaskSpec
from dicode.process.blobs import Bundles
from dicode.process.settings import Settings
from dicode.process.tasklog import run_log
from dicode.runtime import dependencies, environment
from dicode.runtime.command import CannotStart, Launch, find_script, plan
from dicode.runtime.params import params_of
from dicode.runtime.variables import filled
from dicode.worker import decide
from dicode.worker.job import Job, Needs, result_in, socket_in

SOCKET_PATH_MAX = 107  # bytes; sun_path of a unix socket, less its NUL
MARK = "DICODE_WORKER"  # every process of a worker's runs carries it in its environment: `<data_dir>#<worker>`


def mark_of(settings: Settings, worker: str) -> str:
    return f"{settings.data_dir}#{worker}"


@dataclass(frozen=True)
class Workshop:
    """Where one worker prepares its runs."""

    settings: Settings
    worker: str
    bundles: Bundles

    def is_unpacked(self, digest: str) -> bool:
        """Whether preparing a run of it needs no more than a look at each of its files."""
        return (self.settings.trees / digest).exists()

    def job(self, run: Run, config: Config, folder: str) -> Job:
        """The job for this attempt, for the shepherd of `folder`. Raises CannotStart, MissingBundle, BadBundle, OSError."""
        settings, written, given = self.settings, self.bundles.spec(run.digest), run.params or {}
        task_dir = self.bundles.unpack(run.digest)
        runtime = run.runtime or written.runtime or "deno"
        spec = filled(
            written, runtime, settings.environ, task_dir=task_dir, data_dir=settings.data_dir, set_dir=run.set_dir, given=given,
            withheld=config.withheld_env,
        )  # fmt: skip
        params = params_of(spec, given)
        state_dir = environment.state_folder(settings.state, run.task)
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        token = os.urandom(24).hex()
        variables = self._environment(spec, run, config, params, state_dir, folder, token)
        needs = self._needs(task_dir, run.task) if runtime == "python" else None
        envs = settings.data_dir / "envs"
        launch = plan(
            spec, runtime, task_dir, task_id=run.task, state_dir=state_dir, data_dir=settings.data_dir, host=settings.environ,
            python=dependencies.interpreter(envs, needs.key) if needs else None,
            variables=variables, socket=Path(socket_in(folder)),
        )  # fmt: skip
        return Job(
            run=run.id,
            task=run.task,
            argv=launch.argv,
            cwd=str(launch.cwd),
            env=variables | launch.env,
            folder=folder,
            log=str(run_log(settings.logs, run.id, run.attempt)),
            kv=str(settings.state / f"{state_dir.name}.kv"),
            token=token,
            params=params,
            input=self._input(run),
            script=_warm(launch),
            stdin_is_input=launch.stdin_is_input,
            timeout=decide.timeout(spec, runtime, config),
            needs=self._to_build(needs, envs),
        )

    def _environment(
        self, spec: TaskSpec, run: Run, config: Config, params: dict[str, Any], state_dir: Path, folder: str, token: str
    ) -> dict[str, str]:
        own = {
            "DICODE_RUN_ID": run.id,
            "DICODE_ATTEMPT": str(run.attempt),
            "DICODE_SOCKET": socket_in(folder),
            "DICODE_TOKEN": token,
            "DICODE_RESULT": result_in(folder),
            MARK: mark_of(self.settings, self.worker),
        }
        built = environment.build(
            spec, self.settings.environ, task_id=run.task, state_dir=state_dir, params=params, withheld=config.withheld_env, own=own
        )
        if built.missing:
            raise CannotStart(f"MissingEnv: {'; '.join(built.missing)}")
        return built.variables

    def _needs(self, task_dir: Path, task_id: str) -> dependencies.Needs | None:
        return dependencies.needs_of(find_script("python", task_dir, task_id).read_bytes())

    def _to_build(self, needs: dependencies.Needs | None, envs: Path) -> Needs | None:
        """What is still to be built; None when the environment is there."""
        if needs is None or dependencies.is_built(envs, needs.key):
            return None
        return Needs(needs.dependencies, needs.python, needs.key, str(envs), self.settings.environ)

    def _input(self, run: Run) -> str:
        """Raises CannotStart when it was too big for the queue and its file has gone."""
        if not run.input_blob:
            return run.input
        try:
            content = (self.settings.inputs / run.input_blob).read_bytes()
        except OSError as error:
            raise CannotStart(f"MissingInput: the input of this run cannot be read: {error.strerror}") from None
        if sha256(content).hexdigest() != run.input_blob:
            raise CannotStart("BadInput: the input of this run is not what was sent: its hash differs")
        return content.decode()


def _warm(launch: Launch) -> str:
    return str(launch.script) if launch.script else ""


def runs_folder(settings: Settings, worker: str) -> Path:
    """Where the sockets of this worker's runs lie: below data_dir/run, or where that is too long for a socket, in XDG_RUNTIME_DIR or /tmp."""
    folder = settings.run / "runs" / worker
    longest = socket_in(str(folder / "4194304"))  # the greatest pid
    if len(os.fsencode(longest)) > SOCKET_PATH_MAX:
        place = sha256(os.fsencode(settings.data_dir)).hexdigest()[:12]
        base = settings.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        folder = Path(base) / f"dicode-{os.getuid()}-{place}" / worker
    return folder
