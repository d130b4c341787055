"""plan, case by case; that it agrees with what happens is tests/model/test_plan_agreement.py."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dicode.messages.fault import Fault
from dicode.messages.kinds import ConfigSource, Daemon, DesiredTask, Source, Task
from dicode.messages.task import Chain, TaskCall, TaskSpec, Trigger
from dicode.spec.chains import cycles
from dicode.spec.plan import Collision, Error, Offer, Offered, Plan, Updated, World, offer_of, plan

NOW = 1_800_000_000_000
INFRA = Source(name="infra", spec=ConfigSource(name="infra"), order=1)
FAULT = Fault("x/task.yaml", 3, 1, "unknown field 'tigger'")


def offered(id: str, digest: str = "a", process: str = "", **trigger: object) -> Offered:
    spec = TaskSpec(name=id, trigger=Trigger(**(trigger or {"manual": True})))  # type: ignore[arg-type]
    return Offered(id, digest * 64, (process or digest) * 64, spec, "python", f"/src/{id}")


def world(*there: Offered, source: str = "infra", order: int = 1, daemons: dict[str, Daemon] | None = None) -> World:
    """In which these are registered."""
    desired = {
        f"{source}/{each.id}": DesiredTask(
            id=each.id, source=source, digest=each.digest, process=each.process, spec=each.spec, runtime=each.runtime, dir=each.dir, order=order
        )
        for each in there
    }
    tasks = {
        each.id: Task(id=each.id, source=source, digest=each.digest, process=each.process, spec=each.spec, runtime=each.runtime, generation=1)
        for each in there
    }
    return World(desired, tasks, {}, daemons or {}, lambda *_: (), NOW)


def written(world: World) -> dict[str, DesiredTask]:
    return {each.id: each for each in world.desired.values() if each.source == "infra"}


def told(here: World, *found: Offered, errors: tuple[Error, ...] = ()) -> Plan:
    return plan(offer_of(found, written(here), errors), INFRA, here)


def test_what_comes_changes_and_goes() -> None:
    here = world(offered("old"), offered("same"), offered("changed"))
    found = told(here, offered("new"), offered("same"), offered("changed", "b"))
    assert (found.added, found.removed, found.updated) == (("new",), ("old",), (Updated("changed", "a" * 64, "b" * 64),))
    assert found.changes and not found.held


def test_a_daemon_restarts_only_when_its_process_would_notice() -> None:
    clock = offered("clock", daemon=True)
    running = {"clock": Daemon(task="clock", digest=clock.digest, process=clock.process, state="running", pid=7)}
    here = world(clock, daemons=running)
    relabelled = told(here, offered("clock", "b", process="a", daemon=True))
    assert [each.id for each in relabelled.updated] == ["clock"] and relabelled.restarted == ()
    assert told(here, offered("clock", "b", daemon=True)).restarted == ("clock",)
    assert told(here, offered("clock", "b")).stopped == ("clock",)
    assert told(here, offered("clock", daemon=True), offered("second", daemon=True)).started == ("second",)


def test_a_schedule_that_changes_tells_its_next_fires_before_and_after() -> None:
    here = world(offered("hourly", cron="0 * * * *"), offered("daily", cron="0 3 * * *"))
    found = told(here, offered("hourly", "b", cron="30 * * * *"), offered("daily", "b", cron="0 3 * * *"))
    assert list(found.next) == ["hourly"], "another digest alone does not move a schedule"
    assert [at % 3_600_000 // 60_000 for at in found.next["hourly"].before] == [0, 0, 0]
    assert [at % 3_600_000 // 60_000 for at in found.next["hourly"].after] == [30, 30, 30]


def test_a_webhook_path_that_is_taken_is_a_collision_and_nothing_is_added() -> None:
    here = world(offered("holder", webhook="/hooks/x"), source="first", order=0)
    found = told(here, offered("late", webhook="/hooks/x"))
    message = "webhook /hooks/x belongs to task holder; choose another path"
    assert found.collisions == (Collision("late", "path", ("holder",), message),)
    assert not found.changes


def test_an_id_that_is_taken_stays_with_its_holder() -> None:
    found = told(world(offered("t"), source="first", order=0), offered("t", "b"))
    assert [(each.kind, each.id, each.with_) for each in found.collisions] == [("id", "t", ("first",))]
    assert not found.changes


def test_tasks_that_would_start_each_other_for_ever_are_told() -> None:
    here = world(offered("a", chain=Chain(from_="b")), offered("b"))
    found = told(here, offered("a", chain=Chain(from_="b")), offered("b", "b", chain=Chain(from_="a")))
    assert [(each.kind, each.with_) for each in found.collisions] == [("chain", ("a", "b"))]
    assert "a → b → a" in found.collisions[0].message
    failing = msgspec.structs.replace(offered("b", "c"), spec=TaskSpec(name="b", trigger=Trigger(manual=True), on_failure_chain=TaskCall(task="a")))
    assert [each.with_ for each in told(here, offered("a", chain=Chain(from_="b")), failing).collisions] == []


def test_a_mass_removal_is_told_to_be_held() -> None:
    here = world(*(offered(f"t{number}") for number in range(10)))
    found = told(here, *(offered(f"t{number}") for number in range(4)))
    assert found.held and len(found.removed) == 6
    assert not told(here, *(offered(f"t{number}") for number in range(5))).held


def test_faults_are_told_and_what_they_concern_keeps_its_digest() -> None:
    here = world(offered("x"), offered("set/a"), offered("set/b"))
    found = told(here, Offered("x", faults=(FAULT,)), Offered("new", faults=(FAULT,)), errors=(Error("set", "taskset.yaml", 4, 3, "is broken"),))
    assert found.removed == () and not found.changes
    assert [(each.id, each.line) for each in found.errors] == [("set", 4), ("x", 3), ("new", 3)]


def test_a_task_whose_rival_lets_go_of_a_path_is_seen_to_change() -> None:
    here = world(offered("holder", webhook="/hooks/x"))
    waiting = DesiredTask(
        id="waits", source="other", digest="w" * 64, process="w" * 64, spec=TaskSpec(name="w", trigger=Trigger(webhook="/hooks/x")), order=5
    )
    here = here._replace(desired={**here.desired, "other/waits": waiting}, tasks={**here.tasks, "waits": Task(id="waits", source="other")})
    found = told(here, offered("holder", "b", webhook="/hooks/y"))
    assert found.added == ("waits",) and [each.id for each in found.updated] == ["holder"]


def test_an_offer_travels_as_json() -> None:
    offer = Offer(
        (offered("a", cron="0 3 * * *"), Offered("b", faults=(FAULT,))), ("c",), (Error("", "taskset.yaml", 1, 1, "is broken"),), True, "c" * 40
    )
    assert msgspec.json.decode(msgspec.json.encode(offer), type=Offer) == offer


NODES = st.sampled_from("abcdefg")


@given(st.dictionaries(NODES, st.sets(NODES)))
def test_every_task_that_can_start_itself_again_is_in_a_cycle_that_is_told(drawn: dict[str, set[str]]) -> None:
    starts = {id: others & drawn.keys() for id, others in drawn.items()}
    reach = {id: set(others) for id, others in starts.items()}
    for _ in starts:
        for id in reach:
            reach[id] |= {further for other in tuple(reach[id]) for further in reach[other]}
    ways = list(cycles(starts))
    for way in ways:
        assert all(other in starts[id] for id, other in zip(way, (*way[1:], way[0]), strict=True))
    in_a_cycle = {id for id in starts if id in reach[id]}
    assert {id for way in ways for id in way} == in_a_cycle


# ── secrets of webhooks ──


def test_a_secret_that_is_not_set_is_an_error_and_nothing_moves() -> None:
    hook = offered("hook", webhook="/hooks/x", webhook_secret="${HOOK_KEY}")
    here = world()
    found = plan(offer_of([hook], {}, host=()), INFRA, here)
    assert [(each.id, each.file) for each in found.errors] == [("hook", "/src/hook")] and "${HOOK_KEY}" in found.errors[0].message
    assert found.added == ()
    assert plan(offer_of([hook], {}, host={"HOOK_KEY"}), INFRA, here).added == ("hook",)


def test_the_folder_of_the_set_is_known_to_a_task_of_a_taskset_and_to_no_other() -> None:
    hook = offered("hook", webhook="/hooks/x", webhook_secret="${TASK_SET_DIR}")
    alone = told(world(), hook)
    assert (alone.added, [each.id for each in alone.errors]) == ((), ["hook"]) and "TaskSet only" in alone.errors[0].message
    in_a_set = told(world(), msgspec.structs.replace(hook, set_dir="/src"))
    assert (in_a_set.added, in_a_set.errors) == (("hook",), ())
