"""Abuse list A 26 and 27: scripts and variables that load and cannot do much. A run of them ends, says why, and takes nothing with it."""

from __future__ import annotations

import pytest
from tests.support.system import System

from dicode.messages.kinds import Run, Task

pytestmark = pytest.mark.process
MANUAL = "name: odd\ntrigger: {manual: true}\ntimeout: 10s\n"
PRELOAD = MANUAL + 'permissions: {env: ["LD_PRELOAD=/nowhere/x.so"]}\n'
NO_PATH = MANUAL + 'permissions: {env: ["PATH=/nowhere"]}\n'

#: id → task.yaml, script, its text, how a run ends, and what is told
ODD = {
    "empty-py": (MANUAL, "task.py", "", "succeeded", ""),
    "empty-sh": (MANUAL, "task.sh", "", "succeeded", ""),
    "empty-ts": (MANUAL, "task.ts", "", "succeeded", ""),
    "bad-shebang": (MANUAL, "task.sh", "#!/no/such/interpreter\necho hi\n", "failed", "/no/such/interpreter"),
    "dos-shebang": (MANUAL, "task.sh", "#!/bin/sh\r\necho hi\r\n", "succeeded", "hi"),
    "no-exec": (MANUAL, "task", "#!/bin/sh\n", "", "dicode describe task no-exec"),
    "binary": (MANUAL, "task.py", "\0\0\0", "failed", "null bytes"),
    "preload-py": (PRELOAD, "task.py", "result = 1\n", "succeeded", ""),
    "preload-sh": (PRELOAD, "task.sh", "true\n", "succeeded", ""),
    "no-path-py": (NO_PATH, "task.py", "result = 1\n", "succeeded", ""),
    "no-path-sh": (NO_PATH, "task.sh", "echo hi\n", "succeeded", ""),
    "no-path-ts": (NO_PATH, "task.ts", "export default async function main() { return 1; }\n", "succeeded", ""),
}


def test_what_is_odd_ends_and_says_why_and_the_next_run_is_as_ever(system: System) -> None:
    for id, (text, name, script, _, _) in ODD.items():
        folder = system.tasks / id
        folder.mkdir()
        (folder / name).write_text(script)
        (folder / "task.yaml").write_text(text)
    system.write_task("good", MANUAL, task_sh="echo good\n")
    up = system.up()
    worker = system.pid(up, "worker")
    system.object(Task, "good", lambda task: task.digest)
    wrong = []
    for id, (_, _, _, status, told) in ODD.items():
        system.object(Task, id)
        done = system.run("run", id)
        said = done.stdout + done.stderr
        ended = {run.task: run.status for run in system.objects(Run).values()}
        if ended.get(id, "") != status or (done.returncode == 0) != (status == "succeeded") or told not in said:
            wrong.append((id, done.returncode, ended.get(id), said))
    assert not wrong
    assert system.run("run", "good").stdout == "good\n"
    assert system.pid(up, "worker") == worker
