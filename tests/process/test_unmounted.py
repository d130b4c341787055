"""Row 23: the file system a source lies on is unmounted while everything runs, and mounted again."""

from __future__ import annotations

import subprocess

import pytest
from tests.support.system import DICODE, System
from tests.support.waiting import wait_for

from dicode.messages.kinds import Source, Task

pytestmark = pytest.mark.process
ALONE = ["unshare", "--user", "--map-root-user", "--mount"]  # its mounts are nobody else's
YAML = "name: x\nruntime: shell\ntrigger: {manual: true}\n"
MOUNT = 'mount -t tmpfs none "$0" && cp -a "$1/." "$0"'


def test_a_file_system_that_goes_takes_no_task_with_it_and_its_return_is_noticed(system: System) -> None:
    seed = system.home / "seed"
    if subprocess.run([*ALONE, "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    for id in ("a", "b"):
        system.write_task(id, YAML, task_sh="echo first\n")
    system.tasks.rename(seed)
    system.tasks.mkdir()
    system.write_config("sources:\n  - {name: tasks, path: ./tasks, rescan: 1s}\n")
    up = system.start_program([*ALONE, "sh", "-c", f'{MOUNT} && exec "{DICODE}" up', str(system.tasks), str(seed)])
    before = {id: system.object(Task, id, lambda task: task.digest).digest for id in ("a", "b")}
    inside = ["nsenter", "--target", str(up.pid), "--user", "--mount", "--preserve-credentials"]

    umount = [*inside, "umount", str(system.tasks)]
    wait_for(lambda: subprocess.run(umount, capture_output=True).returncode == 0, "nobody is just reading there, so it can be unmounted")
    system.object(Source, "tasks", lambda source: source.status in ("held", "stale"))
    assert system.run("source", "sync", "tasks", "--wait").returncode in (0, 1)
    assert {id: task.digest for id, task in system.objects(Task).items()} == before

    (seed / "a" / "task.sh").write_text("echo second\n")
    subprocess.run([*inside, "sh", "-c", MOUNT, str(system.tasks), str(seed)], check=True)
    system.object(Task, "a", lambda task: task.digest != before["a"] and task.sync == "Synced")
    system.object(Source, "tasks", lambda source: source.status == "ok")
    assert system.objects(Task)["b"].digest == before["b"]
