"""Ears on directories: what was touched is told once, coalesced, and under the name it has now."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.waiting import wait_for

from dicode.source.state import Touched
from dicode.source.watch import MAX_TOUCHED, HandOver, InotifyWatcher, ObserverWatcher, remote_device

linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify")
Told = list[tuple[str, list[Touched] | None]]


# ── handing over ──


class Loop:
    """Runs what it is given when it is told to."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def turn(self) -> int:
        calls, self.calls = self.calls, []
        for call in calls:
            call()
        return len(calls)


def test_many_touches_are_one_call_and_each_name_is_told_once_with_its_first_moment_and_last_state() -> None:
    loop, told = Loop(), Told()
    over = HandOver(loop.calls.append, lambda owner, touched: told.append((owner, touched)))
    over.add("s", Touched("/f", "a", 1.0, writing=True))
    over.add("s", Touched("/f", "b", 2.0, gone=True))
    over.add("s", Touched("/f", "a", 3.0))
    over.add("t", Touched("/f", "a", 4.0))
    assert loop.turn() == 1
    assert told == [("s", [Touched("/f", "a", 1.0), Touched("/f", "b", 2.0, gone=True)]), ("t", [Touched("/f", "a", 4.0)])]
    assert loop.turn() == 0


def test_too_many_names_become_everything_and_memory_stays_small() -> None:
    loop, told = Loop(), Told()
    over = HandOver(loop.calls.append, lambda owner, touched: told.append((owner, touched)))
    for number in range(MAX_TOUCHED + 100):
        over.add("s", Touched("/f", str(number), 1.0))
    over.add("t", Touched("/f", "a", 1.0))
    loop.turn()
    assert told[0] == ("s", None) and told[1][0] == "t" and told[1][1] is not None


def test_lost_events_mean_everything_whatever_was_known_before() -> None:
    loop, told = Loop(), Told()
    over = HandOver(loop.calls.append, lambda owner, touched: told.append((owner, touched)))
    over.add("s", Touched("/f", "a", 1.0))
    over.lose({"s", "t"})
    loop.turn()
    assert sorted(told) == [("s", None), ("t", None)]


def test_a_loop_that_is_closed_is_left_alone() -> None:
    def closed(call: Callable[[], None]) -> None:
        raise RuntimeError("Event loop is closed")

    over = HandOver(closed, lambda owner, touched: None)
    over.add("s", Touched("/f", "a", 1.0))
    over.add("s", Touched("/f", "a", 1.0))


# ── inotify ──


class Ears:
    def __init__(self, kind: type[InotifyWatcher] | type[ObserverWatcher]) -> None:
        self._lock = threading.Lock()
        self.heard: list[tuple[str, Touched]] = []
        self.lost: list[str] = []
        self.watcher = kind(lambda call: call(), self._hear)

    def _hear(self, owner: str, touched: list[Touched] | None) -> None:
        with self._lock:
            if touched is None:
                self.lost.append(owner)
            self.heard += [(owner, each) for each in touched or ()]

    def listen(self, folder: Path, owner: str = "s", only: frozenset[str] | None = None) -> None:
        self.watcher.watch(str(folder), os.stat(folder).st_ino, owner, only)

    def names(self, owner: str = "s") -> set[str]:
        with self._lock:
            return {f"{each.folder}/{each.name}" for who, each in self.heard if who == owner}

    def hears(self, path: Path, owner: str = "s") -> None:
        wait_for(lambda: str(path) in self.names(owner), f"{path} is heard of", 5)

    def forget_what_was_heard(self) -> None:
        with self._lock:
            self.heard.clear()

    def settled(self, folder: Path) -> None:
        """All that happened before has been heard: a mark in a folder that is listened to came through."""
        mark = folder / f"mark{len(self.heard)}"
        mark.touch()
        wait_for(lambda: any(each.name == mark.name for _, each in list(self.heard)), "the mark is heard", 5)


@pytest.fixture
def ears() -> Iterator[Ears]:
    ears = Ears(InotifyWatcher)
    yield ears
    ears.watcher.close()


