"""What `dicode up` prints, word for word as SPEC 1 promises it: one line an event, and nothing else. And what becomes of it when nobody reads."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import sys

import pytest
from tests.support.system import DICODE, System
from tests.support.waiting import wait_for

from dicode.messages.kinds import Daemon, Run, Schedule, Task

pytestmark = pytest.mark.process
YAML = "name: {0}\nruntime: shell\ntrigger: {{manual: true}}\n"
HEX = "[0-9a-f]{6}"


class Screen:
    """The lines that came since one last looked, without their times."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._shown = 0

    def next(self, *expected: str) -> list[str]:
        """As many lines as expected, each of which must match in this order; and for a moment no other."""
        lines = wait_for(lambda: found if len(found := self._lines()) >= len(expected) else None, f"{expected} are printed")
        self._system.run("version")  # so long nothing more may come
        lines = self._lines()
        assert len(lines) == len(expected) and all(map(re.fullmatch, expected, lines)), lines
        self._shown += len(lines)
        return lines

    def _lines(self) -> list[str]:
        lines = self._system.said().splitlines()[self._shown :]
        assert all(re.match(r"\[\d\d:\d\d:\d\d\] ", line) for line in lines), lines
        return [line[11:] for line in lines]


def test_each_event_is_one_line_in_the_words_that_were_promised(system: System) -> None:
    system.write_config("sources:\n  - {name: tasks, path: ./tasks, settle: 300ms}\n")  # three files are one burst on a busy machine, too
    system.write_task("a", YAML.format("a"), task_sh="echo what tasks print is not shown here\n")
    system.up()
    screen = Screen(system)
    screen.next(rf"task/a registered \(hash: {HEX}\)", r"ready: 1 task, hooks http://127\.0\.0\.1:\d+")

    assert system.run("run", "a").returncode == 0
    (system.tasks / "a" / "task.sh").write_text("echo second\n")
    (line,) = screen.next("file changed: tasks/a/task.sh", rf"task/a updated \(hash: {HEX}\)  ← \d+ms")[1:]
    hash = re.findall(HEX, line)[0]
    assert system.objects(Task)["a"].digest.startswith(hash)

    for name in ("x", "y", "z"):  # one burst
        (system.tasks / "a" / name).write_text(name)
    (line,) = screen.next(r"file changed: tasks/a/x \(\+2 more\)", rf"task/a updated \(hash: {HEX}\)  ← \d+ms")[1:]
    hash = re.findall(HEX, line)[0]

    (system.tasks / "a" / "task.yaml").write_text("name: a\nruntime: shell\ntigger: {manual: true}\n")
    wrong = "tasks/a/task.yaml:3:1: unknown field 'tigger', did you mean 'trigger'?"
    screen.next("file changed: tasks/a/task.yaml", re.escape(f"task/a kept at {hash}: {wrong}"))
    (system.tasks / "a" / "task.yaml").write_text(YAML.format("a"))
    wait_for(lambda: all(condition.status for condition in system.objects(Task)["a"].conditions), "it is mended, and as it was: that is no line")

    system.write_task("b", YAML.format("b"), task_sh="true\n")
    screen.next(r"file changed: tasks/b/task.sh \(\+1 more\)", rf"task/b registered \(hash: {HEX}\)")
    shutil.rmtree(system.tasks / "b")
    screen.next("task/b unregistered")


def test_as_json_the_lines_say_the_same(system: System) -> None:
    system.write_task("a", YAML.format("a"), task_sh="true\n")
    system.up("--log-format", "json")
    system.hears("ready: 1 task")
    said = [json.loads(line) for line in system.said().splitlines()]
    assert {"task/a registered", "ready: 1 task"} <= {re.split(r" \(|,", each["message"])[0] for each in said}
    assert all(each["time"].endswith("Z") and each["role"] for each in said)


def test_a_screen_that_nobody_reads_stops_nothing(system: System) -> None:
    """P4. The pipe is as small as they come; it is full long before the last task is registered."""
    system.write_task("cron", 'name: c\nruntime: shell\ntrigger: {cron: "@every 1s"}\n', task_sh="true\n")
    system.write_task("daemon", "name: d\nruntime: shell\ntrigger: {daemon: true, stop_grace: 1s}\n", task_sh="exec sleep 1000\n")
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    onto = f"import os; os.dup2({writer}, 1); os.dup2({writer}, 2); os.close({writer}); os.execv({DICODE!r}, ['dicode', 'up'])"
    up = system.start_program([sys.executable, "-c", onto], pass_fds=(writer,))
    os.close(writer)
    with contextlib.closing(open(reader, "rb", buffering=0)) as screen:
        system.object(Daemon, "daemon", lambda daemon: daemon.state == "running")
        for number in range(150):
            system.write_task(f"t{number}", YAML.format(number), task_sh="true\n")
        for number in range(150):
            system.object(Task, f"t{number}", lambda task: task.sync == "Synced" and task.digest)
        since = system.objects(Schedule)["cron"].last
        wait_for(lambda: system.objects(Schedule)["cron"].last >= since + 2_000, "slots are decided")
        wait_for(lambda: [run for run in system.objects(Run).values() if run.task == "cron" and int(run.trigger.key) > since], "and fired")
        assert system.run("run", "t7").returncode == 0
        assert up.poll() is None and "has not answered" not in system.said()

        os.set_blocking(reader, False)
        said = b""

        def told() -> bool:
            """Something happens, which is printed once there is room again."""
            nonlocal said
            said += screen.read(1 << 16) or b""
            (system.tasks / "t0" / "task.sh").write_text(f"# {len(said)}\n")
            return b" log lines dropped: the reader of stdout had stopped" in said

        wait_for(told, "what was lost is told once somebody reads again")
        assert system.stop(up) == 0
