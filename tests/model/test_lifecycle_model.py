"""The life of one daemon against a world where everything happens in any order, and the supervisor dies at any instruction.

The world keeps what survives: processes, the local record, the store. The supervisor of this model does what `next_step`
says in the order in which the real one writes, one write at a time; a crash may come before each of them.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from dicode.messages.kinds import Daemon, Task
from dicode.messages.task import TaskSpec, Trigger
from dicode.supervisor.lifecycle import (
    LIVE,
    Absent,
    Alive,
    Bury,
    Ended,
    Facts,
    Forget,
    Kill,
    Nothing,
    Prepare,
    Process,
    Relabel,
    Start,
    Stop,
    Trouble,
    Wait,
    next_step,
)

BROKEN = "broken"  # a digest that cannot be started


class Crash(Exception):
    """The supervisor is killed, right here."""


class DaemonLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1_800_000_000_000
        self.task: Task | None = None
        self.tokens = 0
        # what survives the supervisor
        self.processes: dict[int, str] = {}  # pid → process digest
        self.started = 0
        self.record: Daemon | None = None
        self.store: Daemon | None = None
        # what does not
        self.daemon: Daemon | None = None
        self.pid = 0
        self.ended: Ended | None = None
        self.prepared = ""
        self.trouble: Trouble | None = None
        self.crash_in = -1

    # ---- the supervisor

    def _instruction(self) -> None:
        if self.crash_in == 0:
            self.crash_in = -1
            raise Crash
        self.crash_in -= self.crash_in > 0

    def _note(self, daemon: Daemon) -> None:
        self._instruction()
        self.record = daemon

    def _write(self) -> None:
        self._instruction()
        self.store = self.daemon

    def _start_anew(self) -> None:
        """What adopt.py does: the record counts for a process, the store for everything else; strays are ended."""
        self.daemon, self.pid, self.ended, self.prepared, self.trouble = self.store, 0, None, "", None
        if self.record is not None and not self.record.pid:
            self.record = None
        if self.record is not None:
            self.daemon = self.record
            if self.record.pid in self.processes:
                self.pid = self.record.pid
            else:
                self.ended = Ended()
        elif self.daemon is not None and self.daemon.state in LIVE:
            self.daemon = replace(self.daemon, state="stopped", pid=0)
        self.processes = {pid: digest for pid, digest in self.processes.items() if pid == self.pid}

    def _process(self) -> Process:
        if self.pid and self.pid not in self.processes and self.ended is None:
            self.ended = Ended("exit code 1")
        if self.ended is not None:
            return self.ended
        return Alive() if self.pid else Absent()

    def _work(self) -> int | None:
        """Do what there is to do now; gives the time until which nothing is."""
        for _ in range(40):
            step = next_step(Facts("x", self.task, self.daemon, self._process(), self.now, self.prepared, self.trouble))
            match step:
                case Nothing() | Wait():
                    if self.store != self.daemon:  # written as a whole, whenever it differs
                        self._write()
                    if isinstance(step, Nothing):
                        return None
                    assert step.until > self.now
                    return step.until
                case Kill():
                    self._instruction()
                    self.processes.pop(self.pid, None)
                case Prepare(digest=digest):
                    self.prepared, self.trouble = ("", Trouble(digest, "X", "broken")) if digest == BROKEN else (digest, None)
                case Start(daemon=daemon):
                    self._start(daemon)
                case Stop(daemon=daemon):
                    self.daemon = daemon
                    self._note(daemon)
                    self._write()
                case Bury(daemon=daemon):
                    self._instruction()
                    self.record, self.daemon, self.pid, self.ended = None, daemon, 0, None
                    self._write()
                case Relabel(daemon=daemon):
                    self.trouble, self.daemon = None, daemon
                    if daemon.pid:
                        self._note(daemon)
                    self._write()
                case Forget():
                    self._instruction()
                    self.record = self.daemon = None
                    self._write()
        raise AssertionError(f"it does not come to rest: {step}")

    def _start(self, daemon: Daemon) -> None:
        assert self.task is not None
        if self.task.digest == BROKEN:
            self.trouble = Trouble(BROKEN, "X", "broken")
            return
        assert not self.processes, "something still runs when a new one is started"
        self._note(daemon)
        self._instruction()
        self.started += 1
        self.processes[self.started] = daemon.process
        self.pid, self.ended, self.prepared, self.trouble = self.started, None, "", None
        self.daemon = replace(daemon, pid=self.started)
        self._note(self.daemon)
        self._write()

    # ---- what happens

    @rule(digest=st.sampled_from(["a", "b", BROKEN]), process=st.sampled_from(["p", "q"]), restart=st.sampled_from([None, "on-failure", "never"]))
    def register(self, digest: str, process: str, restart: str | None) -> None:
        spec = TaskSpec(name="x", trigger=Trigger(daemon=True, restart=restart, stop_grace=1_000))  # type: ignore[arg-type]
        token = self.task.restart_token if self.task else ""
        bare = Task(id="x", source="s", digest=digest, process=process, spec=spec, generation=self.now % 97, restart_token=token)
        self.task = bare

    @rule()
    def unregister(self) -> None:
        self.task = None

    @precondition(lambda self: self.task is not None)
    @rule(suspended=st.booleans())
    def suspend(self, suspended: bool) -> None:
        self.task = replace(self.task, suspended=suspended)

    @precondition(lambda self: self.task is not None)
    @rule()
    def ask_for_a_restart(self) -> None:
        self.tokens += 1
        self.task = replace(self.task, restart_token=f"r{self.tokens}")

    @precondition(lambda self: self.processes)
    @rule(clean=st.booleans())
    def the_process_ends(self, clean: bool) -> None:
        if self.pid in self.processes and self.ended is None:
            self.ended = Ended("exit code 0" if clean else "exit code 1", clean)
        self.processes.clear()

    @rule(ms=st.sampled_from([1, 50, 200, 1_000, 60_000, 300_000]))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule()
    def the_supervisor_works(self) -> None:
        self._work()

    @rule(after=st.integers(0, 6))
    def the_supervisor_dies_while_it_works(self, after: int) -> None:
        self.crash_in = after
        try:
            self._work()
        except Crash:
            pass
        self.crash_in = -1
        self._start_anew()

    @rule()
    def a_crash_alone_changes_no_process(self) -> None:
        self._work()
        before = dict(self.processes)
        self._start_anew()
        self._work()
        assert self.processes == before

    # ---- what must hold

    @invariant()
    def there_is_at_most_one_process(self) -> None:
        assert len(self.processes) <= 1

    def teardown(self) -> None:
        """Left alone for long enough, what runs is what should."""
        for _ in range(40):
            until = self._work()
            if until is None:
                break
            self.now = until
        task = self.task
        wanted = task is not None and not task.suspended
        if task is None:
            assert not self.processes and self.store is None and self.record is None
        elif not wanted:
            assert not self.processes
        elif task.digest == BROKEN:
            assert self.daemon is not None
            assert self.daemon.failed == BROKEN or self.daemon.process == task.process
        elif self.daemon is not None and self.daemon.state == "exited":
            assert self.daemon.process == task.process and not self.processes
        else:
            assert list(self.processes.values()) == [task.process]
            assert self.store is not None
            assert (self.store.state, self.store.digest, self.store.restart_token) == ("running", task.digest, task.restart_token)


TestDaemonLife = DaemonLife.TestCase
TestDaemonLife.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
