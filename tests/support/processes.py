"""The process table as a test sees it: who is whose child, who does what, who was left behind."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil

MARK = "DICODE_TEST_MARK"  # each test's own value stands in the environment of whatever it starts


def children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child for child in psutil.Process(pid).children() if _lives(child)]
    return []


def descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child for child in psutil.Process(pid).children(recursive=True) if _lives(child)]
    return []


def role_pids(keeper: int) -> dict[str, list[int]]:
    """Role word → pids of the role processes below this keeper, by their command lines."""
    found: dict[str, list[int]] = {}
    for child in children(keeper):
        with contextlib.suppress(psutil.Error, ValueError):
            words = child.cmdline()
            found.setdefault(words[words.index("dicode") + 1], []).append(child.pid)
    return found


def left_behind(mark: str, folder: Path) -> list[psutil.Process]:
    """Every process that carries the mark of a test, or lives in its folder (a task's environment is built from nothing)."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _lives(process) and _belongs(process, mark, folder)]


def _belongs(process: psutil.Process, mark: str, folder: Path) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        if process.environ().get(MARK) == mark:
            return True
    for place in _places(process):
        if place == str(folder) or place.startswith(f"{folder}/"):
            return True
    return False


def _places(process: psutil.Process) -> Iterator[str]:
    for name in ("cwd", "exe"):
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/{process.pid}/{name}")


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and _lives(psutil.Process(pid))


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def describe(processes: list[psutil.Process]) -> str:
    lines = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            lines.append(f"  {process.pid} (child of {process.ppid()}, {process.status()}): {' '.join(process.cmdline())[:160]}")
    return "\n".join(lines)


def proportional_memory(pid: int) -> int:
    """PSS in kB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError("no Pss")
