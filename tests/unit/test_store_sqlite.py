"""What only concerns SQLite: damage, full disks, schema versions, and looking in from outside."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest
from tests.support.store_desk import START, Desk, put, run, task

from dicode.messages.commands import Append, Enqueue, Enqueued, Failed, Found, Get, Held, Put, Renew, Renewed, Write, Written
from dicode.messages.kinds import Event, Run, Source, Task
from dicode.store import sql
from dicode.store.engine import Corrupt, TooNew
from dicode.store.migrate import migrate
from dicode.store.read import Reader, Unreadable
from dicode.store.sqlite import Sqlite, set_aside
from dicode.wire.frames import encode


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dicode.db"


@pytest.fixture
def desk(file: Path) -> Desk:
    return Desk(lambda at: Sqlite(file, at))


class TestDamage:
    @pytest.mark.parametrize("damage", ["header", "page", "text", "folder"])
    def test_a_damaged_file_is_seen_at_start_and_can_be_set_aside(self, desk: Desk, file: Path, damage: str) -> None:
        for number in range(200):
            desk.put(task(f"t{number}"), f"t{number}")
        desk.engine.close()
        _damage(file, damage)
        with pytest.raises(Corrupt):
            Sqlite(file, START)
        aside = set_aside(file, START)
        assert aside.exists() and not file.exists()
        desk.restart()
        assert desk.list("Task").changes == ()

    @pytest.mark.parametrize("damage", ["empty", "missing", "garbage in the log", "garbage in the index of the log"])
    def test_what_can_be_opened_is_used(self, desk: Desk, file: Path, damage: str) -> None:
        desk.put(task("a"), "a")
        desk.engine.close()
        _damage(file, damage)
        desk.restart()
        assert [change.key for change in desk.list("Task").changes] == (["a"] if "log" in damage else [])
        desk.put(task("b"), "b")

    def test_a_file_that_is_taken_away_is_missed(self, desk: Desk, file: Path) -> None:
        assert desk.engine.still_there()  # type: ignore[attr-defined]
        file.rename(file.with_suffix(".moved"))
        assert not desk.engine.still_there()  # type: ignore[attr-defined]
        file.write_bytes(b"")
        assert not desk.engine.still_there()  # type: ignore[attr-defined]


def _damage(file: Path, damage: str) -> None:
    match damage:
        case "header":
            file.write_bytes(b"\0" * 100 + file.read_bytes()[100:])
        case "page":
            pages = bytearray(file.read_bytes())
            pages[4096:] = b"\xff" * (len(pages) - 4096)
            file.write_bytes(pages)
        case "text":
            file.write_text("this is no database, it is a letter to my aunt\n" * 100)
        case "folder":
            file.unlink()
            file.mkdir()
        case "empty":
            file.write_bytes(b"")
        case "missing":
            file.unlink()
        case "garbage in the log":
            file.with_name("dicode.db-wal").write_bytes(b"\xff" * 10_000)
        case "garbage in the index of the log":
            file.with_name("dicode.db-shm").write_bytes(b"\xff" * 32_768)


class TestFullDisk:
    def test_nothing_is_acknowledged_that_is_not_written_and_it_heals_by_itself(self, desk: Desk) -> None:
        """A database that may not grow stands for the full disk: SQLite gives the same error."""
        desk.register("a")
        desk.enqueue(run("held"))
        (held,) = desk.claim("t0")
        db: apsw.Connection = desk.engine._db  # type: ignore[attr-defined]
        pages = db.pragma("page_count")
        db.pragma("max_page_count", pages)
        before, listed = desk.engine.head(), desk.list("Run").changes
        desk.wait(5000)
        renew = Renew(worker="w1", held=(Held("held", held.fence),))
        *answers, renewed = desk.batch(Enqueue(run=run("small")), Write(ops=(Put("Task", "big", bytes(500_000)),)), Enqueue(run=run("late")), renew)
        assert renewed == Renewed()
        desk.wait(5000)
        assert not desk.engine.queue.overdue(desk.at)
        assert all(isinstance(answer, Failed) and answer.retry for answer in answers)
        assert "disk is full" in desk.service.trouble and desk.engine.head() == before and desk.list("Run").changes == listed
        assert isinstance(desk.batch(Get(what="Task", key="a"))[0], Found)
        db.pragma("max_page_count", 1_000_000)
        assert desk.enqueue(run("small")) == Enqueued(run="small")
        assert desk.service.trouble == "" and desk.claim("t")[0].id == "small"

    def test_a_request_that_failed_for_want_of_space_is_done_when_repeated(self, desk: Desk) -> None:
        db: apsw.Connection = desk.engine._db  # type: ignore[attr-defined]
        db.pragma("max_page_count", db.pragma("page_count"))
        from dicode.store.service import Asked

        asked = Asked(b"1", Write(ops=(Put("Task", "big", bytes(500_000)),)))
        assert isinstance(desk.send([asked])[0], Failed)
        db.pragma("max_page_count", 1_000_000)
        assert isinstance(desk.send([asked])[0], Written)

    def test_someone_elses_lock_is_a_passing_trouble(self, desk: Desk, file: Path) -> None:
        desk.engine._db.set_busy_timeout(10)  # type: ignore[attr-defined]
        before = desk.put(task("z"), "z")
        other = apsw.Connection(str(file))
        other.execute("BEGIN IMMEDIATE")
        answer = desk.batch(Write(ops=(put(task("a"), "a"),)))[0]
        assert isinstance(answer, Failed) and answer.retry
        other.execute("ROLLBACK")
        other.close()
        assert desk.put(task("a"), "a") > before


class TestSchema:
    def test_a_database_of_a_newer_dicode_is_refused_with_the_cure(self, desk: Desk, file: Path) -> None:
        desk.engine._db.pragma("user_version", 99)  # type: ignore[attr-defined]
        desk.engine.close()
        with pytest.raises(TooNew, match="newer dicode .*upgrade"):
            Sqlite(file, START)

    def test_a_step_that_is_broken_off_leaves_the_version_before_it(self, file: Path) -> None:
        steps = ("CREATE TABLE one (a); CREATE TABLE two (a)", "CREATE TABLE three (a); CREATE TABLE no good")
        db = apsw.Connection(str(file))
        with pytest.raises(apsw.SQLError):
            migrate(db, steps)
        assert db.pragma("user_version") == 1
        assert {name for (name,) in db.execute("SELECT name FROM sqlite_master")} == {"one", "two"}
        migrate(db, (steps[0], "CREATE TABLE three (a)"))
        assert db.pragma("user_version") == 2
        db.close()

    def test_every_commit_is_on_the_disk_before_it_is_answered(self, desk: Desk) -> None:
        db: apsw.Connection = desk.engine._db  # type: ignore[attr-defined]
        assert (db.pragma("journal_mode"), db.pragma("synchronous")) == ("wal", 2)

    def test_what_is_asked_all_the_time_never_reads_a_whole_table(self, desk: Desk) -> None:
        db: apsw.Connection = desk.engine._db  # type: ignore[attr-defined]
        hot = (sql.GET_OBJECT, sql.LIST_OBJECTS, sql.LIST_RUNS, sql.GET_RUN, sql.GET_UNIQUE, sql.LIVE_RUNS, sql.DUE, sql.BY_REV, sql.SET_RUN)
        for statement in hot:
            values = (None,) * statement.count("?") if "?1" not in statement else (None,) * max(n for n in range(1, 9) if f"?{n}" in statement)
            for *_, detail in db.execute(f"EXPLAIN QUERY PLAN {statement}", values):
                assert not detail.startswith("SCAN runs") or "INDEX" in detail, (statement, detail)
                assert not detail.startswith("SCAN objects"), (statement, detail)

    def test_a_long_log_is_emptied_when_nobody_waits(self, desk: Desk, file: Path) -> None:
        log = file.with_name("dicode.db-wal")
        for _ in range(20):
            desk.batch(Write(ops=tuple(Append("Event", bytes(100_000)) for _ in range(9))))
        assert log.stat().st_size > 16 << 20
        desk.engine.idle()
        assert log.stat().st_size == 0


class TestReader:
    def test_it_reads_beside_the_store_and_after_it(self, desk: Desk, file: Path) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        reader = Reader(file)
        for _ in range(2):
            assert reader.get(Task, "a") == task("a") and list(reader.all(Task)) == ["a"]
            assert reader.get(Run, "r1") == desk.run("r1") and reader.rev(Task, "a") == desk.list("Task").changes[0].rev
            desk.restart()
        desk.engine.close()
        assert list(Reader(file).all(Run)) == ["r1"]

    def test_what_is_not_there_is_empty(self, file: Path) -> None:
        reader = Reader(file)
        assert reader.all(Task) == {} and reader.get(Task, "a") is None and reader.runs() == [] and reader.events() == []
        assert reader.head(Run) == 0 and reader.changes(Task, 0) == ([], 0) and reader.rev(Task, "a") == 0
        assert not file.exists()
        file.write_bytes(b"")
        assert Reader(file).all(Run) == {}

    def test_a_file_that_appears_later_is_found(self, file: Path) -> None:
        reader = Reader(file)
        assert reader.all(Task) == {}
        Desk(lambda at: Sqlite(file, at)).register("a")
        assert list(reader.all(Task)) == ["a"]

    def test_a_file_that_is_no_database_is_said_in_one_line(self, file: Path) -> None:
        file.write_text("no database " * 1000)
        with pytest.raises(Unreadable, match=r"dicode\.db: .*not a database"):
            Reader(file).all(Task)

    def test_changes_go_on_from_where_one_was_and_tell_of_deletions(self, desk: Desk, file: Path) -> None:
        from dicode.messages.commands import Delete

        reader = Reader(file)
        desk.register("a")
        since = reader.head(Task)
        desk.register("b")
        desk.batch(Write(ops=(Delete("Task", "a"),)))
        changed, since = reader.changes(Task, since)
        assert changed == [("b", task("b")), ("a", None)]
        assert reader.changes(Task, since) == ([], since) and since == reader.head(Task)

    def test_runs_are_chosen_by_task_and_status(self, desk: Desk, file: Path) -> None:
        for name in ("a", "b"):
            desk.register(name)
            for number in range(3):
                desk.enqueue(run(f"{name}{number}", task=name))
        desk.finish(desk.claim("t")[0])
        reader = Reader(file)
        assert [one.id for one in reader.runs(limit=2)] == ["b2", "b1"]
        assert [one.id for one in reader.runs(task="a")] == ["a2", "a1", "a0"]
        assert [one.id for one in reader.runs(status="succeeded")] == ["a0"]

    def test_the_last_events_come_in_order(self, desk: Desk, file: Path) -> None:
        for at in range(1, 7):
            event = Event(object=f"task/{'ab'[at % 2]}", reason="r", message="m", at=at)
            desk.batch(Write(ops=(Append("Event", encode(event)),)))
        reader = Reader(file)
        assert [event.at for event in reader.events(limit=2)] == [5, 6]
        assert [event.at for event in reader.events(since=4)] == [4, 5, 6]
        assert [event.at for event in reader.events(about="task/a", limit=2)] == [4, 6]

    def test_a_backup_is_a_whole_store_also_while_it_works(self, desk: Desk, file: Path, tmp_path: Path) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        target = tmp_path / "backup.db"
        Reader(file).backup(target)
        desk.register("b")
        Reader(file).backup(target)
        assert list(Reader(target).all(Task)) == ["a", "b"] and list(Reader(target).all(Run)) == ["r1"]
        assert sorted(path.name for path in tmp_path.glob("*backup*") if path.suffix == ".part") == []
        restored = Desk(lambda at: Sqlite(target, at))
        assert restored.claim("t")[0].id == "r1"
        with pytest.raises(Unreadable, match="nothing to copy"):
            Reader(tmp_path / "none.db").backup(target)

    def test_what_another_version_wrote_is_left_out(self, desk: Desk, file: Path) -> None:
        desk.register("a")
        desk.batch(Write(ops=(Put("Task", "odd", b"\xc1"), Put("Source", "odd", encode(task("x"))))))
        reader = Reader(file)
        assert list(reader.all(Task)) == ["a"] and reader.all(Source) == {} and reader.get(Task, "odd") is None
