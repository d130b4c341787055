"""What a daemon's next step is: every claim of DESIGN 7 that can be made without a process or a clock."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dicode.messages.kinds import Condition, Daemon, DaemonState, Task
from dicode.messages.task import TaskSpec, Trigger
from dicode.spec.condition import find
from dicode.supervisor.lifecycle import (
    BACKOFF_MAX,
    HEALTHY,
    LIVE,
    TABLE,
    Absent,
    Alive,
    Bury,
    Ended,
    Facts,
    Forget,
    Kill,
    Nothing,
    Prepare,
    Process,
    Relabel,
    Start,
    Stop,
    Trouble,
    Wait,
    backoff,
    next_step,
    page,
)

NOW = 1_800_000_000_000
A, B, C = "a" * 64, "b" * 64, "c" * 64


def task(digest: str = A, process: str = "p1", restart: str | None = None, **fields: object) -> Task:
    trigger = Trigger(daemon=True, restart=restart, stop_grace=5_000)  # type: ignore[arg-type]
    return Task(id="x", source="s", digest=digest, process=process, spec=TaskSpec(name="x", trigger=trigger), generation=1, **fields)  # type: ignore[arg-type]


def daemon(state: DaemonState = "running", **fields: object) -> Daemon:
    pid = 42 if state in LIVE else 0
    known: dict[str, object] = {"digest": A, "process": "p1", "bundle": A, "generation": 1, "pid": pid, "since": NOW - 1_000, "stop_grace": 5_000}
    return Daemon(task="x", state=state, **{**known, **fields})  # type: ignore[arg-type]


def step(of: Task | None, is_: Daemon | None, process: Process | None = None, now: int = NOW, **facts: object) -> object:
    seen = process or (Alive() if is_ is not None and is_.state in LIVE else Absent())
    return next_step(Facts("x", of, is_, seen, now, **facts))  # type: ignore[arg-type]


# --- what runs


def test_a_new_daemon_is_started_from_the_tasks_digest() -> None:
    started = step(task(), None)
    assert isinstance(started, Start)
    assert (started.daemon.digest, started.daemon.bundle, started.daemon.process, started.daemon.state) == (A, A, "p1", "starting")
    assert (started.daemon.restarts, started.daemon.stop_grace, started.daemon.stop_signal) == (0, 5_000, "SIGTERM")


def test_a_daemon_that_is_as_it_should_be_is_left_alone() -> None:
    assert step(task(), daemon()) == Nothing()


def test_the_same_process_digest_only_changes_the_label() -> None:
    relabelled = step(task(B, "p1"), daemon())
    assert isinstance(relabelled, Relabel)
    assert relabelled.daemon == replace(daemon(), digest=B)


def test_another_process_digest_is_made_ready_before_the_old_process_is_stopped() -> None:
    assert step(task(B, "p2"), daemon()) == Prepare(B)
    stopped = step(task(B, "p2"), daemon(), prepared=B)
    assert isinstance(stopped, Stop) and stopped.daemon.state == "stopping" and stopped.daemon.since == NOW


def test_what_was_made_ready_for_an_older_digest_does_not_count() -> None:
    assert step(task(C, "p3"), daemon(), prepared=B) == Prepare(C)


def test_the_new_process_waits_until_the_old_one_and_its_children_are_gone() -> None:
    stopping = daemon("stopping", since=NOW - 100)
    assert step(task(B, "p2"), stopping) == Wait(NOW - 100 + 5_000)
    assert isinstance(step(task(B, "p2"), stopping, Ended(leftovers=True)), Wait)
    buried = step(task(B, "p2"), stopping, Ended("exit code 0", clean=True))
    assert isinstance(buried, Bury) and buried.daemon.state == "stopped" and buried.daemon.pid == 0
    assert isinstance(step(task(B, "p2"), buried.daemon), Start)


def test_a_restart_is_carried_out_once() -> None:
    asked = task(restart_token="r")
    assert step(asked, daemon()) == Prepare(A)
    assert isinstance(step(asked, daemon(), prepared=A), Stop)
    started = step(asked, daemon("stopped"))
    assert isinstance(started, Start) and (started.daemon.restart_token, started.daemon.restarts) == ("r", 1)
    assert step(asked, replace(started.daemon, state="running")) == Nothing()


# --- what is to stop


@pytest.mark.parametrize("gone", [None, task(suspended=True), replace(task(), spec=TaskSpec(name="x", trigger=Trigger(manual=True)))])
def test_a_daemon_that_is_not_wanted_is_stopped(gone: Task | None) -> None:
    assert isinstance(step(gone, daemon()), Stop)


def test_a_removed_daemon_is_forgotten_when_its_process_is_gone() -> None:
    assert step(None, daemon("stopped")) == Forget()
    assert step(None, daemon("crash_loop")) == Forget()
    assert step(None, None) == Nothing()


def test_a_suspended_daemon_stays_stopped_and_keeps_its_label_current() -> None:
    assert step(task(suspended=True), daemon("stopped")) == Nothing()
    relabelled = step(task(B, "p2", suspended=True), daemon("stopped"))
    assert isinstance(relabelled, Relabel) and relabelled.daemon.digest == B


def test_a_daemon_that_does_not_go_in_its_grace_is_killed_with_all_that_came_of_it() -> None:
    stopping = daemon("stopping", since=NOW - 5_000)
    assert step(None, stopping) == Kill()
    assert step(None, stopping, Ended(leftovers=True)) == Kill()


def test_going_down_cuts_the_grace() -> None:
    stopping = daemon("stopping", since=NOW)
    assert step(task(), stopping, leave_by=NOW + 3_200) == Wait(NOW + 3_200)
    assert step(task(), stopping, now=NOW + 3_200, leave_by=NOW + 3_200) == Kill()
    assert step(task(), daemon("stopped"), leave_by=NOW + 3_200) == Nothing()
    assert step(None, daemon("stopped"), leave_by=NOW + 3_200) == Nothing(), "nothing is deleted on the way out"


# --- what ends by itself


@pytest.mark.parametrize(
    ("restart", "clean", "state"),
    [
        (None, True, "backoff"), (None, False, "backoff"), ("always", True, "backoff"),
        ("on-failure", True, "exited"), ("on-failure", False, "backoff"), ("never", True, "exited"), ("never", False, "exited"),
    ],
)  # fmt: skip
def test_the_restart_policy(restart: str | None, clean: bool, state: str) -> None:
    buried = step(task(restart=restart), daemon(), Ended("how", clean))
    assert isinstance(buried, Bury) and buried.daemon.state == state and buried.daemon.exit == "how"


def test_the_first_restart_is_immediate_and_the_next_ones_double() -> None:
    assert [backoff(failures) for failures in range(1, 6)] == [0, 200, 400, 800, 1_600]
    assert backoff(50) == backoff(5_000) == BACKOFF_MAX
    buried = step(task(), daemon(), Ended())
    assert isinstance(buried, Bury) and (buried.daemon.failures, buried.daemon.retry_at) == (1, NOW)
    again = step(task(), buried.daemon)
    assert isinstance(again, Start) and (again.daemon.restarts, again.daemon.failures) == (1, 1)


def test_five_failures_are_a_crash_loop_that_is_told_once_and_never_given_up() -> None:
    buried = step(task(), daemon(failures=4), Ended("exit code 3"))
    assert isinstance(buried, Bury) and buried.daemon.state == "crash_loop" and buried.said is not None
    condition = find(buried.daemon.conditions, "CrashLoop")
    assert condition is not None and condition.status and "exit code 3" in condition.message
    assert step(task(), buried.daemon) == Wait(buried.daemon.retry_at)
    again = step(task(), buried.daemon, now=buried.daemon.retry_at)
    assert isinstance(again, Start)
    ready = step(task(), replace(again.daemon, pid=7), Alive())
    assert isinstance(ready, Relabel) and ready.said is None, "a restart in a crash loop is no news"
    sixth = step(task(), ready.daemon, Ended("exit code 3"))
    assert isinstance(sixth, Bury) and sixth.said is None and sixth.daemon.failures == 6


def test_a_minute_without_an_exit_forgets_the_failures() -> None:
    looping = daemon(failures=7, conditions=(Condition("CrashLoop", True, "ExitsAgain"),))
    assert step(task(), looping) == Wait(looping.since + HEALTHY)
    healed = step(task(), looping, now=looping.since + HEALTHY)
    assert isinstance(healed, Relabel) and (healed.daemon.failures, healed.daemon.conditions) == (0, ())
    assert healed.said is not None and healed.said.reason == "Recovered"
    late = step(task(), daemon(failures=7), Ended(), now=NOW + HEALTHY)
    assert isinstance(late, Bury) and late.daemon.failures == 1


@pytest.mark.parametrize("state", ["backoff", "crash_loop", "failed", "exited"])
def test_new_code_is_started_at_once_and_starts_afresh(state: DaemonState) -> None:
    started = step(task(B, "p2"), daemon(state, failures=9, retry_at=NOW + 100_000, conditions=(Condition("CrashLoop", True, "ExitsAgain"),)))
    assert isinstance(started, Start) and (started.daemon.failures, started.daemon.restarts, started.daemon.conditions) == (0, 0, ())


@pytest.mark.parametrize("state", ["backoff", "crash_loop"])
def test_a_new_label_does_not_shorten_the_backoff(state: DaemonState) -> None:
    waiting = daemon(state, failures=9, retry_at=NOW + 100_000)
    relabelled = step(task(B, "p1"), waiting)
    assert isinstance(relabelled, Relabel) and relabelled.daemon == replace(waiting, digest=B)


def test_failures_are_forgotten_also_while_new_code_cannot_be_started() -> None:
    waiting = daemon(failures=1, failed=B, retry_at=NOW + 200_000)
    assert step(task(B, "p2"), waiting) == Wait(waiting.since + HEALTHY)
    healed = step(task(B, "p2"), waiting, now=waiting.since + HEALTHY)
    assert isinstance(healed, Relabel) and healed.daemon.failures == 0
    assert step(task(B, "p2"), healed.daemon, now=waiting.since + HEALTHY) == Wait(NOW + 200_000)


def test_children_left_by_a_crash_are_killed_before_the_next_start() -> None:
    assert step(task(), daemon(), Ended(leftovers=True)) == Kill()


def test_a_crash_beside_new_code_counts_for_nothing() -> None:
    buried = step(task(B, "p2"), daemon(failures=3), Ended())
    assert isinstance(buried, Bury) and (buried.daemon.state, buried.daemon.failures) == ("stopped", 0)


def test_a_clock_that_is_set_back_extends_no_wait_beyond_its_longest() -> None:
    assert step(None, daemon("stopping", since=NOW + 3_600_000)) == Kill()
    assert isinstance(step(task(), daemon("crash_loop", failures=9, retry_at=NOW + 3_600_000)), Start)


# --- what cannot be started


def test_new_code_that_cannot_be_started_leaves_the_old_process_running_and_says_why() -> None:
    refused = step(task(B, "p2"), daemon(), trouble=Trouble(B, "RuntimeMissing", "install deno"))
    assert isinstance(refused, Relabel) and (refused.daemon.state, refused.daemon.digest, refused.daemon.failed) == ("running", A, B)
    assert find(refused.daemon.conditions, "StartFailed") == Condition("StartFailed", True, "RuntimeMissing", "install deno", NOW, 1)
    assert step(task(B, "p2"), refused.daemon) == Wait(refused.daemon.retry_at)
    assert step(task(B, "p2"), refused.daemon, now=refused.daemon.retry_at) == Prepare(B)
    assert step(task(C, "p3"), refused.daemon) == Prepare(C), "another digest is tried at once"
    back = step(task(A, "p1"), refused.daemon)
    assert isinstance(back, Relabel) and (back.daemon.conditions, back.daemon.failed) == ((), "")


def test_what_cannot_be_started_is_tried_again_ever_more_slowly_and_told_once() -> None:
    trouble = Trouble(A, "SpawnFailed", "no such file")
    now, pauses, told = NOW, [], []
    at: Daemon | None = None
    for _ in range(14):
        refused = step(task(), at, now=now, trouble=trouble)
        assert isinstance(refused, Relabel) and refused.daemon.state == "failed"
        at = refused.daemon
        told.append(refused.said)
        pauses.append(at.retry_at - now)
        assert step(task(), at, now=now) == Wait(at.retry_at)
        now = at.retry_at
        assert isinstance(step(task(), at, now=now), Start)
    assert pauses[:5] == [1_000, 1_000, 2_000, 4_000, 8_000] and pauses[-1] == BACKOFF_MAX
    assert [said for said in told if said is not None] == told[:1]


def test_trouble_with_a_digest_that_is_wanted_no_more_is_no_trouble() -> None:
    assert step(task(), daemon(), trouble=Trouble(B, "X", "y")) == Nothing()


# --- the table


def test_every_state_has_its_row() -> None:
    assert set(TABLE) == set(get_args(DaemonState))


def test_the_diagram_in_the_docs_is_the_table() -> None:
    docs = Path(__file__).parents[2] / "docs" / "states" / "daemon.md"
    assert docs.read_text() == page(), "run: python -m dicode.supervisor.lifecycle > docs/states/daemon.md"


tasks = st.one_of(
    st.none(),
    st.builds(
        task,
        digest=st.sampled_from([A, B]),
        process=st.sampled_from(["p1", "p2"]),
        restart=st.sampled_from([None, "always", "on-failure", "never"]),
        suspended=st.booleans(),
        restart_token=st.sampled_from(["", "r"]),
    ),
    st.just(Task(id="x", source="s")),
    st.just(replace(task(), spec=TaskSpec(name="x", trigger=Trigger(manual=True)))),
)
times = st.sampled_from([0, NOW - HEALTHY, NOW - 1, NOW, NOW + 1, NOW + BACKOFF_MAX])
daemons = st.one_of(
    st.none(),
    st.builds(
        daemon,
        state=st.sampled_from(get_args(DaemonState)),
        digest=st.sampled_from(["", A, B]),
        failures=st.sampled_from([0, 1, 4, 5, 100]),
        retry_at=times,
        since=times,
        failed=st.sampled_from(["", A, B]),
        restart_token=st.sampled_from(["", "r"]),
    ),
)
processes = st.one_of(st.just(Absent()), st.just(Alive()), st.builds(Ended, st.just("how"), st.booleans(), st.booleans()))


@given(
    tasks,
    daemons,
    processes,
    st.sampled_from(["", A, B]),
    st.sampled_from([None, Trouble(A, "X", "y"), Trouble(B, "X", "y")]),
    st.sampled_from([None, NOW, NOW + 1]),
)
def test_there_is_a_step_for_whatever_the_facts_are_and_it_never_doubles_a_process(
    wanted: Task | None, is_: Daemon | None, seen: Process, prepared: str, trouble: Trouble | None, leave_by: int | None
) -> None:
    found = next_step(Facts("x", wanted, is_, seen, NOW, prepared, trouble, leave_by))
    match found:
        case Start():
            assert isinstance(seen, Absent) and wanted is not None and not wanted.suspended and leave_by is None
        case Stop():
            assert isinstance(seen, Alive)
        case Bury():
            assert found.daemon.pid == 0 and not isinstance(seen, Alive)
        case Forget():
            assert isinstance(seen, Absent)
        case Wait():
            assert found.until > NOW, "a wait that is over would be a busy loop"
        case _:
            pass
