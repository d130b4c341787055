"""Files and folders that cannot be read (H5, row 24): by their mode bits, or because the disk or a far file server fails. Nothing is lost by it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos import validators
from tests.support.system import DICODE, System
from tests.support.waiting import wait_for

from dicode.messages.kinds import DesiredTask, Source, Task
from dicode.process.clock import mono

pytestmark = pytest.mark.process
YAML = "kind: Task\nname: x\nruntime: shell\ntrigger: {manual: true}\n"
CONFIG = "sources:\n  - {name: tasks, type: local, path: ./tasks, rescan: 500ms}\n"
IDS = ("a", "b", "deep/c")
#: Root may read everything; without these rights it is anybody.
ANYBODY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]

#: What the calls that look at files do for whatever lies below a folder that is named in a file: as a stale NFS handle, or a dying disk.
SHIM = """\
import errno, os
def failing(call):
    def looked(path=".", *args, **kwargs):
        try:
            with real_open(os.environ["FAILS"]) as said:
                folder, number = said.read().split()
        except OSError:
            folder = None
        where = path
        if folder and not isinstance(path, int):
            at = kwargs.get("dir_fd")
            where = os.path.join(os.readlink(f"/proc/self/fd/{at}"), os.fsdecode(path)) if at is not None else os.fsdecode(path)
        elif folder:
            where = os.readlink(f"/proc/self/fd/{path}")
        if folder and os.path.abspath(where).startswith(folder):
            raise OSError(int(number), os.strerror(int(number)), path)
        return call(path, *args, **kwargs)
    return looked
real_open = open
for name in ("open", "scandir", "listdir", "stat", "lstat"):
    setattr(os, name, failing(getattr(os, name)))
"""


@pytest.fixture
def denied(system: System) -> Iterator[System]:
    """A running system whose roles may read only what the mode bits allow, also when the tests run as root."""
    argv = [DICODE, "up"]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None or subprocess.run([*ANYBODY, "true"], capture_output=True).returncode:
            pytest.skip("nothing is denied to root here")
        argv = [*ANYBODY, *argv]
    begin(system)
    system.start_program(argv)
    settled(system)
    yield system
    for path in (system.tasks, *system.tasks.rglob("*")):
        path.chmod(0o755)


def begin(system: System) -> None:
    system.write_config(CONFIG)
    for id in IDS:
        system.write_task(id, YAML, task_sh="echo first\n")


def settled(system: System, ids: tuple[str, ...] = IDS) -> dict[str, str]:
    for id in ids:
        system.object(Task, id, lambda task: task.sync == "Synced" and task.digest)
    return {id: task.digest for id, task in system.objects(Task).items()}


def looked_again(system: System) -> None:
    """After two complete rounds more than a second apart: what was absent in both would be gone."""
    system.run("source", "sync", "tasks", "--wait")
    since = mono()
    wait_for(lambda: mono() - since > 1.1, "more than a second")
    system.run("source", "sync", "tasks", "--wait")


def is_told(system: System, word: str) -> bool:
    """Does the source or a task of it say this?"""
    told = [*system.objects(Source).values(), *system.objects(Task).values()]
    return any(word in condition.message for each in told for condition in each.conditions)


def test_a_file_that_may_not_be_read_keeps_the_last_good_digest_and_is_named(denied: System) -> None:
    before = settled(denied)
    for path in ("task.sh", "task.yaml"):
        file = denied.tasks / "a" / path
        file.chmod(0)
        kept = denied.object(Task, "a", validators.refusal)
        assert f"a/{path}" in validators.refusal(kept) and "ermission denied" in validators.refusal(kept)
        assert kept.digest == before["a"]
        done = denied.run("run", "a")
        assert (done.returncode, done.stdout) == (0, "first\n"), done.stderr  # the last good one, from its bundle
        denied.write_task("b", YAML, task_sh=f"echo {path}\n")  # neighbours are on time
        denied.object(DesiredTask, "tasks/b", lambda task: task.digest not in ("", before["b"]) and not task.faults)
        file.chmod(0o755 if path == "task.sh" else 0o644)
        denied.object(Task, "a", lambda task: not validators.refusal(task) and task.sync == "Synced")
    assert denied.objects(Task)["a"].digest


def test_a_folder_that_may_not_be_read_takes_no_task_with_it(denied: System) -> None:
    before = settled(denied)
    for folder in (denied.tasks / "deep", denied.tasks / "a", denied.tasks):
        folder.chmod(0)
        looked_again(denied)
        assert {id: task.digest for id, task in denied.objects(Task).items()} == before, folder
        assert is_told(denied, "ermission denied"), folder
        folder.chmod(0o755)
    denied.object(Source, "tasks", lambda source: source.status == "ok")
    denied.write_task("deep/c", YAML, task_sh="echo second\n")
    denied.object(Task, "deep/c", lambda task: task.digest != before["deep/c"] and task.sync == "Synced")


SET = """\
apiVersion: dicode/v1
kind: TaskSet
metadata: {name: tasks}
spec: {entries: {a: {ref: {path: a}}, b: {ref: {path: b}}, deep: {ref: {path: deep/c}}}}
"""


@pytest.mark.parametrize(("error", "a_set"), [(errno.EIO, False), (errno.ESTALE, True)], ids=["a folder of tasks", "a set"])
def test_a_disk_that_fails_takes_no_task_with_it_and_is_read_again_when_it_works(system: System, error: int, a_set: bool, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SHIM)
    fails, fresh = tmp_path / "fails", tmp_path / "fails.new"
    begin(system)
    ids, a = IDS, "a"
    if a_set:
        (system.tasks / "taskset.yaml").write_text(SET)
        ids, a = ("tasks/a", "tasks/b", "tasks/deep"), "tasks/a"
    system.up(PYTHONPATH=str(tmp_path), FAILS=str(fails))
    before = settled(system, ids)
    for number, place in enumerate((system.tasks / "a" / "task.sh", system.tasks / "deep", system.tasks)):
        fresh.write_text(f"{place} {error}")
        fresh.rename(fails)
        (system.tasks / "a" / "task.sh").write_text(f"echo {number}\n")
        wait_for(lambda: is_told(system, os.strerror(error)), f"it is told of {place}")
        said = system.said().count("file changed")
        looked_again(system)
        found = {id: task.digest for id, task in system.objects(Task).items()}
        assert found == before | ({a: found[a]} if place.name == "deep" else {}), place
        assert system.said().count("file changed") <= said + 1  # looking again and again is not worth a line
        fails.unlink()
        before[a] = system.object(Task, a, lambda task: task.digest != before[a] and task.sync == "Synced").digest
        system.object(Source, "tasks", lambda source: source.status == "ok" and not is_told(system, os.strerror(error)))
