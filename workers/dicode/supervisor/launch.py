"""What it takes to start a daemon: its files from the bundle, its command, its environment. Blocks; call it off the loop."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from dicode.messages.kinds import Task
from dicode.process.blobs import BadBundle, Bundles, MissingBundle
from dicode.process.settings import Settings
from dicode.runtime import dependencies, environment
from dicode.runtime.command import CannotStart, find_script, plan
from dicode.runtime.params import params_of
from dicode.runtime.variables import filled
from dicode.supervisor.lifecycle import Trouble

DAEMON_ID = "DICODE_DAEMON_ID"  # in the environment of a daemon and of all that comes of it: `<installation>.<start>`


class Ready(NamedTuple):
    """All that `process.child.spawn` needs. `build` must have been run first, with our own environment, if it is not empty."""

    argv: tuple[str, ...]
    cwd: Path
    env: dict[str, str]
    build: tuple[str, ...] = ()


@dataclass(frozen=True)
class Launcher:
    settings: Settings
    bundles: Bundles

    def installation(self) -> str:
        """Tells the daemons of this data folder from those of another."""
        return sha256(os.fsencode(self.settings.data_dir)).hexdigest()[:12]

    def new_launch(self) -> str:
        return f"{self.installation()}.{os.urandom(8).hex()}"

    def ready(self, task: Task, withheld: Collection[str]) -> Ready:
        """How to start this task's digest. Raises CannotStart, MissingBundle, BadBundle, OSError."""
        assert task.spec is not None, "only a task with a digest is started"
        settings = self.settings
        runtime = task.runtime or task.spec.runtime or "deno"
        task_dir = self.bundles.unpack(task.digest)
        spec = filled(task.spec, runtime, settings.environ, task_dir=task_dir, data_dir=settings.data_dir, set_dir=task.set_dir, withheld=withheld)
        state_dir = environment.state_folder(settings.state, task.id)
        state_dir.mkdir(mode=0o700, exist_ok=True)
        params = params_of(spec, {})
        built = environment.build(
            spec, settings.environ, task_id=task.id, state_dir=state_dir, params=params, withheld=withheld,
            own={"DICODE_PARAMS": json.dumps(params, ensure_ascii=False)},
        )  # fmt: skip
        if built.missing:
            raise CannotStart(f"MissingEnv: {'; '.join(built.missing)}")
        envs = settings.data_dir / "envs"
        script = find_script("python", task_dir, task.id) if runtime == "python" else None
        needs = dependencies.needs_of(script.read_bytes()) if script is not None else None
        python = dependencies.interpreter(envs, needs.key) if needs is not None else None
        launch = plan(
            spec, runtime, task_dir, task_id=task.id, state_dir=state_dir, data_dir=settings.data_dir,
            host=settings.environ, python=python, variables=built.variables,
        )  # fmt: skip
        is_built = needs is None or dependencies.is_built(envs, needs.key)
        build = () if is_built else (sys.executable, "-P", "-m", "dicode.supervisor.dependencies", str(script), str(envs))
        return Ready(launch.argv, launch.cwd, built.variables | launch.env, build)


def trouble_of(digest: str, error: Exception) -> Trouble:
    """Why it cannot be started, for a condition: a reason in one word, and a line for a person."""
    match error:
        case CannotStart():
            reason, colon, why = str(error).partition(": ")
            return Trouble(digest, reason, why) if colon and reason.isalnum() else Trouble(digest, "CannotStart", str(error))
        case MissingBundle():
            return Trouble(digest, "MissingBundle", str(error))
        case BadBundle():
            return Trouble(digest, "BadBundle", str(error))
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return Trouble(digest, "SpawnFailed", f"{where}{error.strerror or error}")
        case _:
            return Trouble(digest, "CannotStart", f"{type(error).__name__}: {error}")
