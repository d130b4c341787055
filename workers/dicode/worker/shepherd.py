"""One process a run, forked off the zygote: starts the task, keeps its log, answers its questions, and lets nothing outlive it.

    worker ──socketpair──► shepherd (subreaper) ──► task ──► whatever the task starts

Shepherd and task process are there before the run is: both wait for the job, so that no fork stands between a trigger and
the task's first line. When the worker is gone the socketpair ends, and the shepherd kills the task: a run never outlives
the worker that holds it.
"""

from __future__ import annotations

import array
import ast
import atexit
import contextlib
import io
import json
import os
import resource
import select
import shutil
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

from dicode.process.clock import mono
from dicode.process.tasklog import LogWriter, Stream
from dicode.sdk.entry import run_task
from dicode.sdk.names import NAMES
from dicode.sdk.server import RESULT_MAX, Conversation, Desk, Hangup
from dicode.sdk.values import KvFile
from dicode.worker import tree
from dicode.worker.decide import Ended, Returned, judge
from dicode.worker.job import LENGTH, Job, Needs, Outcome, Stop, is_direct, order, packed, result_in, socket_in

DRAIN = 0.5  # seconds its pipes stay open after the task's end, for a child in the background may hold them for ever; P5
CHUNK = 65_536  # bytes read at once
REAP = 1.0  # seconds a zombie waits at most
PEERS_MAX = 32  # connections to the run's socket at once
FDS_MAX = 65_536


