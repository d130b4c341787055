"""The worker's side of its runs: keeps a zygote alive and a spare shepherd ready, gives it a job, and waits for the outcome."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from dicode.process import role
from dicode.process.clock import mono
from dicode.process.settings import Settings
from dicode.worker.job import LENGTH, Job, Outcome, Stop, is_direct, outcome, packed
from dicode.worker.prepare import MARK, mark_of
from dicode.worker.tree import carrying, marked

SPARES = 1  # shepherds that wait for a job; each is two processes of a megabyte or so
REFILL_AFTER = 0.01  # seconds; the task that has just been started may have the processor first
SPARE_WITHIN = 10.0  # seconds
START_AGAIN = 1.0  # seconds between two starts of a zygote
LAST_WORDS = 1.0  # seconds the shepherds of a dead worker get to finish by themselves


class Spare(NamedTuple):
    """A shepherd that waits for a job. `go` is the pipe on which its future task process waits."""

    folder: str
    control: socket.socket
    go: int

    def close(self) -> None:
        """It goes, and its folder with it."""
        self.control.close()
        os.close(self.go)

    def has_ended(self) -> bool:
        """Whether it was killed: it says nothing before it has a job."""
        self.control.setblocking(False)
        try:
            return not self.control.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True


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
    """The zygote and its spare shepherds. A dead zygote is replaced; runs it forked go on. Belongs to the event loop."""

    def __init__(self, mark: str, runs: Path, environ: dict[str, str]) -> None:
        self._runs = runs
        self._environ = {name: environ[name] for name in ("PATH", "LANG", "HOME") if name in environ} | {MARK: mark}
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None
        self._spares: asyncio.Queue[Spare] = asyncio.Queue()
        self._ordered = 0  # of the zygote, and not delivered yet
        self._waiting = 0  # runs that wait for a shepherd
        self._started_at = 0.0
        self._closed = False

    def start(self) -> None:
        """Start the zygote; its environment is built from nothing, for a forked task shows it in /proc. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-X", "utf8", "-m", "dicode.worker.zygote", str(theirs.fileno()), str(self._runs)],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self._orders = ours
        self._started_at = mono()
        asyncio.get_running_loop().add_reader(ours.fileno(), self._hear)
        self._ordered = 0
        self._refill()

    def _refill(self) -> None:
        """Have as many forked as are waited for, and SPARES more. A dead zygote is noticed by `_hear`, and all is ordered again."""
        while self._orders is not None and self._spares.qsize() + self._ordered < self._waiting + SPARES:
            try:
                self._orders.send(b"!")
            except OSError:
                return
            self._ordered += 1

    def _hear(self) -> None:
        assert self._orders is not None
        fds = array.array("i")
        try:
            data, rights, _, _ = self._orders.recvmsg(20, socket.CMSG_SPACE(2 * fds.itemsize), socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, rights = b"", []
        for _, _, payload in rights:
            fds.frombytes(payload)
        if len(fds) == 2:
            self._ordered -= 1
            self._spares.put_nowait(Spare(str(self._runs / data.decode()), socket.socket(fileno=fds[0]), fds[1]))
        elif not data:
            self._end_zygote()
            asyncio.get_running_loop().call_later(0.0 if mono() - self._started_at > START_AGAIN else START_AGAIN, self._start_again)

    def _start_again(self) -> None:
        if self._closed:
            return
        try:
            self.start()
        except OSError:  # no process slot, no file: there may be one in a moment
            asyncio.get_running_loop().call_later(START_AGAIN, self._start_again)

    async def spare(self) -> Spare:
        """A shepherd for one job: `begin` or `close` it. Raises OSError when none can be had within SPARE_WITHIN seconds."""
        while True:
            if self._spares.empty():
                spare = await self._wait_for_one()
            else:
                spare = self._spares.get_nowait()
                asyncio.get_running_loop().call_later(REFILL_AFTER, self._refill)
            if not spare.has_ended():
                return spare
            spare.close()

    async def _wait_for_one(self) -> Spare:
        self._waiting += 1
        self._refill()
        try:
            return await asyncio.wait_for(self._spares.get(), SPARE_WITHIN)
        except TimeoutError:
            raise OSError(errno.EAGAIN, "no process could be started") from None
        finally:
            self._waiting -= 1

    async def begin(self, spare: Spare, job: Job) -> Herd:
        """Have it carry the job out. The waiting process gets it first: the first line is what people wait for."""
        message = packed(job)
        if is_direct(job, message[LENGTH.size :]):
            with contextlib.suppress(BrokenPipeError):  # it was killed: its shepherd tells
                os.write(spare.go, message)
        os.close(spare.go)
        reader, writer = await asyncio.open_connection(sock=spare.control, limit=1 << 24)
        writer.write(message)
        return Herd(reader, writer)

    def _end_zygote(self) -> None:
        if self._orders is not None:
            asyncio.get_running_loop().remove_reader(self._orders.fileno())
            self._orders.close()
            self._orders = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self._closed = True
        self._end_zygote()
        while not self._spares.empty():
            self._spares.get_nowait().close()


async def end_orphans(settings: Settings, worker: str) -> int:
    """Processes left by workers of this installation that are no more: by one of our name, and by those whose name nobody has taken since.

    They end by themselves when their worker dies, or are killed now. Gives how many were.
    """
    left = _abandoned(settings, worker)
    until = mono() + LAST_WORDS
    while left and mono() < until:
        await asyncio.sleep(0.02)
        left &= _abandoned(settings, worker)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def _abandoned(settings: Settings, worker: str) -> set[int]:
    by_name: dict[str, set[int]] = {}
    for pid, line in carrying(f"{MARK}={mark_of(settings, '')}".encode()):
        by_name.setdefault(line.rpartition(b"#")[2].decode(errors="replace"), set()).add(pid)
    return {pid for name, pids in by_name.items() if name == worker or not role.is_taken(settings.run, name) for pid in pids}


def end_runs(run: str) -> None:
    """Kill what carries this run's id: its shepherd died and cannot."""
    for pid in marked(f"DICODE_RUN_ID={run}".encode()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def clear(folder: Path) -> None:
    """Forget the sockets of a former worker of our name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
