"""dicode plan and dicode source: which source is meant, what is asked of it, and how the answer reads."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dicode.admin.errors import Usage
from dicode.admin.plan import Asked, asked_for, decoded, shape, summary, text
from dicode.admin.source import args_of, as_written, dev_args, reached
from dicode.messages.kinds import Commit, ConfigSource, Source
from dicode.messages.task import TaskSpec, Trigger
from dicode.spec.plan import Collision, Error, Fires, Offer, Offered, Plan, Updated

NOON = 1_795_435_200_000  # 2026-11-23T12:00:00Z
HEX = "a1b2c3d4" * 8


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Source]:
    """A folder in a work tree, another below it, and a repository."""
    (tmp_path / "work" / ".git").mkdir(parents=True)
    for folder in ("work/tasks/group", "work/lib", "work/tasks-more", "copy/deep", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    specs = [
        ConfigSource(name="tasks", path=f"{tmp_path}/work/tasks"),
        ConfigSource(name="group", path=f"{tmp_path}/work/tasks/group"),
        ConfigSource(name="infra", type="git", url="https://example.org/infra", branch="main", path="deep"),
    ]
    return {spec.name: Source(name=spec.name, type=spec.type, spec=spec) for spec in specs}


def test_a_name_means_the_source_and_a_ref_a_branch_of_it(sources: dict[str, Source], tmp_path: Path) -> None:
    assert asked_for(sources, "infra", None, None) == Asked(sources["infra"], {}, None, "infra")
    assert asked_for(sources, "infra", "next", None) == Asked(sources["infra"], {"branch": "next"}, None, "infra at next")
    assert asked_for(sources, "tasks", None, None).path == tmp_path / "work/tasks"


def test_a_path_means_the_innermost_source_it_lies_in(sources: dict[str, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_for(sources, f"{tmp_path}/work/tasks", None, None) == Asked(sources["tasks"], {}, tmp_path / "work/tasks", "tasks")
    assert asked_for(sources, f"{tmp_path}/work/tasks/group", None, None).source.name == "group"
    monkeypatch.chdir(tmp_path / "work")
    assert asked_for({"tasks": sources["tasks"]}, "tasks/group", None, None).source.name == "tasks"
    assert asked_for({"tasks": sources["tasks"]}, "./lib", None, None).source.name == "tasks", "its work tree counts"


def test_a_path_inside_of_no_source_needs_one_to_be_compared_with(sources: dict[str, Source], tmp_path: Path) -> None:
    copy = f"{tmp_path}/copy"
    with pytest.raises(Usage, match="lies in no source: say with --source NAME .*group, infra, tasks"):
        asked_for(sources, copy, None, None)
    asked = asked_for(sources, copy, None, "infra")
    assert asked.args == {"local_path": copy} and asked.path == tmp_path / "copy/deep", "its `path:` counts in the copy too"
    with pytest.raises(Usage, match="belongs to group, tasks: say which with --source"):
        asked_for(sources, f"{tmp_path}/work/tasks-more", None, None)


def test_a_source_in_dev_mode_is_where_its_working_copy_is(sources: dict[str, Source], tmp_path: Path) -> None:
    sources["infra"] = msgspec.structs.replace(sources["infra"], dev=f"{tmp_path}/copy")
    assert asked_for(sources, f"{tmp_path}/copy/deep", None, None) == Asked(sources["infra"], {}, tmp_path / "copy", "infra")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("infar", None, None), "no source 'infar', and nothing at this path, did you mean 'infra'?"),
        (("infar", "next", None), "no source 'infar', did you mean 'infra'?"),
        (("tasks", "next", None), "source tasks is a folder and has no refs: dicode plan PATH --source tasks"),
        ((".", None, "infar"), "no source 'infar', did you mean 'infra'?"),
        ((".", "next", "infra"), "keep one"),
        (("/nowhere/at/all", None, "infra"), "/nowhere/at/all: no such file or folder"),
    ],
)
def test_words_that_mean_nothing_are_refused_with_the_way_out(
    sources: dict[str, Source], words: tuple[str, str | None, str | None], said: str
) -> None:
    with pytest.raises(Usage) as refused:
        asked_for(sources, *words)
    assert said in str(refused.value)


# ── how it reads ──

PLAN = Plan(
    added=("infra/new",),
    removed=("infra/old",),
    updated=(Updated("infra/clock", HEX, "f" * 64),),
    restarted=("infra/clock",),
    collisions=(Collision("infra/hook", "path", ("other",), "webhook /hooks/x belongs to task other"),),
    errors=(Error("infra/bad", "/src/task.yaml", 3, 1, "unknown field 'tigger'"),),
    next={"infra/new": Fires((), (NOON,))},
)
ASKED = Asked(Source(name="infra", spec=ConfigSource(name="infra")), {"branch": "next"}, None, "infra at next")
OFFER = Offer((Offered("infra/new", spec=TaskSpec(name="new", trigger=Trigger(cron="0 12 * * *"))),), revision="c" * 40)


def test_a_plan_reads_like_this(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicode.admin.show.local", lambda ms: f"at {ms}")
    assert list(text(PLAN, ASKED, OFFER)) == [
        "infra at next (ccccccc), against what is registered:",
        f"  +  infra/new    cron 0 12 * * *  next at {NOON}",
        "  ~  infra/clock  a1b2c3 → ffffff  ↻ daemon restarts",
        "  -  infra/old",
        "  ! infra/hook: webhook /hooks/x belongs to task other",
        "  ✗ infra/bad: /src/task.yaml:3:1: unknown field 'tigger'",
        "1 to add, 1 to update, 1 to remove, 1 daemon restarts, 1 collision, 1 error",
    ]


def test_nothing_is_said_to_be_nothing_and_held_removals_to_wait() -> None:
    assert summary(Plan()) == "nothing would change"
    assert any("dicode source confirm infra" in line for line in text(Plan(removed=("infra/old",), held=True), ASKED, Offer()))


def test_the_json_is_that_of_the_spec() -> None:
    found = shape(PLAN, ASKED, OFFER)
    assert list(found)[:7] == "added removed updated restarted collisions errors next".split()
    assert list(found)[7:] == "started stopped held source revision".split()
    assert found["updated"] == [{"id": "infra/clock", "from": HEX, "to": "f" * 64}]
    assert found["errors"] == [{"id": "infra/bad", "file": "/src/task.yaml", "line": 3, "column": 1, "message": "unknown field 'tigger'"}]
    assert found["next"] == {"infra/new": {"before": [], "after": ["2026-11-23T12:00:00.000Z"]}}
    assert found["collisions"][0]["with"] == ["other"]


def test_an_offer_too_big_for_a_message_is_read_from_its_file_and_the_file_removed(tmp_path: Path) -> None:
    file = tmp_path / "offer.json"
    file.write_bytes(msgspec.json.encode(OFFER))
    assert decoded(msgspec.json.encode(Offer(file=str(file))).decode()) == OFFER
    assert not file.exists()


# ── dicode source ──


def test_a_source_is_added_as_dicode_yaml_would_have_it() -> None:
    options = {"branch": "next", "path": "taskset.yaml", "poll_interval": "1m", "auth": {"token_env": "TOKEN"}, "webhook_secret_env": "SECRET"}
    spec = as_written("infra", "https://example.org/infra", options)
    assert args_of(spec) == {
        "type": "git",
        "url": "https://example.org/infra",
        "branch": "next",
        "path": "taskset.yaml",
        "poll_interval": 60_000,
        "auth": {"token_env": "TOKEN"},
        "webhook_secret_env": "SECRET",
    }
    assert as_written("infra", "git@example.org:acme/infra.git", {}).branch == "main"
    assert msgspec.convert(args_of(spec) | {"name": "infra"}, ConfigSource, strict=True) == spec


@pytest.mark.parametrize(
    ("name", "place", "options", "said"),
    [
        ("in fra", "https://example.org/x", {}, "'in fra' cannot name a source"),
        ("x", "https://example.org/x", {"poll_interval": "soon"}, "poll_interval"),
        ("x", "https://example.org/x", {"auth": {"token_env": "not a name"}}, "must be the name of an environment variable"),
        ("x", "gopher://example.org/x", {}, "'url' must be like https://host/path"),
        ("x", "./tasks", {"branch": "main", "poll_interval": "1m"}, "--branch, --poll: only for git; ./tasks is a folder"),
    ],
)
def test_what_dicode_yaml_would_refuse_is_refused_in_its_words(name: str, place: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(Usage) as refused:
        as_written(name, place, options)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_dev_mode_is_asked_for_in_one_of_three_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path)
    assert dev_args("copy", None, False) == {"local_path": f"{tmp_path}/copy"}
    assert dev_args(None, "next", False) == {"branch": "next"}
    assert dev_args(None, None, True) == {"disable": True}
    for words in ((None, None, False), ("copy", "next", False), ("copy", None, True)):
        with pytest.raises(Usage, match="say one of --local-path P, --branch B, --disable"):
            dev_args(*words)
    with pytest.raises(Usage, match="nope: no such file or folder"):
        dev_args("nope", None, False)


def test_the_commit_that_was_reached_is_told_in_a_line() -> None:
    source = Source(name="infra", spec=ConfigSource(name="infra"), commit=Commit("abc1234" + "0" * 33, "Ada <ada@example.org>", 0, "Fix \x1b[31m it"))
    assert reached(source) == " at abc1234: Fix \\x1b[31m it (Ada)"
    assert reached(Source(name="x", spec=ConfigSource(name="x"))) == ""
