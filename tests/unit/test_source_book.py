"""What a composed source remembers: which places are due because of what changed, and which ids stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dicode.messages.fault import Fault
from dicode.source.sets import Book, Documents, Done, Piece, Place, below_which, is_below, pieces_of, said_for
from dicode.source.state import Burst
from dicode.spec.expand import Expansion, Memo, SetAt, TaskAt, expand, name_of
from dicode.spec.folder import Folder
from dicode.spec.taskset import parse_set
from dicode.spec.trees import At, FolderRead, NothingSeen, SetSeen, TaskSeen

SAVE = Burst("cause", 1234.5, 1.0, 1.0)
TIMER = Burst("round", 0.0, 1.0, 1.0)
FAULT = Fault("taskset.yaml", 3, 5, "unknown field")


def set_text(**timeouts: str) -> bytes:
    entries = "".join(f"    {key}: {{ref: {{path: tasks/{key}}}, overrides: {{timeout: {timeout}}}}}\n" for key, timeout in timeouts.items())
    return f"kind: TaskSet\nspec:\n  entries:\n{entries}".encode()


def expansion(text: bytes, memo: Memo | None = None) -> Expansion:
    root = At("", "taskset.yaml")
    there = SetAt(root, parse_set(text, name_of(root)))
    return expand(root, lambda at: there if at == root else TaskAt(at), source="s", memo=memo)


def folder(fingerprint: str = "1") -> FolderRead:
    return FolderRead(Book().want(Place("", "tasks/a"), Book()._mark(Place("", "x"), None)), Folder("/tasks/a", ()), fingerprint)


def adopted(book: Book, found: Expansion, burst: Burst | None = None) -> bool:
    return book.adopt(pieces_of(found, book.pieces), found.faults, burst)


def due_ids(book: Book) -> set[str]:
    return {id for places in book.due.values() for due in places.values() for id in due.ids}


def settled(book: Book) -> None:
    """All that is due has been read, resolved and written."""
    for key in list(book.due):
        for place, due in book.take(key, 1000).items():
            for piece in book.read(place, folder(), due):
                book.done[piece.id] = Done("d" * 64)
            book.learn(place, folder())


# ── documents ──


def test_a_set_is_parsed_again_only_when_its_bytes_differ() -> None:
    documents, at = Documents(), At("", "infra")
    seen = SetSeen("infra/taskset.yaml", set_text(a="5s"))
    assert documents.must_parse(at, seen)
    documents.parsed(at, seen, SetAt(At("", seen.path), parse_set(seen.content, "f")))
    assert not documents.must_parse(at, seen)
    assert documents.must_parse(at, seen._replace(content=set_text(a="6s")))
    assert documents.must_parse(at, seen._replace(path="elsewhere/taskset.yaml"))


def test_a_place_that_holds_something_else_now_forgets_what_it_was_parsed_from() -> None:
    documents, at = Documents(), At("", "infra")
    seen = SetSeen("infra/taskset.yaml", set_text(a="5s"))
    documents.parsed(at, seen, SetAt(At("", seen.path), parse_set(seen.content, "f")))
    assert not documents.must_parse(at, NothingSeen("there is no such file or folder"))
    assert documents.must_parse(at, seen)


def test_task_folders_are_not_looked_at_again_unless_a_link_led_there() -> None:
    documents = Documents()
    documents.must_parse(At("", "a"), TaskSeen("a"))
    documents.must_parse(At("", "link"), TaskSeen("a"))
    documents.must_parse(At("", "no"), NothingSeen("there is no such file or folder"))
    documents.must_parse(At("lib", "no"), NothingSeen("there is no such file or folder"))
    assert documents.worth_another_look("") == [At("", "link"), At("", "no")]
    documents.forget_unasked([At("", "a")])
    assert documents.asked_in("") == [At("", "a")]


# ── what is due ──


def test_of_another_expansion_only_what_differs_is_due() -> None:
    book, memo = Book(), Memo()
    adopted(book, expansion(set_text(a="5s", b="5s"), memo))
    assert due_ids(book) == {"s/a", "s/b"}
    settled(book)
    assert not adopted(book, expansion(b"# moved down\n" + set_text(a="5s", b="5s"), memo)) and not book.due
    adopted(book, expansion(set_text(a="5s", b="6s"), memo), SAVE)
    assert due_ids(book) == {"s/b"}


def test_a_task_that_was_wrong_is_due_when_its_place_in_the_file_is_another() -> None:
    book, memo = Book(), Memo()
    adopted(book, expansion(set_text(a="5s", b="5s"), memo))
    settled(book)
    book.done["s/a"] = Done(faulty=True)
    adopted(book, expansion(b"# moved down\n" + set_text(a="5s", b="5s"), memo), SAVE)
    assert due_ids(book) == {"s/a"}


def test_what_is_no_more_or_no_longer_wrong_asks_for_a_complete_look() -> None:
    book = Book()
    assert not adopted(book, expansion(set_text(a="5s", b="5s")))
    assert adopted(book, expansion(set_text(a="5s"))) and due_ids(book) == {"s/a"}
    assert not book.adopt(book.pieces, {"s/x": (FAULT,)}, None)
    assert book.adopt(book.pieces, {}, None)


def test_a_save_comes_before_the_first_reading_and_a_place_is_due_once() -> None:
    book = Book()
    adopted(book, expansion(set_text(a="5s", b="5s")))
    book.suspect(Place("", "tasks/b"), SAVE)
    book.suspect(Place("", "tasks/b"), TIMER)
    assert [(key, list(places)) for key, places in sorted(book.due.items())] == [
        ((False, ""), [Place("", "tasks/b")]),
        ((True, ""), [Place("", "tasks/a")]),
    ]
    taken = book.take((False, ""), 10)
    assert taken[Place("", "tasks/b")].ids == {"s/b"} and (False, "") not in book.due
    for place, due in taken.items():
        book.give_back(place, due)
    assert book.take((False, ""), 10)[Place("", "tasks/b")].ids == {"s/b"}


def test_a_folder_of_two_tasks_is_resolved_for_both_when_it_looks_different_and_else_for_the_one_that_asks() -> None:
    book, place = Book(), Place("", "shared")
    book.adopt({id: Piece(id, place) for id in ("a", "b")}, {}, None)
    settled(book)
    book.must_read("a", SAVE)
    due = book.take((False, ""), 1)[place]
    assert book.want(place, due).fingerprint == ""
    assert [piece.id for piece in book.read(place, folder("1"), due)] == ["a"]
    assert [piece.id for piece in book.read(place, folder("2"), due)] == ["a", "b"]
    assert [piece.id for piece in book.read(place, folder(""), due)] == ["a", "b"]
    book.suspect(place, SAVE)
    assert book.want(place, book.take((False, ""), 1)[place]).fingerprint == "1"


def test_nothing_is_due_where_nobody_stands_any_more() -> None:
    book = Book()
    adopted(book, expansion(set_text(a="5s")))
    due = book.take((True, ""), 1)[Place("", "tasks/a")]
    book.adopt({}, {}, None)
    book.give_back(Place("", "tasks/a"), due)
    book.suspect(Place("", "tasks/a"), SAVE)
    book.must_read("s/a", SAVE)
    assert not book.due and book.read(Place("", "tasks/a"), folder(), due) == []


def test_the_line_for_people_names_the_set_that_has_a_say_and_else_all_that_changed() -> None:
    leaf = expansion(set_text(a="5s")).leaves["s/a"]
    piece = Piece("s/a", Place("", "tasks/a"), leaf)
    root = name_of(At("", "taskset.yaml"))
    assert said_for(piece, {root: "infra/taskset.yaml", "other": "infra/b/taskset.yaml"}) == ("infra/taskset.yaml",)
    assert said_for(piece, {"other": "infra/b/taskset.yaml"}) == ("infra/b/taskset.yaml",)
    assert said_for(piece, {}) == ()


# ── which ids stay ──


def test_a_fault_protects_what_is_written_at_and_below_it_and_stands_for_itself_where_nothing_is() -> None:
    book = Book()
    book.adopt({"s/good": Piece("s/good", Place("", "good"))}, {"s/broken": (FAULT,), "s/new": (FAULT,)}, None)
    written = {"s/good", "s/broken/a", "s/broken/b", "s/brokenish", "s/gone"}
    assert book.found(written) == {"s/good", "s/broken", "s/new", "s/broken/a", "s/broken/b"}
    assert dict(book.faulted(written)) == {"s/broken/a": (FAULT,), "s/broken/b": (FAULT,), "s/new": (FAULT,)}


SEGMENTS = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=4).map("/".join)


@given(SEGMENTS, st.sets(SEGMENTS, max_size=6))
def test_below_is_by_whole_segments_and_finds_the_nearest(id: str, tops: set[str]) -> None:
    named = dict.fromkeys(tops, 0)
    above = [top for top in tops if id == top or id.startswith(f"{top}/")]
    assert below_which(id, named) == max(above, key=len, default="")
    assert is_below(id, named) == bool(above) and is_below(id, {"": 0})
