"""Tables converge on the store's, whatever happens to the hints between."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from tests.support.small_store import SmallStore

from dicode.messages.commands import Change
from dicode.messages.kinds import ConfigSource, Schedule, Source, Task
from dicode.process.tables import Tables
from dicode.wire.frames import Header, Heard, encode

KINDS = (Task, Schedule)


def body(kind: str, key: str, number: int) -> bytes:
    return encode(Task(id=key, source="s", generation=number) if kind == "Task" else Schedule(task=key, next=number))


@given(st.integers(0, 2**32), st.integers(1, 120), st.sampled_from([0.0, 0.3, 1.0]))
def test_tables_converge_with_hints_lost_doubled_and_late(seed: int, steps: int, loss: float) -> None:
    chance, store = random.Random(seed), SmallStore("Task", "Schedule")
    tables = Tables(KINDS, lambda kind, key, cause: None)
    flying: list[Heard] = []
    for number in range(steps):
        kind, key = chance.choice(["Task", "Schedule"]), chance.choice("abc")
        flying.append(store.write(kind, key, None if chance.random() < 0.2 else body(kind, key, number)))
        if chance.random() < 0.05:
            store.epoch = f"e{number}"
        if chance.random() < 0.5:
            heard = [hint for hint in flying if chance.random() >= loss for _ in range(chance.choice([1, 1, 2]))]
            flying.clear()
            store.resync(tables, tables.hear(heard))
    store.resync(tables, tables.hear([store.heartbeat()]))
    for kind in KINDS:
        mine = {key: encode(value) for key, value in tables.all(kind)}
        assert mine == store.present(kind.__name__)


def test_our_own_write_is_known_at_once_and_its_echo_changes_nothing() -> None:
    changed: list[str] = []
    store = SmallStore("Task", "Schedule")
    tables = Tables(KINDS, lambda kind, key, cause: changed.append(key))
    store.resync(tables, tables.hear([store.heartbeat()]))
    echo = store.write("Task", "a", body("Task", "a", 1))
    tables.set(Task, "a", store.rev, store.present("Task")["a"], "")
    assert tables.hear([echo]) == set() and changed == ["a"]


def test_an_old_word_about_something_deleted_since_is_not_believed() -> None:
    store = SmallStore("Task", "Schedule")
    tables = Tables(KINDS, lambda kind, key, cause: None)
    store.resync(tables, tables.hear([store.heartbeat()]))
    late = store.write("Task", "a", body("Task", "a", 1))
    deletion = store.write("Task", "a", None)
    tables.set(Task, "a", deletion.header.rev, None, "")
    tables.hear([late])
    assert tables.get(Task, "a") is None


def test_a_full_listing_removes_what_it_does_not_name() -> None:
    store = SmallStore("Task", "Schedule")
    tables = Tables(KINDS, lambda kind, key, cause: None)
    tables.hear([store.heartbeat()])
    tables.set(Task, "old", 3, body("Task", "old", 1), "")
    tables.listed(Task, [Change("new", 5, body("Task", "new", 1), "")], 5, full=True)
    assert dict(tables.all(Task)).keys() == {"new"}


def test_unknown_kinds_and_bad_bodies_are_counted_and_skipped() -> None:
    tables = Tables(KINDS, lambda kind, key, cause: None)
    source = encode(Source(name="x", spec=ConfigSource(name="x")))
    heard = [
        Heard(Header(1, "", "Nonsense", "x", 1, 0), b"?"),
        Heard(Header(1, "", "Source", "x", 2, 0), source),
        Heard(Header(1, "", "Task", "x", 3, 0), b"\xc1"),
    ]
    tables.hear(heard)
    assert tables.skipped == 3 and not list(tables.all(Task))
