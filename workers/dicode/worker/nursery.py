"""The worker's side of its runs: keeps a zygote alive, has it fork a shepherd for each job, and waits for the outcome."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from dicode.process.clock import mono
from dicode.worker.job import LENGTH, Job, Outcome, Stop, outcome, packed
from dicode.worker.prepare import MARK
from dicode.worker.tree import marked

LAST_WORDS = 1.0  # seconds the shepherds of a dead worker get to finish by themselves


class Herd:
    """One job under way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def stop(self, order: Stop) -> None:
        self._writer.write(packed(order))

    async def outcome(self) -> Outcome:
        """How it ended; `lost` when its shepherd died."""
        try:
            (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            return outcome(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            return Outcome(status="lost", error="its shepherd process was killed")
        finally:
            self._writer.close()


class Nursery:
    """The zygote. A dead one is replaced when it is next needed; runs it forked go on."""

    def __init__(self, mark: str, environ: dict[str, str]) -> None:
        self._environ = {name: environ[name] for name in ("PATH", "LANG", "HOME") if name in environ} | {MARK: mark}
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None

    def start(self) -> None:
        """Start the zygote; its environment is built from nothing, for a forked task shows it in /proc."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-X", "utf8", "-m", "dicode.worker.zygote", str(theirs.fileno())],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._orders = ours

    async def begin(self, job: Job) -> Herd:
        """Have a shepherd carry it out. Raises OSError when no process can be started."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._send(theirs)
        reader, writer = await asyncio.open_connection(sock=ours, limit=1 << 24)
        writer.write(packed(job))
        return Herd(reader, writer)

    def _send(self, control: socket.socket) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [control.fileno()]))]
        for last in (False, True):
            if self._orders is None or self._process is None or self._process.poll() is not None:
                self.close()
                self.start()
            assert self._orders is not None
            try:
                self._orders.sendmsg([b"!"], rights)
                return
            except (BrokenPipeError, ConnectionResetError):
                if last:
                    raise

    def close(self) -> None:
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


async def end_orphans(mark: str) -> int:
    """Processes a former worker of our name left: they end by themselves when it dies, or are killed now. Gives how many were."""
    line = f"{MARK}={mark}".encode()
    until = mono() + LAST_WORDS
    while mono() < until:
        if not list(marked(line)):
            return 0
        await asyncio.sleep(0.02)
    left = list(marked(line))
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def end_runs(run: str) -> None:
    """Kill what carries this run's id: its shepherd died and cannot."""
    for pid in marked(f"DICODE_RUN_ID={run}".encode()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def clear(folder: Path) -> None:
    """Forget the sockets of a former worker of our name."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
