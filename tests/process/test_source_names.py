"""File and folder names that no manifest can hold: the fault of one task, while its neighbours are read and its last good digest stays."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.git_remote import Repository, Server, git, serving
from tests.support.system import System

from dicode.messages.kinds import DesiredTask, Source

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes, inotify")]

TASK = "apiVersion: dicode/v1\nkind: Task\nname: X\ntrigger: {manual: true}\n"
SCRIPT = "#!/bin/sh\necho hello\n"
BAD = [(b"\xff", "the name '\\xff' is not UTF-8"), (b"a\nb", "the name 'a\\x0ab' holds control characters")]
CURE = ": rename it"


def task(folder: Path, more: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.sh").write_text(SCRIPT)
    (folder / "task.yaml").write_text(TASK + more)


def named(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


def desired(system: System, key: str, fact: Callable[[DesiredTask], object]) -> DesiredTask:
    return system.object(DesiredTask, key, fact)


def is_good(task: DesiredTask) -> bool:
    return bool(task.digest) and not task.faults


def carries(words: str) -> Callable[[DesiredTask], bool]:
    return lambda task: any(words + CURE in fault.message for fault in task.faults)


def begin(system: System, config: str = "") -> None:
    system.write_config(config)
    system.start("store")
    system.start("source-controller")


@pytest.mark.parametrize(("name", "words"), BAD, ids=["bytes", "newline"])
def test_a_name_in_a_folder_or_an_include_is_the_fault_of_who_holds_it_and_its_last_good_digest_stays(
    system: System, name: bytes, words: str
) -> None:
    (system.tasks / "lib").mkdir()
    task(system.tasks / "own")
    task(system.tasks / "sharing", "include: [../lib]\n")
    task(system.tasks / "neighbour")
    begin(system)
    good = {id: desired(system, f"tasks/{id}", is_good) for id in ("own", "sharing", "neighbour")}

    named(system.tasks / "own", name).write_text("x")
    named(system.tasks / "lib", name).write_text("x")
    for id in ("own", "sharing"):
        said = desired(system, f"tasks/{id}", carries(words))
        assert (said.digest, said.process) == (good[id].digest, good[id].process)
        assert said.faults[0].file.isprintable()
    (system.tasks / "neighbour" / "task.sh").write_text(SCRIPT + "echo again\n")
    desired(system, "tasks/neighbour", lambda task: is_good(task) and task.digest != good["neighbour"].digest)

    named(system.tasks / "own", name).unlink()
    named(system.tasks / "lib", name).unlink()
    for id in ("own", "sharing"):
        assert desired(system, f"tasks/{id}", is_good).digest == good[id].digest


def test_a_folder_that_cannot_be_an_id_carries_a_fault_under_a_name_that_can_be_told(system: System) -> None:
    task(system.tasks / "neighbour")
    for name, _ in BAD:
        task(named(system.tasks, name) / "t")
    begin(system)
    desired(system, "tasks/neighbour", is_good)
    for key in ("tasks/\\xff/t", "tasks/a\\x0ab/t"):
        assert "cannot be part of an id" in desired(system, key, lambda task: task.faults).faults[0].message


def test_under_a_taskset_it_is_the_fault_of_the_entry_even_behind_a_link(system: System) -> None:
    place = named(system.tasks, b"place\xff")
    task(place / "good")
    task(place / "bad")
    named(place / "bad", b"\xfe").write_text("x")
    (system.tasks / "link").symlink_to(os.fsdecode(b"place\xff"))
    (system.tasks / "k.sh").write_text(SCRIPT)
    named(system.tasks, b"i.\xfd").write_text("x")
    (system.tasks / "taskset.yaml").write_text(
        "apiVersion: dicode/v1\nkind: TaskSet\nmetadata: {name: S}\nspec:\n  entries:\n"
        "    good: {ref: {path: link/good}}\n    bad: {ref: {path: link/bad}}\n"
        "    k: {inline: {name: K, runtime: shell, trigger: {manual: true}}}\n"
        "    i: {inline: {name: I, runtime: shell, trigger: {manual: true}}}\n"
    )
    begin(system)
    assert desired(system, "tasks/tasks/good", is_good).dir == f"{os.path.realpath(system.tasks)}/place\\xff/good"
    desired(system, "tasks/tasks/k", is_good)
    desired(system, "tasks/tasks/bad", carries("the name '\\xfe' is not UTF-8"))
    desired(system, "tasks/tasks/i", carries("the name 'i.\\xfd' is not UTF-8"))


def test_a_source_whose_own_folder_is_called_so_is_read_and_says_what_it_cannot_read(system: System) -> None:
    """Only by a link: a path in dicode.yaml is text."""
    place = named(system.home, b"away\xff")
    place.mkdir()
    task(place / "good")
    for name in ("set", "plain"):
        (system.home / name).symlink_to(os.fsdecode(b"away\xff") + ("/inner" if name == "set" else ""))
    task(place / "inner" / "t")
    (place / "inner" / "taskset.yaml").write_text(
        "apiVersion: dicode/v1\nkind: TaskSet\nmetadata: {name: S}\nspec: {entries: {t: {ref: {path: t}}}}\n"
    )
    begin(system, "sources:\n  - {name: plain, path: ./plain}\n  - {name: set, path: ./set}\n")
    desired(system, "plain/good", is_good)
    assert desired(system, "set/set/t", is_good).set_dir == ""  # a path that could not be told would be a wrong one
    (place / "inner" / "taskset.yaml").write_text("no: {set\n")
    said = system.object(Source, "set", lambda source: source.status == "stale")
    assert "away\\xff/inner/taskset.yaml" in said.conditions[0].message


@pytest.fixture
def remote(system: System) -> Iterator[Server]:
    folder = system.home / "remote"
    folder.mkdir()
    with serving(folder) as server:
        yield server


def test_in_a_commit_it_is_the_same(system: System, remote: Server) -> None:
    repository = Repository(remote.folder)
    for folder in ("own", "neighbour", os.fsdecode(b"\xff/t")):
        task(repository.work / folder)
    named(repository.work / "own", b"a\nb").write_text("x")
    git(repository.work, "add", "-A")
    repository.commit({})
    begin(system, f"sources:\n  - {{name: infra, url: '{remote.url}/tasks.git', poll_interval: 1h}}\n")
    desired(system, "infra/neighbour", is_good)
    desired(system, "infra/own", carries(BAD[1][1]))
    assert "cannot be part of an id" in desired(system, "infra/\\xff/t", lambda task: task.faults).faults[0].message


def test_a_path_that_cannot_be_told_is_refused_where_it_is_typed(system: System) -> None:
    place = named(system.home, b"away\xff")
    task(place / "t")
    bad = os.fsdecode(os.fsencode(place))
    for words in (("up", bad), ("source", "add", "x", bad), ("source", "dev", "tasks", "--local-path", bad)):
        said = system.run(*words)
        assert said.returncode == 2, words
        assert said.stderr.count("\n") == 1 and "away\\xff" in said.stderr and "UTF-8" in said.stderr, said.stderr
