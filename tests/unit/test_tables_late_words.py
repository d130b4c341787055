"""A hint that comes after a listing which already told more."""

from __future__ import annotations

from tests.support.small_store import SmallStore

from dicode.messages.kinds import Task
from dicode.process.tables import Tables
from dicode.wire.frames import encode


def test_a_late_word_brings_nothing_back_that_a_listing_knew_to_be_gone() -> None:
    store, changed = SmallStore("Task"), []
    tables = Tables((Task,), lambda kind, key, cause: changed.append(key))
    late = store.write("Task", "a", encode(Task(id="a", source="s")))
    store.write("Task", "a", None)
    store.resync(tables, tables.hear([store.heartbeat()]))
    complete = tables.complete_to(Task)
    assert tables.hear([late]) == set()
    assert (tables.get(Task, "a"), changed, tables.complete_to(Task)) == (None, [], complete)
