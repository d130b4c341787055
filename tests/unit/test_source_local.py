"""A folder on disk as a tree: what is read, when it holds still, and what a touch may mean."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from dicode.source.local import LOOK, READ, LocalTree
from dicode.source.snapshot import find_root
from dicode.source.state import Touched
from dicode.source.tools import Tools
from dicode.spec.trees import FolderRead, NothingSeen, SetSeen, TaskSeen, Want

YAML = "kind: Task\nname: X\ntrigger: {manual: true}\n"


class Place:
    """A tree over a folder, asked without a loop of one's own. `heard`: the folders it listens to."""

    def __init__(self, root: Path, disk: ThreadPoolExecutor) -> None:
        self.root = root
        self.heard: set[str] = set()

        async def on_disk(work, *args):  # type: ignore[no-untyped-def]
            return await asyncio.get_running_loop().run_in_executor(disk, work, *args)

        self.tree = LocalTree(find_root(str(root)), cast(Tools, SimpleNamespace(on_disk=on_disk)), lambda folder, inode: self.heard.add(folder))

    def look(self, *paths: str) -> list[object]:
        return list(asyncio.run(self.tree.look(paths)).values())

    def read(self, *wants: Want) -> list[FolderRead]:
        async def all_of_it() -> list[FolderRead]:
            return [read async for reads in self.tree.read(wants) for read in reads]

        return asyncio.run(all_of_it())

    def touch(self, path: str, **more: bool) -> set[str]:
        folder, _, name = f"{self.root}/{path}".rpartition("/")
        return self.tree.concerned(Touched(folder, name, 0.0, **more))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    root = tmp_path.resolve() / "infra"
    for folder in ("a", "group/b"):
        (root / folder).mkdir(parents=True)
        (root / folder / "task.yaml").write_text(YAML)
    (root / "group" / "taskset.yaml").write_text("kind: TaskSet\n")
    with ThreadPoolExecutor(1) as disk:
        yield Place(root, disk)


def again(read: FolderRead) -> Want:
    return read.want._replace(fingerprint=read.fingerprint, includes=read.includes, ignore=read.ignore)


def test_what_a_ref_means_is_seen_and_all_on_the_way_is_listened_to(place: Place) -> None:
    seen = place.look("group", "a", "group/x/y", "a/task.yaml")
    assert [type(each) for each in seen] == [SetSeen, TaskSeen, NothingSeen, TaskSeen]
    assert place.heard == {str(place.root), f"{place.root}/group", f"{place.root}/a"}


def test_a_touch_of_a_set_or_of_what_was_missing_asks_for_a_look(place: Place) -> None:
    place.look("group", "later/x")
    assert place.touch("group/taskset.yaml") == {f"{LOOK}group"}
    assert place.touch("later", directory=True) == {f"{LOOK}later/x"}
    assert place.touch("unrelated") == set()


def test_a_folder_on_the_way_that_is_replaced_concerns_everything_below_it(place: Place) -> None:
    place.look("group", "group/b", "a")
    place.read(Want("group/b"), Want("a"))
    assert place.touch("group", directory=True, gone=True) == {f"{LOOK}group", f"{LOOK}group/b", f"{READ}{place.root}/group/b"}


def test_a_link_on_the_way_that_is_turned_asks_for_a_look(place: Place) -> None:
    (place.root / "current").symlink_to("group")
    (seen,) = place.look("current")
    assert isinstance(seen, SetSeen) and seen.path == "group/taskset.yaml"
    assert place.touch("current") == place.touch("group/taskset.yaml") == {f"{LOOK}current"}


def test_a_file_in_a_task_folder_or_one_that_it_includes_asks_for_a_reading(place: Place) -> None:
    (place.root / "lib.sh").touch()
    (place.root / "a" / "task.yaml").write_text(YAML + "include: [../lib.sh]\n")
    (read,) = place.read(Want("a"))
    assert read.includes == ("lib.sh",) and read.folder is not None
    assert place.touch("a/deep/x.txt") == place.touch("lib.sh") == {f"{READ}{place.root}/a"}
    assert place.touch("a/x.txt~") == set()
    assert place.tree.places_of(f"{READ}{place.root}/a".removeprefix(READ)) == ("a", "")


def test_while_nothing_looks_different_nothing_is_read(place: Place) -> None:
    (first,) = place.read(Want("a"))
    (same,) = place.read(again(first))
    assert same.folder is None and not same.missing
    (place.root / "a" / "task.sh").write_text("echo")
    (other,) = place.read(again(first))
    assert other.folder is not None and other.fingerprint != first.fingerprint
    (place.root / "a" / "task.yaml").unlink()
    assert [read.missing for read in place.read(again(other))] == [True]


def test_ignore_files_above_a_folder_hold_in_it(place: Place) -> None:
    (place.root / ".gitignore").write_text("*.log\n")
    (place.root / "group" / "b" / "x.log").write_text("1")
    (first,) = place.read(Want("group/b"))
    assert first.folder is not None and [file.path for file in first.folder.files] == ["task.yaml"]
    (place.root / "group" / "b" / "x.log").write_text("other")
    assert place.read(again(first))[0].folder is None


def test_an_inline_task_is_its_own_files_and_no_others(place: Place) -> None:
    for name in ("ping.sh", "ping.txt", "pong.sh", "task.sh"):
        (place.root / "group" / name).write_text("echo")
    ping, other = Want("group", "ping"), Want("group", "other")
    reads = place.read(ping, other)
    assert [[file.path for file in read.folder.files] for read in reads if read.folder] == [["ping.sh", "ping.txt"], ["task.sh"]]
    folder = f"{READ}{place.root}/group"
    assert place.touch("group/ping.sh") == {f"{folder}\0ping"}
    assert place.touch("group/task.sh") == {f"{folder}\0ping", f"{folder}\0other"}
    assert place.touch("group/pong.sh") == set()
    (place.root / "group" / "pong.sh").write_text("other")
    assert [read.folder for read in place.read(*map(again, reads))] == [None, None]
    assert place.tree.places_of(place.tree.key_of("group", "ping")) == ("group", "ping")


def test_what_nobody_asks_for_any_more_is_forgotten(place: Place) -> None:
    place.look("group", "a")
    place.read(Want("a"), Want("group/b"), Want("group", "ping"))
    place.tree.forget_but({"group"}, {("group/b", "")})
    assert place.touch("a/task.sh") == place.touch("group/ping.sh") == set()
    assert place.touch("group/b/task.sh") == {f"{READ}{place.root}/group/b"}
    assert place.touch("group/taskset.yaml") == {f"{LOOK}group"}