def live(orders: socket.socket, runs: Path) -> NoReturn:
    """Make all that a run needs, offer it to the worker over `orders`, and be the shepherd of what comes; never returns.

    The offer is our pid, which names our folder below `runs`, with the worker's end of the control socket and the write end
    of the pipe on which the future task process waits for its job.
    """
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the worker says when; to be told twice is to be told wrong
        os.setsid()
        tree.become_subreaper()
        folder = _fresh_folder(runs / str(os.getpid()))
        try:
            listener = _listener(socket_in(str(folder)))
            control, theirs = socket.socketpair()
            waiting = fork_child(_await_job)
            order(_REHEARSAL)
            with theirs, orders:
                rights = array.array("i", [theirs.fileno(), waiting.stdin])
                orders.sendmsg([str(os.getpid()).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            body = _one_message(control)
            job = order(body)
            if isinstance(job, Job):
                outcome = Shepherd(job, body, control, listener, waiting).carry_out()
                _tell(control, outcome)
                code = 0
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except (EOFError, BrokenPipeError):
        pass  # the worker was gone before it said what to do
    finally:
        os._exit(code)


def _fresh_folder(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)  # of a shepherd that was killed and had our pid
    folder.mkdir(mode=0o700)
    return folder


def _listener(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(PEERS_MAX)
    listener.setblocking(False)
    return listener


def _tell(control: socket.socket, outcome: Outcome) -> None:
    control.setblocking(True)
    with contextlib.suppress(OSError):  # nobody is left to hear it
        control.sendall(packed(outcome))


def _one_message(control: socket.socket) -> bytes:
    """Raises EOFError."""
    return _exactly(control, LENGTH.unpack(_exactly(control, LENGTH.size))[0])


def _exactly(control: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = control.recv(count - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


class Child(NamedTuple):
    """A forked process of ours with nothing but 0, 1, 2, a session of its own; what it reads from 0 comes from `stdin`."""

    pid: int
    pidfd: int
    stdin: int
    out: int
    err: int


class Shepherd:
    def __init__(self, job: Job, body: bytes, control: socket.socket, listener: socket.socket, waiting: Child) -> None:
        self._job = job
        self._body = body
        self._control = control
        self._listener = listener
        self._waiting = waiting
        self._desk = Desk(job.task, job.run, job.token, job.params, job.input, KvFile(Path(job.kv)), self._log_asked)
        self._poller = select.poll()
        self._on: dict[int, Callable[[int], None]] = {}
        self._peers: dict[int, tuple[socket.socket, Conversation, bytearray]] = {}
        self._pipes: dict[int, Stream] = {}
        self._codes: dict[int, int] = {}
        self._pid = 0  # of the child that is followed
        self._stop: Stop | None = None
        self._kill_at = float("inf")

    def carry_out(self) -> Outcome:
        """Everything, from the start of the task to the end of its last process."""
        if is_direct(self._job, self._body):
            os.close(self._waiting.stdin)  # the worker has written to it already
        self._log = _log(Path(self._job.log))
        self._watch(self._control.fileno(), self._hear_worker)
        self._watch(self._listener.fileno(), self._accept)
        try:
            outcome = self._outcome()
        except OSError as error:
            outcome = Outcome(status="failed", error=f"SpawnError: {error.strerror or error}")
        if not tree.kill_all(self._ended):
            self._log.say("some of its processes do not die, not even by SIGKILL")
        if outcome.error:
            self._log.say(outcome.error)
        self._log.close()
        return outcome

    def _outcome(self) -> Outcome:
        if self._job.needs is not None:
            needs = self._job.needs
            self._log.say(f"building the environment: {', '.join(needs.dependencies) or 'no packages'}")
            builder = fork_child(lambda: _build(needs))
            os.close(builder.stdin)
            ended = self._follow(builder, None)
            if self._stop is None and ended.code:
                return Outcome(status="failed", error="DependenciesFailed: uv could not build the environment; its words are above")
        if self._stop is None:
            if not is_direct(self._job, self._body):
                self._let_go()
            ended = self._follow(self._waiting, self._job.timeout)
        if self._stop is not None:
            return Outcome(status=self._stop.status, exit_code=None, error=self._stop.why)
        verdict = judge(ended, Returned(self._desk.result, _read_result(result_in(self._job.folder))), self._job.timeout, RESULT_MAX)
        if verdict.status != "succeeded":
            return Outcome(status=verdict.status, exit_code=verdict.exit_code, error=verdict.error)
        return Outcome(status="succeeded", exit_code=0, value=verdict.value, content_type=self._desk.content_type, content=self._desk.content)

    # --- the task ---

    def _let_go(self) -> None:
        """The waiting process becomes the task."""
        with contextlib.suppress(BrokenPipeError), open(self._waiting.stdin, "wb") as go:  # it was killed: its end tells
            go.write(LENGTH.pack(len(self._body)) + self._body)

    def _follow(self, child: Child, timeout: int | None) -> Ended:
        """Serve it until it has ended and its pipes are empty."""
        self._pid = child.pid
        self._pipes |= {child.out: "o", child.err: "e"}
        for fd in (child.out, child.err):
            os.set_blocking(fd, False)
            self._watch(fd, self._read_pipe)
        self._watch(child.pidfd, lambda fd: None)  # its end only has to wake us; reap() learns the rest
        timed_out, open_until = False, float("inf")
        deadline = mono() + timeout / 1000 if timeout else float("inf")
        ended = False
        while not ended or (self._pipes and mono() < open_until):
            self._serve(min(deadline, self._kill_at, open_until))
            tree.reap(self._ended)
            if not ended and self._pid in self._codes:
                ended, deadline, open_until = True, float("inf"), mono() + DRAIN
                self._unwatch(child.pidfd)
                if self._stop is not None or timed_out:
                    tree.kill_all(self._ended)
            if mono() >= deadline and not ended:
                timed_out, deadline = True, float("inf")
                tree.kill_all(self._ended)
            if mono() >= self._kill_at:
                self._kill_at = float("inf")
                tree.kill_all(self._ended)
        for fd in list(self._pipes):
            self._close_pipe(fd)
        os.close(child.pidfd)
        return Ended(self._codes.get(self._pid), timed_out)

    def _ended(self, pid: int, code: int) -> None:
        if pid in (self._pid, self._waiting.pid):
            self._codes[pid] = code

    # --- the loop ---

    def _watch(self, fd: int, on_ready: Callable[[int], None], events: int = select.POLLIN) -> None:
        self._on[fd] = on_ready
        self._poller.register(fd, events)

    def _unwatch(self, fd: int) -> None:
        del self._on[fd]
        self._poller.unregister(fd)

    def _serve(self, until: float) -> None:
        wait = min(max(until - mono(), 0.0), REAP)
        for fd, _ in self._poller.poll(int(wait * 1000) + 1):
            handler = self._on.get(fd)
            if handler is not None:
                handler(fd)

    def _read_pipe(self, fd: int) -> None:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        if data:
            self._log.write(self._pipes[fd], data)
        else:
            self._close_pipe(fd)

    def _close_pipe(self, fd: int) -> None:
        while True:  # what is there already still counts, as far as it goes
            try:
                data = os.read(fd, CHUNK)
            except OSError:
                break
            if not data or mono() > self._kill_at:
                break
            self._log.write(self._pipes[fd], data)
        self._unwatch(fd)
        del self._pipes[fd]
        os.close(fd)

    # --- the worker ---

    def _hear_worker(self, fd: int) -> None:
        try:
            message = order(_one_message(self._control))
        except (EOFError, OSError):
            self._unwatch(fd)
            message = Stop("lost", "its worker is gone")
        if isinstance(message, Stop):
            self._stop = message
            self._kill_at = min(self._kill_at, mono() + message.grace)
            if message.grace and self._pid:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._pid, signal.SIGTERM)

    # --- the task's questions ---

    def _accept(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            peer, _ = self._listener.accept()
            if len(self._peers) >= PEERS_MAX:
                peer.close()
                return
            peer.setblocking(False)
            self._peers[peer.fileno()] = (peer, Conversation(self._desk), bytearray())
            self._watch(peer.fileno(), self._talk)

    def _talk(self, fd: int) -> None:
        peer, conversation, answers = self._peers[fd]
        try:
            if not answers:  # who does not read its answers is not asked for more
                data = peer.recv(CHUNK)
                if not data:
                    raise Hangup("it went")
                answers += conversation.feed(data)
            if answers:
                del answers[: peer.send(answers)]
        except BlockingIOError:
            pass
        except (OSError, Hangup):
            self._unwatch(fd)
            del self._peers[fd]
            peer.close()
            return
        self._poller.modify(fd, select.POLLOUT if answers else select.POLLIN)

    def _log_asked(self, level: str, text: str) -> None:
        self._log.write("e" if level in ("warn", "warning", "error") else "o", text.encode(errors="replace") + b"\n")


def _log(path: Path) -> LogWriter:
    """A run whose log cannot be written goes on without."""
    try:
        return LogWriter(path)
    except OSError:
        return LogWriter(Path(os.devnull))


def _read_result(path: str) -> bytes | None:
    """What the task wrote to $DICODE_RESULT, one byte more than allowed at most; None when it is no plain file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        return file.read(RESULT_MAX + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else None


# --- children ---


def fork_child(work: Callable[[], NoReturn]) -> Child:
    """Fork a process that does `work`. Raises OSError."""
    stdin, stdin_end = os.pipe()[::-1]
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    pid = os.fork()
    if not pid:
        _in_child(work, stdin_end, out_end, err_end)
    for fd in (stdin_end, out_end, err_end):
        os.close(fd)
    return Child(pid, os.pidfd_open(pid), stdin, out, err)


def _in_child(work: Callable[[], NoReturn], stdin: int, out: int, err: int) -> NoReturn:
    """Never returns, whatever happens."""
    try:
        tree.die_with_parent()
        os.setsid()
        for fd, place in ((stdin, 0), (out, 1), (err, 2)):
            os.dup2(fd, place)
        os.closerange(3, FDS_MAX)
        for number in (signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold secrets
        work()
    except BaseException as error:  # nothing of ours above may run in the child
        os.write(2, f"dicode: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def _await_job() -> NoReturn:
    """Be ready to be a python task, whatever it will be; then read the job and become it."""
    sys.dont_write_bytecode = True
    sys.stdin = io.TextIOWrapper(io.FileIO(0, "r", closefd=False), encoding="utf-8", errors="surrogateescape")
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", errors="replace", write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True)
    _rehearse()
    with open(0, "rb", closefd=False) as go:
        head = go.read(LENGTH.size)
        if len(head) < LENGTH.size:
            os._exit(0)  # there will be no job
        job = order(go.read(LENGTH.unpack(head)[0]))
    assert isinstance(job, Job)
    _set_stdin(job)
    os.chdir(job.cwd)
    if not job.script:
        os.execve(job.argv[0], job.argv, job.env)
    _be_python(job)


_REHEARSAL = packed(Job(run="r", task="t", argv=("a",), cwd="/", env={"A": "b"}, folder="/", log="l", kv="k", token="t", params={"a": 1}))[
    LENGTH.size :
]


def _rehearse() -> None:
    """Do once, on nothing, what the job will need: a page of a fork is copied when it is first written to, and half of them
    (measured: 165 of 300) can be before there is a job."""
    order(_REHEARSAL)
    exec(compile(ast.parse("def main(params):\n    return 1\n"), "rehearsal", "exec", dont_inherit=True), {})
    os.environ["REHEARSAL"] = json.dumps(json.loads('{"a": [1]}'))  # noqa: TID251  # cleared before the task sees it


def _set_stdin(job: Job) -> None:
    if job.stdin_is_input:
        fd = os.memfd_create("input")
        os.write(fd, job.input.encode())
        os.lseek(fd, 0, os.SEEK_SET)
    else:
        fd = os.open(os.devnull, os.O_RDONLY)
    os.dup2(fd, 0)
    os.close(fd)


def _be_python(job: Job) -> NoReturn:
    os.environ.clear()  # noqa: TID251  # from here on it is the task's own
    os.environ.update(job.env)  # noqa: TID251
    time.tzset()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as every python program has it
    NAMES.begin(job.params, _parsed(job.input))
    code = run_task(job.script)
    threading._shutdown()  # type: ignore[attr-defined]  # what an interpreter does at its end; multiprocessing's children do the same
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _parsed(text: str) -> object:
    return json.loads(text) if text else None


def _build(needs: Needs) -> NoReturn:
    from dicode.runtime import dependencies  # tomllib, subprocess: only for who needs them
    from dicode.runtime.command import CannotStart

    try:
        dependencies.build(dependencies.Needs(needs.dependencies, needs.python, needs.key), Path(needs.envs), needs.host)
    except CannotStart as error:
        os.write(2, f"{error}\n".encode(errors="replace"))
        os._exit(1)
    os._exit(0)
