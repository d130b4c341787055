"""What a worker decides: slots, timeouts, what an end means, and which answer is about which attempt."""

from __future__ import annotations

import pytest

from dicode.messages.commands import Held
from dicode.messages.kinds import Config, Run, RunTrigger
from dicode.messages.task import Docker, Runtime, TaskSpec, Trigger
from dicode.worker.decide import Ended, Returned, Verdict, judge, slots, timeout
from dicode.worker.state import Holdings

MANUAL = Trigger(manual=True)


def test_slots_are_configured_or_four_a_core() -> None:
    assert (slots(0, 2), slots(3, 2)) == (8, 3)


@pytest.mark.parametrize(
    ("written", "runtime", "default", "in_force"),
    [
        (None, "python", None, 60_000),
        (None, "python", 5_000, 5_000),
        (None, "python", 0, None),
        (2_000, "python", 5_000, 2_000),
        (0, "python", 5_000, None),
        (None, "docker", 5_000, None),
        (7_000, "docker", 5_000, 7_000),
    ],
)
def test_the_timeout_is_the_tasks_own_then_the_configured_then_a_minute(
    written: int | None, runtime: Runtime, default: int | None, in_force: int | None
) -> None:
    spec = TaskSpec(name="t", trigger=MANUAL, timeout=written, docker=Docker(image="x") if runtime == "docker" else None)
    assert timeout(spec, runtime, Config(default_timeout=default)) == in_force


@pytest.mark.parametrize(
    ("ended", "returned", "verdict"),
    [
        (Ended(0), Returned(), Verdict("succeeded", 0, "")),
        (Ended(0), Returned("[1]", b"2"), Verdict("succeeded", 0, "", "[1]")),
        (Ended(0), Returned("", b" 2 \n"), Verdict("succeeded", 0, "", "2")),
        (Ended(0), Returned("", b"\n"), Verdict("succeeded", 0, "")),
        (Ended(0), Returned("", b"9" * 9_000), Verdict("failed", 0, "the file $DICODE_RESULT has more than 8192 bytes")),
        (Ended(0), Returned("", b"9" * 8_000), Verdict("succeeded", 0, "", "9" * 8_000)),
        (Ended(3), Returned("[1]"), Verdict("failed", 3, "exit code 3")),
        (Ended(-11), Returned(), Verdict("failed", 139, "killed by SIGSEGV")),
        (Ended(-9, timed_out=True), Returned("[1]"), Verdict("timed_out", 124, "timed out after 1.5 s")),
        (Ended(None), Returned(), Verdict("failed", None, "its exit code could not be learned")),
    ],
)
def test_what_an_end_means(ended: Ended, returned: Returned, verdict: Verdict) -> None:
    assert judge(ended, returned, 1_500, 8_192) == verdict


@pytest.mark.parametrize("text", [b"nonsense", b"NaN", b'{"a": Infinity}', b"{", b"\xff", b"[" * 8_000])
def test_a_result_that_is_no_json_fails_the_run(text: bytes) -> None:
    assert judge(Ended(0), Returned("", text), None, 8_192).error.startswith("the file $DICODE_RESULT holds no JSON")


def test_an_answer_about_a_lost_attempt_does_not_touch_the_next_one() -> None:
    holdings = Holdings()
    run = Run(id="r", task="t", trigger=RunTrigger("manual"), fence=1)
    first = holdings.take(run)
    assert first is not None and holdings.take(run) is None  # a claim that was answered twice
    asked = holdings.held()
    second = holdings.take(Run(id="r", task="t", trigger=RunTrigger("manual"), fence=2))
    assert second is not None
    assert holdings.of(["r", "unknown"], asked) == []
    holdings.let_go(first)
    assert holdings.held() == (Held("r", 2),)
    assert holdings.of(["r"], holdings.held()) == [second]
