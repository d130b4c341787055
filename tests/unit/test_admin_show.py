"""What people see: JSON shapes of SPEC 6, tables, times. Pure."""

from __future__ import annotations

import pytest

from dicode.admin import show
from dicode.messages.kinds import (
    Condition,
    ConfigSource,
    Daemon,
    Delivery,
    Event,
    Kind,
    Result,
    Route,
    Run,
    RunTrigger,
    Schedule,
    Source,
    Task,
    Worker,
)
from dicode.messages.task import TaskSpec, Trigger

NOW = 1_795_435_200_000  # 2026-11-23T12:00:00Z
DIGEST = "a1b2c3" + "0" * 58


def task(**more: object) -> Task:
    fields = {
        "id": "infra/backup",
        "source": "infra",
        "digest": DIGEST,
        "process": "f" * 64,
        "spec": TaskSpec(name="Backup", trigger=Trigger(cron="30 2 * * *")),
        "generation": 3,
        "sync": "Synced",
        "health": "Healthy",
        "registered_at": NOW - 200_000,
    }
    return Task(**(fields | more))  # type: ignore[arg-type]


def run(**more: object) -> Run:
    return Run(**({"id": "r1", "task": "backup", "trigger": RunTrigger(type="cron", key="1"), "created": NOW} | more))  # type: ignore[arg-type]


ONE_OF_EACH: list[tuple[str, Kind]] = [
    ("examples", Source(name="examples", spec=ConfigSource(name="examples", path="/x"))),
    ("infra/backup", task()),
    ("r1", run()),
    ("clock", Daemon(task="clock", state="running", pid=7)),
    ("backup", Schedule(task="backup", next=NOW)),
    ("hook", Route(task="hook", path="/hooks/x", url="http://127.0.0.1:8080/hooks/x", methods=("POST",))),
    ("worker-1", Worker(name="worker-1", pid=9, slots=8)),
    ("hook:1", Delivery(task="hook", id="1", at=NOW)),
    ("0000000000000001", Event(object="task/x", reason="Registered", message="as a1b2c3", at=NOW)),
]


def test_the_json_shapes_are_those_of_the_spec() -> None:
    keys = {type(value): list(show.shape(key, value)) for key, value in ONE_OF_EACH}
    assert keys[Task] == "id source digest process generation sync health suspended revision conditions".split()
    assert keys[Run] == "id task status digest attempt trigger created started finished exit_code result error".split()
    assert keys[Source][:6] == "name type revision dev status conditions".split()
    assert keys[Source][6:] == "suspended tasks path url ref commit synced resolutions".split()
    assert keys[Daemon] == "task pid digest process state restarts".split()
    assert keys[Schedule] == ["task", "next"]
    assert keys[Route] == ["task", "path", "url"]


def test_times_are_rfc_3339_in_utc_with_milliseconds_and_null_where_there_was_none() -> None:
    shape = show.shape("r1", run(started=NOW + 7))
    assert (shape["created"], shape["started"], shape["finished"]) == ("2026-11-23T12:00:00.000Z", "2026-11-23T12:00:00.007Z", None)


def test_a_condition_has_five_fields() -> None:
    shape = show.shape("x", task(conditions=(Condition("Ready", False, "BadSpec", "task.yaml:1:1: no", NOW),)))
    assert shape["conditions"] == [
        {"type": "Ready", "status": False, "reason": "BadSpec", "message": "task.yaml:1:1: no", "since": "2026-11-23T12:00:00.000Z"}
    ]


@pytest.mark.parametrize(("text", "value"), [('{"a": 1}', {"a": 1}), ("3", 3), ("", None), ("not json", "not json")])
def test_a_result_is_json_where_it_is_json(text: str, value: object) -> None:
    assert show.shape("r1", run(result=Result(value=text)))["result"] == value


@pytest.mark.parametrize(("key", "value"), ONE_OF_EACH, ids=[type(value).__name__ for _, value in ONE_OF_EACH])
@pytest.mark.parametrize("wide", [False, True])
def test_every_kind_has_a_table_as_wide_as_its_header(key: str, value: Kind, wide: bool) -> None:
    assert len(show.row(value, NOW, wide)) == len(show.header(type(value), wide))


def test_columns_are_aligned_and_empty_cells_show_a_dash() -> None:
    assert show.table(["ID", "STATE"], [["long-name", ""], ["x", "ok"]]) == "ID          STATE\nlong-name   -\nx           ok"


def test_nothing_a_terminal_would_obey_reaches_it() -> None:
    hostile = "a\x1b[31m\r\n\u202eb"
    assert show.table(["ID"], [[hostile]]) == "ID\na\\x1b[31m\\x0d\\x0a\\u202eb"
    assert "\x1b" not in show.fields([("Name", hostile)])
    assert show.for_terminal("a\tb\x07") == "a\tb\\x07"


def test_what_is_wrong_stands_in_the_last_column_and_what_is_well_does_not() -> None:
    well = (Condition("Ready", True, "Admitted"),)
    assert show.row(task(conditions=well), NOW, False)[-1] == ""
    broken = (Condition("Ready", False, "BadSpec"), Condition("NetOpen", True, "NetNotSet"), Condition("DuplicateId", True, "ClaimedTwice"))
    assert show.row(task(conditions=broken), NOW, False)[-1] == "BadSpec,DuplicateId", "an open network is a remark"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"),
        (350, "350ms"),
        (45_000, "45s"),
        (119_000, "119s"),
        (200_000, "3m20s"),
        (1_200_000, "20m"),
        (3_600_000, "1h"),
        (5_400_000, "1h30m"),
        (40_000_000, "11h"),
        (187_200_000, "2d4h"),
        (2_592_000_000, "30d"),
    ],
)
def test_spans_are_written_as_kubectl_does(ms: int, text: str) -> None:
    assert show.span(ms) == text


def test_a_time_that_never_was_shows_nothing() -> None:
    assert [show.age(0, NOW), show.until(0, NOW), show.local(0), show.took(run(), NOW)] == ["", "", "", ""]


@pytest.mark.parametrize(
    ("trigger", "text"),
    [
        (Trigger(cron="@daily"), "cron @daily"),
        (Trigger(webhook="/hooks/x"), "webhook /hooks/x"),
        (Trigger(daemon=True), "daemon"),
        (Trigger(manual=True), "manual"),
    ],
)
def test_a_trigger_is_told_in_one_word_and_what_it_says(trigger: Trigger, text: str) -> None:
    assert show.trigger_text(trigger) == text


def test_a_commit_is_shown_short_and_other_revisions_whole() -> None:
    assert show.short_revision("0123456789" * 4) == "0123456"
    assert show.short_revision("v1.2") == "v1.2"
