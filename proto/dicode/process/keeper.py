"""The parent of one role, or of all of them (`dicode up`): fd store, subreaper, watchdog, and nothing else.

It imports little, for it lives beside every role (6 MB). One thread, one poll(): the links to the roles, the signals,
and the time of the next thing that is due. What is said on a link is described in `dicode.process.role`.

State and how it comes back: none that must. When a keeper dies its roles see the end of their links and stop; what
they run is found again by whoever starts next.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from dicode.process import rights
from dicode.process.clock import mono
from dicode.process.endings import told_by
from dicode.process.logs import Log, complain

ROLES = {  # word → package; `up` starts them in this order
    "store": "dicode.store",
    "source-controller": "dicode.source",
    "reconciler": "dicode.reconciler",
    "trigger-engine": "dicode.trigger",
    "supervisor": "dicode.supervisor",
    "worker": "dicode.worker",
}
BEREAVED = "supervisor"  # the role that is told how orphans ended: its daemons may outlive it

KEEPER_FD = "DICODE_KEEPER_FD"  # number of the role's end of the link
EX_TEMPFAIL = 75  # one already runs
EX_CONFIG = 78  # cannot start at all
REFUSALS = (EX_TEMPFAIL, EX_CONFIG)

WATCHDOG = 10.0  # seconds without a beat until a role is taken for stuck
START_WITHIN = 30.0  # seconds a start may take until its first beat
DUMP_TIME = 2.0  # seconds from SIGABRT (stack dump) to SIGKILL
STOP_WITHIN = 4.0  # seconds; honcho sends SIGKILL after 5, we want to be the ones who say goodbye
STORE_STOPS = 0.8  # seconds more for the store, which goes last
PAUSE_FIRST = 0.2  # seconds of backoff, doubled with each start that did not become ready
PAUSE_MAX = 30.0
BREATH = 0.5  # seconds between two starts of a role that was ready, but for the first time
OVERSLEPT = 1.0  # seconds: if we wake that much too late we were stopped ourselves and may judge nobody
EXITS_KEPT = 10_000
FDS_WANTED = 65_536
MESSAGE = 4096  # bytes
PROGRAM = (sys.executable, "-P", "-m", "dicode")  # shows `dicode <role>` in the process table
_SET_CHILD_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


def pause(unready: int, lived: float) -> float:
    """Seconds to wait before a role is started again.

    `unready`: how many starts in a row did not become ready; `lived`: seconds since the last start.
    """
    if unready == 0:
        return 0.0 if lived >= BREATH else BREATH - lived
    return float(min(PAUSE_FIRST * 2 ** min(unready - 2, 16), PAUSE_MAX)) if unready > 1 else 0.0


class Ward:
    """One role in our keeping."""

    def __init__(self, role: str, argv: Sequence[str]) -> None:
        self.role = role
        self.argv = tuple(argv)
        self.pid = 0  # 0: not running
        self.link: socket.socket | None = None
        self.outbox: deque[tuple[str, str]] = deque()  # what the link had no room for yet, with the name of the kept file that goes along
        self.kept: dict[str, int] = {}
        self.starts = 0
        self.unready = 0  # starts in a row that did not become ready
        self.was_ready = False  # ever
        self.ready = False
        self.heard_at = 0.0
        self.beating = False
        self.started_at = 0.0
        self.start_at: float | None = 0.0  # when it is to be started; None: it runs, or never again
        self.kill_at: float | None = None
        self.last_words = ""

    @property
    def label(self) -> str:
        """`worker-2` once it has its lock, else the word."""
        return next((name.removeprefix("lock:") for name in self.kept if name.startswith("lock:")), self.role)

    @property
    def locked(self) -> bool:
        return any(name.startswith("lock:") for name in self.kept)


class Keeper:
    """Runs `wards` until told to stop, or until one of them cannot start at all."""

    def __init__(self, wards: Iterable[Ward], environ: Mapping[str, str], log: Log, program: Sequence[str] = PROGRAM) -> None:
        self._wards = list(wards)
        self._program = tuple(program)
        self._environ = dict(environ)
        self._log = log
        self._exits: dict[int, int] = {}  # pid → exit code of orphans, oldest first
        self._code = 0
        self._stop_at: float | None = None  # when we were told to
        self._watchdog = float(environ.get("DICODE_WATCHDOG", WATCHDOG))
        self._stop_within = float(environ.get("DICODE_STOP_TIMEOUT", STOP_WITHIN))
        self._poller = select.poll()
        self._by_fd: dict[int, Ward] = {}
        self._notified = False
        self._gated = len(self._wards) > 1 and any(ward.role == "store" for ward in self._wards)

    def run(self) -> int:
        """Gives the exit code: 0 after an orderly stop, else what the role that could not start said."""
        signals = self._hear_signals()
        self._poller.register(signals, select.POLLIN)
        _become_subreaper()
        while True:
            self._act(mono())
            if self._stop_at is not None and not any(ward.pid for ward in self._wards):
                break
            due = self._due()
            for fd, _ in self._poller.poll(None if due is None else max(0, int((due - mono()) * 1000) + 1)):
                if fd == signals:
                    self._take_signals(os.read(signals, 4096))
                elif fd in self._by_fd:
                    self._listen(self._by_fd[fd])
            if due is not None and mono() > due + OVERSLEPT:
                self._forgive()
            self._reap()
        self._bury()
        return self._code

    def _hear_signals(self) -> int:
        """Signals become bytes on a pipe: a poll() is not woken by a handler (PEP 475)."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, _noted)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup means it
            signal.signal(signal.SIGHUP, _noted)
        return reader

    def _take_signals(self, numbers: bytes) -> None:
        if any(number != signal.SIGCHLD for number in numbers):
            self._stop(0)

    def _due(self) -> float | None:
        """When something is to be done even if nobody says a word."""
        times = [time for ward in self._wards for time in (ward.start_at, ward.kill_at) if time is not None]
        if self._stop_at is None:
            times += [self._stuck_at(ward) for ward in self._wards if ward.pid and ward.kill_at is None]
        return min(times, default=None)

    def _stuck_at(self, ward: Ward) -> float:
        return ward.heard_at + (self._watchdog if ward.beating else max(START_WITHIN, self._watchdog))

    def _forgive(self) -> None:
        """We were stopped (SIGSTOP, a starved machine), and so perhaps were they: count their silence from now."""
        for ward in self._wards:
            ward.heard_at = mono()

    # ---- what is due

    def _act(self, now: float) -> None:
        for ward in self._wards:
            if ward.kill_at is not None and ward.kill_at <= now:
                ward.kill_at = None
                _kill(ward, signal.SIGKILL)
            elif ward.start_at is not None and ward.start_at <= now:
                self._start(ward, now)
            elif ward.pid and self._stop_at is None and ward.kill_at is None and self._stuck_at(ward) <= now:
                self._log.say(f"{ward.label} has not answered for {now - ward.heard_at:.0f} s: it is replaced")
                ward.kill_at = now + DUMP_TIME
                _kill(ward, signal.SIGABRT)
        if self._stop_at is not None:
            self._send_off_store(now)

    def _start(self, ward: Ward, now: float) -> None:
        try:
            ward.pid, ward.link = self._spawn(ward)
        except OSError as error:  # no memory, no process slot, no file
            ward.unready += 1
            ward.start_at = now + max(pause(ward.unready, 0.0), PAUSE_FIRST)
            self._log.say(f"{ward.label} could not be started: {error.strerror}")
            return
        ward.start_at = None
        ward.started_at = ward.heard_at = now
        ward.beating = ward.ready = False
        ward.last_words = ""
        self._by_fd[ward.link.fileno()] = ward
        self._poller.register(ward.link, select.POLLIN)
        self._hand_over(ward)
        ward.starts += 1

    def _spawn(self, ward: Ward) -> tuple[int, socket.socket]:
        """Its pid, and our end of the link. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.set_inheritable(True)
        try:
            pid = os.posix_spawn(
                self._program[0],
                [*self._program, ward.role, *ward.argv],
                {**self._environ, KEEPER_FD: str(theirs.fileno())},
                file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
                # A session of its own: Ctrl-C and a manager's signal to the group reach us alone, who know the order of going.
                setsid=True,
                setsigdef=[signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return pid, ours

    def _hand_over(self, ward: Ward) -> None:
        """Give it back what it kept, and tell it who died. With the rest of the roles the first start waits for the store's lock."""
        for name in ward.kept:
            self._say(ward, f"fd {name}", name)
        if ward.role == BEREAVED:
            for pid, code in self._exits.items():
                self._say(ward, f"exit {pid} {code}")
        if not self._gated or ward.role == "store":
            self._say(ward, f"start {ward.starts}")

    def _open_gate(self) -> None:
        """The store has its lock, so this installation is ours: the others, imported and waiting, may go on."""
        self._gated = False
        for ward in self._wards:
            if ward.pid and ward.role != "store":
                self._say(ward, f"start {ward.starts - 1}")

    # ---- links

    def _say(self, ward: Ward, text: str, name: str = "") -> None:
        ward.outbox.append((text, name))
        self._flush(ward)

    def _flush(self, ward: Ward) -> None:
        while ward.outbox and ward.link is not None:
            text, name = ward.outbox[0]
            try:
                rights.send(ward.link, text.encode(), ward.kept.get(name))
            except BlockingIOError:
                self._poller.modify(ward.link, select.POLLIN | select.POLLOUT)
                return
            except OSError:
                return  # it is gone; _lost will clear up
            ward.outbox.popleft()
        if ward.link is not None:
            self._poller.modify(ward.link, select.POLLIN)

    def _listen(self, ward: Ward) -> None:
        self._flush(ward)
        while ward.link is not None:
            try:
                data, fds = rights.receive(ward.link, MESSAGE, wait=False)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self._cut(ward)
                return
            self._heard(ward, data.decode(errors="replace").split(" ", 1), fds)

    def _heard(self, ward: Ward, words: list[str], fds: list[int]) -> None:
        ward.heard_at = mono()
        match words:
            case ["beat"]:
                ward.beating = True
            case ["ready"]:
                ward.ready = ward.was_ready = True
                ward.unready = 0
                self._notify_ready()
            case ["keep", name] if fds:
                self._forget(ward, name)
                ward.kept[name] = fds.pop()
                if self._gated and ward.role == "store" and ward.locked:
                    self._open_gate()
            case ["keep", name]:
                self._log.say(f"{ward.label}: {name} was not kept: this process may hold no more files (ulimit -n)")
            case ["drop", name]:
                self._forget(ward, name)
            case ["words", text]:
                ward.last_words = text
        for fd in fds:
            os.close(fd)

    def _forget(self, ward: Ward, name: str) -> None:
        fd = ward.kept.pop(name, None)
        if fd is not None:
            os.close(fd)

    def _cut(self, ward: Ward) -> None:
        """The link has ended. The role has died, or will be found stuck: nobody closes it otherwise."""
        if ward.link is None:
            return
        self._poller.unregister(ward.link)
        del self._by_fd[ward.link.fileno()]
        ward.link.close()
        ward.link = None
        ward.outbox.clear()

    def _notify_ready(self) -> None:
        if not self._notified and all(ward.was_ready for ward in self._wards):
            self._notified = True
            _notify_systemd(self._environ, "READY=1")

    # ---- deaths

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            ward = next((ward for ward in self._wards if ward.pid == pid), None)
            if ward is None:
                self._orphan_ended(pid, code)
            else:
                self._lost(ward, code)

    def _orphan_ended(self, pid: int, code: int) -> None:
        self._exits.pop(pid, None)  # a number that came round again moves to the end
        self._exits[pid] = code
        if len(self._exits) > EXITS_KEPT:
            del self._exits[next(iter(self._exits))]
        for ward in self._wards:
            if ward.role == BEREAVED and ward.link is not None:
                self._say(ward, f"exit {pid} {code}")

    def _lost(self, ward: Ward, code: int) -> None:
        """A role has ended: was that meant, is it hopeless, or does it start again?"""
        now = mono()
        self._listen(ward)  # its last words
        self._cut(ward)
        ward.pid = 0
        ward.kill_at = None
        if self._stop_at is not None:
            return
        if not ward.was_ready and code in REFUSALS:
            complain(ward.last_words or f"{ward.label} could not start: exit code {code}")
            self._stop(code)
            return
        lived = now - ward.started_at
        ward.unready = 0 if ward.ready else ward.unready + 1
        wait = 0.0 if ward.ready and ward.starts == 1 else pause(ward.unready, lived)
        ward.start_at = now + wait
        again = "it is started again" + (f" in {wait:.1f} s" if wait >= 0.1 else "")
        self._log.say(f"{ward.label} ended ({ward.last_words or told_by(code)}): {again}")

    # ---- going down

    def _stop(self, code: int) -> None:
        """Everyone but the store first. Being told twice changes nothing."""
        if self._stop_at is not None:
            return
        self._stop_at = now = mono()
        self._code = code
        _notify_systemd(self._environ, "STOPPING=1")
        for ward in self._wards:
            ward.start_at = ward.kill_at = None
            if ward.role != "store" and ward.pid:
                _kill(ward, signal.SIGTERM)
                ward.kill_at = now + self._stop_within

    def _send_off_store(self, now: float) -> None:
        """The store answers until nobody is left to ask."""
        assert self._stop_at is not None
        for ward in self._wards:
            if ward.role == "store" and ward.pid and ward.kill_at is None and not any(other.pid for other in self._wards if other is not ward):
                _kill(ward, signal.SIGTERM)
                ward.kill_at = max(now, self._stop_at + self._stop_within) + STORE_STOPS

    def _bury(self) -> None:
        """End what the roles left behind, unless it was to stay. A child we have not waited for keeps its pid: no stranger is hit."""
        keep_daemons = any("--keep-daemons" in ward.argv for ward in self._wards)
        until = mono() + 0.5
        while mono() < until:
            left = [pid for pid in _children() if not (keep_daemons and _is_daemon(pid))]
            if not left:
                return
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            self._poller.poll(10)  # its children become ours when it is gone
            self._reap()


