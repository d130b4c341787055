"""Daemons under a real supervisor and a real store; the test writes the Tasks, as the reconciler would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import wait_for

from dicode.messages.commands import Found, Get, List, Listing, Write, Written
from dicode.messages.kinds import Daemon, Event, Request, Task
from dicode.messages.task import EnvGrant, Param, Permissions, TaskSpec, Trigger
from dicode.process.blobs import Bundles
from dicode.process.clock import mono, wall_ms
from dicode.process.mirror import delete, put
from dicode.process.settings import Settings
from dicode.process.tasklog import daemon_log, read_log
from dicode.spec.condition import find
from dicode.spec.digest import digest_of, manifest, process_of, spec_json
from dicode.spec.folder import FolderFile
from dicode.wire.blocking import BlockingWire
from dicode.wire.frames import StoreAway, decode_body, endpoints

pytestmark = pytest.mark.process
PASSED_ON = {name: value for name, value in os.environ.items() if name.startswith("COV")}
HOST = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "LANG": "C.UTF-8", "GRANTED": "yes", "HOST_SECRET": "canary"}
SLEEPS = "echo up $$\nexec sleep 1000\n"
LISTS_ITS_FILES = """
import os, json, time
print(json.dumps({"fds": {fd: os.path.realpath(f"/proc/self/fd/{fd}") for fd in sorted(os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}")},
                  "env": dict(os.environ), "sid": os.getsid(0) == os.getpid(), "cwd": os.getcwd()}), flush=True)
time.sleep(1000)
"""
COUNTS = """
import time
n = 0
while True:
    n += 1
    print(n, flush=True)
    time.sleep(0.002)
"""
DOUBLE_FORKS = """
(setsid sh -c 'sleep 1000 & exec sleep 1001' </dev/null >/dev/null 2>&1 3>&- &)
(env -i setsid sleep 1002 &)
echo up
exec sleep 1000
"""


class Installation:
    """A data folder with a store and a supervisor."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(folder / "data", None)
        self.settings.make()
        self.output = folder / "output.txt"
        self.roles: dict[str, subprocess.Popen[bytes]] = {}
        self.wire = BlockingWire(*endpoints(self.settings.data_dir))

    def start(self, role: str, *words: str) -> subprocess.Popen[bytes]:
        with open(self.output, "ab") as output:
            self.roles[role] = subprocess.Popen(
                [sys.executable, "-P", "-m", "dicode", role, *words],
                env={**HOST, **PASSED_ON, "DICODE_DATA_DIR": str(self.settings.data_dir)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
            )
        return self.roles[role]

    def stop(self, role: str) -> float:
        """Gives the seconds it took."""
        begun = mono()
        self.roles[role].terminate()
        assert self.roles.pop(role).wait(10) == 0
        return mono() - begun

    def kill(self, role: str) -> None:
        """kill -9 of the role itself, not of its keeper; returns when it is there again."""
        old = self.pid(role)
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: self.pid(role) not in (0, old), f"{role} is back")

    def pid(self, role: str) -> int:
        keeper = self.roles[role].pid
        for child in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split():
            try:
                if role.encode() in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                    return int(child)
            except OSError:
                continue
        return 0

    def close(self) -> None:
        for role in ("supervisor", "store"):
            if role in self.roles:
                self.stop(role)
        self.wire.close()
        left = self.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"left behind: {left}"

    def processes(self) -> list[int]:
        """Everything that runs in, or carries in its environment, this data folder."""
        mark = os.fsencode(self.settings.data_dir)
        return [pid for pid in pids() if mark in os.fsencode(cwd(pid)) or mark in environ(pid)]

    def get(self, kind: str, key: str) -> Any:
        try:
            found = self.wire.ask(Get(what=kind, key=key), Found)
        except StoreAway:
            return None
        return decode_body(kind, found.body) if found.rev else None

    def daemon(self, task: str) -> Daemon | None:
        return self.get("Daemon", task)  # type: ignore[no-any-return]

    def when(self, task: str, fact: Callable[[Daemon], Any], what: str, within: float = 15.0) -> Daemon:
        """The daemon, once this is true of it."""
        return wait_for(lambda: (daemon := self.daemon(task)) is not None and fact(daemon) and daemon, f"{task} {what}: {self.daemon(task)}", within)  # type: ignore[no-any-return]

    def running(self, task: str, but: int = 0) -> Daemon:
        return self.when(task, lambda daemon: daemon.state == "running" and daemon.pid != but, "runs")

    def events(self, task: str) -> list[str]:
        listing = self.wire.ask(List(what="Event"), Listing)
        events = [decode_body("Event", change.body) for change in listing.changes if change.body]
        return [event.reason for event in events if isinstance(event, Event) and event.object == f"task/{task}"]

    def task(self, id: str, script: str, *, name: str = "task.sh", generation: int = 1, bundled: bool = True, **fields: Any) -> Task:
        """Register a daemon task, as the reconciler would."""
        trigger = Trigger(daemon=True, **fields.pop("trigger", {}))
        kept = {key: fields.pop(key) for key in ("suspended", "restart_token") if key in fields}
        spec = TaskSpec(name=fields.pop("title", id), trigger=trigger, **fields)
        files = [FolderFile(name, "-", script.encode())]
        text = manifest(spec_json(spec), files)
        digest = digest_of(text)
        if bundled:
            Bundles(self.settings.bundles, self.settings.trees).put(digest, text, spec_json(spec), files)
        task = Task(
            id=id, source="tests", digest=digest, process=process_of(spec, text), spec=spec, generation=generation,
            runtime="python" if name.endswith(".py") else "shell", **kept,
        )  # fmt: skip
        self.wire.ask(Write(ops=(put(task, id),)), Written)
        return task

    def unregister(self, id: str) -> None:
        self.wire.ask(Write(ops=(delete(Task, id),)), Written)

    def lines(self, task: str, stream: str = "o") -> list[str]:
        return [record.text for record in read_log(daemon_log(self.settings.logs, task)) if record.stream == stream]


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def cwd(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path)
    try:
        installation.start("store")
        installation.start("supervisor")
        yield installation
    finally:
        print(installation.output.read_text())
        installation.close()


def test_changed_code_replaces_the_process_and_a_new_description_only_the_label(here: Installation) -> None:
    first = here.task("group/web", SLEEPS)
    old = here.running("group/web")
    assert (old.digest, old.process, old.bundle, old.restarts) == (first.digest, first.process, first.digest, 0)

    relabelled = here.task("group/web", SLEEPS, description="new words", generation=2)
    same = here.when("group/web", lambda daemon: daemon.digest == relabelled.digest, "is relabelled")
    assert (same.pid, same.state, same.generation, same.bundle) == (old.pid, "running", 2, first.digest)

    replaced = here.task("group/web", "echo second\n" + SLEEPS, generation=3)
    new = here.running("group/web", but=old.pid)
    assert (new.digest, new.process, new.restarts) == (replaced.digest, replaced.process, 0)
    assert not alive(old.pid)
    wait_for(lambda: "second" in here.lines("group/web"), "the new code has printed")
    assert here.events("group/web") == ["Started", "Stopping", "Started"]


def test_a_killed_daemon_is_back_at_once(here: Installation) -> None:
    here.task("web", SLEEPS)
    old = here.running("web")
    begun = mono()
    os.kill(old.pid, signal.SIGKILL)
    new = here.running("web", but=old.pid)
    assert mono() - begun < 0.05 * 5
    assert (new.restarts, new.failures, new.exit) == (1, 1, "killed by SIGKILL")


def test_a_killed_supervisor_finds_the_same_process_and_loses_at_most_what_it_had_in_hand(here: Installation) -> None:
    here.task("counter", COUNTS, name="task.py")
    pid = here.running("counter").pid
    kills = 5
    for _ in range(kills):
        here.kill("supervisor")
        printed = len(here.lines("counter"))
        wait_for(lambda: len(here.lines("counter")) > printed, "the new supervisor reads on")
    daemon = here.running("counter")
    assert (daemon.pid, daemon.restarts) == (pid, 0)
    assert [each for each in pids() if b"DICODE_TASK_ID=counter\0" in environ(each)] == [pid]
    # Python prints a number and its newline in two writes: when the first dies in the supervisor's hand, the newline arrives alone.
    numbers = [int(line) for line in here.lines("counter") if line]
    assert numbers == sorted(set(numbers)), "nothing is told twice, or out of order"
    gaps = [after - before - 1 for before, after in zip(numbers, numbers[1:], strict=False) if after != before + 1]
    assert len(gaps) <= kills and all(gap < 50 for gap in gaps), "a chunk between read() and write() is all that dies with it"


def test_an_exit_while_the_supervisor_is_dead_is_told_by_the_keeper(here: Installation) -> None:
    here.task(
        "once",
        "read x < fifo 2>/dev/null; while [ ! -e $DICODE_STATE_DIR/go ]; do sleep 0.01; done; echo last words; exit 7\n",
        trigger={"restart": "never"},
    )
    daemon = here.running("once")
    os.kill(here.pid("supervisor"), signal.SIGSTOP)  # it sees nothing from now on
    (here.settings.state / "once" / "go").touch()
    os.kill(here.pid("supervisor"), signal.SIGKILL)
    ended = here.when("once", lambda now: now.state == "exited", "has ended")
    assert (ended.exit, ended.restarts) == ("exit code 7", 0)
    assert not alive(daemon.pid)
    assert here.lines("once") == ["last words"]


def test_children_that_forked_away_are_gone_after_a_stop(here: Installation) -> None:
    task = here.task("forks", DOUBLE_FORKS)
    here.running("forks")
    wait_for(lambda: here.lines("forks") == ["up"], "it has forked")
    here.unregister(task.id)
    wait_for(lambda: here.daemon("forks") is None, "the daemon is deleted")
    tree = str(here.settings.trees)
    assert [pid for pid in pids() if cwd(pid).startswith(tree)] == []


def test_a_daemon_that_ignores_the_stop_signal_is_killed_after_its_grace(here: Installation) -> None:
    here.task("stubborn", "trap '' TERM\necho up\nwhile :; do sleep 0.05; done\n", trigger={"stop_grace": 300})
    pid = here.running("stubborn").pid
    wait_for(lambda: here.lines("stubborn") == ["up"], "it ignores the signal")
    here.task("stubborn", "trap '' TERM\necho up\nwhile :; do sleep 0.05; done\n", trigger={"stop_grace": 300}, suspended=True)
    stopped = here.when("stubborn", lambda daemon: daemon.state == "stopped", "is stopped")
    assert stopped.exit == "killed by SIGKILL" and not alive(pid)
    assert "Killed" in here.events("stubborn")


def test_the_stop_signal_is_the_declared_one_and_a_suspended_daemon_comes_back(here: Installation) -> None:
    script = "trap 'echo bye; exit 0' USR1\necho up\nwhile :; do sleep 0.02; done\n"
    here.task("polite", script, trigger={"stop_signal": "SIGUSR1"})
    here.running("polite")
    wait_for(lambda: here.lines("polite") == ["up"], "it listens")
    here.task("polite", script, trigger={"stop_signal": "SIGUSR1"}, suspended=True)
    here.when("polite", lambda daemon: daemon.state == "stopped" and daemon.exit == "exit code 0", "is stopped")
    assert here.lines("polite") == ["up", "bye"]
    here.task("polite", script, trigger={"stop_signal": "SIGUSR1"})
    here.running("polite")


def test_a_crash_loop_is_visible_and_ends_when_the_code_is_mended(here: Installation) -> None:
    here.task("broken", "exit 3\n")
    looping = here.when("broken", lambda daemon: daemon.state == "crash_loop", "is in a crash loop")
    condition = find(looping.conditions, "CrashLoop")
    assert condition is not None and condition.status and "exit code 3" in condition.message
    assert looping.failures >= 5 and looping.retry_at > wall_ms() - 10_000
    assert here.events("broken").count("CrashLoop") == 1
    here.task("broken", SLEEPS, generation=2)
    mended = here.running("broken")
    assert (mended.failures, mended.conditions) == (0, ())


def test_a_new_digest_that_cannot_be_started_leaves_the_old_process_alone_and_says_why(here: Installation) -> None:
    first = here.task("web", SLEEPS)
    old = here.running("web")
    here.task("web", "echo second\n" + SLEEPS, generation=2, bundled=False)
    failed = here.when("web", lambda daemon: find(daemon.conditions, "StartFailed"), "says why")
    assert (failed.pid, failed.state, failed.digest) == (old.pid, "running", first.digest)
    assert "no bundle" in find(failed.conditions, "StartFailed").message  # type: ignore[union-attr]
    here.task("web", "echo second\n" + SLEEPS, generation=2)
    new = here.running("web", but=old.pid)
    assert new.conditions == ()


def test_a_restart_that_is_asked_for_is_carried_out_once(here: Installation) -> None:
    here.task("web", SLEEPS)
    old = here.running("web")
    here.task("web", SLEEPS, restart_token="r1")
    new = here.running("web", but=old.pid)
    assert (new.restart_token, new.restarts, new.failures) == ("r1", 1, 0)
    here.kill("supervisor")
    here.task("web", SLEEPS, restart_token="r1", generation=2)
    same = here.when("web", lambda daemon: daemon.generation == 2, "is looked at again")
    assert (same.pid, same.restarts) == (new.pid, 1)


def test_files_environment_and_folder_of_a_daemon_are_exactly_these(here: Installation) -> None:
    grants = (EnvGrant(name="GRANTED"), EnvGrant(name="SET", value="here"))
    here.task("look", LISTS_ITS_FILES, name="task.py", permissions=Permissions(env=grants), params=(Param(name="two-words", default="x y"),))
    daemon = here.running("look")
    [line] = wait_for(lambda: here.lines("look"), "it has printed")
    seen = json.loads(line)
    lock = str(here.settings.run / "daemons" / "look.lock")
    assert seen["fds"].pop("0") == "/dev/null"
    assert [Path(seen["fds"].pop(fd)).name.partition(":")[0] for fd in ("1", "2")] == ["pipe", "pipe"]
    assert list(seen["fds"].values()) == [lock]
    assert seen["env"].pop("DICODE_DAEMON_ID") == daemon.launch
    assert seen["env"].pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8"  # python sets it itself
    assert seen["env"] == {
        "PATH": HOST["PATH"], "LANG": "C.UTF-8", "HOME": "/nowhere", "GRANTED": "yes", "SET": "here",
        "DICODE_TASK_ID": "look", "DICODE_STATE_DIR": str(here.settings.state / "look"), "DICODE_PARAM_TWO_WORDS": "x y",
        "DICODE_PARAMS": '{"two-words": "x y"}',
    }  # fmt: skip
    assert seen["sid"] and seen["cwd"].startswith(str(here.settings.trees))


def test_going_down_stops_all_daemons_side_by_side_in_time(here: Installation) -> None:
    for number in range(6):
        here.task(f"polite/{number}", "trap 'sleep 0.3; echo bye; exit 0' TERM\necho up\nwhile :; do sleep 0.02; done\n")
        here.task(f"stubborn/{number}", "trap '' TERM\necho up\nwhile :; do sleep 0.05; done\n")
    tasks = [f"{kind}/{number}" for kind in ("polite", "stubborn") for number in range(6)]
    for task in tasks:
        here.running(task)
        wait_for(lambda task=task: here.lines(task) == ["up"], f"{task} has set its traps")  # type: ignore[misc]
    assert here.stop("supervisor") < 4.5
    for task in tasks:
        daemon = here.daemon(task)
        assert daemon is not None and (daemon.state, daemon.pid) == ("stopped", 0)
    assert here.lines("polite/0") == ["up", "bye"]
    assert [pid for pid in here.processes() if cwd(pid).startswith(str(here.settings.trees))] == []


def test_kept_daemons_are_taken_over_by_the_next_supervisor(tmp_path: Path) -> None:
    here = Installation(tmp_path)
    try:
        here.start("store")
        here.start("supervisor", "--keep-daemons")
        here.task("counter", COUNTS, name="task.py")
        pid = here.running("counter").pid
        wait_for(lambda: here.lines("counter"), "it prints")
        here.stop("supervisor")
        assert alive(pid)
        here.start("supervisor")
        printed = len(here.lines("counter"))
        wait_for(lambda: len(here.lines("counter")) > printed, "its output is read again")
        assert here.running("counter").pid == pid
        numbers = [int(line) for line in here.lines("counter")]
        assert numbers == list(range(1, len(numbers) + 1))
    finally:
        print(here.output.read_text())
        here.close()


def test_a_start_nobody_wrote_down_is_ended_and_there_is_one_process(here: Installation) -> None:
    """As if the supervisor had died right after the spawn: the mark in the environment is all there is of it."""
    here.task("web", SLEEPS)
    daemon = here.running("web")
    stray = subprocess.Popen(["sleep", "1000"], env={"DICODE_DAEMON_ID": daemon.launch.split(".")[0] + ".0123456789abcdef"}, start_new_session=True)
    here.kill("supervisor")
    assert stray.wait(10) == -signal.SIGKILL
    assert here.running("web").pid == daemon.pid


def test_figures_are_answered_on_request(here: Installation) -> None:
    here.task("web", "sleep 1001 &\nexec sleep 1000\n")
    here.running("web")
    request = Request(token="t1", verb="daemon.figures", target="web", when=wall_ms())
    here.wire.ask(Write(ops=(put(request, "t1"),)), Written)
    answer = wait_for(lambda: here.get("Request", "t1").answer, "it is answered")
    assert answer.ok
    figures = json.loads(answer.message)
    assert figures["children"] == 1 and figures["memory"] > 0 and figures["fds"] >= 4
