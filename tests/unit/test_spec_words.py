"""Ids, durations, conditions, params, templates, and what readers see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.messages.kinds import Condition
from dicode.messages.task import EnvGrant, FsGrant, Param, Permissions, Retry, TaskSpec, Trigger
from dicode.spec import condition, duration
from dicode.spec.names import check_id, is_branch, is_segment
from dicode.spec.params import effective
from dicode.spec.template import expand, expand_spec
from dicode.spec.view import view

MANUAL = Trigger(manual=True)

# ── ids ──


@pytest.mark.parametrize("text", ["a", "A9._-", "0", "x" * 63])
def test_a_segment(text: str) -> None:
    assert is_segment(text)


@pytest.mark.parametrize("text", ["", ".", "..", ".a", "-a", "_a", "a b", "a/b", "é", "a\n", "x" * 64, "a\u202e", "😀"])
def test_no_segment(text: str) -> None:
    assert not is_segment(text)
    assert check_id(f"group/{text}" if "/" not in text else "group//b") is not None


def test_an_id_has_at_most_16_segments() -> None:
    assert check_id("/".join("a" * 15)) is None
    assert check_id("/".join("a" * 16)) is None
    assert "17 segments" in (check_id("/".join("a" * 17)) or "")


# ── durations ──


@pytest.mark.parametrize(
    ("written", "millis"),
    [
        ("30s", 30_000),
        ("1m30s", 90_000),
        ("500ms", 500),
        ("2d", 172_800_000),
        ("0", 0),
        ("0s", 0),
        ("720h", 2_592_000_000),
        ("1.5h", 5_400_000),
        ("0.001s", 1),
    ],
)
def test_a_duration_in_milliseconds(written: str, millis: int) -> None:
    assert duration.parse(written) == millis


@pytest.mark.parametrize(
    "written",
    ["", "30", "s", "-1s", "1 s", " 1s", "1s ", "1S", "1µs", "1w", "PT5M", "1e3s", "٣s", "1.s", ".5s", "0.0001s", "0x1s", "nan", "1s\n", "9999d"],
)
def test_no_duration(written: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        duration.parse(written)


@given(st.integers(0, duration.LONGEST))
def test_what_is_written_is_read_back(millis: int) -> None:
    assert duration.parse(duration.text(millis)) == millis


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_a_reason(written: str) -> None:
    try:
        assert 0 <= duration.parse(written) <= duration.LONGEST
    except ValueError as error:
        assert "duration" in str(error)


# ── conditions ──

READY = Condition("Ready", True, "Admitted", "as abc")


def test_since_is_when_the_status_last_changed() -> None:
    first = condition.carried((), [READY], generation=1, now=100)
    assert first == (Condition("Ready", True, "Admitted", "as abc", since=100, observed_generation=1),)
    again = condition.carried(first, [Condition("Ready", True, "Admitted", "as def")], generation=2, now=200)
    assert (again[0].since, again[0].observed_generation, again[0].message) == (100, 2, "as def")
    broken = condition.carried(again, [Condition("Ready", False, "BadSpec")], generation=2, now=300)
    assert broken[0].since == 300


def test_a_condition_that_is_not_found_again_is_gone() -> None:
    before = condition.carried((), [READY, Condition("NetOpen", True, "NetNotSet")], 1, 100)
    assert [each.type for each in condition.carried(before, [READY], 1, 200)] == ["Ready"]


def test_setting_and_clearing_one_leaves_the_others() -> None:
    before = condition.carried((), [READY, Condition("Suspended", True, "Asked")], 1, 100)
    set_again = condition.put(before, Condition("Suspended", True, "Asked", "again"), 200)
    assert [(each.type, each.since) for each in set_again] == [("Ready", 100), ("Suspended", 100)]
    assert condition.clear(set_again, "Suspended") == before[:1]
    assert condition.find(set_again, "Suspended") == set_again[1]
    assert [each.type for each in condition.put((), READY, 5)] == ["Ready"]


# ── params ──

SPEC = TaskSpec(
    name="T",
    trigger=MANUAL,
    params=(
        Param(name="text"),
        Param(name="channel", default="#ops"),
        Param(name="limit", type="number", default="10"),
        Param(name="loud", type="boolean"),
        Param(name="when", type="cron"),
    ),
)


def test_defaults_stand_below_what_is_given() -> None:
    assert effective(SPEC, {}) == {"channel": "#ops", "limit": "10"}
    assert effective(SPEC, {"channel": "#dev", "limit": 5, "loud": True, "text": "007", "when": "@daily"}) == {
        "text": "007", "channel": "#dev", "limit": "5", "loud": "true", "when": "@daily",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"chanel": "x"}, "'chanel' is not declared, did you mean 'channel'?"),
        ({"zzz": "x"}, "'zzz' is not declared; known are text, channel"),
        ({"limit": "ten"}, "'limit' must be a number, not 'ten'"),
        ({"limit": "1_000"}, "must be a number"),
        ({"limit": "nan"}, "must be a number"),
        ({"loud": "yes"}, "'loud' must be true or false, not 'yes'"),
        ({"when": "99 * * * *"}, "minute"),
        ({"text": ["x"]}, "must be text, a number or a boolean"),
        ({"text": "a\0b"}, "NUL"),
        ({"text": "x" * 70_000}, "send it as input"),
    ],
)
def test_a_bad_param_is_refused_by_name(given: dict[str, object], words: str) -> None:
    wrong = effective(SPEC, given)
    assert isinstance(wrong, tuple)
    assert len(wrong) == 1
    assert words in wrong[0]


def test_a_required_param_must_have_a_value() -> None:
    spec = TaskSpec(name="T", trigger=MANUAL, params=(Param(name="a", required=True), Param(name="b", required=True, default="x")))
    assert effective(spec, {}) == ("param 'a' is required",)
    assert effective(spec, {"a": ""}) == ("param 'a' is required",)
    assert effective(spec, {"a": "1"}) == {"a": "1", "b": "x"}


def test_everything_wrong_is_said_at_once() -> None:
    wrong = effective(SPEC, {"x": 1, "limit": "no", "loud": "no"})
    assert isinstance(wrong, tuple) and len(wrong) == 3


def test_a_task_without_params_takes_none() -> None:
    assert effective(TaskSpec(name="T", trigger=MANUAL), {"a": 1}) == ("param 'a' is not declared; the task has no params",)


# ── templates ──


def test_a_variable_is_replaced_and_an_unknown_one_is_named() -> None:
    assert expand("${A}/x/${B}${A}", {"A": "1"}) == ("1/x/${B}1", ("B",))
    assert expand("$A ${} ${a-b} ${1}", {"A": "1"}) == ("$A ${} ${a-b} ${1}", ())


def test_what_was_put_in_is_not_expanded_again() -> None:
    assert expand("${A}", {"A": "${B}", "B": "secret"}).text == "${B}"


def test_host_variables_stand_only_where_they_may() -> None:
    spec = TaskSpec(
        name="${H}",
        trigger=Trigger(webhook="/hooks/x", webhook_secret="${H}"),
        params=(Param(name="p", default="${TASK_DIR}:${H}"),),
        permissions=Permissions(env=(EnvGrant(name="A", value="${H}", from_="${H}", secret="${H}"),), fs=(FsGrant(path="${H}/${TASK_DIR}"),), net=()),
    )
    found = expand_spec(spec, {"TASK_DIR": "/t"}, {"H": "host", "TASK_DIR": "/wrong"})
    assert found.spec == TaskSpec(
        name="${H}",
        trigger=Trigger(webhook="/hooks/x", webhook_secret="host"),
        params=(Param(name="p", default="/t:${H}"),),
        permissions=Permissions(env=(EnvGrant(name="A", value="${H}", from_="host", secret="host"),), fs=(FsGrant(path="host//t"),), net=()),
    )
    assert {(use.place.field, use.variable) for use in found.unknown} == {("params[p].default", "H"), ("permissions.env[A].value", "H")}


def test_a_spec_without_variables_is_the_same_spec() -> None:
    assert expand_spec(SPEC, {}, {}) == (SPEC, ())


# ── what readers see ──


def test_durations_are_seconds_and_defaults_are_filled_in() -> None:
    spec = TaskSpec(name="T", trigger=Trigger(daemon=True, stop_grace=1500, min_ready=0), retry=Retry(backoff=2000, multiplier=1.5))
    assert view(spec, "python") == {
        "name": "T",
        "trigger": {"daemon": True, "stop_grace": 1.5, "min_ready": 0},
        "retry": {"backoff": 2, "multiplier": 1.5},
        "runtime": "python",
        "timeout": None,
    }
    assert view(TaskSpec(name="T", trigger=MANUAL), "shell")["timeout"] == 60
    assert view(TaskSpec(name="T", trigger=MANUAL, timeout=0), "shell")["timeout"] is None
    assert view(TaskSpec(name="T", trigger=MANUAL), "docker")["timeout"] is None


def test_fields_are_called_as_in_task_yaml() -> None:
    spec = TaskSpec(name="T", trigger=MANUAL, permissions=Permissions(env=(EnvGrant(name="A", from_="B"),), net=(), dicode={"tasks": ("a",)}))
    assert view(spec, "shell")["permissions"] == {"env": [{"name": "A", "from": "B"}], "net": [], "dicode": {"tasks": ["a"]}}


@pytest.mark.parametrize("name", ["main", "feature/x", "v1.2", "a@b", "ünïcode"])
def test_what_git_takes_for_a_branch_is_one(name: str) -> None:
    assert is_branch(name)


@pytest.mark.parametrize(
    "name", ["", "-x", "a..b", "x.lock", "a b", "@", "/a", "a/", "a//b", ".a", "a/.b", "a.", "a~1", "a:b", "a@{1}", "a\\b", "a\n", "x" * 251]
)
def test_what_git_does_not_take_is_none(name: str) -> None:
    assert not is_branch(name)
