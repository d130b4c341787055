"""Which command starts a task: its script, its runtime, its permissions in; an argv out."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dicode.messages.task import Runtime, TaskSpec
from dicode.runtime.deno import permission_flags

SDK = Path(__file__).resolve().parent.parent / "sdk"  # dicode.sdk; named by path, for task interpreters know no `dicode` of ours
PYTHON_ENTRY = SDK / "main.py"
DENO_SHIM = SDK / "shim.ts"
SCRIPTS: dict[str, tuple[str, ...]] = {
    "python": ("task.py",),
    "deno": ("task.ts", "task.js", "task.mjs"),
    "shell": ("task.sh", "task"),
}


class CannotStart(Exception):
    """This task cannot be started, in words for a person; the first one is the reason of a condition."""


class RuntimeMissing(CannotStart):
    """The program that runs such tasks is not on this machine; the text says how to get it."""


class Launch(NamedTuple):
    """How to start a task. `script`: a python task that a warm interpreter may run in place of `argv`."""

    argv: tuple[str, ...]
    cwd: Path
    env: dict[str, str]  # what the runtime itself needs, on top of the task's environment
    script: Path | None = None
    stdin_is_input: bool = False  # the run's input, as JSON, belongs on stdin


def plan(
    spec: TaskSpec,
    runtime: Runtime | None,
    task_dir: Path,
    *,
    state_dir: Path,
    data_dir: Path,
    host: Mapping[str, str],
    task_id: str = "",
    python: Path | None = None,
    variables: Mapping[str, str] | None = None,
    socket: Path | None = None,
) -> Launch:
    """The command for the task `task_id` in `task_dir`, its folder in an unpacked bundle; variables are filled in.

    `host` is the environment of the role.
    `python` is the interpreter with the task's PEP 723 dependencies (runtime.dependencies), None for the plain one.
    `variables` is the environment it will get and `socket` its DICODE_SOCKET: deno grants the names and the path.
    Raises CannotStart, RuntimeMissing.
    """
    match runtime or "deno":
        case "python":
            script = find_script("python", task_dir, task_id)
            argv = (str(python or sys.executable), "-P", "-B", "-u", str(PYTHON_ENTRY), str(script))
            return Launch(argv, task_dir, {}, script=None if python else script)
        case "shell":
            return Launch(_shell(find_script("shell", task_dir, task_id)), task_dir, {}, stdin_is_input=True)
        case "deno":
            script = find_script("deno", task_dir, task_id)
            binary = find_program("deno", host, "a deno task needs deno: pip install 'dicode[deno]', or put deno on the PATH")
            flags = permission_flags(spec.permissions, task_dir, state_dir, variables or {}, socket)
            lock = ("--lock=deno.lock", "--frozen") if (task_dir / "deno.lock").is_file() else ("--no-lock",)
            argv = (binary, "run", "--quiet", "--no-prompt", *lock, *flags, str(DENO_SHIM), script.as_uri())
            return Launch(argv, task_dir, {"DENO_DIR": str(data_dir / "deno"), "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"})
        case name:
            raise CannotStart(f"NotImplemented: runtime '{name}' cannot be started by this release")


def find_script(runtime: str, task_dir: Path, task_id: str = "") -> Path:
    """The script of a task. Raises CannotStart.

    The bundle of a task folder has its task.yaml. That of an inline task has none, and its script is called by its KEY,
    the last part of the id, or `task.*`.
    """
    key = task_id.rpartition("/")[2]
    own = [f"{key}{name[4:]}" for name in SCRIPTS[runtime] if name != "task"] if key else []
    is_inline = not (task_dir / "task.yaml").exists()
    for name in (*own, *SCRIPTS[runtime]) if is_inline else (*SCRIPTS[runtime], *own):
        path = task_dir / name
        if path.is_file():
            return path
    names = (*own, *SCRIPTS[runtime]) if is_inline else SCRIPTS[runtime]
    raise CannotStart(f"NoScript: a {runtime} task needs {' or '.join(names)} beside {'the TaskSet' if is_inline else 'task.yaml'}")


def _shell(script: Path) -> tuple[str, ...]:
    """By its shebang, whether or not it may be executed; a `task` without one must be executable; else /bin/sh."""
    with open(script, "rb") as file:
        first = file.readline(256).rstrip(b"\r\n")
    if script.name == "task":
        if not script.stat().st_mode & 0o100:
            raise CannotStart("NotExecutable: task may not be executed: chmod +x task")
        return (str(script),)
    if first.startswith(b"#!"):
        words = first[2:].decode(errors="surrogateescape").strip().split(None, 1)  # as the kernel does: one argument at most
        if words:
            return (*words, str(script))
    return ("/bin/sh", str(script))


def find_program(name: str, host: Mapping[str, str], cure: str) -> str:
    """The program beside our own interpreter (a pip package) or on the PATH. Raises RuntimeMissing."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name, path=host.get("PATH"))
    if found is None:
        raise RuntimeMissing(f"RuntimeMissing: {cure}")
    return found
