"""PEP 723: a python task names its dependencies in a comment block; uv builds an environment for each distinct block, once.

An environment lies in `<envs>/<key>`; the key is a hash of the block and the interpreter. It is built beside its place
and renamed, so one that is there is whole. One builder a key at a time, by a lock file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from dicode.runtime.command import CannotStart, find_program

_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")  # as PEP 723 gives it
BUILD_DEADLINE = 600.0  # seconds for uv to resolve, download and install


class Needs(NamedTuple):
    """What a script asks for. `key` names its environment."""

    dependencies: tuple[str, ...]
    python: str  # `requires-python`, "" for any
    key: str


def needs_of(script: bytes) -> Needs | None:
    """What the script's block asks for; None when it has none, or an empty one. Raises CannotStart when it is wrong."""
    if b"# /// script" not in script:
        return None
    blocks = [match for match in _BLOCK.finditer(script.decode(errors="replace").replace("\r\n", "\n")) if match["type"] == "script"]
    if not blocks:
        return None
    if len(blocks) > 1:
        raise CannotStart("BadDependencies: task.py has two `# /// script` blocks, one is allowed")
    text = "".join(line[2:] if line.startswith("# ") else line[1:] for line in blocks[0]["content"].splitlines(keepends=True))
    try:
        block = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CannotStart(f"BadDependencies: the `# /// script` block of task.py: {error}") from None
    dependencies, python = block.get("dependencies", []), block.get("requires-python", "")
    if not isinstance(python, str) or not isinstance(dependencies, list) or not all(isinstance(each, str) for each in dependencies):
        raise CannotStart("BadDependencies: `dependencies` must be a list of texts and `requires-python` a text")
    if not dependencies and not python:
        return None
    mark = f"1\n{platform.python_version()}\n{sys.executable}\n{text}"
    return Needs(tuple(dependencies), python, sha256(mark.encode()).hexdigest()[:32])


def interpreter(envs: Path, key: str) -> Path:
    """The interpreter of an environment; it exists when the environment does."""
    return envs / key / "bin" / "python"


def is_built(envs: Path, key: str) -> bool:
    """Whether the environment is there; asking makes it young again (`remove_unused`)."""
    with contextlib.suppress(OSError):
        os.utime(envs / key)
    return interpreter(envs, key).exists()


def remove_unused(envs: Path, before: float, used: Callable[[], Collection[str]]) -> int:
    """Forget environments that nobody has asked for since `before` (seconds since the epoch); gives how many. `used`: keys that are needed all the same."""
    old = [path for path in envs.glob("*/") if path.stat().st_mtime < before]
    needed = used() if old else ()
    unused = [path for path in old if path.name not in needed]
    for path in unused:
        lock = _locked(envs, path.name)
        passing = path.with_name(f".{path.name.removeprefix('.')}")
        try:
            if path != passing:
                if passing.exists():
                    shutil.rmtree(passing)
                path.rename(passing)  # half of one must never be taken for the whole
            shutil.rmtree(passing)
        finally:
            os.close(lock)
    return len(unused)


def _locked(envs: Path, key: str) -> int:
    """Held by whoever makes or removes this environment, until it is closed."""
    lock = os.open(envs / f"{key.removeprefix('.')}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def build(needs: Needs, envs: Path, host: Mapping[str, str]) -> None:
    """Make the environment, or wait for another that makes it. uv's words go to our stdout and stderr. Blocks.

    uv runs with the role's own environment `host`: its index, certificates and proxy. Raises CannotStart.
    """
    envs.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _locked(envs, needs.key)
    try:
        if interpreter(envs, needs.key).exists():
            return
        passing = envs / f".{needs.key}"
        shutil.rmtree(passing, ignore_errors=True)  # of a builder that was killed
        uv = find_program("uv", host, "PEP 723 dependencies need uv: pip install uv")
        _uv([uv, "venv", "--quiet", "--relocatable", "--python", needs.python or sys.executable, str(passing)], host)
        if needs.dependencies:
            python = str(passing / "bin" / "python")
            _uv([uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *needs.dependencies], host)
        shutil.rmtree(envs / needs.key, ignore_errors=True)  # its interpreter has gone
        passing.rename(envs / needs.key)
    finally:
        os.close(lock)


def _uv(argv: list[str], host: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(argv, env=dict(host), stdin=subprocess.DEVNULL, timeout=BUILD_DEADLINE, check=False)
    except subprocess.TimeoutExpired:
        raise CannotStart(f"DependenciesFailed: uv was not done after {BUILD_DEADLINE:.0f} s") from None
    except OSError as error:
        raise CannotStart(f"DependenciesFailed: uv: {error.strerror}") from None
    if done.returncode:
        raise CannotStart(f"DependenciesFailed: uv could not build the environment (exit code {done.returncode}); its words are in the log")
