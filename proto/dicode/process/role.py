"""How a role starts, lives and stops: signals, the link to its keeper, its lock, its log, its way to the store.

The keeper's protocol, over one SOCK_SEQPACKET socketpair whose number is in DICODE_KEEPER_FD:
role → keeper: `keep NAME` + fd · `drop NAME` · `beat` · `ready` · `words TEXT`, the last ones: why it exits with another code than 0
keeper → role: `fd NAME` + fd, one for each kept · `start N` (N-th start, from 0; ends the handing over) · `exit PID CODE`
(an orphan has ended; the code as os.waitstatus_to_exitcode gives it, told again after a restart). An end of file means:
the keeper is gone, stop.

Signals need no blocking while a role starts: until its handlers stand, SIGTERM just ends it, and nothing has begun.
"""

from __future__ import annotations

import array
import asyncio
import faulthandler
import fcntl
import importlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicode.process import rights
from dicode.process.clock import mono
from dicode.process.keeper import EX_CONFIG as EX_CONFIG
from dicode.process.keeper import EX_TEMPFAIL as EX_TEMPFAIL
from dicode.process.keeper import KEEPER_FD as KEEPER_FD
from dicode.process.keeper import MESSAGE, STOP_WITHIN
from dicode.process.logs import Log
from dicode.process.settings import Settings, load

BEAT = 2.0  # seconds between two beats; the keeper replaces a role after 10 s without
EX_CRASH = 1
LOCK_PATIENCE = STOP_WITHIN + 2.0  # seconds a role waits for the lock of one whose keeper has died: it is on its way out
LOCK_AGAIN = 0.05
DUMPS_MAX = 1 << 20  # bytes of run/<name>.stack


class Refused(Exception):
    """This role will not start: the text says why, `code` is its exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Keeper:
    """The role's end of the link. Kept fds outlive this process, by name."""

    def __init__(self, link: socket.socket) -> None:
        """Waits until the keeper has handed over what it holds. Raises Refused when it is gone."""
        self._link = link
        self.kept: dict[str, int] = {}
        self.exits: list[tuple[int, int]] = []  # orphans that ended before we listened: (pid, exit code)
        self.starts = 0
        self._link.setblocking(True)
        self._receive_kept()

    def _receive_kept(self) -> None:
        ended: dict[int, int] = {}
        while True:
            words, fds = self._receive(wait=True)
            match words:
                case ["fd", name] if fds:
                    self.kept[name] = fds[0]
                case ["exit", pid, code]:
                    ended[int(pid)] = int(code)
                case ["start", number]:
                    self.starts = int(number)
                    break
                case []:
                    raise Refused("the keeper is gone", EX_CONFIG)
        # Told again from the beginning of the keeper's memory: a number that is in use again is somebody else.
        self.exits = [(pid, code) for pid, code in ended.items() if not os.path.exists(f"/proc/{pid}")]

    def _receive(self, *, wait: bool) -> tuple[list[str], list[int]]:
        """The words of one message, none at the end of file. Raises BlockingIOError."""
        try:
            data, fds = rights.receive(self._link, MESSAGE, wait=wait)
        except ConnectionError:
            return [], []
        return data.decode(errors="replace").split(), fds

    def fileno(self) -> int:
        return self._link.fileno()

    def hear(self) -> list[tuple[int, int]] | None:
        """Exits of orphans told since (pid, exit code), without waiting; None when the keeper is gone."""
        exits, self.exits = self.exits, []
        while True:
            try:
                words, _ = self._receive(wait=False)
            except BlockingIOError:
                return exits
            match words:
                case []:
                    return None
                case ["exit", pid, code]:
                    exits.append((int(pid), int(code)))

    def keep(self, name: str, fd: int) -> None:
        """Have the keeper hold a copy of this fd; after a restart it is in `kept` again. Names hold no blanks."""
        if not name or len(name) > 1000 or name.split() != [name]:
            raise ValueError(f"{name!r} cannot be the name of a kept file")
        self.kept[name] = fd
        self._send(f"keep {name}", fd)

    def drop(self, name: str) -> None:
        """The keeper may close its copy; ours stays open."""
        self.kept.pop(name, None)
        self._send(f"drop {name}")

    def beat(self) -> None:
        """Say that we live. A keeper that is stopped (Ctrl-Z) does not stop us: what it has no room for is not said."""
        self._send("beat", flags=socket.MSG_DONTWAIT)

    def ready(self) -> None:
        """Say that this start has succeeded: the next one, if any, comes without a pause."""
        self._send("ready")

    def refused(self, text: str) -> None:
        """Why this process is about to end; the keeper shows it."""
        self._send(f"words {text}")

    def _send(self, text: str, fd: int | None = None, flags: int = 0) -> None:
        ancillary = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        with suppress(BlockingIOError, ConnectionError):  # full: the keeper is stopped; or gone: hear() tells it
            self._link.sendmsg([text.encode(errors="replace")[: MESSAGE - 1]], ancillary, flags)


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
        """Seconds left of the time this role has to go; all of it while nobody has asked."""
        limit = float(self.settings.environ.get("DICODE_STOP_TIMEOUT", STOP_WITHIN))
        return max(0.0, self.asked_to_stop_at + limit - mono()) if self.asked_to_stop_at else limit


