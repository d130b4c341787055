"""The copies a store makes of its database, and what is put back of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest
from tests.support.store_desk import START, Desk, run, task

from dicode.messages.commands import Enqueue, Enqueued
from dicode.messages.kinds import Request, Run, Schedule, Task
from dicode.store.engine import Moment
from dicode.store.read import Reader, Unreadable
from dicode.store.sqlite import Sqlite, set_aside
from dicode.store.sqlite.backups import KEPT, copy, made_at, newest_first, put_back


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dicode.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def desk(file: Path) -> Desk:
    return Desk(lambda at: Sqlite(file, at))


def later(minutes: int) -> Moment:
    return Moment(START.wall + minutes * 60_000, START.mono + minutes * 60_000)


def test_a_copy_is_whole_and_made_beside_a_store_that_writes(desk: Desk, file: Path, folder: Path) -> None:
    desk.put(task("a"), "a")
    made = copy(file, folder, START)
    desk.put(task("b"), "b")
    assert Reader(made).all(Task).keys() == {"a"} and Reader(file).all(Task).keys() == {"a", "b"}
    assert made.stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700


def test_the_last_few_are_kept_and_the_half_of_a_killed_one_is_not(desk: Desk, file: Path, folder: Path) -> None:
    desk.put(task("a"), "a")
    folder.mkdir()
    (folder / ".dicode-1.db.part").write_bytes(b"half")
    (folder / "dicode-mine.db").write_bytes(b"somebody put it here")
    for minute in range(KEPT + 3):
        copy(file, folder, later(minute))
    assert [made_at(path) for path in newest_first(folder)] == [later(minute).wall for minute in range(KEPT + 2, 2, -1)]
    assert {path.name for path in folder.iterdir()} - {path.name for path in newest_first(folder)} == {"dicode-mine.db"}


def test_before_anything_was_written_there_is_nothing_to_copy(file: Path, folder: Path) -> None:
    with pytest.raises(Unreadable):
        copy(file, folder, START)
    assert newest_first(folder) == []


def lose(desk: Desk, file: Path) -> None:
    desk.engine.close()
    file.write_bytes(b"\xff" * 8192)
    set_aside(file, START)


def test_what_was_copied_comes_back_and_nothing_under_way_is_done_a_second_time(desk: Desk, file: Path, folder: Path) -> None:
    for name in ("done", "held", "waits"):
        desk.register(name)
        assert desk.enqueue(run(name, task=name)) == Enqueued(run=name)
        if name != "waits":
            (claimed,) = desk.claim(f"token {name}")
            if name == "done":
                desk.finish(claimed)
    desk.put(Schedule(task="t", digest="d", expression="* * * * *", last=1, next=2), "t")
    desk.put(Request(token="r", verb="task.restart", target="t"), "r")
    copied = copy(file, folder, desk.at)
    head = desk.engine.head()
    lose(desk, file)
    assert put_back(file, folder, later(7)) == copied
    assert sorted(path.name for path in file.parent.iterdir() if path.name.startswith(".")) == []
    reader = Reader(file)
    runs = reader.all(Run)
    assert {name: run.status for name, run in runs.items()} == {"done": "succeeded", "held": "lost", "waits": "lost"}
    assert "7 min ago" in runs["held"].error and runs["held"].finished == later(7).wall
    assert reader.all(Task).keys() == {"done", "held", "waits"}
    assert not reader.all(Schedule) and not reader.all(Request)
    reader.close()
    desk.at = later(7)
    desk.restart()
    assert desk.claim("anything") == ()
    assert desk.ask(Enqueue(run=run("waits", task="waits")), Enqueued).created is False
    assert desk.put(task("new"), "new") > head


def test_a_damaged_copy_is_passed_over_for_the_one_before(desk: Desk, file: Path, folder: Path) -> None:
    desk.put(task("a"), "a")
    good = copy(file, folder, later(0))
    copy(file, folder, later(10)).write_bytes(b"\0" * 8192)
    pages = bytearray(copy(file, folder, later(20)).read_bytes())
    pages[4096:] = b"\xff" * (len(pages) - 4096)
    newest_first(folder)[0].write_bytes(pages)
    newer = copy(file, folder, later(30))
    db = apsw.Connection(str(newer))
    db.pragma("user_version", 99)
    db.close()
    lose(desk, file)
    assert put_back(file, folder, later(31)) == good
    assert Reader(file).all(Task).keys() == {"a"}


def test_without_a_good_copy_there_is_room_for_an_empty_one(desk: Desk, file: Path, folder: Path) -> None:
    desk.put(task("a"), "a")
    copy(file, folder, START).write_bytes(b"no database")
    lose(desk, file)
    assert put_back(file, folder, START) is None and put_back(file, folder / "nowhere", START) is None
    assert not file.exists()
    desk.restart()
    assert desk.list("Task").changes == ()


def test_a_copy_never_takes_the_last_room_of_a_disk(desk: Desk, file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.put(task("a"), "a")
    copy(file, folder, START)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * file.stat().st_size))
    with pytest.raises(OSError, match="less room"):
        copy(file, folder, later(10))
    assert len(newest_first(folder)) == 1
