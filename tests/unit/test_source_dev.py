"""Dev mode and plans: what may be asked, and where a source is read from then."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicode.messages.kinds import ConfigSource, Source
from dicode.source.dev import at_home, missing_place, wanted_dev
from dicode.source.plan import wanted_spec
from dicode.source.requests import Refusal

GIT = ConfigSource(name="infra", type="git", url="https://example.org/infra", branch="main", path="sets/prod")
LOCAL = ConfigSource(name="tasks", path="/src/tasks")
NO_PLACE = "/nowhere"


def source(spec: ConfigSource, dev: str = "") -> Source:
    return Source(name=spec.name, type=spec.type, spec=spec, dev=dev)


def test_dev_mode_is_one_place_or_one_branch_or_off() -> None:
    assert wanted_dev(source(GIT), {"local_path": "/home/ada//code/"}) == "/home/ada/code"
    assert wanted_dev(source(GIT), {"branch": "feature/x"}) == "branch:feature/x"
    assert wanted_dev(source(GIT, "/code"), {"disable": True}) == ""
    for args in ({}, {"local_path": "/a", "branch": "b"}, {"local_path": "relative"}, {"local_path": "/a\0b"}, {"branch": "a..b"}, {"branch": 7}):
        with pytest.raises(Refusal):
            wanted_dev(source(GIT), args)
    with pytest.raises(Refusal, match="has no branches"):
        wanted_dev(source(LOCAL), {"branch": "main"})


def test_a_branch_takes_the_place_of_any_ref() -> None:
    tagged = ConfigSource(name="infra", type="git", url="https://example.org/infra", ref={"tag": "v1"}, path="sets")
    spec = at_home(tagged, "branch:feature")
    assert (spec.type, spec.branch, spec.ref, spec.path) == ("git", "feature", None, "sets")
    assert at_home(tagged, "") is tagged


def test_in_a_working_copy_the_path_of_the_source_applies_below_it(tmp_path: Path) -> None:
    (tmp_path / "sets" / "prod").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    spec = at_home(GIT, str(tmp_path))
    assert (spec.type, spec.path, spec.root) == ("local", f"{tmp_path}/sets/prod", str(tmp_path))


def test_a_file_or_a_folder_with_nothing_but_a_set_is_the_entry_itself(tmp_path: Path) -> None:
    (tmp_path / "taskset.yaml").write_text("kind: TaskSet\n")
    assert at_home(GIT, str(tmp_path)).path == str(tmp_path)
    assert at_home(GIT, f"{tmp_path}/taskset.yaml").path == f"{tmp_path}/taskset.yaml"


def test_of_a_folder_in_a_work_tree_the_same_folder_in_the_copy_is_read(tmp_path: Path) -> None:
    for tree in ("one", "copy"):
        (tmp_path / tree / ".git").mkdir(parents=True)
        (tmp_path / tree / "infra").mkdir()
    spec = ConfigSource(name="infra", path=f"{tmp_path}/one/infra")
    assert at_home(spec, f"{tmp_path}/copy").path == f"{tmp_path}/copy/infra"
    (tmp_path / "plain").mkdir()
    assert at_home(ConfigSource(name="p", path=f"{tmp_path}/plain"), f"{tmp_path}/copy").path == f"{tmp_path}/copy"


def test_a_place_that_cannot_be_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    assert "clone the repository there" in missing_place(GIT, NO_PLACE)
    assert "holds neither sets/prod nor taskset.yaml" in missing_place(GIT, str(tmp_path))
    (tmp_path / "taskset.yaml").touch()
    assert missing_place(GIT, str(tmp_path)) == ""


def test_a_plan_is_of_a_path_a_branch_a_ref_or_of_what_is_read_now(tmp_path: Path) -> None:
    (tmp_path / "taskset.yaml").touch()
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert wanted_spec(source(GIT), {}) == GIT
    assert wanted_spec(source(GIT, str(tmp_path)), {}).path == str(tmp_path)
    assert wanted_spec(source(GIT), {"local_path": str(tmp_path)}).path == str(tmp_path)
    assert wanted_spec(source(GIT), {"branch": "x"}).branch == wanted_spec(source(GIT), {"ref": "x"}).branch == "x"
    assert wanted_spec(source(GIT), {"ref": commit}).ref == {"commit": commit}
    for args in ({"branch": "a..b"}, {"branch": "a", "ref": "b"}, {"local_path": NO_PLACE}, {"local_path": "."}):
        with pytest.raises(Refusal):
            wanted_spec(source(GIT), args)
    with pytest.raises(Refusal, match="plan a path"):
        wanted_spec(source(LOCAL), {"ref": "x"})
