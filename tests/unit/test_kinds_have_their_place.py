"""Every kind stands in one place: a struct that says who writes it, a page that says the same, a row in the concepts, a folder of committed bytes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_args

import pytest

from dicode.messages.kinds import KINDS, AnyKind

HOME = Path(__file__).parents[2]
WRITER = re.compile(r"(?:Writer: |(Appended by (?:all|anyone)))([^.,]*)")
ROW = re.compile(r"^\| \[(\w+)\]\(kinds/(\w+)\.md\) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


def writer(name: str) -> str:
    found = WRITER.search(inspect.getdoc(KINDS[name]) or "")
    assert found is not None, f"{name} does not say who writes it"
    return "everybody" if found[1] else found[2].strip()


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_has_one_writer_and_its_page_and_the_concepts_say_the_same(name: str) -> None:
    page = (HOME / "docs" / "kinds" / f"{name.lower()}.md").read_text()
    assert page.startswith(f"# {name}\n")
    told = re.search(r"Written by: ([^.;]+)[.;]", page)
    assert told is not None and told[1] == writer(name)
    rows = {kind: (file, by.partition(";")[0].strip()) for kind, file, by in ROW.findall((HOME / "docs" / "concepts.md").read_text())}
    assert rows.keys() == KINDS.keys()
    assert rows[name] == (name.lower(), writer(name))


def test_there_is_no_page_of_a_kind_that_is_none_and_each_kind_can_be_met_on_the_wire() -> None:
    assert {path.stem for path in (HOME / "docs" / "kinds").glob("*.md")} == {name.lower() for name in KINDS}
    assert set(KINDS.values()) == set(get_args(AnyKind))
    assert {path.stem for path in (Path(__file__).parent / "wire-0.1").glob("*.msgpack")} >= KINDS.keys()
