"""spec.runs: what becomes of a run, for every state and every end."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.support.store_desk import task

from dicode.messages.kinds import ENDED, Run, RunStatus, RunTrigger
from dicode.messages.task import Trigger
from dicode.spec import runs

STATUSES: tuple[RunStatus, ...] = get_args(RunStatus)
ENDS: tuple[RunStatus, ...] = tuple(runs.TOLD)
RUN = Run(id="r", task="a", trigger=RunTrigger(type="manual"))


def a_run(**fields: object) -> Run:
    return replace(RUN, **fields)


def test_the_same_fire_has_the_same_id_and_another_has_not() -> None:
    ids = {runs.run_id(*words) for words in (("a", "cron", "1"), ("a", "cron", "2"), ("a", "manual", "1"), ("acron", "", "1"))}
    assert len(ids) == 4 and runs.run_id("a", "cron", "1") in ids
    assert all(len(one) == 26 for one in ids)


@given(
    status=st.sampled_from(ENDS),
    attempt=st.integers(1, 6),
    attempts=st.integers(1, 6),
    cancel=st.booleans(),
)
def test_an_attempt_ends_in_an_end_or_in_the_next_attempt(status: RunStatus, attempt: int, attempts: int, cancel: bool) -> None:
    run = a_run(status="running", attempt=attempt, attempts=attempts, cancel=cancel, worker="w", fence=7, started=5)
    after = runs.ended(run, status, 1000)
    assert after.fence == 7
    if after.status == "queued":
        assert after.attempt == attempt + 1 <= attempts and not cancel and runs.TOLD[status] in runs.BAD
        assert after.due >= 1000 and after.worker == "" and not after.finished
    else:
        assert after.status in ENDED and after.finished == 1000 and after.attempt == attempt
        assert after.status == ("cancelled" if cancel and runs.TOLD[status] in runs.BAD else status)


@pytest.mark.parametrize(
    "attempt, expected",
    [(1, 100), (2, 200), (3, 400), (4, 450), (2000, 450)],
)
def test_backoff_grows_to_its_limit(attempt: int, expected: int) -> None:
    assert runs.backoff(a_run(attempt=attempt, backoff=100, multiplier=2.0, backoff_max=450)) == expected


@pytest.mark.parametrize("status", STATUSES)
def test_cancelling_twice_is_cancelling_once(status: RunStatus) -> None:
    once = runs.cancelled(a_run(status=status), "ann", 9)
    assert runs.cancelled(once, "bob", 10) is once
    assert (once.status, once.cancel) == {"queued": ("cancelled", True), "running": ("running", True)}.get(status, (status, False))


@pytest.mark.parametrize(
    "overlap, concurrency, expected",
    [("allow", 0, 0), ("allow", 3, 3), ("skip", 0, 1), ("queue", 0, 1), ("queue", 2, 2), ("replace", 0, 1)],
)
def test_slots(overlap: str, concurrency: int, expected: int) -> None:
    assert runs.slots(a_run(overlap=overlap, concurrency=concurrency)) == expected


def test_replace_makes_room_for_one_more_the_oldest_go_first() -> None:
    live = [runs.Live(f"r{number}", "running") for number in range(3)]
    verdict = runs.admitted(a_run(overlap="replace", concurrency=2), live, 0, 0)
    assert isinstance(verdict, runs.Admitted) and verdict.replaced == ("r0", "r1")


def test_a_full_queue_takes_a_run_that_replaces_a_waiting_one() -> None:
    live = [runs.Live("old", "queued")]
    assert isinstance(runs.admitted(a_run(), (), runs.WAITING_MAX, 0), runs.Declined)
    assert isinstance(runs.admitted(a_run(overlap="replace"), live, runs.WAITING_MAX, 0), runs.Admitted)


@pytest.mark.parametrize("trigger, recorded", [("cron", True), ("chain", True), ("webhook", False), ("manual", False), ("replay", False)])
def test_a_suspended_task_records_what_nobody_waits_for(trigger: str, recorded: bool) -> None:
    verdict = runs.filled(a_run(trigger=RunTrigger(type=trigger)), task("a", suspended=True), 5)  # type: ignore[arg-type]
    assert isinstance(verdict, runs.Declined) and verdict.reason == "suspended"
    assert (verdict.record is not None) is recorded
    if verdict.record is not None:
        assert (verdict.record.status, verdict.record.finished, verdict.record.digest) == ("skipped", 5, "d1")


def test_a_run_is_pinned_to_the_digest_and_the_set_that_are_registered_unless_it_names_its_own() -> None:
    registered = replace(task("a"), set_dir="/sets/new")
    fresh = runs.filled(a_run(digest=""), registered, 5)
    replayed = runs.filled(a_run(digest="d0", set_dir="/sets/old"), registered, 5)
    assert isinstance(fresh, Run) and (fresh.digest, fresh.set_dir) == ("d1", "/sets/new")
    assert isinstance(replayed, Run) and (replayed.digest, replayed.set_dir) == ("d0", "/sets/old")


def test_every_refusal_names_the_cure() -> None:
    refusals = [
        runs.filled(RUN, None, 0),
        runs.filled(RUN, replace(task("a"), digest=""), 0),
        runs.filled(RUN, task("a", trigger=Trigger(daemon=True)), 0),
        runs.filled(RUN, task("a", suspended=True), 0),
    ]
    for refusal in refusals:
        assert isinstance(refusal, runs.Declined) and "dicode " in refusal.message and "\n" not in refusal.message


def test_a_claim_of_a_retry_forgets_what_the_last_attempt_left() -> None:
    failed = runs.ended(a_run(status="running", attempts=2), "failed", 10, exit_code=3, error="boom")
    again = runs.started(failed, "w2", 9, 20)
    assert (again.status, again.exit_code, again.error, again.started, again.fence, again.worker) == ("running", None, "", 20, 9, "w2")


# --- the table


def test_every_status_has_its_row_or_is_an_end_and_can_be_reached() -> None:
    assert set(STATUSES) == set(runs.TABLE) | ENDED and not set(runs.TABLE) & ENDED
    assert {to for moves in (runs.BEGINS, *runs.TABLE.values()) for to in moves.values()} == set(STATUSES)
    assert {told: runs.TABLE["running"][cue] for told, cue in runs.TOLD.items()} == {told: told for told in runs.TOLD}


def test_the_diagram_of_a_run_in_the_docs_is_the_table() -> None:
    docs = Path(__file__).parents[2] / "docs" / "states" / "run.md"
    assert docs.read_text() == runs.page(), "run: python -m dicode.spec.runs > docs/states/run.md"
