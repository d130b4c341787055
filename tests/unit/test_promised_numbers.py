"""The numbers users were promised (SPEC 2, 3, 6, 7 and 9), each beside the place that keeps it. What happens at a limit is tested where it happens."""

from __future__ import annotations

from typing import Any

import pytest

from dicode.admin import run as cli_run
from dicode.admin import show
from dicode.git.frames import Limits
from dicode.messages.commands import List
from dicode.messages.kinds import Config, ConfigSource, Run, RunTrigger
from dicode.messages.task import DEFAULT_TIMEOUT, Permissions, TaskCall, TaskSpec, Trigger
from dicode.process import bodies, http, keeper, tasklog
from dicode.source import plan, snapshot
from dicode.spec import config, expand, folder, names, removal, runs, schedule, taskset, yaml
from dicode.spec.task import not_built
from dicode.store import loop
from dicode.store.sqlite import tidy
from dicode.supervisor import lifecycle
from dicode.trigger import hooks, listening, push
from dicode.wire import frames
from dicode.wire.frames import MAX_FRAME, BadMessage, StoreFailed, decode_command, encode_command

KIB, MIB = 1 << 10, 1 << 20
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000  # ms
SOURCE, RUN, NOTHING = ConfigSource(name="x"), Run(id="", task="x", unique="x", trigger=RunTrigger("manual", "x")), Config()

PROMISED: dict[str, tuple[Any, Any]] = {
    # SPEC 2
    "settle": (SOURCE.settle, 10),
    "rescan": (SOURCE.rescan, 10 * SECOND),
    "poll_interval": (SOURCE.poll_interval, 30 * SECOND),
    "poll_interval of a ref": (taskset.POLL_INTERVAL, 30 * SECOND),
    "hooks": (NOTHING.hooks_listen, "127.0.0.1:8080"),
    "admin": (NOTHING.admin_listen, "127.0.0.1:8081"),
    "runs at once: four a core": (NOTHING.max_concurrent_runs, 0),
    "runs are kept": (NOTHING.retention_runs, 30 * DAY),
    "runs of a task": (NOTHING.retention_runs_per_task, 1_000),
    "bundles of a task": (NOTHING.retention_bundles, 20),
    "a port in use is tried again": (listening.AGAIN, 1.0),
    # SPEC 3
    "timeout": (DEFAULT_TIMEOUT, 60 * SECOND),
    "retry": ((RUN.attempts, RUN.backoff, RUN.multiplier, RUN.backoff_max), (1, 10 * SECOND, 2, 10 * MINUTE)),
    "stop_grace": (lifecycle.STOP_GRACE, 10 * SECOND),
    "slots caught up: within": (schedule.WINDOW, DAY),
    "slots caught up: all": (schedule.CATCH_UP_MAX, 100),
    # SPEC 4
    "segments of an id, depth of sets": (names.MAX_SEGMENTS, 16),
    # SPEC 1 and 6
    "hex digits people see": (show.HASH, 6),
    "input of a run": (cli_run.INPUT_MAX, 5 * MIB),
    "one already runs": (keeper.EX_TEMPFAIL, 75),
    "going down: the roles": (keeper.STOP_WITHIN, 4.0),
    "going down: the store": (loop.STOP_WITHIN, 4.5),
    # SPEC 7
    "a delivery is known": (tidy.KNOWN, 72 * HOUR),
    "a caller waits": (hooks.WAIT, 30.0),
    "pushes": ((push.RATE, push.MINUTE), (60, 60.0)),
    # SPEC 8 and 9
    "a line": (tasklog.LINE_MAX, 64 * KIB),
    "task.yaml": (yaml.TASK, (64 * KIB, 2_000)),
    "taskset.yaml, dicode.yaml": (yaml.CONFIG, (1 * MIB, 200_000)),
    "depth of YAML": (yaml.MAX_DEPTH, 32),
    "files, bytes and depth of a task": ((folder.MAX_FILES, folder.MAX_BYTES, folder.MAX_DEPTH), (2_000, 16 * MIB, 16)),
    "tasks of a source": ((expand.MAX_TASKS, snapshot.MAX_TASKS), (20_000, 20_000)),
    "sources": (config.MAX_SOURCES, 200),
    "git: memory and bytes": ((Limits().memory, Limits().fetch), (512 * MIB, 256 * MIB)),
    "git: time": ((Limits().seconds, plan.FETCH_WITHIN), (60.0, 60.0)),
    "webhook body": (bodies.BODY_MAX, 5 * MIB),
    "webhook headers": ((http.HEAD_MAX, http.FIELDS_MAX), (16 * KIB, 64)),
    "webhook connections": (http.CONNECTIONS_MAX, 256),
    "waiting runs": (runs.WAITING_MAX, 10_000),
    "run output": (tasklog.LOG_MAX, 10 * MIB),
    "bus frame": (frames.MAX_FRAME, 1 * MIB),
    "removal: twice, held": ((removal.TWICE, removal.HELD), (1.0, 60.0)),
}


