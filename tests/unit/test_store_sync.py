"""D2: what is promised to someone outside lies on the disk before it is answered. SQLite tells of each fsync through a file system of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from tests.support.store_desk import Desk, put, run, task

from dicode.messages.commands import Acquire, AnyCommand, Cancel, Claim, Enqueue, Finish, Write
from dicode.messages.kinds import Delivery, Request
from dicode.store.sqlite import Sqlite

BELOW = apsw.vfs_names()[0]  # the default


class Told(apsw.VFS):
    """The file system as it is, which remembers the ends of the files that were synced."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        super().__init__("told", BELOW, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return File(self, name, flags)


class File(apsw.VFSFile):
    def __init__(self, told: Told, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._told = told
        self._end = (name if isinstance(name, str) else name.filename() if name else "").rpartition("/")[2]
        super().__init__(BELOW, name, flags)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._told.synced.append(self._end)


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    yield told
    told.unregister()


def test_a_promise_is_on_the_disk_before_it_is_answered(told: Told, tmp_path: Path) -> None:
    desk = Desk(lambda at: Sqlite(tmp_path / "dicode.db", at))
    desk.register("a")
    promises: list[AnyCommand] = [
        Enqueue(run=run("r1")),
        Enqueue(run=run("r2")),
        Claim(worker="w1", token="t1", n=1),
        Cancel(run="r2"),
        Acquire(name="x", holder="h", ttl=1000),
        Write(ops=(put(Request(token="q", verb="v", target="t"), "q"),)),
        Write(ops=(put(task("a", digest="d2"), "a"), put(Delivery(task="a", id="d"), "a:d"))),
    ]
    for command in promises:
        told.synced.clear()
        desk.batch(command)
        assert "dicode.db-wal" in told.synced, command
    told.synced.clear()
    desk.batch(Finish(run="r1", fence=desk.run("r1").fence, status="succeeded"))
    assert "dicode.db-wal" in told.synced
    desk.engine.close()


def test_what_a_controller_will_see_again_waits_for_no_disk_and_is_there_before_the_next_promise(told: Told, tmp_path: Path) -> None:
    desk = Desk(lambda at: Sqlite(tmp_path / "dicode.db", at))
    desk.register("a")
    told.synced.clear()
    desk.register("a", digest="d2")
    assert told.synced == []
    desk.batch(Enqueue(run=run("r1")))
    assert told.synced == ["dicode.db-wal"]
    desk.engine.close()