@linux
def test_every_way_to_save_is_heard_and_reading_is_not(ears: Ears, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    (tmp_path / "read").write_text("x")
    ears.listen(tmp_path)
    (tmp_path / "read").read_text()
    os.listdir(tmp_path)
    (tmp_path / "new").write_text("x")
    (tmp_path / "old").chmod(0o755)
    (tmp_path / "new").replace(tmp_path / "moved")
    (tmp_path / "link").symlink_to("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "old").unlink()
    ears.settled(tmp_path)
    assert {name.removeprefix(f"{tmp_path}/") for name in ears.names() if "mark" not in name} == {"new", "old", "moved", "link", "folder"}


@linux
def test_a_file_is_called_writing_until_it_is_closed(ears: Ears, tmp_path: Path) -> None:
    ears.listen(tmp_path)
    with (tmp_path / "slow").open("w") as file:
        file.write("half")
        file.flush()
        ears.hears(tmp_path / "slow")
        assert ears.heard[-1][1].writing
    wait_for(lambda: not ears.heard[-1][1].writing, "it is closed", 5)


@linux
def test_only_the_names_asked_for_are_heard_of(ears: Ears, tmp_path: Path) -> None:
    ears.listen(tmp_path, "way", frozenset(("current",)))
    ears.listen(tmp_path, "way", frozenset(("other",)))
    ears.listen(tmp_path, "all")
    for name in ("noise", "current", "other"):
        (tmp_path / name).touch()
    ears.settled(tmp_path)
    assert ears.names("way") == {str(tmp_path / "current"), str(tmp_path / "other")}
    assert str(tmp_path / "noise") in ears.names("all")
    ears.listen(tmp_path, "way")
    (tmp_path / "noise").touch()
    ears.hears(tmp_path / "noise", "way")


@linux
def test_a_folder_made_again_under_the_same_name_is_heard(ears: Ears, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    ears.listen(tmp_path)
    for _ in range(3):
        folder.mkdir()
        ears.listen(folder)
        (folder / "x").touch()
        ears.hears(folder / "x")
        (folder / "x").unlink()
        folder.rmdir()
        ears.settled(tmp_path)
        assert ears.watcher.folders("s") == {str(tmp_path)}
        ears.forget_what_was_heard()


@linux
def test_a_moved_folder_is_heard_under_its_new_name_once_it_is_watched_there(ears: Ears, tmp_path: Path) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "deep"):
        ears.listen(folder)
    (tmp_path / "a").rename(tmp_path / "b")
    ears.listen(tmp_path / "b")
    ears.listen(tmp_path / "b" / "deep")
    ears.watcher.forget(str(tmp_path / "a"), "s")
    (tmp_path / "b" / "x").touch()
    (tmp_path / "b" / "deep" / "y").touch()
    ears.hears(tmp_path / "b" / "x")
    ears.hears(tmp_path / "b" / "deep" / "y")
    assert ears.watcher.folders("s") == {str(tmp_path / name) for name in ("", "b", "b/deep")}


@linux
def test_another_folder_under_a_watched_name_is_heard_in_its_place(ears: Ears, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ears.listen(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "old")
    (tmp_path / "b").rename(tmp_path / "a")
    ears.listen(tmp_path / "a")
    (tmp_path / "old" / "x").touch()
    (tmp_path / "a" / "y").touch()
    ears.hears(tmp_path / "a" / "y")
    assert str(tmp_path / "a" / "x") not in ears.names()


@linux
def test_what_one_owner_forgets_another_still_hears(ears: Ears, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for owner in "st":
        ears.listen(tmp_path / "a", owner)
    ears.watcher.forget(str(tmp_path), "s")
    (tmp_path / "a" / "x").touch()
    ears.hears(tmp_path / "a" / "x", "t")
    assert ears.names("s") == set()
    ears.watcher.forget_all("t")
    assert ears.watcher.folders("t") == set()


@linux
def test_what_is_not_there_or_no_folder_is_not_watched_and_nobody_is_hurt(ears: Ears, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ears.watcher.watch(str(tmp_path / "none"), 1, "s")
    ears.watcher.watch(str(tmp_path / "file"), 1, "s")
    ears.watcher.forget(str(tmp_path / "none"), "s")
    assert ears.watcher.folders("s") == set() and not ears.watcher.limited


def test_without_inotify_the_observer_of_watchdog_marks_the_same(tmp_path: Path) -> None:
    ears = Ears(ObserverWatcher)
    try:
        (tmp_path / "read").write_text("x")
        ears.listen(tmp_path)
        (tmp_path / "x").write_text("x")
        ears.hears(tmp_path / "x")
        (tmp_path / "x").rename(tmp_path / "y")
        ears.hears(tmp_path / "y")
        assert str(tmp_path / "read") not in ears.names()
    finally:
        ears.watcher.close()


def test_a_filesystem_that_others_can_change_is_known_by_its_type() -> None:
    mountinfo = [
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n",
        "90 22 0:45 / /mnt/share rw - nfs4 server:/share rw\n",
        "91 22 0:46 / /mnt/phone rw master:2 - fuse.sshfs phone:/ rw\n",
    ]
    assert [remote_device(mountinfo, device) for device in ("254:0", "0:45", "0:46", "9:9")] == ["", "nfs4", "fuse.sshfs", ""]
