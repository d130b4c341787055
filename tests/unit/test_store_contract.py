"""What any engine of the store must do, asked through the commands themselves. A new database is one more entry in ENGINES."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.store_desk import Desk, put, run, task

from dicode.messages.commands import (
    Acquire,
    Append,
    Cancel,
    Claim,
    Claimed,
    Conflict,
    Delete,
    Enqueue,
    Enqueued,
    Failed,
    Finish,
    Finished,
    Found,
    Get,
    Held,
    Leased,
    List,
    Listing,
    Ping,
    Pong,
    Put,
    Refused,
    Release,
    Renew,
    Renewed,
    Write,
    Written,
)
from dicode.messages.kinds import Answer, Config, ConfigSource, Delivery, Event, History, Request, Result, Run, RunTrigger, Source, Task
from dicode.messages.task import Retry, Trigger
from dicode.spec.runs import WAITING_MAX, run_id
from dicode.store.engine import MAX_OBJECT, MAX_RUN, TOMBSTONES, Engine, Moment
from dicode.store.service import Asked
from dicode.store.sqlite import Sqlite
from dicode.wire.frames import MAX_FRAME, encode

ENGINES: dict[str, Callable[[Path, Moment], Engine]] = {"sqlite": lambda folder, at: Sqlite(folder / "store.db", at)}
CRON = RunTrigger(type="cron", key="1")


@pytest.fixture(params=ENGINES)
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    return Desk(lambda at: ENGINES[request.param](tmp_path, at))


def source(name: str = "s", **fields: object) -> Source:
    return Source(name=name, spec=ConfigSource(name=name), **fields)  # type: ignore[arg-type]


class TestWrite:
    def test_what_is_put_is_found(self, desk: Desk) -> None:
        rev = desk.put(task("a"), "a")
        assert desk.ask(Get(what="Task", key="a"), Found) == Found(rev=rev, body=encode(task("a")))

    def test_what_is_not_there_has_rev_0(self, desk: Desk) -> None:
        assert desk.ask(Get(what="Task", key="a"), Found) == Found()

    def test_revs_grow_over_all_kinds(self, desk: Desk) -> None:
        revs = [desk.put(task("a"), "a"), desk.put(source(), "s"), desk.put(task("b"), "b")]
        assert revs == sorted(set(revs))

    def test_the_same_body_again_gets_no_new_rev_and_is_not_told(self, desk: Desk) -> None:
        rev = desk.put(task("a"), "a")
        desk.news.clear()
        assert desk.put(task("a"), "a") == rev
        assert desk.news == []

    def test_a_writer_that_expects_another_rev_is_told_the_present_one(self, desk: Desk) -> None:
        rev = desk.put(task("a"), "a")
        assert desk.batch(Write(ops=(put(task("a", digest="d2"), "a", expect=rev - 1),))) == [Conflict(what="Task", key="a", rev=rev)]

    def test_expecting_0_means_it_must_not_exist(self, desk: Desk) -> None:
        desk.put(task("a"), "a", expect=0)
        assert isinstance(desk.batch(Write(ops=(put(task("a", digest="d2"), "a", expect=0),)))[0], Conflict)

    def test_after_a_delete_it_does_not_exist(self, desk: Desk) -> None:
        rev = desk.put(task("a"), "a")
        gone = desk.ask(Write(ops=(Delete("Task", "a", expect=rev),)), Written).revs[0]
        assert gone > rev
        assert desk.ask(Get(what="Task", key="a"), Found) == Found()
        assert desk.put(task("a"), "a", expect=0) > gone

    def test_deleting_what_is_not_there_changes_nothing(self, desk: Desk) -> None:
        assert desk.ask(Write(ops=(Delete("Task", "a"),)), Written) == Written(revs=(0,))
        assert desk.news == []

    def test_a_conflict_in_the_last_write_undoes_the_first(self, desk: Desk) -> None:
        desk.put(task("b"), "b")
        desk.batch(Write(ops=(put(task("a"), "a"), put(task("b", digest="d2"), "b", expect=1))))
        assert desk.ask(Get(what="Task", key="a"), Found) == Found()

    def test_one_write_may_touch_a_key_twice(self, desk: Desk) -> None:
        revs = desk.ask(Write(ops=(put(task("a"), "a"), Delete("Task", "a"), put(task("a"), "a"))), Written).revs
        assert len(set(revs)) == 3
        assert desk.ask(Get(what="Task", key="a"), Found).rev == revs[2]

    def test_appended_keys_are_their_revs_and_sort_in_order(self, desk: Desk) -> None:
        event = encode(Event(object="task/a", reason="Registered", message="m", at=1))
        revs = desk.ask(Write(ops=(Append("Event", event), Append("Event", event))), Written).revs
        assert [(change.key, change.rev) for change in desk.list("Event").changes] == [(f"{rev:016d}", rev) for rev in revs]

    @pytest.mark.parametrize("size, ok", [(MAX_OBJECT - 1, True), (MAX_OBJECT, True), (MAX_OBJECT + 1, False)])
    def test_an_object_may_just_fill_a_frame(self, desk: Desk, size: int, ok: bool) -> None:
        answer = desk.batch(Write(ops=(Put("Task", "a", b"x" * size),)))[0]
        assert isinstance(answer, Written if ok else Failed)
        if ok:
            listing = desk.ask(List(what="Task"), Listing)
            assert len(encode(listing)) <= MAX_FRAME

    @pytest.mark.parametrize(
        "op", [Put("Run", "r", b"x"), Delete("Run", "r"), Append("Run", b"x"), Put("", "k", b""), Put("a/b", "k", b""), Put("Task", "", b"")]
    )
    def test_what_is_nobodys_to_write_is_refused_for_good(self, desk: Desk, op: Put | Delete | Append) -> None:
        answer = desk.batch(Write(ops=(op,)))[0]
        assert isinstance(answer, Failed) and not answer.retry

    def test_a_failing_command_does_not_disturb_its_neighbours(self, desk: Desk) -> None:
        before, bad, after = desk.batch(
            Write(ops=(put(task("a"), "a"),)),
            Write(ops=(put(task("b"), "b"), Put("Run", "r", b"x"))),
            Write(ops=(put(task("c"), "c"),)),
        )
        assert isinstance(before, Written) and isinstance(bad, Failed) and isinstance(after, Written)
        assert [change.key for change in desk.list("Task").changes] == ["a", "c"]
        assert [change.key for change in desk.news] == ["a", "c"]


class TestList:
    def test_everything_comes_oldest_change_first(self, desk: Desk) -> None:
        for name in ("a", "b", "a2", "a"):
            desk.put(task(name, digest=str(desk.engine.head())), name)
        listing = desk.list("Task")
        assert [change.key for change in listing.changes] == ["b", "a2", "a"]
        assert listing.full and listing.head == desk.engine.head() and listing.epoch == "epoch 1"

    def test_only_what_changed_since(self, desk: Desk) -> None:
        desk.put(task("a"), "a")
        since = desk.put(task("b"), "b")
        desk.put(task("c"), "c")
        listing = desk.list("Task", since)
        assert [change.key for change in listing.changes] == ["c"] and not listing.full

    def test_deletions_are_told_to_who_has_seen_it_and_not_to_a_newcomer(self, desk: Desk) -> None:
        since = desk.put(task("a"), "a")
        desk.batch(Write(ops=(Delete("Task", "a"),)))
        assert [(change.key, change.body) for change in desk.list("Task", since).changes] == [("a", None)]
        assert desk.list("Task").changes == ()

    def test_a_rev_from_the_future_is_answered_in_full(self, desk: Desk) -> None:
        desk.put(task("a"), "a")
        listing = desk.list("Task", desk.engine.head() + 5)
        assert listing.full and [change.key for change in listing.changes] == ["a"]

    def test_a_rev_older_than_the_kept_deletions_is_answered_in_full(self, desk: Desk) -> None:
        old = desk.put(task("a"), "a")
        desk.put(task("b"), "b")
        desk.batch(Write(ops=(Delete("Task", "b"),)))
        deleted = desk.engine.head()
        desk.wait(TOMBSTONES + 1)
        desk.tidy()
        assert desk.list("Task", old).full
        assert not desk.list("Task", deleted).full
        assert [change.key for change in desk.list("Task", old).changes] == ["a"]
        desk.restart()
        assert desk.list("Task", old).full

    def test_a_listing_comes_in_frames_and_is_complete(self, desk: Desk) -> None:
        for number in range(30):
            desk.batch(Write(ops=(Put("Task", f"t{number}", bytes(100_000)),)))
        first = desk.ask(List(what="Task"), Listing)
        assert first.more and len(encode(first)) <= MAX_FRAME
        assert [change.key for change in desk.list("Task").changes] == [f"t{number}" for number in range(30)]

    @pytest.mark.parametrize("since_nothing", [True, False])
    def test_what_changes_between_two_pages_comes_on_a_later_one(self, desk: Desk, since_nothing: bool) -> None:
        since = 0 if since_nothing else desk.engine.head()
        for number in range(20):
            desk.batch(Write(ops=(Put("Task", f"t{number}", bytes(100_000)),)))
        page = desk.ask(List(what="Task", since=since), Listing)
        seen = {change.key: change.body for change in page.changes}
        assert page.more and "t0" in seen and "t19" not in seen
        desk.batch(Write(ops=(Delete("Task", "t0"), Put("Task", "t19", b"new"))))
        while page.more:
            page = desk.ask(List(what="Task", since=since, after=page.changes[-1].rev, until=page.head), Listing)
            seen |= {change.key: change.body for change in page.changes}
        assert seen["t0"] is None and seen["t19"] == b"new" and len(seen) == 20
        assert page.head == desk.engine.head()

    def test_runs_are_listed_like_everything_else(self, desk: Desk) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        since = desk.engine.head()
        desk.enqueue(run("r2"))
        desk.claim("t", n=1)
        assert [change.key for change in desk.list("Run").changes] == ["r2", "r1"]
        assert {change.key for change in desk.list("Run", since).changes} == {"r1", "r2"}


class TestNews:
    def test_each_change_names_the_one_before_it_of_its_kind(self, desk: Desk) -> None:
        desk.put(task("a"), "a")
        desk.put(source(), "s")
        desk.put(task("b"), "b")
        desk.batch(Write(ops=(Delete("Task", "a"),)))
        tasks = [change for change in desk.news if change.kind == "Task"]
        assert [change.prev for change in tasks] == [0, tasks[0].rev, tasks[1].rev]
        assert tasks[2].body is None
        assert dict(desk.engine.heads()) == {"Task": tasks[2].rev, "Source": desk.news[1].rev}

    def test_heads_and_revs_go_on_after_a_restart(self, desk: Desk) -> None:
        desk.put(task("a"), "a")
        desk.register("b")
        desk.enqueue(run("r1", task="b"))
        heads = dict(desk.engine.heads())
        desk.restart()
        assert dict(desk.engine.heads()) == heads
        rev = desk.put(task("c"), "c")
        assert rev > max(heads.values()) and desk.news[-1].prev == heads["Task"]

    def test_the_cause_travels_with_the_change(self, desk: Desk) -> None:
        desk.batch(Write(ops=(Put("Task", "a", encode(task("a")), cause="save 7"),)))
        assert desk.news[0].cause == "save 7" and desk.list("Task").changes[0].cause == "save 7"

    def test_a_store_that_started_over_gives_no_rev_twice(self, tmp_path: Path) -> None:
        """After a lost or restored database a mirror must not take new revs for ones it has seen."""
        folder = tmp_path / "first"
        folder.mkdir()
        desk = Desk(lambda at: Sqlite(folder / "store.db", at))
        for number in range(50):
            desk.put(task("a", digest=str(number)), "a")
        seen = desk.engine.head()
        desk.engine.close()
        (folder / "store.db").unlink()
        desk.wait(1000)
        desk.restart()
        assert desk.put(task("b"), "b") > seen
        assert desk.list("Task", seen).full


class TestOnce:
    def test_a_repeated_request_is_done_once(self, desk: Desk) -> None:
        event = Append("Event", encode(Event(object="task/a", reason="r", message="m", at=1)))
        asked = Asked(b"1", Write(ops=(event,)))
        first = desk.send([asked])
        assert desk.send([asked]) == first
        assert desk.send([asked, asked]) == [*first, *first]
        assert len(desk.list("Event").changes) == 1

    def test_twice_in_one_batch_is_once_too(self, desk: Desk) -> None:
        asked = Asked(b"1", Write(ops=(Append("Event", encode(Event(object="o", reason="r", message="m", at=1))),)))
        first, second = desk.send([asked, asked])
        assert first == second and len(desk.list("Event").changes) == 1

    def test_answers_are_forgotten_after_ten_minutes(self, desk: Desk) -> None:
        asked = Asked(b"1", Write(ops=(Append("Event", encode(Event(object="o", reason="r", message="m", at=1))),)))
        desk.send([asked])
        desk.wait(601_000)
        desk.send([asked])
        assert len(desk.list("Event").changes) == 2

    def test_ping_tells_epoch_and_head(self, desk: Desk) -> None:
        rev = desk.put(task("a"), "a")
        assert desk.ask(Ping(), Pong) == Pong(epoch="epoch 1", head=rev)


class TestEnqueue:
    def test_a_run_is_pinned_to_the_registered_task(self, desk: Desk) -> None:
        retry = Retry(attempts=2, backoff=100, multiplier=3.0, max=500)
        desk.register("a", retry=retry, overlap="queue", concurrency=2, run_on=("gpu",))
        assert desk.enqueue(run("r1", params={"p": "1"})) == Enqueued(run="r1")
        found = desk.run("r1")
        assert (found.digest, found.runtime, found.attempts, found.backoff, found.multiplier, found.backoff_max) == ("d1", "python", 3, 100, 3.0, 500)
        assert (found.overlap, found.concurrency, found.labels, found.params) == ("queue", 2, ("gpu",), {"p": "1"})
        assert found.status == "queued" and found.created == found.due == desk.at.wall
        desk.register("a", digest="d2")
        assert desk.claim("t", labels=("gpu",))[0].digest == "d1"

    def test_an_id_is_derived_where_none_is_given(self, desk: Desk) -> None:
        desk.register("a")
        answer = desk.enqueue(Run(id="", task="a", unique="k", trigger=RunTrigger(type="manual")))
        assert answer == Enqueued(run=run_id("a", "manual", "k"))

    def test_a_unique_key_makes_one_run(self, desk: Desk) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        again = Run(id="other", task="a", unique="a:r1", trigger=RunTrigger(type="manual"))
        assert desk.enqueue(again) == Enqueued(run="r1", created=False, status="queued")
        desk.restart()
        desk.finish(desk.claim("t")[0])
        assert desk.enqueue(again) == Enqueued(run="r1", created=False, status="succeeded")
        assert len(desk.list("Run").changes) == 1

    def test_unknown_unready_daemon_and_suspended_tasks_take_no_runs(self, desk: Desk) -> None:
        desk.put(Task(id="unready", source="s"), "unready")
        desk.register("daemon", trigger=Trigger(daemon=True))
        desk.register("asleep", suspended=True)
        reasons = {}
        for name in ("nobody", "unready", "daemon", "asleep"):
            answer = desk.enqueue(run("r", task=name))
            assert isinstance(answer, Refused)
            reasons[name] = answer.reason
        assert reasons == {"nobody": "unknown", "unready": "not_ready", "daemon": "not_ready", "asleep": "suspended"}
        assert desk.list("Run").changes == ()

    def test_a_slot_of_a_suspended_task_is_recorded_as_skipped(self, desk: Desk) -> None:
        desk.register("a", suspended=True)
        answer = desk.enqueue(run("r1", trigger=CRON))
        assert isinstance(answer, Refused) and (answer.reason, answer.run) == ("suspended", "r1")
        assert desk.run("r1").status == "skipped"
        assert isinstance(desk.enqueue(run("r1", trigger=CRON)), Refused)

    def test_skip_records_the_run_it_did_not_start(self, desk: Desk) -> None:
        desk.register("a", overlap="skip")
        desk.enqueue(run("r1"))
        answer = desk.enqueue(run("r2"))
        assert isinstance(answer, Refused) and (answer.reason, answer.run) == ("overlap", "r2")
        assert desk.run("r2").status == "skipped"
        desk.finish(desk.claim("t")[0])
        assert desk.enqueue(run("r3")) == Enqueued(run="r3")

    def test_replace_cancels_the_older_and_waits_until_it_is_gone(self, desk: Desk) -> None:
        desk.register("a", overlap="replace")
        desk.enqueue(run("r1"))
        (running,) = desk.claim("t1")
        desk.enqueue(run("r2"))
        desk.enqueue(run("r3"))
        assert desk.run("r1").cancel and desk.run("r2").status == "cancelled" and desk.run("r3").status == "queued"
        assert desk.claim("t2") == ()
        assert desk.finish(running, "cancelled").status == "cancelled"
        assert [taken.id for taken in desk.claim("t3")] == ["r3"]

    def test_the_queue_has_an_end(self, desk: Desk) -> None:
        desk.register("a")
        for start in range(0, WAITING_MAX - 1, 500):
            desk.batch(*(Enqueue(run=run(f"r{number}")) for number in range(start, min(start + 500, WAITING_MAX - 1))))
        assert isinstance(desk.enqueue(run("last")), Enqueued)
        refused = desk.enqueue(run("one more"))
        assert isinstance(refused, Refused) and refused.reason == "full"
        desk.claim("t")
        assert isinstance(desk.enqueue(run("one more")), Enqueued)

    def test_old_code_is_replayed_as_it_was(self, desk: Desk) -> None:
        desk.register("a", digest="new", overlap="skip")
        desk.enqueue(run("r1", digest="old", attempts=4))
        found = desk.run("r1")
        assert (found.digest, found.attempts, found.overlap) == ("old", 4, "allow")


class TestClaim:
    def test_the_longest_due_comes_first_and_the_future_waits(self, desk: Desk) -> None:
        desk.register("a")
        now = desk.at.wall
        for key, due in (("late", now + 50), ("second", now), ("first", now - 10), ("third", now)):
            desk.enqueue(run(key, due=due))
        assert [taken.id for taken in desk.claim("t1", n=10)] == ["first", "second", "third"]
        assert desk.claim("t2") == ()
        desk.wait(50)
        assert [taken.id for taken in desk.claim("t3")] == ["late"]

    def test_a_claim_starts_the_run(self, desk: Desk) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        desk.wait(30)
        (taken,) = desk.claim("t1", worker="w7")
        assert (taken.status, taken.worker, taken.started) == ("running", "w7", desk.at.wall)
        assert desk.run("r1") == taken

    def test_labels_and_runtimes_decide_who_may(self, desk: Desk) -> None:
        desk.register("a", run_on=("gpu", "big"))
        desk.enqueue(run("r1"))
        assert desk.claim("t1", labels=("gpu",)) == ()
        assert desk.claim("t2", labels=("gpu", "big"), runtimes=("deno",)) == ()
        assert len(desk.claim("t3", labels=("x", "big", "gpu"), runtimes=("deno", "python"))) == 1

    def test_the_same_token_finds_the_same_runs_also_after_a_crash(self, desk: Desk) -> None:
        desk.register("a")
        for number in range(4):
            desk.enqueue(run(f"r{number}"))
        taken = desk.claim("t1", n=2)
        assert desk.claim("t1", n=2) == taken
        desk.restart()
        assert desk.claim("t1", n=2) == taken
        assert {one.id for one in desk.claim("t2", n=5)} == {"r2", "r3"}

    def test_overlap_queue_runs_as_many_as_its_concurrency(self, desk: Desk) -> None:
        desk.register("a", overlap="queue", concurrency=2)
        desk.register("b")
        for number in range(4):
            desk.enqueue(run(f"a{number}"))
        desk.enqueue(run("b0", task="b"))
        first = desk.claim("t1", n=10)
        assert [taken.id for taken in first] == ["a0", "a1", "b0"]
        desk.restart()
        assert desk.claim("t2", n=10) == ()
        desk.finish(first[1])
        assert [taken.id for taken in desk.claim("t3", n=10)] == ["a2"]

    def test_allow_is_limited_by_concurrency_alone(self, desk: Desk) -> None:
        desk.register("a", concurrency=1)
        desk.register("b")
        for name in ("a", "b"):
            for number in range(3):
                desk.enqueue(run(f"{name}{number}", task=name))
        assert [taken.id for taken in desk.claim("t", n=10)] == ["a0", "b0", "b1", "b2"]

    def test_a_claim_fits_into_a_frame(self, desk: Desk) -> None:
        desk.register("a")
        for number in range(8):
            desk.enqueue(run(f"r{number}", input="x" * 200_000))
        claimed = desk.ask(Claim(worker="w", token="t", n=8), Claimed)
        assert 0 < len(claimed.runs) < 8 and claimed.waiting == 8 - len(claimed.runs)
        assert len(encode(claimed)) <= MAX_FRAME


class TestFinish:
    def test_a_run_ends_once(self, desk: Desk) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        (taken,) = desk.claim("t")
        desk.wait(7)
        result = Result(value="42")
        assert desk.finish(taken, exit_code=0, result=result) == Finished(status="succeeded")
        found = desk.run("r1")
        assert (found.status, found.exit_code, found.result, found.finished) == ("succeeded", 0, result, desk.at.wall)
        assert desk.finish(taken, "failed") == Finished(status="succeeded")
        desk.restart()
        assert desk.finish(taken, exit_code=0, result=result) == Finished(status="succeeded")
        assert desk.run("r1") == found

    def test_a_failed_run_waits_and_is_tried_again(self, desk: Desk) -> None:
        desk.register("a", retry=Retry(attempts=2, backoff=100, multiplier=2.0, max=150))
        desk.enqueue(run("r1"))
        fences = []
        for attempt, wait in ((1, 100), (2, 150)):
            (taken,) = desk.claim(f"t{attempt}")
            fences.append(taken.fence)
            assert taken.attempt == attempt
            assert desk.finish(taken, "failed", exit_code=3, error="boom") == Finished(status="queued")
            found = desk.run("r1")
            assert (found.attempt, found.due, found.error, found.exit_code) == (attempt + 1, desk.at.wall + wait, "boom", 3)
            desk.wait(wait - 1)
            assert desk.claim(f"early {attempt}") == ()
            desk.wait(1)
        (taken,) = desk.claim("t3")
        assert taken.error == "" and taken.exit_code is None
        assert desk.finish(taken, "timed_out") == Finished(status="timed_out")
        assert [*fences, taken.fence] == sorted({*fences, taken.fence})

    def test_success_and_cancellation_are_not_retried(self, desk: Desk) -> None:
        desk.register("a", retry=Retry(attempts=5))
        for key, status in (("r1", "succeeded"), ("r2", "cancelled")):
            desk.enqueue(run(key))
            (taken,) = desk.claim(key)
            assert desk.finish(taken, status).status == status  # type: ignore[arg-type]

    @pytest.mark.parametrize("status", ["queued", "running", "skipped"])
    def test_nothing_finishes_as_something_unfinished(self, desk: Desk, status: str) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        (taken,) = desk.claim("t")
        answer = desk.batch(Finish(run="r1", fence=taken.fence, status=status))[0]  # type: ignore[arg-type]
        assert isinstance(answer, Failed)
        assert desk.run("r1").status == "running"

    def test_nobody_finishes_with_another_fence(self, desk: Desk) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        (taken,) = desk.claim("t")
        for fence in (0, taken.fence - 1, taken.fence + 1):
            assert desk.ask(Finish(run="r1", fence=fence, status="failed"), Finished).fenced
        assert desk.ask(Finish(run="unknown", fence=1, status="failed"), Finished).fenced
        assert desk.run("r1").status == "running"

    def test_a_result_that_does_not_fit_is_dropped_and_the_run_says_so(self, desk: Desk) -> None:
        desk.register("a")
        desk.enqueue(run("r1", input="x" * 200_000))
        (taken,) = desk.claim("t")
        desk.finish(taken, result=Result(value='"' + "y" * 900_000 + '"'))
        found = desk.run("r1")
        assert found.status == "succeeded" and found.result is None and "too big" in found.error

    def test_the_biggest_run_lives_through_everything_that_may_happen_to_it(self, desk: Desk) -> None:
        desk.register("a", retry=Retry(attempts=2, backoff=0))
        room = MAX_RUN - len(encode(run("r", params={"x": ""}, digest="d1"))) - 200
        refused = desk.enqueue(run("too big", params={"x": "y" * MAX_RUN}))
        assert isinstance(refused, Failed) and "put the input into a file" in refused.message
        assert isinstance(desk.enqueue(run("r", params={"x": "y" * room})), Enqueued)
        desk.claim("t1", worker="w" * 60)
        desk.wait(60_000)
        desk.expire()  # lost, and queued again
        again = desk.claim("t2", worker="w" * 60)[0]
        desk.finish(again, "failed", error="e" * 500_000)
        assert len(desk.run("r").error) < 10_000
        last = desk.claim("t3")[0]
        desk.ask(Cancel(run="r", who="ann" * 10_000), Found)
        assert desk.finish(last, "failed").status == "cancelled"
        assert all(len(change.body or b"") <= MAX_OBJECT for change in desk.list("Run").changes)


class TestRunLeases:
    def test_what_is_renewed_stays(self, desk: Desk) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        (taken,) = desk.claim("t", lease=6000)
        for _ in range(5):
            desk.wait(5000)
            assert desk.ask(Renew(worker="w1", held=(Held("r1", taken.fence),), lease=6000), Renewed) == Renewed()
            desk.expire()
        assert desk.run("r1").status == "running"

    def test_what_is_not_renewed_is_lost_and_its_worker_may_not_finish_it(self, desk: Desk) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        (taken,) = desk.claim("t", lease=6000)
        desk.wait(5999)
        desk.expire()
        assert desk.run("r1").status == "running"
        desk.wait(1)
        desk.news.clear()
        desk.expire()
        assert desk.run("r1").status == "lost" and [change.key for change in desk.news] == ["r1"]
        assert desk.finish(taken).fenced and desk.run("r1").status == "lost"
        assert desk.ask(Renew(worker="w1", held=(Held("r1", taken.fence),)), Renewed) == Renewed(lost=("r1",))

    def test_a_lost_run_is_tried_again_where_the_spec_says_so_and_the_old_fence_is_dead(self, desk: Desk) -> None:
        desk.register("a", retry=Retry(attempts=1, backoff=0))
        desk.enqueue(run("r1"))
        (old,) = desk.claim("t1", worker="w1")
        desk.wait(6000)
        desk.expire()
        assert desk.run("r1").status == "queued"
        assert desk.finish(old).fenced
        (new,) = desk.claim("t2", worker="w2")
        assert new.attempt == 2 and new.fence > old.fence
        assert desk.finish(old).fenced and desk.run("r1").status == "running"
        assert not desk.finish(new).fenced

    def test_a_restart_gives_every_lease_one_more_ttl(self, desk: Desk) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        desk.claim("t", lease=6000)
        desk.wait(60_000)
        desk.restart()
        desk.wait(5999)
        desk.expire()
        assert desk.run("r1").status == "running"
        desk.wait(1)
        desk.expire()
        assert desk.run("r1").status == "lost"

    def test_another_worker_cannot_renew_it(self, desk: Desk) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        (taken,) = desk.claim("t", worker="w1")
        assert desk.ask(Renew(worker="w2", held=(Held("r1", taken.fence),)), Renewed) == Renewed(lost=("r1",))

    def test_leases_follow_the_monotonic_clock(self, desk: Desk) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        desk.claim("t")
        desk.at = Moment(desk.at.wall + 3_600_000, desk.at.mono)
        desk.expire()
        assert desk.run("r1").status == "running"


class TestCancel:
    def test_a_queued_run_ends_at_once(self, desk: Desk) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        found = desk.ask(Cancel(run="r1", who="ann"), Found)
        assert found == desk.ask(Get(what="Run", key="r1"), Found)
        assert (desk.run("r1").status, desk.run("r1").error) == ("cancelled", "cancelled by ann")
        assert desk.claim("t") == ()

    def test_a_running_one_is_marked_and_its_worker_told(self, desk: Desk) -> None:
        desk.register("a", retry=Retry(attempts=3))
        desk.enqueue(run("r1"))
        (taken,) = desk.claim("t")
        desk.ask(Cancel(run="r1"), Found)
        renew = Renew(worker="w1", held=(Held("r1", taken.fence),))
        assert desk.ask(renew, Renewed).cancel == ("r1",)
        desk.restart()
        assert desk.ask(renew, Renewed).cancel == ("r1",)
        assert desk.finish(taken, "failed").status == "cancelled"

    def test_what_has_ended_stays_as_it_is(self, desk: Desk) -> None:
        desk.register("a")
        desk.enqueue(run("r1"))
        desk.finish(desk.claim("t")[0])
        before = desk.engine.head()
        desk.ask(Cancel(run="r1"), Found)
        assert desk.engine.head() == before and desk.run("r1").status == "succeeded"
        assert desk.ask(Cancel(run="unknown"), Found) == Found()

    def test_a_cancelled_run_that_is_lost_is_cancelled(self, desk: Desk) -> None:
        desk.register("a", retry=Retry(attempts=3))
        desk.enqueue(run("r1"))
        desk.claim("t")
        desk.ask(Cancel(run="r1"), Found)
        desk.wait(6000)
        desk.expire()
        assert desk.run("r1").status == "cancelled"


class TestNamedLeases:
    def test_one_holder_at_a_time_and_the_fence_grows(self, desk: Desk) -> None:
        first = desk.ask(Acquire(name="leader", holder="a", ttl=100), Leased).fence
        assert first > 0
        assert desk.ask(Acquire(name="leader", holder="b", ttl=100), Leased).fence == 0
        desk.wait(99)
        assert desk.ask(Acquire(name="leader", holder="a", ttl=100), Leased).fence == first
        desk.wait(100)
        assert desk.ask(Acquire(name="leader", holder="b", ttl=100), Leased).fence > first

    def test_a_holder_that_comes_back_too_late_gets_a_new_fence(self, desk: Desk) -> None:
        first = desk.ask(Acquire(name="leader", holder="a", ttl=100), Leased).fence
        desk.wait(100)
        assert desk.ask(Acquire(name="leader", holder="a", ttl=100), Leased).fence > first

    def test_release_frees_it_for_the_next(self, desk: Desk) -> None:
        first = desk.ask(Acquire(name="leader", holder="a", ttl=100), Leased).fence
        desk.ask(Release(name="leader", holder="b"), Leased)
        assert desk.ask(Acquire(name="leader", holder="b", ttl=100), Leased).fence == 0
        desk.ask(Release(name="leader", holder="a"), Leased)
        assert desk.ask(Acquire(name="leader", holder="b", ttl=100), Leased).fence > first

    def test_a_restart_of_the_store_takes_it_from_nobody(self, desk: Desk) -> None:
        first = desk.ask(Acquire(name="leader", holder="a", ttl=100), Leased).fence
        desk.wait(10_000)
        desk.restart()
        assert desk.ask(Acquire(name="leader", holder="b", ttl=100), Leased).fence == 0
        assert desk.ask(Acquire(name="leader", holder="a", ttl=100), Leased).fence == first


class TestTidying:
    def test_only_the_newest_ended_runs_of_a_task_are_kept(self, desk: Desk) -> None:
        desk.put(Config(retention_runs_per_task=3), "dicode.yaml")
        for name in ("a", "b"):
            desk.register(name)
            for number in range(5):
                desk.enqueue(run(f"{name}{number}", task=name))
                desk.finish(desk.claim(f"{name}{number}")[0])
                desk.wait(1)
        desk.enqueue(run("waiting"))
        since = desk.engine.head()
        desk.tidy()
        kept = {change.key for change in desk.list("Run").changes}
        assert kept == {"a2", "a3", "a4", "b2", "b3", "b4", "waiting"}
        assert {change.key for change in desk.list("Run", since).changes if change.body is None} == {"a0", "a1", "b0", "b1"}

    def test_a_forgotten_run_is_still_known_by_its_unique_key(self, desk: Desk) -> None:
        desk.put(Config(retention_runs=1000), "dicode.yaml")
        desk.register("a")
        desk.enqueue(run("r1"))
        desk.finish(desk.claim("t")[0], "failed")
        desk.wait(1002)
        desk.tidy()
        assert desk.list("Run").changes == ()
        assert desk.enqueue(run("r1")) == Enqueued(run="r1", created=False, status="failed")
        desk.wait(72 * 3_600_000)
        desk.tidy()
        assert desk.enqueue(run("r1")) == Enqueued(run="r1")

    def test_events_fall_off_the_end(self, desk: Desk) -> None:
        event = encode(Event(object="o", reason="r", message="m", at=1))
        for _ in range(101):
            desk.ask(Write(ops=tuple(Append("Event", event) for _ in range(100))), Written)
        desk.tidy()
        assert len(desk.list("Event").changes) == 10_000

    def test_answered_requests_go_after_a_day(self, desk: Desk) -> None:
        asked = Request(token="t1", verb="source.sync", target="s", when=desk.at.wall)
        desk.put(asked, "t1")
        desk.put(Request(token="t2", verb="source.sync", target="s", when=desk.at.wall, answer=Answer(True, at=desk.at.wall)), "t2")
        desk.wait(86_400_000 - 1)
        desk.tidy()
        assert len(desk.list("Request").changes) == 2
        desk.wait(2)
        desk.tidy()
        assert [change.key for change in desk.list("Request").changes] == ["t1"]

    def test_deliveries_are_kept_for_three_days(self, desk: Desk) -> None:
        for number in range(3):
            desk.put(Delivery(task="a", id=str(number)), f"a:{number}")
            desk.wait(36 * 3_600_000)
        desk.tidy()
        assert [change.key for change in desk.list("Delivery").changes] == ["a:1", "a:2"]

    def test_the_history_of_a_task_that_never_was_goes_as_its_runs_would(self, desk: Desk) -> None:
        desk.put(Config(retention_runs=1000), "dicode.yaml")
        desk.register("here")
        for name in ("here", "gone"):
            desk.put(History(task=name), name)
        for age, kept in ((1000, {"here", "gone"}), (1, {"here"})):
            desk.wait(age)
            desk.tidy()
            assert {change.key for change in desk.list("History").changes} == kept

    def test_the_history_of_a_removed_task_outlives_it_by_a_day_however_old_it_is(self, desk: Desk) -> None:
        desk.put(Config(retention_runs=1000), "dicode.yaml")
        desk.register("a")
        desk.put(History(task="a"), "a")
        desk.wait(1001)
        desk.ask(Write(ops=(Delete("Task", "a"),)), Written)
        desk.tidy()
        assert [change.key for change in desk.list("History").changes] == ["a"]
        desk.wait(86_400_001)
        desk.tidy()
        desk.tidy()
        assert desk.list("History").changes == () or desk.list("History").changes[0].body is None

    def test_a_request_nobody_can_read_goes_too(self, desk: Desk) -> None:
        desk.ask(Write(ops=(Put("Request", "t", b"of another release"),)), Written)
        desk.wait(86_400_001)
        desk.tidy()
        assert desk.list("Request").changes == ()
