"""Admission: facts of one id in, what to write out."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dicode.messages.fault import Fault
from dicode.messages.kinds import Condition, Daemon, DesiredTask, Request, Route, Schedule, Task
from dicode.messages.task import TaskSpec, Trigger
from dicode.reconciler.decide import Decision, Facts, carry_out, decide
from dicode.spec.admit import Actual, path_holder
from dicode.spec.claims import Claims, path_rivals, wanted_path

NOW = 1_800_000_000_000


def spec(**trigger: object) -> TaskSpec:
    return TaskSpec(name="T", trigger=Trigger(**(trigger or {"manual": True})))  # type: ignore[arg-type]


def desired(digest: str = "a" * 64, *, id: str = "t", source: str = "s", order: int = 0, **trigger: object) -> DesiredTask:
    return DesiredTask(id=id, source=source, digest=digest, process=digest, spec=spec(**trigger), runtime="python", order=order)


def broken(good: DesiredTask, message: str = "unknown field 'tigger'") -> DesiredTask:
    return msgspec.structs.replace(good, faults=(Fault("t/task.yaml", 3, 1, message),))


def facts(*claims: DesiredTask, present: Task | None = None, actual: Actual = Actual(), rivals: tuple[tuple[DesiredTask, bool], ...] = ()) -> Facts:
    return Facts(list(claims), present, actual, None, list(rivals))


def after(facts: Facts) -> Decision:
    decision = decide(facts.claims[0].id if facts.claims else "t", facts, not_built=lambda *_: (), now=NOW)
    assert decision is not None
    return decision


def admitted(claim: DesiredTask) -> Task:
    task = after(facts(claim)).task
    assert task is not None
    return task


def condition(task: Task | None, type: str) -> tuple[bool, str] | None:
    assert task is not None
    return next(((c.status, c.reason) for c in task.conditions if c.type == type), None)


def test_a_new_task_is_registered_once() -> None:
    decision = after(facts(desired()))
    assert decision.line == "task/t registered (hash: aaaaaa)"
    assert decision.task is not None and decision.task.generation == 1 and decision.task.sync == "Synced"
    assert decide("t", facts(desired(), present=decision.task), not_built=lambda *_: (), now=NOW + 5) is None


def test_a_new_digest_updates_and_is_remembered() -> None:
    decision = after(facts(msgspec.structs.replace(desired("b" * 64), seen_at=(NOW - 14) / 1000), present=admitted(desired())))
    assert decision.line == "task/t updated (hash: bbbbbb)  ← 14ms"
    assert decision.task is not None and decision.task.generation == 2
    assert decision.history is not None and decision.history.revisions[0].digest == "b" * 64


def test_a_broken_save_keeps_the_last_good_digest_and_says_where() -> None:
    present = admitted(desired())
    decision = after(facts(broken(desired()), present=present))
    assert decision.task is not None and decision.task.digest == present.digest and decision.task.generation == 1
    assert decision.line == "task/t kept at aaaaaa: t/task.yaml:3:1: unknown field 'tigger'"
    assert condition(decision.task, "Ready") == (False, "BadSpec") and decision.task.sync == "OutOfSync"
    again = decide("t", facts(broken(desired()), present=decision.task), not_built=lambda *_: (), now=NOW + 9)
    assert again is None, "the same fault is told once"


def test_a_task_that_was_never_good_is_visible() -> None:
    claim = broken(DesiredTask(id="t", source="s"))
    decision = after(facts(claim))
    assert decision.task is not None and decision.task.digest == "" and decision.task.health == "Missing"
    assert decision.line.startswith("task/t refused: t/task.yaml:3:1")


def test_what_no_source_has_is_unregistered() -> None:
    decision = after(facts(present=admitted(desired())))
    assert decision.task is None and decision.line == "task/t unregistered"


def test_the_holder_of_an_id_keeps_it_and_without_one_the_first_source_does() -> None:
    first, second = desired("a" * 64, source="one", order=0), desired("b" * 64, source="two", order=1)
    task = after(facts(second, first)).task
    assert task is not None and task.source == "one" and condition(task, "DuplicateId") == (True, "ClaimedTwice")
    held = admitted(second)
    assert decide("t", facts(first, second, present=held), not_built=lambda *_: (), now=NOW).task.source == "two"  # type: ignore[union-attr]
    inherited = after(facts(first, present=held))
    assert inherited.task is not None and inherited.task.source == "one" and inherited.task.digest == "a" * 64


def test_the_holder_of_a_webhook_path_keeps_it_and_the_other_keeps_its_last_digest() -> None:
    old, new = desired(id="old", webhook="/hooks/x", order=5), desired(id="new", webhook="/hooks/x")
    rivals = ((old, True), (new, False))
    refused = after(facts(new, rivals=rivals))
    assert condition(refused.task, "Ready") == (False, "PathTaken") and refused.task is not None and not refused.task.digest
    kept = after(facts(old, rivals=rivals))
    assert condition(kept.task, "Ready") == (True, "Admitted")


def test_another_set_dir_or_revision_is_taken_without_a_new_generation() -> None:
    present = admitted(desired())
    moved = msgspec.structs.replace(desired(), set_dir="/sets/abc", revision="c" * 40)
    decision = after(facts(moved, present=present))
    assert decision.task is not None and (decision.task.set_dir, decision.task.revision) == ("/sets/abc", "c" * 40)
    assert decision.task.generation == present.generation and decision.task.registered_at == present.registered_at
    assert (decision.line, decision.event, decision.history) == ("", None, None)


def test_the_history_says_which_commit_and_is_as_long_as_the_retention() -> None:
    history, present = None, None
    for number in range(5):
        claim = msgspec.structs.replace(desired(str(number) * 64), revision=str(number) * 40)
        decision = after(Facts([claim], present, Actual(), history, [], kept=3))
        history, present = decision.history, decision.task
    assert history is not None and [revision.revision[0] for revision in history.revisions] == ["4", "3", "2"]
    shortest = after(Facts([desired("f" * 64)], present, Actual(), history, [], kept=0)).history
    assert shortest is not None and [revision.digest[0] for revision in shortest.revisions] == ["f"], "what runs is always remembered"


def test_a_claim_that_does_not_count_keeps_no_path_from_others() -> None:
    claims = Claims()
    for key, claim in {
        "one/twice": desired(id="twice", source="one"),
        "two/twice": desired(id="twice", source="two", order=1, webhook="/hooks/x"),
        "two/wants": desired(id="wants", source="two", order=1, webhook="/hooks/x"),
    }.items():
        claims.take(key, claim)
    wants = claims.of("wants")[0]
    assert path_rivals(wants, claims, {}.get) == [(wants, False)]
    assert "wants" in claims.take("one/twice", None), "now the other claim counts, and with it the path it wants"
    assert path_holder(wants, path_rivals(wants, claims, {}.get)) == "twice"


def test_synced_is_measured_not_assumed() -> None:
    cron = desired(cron="* * * * *")
    assert admitted(cron).sync == "OutOfSync"
    with_schedule = Actual(schedule=Schedule(task="t", digest=cron.digest))
    synced = after(facts(cron, present=admitted(cron), actual=with_schedule))
    assert synced.task is not None and synced.task.sync == "Synced" and synced.task.health == "Healthy"
    hook = desired(webhook="/hooks/x")
    assert after(facts(hook, actual=Actual(route=Route(task="t", digest="c" * 64)))).task.sync == "OutOfSync"  # type: ignore[union-attr]


def test_a_daemon_is_synced_when_process_and_label_agree() -> None:
    claim = desired(daemon=True)
    running = Daemon(task="t", digest=claim.digest, process=claim.process, state="running")
    task = after(facts(claim, actual=Actual(daemon=running))).task
    assert task is not None and (task.sync, task.health) == ("Synced", "Healthy")
    relabelled = msgspec.structs.replace(running, process="0" * 64)
    task = after(facts(claim, actual=Actual(daemon=relabelled))).task
    assert task is not None and task.sync == "OutOfSync"


def test_requests_are_answered_and_doing_one_twice_changes_nothing() -> None:
    task = admitted(desired(daemon=True))
    request = Request(token="k", verb="task.suspend", target="t", who="me")
    suspended, answer = carry_out(request, task, ["t"], NOW)
    assert answer.ok and suspended is not None and suspended.suspended
    again, _ = carry_out(request, suspended, ["t"], NOW)
    assert again == suspended
    missing, answer = carry_out(msgspec.structs.replace(request, target="tt"), None, ["t"], NOW)
    assert missing is None and not answer.ok and "did you mean 't'" in answer.message


DESIRED = st.builds(
    lambda digest, id, source, path: desired(digest, id=id, source=source, **({"webhook": path} if path else {"manual": True})),
    st.sampled_from(["a" * 64, "b" * 64]),
    st.sampled_from(["t", "u"]),
    st.sampled_from(["one", "two"]),
    st.sampled_from(["", "/hooks/x", "/hooks/y"]),
)


@given(st.lists(st.tuples(st.sampled_from("kl"), st.none() | DESIRED)))
def test_the_index_of_claims_equals_a_look_at_all_of_them(steps: list[tuple[str, DesiredTask | None]]) -> None:
    claims, table = Claims(), dict[str, DesiredTask]()
    for key, value in steps:
        claims.take(key, value)
        table.pop(key, None) if value is None else table.__setitem__(key, value)
        for id in ("t", "u"):
            assert sorted(claims.of(id), key=repr) == sorted((d for d in table.values() if d.id == id), key=repr)
        for path in ("/hooks/x", "/hooks/y"):
            assert sorted(claims.rivals(path), key=repr) == sorted((d for d in table.values() if wanted_path(d) == path), key=repr)


@given(st.lists(DESIRED, min_size=1, max_size=3, unique_by=lambda d: d.source))
def test_doing_what_was_decided_leaves_nothing_to_do(claims: list[DesiredTask]) -> None:
    claims = [msgspec.structs.replace(claim, id="t") for claim in claims]
    first = after(facts(*claims))
    assert decide("t", facts(*claims, present=first.task), not_built=lambda *_: (), now=NOW + 1) is None


def test_a_daemon_that_ends_again_and_again_is_degraded_even_between_two_ends() -> None:
    claim = desired(daemon=True)
    looping = (Condition("CrashLoop", True, "ExitsAgain"),)
    daemon = Daemon(task="t", digest=claim.digest, process=claim.process, state="running", conditions=looping)
    task = after(facts(claim, actual=Actual(daemon=daemon))).task
    assert task is not None and task.health == "Degraded"
