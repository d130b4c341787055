"""A save that was read and could not be written is not forgotten, though nobody touches the file again and no round comes by."""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.commands import Put, Write, Written
from dicode.messages.kinds import DesiredTask, Request, Source
from dicode.process.mirror import put
from dicode.wire.frames import StoreFailed

pytestmark = pytest.mark.process
SOON = 15.0  # seconds; less than `rescan` is here
CONFIG = "sources:\n  - {name: tasks, path: ./tasks, rescan: 1h}\n  - {name: set, path: ./set, rescan: 1h}\n"
YAML = "apiVersion: dicode/v1\nkind: Task\nname: X\nruntime: shell\ntrigger: {manual: true}\n"


@contextlib.contextmanager
def full(system: System, store: int) -> Iterator[None]:
    """A store that cannot write: a limit on the size of files stands for the disk."""
    system.ask(Write(ops=(Put("Delivery", "junk", bytes(300_000)),)), Written)  # its log is longer than the limit from here on
    before = resource.prlimit(store, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    with pytest.raises(StoreFailed):
        system.ask(Write(ops=(Put("Delivery", "junk", bytes(10)),)), Written)
    yield
    resource.prlimit(store, resource.RLIMIT_FSIZE, before)


def bundles(system: System) -> int:
    return sum(1 for _ in (system.data / "bundles").rglob("*"))


def test_a_save_that_could_not_be_written_is_written_when_there_is_room(system: System) -> None:
    system.write_config(CONFIG)
    system.write_task("plain", YAML, task_sh="echo 1\n")
    inner = system.home / "set" / "inner"
    inner.mkdir(parents=True)
    (inner / "task.yaml").write_text(YAML)
    (inner / "task.sh").write_text("echo 1\n")
    (system.home / "set" / "taskset.yaml").write_text(
        "apiVersion: dicode/v1\nkind: TaskSet\nmetadata: {name: set}\nspec: {entries: {inner: {ref: {path: inner}}}}\n"
    )
    store = system.start("store")
    system.start("source-controller")
    for source in ("tasks", "set"):
        system.object(Source, source, lambda source: source.status == "ok")
    keys = ("tasks/plain", "set/set/inner")
    before = {key: system.object(DesiredTask, key, lambda task: task.digest).digest for key in keys}

    with full(system, system.pid(store, "store")):
        (system.tasks / "plain" / "task.sh").write_text("echo 2\n")
        (inner / "task.sh").write_text("echo 2\n")
        wait_for(lambda: system.said().count("file changed") >= 2, "both saves were read")
        assert {key: system.objects(DesiredTask)[key].digest for key in keys} == before
        for source in ("tasks", "set"):
            assert system.hears(f"source/{source}: the store did not take it").count(f"source/{source}: the store") == 1
    for key in keys:
        system.object(DesiredTask, key, lambda task: task.digest != before[key], SOON)  # noqa: B023


def test_a_working_copy_that_could_not_be_written_is_written_when_there_is_room(system: System) -> None:
    system.write_config(CONFIG)
    system.write_task("plain", YAML, task_sh="echo 1\n")
    store = system.start("store")
    system.start("source-controller")
    before = system.object(DesiredTask, "tasks/plain", lambda task: task.digest).digest
    copy = system.home / "copy"
    shutil.copytree(system.tasks, copy)
    (copy / "plain" / "task.sh").write_text("echo 2\n")
    subprocess.run(["git", "init", "-q", str(copy)], check=True)
    lock = copy / ".git" / "index.lock"
    lock.touch()  # while git is at work there nothing is read
    dev = Request(token="dev", verb="source.dev", target="tasks", args={"local_path": str(copy)}, who="test")
    system.ask(Write(ops=(put(dev, "dev"),)), Written)
    system.object(Source, "tasks", lambda source: source.dev)
    with full(system, system.pid(store, "store")):
        stored = bundles(system)
        lock.unlink()
        wait_for(lambda: bundles(system) > stored, "it has been read: the files are stored before the task that names them")
        assert system.objects(DesiredTask)["tasks/plain"].digest == before
    system.object(DesiredTask, "tasks/plain", lambda task: task.digest != before, SOON)
    assert system.object(Request, "dev", lambda request: request.answer).answer.ok  # type: ignore[union-attr]
