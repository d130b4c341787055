"""The CLI beside a real `dicode up`: run, follow, cancel, logs, listings, sources, all as a person would type them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest
from tests.support.system import DICODE, System
from tests.support.waiting import wait_for

from dicode.messages.kinds import Daemon, Run, Task

pytestmark = pytest.mark.process
SHELL = "name: {0}\nruntime: shell\ntrigger: {{manual: true}}\n"


@pytest.fixture(scope="module")
def up() -> Iterator[System]:
    """One installation for all tests of this file; each has tasks of its own."""
    system = System()
    keeper = system.up()
    try:
        yield system
        assert keeper.poll() is None, f"it ended with {keeper.returncode} in the middle:\n{system.said()}"
    finally:
        system.close()


def write_shell(up: System, id: str, script: str, more: str = "", trigger: str = "manual: true") -> None:
    """Write a shell task and wait until it is registered."""
    before = up.reader().get(Task, id)
    up.write_task(id, f"name: {id}\nruntime: shell\ntrigger: {{{trigger}}}\n{more}", task_sh=f"#!/bin/sh\n{script}\n")
    up.object(Task, id, lambda task: task.digest and (before is None or task.digest != before.digest))


def start(up: System, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([DICODE, *words], env=up.environ(), cwd=up.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# --- run


def test_a_run_prints_the_tasks_lines_on_stdout_and_all_else_on_stderr(up: System) -> None:
    write_shell(up, "talk", "echo one; echo two >&2; echo three; echo '{\"n\": 3}' > $DICODE_RESULT")
    done = up.run("run", "talk")
    assert done.returncode == 0
    assert done.stdout == "one\nthree\n"
    assert "two\n" in done.stderr
    assert "succeeded" in done.stderr and '{"n": 3}' in done.stderr


def test_a_failed_run_is_exit_1_and_says_why(up: System) -> None:
    write_shell(up, "fails", "echo before; exit 7")
    done = up.run("run", "fails")
    assert (done.returncode, done.stdout) == (1, "before\n")
    assert "failed" in done.stderr and "7" in done.stderr


def test_a_run_that_takes_too_long_is_exit_124(up: System) -> None:
    write_shell(up, "slow", "sleep 60", "timeout: 200ms")
    done = up.run("run", "slow")
    assert done.returncode == 124
    assert "timed_out" in done.stderr


def test_ctrl_c_cancels_the_run_and_is_exit_130(up: System) -> None:
    write_shell(up, "long", "echo begun; sleep 60")
    program = start(up, "run", "long")
    assert program.stdout is not None
    assert program.stdout.readline() == "begun\n"
    program.send_signal(signal.SIGINT)
    _, said = program.communicate(timeout=30)
    assert program.returncode == 130
    assert "cancelled" in said
    assert [run.status for run in up.objects(Run).values() if run.task == "long"] == ["cancelled"]


def test_params_and_input_reach_the_task(up: System) -> None:
    write_shell(up, "echo", 'echo "$DICODE_PARAM_WHO"; cat', "params: {who: nobody}\n")
    (up.home / "input.json").write_text('{"a": [1, 2]}')
    assert up.run("run", "echo", "-p", "who=Ada", "--input", "input.json").stdout.split("\n")[:2] == ["Ada", '{"a": [1, 2]}']


def test_a_big_input_arrives_whole_and_a_huge_one_is_refused(up: System) -> None:
    write_shell(up, "counts", "wc -c")
    (up.home / "big.txt").write_text("x" * 1_000_000)
    assert up.run("run", "counts", "--input", "big.txt").stdout.strip() == "1000002"  # a JSON string has quotes
    (up.home / "huge.txt").write_text("x" * (5 * 1024 * 1024 + 1))
    refused = up.run("run", "counts", "--input", "huge.txt")
    assert refused.returncode == 2 and "more than 5 MiB" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tlak-more"], "no task 'tlak-more', did you mean 'talk-more'?"),
        (["talk-more", "-p", "hwo=x"], "did you mean 'who'?"),
        (["talk-more", "-p", "n=many"], "param 'n' must be a number"),
        (["talk-more", "-p", "who"], "write -p name=value"),
        (["talk-more", "--input", "nope.json"], "nope.json"),
    ],
)
def test_bad_words_are_exit_2_and_no_run_comes_of_them(up: System, words: list[str], said: str) -> None:
    if up.reader().get(Task, "talk-more") is None:
        write_shell(up, "talk-more", "true", "params: {who: x, n: {type: number, default: 1}}\n")
    done = up.run("run", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not [run for run in up.objects(Run).values() if run.task == "talk-more"]


def test_each_attempt_of_a_retried_run_is_followed(up: System) -> None:
    script = 'n=$(cat $DICODE_STATE_DIR/n 2>/dev/null || echo 0); echo $((n + 1)) > $DICODE_STATE_DIR/n; echo "try $((n + 1))"; [ $n -ge 1 ]'
    write_shell(up, "again", script, "retry: {attempts: 2, backoff: 50ms}\n")
    done = up.run("run", "again")
    assert (done.returncode, done.stdout) == (0, "try 1\ntry 2\n")
    assert "attempt 2 of 3" in done.stderr
    assert up.run("logs", "again").stdout.startswith("try 2\n")
    assert up.run("logs", "again", "--previous").stdout.startswith("try 1\n")


def test_no_wait_prints_the_id_and_the_run_can_be_found_by_its_first_letters(up: System) -> None:
    write_shell(up, "quick", "echo hi")
    id = up.run("run", "quick", "--no-wait").stdout.strip()
    up.object(Run, id, lambda run: run.status == "succeeded")
    assert up.get("runs", id)["task"] == "quick"
    assert up.get("runs", id[:10])["id"] == id
    assert up.run("logs", id[:10]).stdout == "hi\n"


def test_a_replay_gets_the_params_of_the_run_before(up: System) -> None:
    write_shell(up, "copy", 'echo "$DICODE_PARAM_WHO"', "params: {who: nobody}\n")
    id = up.run("run", "copy", "-p", "who=Bob", "--no-wait").stdout.strip()
    up.object(Run, id, lambda run: run.status == "succeeded")
    write_shell(up, "copy", 'echo "new $DICODE_PARAM_WHO"', "params: {who: nobody}\n")
    assert up.run("replay", id).stdout == "new Bob\n"
    assert up.run("replay", id, "--same-code").stdout == "Bob\n"


def test_cancel_ends_a_run(up: System) -> None:
    write_shell(up, "waits", "sleep 60")
    id = up.run("run", "waits", "--no-wait").stdout.strip()
    up.object(Run, id, lambda run: run.status == "running")
    assert up.run("cancel", id).returncode == 0
    up.object(Run, id, lambda run: run.status == "cancelled")
    again = up.run("cancel", id)
    assert again.returncode == 1 and "has ended already" in again.stderr


# --- listings


def test_json_has_the_shape_of_the_spec_and_one_object_when_named(up: System) -> None:
    write_shell(up, "shape", "true")
    task = up.get("tasks", "shape")
    assert list(task) == "id source digest process generation sync health suspended revision conditions".split()
    assert (task["id"], task["source"], task["generation"]) == ("shape", "tasks", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", task["conditions"][0]["since"])
    assert isinstance(up.get("tasks"), list)
    assert [each["name"] for each in up.get("sources")] == ["tasks"]


def test_listings_can_be_narrowed(up: System) -> None:
    write_shell(up, "narrow", "exit 1")
    up.run("run", "narrow")
    assert {run["task"] for run in up.get("runs", "--status", "failed", "--task", "narrow")} == {"narrow"}
    assert up.get("runs", "--status", "Queued", "--task", "narrow") == []
    assert "narrow" in {task["id"] for task in up.get("tasks", "--source", "tasks")}
    wrong = up.run("get", "tasks", "--source", "tsaks")
    assert (wrong.returncode, "did you mean 'tasks'?" in wrong.stderr) == (2, True)


def test_other_formats_say_the_same(up: System) -> None:
    write_shell(up, "formats", "true")
    assert up.run("get", "t", "formats", "-o", "name").stdout == "task/formats\n"
    assert "id: formats" in up.run("get", "task", "formats", "-o", "yaml").stdout.splitlines()
    head, row = up.run("get", "tasks", "formats", "-o", "wide").stdout.splitlines()
    assert head.split()[:3] == ["ID", "TRIGGER", "HASH"] and row.startswith("formats ")


def test_watch_tells_each_change(up: System) -> None:
    write_shell(up, "watched", "true")
    program = start(up, "get", "tasks", "--watch", "-o", "name")
    assert program.stdout is not None
    with contextlib.closing(program.stdout) as lines:
        while lines.readline() != "task/watched\n":
            pass
        write_shell(up, "watched", "echo changed")
        while lines.readline() != "task/watched\n":
            pass
        program.send_signal(signal.SIGINT)
        assert program.wait(10) == 130
    assert program.stderr is not None
    program.stderr.close()


def test_describe_tells_all_of_a_task(up: System) -> None:
    write_shell(up, "whole", "true", "description: Does it all.\n", 'cron: "@yearly"')
    told = up.run("describe", "task", "whole").stdout
    for text in ("Does it all.", "cron @yearly", "Next fire:", "Conditions:", "Registered"):
        assert text in told
    run = up.run("run", "whole", "--no-wait").stdout.strip()
    assert f"Run:        {run}" in up.run("describe", "run", run).stdout.replace("  ", "  ")[: 12 + len(run)]
    assert "Path:" in up.run("describe", "source", "tasks").stdout


def test_a_broken_save_is_told_where_people_look(up: System) -> None:
    write_shell(up, "broken", "true")
    digest = up.get("tasks", "broken")["digest"]
    up.write_task("broken", "name: broken\ntigger: {manual: true}\n")
    up.object(Task, "broken", lambda task: any(c.type == "Ready" and not c.status for c in task.conditions))
    assert up.get("tasks", "broken")["digest"] == digest
    assert "BadSpec" in up.run("get", "tasks", "broken").stdout
    assert "did you mean 'trigger'?" in up.run("describe", "task", "broken").stdout


# --- versions


def test_a_change_can_be_explained_and_shown(up: System) -> None:
    write_shell(up, "traced", "echo one")
    write_shell(up, "traced", "echo two")
    digest = up.get("tasks", "traced")["digest"]
    manifest = up.run("explain", "traced", "--manifest").stdout
    assert hashlib.sha256(manifest.encode()).hexdigest() == digest
    assert "~ task.sh" in up.run("explain", "traced").stdout
    shown = up.run("diff", "traced").stdout.splitlines()
    assert "-echo one" in shown and "+echo two" in shown
    revisions = json.loads(up.run("history", "traced", "-o", "json").stdout)
    assert [revision["generation"] for revision in revisions] == [2, 1]
    back = up.run("diff", "traced", "--from", digest[:8], "--to", revisions[1]["digest"][:8])
    assert "+echo one" in back.stdout.splitlines()


def test_next_fires_follow_the_zone_across_dst(up: System) -> None:
    write_shell(up, "zoned", "true", trigger='cron: "0 3 * * 0", timezone: Europe/Berlin')
    slots = json.loads(up.run("next", "zoned", "-n", "60", "-o", "json").stdout)
    assert len(slots) == 60 and {slot[11:13] for slot in slots} == {"01", "02"}
    wrong = up.run("next", "shape")
    assert wrong.returncode == 2


# --- changes


def test_a_suspended_task_refuses_runs_until_it_is_resumed(up: System) -> None:
    write_shell(up, "rests", "echo ran")
    assert up.run("suspend", "rests").returncode == 0
    up.object(Task, "rests", lambda task: task.suspended)
    refused = up.run("run", "rests")
    assert refused.returncode == 1 and "dicode resume rests" in refused.stderr
    assert "rests" in {task["id"] for task in up.get("tasks", "--status", "suspended")}
    assert up.run("resume", "rests").returncode == 0
    assert up.run("run", "rests").stdout == "ran\n"


def test_a_daemon_is_restarted_measured_and_followed(up: System) -> None:
    write_shell(up, "ticks", 'echo "I am $$"; exec sleep 600', trigger="daemon: true")
    pid = up.object(Daemon, "ticks", lambda daemon: daemon.state == "running").pid
    follower = start(up, "logs", "ticks", "-f")
    assert follower.stdout is not None
    with contextlib.closing(follower.stdout) as lines:
        while lines.readline() != f"I am {pid}\n":
            pass
        assert up.run("restart", "ticks").returncode == 0
        new = up.object(Daemon, "ticks", lambda daemon: daemon.state == "running" and daemon.pid != pid).pid
        while lines.readline() != f"I am {new}\n":
            pass
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130
    assert follower.stderr is not None
    follower.stderr.close()
    row = wait_for(lambda: [line for line in up.run("top").stdout.splitlines() if str(new) in line])
    assert "%" in row[0] and "M" in row[0]
    assert up.run("run", "ticks").returncode == 2
    assert up.run("restart", "talk").returncode == 2


def test_a_source_is_added_listed_and_removed(up: System) -> None:
    folder = up.home / "more" / "extra"
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text(SHELL.format("extra"))
    (folder / "task.sh").write_text("echo extra\n")
    assert up.run("source", "add", "more", "./more").returncode == 0
    up.object(Task, "extra", lambda task: task.digest)
    assert "more" in up.run("source", "list", "-o", "name").stdout
    assert up.run("source", "sync", "more", "--wait").returncode == 0
    assert up.run("source", "remove", "more").returncode == 0
    wait_for(lambda: up.reader().get(Task, "extra") is None, "the task is gone")


def test_a_source_of_dicode_yaml_is_not_removed_here(up: System) -> None:
    done = up.run("source", "remove", "tasks")
    assert done.returncode == 2
    assert re.search(r"dicode\.yaml:\d+", done.stderr)


def test_a_broken_config_shows_in_doctor(system: System) -> None:
    system.up()
    system.hears("ready:")
    system.write_config("colour: blue\n")
    wait_for(lambda: "dicode.yaml" in (told := system.run("doctor")).stdout and told.returncode == 1 and "colour" in told.stdout)


def test_hostile_names_do_not_reach_the_terminal(up: System) -> None:
    write_shell(up, "hostile", "true", 'description: "a\\e[2Jb\\u202Ec"\n')
    told = up.run("describe", "task", "hostile").stdout
    assert "\x1b" not in told and "\u202e" not in told and "a\\x1b[2Jb" in told


def test_listings_go_on_when_everything_is_down(system: System) -> None:
    keeper = system.up()
    write_shell(system, "kept", "echo kept")
    assert system.run("run", "kept").returncode == 0
    system.stop(keeper)
    assert system.get("tasks", "kept")["id"] == "kept"
    assert system.run("logs", "kept").stdout == "kept\n"
    assert system.run("describe", "task", "kept").returncode == 0
    refused = system.run("run", "kept")
    assert (refused.returncode, refused.stderr) == (1, "dicode: nothing is running here: dicode up\n")
    assert os.path.exists(system.data)
