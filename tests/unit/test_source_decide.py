"""What the source-controller decides: where to look, what to write, what may be removed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.messages.fault import Fault
from dicode.messages.kinds import Commit, Condition, ConfigSource, DesiredTask, Source
from dicode.messages.task import TaskSpec, Trigger
from dicode.source.decide import (
    View,
    changed_line,
    desired,
    dirty_keys,
    every,
    free_name,
    missing,
    removals,
    source_now,
    source_of,
    status_of,
    synced,
    wanted_sources,
)
from dicode.source.state import ALL, Burst, Known, Reading, Territory, Touched
from dicode.source.writing import made_of
from dicode.spec.removal import HELD, TWICE
from dicode.spec.resolve import Resolved

SPEC = TaskSpec(name="Hello", trigger=Trigger(manual=True))
GOOD = Resolved("a", SPEC, "shell", "task.sh", "d" * 64, "p" * 64, b"", b"", "/src/a")
SOURCE = Source(name="s", spec=ConfigSource(name="s", path="/src"), order=2, epoch="now")
FAULT = Fault("src/a/task.yaml", 3, 5, "unknown field")
BURST = Burst("cause", 1234.5, 1.0, 1.0)


def read(resolved: Resolved | None = GOOD, *faults: Fault, unsettled: bool = False) -> Reading:
    return Reading("a", "/src/a", Known("a"), "/src/a", resolved, faults, unsettled=unsettled)


def written(reading: Reading | None = None) -> DesiredTask:
    said = desired(SOURCE, reading or read(), None, BURST, 1000)
    assert said is not None
    return said


# ── where to look ──


@pytest.mark.parametrize(
    ("folder", "name", "more", "expected"),
    [
        ("/src/a", "task.sh", {}, {"/src/a"}),
        ("/src/a/lib", "x.py", {}, {"/src/a"}),
        ("/src/a", ".task.sh.swp", {}, set()),
        ("/src/a", "task.sh~", {}, set()),
        ("/src", "a", {"directory": True, "gone": True}, {"/src/a"}),
        ("/src/group", "new", {"directory": True}, {"/src/group/new"}),
        ("/src/group", "task.yaml", {}, {"/src/group"}),
        ("/src/group", "README.md", {}, set()),
        ("/src/group", ".gitignore", {}, {ALL}),
        ("/src/unseen", "task.sh", {}, {"/src/unseen"}),
        ("/src", ".git", {"directory": True}, set()),
        ("/src/shared", "common.py", {}, {"/src/a"}),
        ("/src/a", "", {"gone": True}, {"/src/a"}),
        ("/src", "", {"gone": True}, {ALL}),
        ("/", "src", {}, {ALL}),
        ("/links", "current", {}, {ALL}),
        ("/links", "other", {}, set()),
        ("/src-two", "task.yaml", {}, set()),
    ],
)
def test_an_event_marks_the_folders_it_may_concern_and_no_others(folder: str, name: str, more: dict[str, bool], expected: set[str]) -> None:
    territory = Territory(groups={"/src", "/src/group", "/src/shared"})
    territory.learn("/src/a", Known("a", includes=("/src/shared/common.py",)))
    assert dirty_keys(territory, "/src", {"/links/current"}, Touched(folder, name, 0.0, **more)) == expected


# ── one task ──


def test_a_good_reading_is_written_with_the_moment_of_the_save() -> None:
    said = written()
    assert (said.digest, said.process, said.spec, said.runtime) == ("d" * 64, "p" * 64, SPEC, "shell")
    assert (said.source, said.dir, said.order, said.seen_at, said.cause) == ("s", "/src/a", 2, 1234.5, "cause")


def test_reading_the_same_again_writes_nothing() -> None:
    for reading in (read(), read(None, FAULT), read(unsettled=True)):
        said = written(reading)
        assert desired(SOURCE, reading, said, Burst("other", 9999.0, 2.0, 2.0), 5000) is None


def test_a_broken_save_keeps_the_last_good_digest_and_carries_the_fault() -> None:
    good = written()
    broken = desired(SOURCE, read(None, FAULT), good, BURST, 2000)
    assert broken is not None
    assert (broken.digest, broken.spec, broken.faults) == (good.digest, good.spec, (FAULT,))


def test_a_task_that_never_was_good_is_written_with_its_faults_only() -> None:
    said = written(read(None, FAULT))
    assert (said.digest, said.spec, said.faults, said.dir) == ("", None, (FAULT,), "/src/a")


def test_mending_a_save_takes_the_faults_away_even_when_the_digest_is_the_old_one() -> None:
    broken = desired(SOURCE, read(None, FAULT), written(), BURST, 2000)
    mended = desired(SOURCE, read(), broken, BURST, 3000)
    assert mended is not None and mended.faults == () and mended.digest == "d" * 64


def test_a_task_read_in_motion_says_so_until_it_is_read_at_rest() -> None:
    moving = written(read(unsettled=True))
    assert [condition.type for condition in moving.conditions] == ["Unsettled"]
    settled = desired(SOURCE, read(), moving, None, 2000)
    assert settled is not None and settled.conditions == () and settled.seen_at == 0.0


def test_the_place_of_the_source_is_told_to_its_tasks() -> None:
    moved = desired(msgspec.structs.replace(SOURCE, order=0), read(), written(), None, 2000)
    assert moved is not None and moved.order == 0


def test_one_line_tells_which_files_changed() -> None:
    reading = read()._replace(changed=("lib/a.py", "task.sh", "task.yaml"))
    assert changed_line(reading, "tasks/a") == "file changed: tasks/a/lib/a.py (+2 more)"
    assert changed_line(reading._replace(changed=("task.sh",)), "tasks/a") == "file changed: tasks/a/task.sh"
    assert changed_line(read(None, FAULT, FAULT), "tasks/a") == "file changed: src/a/task.yaml"
    assert changed_line(read(), "tasks/a") == ""


# ── what is no longer there ──


def test_a_task_is_removed_when_two_complete_readings_at_least_a_second_apart_miss_it() -> None:
    absent = missing({"a", "b", "c"}, {"a", "b"}, {}, 10.0)
    first = removals(absent, 3, frozenset(), 10.0)
    assert (first.remove, first.held) == (frozenset(), frozenset())
    assert first.again == pytest.approx(TWICE)
    assert removals(missing({"a", "b", "c"}, {"a", "b"}, absent, 10.9), 3, frozenset(), 10.9).remove == frozenset()
    assert removals(missing({"a", "b", "c"}, {"a", "b"}, absent, 11.0), 3, frozenset(), 11.0).remove == {"c"}


def test_a_task_that_is_back_in_between_starts_anew() -> None:
    absent = missing({"a", "b"}, {"a"}, {}, 10.0)
    absent = missing({"a", "b"}, {"a", "b"}, absent, 10.5)
    assert absent == {}
    assert removals(missing({"a", "b"}, {"a"}, absent, 11.0), 2, frozenset(), 11.0).remove == frozenset()


@pytest.mark.parametrize(
    ("lost", "tasks", "held"),
    [
        (1, 1, True),
        (1, 2, False),
        (5, 9, False),
        (5, 6, False),
        (5, 5, True),
        (6, 12, False),
        (6, 11, True),
        (6, 10, True),
        (10, 10, True),
        (100, 201, False),
    ],
)
def test_more_than_half_and_more_than_five_or_all_of_them_is_held(lost: int, tasks: int, held: bool) -> None:
    absent = {str(number): 0.0 for number in range(lost)}
    verdict = removals(absent, tasks, frozenset(), 5.0)
    assert bool(verdict.held) == held
    assert len(verdict.remove) == (0 if held else lost)


def test_what_is_held_goes_when_it_was_seen_again_a_minute_later() -> None:
    absent = {str(number): 100.0 for number in range(10)}
    assert removals(absent, 10, frozenset(), 100.0 + HELD - 0.1).remove == frozenset()
    assert removals(absent, 10, frozenset(), 100.0 + HELD).remove == absent.keys()


def test_what_a_person_confirmed_goes_and_nothing_else() -> None:
    absent = {str(number): 0.0 for number in range(9)} | {"later": 0.0}
    confirmed = frozenset(absent) - {"later"}
    verdict = removals(absent, 10, confirmed, 2.0)
    assert verdict.remove == confirmed and verdict.held == {"later"}


@given(st.sets(st.integers(0, 30)), st.lists(st.tuples(st.floats(0, 20), st.sets(st.integers(0, 30))), max_size=8))
def test_whatever_is_found_in_any_reading_is_never_removed_by_it(ids: set[int], readings: list[tuple[float, set[int]]]) -> None:
    left, absent, now = {str(id) for id in ids}, {}, 0.0
    for pause, found in readings:
        now += pause
        here = {str(id) for id in found}
        absent = missing(left, here, absent, now)
        verdict = removals(absent, len(left), frozenset(), now)
        assert not verdict.remove & here
        assert all(now - absent[id] >= TWICE for id in verdict.remove)
        left -= verdict.remove
        absent = {id: since for id, since in absent.items() if id not in verdict.remove}
        assert verdict.again is None or verdict.again > 0


# ── the source ──


def test_an_unreadable_root_is_stale_while_there_are_tasks_and_unavailable_without() -> None:
    problem = ("NotFound", "/src: No such file or directory")
    assert status_of(View(True, 3, problem)) == "stale"
    assert status_of(View(False, 3, problem)) == "stale"
    assert status_of(View(False, 0, problem)) == "unavailable"
    assert status_of(View(False, 3)) == "pending"
    assert status_of(View(True, 3, held=2)) == "held"
    assert status_of(View(True, 0)) == "ok"


def test_what_is_known_of_a_source_is_said_once_and_since_stands_still() -> None:
    view = View(False, 3, ("NotFound", "/src: gone"))
    first = source_now(SOURCE, view, 1000)
    assert first.status == "stale" and first.conditions == (Condition("Readable", False, "NotFound", "/src: gone", 1000),)
    assert source_now(first, view, 2000) == first
    assert source_now(first, View(True, 3), 3000).conditions == ()


@pytest.mark.parametrize(
    ("view", "type"),
    [
        (View(True, 9, held=7), "Held"),
        (View(True, 9, remote="nfs4"), "Polled"),
        (View(True, 9, watch_limit=True), "WatchLimit"),
        (View(True, 9, failed="full"), "BundlesWritten"),
    ],
)
def test_each_limitation_is_a_condition(view: View, type: str) -> None:
    assert [condition.type for condition in source_now(SOURCE, view, 1000).conditions] == [type]


def test_where_events_cannot_be_had_rounds_come_often_but_take_a_twentieth_at_most() -> None:
    assert every(10.0, False, 0.3) == 10.0
    assert every(10.0, True, 0.01) == 2.0
    assert every(10.0, True, 0.3) == 6.0
    assert every(10.0, True, 5.0) == 10.0
    assert every(1.0, True, 0.01) == 1.0


# ── which sources there are ──


def test_sources_come_from_the_file_then_the_store_then_the_command_line() -> None:
    written = (ConfigSource(name="b", path="/b"), ConfigSource(name="a", path="/a"))
    present = [
        Source(name="added", spec=ConfigSource(name="added", path="/c"), origin="store"),
        Source(name="a", spec=ConfigSource(name="a", path="/old"), origin="store"),
        Source(name="gone", spec=ConfigSource(name="gone", path="/g"), origin="file"),
        Source(name="then", spec=ConfigSource(name="then", path="/t"), origin="up"),
    ]
    wanted = wanted_sources(written, present, ["/x/tasks", "/a"])
    assert [(name, each.origin, each.order, each.spec.path) for name, each in wanted.items()] == [
        ("b", "file", 0, "/b"),
        ("a", "file", 1, "/a"),
        ("added", "store", 2, "/c"),
        ("tasks", "up", 3, "/x/tasks"),
    ]


def test_a_path_on_the_command_line_gets_a_name_nobody_has() -> None:
    assert free_name("/x/tasks", ["tasks", "tasks-2"]) == "tasks-3"
    assert free_name("/x/my tasks", []) == "up"
    assert free_name("/", ["up"]) == "up-2"


def test_at_a_start_what_people_asked_for_stays_and_everything_is_to_be_read_again() -> None:
    wanted = wanted_sources((SOURCE.spec,), [], [])["s"]
    before = msgspec.structs.replace(SOURCE, status="ok", tasks=3, suspended=True, epoch="before")
    assert source_of(wanted, None, "now").status == "pending"
    frozen = source_of(wanted, before, "now")
    assert (frozen.suspended, frozen.status, frozen.epoch, frozen.tasks) == (True, "stale", "now", 3)


# ── commits and working copies ──


def at_commit(commit: str, digest: str = "d", **more: object) -> Reading:
    return read(msgspec.structs.replace(GOOD, digest=digest * 64))._replace(revision=commit, **more)


def test_a_task_keeps_the_commit_at_which_its_digest_was_first_seen() -> None:
    first = desired(SOURCE, at_commit("c1"), None, BURST, 1000)
    assert first is not None and first.revision == "c1"
    assert desired(SOURCE, at_commit("c2"), first, BURST, 2000) is None
    second = desired(SOURCE, at_commit("c2", "e"), first, BURST, 2000)
    assert second is not None and second.revision == "c2"


def test_in_a_working_copy_what_is_equal_is_not_written_and_out_of_it_gets_its_commit() -> None:
    dev = msgspec.structs.replace(SOURCE, dev="/home/ada/code")
    before = desired(SOURCE, at_commit("c1", dir="infra:a"), None, BURST, 1000)
    assert desired(dev, at_commit("", dir="/home/ada/code/a", set_dir="/home/ada/code"), before, BURST, 2000) is None
    asks = desired(dev, at_commit("", dir="/home/ada/code/a", set_dir="/home/ada/code", asks_set_dir=True), before, BURST, 2000)
    assert asks is not None and (asks.dir, asks.set_dir, asks.revision) == ("infra:a", "/home/ada/code", "c1")
    edited = desired(dev, at_commit("", "e", dir="/home/ada/code/a"), before, BURST, 2000)
    assert edited is not None and (edited.dir, edited.revision) == ("/home/ada/code/a", "")
    back = desired(SOURCE, at_commit("c2", "e", dir="infra:a"), edited, BURST, 3000)
    assert back is not None and (back.dir, back.revision, back.digest) == ("infra:a", "c2", edited.digest)


def test_every_vector_of_commits_is_kept_once_the_newest_first_and_twenty_at_most() -> None:
    source = SOURCE
    for number in range(30):
        for _ in range(2):
            source = source_now(source, View(True, 1, vector={"": f"c{number}"}), number)
    assert [each.revisions[""] for each in source.resolutions] == [f"c{number}" for number in range(29, 9, -1)]
    assert source.resolutions[0].at == 29
    assert source_now(source, View(False, 1), 99).resolutions == source.resolutions, "not read yet: nobody knows"


def test_a_time_in_a_working_copy_is_no_time_at_the_commit_before() -> None:
    at_home = View(True, 1, vector={"": "c1"})
    source = source_now(SOURCE, at_home, 1)
    away = source_now(source_now(source, View(True, 1), 2), View(True, 1), 3)
    back = source_now(away, at_home, 4)
    assert [(each.at, each.revisions) for each in back.resolutions] == [(4, {"": "c1"}), (2, {}), (1, {"": "c1"})]
    assert [made_of(source, away), made_of(away, back)] == ["", "now at s@c1"]
    assert source_now(SOURCE, View(True, 1), 1).resolutions == (), "a folder is at no commit, ever"


def test_polls_without_news_are_written_once_a_minute() -> None:
    first = source_now(SOURCE, View(True, 1, synced_at=1_000_000), 1)
    assert source_now(first, View(True, 1, synced_at=1_030_000), 2) == first
    assert synced(first, 1_060_000) == msgspec.structs.replace(first, synced_at=1_060_000)
    assert synced(first, 1_000_000) is None and synced(first, 0) is None, "nothing was heard since the start: what is written stays"
    assert source_now(first, View(True, 1, commit=Commit("c"), synced_at=1_030_000), 2).synced_at == 1_030_000


def test_a_remote_that_is_away_is_stale_while_its_last_commit_is_served_and_unavailable_before() -> None:
    away = ("HostUnreachable", "the host refuses the connection")
    assert status_of(View(True, 0, unreachable=away)) == "stale"
    assert status_of(View(False, 0, unreachable=away)) == "unavailable"
    (condition,) = source_now(SOURCE, View(True, 3, unreachable=away), 1000).conditions
    assert (condition.type, condition.status, condition.reason) == ("Reachable", False, "HostUnreachable")
    (condition,) = source_now(SOURCE, View(True, 3, notes=("git-lfs", "submodules")), 1000).conditions
    assert condition.type == "NotSupported" and condition.message.startswith("git-lfs and submodules: ")


def test_changed_files_that_are_named_whole_are_shown_as_they_are() -> None:
    reading = read()._replace(changed=("infra@abc1234:a/task.sh", "infra@abc1234:taskset.yaml"))
    assert changed_line(reading, "") == "file changed: infra@abc1234:a/task.sh (+1 more)"
