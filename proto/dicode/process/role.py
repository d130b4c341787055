"""How a role starts, lives and stops: signals, the link to its keeper, its lock, its log, its way to the store.

The keeper's protocol, over one SOCK_SEQPACKET socketpair whose number is in DICODE_KEEPER_FD:
role → keeper: `keep NAME` + fd · `drop NAME` · `beat` · `ready` · `refused TEXT` (then exit 75 or 78)
keeper → role: `fd NAME` + fd, one for each kept · `start N` (N-th start, from 0; ends the handing over) · `exit PID STATUS`
(a waitid status of an orphan: what os.waitstatus_to_exitcode gives). An end of file means: the keeper is gone, stop.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dicode.process.clock import mono
from dicode.process.logs import Log
from dicode.process.settings import Settings

KEEPER_FD = "DICODE_KEEPER_FD"
BEAT = 1.0  # seconds between two beats; the keeper replaces a role after 10 s without
EX_TEMPFAIL = 75  # one already runs
EX_CONFIG = 78  # cannot start at all
STOP_WITHIN = 4.0  # seconds; honcho sends SIGKILL after 5, we want to be the ones who say goodbye


class Refused(Exception):
    """This role will not start: the text says why, `code` is its exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Keeper:
    """The role's end of the link. Kept fds outlive this process, by name."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self.kept: dict[str, int] = {}
        self.exits: list[tuple[int, int]] = []  # orphans that ended before we listened: (pid, exit code)
        self.starts = 0
        self._receive_kept()

    def _receive_kept(self) -> None:
        while True:
            words, fds = self._receive()
            if not words:
                raise Refused("the keeper is gone", EX_CONFIG)
            if words[0] == "fd" and fds:
                self.kept[words[1]] = fds[0]
            elif words[0] == "exit":
                self.exits.append((int(words[1]), int(words[2])))
            elif words[0] == "start":
                self.starts = int(words[1])
                return

    def _receive(self) -> tuple[list[str], list[int]]:
        data, ancillary, _, _ = self._link.recvmsg(4096, socket.CMSG_SPACE(4))
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        for fd in fds:
            os.set_inheritable(fd, False)
        return data.decode(errors="replace").split(" ", 2), list(fds)

    def fileno(self) -> int:
        return self._link.fileno()

    def hear(self) -> list[tuple[int, int]] | None:
        """Exits of orphans told since (pid, exit code), without waiting; None when the keeper is gone."""
        exits, self.exits = self.exits, []
        while True:
            try:
                self._link.setblocking(False)
                words, _ = self._receive()
            except BlockingIOError:
                return exits
            finally:
                self._link.setblocking(True)
            if words == [""]:
                return None
            if words[0] == "exit":
                exits.append((int(words[1]), int(words[2])))

    def keep(self, name: str, fd: int) -> None:
        """Have the keeper hold a copy of this fd; after a restart it is in `kept` again. Names hold no blanks."""
        self.kept[name] = fd
        self._send(f"keep {name}", fd)

    def drop(self, name: str) -> None:
        """The keeper may close its copy; ours stays open."""
        self.kept.pop(name, None)
        self._send(f"drop {name}")

    def beat(self) -> None:
        self._send("beat")

    def ready(self) -> None:
        self._send("ready")

    def refused(self, text: str) -> None:
        self._send(f"refused {text}")

    def _send(self, text: str, fd: int | None = None) -> None:
        rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # hear() tells it
            self._link.sendmsg([text.encode()[:4000]], rights)


@dataclass
class Context:
    """What a role's main is given."""

    name: str  # `store`, `worker-2`
    settings: Settings
    keeper: Keeper
    log: Log
    argv: list[str] = field(default_factory=list)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    on_exit: Callable[[int, int], None] | None = None  # of an orphan: (pid, exit code)
    asked_to_stop_at: float = 0.0

    @property
    def first_start(self) -> bool:
        """Not a restart by the keeper."""
        return self.keeper.starts == 0

    def stop_left(self) -> float:
        """Seconds left of the time this role has to go."""
        limit = float(self.settings.environ.get("DICODE_STOP_TIMEOUT", STOP_WITHIN))
        return max(0.0, self.asked_to_stop_at + limit - mono())


def begin(role: str, argv: list[str], settings: Settings) -> Context:
    """Link to the keeper, make the folders, take the lock. Raises Refused, OSError."""
    keeper = Keeper(socket.socket(fileno=int(settings.environ[KEEPER_FD])))
    log = Log(role, as_json=settings.environ.get("DICODE_LOG_FORMAT") == "json", debug=bool(settings.environ.get("DICODE_DEBUG")))
    try:
        settings.make()
        name = take_lock(role, settings.run, keeper)
    except Refused as refusal:
        keeper.refused(str(refusal))
        raise
    except OSError as error:
        keeper.refused(f"{error.filename}: {error.strerror}")
        raise Refused(f"{error.filename}: {error.strerror}", EX_CONFIG) from None
    return Context(name, settings, keeper, log, argv)


def take_lock(role: str, run: Path, keeper: Keeper) -> str:
    """Hold run/<role>.lock, kept by the keeper so that it outlives our crash; workers take the first free number.

    Gives the name taken. Raises Refused (75) when another holds it, naming its pid.
    """
    for held in keeper.kept:
        if held.startswith("lock:"):
            return held.removeprefix("lock:")
    for name in _names(role):
        path = run / f"{name}.lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(fd, 20).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            if role == "worker":
                continue
            raise Refused(f"{role} already runs here: pid {pid} ({run.parent})", EX_TEMPFAIL) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getppid()}\n".encode(), 0)
        keeper.keep(f"lock:{name}", fd)
        return name
    raise AssertionError("unreachable")


def _names(role: str) -> Iterator[str]:
    if role != "worker":
        yield role
        return
    number = 1
    while True:
        yield f"worker-{number}"
        number += 1


def run(role: str, argv: list[str], settings: Settings, main: Callable[[Context], Awaitable[None]]) -> int:
    """Live as an asyncio role until told to stop. Gives the exit code."""
    import faulthandler

    faulthandler.register(signal.SIGABRT, chain=True)
    try:
        return asyncio.run(_live(role, argv, settings, main))
    except Refused as refusal:
        return refusal.code


async def _live(role: str, argv: list[str], settings: Settings, main: Callable[[Context], Awaitable[None]]) -> int:
    context = begin(role, argv, settings)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not context.asked_to_stop_at:
            context.asked_to_stop_at = mono()
        context.stopping.set()

    def heard() -> None:
        exits = context.keeper.hear()
        if exits is None:
            loop.remove_reader(context.keeper.fileno())
            stop()
            return
        for pid, code in exits:
            if context.on_exit is not None:
                context.on_exit(pid, code)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_reader(context.keeper.fileno(), heard)
    beating = asyncio.create_task(_beat(context), name="beat")
    try:
        await main(context)
    finally:
        beating.cancel()
    return 0


async def _beat(context: Context) -> None:
    while True:
        context.keeper.beat()
        await asyncio.sleep(BEAT)


def explain(error: BaseException) -> str:
    """One line for a log: what went wrong, without a stack trace."""
    text = str(error) or type(error).__name__
    return f"{type(error).__name__}: {text}" if not isinstance(error, OSError) else text


def crash(context: Context, error: BaseException) -> None:
    """Say the last word before a crash; the trace only with --debug."""
    context.log.say(f"{context.name} failed and restarts: {explain(error)}")
    if context.log.debug_on:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
