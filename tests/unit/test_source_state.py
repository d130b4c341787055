"""What the source-controller remembers: which folders are dirty and when they may be read, and whose a path is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.source.state import ALL, MAX_DIRTY, Dirt, Known, Territory

SETTLE = 0.01


def test_a_folder_is_due_when_it_was_quiet_for_settle() -> None:
    dirt = Dirt(SETTLE)
    dirt.touch("/t", 1.000, 5.0, "c")
    dirt.touch("/t", 1.005, 6.0, "d")
    assert dirt.take(1.0149, 10) == {}
    taken = dirt.take(1.0151, 10)
    assert (taken["/t"].cause, taken["/t"].at) == ("c", 5.0)
    assert dirt.next_due() is None


def test_noise_cannot_starve_a_reading() -> None:
    dirt = Dirt(SETTLE)
    now = 1.0
    while not dirt.take(now, 1):
        dirt.touch("/t", now, 0.0, "c")
        now += SETTLE / 2
    assert now <= 1.0 + 11 * SETTLE


def test_a_file_that_is_open_for_writing_is_waited_for_but_not_for_ever() -> None:
    dirt = Dirt(SETTLE)
    dirt.touch("/t", 1.0, 0.0, "c", path="/t/x", writing=True)
    assert dirt.due_at("/t") == pytest.approx(1.1)
    dirt.touch("/t", 1.02, 0.0, "c", path="/t/y")
    assert dirt.due_at("/t") == pytest.approx(1.1)
    dirt.touch("/t", 1.03, 0.0, "c", path="/t/x")
    assert dirt.due_at("/t") == pytest.approx(1.04)


def test_what_could_not_be_read_well_comes_again_and_keeps_its_beginning() -> None:
    dirt = Dirt(SETTLE)
    dirt.touch("/t", 1.0, 7.0, "c")
    burst = dirt.take(1.01, 1)["/t"]
    dirt.put_back("/t", burst, 1.012)
    assert dirt.due_at("/t") == pytest.approx(1.022)
    again = dirt.take(1.03, 1)["/t"]
    assert (again.at, again.first) == (7.0, 1.0)
    assert not dirt.expired(again, 1.09) and dirt.expired(again, 1.1)


def test_too_many_dirty_folders_become_everything() -> None:
    dirt = Dirt(SETTLE)
    for number in range(MAX_DIRTY):
        dirt.touch(f"/t{number}", 1.0, 0.0, "c")
    assert len(dirt.bursts) == MAX_DIRTY
    dirt.touch("/one more", 1.0, 0.0, "c")
    assert list(dirt.bursts) == [ALL]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 0.05)), min_size=1, max_size=60))
def test_every_touched_folder_is_taken_at_last_and_only_once(touches: list[tuple[str, float]]) -> None:
    dirt, now, taken = Dirt(SETTLE), 1.0, []
    for key, pause in touches:
        now += pause
        taken += dirt.take(now, 100)
        dirt.touch(key, now, 0.0, "c")
    taken += dirt.take(now + 1, 100)
    assert set(taken) == {key for key, _ in touches}
    assert dirt.take(now + 2, 100) == {}


def test_a_path_belongs_to_the_task_it_lies_in_and_to_those_that_include_it() -> None:
    territory = Territory()
    territory.learn("/s/a", Known("a", includes=("/s/lib",)))
    territory.learn("/s/b", Known("b", includes=("/s/lib", "/s/c/task.sh")))
    territory.learn("/s/c", Known("c"))
    assert territory.tasks_of("/s/lib/deep/x.py") == {"/s/a", "/s/b"}
    assert territory.tasks_of("/s/c/task.sh") == {"/s/b", "/s/c"}
    assert territory.tasks_of("/s/c") == {"/s/c"}
    assert territory.tasks_of("/s/library") == set()
    territory.learn("/s/a", Known("a"))
    territory.lose("/s/b")
    territory.lose("/s/b")
    assert territory.tasks_of("/s/lib/x.py") == set()
    assert territory.below("/s") == ["/s/a", "/s/c"] and territory.below("/s/c") == ["/s/c"]