def _noted(number: int, frame: object) -> None:
    """The byte on the wakeup pipe is all we want of a signal."""


def _kill(ward: Ward, number: int) -> None:
    if ward.pid:
        os.kill(ward.pid, number)  # our child and not waited for: the pid is still its own


def _become_subreaper() -> None:
    """Orphans of the roles become our children (Linux; elsewhere their exit codes are lost)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _is_daemon(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return b"DICODE_DAEMON_ID=" in file.read()
    except OSError:
        return False


def _notify_systemd(environ: Mapping[str, str], text: str) -> None:
    """sd_notify(3), for `Type=notify`."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link, suppress(OSError):  # systemd has gone: nobody to tell
        link.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


def _prepare() -> None:
    """Nothing is inherited by accident; many files may be kept; no core dumps, which hold secrets."""
    for entry in os.listdir("/proc/self/fd"):
        fd = int(entry)
        if fd > 2:
            with suppress(OSError):  # the listing's own
                os.set_inheritable(fd, False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < min(hard, FDS_WANTED):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, FDS_WANTED), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def keep(wards: Iterable[Ward], environ: Mapping[str, str], program: Sequence[str] = PROGRAM) -> int:
    """Be the keeper of these roles until told to stop. Gives the exit code."""
    _prepare()
    log = Log("keeper", as_json=environ.get("DICODE_LOG_FORMAT") == "json", debug=bool(environ.get("DICODE_DEBUG")))
    return Keeper(wards, environ, log, program).run()