def start(role: str, package: str, argv: list[str]) -> int:
    """Be this role: what a keeper's child does. Gives the exit code; says why in one line when that is not 0."""
    fd = os.environ.pop(KEEPER_FD)  # noqa: TID251  # nobody below us shall take himself for a role
    os.set_inheritable(int(fd), False)
    link = socket.fromfd(int(fd), socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        settings = load()
    except Exception as error:
        _say_last(link, error)
        return EX_CONFIG
    settings.environ[KEEPER_FD] = fd
    try:
        main: Callable[[list[str], Settings], int] = importlib.import_module(f"{package}.__main__").main
        return main(argv, settings)
    except Refused as refusal:
        _say_last(link, refusal)
        return refusal.code
    except Exception as error:
        _say_last(link, error)
        if settings.environ.get("DICODE_DEBUG"):
            traceback.print_exception(error, file=sys.stderr)
        return EX_CRASH


def _say_last(link: socket.socket, error: BaseException) -> None:
    with suppress(OSError):  # full or gone: then nobody hears it
        link.sendmsg([f"words {explain(error)}".encode(errors="replace")[: MESSAGE - 1]], [], socket.MSG_DONTWAIT)


def begin(role: str, argv: list[str], settings: Settings) -> Context:
    """Link to the keeper, make the folders, take the lock. Raises Refused. A role without asyncio then sees to its
    signals, its beats and the keeper's end of file (`keeper.fileno()`, `keeper.hear()`) by itself."""
    link = settings.environ.get(KEEPER_FD)
    if link is None:
        raise Refused(f"start me as `dicode {role}`", EX_CONFIG)
    keeper = Keeper(socket.socket(fileno=int(link)))
    keeper.beat()
    try:
        settings.make()
        name = take_lock(role, settings.run, keeper)
        _dump_when_aborted(settings.run / f"{name}.stack")
    except Refused as refusal:
        keeper.refused(str(refusal))
        raise
    except OSError as error:
        keeper.refused(explain(error))
        raise Refused(explain(error), EX_CONFIG) from None
    log = Log(name, as_json=settings.environ.get("DICODE_LOG_FORMAT") == "json", debug=bool(settings.environ.get("DICODE_DEBUG")))
    return Context(name, settings, keeper, log, argv)


def _dump_when_aborted(path: Path) -> None:
    """SIGABRT, from the keeper when we are stuck, writes what every thread was doing to `path` before it ends us."""
    size = path.stat().st_size if path.exists() else 0
    file = open(path, "w" if size > DUMPS_MAX else "a")  # noqa: SIM115  # stays open: a handler may not open it
    faulthandler.enable(file=file, all_threads=True)


def take_lock(role: str, run: Path, keeper: Keeper) -> str:
    """Hold run/<role>.lock, kept by the keeper so that it outlives our crash; workers take the first free number.

    Gives the name taken. Raises Refused (75) when another holds it, naming its pid: that of its keeper.
    """
    for held in keeper.kept:
        if held.startswith("lock:"):
            return held.removeprefix("lock:")
    for name in _names(role):
        fd = os.open(run / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        holder = _lock(fd, patient=role != "worker")
        if holder is None:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getppid()}\n".encode(), 0)
            keeper.keep(f"lock:{name}", fd)
            return name
        os.close(fd)
        if role != "worker":
            raise Refused(f"{role} already runs here: pid {holder} ({run.parent})", EX_TEMPFAIL)
    raise AssertionError("unreachable")


def is_taken(run: Path, name: str) -> bool:
    """Whether somebody holds run/<name>.lock."""
    try:
        fd = os.open(run / f"{name}.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _lock(fd: int, patient: bool) -> str | None:
    """None when it is ours now, else the pid of the keeper that holds it. A role whose keeper was killed is waited for."""
    until = mono() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode(errors="replace").strip()
        else:
            return None
        if not patient or mono() >= until or (holder and os.path.exists(f"/proc/{holder}")):
            return holder or "unknown"
        signal.sigtimedwait((), LOCK_AGAIN)


def _names(role: str) -> Iterator[str]:
    if role != "worker":
        yield role
        return
    number = 1
    while True:
        yield f"worker-{number}"
        number += 1


def run(role: str, argv: list[str], settings: Settings, main: Callable[[Context], Awaitable[None]]) -> int:
    """Live as an asyncio role until told to stop. Gives the exit code. Raises Refused, and whatever `main` raises."""
    return asyncio.run(_live(role, argv, settings, main))


async def _live(role: str, argv: list[str], settings: Settings, main: Callable[[Context], Awaitable[None]]) -> int:
    context = begin(role, argv, settings)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_told_unheard(context))

    def stop() -> None:
        if not context.asked_to_stop_at:
            context.asked_to_stop_at = mono()
        context.stopping.set()

    def heard() -> None:
        exits = context.keeper.hear()
        if exits is None:
            loop.remove_reader(context.keeper.fileno())
            die_in(context.stop_left() + 1.0)
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


def die_in(seconds: float) -> None:
    """Without a keeper nobody ends us if we cannot end ourselves: the kernel does, by SIGALRM."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


async def _beat(context: Context) -> None:
    while True:
        context.keeper.beat()
        await asyncio.sleep(BEAT)


def _told_unheard(context: Context) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """What asyncio would print with a stack trace becomes one line."""

    def tell(loop: asyncio.AbstractEventLoop, facts: dict[str, Any]) -> None:
        error = facts.get("exception")
        context.log.say(f"{context.name}: {facts.get('message', 'error')}{': ' + explain(error) if error else ''}")
        if error is not None and context.log.debug_on:
            traceback.print_exception(error, file=sys.stderr)

    return tell


def explain(error: BaseException) -> str:
    """One line for a log: what went wrong, without a stack trace."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = str(error) or type(error).__name__
    known = isinstance(error, OSError) or type(error).__module__.startswith("dicode.")
    return text if known else f"{type(error).__name__}: {text}"
