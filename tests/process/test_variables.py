"""`${VAR}` from task.yaml to a process: unknown, told, cured by a restart with the variable set. Real roles, real runs."""

from __future__ import annotations

import json
import shutil

import pytest
from tests.support.system import System

from dicode.messages.kinds import Condition, Daemon, Run, Task

pytestmark = pytest.mark.process

SET = """\
kind: TaskSet
metadata: {name: infra}
spec:
  entries:
    inline:
      inline:
        name: inline
        runtime: shell
        trigger: {manual: true}
        params: {where: here}
        permissions: {env: [{name: GIVEN, from: "${PREFIX}_VALUE"}]}
      overrides:
        params: {where: "${TASK_SET_DIR}/lib:${TASK_DIR}:${DATADIR}:${HOME}"}
"""
SOURCES = "sources:\n  - {name: tasks, path: ./tasks}\n  - {name: infra, path: ./set}\n"
NEEDS = "permissions.env[GIVEN].from: ${PREFIX} is not set where dicode runs: set it there and restart dicode"
NO_SECRET = "trigger.webhook_secret: ${HOOK_KEY} is not set where dicode runs: set it there and restart dicode"


def unknown(task: Task) -> Condition | None:
    return next((each for each in task.conditions if each.type == "UnknownVariable"), None)


def write(system: System) -> None:
    system.write_config(SOURCES)
    (system.home / "set").mkdir()
    (system.home / "set" / "inline.sh").write_text('#!/bin/sh\necho "$DICODE_PARAM_WHERE|$GIVEN"\n')
    (system.home / "set" / "taskset.yaml").write_text(SET)
    system.write_task("hook", "name: hook\nruntime: shell\ntrigger: {webhook: /hooks/x, webhook_secret: '${HOOK_KEY}'}\n", task_sh="#!/bin/sh\n")
    system.write_task(
        "serve",
        "name: serve\nruntime: shell\ntrigger: {daemon: true}\npermissions: {env: [{name: GIVEN, from: '${PREFIX}_VALUE'}]}\n",
        task_sh="#!/bin/sh\nexec sleep 1000\n",
    )
    system.write_task(
        "typo",
        "name: typo\nruntime: shell\ntrigger: {manual: true}\nparams: {dir: '${TASKDIR}/x'}\n",
        task_sh='#!/bin/sh\necho "$DICODE_PARAM_DIR"\n',
    )


def test_an_unknown_variable_is_told_stops_what_needs_it_and_is_cured_by_setting_it(system: System) -> None:
    write(system)
    keeper = system.up()
    task = system.object(Task, "infra/inline", unknown)
    assert unknown(task).message == NEEDS and task.sync == "Synced"  # type: ignore[union-attr]  # waited for
    assert NEEDS in system.run("describe", "task", "infra/inline").stdout
    ran = system.run("run", "infra/inline")
    assert ran.returncode == 1 and f"UnknownVariable: {NEEDS}" in ran.stderr and not ran.stdout
    assert all(run.status == "failed" for run in system.objects(Run).values())
    daemon = system.object(Daemon, "serve", lambda daemon: daemon.conditions)
    assert (daemon.conditions[0].type, daemon.conditions[0].reason, daemon.conditions[0].message) == ("StartFailed", "UnknownVariable", NEEDS)

    system.hears(f"task/hook refused: {NO_SECRET}")
    assert system.object(Task, "hook", lambda task: task.conditions).digest == ""
    assert system.run("plan", "tasks").returncode == 0, "nothing would change"
    shutil.copytree(system.tasks / "hook", system.home / "copy" / "again")
    (system.home / "copy" / "again" / "task.yaml").write_text(
        "name: x\nruntime: shell\ntrigger: {webhook: /hooks/y, webhook_secret: '${HOOK_KEY}'}\n"
    )
    planned = json.loads(system.run("plan", "copy", "--source", "tasks", "-o", "json").stdout)
    assert [(each["id"], each["message"]) for each in planned["errors"]] == [("again", NO_SECRET)] and planned["added"] == []

    typo = system.object(Task, "typo", unknown)
    assert unknown(typo).message.startswith("params[dir].default: ${TASKDIR} is unknown: here may stand TASK_DIR, ")  # type: ignore[union-attr]
    assert system.run("run", "typo").returncode == 1
    assert system.run("run", "typo", "-p", "dir=/given").stdout == "/given\n"  # this run needs no default
    system.write_task("typo", "name: typo\nruntime: shell\ntrigger: {manual: true}\nparams: {dir: '${TASK_DIR}/x'}\n")
    system.object(Task, "typo", lambda task: unknown(task) is None)
    assert system.run("run", "typo").stdout.startswith(f"{system.data}/trees/")
    assert system.stop(keeper) == 0

    keeper = system.up(PREFIX="OF", OF_VALUE="set now", HOOK_KEY="s3cret-of-this-test")
    system.object(Task, "infra/inline", lambda task: unknown(task) is None)
    words, given = system.run("run", "infra/inline").stdout.strip().split("|")
    set_dir, task_dir, data, home = words.split(":")
    assert given == "set now" and set_dir == f"{system.home}/set/lib" and task_dir.startswith(f"{system.data}/trees/")
    assert data == str(system.data) and home == system.environ()["HOME"]
    system.object(Task, "hook", lambda task: task.digest and task.health == "Healthy")
    system.object(Daemon, "serve", lambda daemon: daemon.state == "running" and not daemon.conditions)
    assert "s3cret-of-this-test" not in system.said()
    assert system.stop(keeper) == 0


def test_what_is_unknown_here_is_a_note_of_validate_and_stays_as_written_in_render(system: System) -> None:
    write(system)
    checked = system.run("validate", "set")
    assert checked.returncode == 0 and checked.stdout == "1 task, no faults\n"
    assert f"infra/inline: {NEEDS}" in checked.stderr.replace("set/inline", "infra/inline")
    assert "note" not in system.run("validate", "set", PREFIX="OF").stderr
    shown = {each["id"]: each["spec"] for each in json.loads(system.run("render", "set").stdout)}["set/inline"]
    assert shown["params"][0]["default"].startswith(f"{system.home}/set/lib:{system.home}/set:")
    assert shown["permissions"]["env"][0]["from"] == "${PREFIX}_VALUE"
