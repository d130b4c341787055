"""plan, diff and the commands around sources, as a person types them: with everything down, and beside a real `dicode up`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.git_remote import Repository, serving
from tests.support.system import System

from dicode.messages.kinds import Daemon, Run, Schedule, Source, Task

pytestmark = pytest.mark.process
SOURCES = "sources:\n  - {name: tasks, path: ./tasks}\n  - {name: infra, path: ./set}\n"
SET = """\
apiVersion: dicode/v1
kind: TaskSet
metadata: {name: infra}
spec:
  entries:
    here:
      ref: {path: jobs/here}
      overrides: {params: {lib: "${TASK_SET_DIR}/lib"}}
"""


@pytest.fixture
def system() -> Iterator[System]:
    system = System()
    system.write_config(SOURCES)
    shell(system.tasks / "tick", "name: tick\nruntime: shell\ntrigger: {cron: '0 3 29 2 *'}\n", "true")
    shell(system.tasks / "serve", "name: serve\nruntime: shell\ntrigger: {daemon: true}\n", "exec sleep 1000")
    shell(system.tasks / "hook", "name: hook\nruntime: shell\ntrigger: {webhook: /hooks/x}\n", "true")
    shell(
        system.home / "set" / "jobs" / "here",
        "kind: Task\nname: here\nruntime: shell\ntrigger: {manual: true}\nparams: {lib: none}\n",
        'echo "$DICODE_PARAM_LIB"',
    )
    (system.home / "set" / "taskset.yaml").write_text(SET)
    try:
        yield system
    finally:
        system.close()


def shell(folder: Path, yaml: str, script: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.sh").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "task.yaml").write_text(yaml)


def planned(system: System, *words: str) -> tuple[int, dict[str, Any]]:
    done = system.run("plan", *words, "-o", "json")
    return done.returncode, json.loads(done.stdout)


@contextlib.contextmanager
def running(system: System) -> Iterator[None]:
    """`dicode up`, when all of `tasks` is registered and its daemon runs."""
    keeper = system.up()
    for id in ("tick", "serve", "hook", "infra/here"):
        system.object(Task, id, lambda task: task.digest)
    system.object(Schedule, "tick", lambda schedule: schedule.next)
    system.object(Daemon, "serve", lambda daemon: daemon.state == "running")
    yield
    assert system.stop(keeper) == 0


def copied(system: System, name: str) -> Path:
    """A working copy of the source, to be changed."""
    copy = system.home / f"copy-of-{name}"
    shutil.copytree(system.tasks if name == "tasks" else system.home / "set", copy)
    return copy


# --- with everything down


def test_where_nothing_ever_ran_everything_would_be_new(system: System) -> None:
    code, plan = planned(system, "tasks")
    assert (code, plan["added"]) == (3, ["hook", "serve", "tick"])
    assert plan["started"] == ["serve"] and len(plan["next"]["tick"]["after"]) == 3
    code, plan = planned(system, "./set")
    assert (code, plan["source"], plan["added"]) == (3, "infra", ["infra/here"])


def test_what_cannot_be_meant_is_exit_2_on_one_line(system: System) -> None:
    for words in (["nope"], ["/"], ["tasks", "--ref", "next"], ["tasks", "-o", "xml"], ["./tasks", "--source", "nope"], []):
        done = system.run("plan", *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr


def test_with_everything_down_the_plan_is_against_what_was_registered(system: System) -> None:
    with running(system):
        pass
    assert planned(system, "tasks")[0] == 0
    assert system.run("plan", "tasks").stdout.splitlines()[-1] == "nothing would change"
    shell(system.tasks / "tick", "name: tick\nruntime: shell\ntrigger: {cron: '30 3 29 2 *'}\n", "true")
    shutil.rmtree(system.tasks / "hook")
    code, plan = planned(system, "tasks")
    assert code == 3 and [each["id"] for each in plan["updated"]] == ["tick"] and plan["removed"] == ["hook"]
    half_an_hour_later = [at.replace(":00:00.", ":30:00.") for at in plan["next"]["tick"]["before"]]
    assert len(half_an_hour_later) == 3 and plan["next"]["tick"]["after"] == half_an_hour_later
    shell(system.tasks / "hook", "name: hook\ntigger: {}\n", "true")
    shell(system.tasks / "tick", "name: tick\nruntime: shell\ntrigger: {cron: '0 3 29 2 *'}\n", "true")
    code, plan = planned(system, "tasks")
    assert (code, plan["updated"], plan["removed"]) == (1, [], []), "errors and nothing else"
    assert [(each["id"], each["line"]) for each in plan["errors"]] == [("hook", 2)]


# --- beside a running system


def test_a_working_copy_is_compared_and_then_exactly_that_happens(system: System) -> None:
    with running(system):
        copy = copied(system, "tasks")
        shell(copy / "serve", "name: serve\nruntime: shell\ntrigger: {daemon: true}\n", "exec sleep 2000")
        shell(copy / "tick", "name: tick\nruntime: shell\ntrigger: {cron: '0 4 29 2 *'}\n", "true")
        shell(copy / "new", "name: new\nruntime: shell\ntrigger: {manual: true}\n", "true")
        shell(copy / "rival", "name: rival\nruntime: shell\ntrigger: {webhook: /hooks/x}\n", "true")
        before = system.objects(Task)
        code, plan = planned(system, str(copy), "--source", "tasks")
        assert code == 3
        assert (plan["added"], plan["removed"], plan["restarted"]) == (["new"], [], ["serve"])
        assert [each["id"] for each in plan["updated"]] == ["serve", "tick"]
        assert [(each["id"], each["kind"], each["with"]) for each in plan["collisions"]] == [("rival", "path", ["hook"])]
        assert list(plan["next"]) == ["tick"]
        assert system.objects(Task) == before, "plan changes nothing"
        text = system.run("plan", str(copy), "--source", "tasks")
        assert text.returncode == 3 and "↻ daemon restarts" in text.stdout and "webhook /hooks/x belongs to task hook" in text.stdout

        assert system.run("source", "dev", "tasks", "--local-path", str(copy)).returncode == 0
        digests = {each["id"]: each["to"] for each in plan["updated"]}
        after = {id: system.object(Task, id, lambda task, to=to: task.digest == to) for id, to in digests.items()}
        assert system.object(Task, "new", lambda task: task.digest).generation == 1
        assert {id for id, task in system.objects(Task).items() if before.get(id) != task and task.digest} >= set(after)
        assert system.object(Task, "hook").generation == before["hook"].generation
        schedule = system.object(Schedule, "tick", lambda schedule: schedule.digest == digests["tick"])
        assert system.get("schedules", "tick")["next"] == plan["next"]["tick"]["after"][0], schedule
        assert planned(system, "tasks")[1]["updated"] == []
        (listed,) = [each for each in system.get("sources") if each["name"] == "tasks"]
        assert listed["dev"] == str(copy)
        assert system.run("source", "dev", "tasks", "--disable").returncode == 0
        for id, task in before.items():
            system.object(Task, id, lambda found, digest=task.digest: found.digest == digest)


def test_a_task_of_a_set_finds_the_folder_of_the_set_and_a_plain_one_does_not(system: System) -> None:
    lib = "kind: Task\nname: plain\nruntime: shell\ntrigger: {manual: true}\nparams: {lib: '${TASK_SET_DIR}/lib'}\n"
    shell(system.tasks / "plain", lib, 'echo "$DICODE_PARAM_LIB"')
    with running(system):
        assert system.run("run", "infra/here").stdout == f"{os.path.realpath(system.home / 'set')}/lib\n"
        plain = system.run("run", "plain")
        assert plain.returncode == 1 and not plain.stdout
        assert "UnknownVariable: params[lib].default: ${TASK_SET_DIR} is known in a TaskSet only" in plain.stderr
        runs = {run.task: run.set_dir for run in system.objects(Run).values()}
        assert runs == {"infra/here": os.path.realpath(system.home / "set"), "plain": ""}


def test_diff_shows_spec_and_files_between_any_two_digests_also_with_everything_down(system: System) -> None:
    with running(system):
        first = system.object(Task, "tick").digest
        (system.tasks / "tick" / "data.bin").write_bytes(b"\0\1")
        shell(system.tasks / "tick", "name: tick\nruntime: shell\ntrigger: {cron: '0 4 29 2 *'}\n", "false")
        second = system.object(Task, "tick", lambda task: task.spec and task.spec.trigger.cron == "0 4 29 2 *").digest
    shown = system.run("diff", "tick", "--from", first[:7], "--to", second[:7])
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[:2] == ["spec:", '  ~ trigger.cron: "0 3 29 2 *" → "0 4 29 2 *"']
    assert "-true" in lines and "+false" in lines and "binary file data.bin was added" in lines
    known = [each["digest"] for each in json.loads(system.run("history", "tick", "-o", "json").stdout)]
    assert known[0] == second and first in known
    refused = system.run("diff", "tick", "--from", "")
    assert refused.returncode == 2 and re.search(r"\d digests begin with ''", refused.stderr)
    assert system.run("diff", "tick", "--from", "0" * 64).returncode == 2
    oldest = system.run("diff", "tick", "--to", first)
    assert oldest.returncode == 2 and "no other digest before" in oldest.stderr


# --- sources


def test_the_commands_around_sources_refuse_in_one_line(system: System) -> None:
    with running(system):
        for words, said in (
            (["sync", "taks"], "did you mean 'tasks'?"),
            (["dev", "taks", "--disable"], "did you mean 'tasks'?"),
            (["dev", "tasks", "--branch", "next"], "is a folder and has no branches"),
            (["dev", "tasks"], "say one of --local-path P, --branch B, --disable"),
            (["add", "x", "./nope"], "./nope: no such folder"),
            (["add", "x", "./tasks", "--branch", "main"], "--branch: only for git"),
            (["add", "x", "https://example.org/x", "--poll", "soon"], "poll_interval"),
        ):
            done = system.run("source", *words)
            assert (done.returncode, done.stdout) == (2, "") and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
        told = system.run("source", "sync", "tasks", "--wait")
        assert told.returncode == 0 and told.stdout.startswith("source/tasks read: 3 tasks")
        described = system.run("describe", "source", "infra").stdout
        assert "Status:" in described and "set" in described
    assert system.run("source", "sync", "tasks").stderr == "dicode: nothing is running here: dicode up\n"
    assert system.objects(Source).keys() == {"tasks", "infra"}


def test_a_repository_is_added_planned_against_a_branch_and_described(system: System) -> None:
    remote = Repository(system.home / "remote", "infra.git")
    greet = "name: greet\nruntime: shell\ntrigger: {manual: true}\n"
    first = remote.commit({"jobs/greet/task.yaml": greet, "jobs/greet/task.sh": "echo one\n"}, "Say hello")
    remote.commit({"jobs/greet/task.sh": "echo two\n", "jobs/new/task.yaml": greet, "jobs/new/task.sh": "true\n"}, "Say more", branch="next")
    with serving(remote.bare.parent) as server, running(system):
        added = system.run("source", "add", "cloud", f"{server.url}/infra.git", "--path", "jobs", "--poll", "1h")
        assert (added.returncode, added.stdout) == (0, "source/cloud added\n"), added.stderr
        synced = system.run("source", "sync", "cloud", "--wait")
        assert synced.returncode == 0 and f" at {first[:7]}: Say hello (" in synced.stdout, synced.stderr
        before = system.object(Task, "greet", lambda task: task.digest)

        code, plan = planned(system, "cloud", "--ref", "next")
        assert code == 3 and plan["added"] == ["new"]
        assert [(each["id"], each["from"]) for each in plan["updated"]] == [("greet", before.digest)]
        assert planned(system, "cloud")[0] == 0
        wrong = system.run("plan", "cloud", "--ref", "nope")
        assert (wrong.returncode, wrong.stdout) == (1, "") and wrong.stderr.count("\n") == 1

        described = system.run("describe", "source", "cloud").stdout
        assert first in described and "Say hello" in described and "main" in described
        assert f"{first[:7]}" in system.run("get", "sources").stdout and "(Say hello, " in system.run("describe", "task", "greet").stdout
        assert json.loads(system.run("history", "greet", "-o", "json").stdout)[0]["revision"] == first

        assert system.run("source", "dev", "cloud", "--branch", "next").returncode == 0
        assert system.object(Task, "greet", lambda task: task.digest == plan["updated"][0]["to"]).generation == before.generation + 1
        assert "branch next" in system.run("describe", "source", "cloud").stdout
        assert system.run("source", "remove", "cloud").returncode == 0
    assert system.run("plan", "tasks", "--ref", "x").returncode == 2
