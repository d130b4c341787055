"""describe: a source as a person reads it, from what was live when to where the host must push."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicode.admin import describe, show
from dicode.admin.describe import push_hook, repositories_table, resolutions_table, revision_told, source_told
from dicode.admin.machine import is_ssh
from dicode.admin.place import Place
from dicode.messages.kinds import Commit, ConfigSource, Kind, Resolution, Source, Task
from dicode.process.settings import Settings

NOW = 1_795_435_200_000  # 2026-11-23T12:00:00Z
A, B, C = "a" * 40, "b" * 40, "c" * 40
LIB = "https://example.org/lib.git#branch=main"
COMMIT = Commit(B, "Ada <ada@example.org>", NOW - 180_000, "Fix the digest")


def infra(**more: object) -> Source:
    spec = ConfigSource(name="infra", type="git", url="https://me:s3cret@example.org/infra", branch="main", webhook_secret_env="PUSH_SECRET")
    return Source(**({"name": "infra", "type": "git", "spec": spec, "revision": B, "commit": COMMIT, "synced_at": NOW - 2_000} | more))  # type: ignore[arg-type]


class Held:
    """A store with these objects."""

    def __init__(self, **objects: Kind) -> None:
        self._objects = objects

    def get(self, kind: type[Kind], key: str) -> Kind | None:
        return self._objects.get(key)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(Settings(tmp_path, None))
    place.store = Held(infra=infra())  # type: ignore[assignment]
    return place


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_git_source_names_commit_author_time_and_subject(place: Place) -> None:
    head = dict(source_told(place, infra(), NOW)[0])
    assert (head["Revision"], head["Author"], head["Subject"], head["Ref"]) == (B, "Ada <ada@example.org>", "Fix the digest", "main")
    assert head["Committed"].endswith("(3m ago)") and head["Synced"].endswith("(2s ago)")
    assert (head["Poll"], head["Settle"]) == ("30s", "")


def test_no_password_of_a_url_is_ever_shown(place: Place) -> None:
    head, sections = source_told(place, infra(resolutions=(Resolution(NOW, {"": B, "https://u:s3cret@example.org/x#branch=main": A}),)), NOW)
    assert "s3cret" not in show.fields(head) + "".join(text for _, text in sections)
    assert "s3cret" not in show.as_json(show.shape("infra", infra())) + "".join(show.row(infra(), NOW, True))
    assert show.public_url("https://example.org/a@b:c") == "https://example.org/a@b:c"
    assert show.public_url("git@example.org:acme/x") == "git@example.org:acme/x"


def test_what_was_live_when_is_told_with_what_was_new_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "local", lambda ms: f"at:{ms}")
    made = (Resolution(30, {"": B, LIB: C}), Resolution(20, {"": B, LIB: A}), Resolution(10, {"": A, LIB: A, "gone": C}))
    source = infra(resolutions=made)
    assert lines(repositories_table(source)) == [["REPOSITORY", "COMMIT"], ["its", "own", "bbbbbbb"], [LIB, "ccccccc"]]
    told = lines(resolutions_table(source, NOW))
    assert [row[0] for row in told] == ["SINCE", "at:30", "at:20", "at:10"]
    assert [row[2:] for row in told[1:]] == [
        [LIB, "ccccccc"],
        ["bbbbbbb,", "without", "gone"],
        ["aaaaaaa,", "gone", "ccccccc,", LIB, "aaaaaaa"],
    ]
    in_dev = infra(resolutions=(Resolution(20, {LIB: A}), Resolution(10, {"": A, LIB: A})))
    assert [row[2:] for row in lines(resolutions_table(in_dev, NOW))[1:]] == [["a", "working", "copy"], ["aaaaaaa,", LIB, "aaaaaaa"]]
    assert resolutions_table(infra(), NOW) == "" and repositories_table(infra(resolutions=(Resolution(30, {"": B}),))) == ""


def test_the_push_hook_is_told_where_it_is_enabled(place: Place) -> None:
    assert push_hook(place, infra()) == "/hooks/git/infra (secret in PUSH_SECRET)"
    place.settings.run.mkdir()
    (place.settings.run / "hooks.addr").write_text("http://127.0.0.1:8080\n")
    assert push_hook(place, infra()).startswith("http://127.0.0.1:8080/hooks/git/infra ")
    assert push_hook(place, Source(name="x", spec=ConfigSource(name="x"))) == ""


def test_dev_mode_tells_the_way_back(place: Place) -> None:
    assert dict(source_told(place, infra(dev="branch:next"), NOW)[0])["Dev"] == "branch next (back: dicode source dev infra --disable)"


def test_a_task_names_the_commit_it_came_with_as_long_as_that_is_known(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe.show, "local", lambda ms: f"at {ms}")
    assert revision_told(place, Task(id="t", source="infra", revision=B)) == f"{B} (Fix the digest, Ada <ada@example.org>, at {COMMIT.at})"
    assert revision_told(place, Task(id="t", source="infra", revision=A)) == A
    assert revision_told(place, Task(id="t", source="elsewhere")) == ""


@pytest.mark.parametrize(
    ("url", "ssh"),
    [
        ("ssh://git@example.org/x", True),
        ("git@example.org:acme/x", True),
        ("https://git@example.org:8443/x", False),
        ("/srv/a@b:c.git", False),
        ("", False),
    ],
)
def test_doctor_knows_which_sources_need_ssh(url: str, ssh: bool) -> None:
    assert is_ssh(url) is ssh


def test_a_ref_that_is_no_branch_says_what_it_is() -> None:
    assert show.ref_text(ConfigSource(name="x", type="git", ref={"semver": "~1.2"})) == "semver ~1.2"
    assert show.ref_text(ConfigSource(name="x", type="git", ref={"branch": "next"}, branch="next")) == "next"
    assert show.ref_text(ConfigSource(name="x")) == ""
