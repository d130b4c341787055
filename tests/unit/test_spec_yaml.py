"""YAML is read from events, in one pass, with its limits; nothing that is written can raise or crash."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dicode.spec import yaml
from dicode.spec.yaml import Document, Limits, Mapping, Scalar, Sequence


def read(text: str | bytes, limits: Limits = yaml.TASK) -> Document:
    return yaml.read(text.encode() if isinstance(text, str) else text, "task.yaml", limits)


def only_fault(text: str | bytes) -> str:
    document = read(text)
    assert document.root is None
    assert len(document.faults) == 1, document.faults
    return str(document.faults[0])


def plain(node: yaml.Node | None) -> object:
    match node:
        case Mapping():
            return {key: plain(child) for key, child in node.items.items()}
        case Sequence():
            return [plain(child) for child in node.items]
        case Scalar():
            return node.text
    return None


def test_every_scalar_stays_the_text_that_was_written() -> None:
    text = 'a: no\nb: on\nc: 1.10\nd: 12:30\ne: 017\nf: 1_000\ng: 2026-13-45\nh: .nan\ni: 0x1F\nj: ~\nk: "true"\nl: !!str\n'.replace("l: !!str\n", "")
    found = plain(read(text).root)
    assert found == {
        "a": "no",
        "b": "on",
        "c": "1.10",
        "d": "12:30",
        "e": "017",
        "f": "1_000",
        "g": "2026-13-45",
        "h": ".nan",
        "i": "0x1F",
        "j": "~",
        "k": "true",
    }


def test_a_node_knows_where_it_stands_and_whether_it_was_quoted() -> None:
    root = read('name: x\nlist:\n  - "é"\n  - b\n').root
    assert isinstance(root, Mapping)
    assert root.place("list") == (2, 1)
    items = root.items["list"]
    assert isinstance(items, Sequence)
    quoted, bare = items.items
    assert isinstance(quoted, Scalar) and isinstance(bare, Scalar)
    assert (quoted.line, quoted.column, quoted.plain) == (3, 5, False)
    assert (bare.line, bare.column, bare.plain) == (4, 5, True)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: &x 1\n", "1:4", "anchor &x"),
        ("a: 1\nb: *x\n", "2:4", "alias *x"),
        ("a: &a [*a]\n", "1:4", "anchor &a"),
        ("<<: {a: 1}\n", "1:1", "merge key"),
        ("a: !!int 1\n", "1:4", "tag"),
        ("a: !!python/object/apply:os.system [ls]\n", "1:4", "tag"),
        ("a: ! b\n", "1:4", "tag"),
        ("a: 1\n---\nb: 2\n", "2:1", "second document"),
        ("a: 1\nb: 2\na: 3\n", "3:1", "duplicate key 'a', first in line 1"),
        ("x: {a: 1, 'a': 2}\n", "1:11", "duplicate key 'a'"),
        ("? [a]\n: b\n", "1:3", "a key must be plain text"),
        ("a:\n\tb: 1\n", "2:1", "tab"),
        ("a: 'x\n", "2:1", "end of stream"),
        ('a: "\\0"\n', "1:4", "NUL"),
        (b"a\x00b", "1:2", "NUL"),
        (b"\xff\xfea\x00", "1:1", "UTF-16"),
        (b"ok: 1\nb: \xff", "2:4", "not UTF-8"),
        ("a: \x1b[31m", "1:4", "control characters"),
    ],
)
def test_what_yaml_can_do_beyond_plain_values_is_refused_with_its_place(text: str | bytes, place: str, words: str) -> None:
    fault = read(text).faults[0]
    assert f"{fault.line}:{fault.column}" == place
    assert words in fault.message


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeff"])
def test_a_file_that_holds_nothing_has_no_fault_here(text: str) -> None:
    document = read(text)
    assert document.faults == ()
    assert document.root is None or isinstance(document.root, Scalar)


def test_an_alias_bomb_is_refused_at_its_first_anchor() -> None:
    bomb = "a: &a [x,x]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)},*{chr(97 + n)}]\n" for n in range(10))
    assert read(bomb).faults[0].line == 1


@pytest.mark.parametrize("text", ["[" * 50_000, "{a: " * 15_000, "- " * 30_000, "? " * 30_000, "[{" * 20_000])
def test_endless_nesting_ends_at_the_limit(text: str) -> None:
    assert "nested deeper than 32" in read(text).faults[-1].message


def test_depth_32_is_read_and_33_is_not() -> None:
    assert not read("[" * 31 + "]" * 31).faults
    assert not read("[" * 32 + "]" * 32).faults
    assert "deeper" in only_fault("[" * 33 + "]" * 33)


def test_the_limit_of_nodes() -> None:
    def listing(nodes: int) -> str:
        return "[" + "a," * (nodes - 1) + "]"

    assert not read(listing(1_999)).faults
    assert not read(listing(2_000)).faults
    assert "2,000 nodes" in only_fault(listing(2_001))


def test_the_limit_of_bytes() -> None:
    size = yaml.TASK.bytes
    assert not read("a: 1\n#".ljust(size - 1, "x")).faults
    assert not read("a: 1\n#".ljust(size, "x")).faults
    assert "larger than 64 KiB" in only_fault("a: 1\n#".ljust(size + 1, "x"))
    assert "larger than 64 KiB" in only_fault("a" * 10_000_000)


def test_faults_of_one_file_are_many_but_not_endless() -> None:
    document = read("a: 1\n" * 999)
    assert len(document.faults) == yaml.MAX_FAULTS


@given(st.binary(max_size=300))
def test_any_bytes_give_a_document(data: bytes) -> None:
    document = read(data)
    assert document.root is None or not document.faults


_SNIPPETS = st.lists(
    st.sampled_from(
        [
            "a",
            ": ",
            "\n",
            "  ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            ",",
            "&x",
            "*x",
            "!!",
            "'",
            '"',
            "|",
            ">",
            "#",
            "?",
            "---\n",
            "<<",
            "\t",
            "%",
            "\u2028",
            "é",
        ]
    ),
    max_size=60,
)


@given(_SNIPPETS.map("".join))
@example("[\u2028|")  # a line to YAML, none to us
def test_anything_that_looks_like_yaml_gives_a_document(text: str) -> None:
    document = read(text)
    assert document.root is None or not document.faults
    for fault in document.faults:
        assert fault.line >= 1 and fault.column >= 1