@pytest.mark.parametrize("what", PROMISED)
def test_what_was_promised_is_kept(what: str) -> None:
    kept, promised = PROMISED[what]
    assert kept == promised


# ── limits whose other side has no test of its own ──


@pytest.mark.parametrize(("more", "fits"), [(-1, True), (0, True), (1, False)])
def test_the_limit_of_a_frame_is_exact_at_both_ends(more: int, fits: bool) -> None:
    command = List(what="x" * (MAX_FRAME - 100))
    command = List(what="x" * (MAX_FRAME - 100 + MAX_FRAME - len(encode_command(command)) + more))
    if fits:
        assert decode_command(encode_command(command)) == command
        return
    with pytest.raises(StoreFailed, match="a frame has at most"):
        encode_command(command)
    with pytest.raises(BadMessage):
        decode_command(b"\xc0" * (MAX_FRAME + more))


@pytest.mark.parametrize(("more", "fault"), [(-1, ""), (0, ""), (1, "larger than 1024 KiB")])
def test_the_limit_of_dicode_yaml_is_exact(more: int, fault: str) -> None:
    said = [
        each.message
        for each in config.parse_config(b"data_dir: x\n#".ljust(yaml.CONFIG.bytes + more, b"x"), "dicode.yaml", base_dir="/", home="/").faults
    ]
    assert (fault in said[0]) if fault else not said


@pytest.mark.parametrize(("nodes", "fits"), [(yaml.CONFIG.nodes, True), (yaml.CONFIG.nodes + 1, False)])
def test_the_nodes_of_dicode_yaml_are_counted(nodes: int, fits: bool) -> None:
    text = f"sources: [{'a,' * (nodes - 3)}]\n"  # each is a fault of its own, and they are not counted to the end
    said = [each.message for each in config.parse_config(text.encode(), "dicode.yaml", base_dir="/", home="/").faults]
    assert any("more than 200,000 nodes" in each for each in said) is not fits


# ── fields: each is obeyed, or named as not built yet (SPEC 3: never silence) ──

OBEYED = {
    "trigger.": (
        Trigger,
        "cron timezone dst catch_up jitter webhook webhook_secret auth methods respond manual daemon restart strategy stop_signal stop_grace",
    ),
    "": (
        TaskSpec,
        "name trigger description version author tags runtime params permissions timeout retry overlap concurrency on_failure_chain docker include "
        "ignore run_on",
    ),
    "permissions.": (Permissions, "env enforce"),
}
#: `strategy`, `runtime`, `on_failure_chain` and grants are named by their value, which is tested with them.
HARMLESS = {"name": "x", "trigger": Trigger(manual=True), "on_failure_chain": TaskCall(task=""), "permissions": Permissions(), "env": ()}


def _with(place: str, field: str) -> TaskSpec:
    """A spec in which this field is set."""
    said = {field: HARMLESS.get(field, "x")}
    match place:
        case "trigger.":
            return TaskSpec(name="x", trigger=Trigger(**said))
        case "permissions.":
            return TaskSpec(name="x", trigger=Trigger(manual=True), permissions=Permissions(**said))
        case _:
            return TaskSpec(**{"name": "x", "trigger": Trigger(manual=True), **said})


@pytest.mark.parametrize(("place", "field"), [(place, field) for place, (part, _) in OBEYED.items() for field in part.__struct_fields__])
def test_a_field_is_obeyed_or_named(place: str, field: str) -> None:
    assert (place + field in not_built(_with(place, field), "python")) is (field not in OBEYED[place][1].split())
