"""Which `${VAR}` may stand where, and what is said of one that nobody knows."""

from __future__ import annotations

from msgspec.structs import replace

from dicode.messages.kinds import ConfigSource, DesiredTask, Source, Task
from dicode.messages.task import EnvGrant, FsGrant, Param, Permissions, TaskSpec, Trigger
from dicode.reconciler.decide import Decision, Facts, decide
from dicode.spec.admit import Actual, UnknownIn
from dicode.spec.condition import find
from dicode.spec.plan import Offered, World, offer_of, plan
from dicode.spec.template import unknown_in, uses

NOW = 1_800_000_000_000
EVERYWHERE = "${TASK_DIR}${TASK_SET_DIR}${DATADIR}${HOME}${HERE}"


def everywhere(text: str) -> TaskSpec:
    """A spec with this text in every field that may name variables, and in others."""
    return TaskSpec(
        name=text,
        description=text,
        trigger=Trigger(webhook="/hooks/x", webhook_secret=text),
        params=(Param(name="p", default=text, description=text),),
        permissions=Permissions(env=(EnvGrant(name="E", from_=text, secret=text, value=text),), fs=(FsGrant(path=text),), net=(text,)),
        include=(text,),
    )


def fields(spec: TaskSpec, set_dir: str = "/sets", host: tuple[str, ...] = ("HERE",), withheld: tuple[str, ...] = ()) -> list[str]:
    return [each.message.partition(" ")[0] + each.message.partition(" ")[2].partition(" ")[0] for each in unknown_in(spec, set_dir, host, withheld)]


def test_dicodes_own_stand_in_every_field_and_those_of_the_host_in_four() -> None:
    assert {use.place.field for use in uses(everywhere(EVERYWHERE))} == {
        "trigger.webhook_secret", "params[p].default", "permissions.env[E].value", "permissions.env[E].from", "permissions.env[E].secret",
        "permissions.fs[0].path",
    }  # fmt: skip
    assert fields(everywhere(EVERYWHERE)) == ["params[p].default:${HERE}", "permissions.env[E].value:${HERE}"]
    assert fields(everywhere("plain $HERE {HERE} ${}")) == []


def test_one_that_is_set_nowhere_is_unknown_in_every_field() -> None:
    assert len(fields(everywhere("${NOWHERE}"))) == 6


def test_the_set_dir_is_known_in_a_task_set_only() -> None:
    assert len(fields(everywhere("${TASK_SET_DIR}"), set_dir="")) == 6 and fields(everywhere("${TASK_SET_DIR}")) == []


def test_what_is_kept_from_tasks_is_unknown_to_them_and_good_for_a_webhooks_secret() -> None:
    three = {"permissions.env[E].secret", "permissions.env[E].from", "permissions.fs[0].path"}
    for name, withheld in (("DICODE_KEY", ()), ("TOKEN", ("TOKEN",))):
        found = unknown_in(everywhere(f"${{{name}}}"), "/sets", (name,), withheld)
        assert {each.place.field for each in found if "kept from tasks" in each.message} == three
        assert "secret" not in {each.place.kind for each in found}


# ── admission ──


def desired(spec: TaskSpec, digest: str = "a" * 64) -> DesiredTask:
    return DesiredTask(id="t", source="s", digest=digest, process=digest, spec=spec, runtime="python")


def environment(*names: str) -> UnknownIn:
    return lambda spec, set_dir: unknown_in(spec, set_dir, names)


def decided(claim: DesiredTask, present: Task | None, *names: str) -> Decision | None:
    facts = Facts([claim], present, Actual(), None, [], unknown_in=environment(*names))
    return decide("t", facts, not_built=lambda *_: (), now=NOW)


def registered(claim: DesiredTask, present: Task | None, *names: str) -> Task:
    decision = decided(claim, present, *names)
    assert decision is not None and decision.task is not None
    return decision.task


def test_an_unknown_variable_is_a_condition_that_goes_when_it_is_cured() -> None:
    grants = tuple(EnvGrant(name=f"E{number}", from_=f"${{NO{number}}}") for number in range(5))
    claim = desired(TaskSpec(name="t", trigger=Trigger(manual=True), permissions=Permissions(env=grants, net=())))
    task = registered(claim, None)
    found = find(task.conditions, "UnknownVariable")
    assert found is not None and found.status and task.digest == claim.digest and task.generation == 1
    assert found.message.startswith("permissions.env[E0].from: ${NO0} is not set where dicode runs: set it there and restart dicode; ")
    assert found.message.endswith(" (+2 more)") and "${NO2}" in found.message and "${NO3}" not in found.message
    assert decided(claim, task) is None, "told once"
    cured = registered(claim, task, *(f"NO{number}" for number in range(5)))
    assert find(cured.conditions, "UnknownVariable") is None and cured.generation == 1


def test_a_webhook_whose_secret_nobody_knows_is_an_error_of_the_task() -> None:
    hook = TaskSpec(name="t", trigger=Trigger(webhook="/hooks/t", webhook_secret="${KEY}"), permissions=Permissions(net=()))
    never = decided(desired(hook), None)
    why = "trigger.webhook_secret: ${KEY} is not set where dicode runs: set it there and restart dicode"
    assert never is not None and never.task is not None and never.line == f"task/t refused: {why}"
    assert never.task.digest == "" and [(each.type, each.reason) for each in never.task.conditions] == [("Ready", "UnknownVariable")]

    good = registered(desired(replace(hook, trigger=Trigger(webhook="/hooks/t", webhook_secret="literal"))), None)
    kept = decided(desired(hook, "b" * 64), good)
    assert kept is not None and kept.task is not None and kept.line == f"task/t kept at aaaaaa: {why}"
    assert kept.task.digest == "a" * 64 and kept.task.spec == good.spec and kept.task.sync == "OutOfSync"
    assert decided(desired(hook, "b" * 64), kept.task) is None, "told once"
    cured = registered(desired(hook, "b" * 64), kept.task, "KEY")
    ready = find(cured.conditions, "Ready")
    assert cured.digest == "b" * 64 and ready is not None and ready.status


def test_a_plan_says_what_admission_will_find_where_dicode_runs() -> None:
    hook = TaskSpec(name="t", trigger=Trigger(webhook="/hooks/t", webhook_secret="${KEY}${HOME}"), permissions=Permissions(net=()))
    world = World({}, {}, {}, {}, lambda *_: (), NOW)
    source = Source(name="s", spec=ConfigSource(name="s"))
    for host, added in (((), ()), (("KEY",), ("t",))):
        offer = offer_of([Offered("t", "a" * 64, "a" * 64, hook, "python", "tasks/t")], {}, host=host)
        told = plan(offer, source, world)
        assert told.added == added and [(each.id, each.file) for each in told.errors] == ([] if added else [("t", "tasks/t")])
