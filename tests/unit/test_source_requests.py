"""What a person may ask of sources."""

from __future__ import annotations

import pytest

from dicode.messages.kinds import ConfigSource, Request, Source
from dicode.source.requests import Refusal, added, line_of, removable, target_of


def source(name: str, origin: str = "store", path: str = "/p") -> Source:
    return Source(name=name, spec=ConfigSource(name=name, path=path), origin=origin)  # type: ignore[arg-type]


def asked(verb: str, target: str, **args: object) -> Request:
    return Request(token="t", verb=verb, target=target, args=args)


def test_a_folder_can_be_added_and_asking_twice_changes_nothing() -> None:
    request = asked("source.add", "jobs", type="local", path="/jobs")
    spec = added(request, {})
    assert spec == ConfigSource(name="jobs", path="/jobs")
    assert added(request, {"jobs": Source(name="jobs", spec=spec, origin="store")}) == spec


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (asked("source.add", "bad name", path="/x"), "name"),
        (asked("source.add", "jobs", path="relative"), "absolute"),
        (asked("source.add", "jobs", path="/x", settle="soon"), "settle"),
        (asked("source.add", "taken", path="/x"), "already"),
        (asked("source.add", "jobs", path="/p"), "taken reads /p already"),
    ],
)
def test_what_cannot_be_added_is_refused_with_the_reason(request_: Request, word: str) -> None:
    with pytest.raises(Refusal, match=word):
        added(request_, {"taken": source("taken")})


def test_only_what_was_added_to_the_store_can_be_removed_here() -> None:
    sources = {"store": source("store"), "file": source("file", "file"), "up": source("up", "up")}
    assert removable(asked("source.remove", "store"), sources, "") is sources["store"]
    assert removable(asked("source.remove", "gone"), sources, "") is None
    with pytest.raises(Refusal, match="dicode.yaml:7"):
        removable(asked("source.remove", "file"), sources, "dicode.yaml:7")
    with pytest.raises(Refusal, match="dicode up"):
        removable(asked("source.remove", "up"), sources, "")


def test_an_unknown_source_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(Refusal, match="did you mean 'tasks'"):
        target_of(asked("source.sync", "taks"), {"tasks": source("tasks")})


def test_the_line_that_names_a_source_is_found() -> None:
    text = "sources:\n  - name: one\n    path: ./two\n  - {path: ./three, type: local}\n  - {name: 'four', path: ./five}\n"
    assert [line_of(name, "/etc/dicode.yaml", text) for name in ("one", "three", "four", "none")] == [
        "dicode.yaml:2",
        "dicode.yaml:4",
        "dicode.yaml:5",
        "dicode.yaml",
    ]
