"""task.yaml: every field, every form, every fault at its place."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.messages.fault import Fault
from dicode.messages.task import (
    Chain,
    Dst,
    EnvGrant,
    FsGrant,
    Param,
    Permissions,
    Ready,
    Retry,
    TaskCall,
    TaskSpec,
    Trigger,
)
from dicode.spec.task import Parsed, Script, choose_script, not_built, parse_task

MANUAL = "trigger: {manual: true}\n"


def parse(text: str | bytes, **options: Any) -> Parsed:
    return parse_task(text.encode() if isinstance(text, str) else text, "task.yaml", **options)


def spec_of(text: str) -> TaskSpec:
    parsed = parse(text)
    assert parsed.faults == ()
    assert parsed.spec is not None
    return parsed.spec


def task(text: str) -> TaskSpec:
    """A manual task with these further fields."""
    return spec_of(f"name: T\n{MANUAL}{text}")


def faults(text: str | bytes) -> list[str]:
    parsed = parse(text)
    assert parsed.spec is None
    return [f"{fault.line}:{fault.column}: {fault.message}" for fault in parsed.faults]


def fault_in(text: str) -> str:
    """The one fault of a manual task with these further fields, which begin in line 3."""
    found = faults(f"name: T\n{MANUAL}{text}")
    assert len(found) == 1, found
    return found[0]


def test_a_whole_task() -> None:
    spec = spec_of("""\
apiVersion: dicode/v1
kind: Task
name: Slack digest
description: what happened   # a comment
version: 1.10
tags: [a, b]
runtime: js
trigger:
  cron: "*/5 * * * *"
  timezone: Europe/Berlin
  dst: {gap: skip, fold: both}
  catch_up: all
  jitter: 1m30s
params:
  channel: "#ops"
  limit: {type: number, default: "10", description: how many, required: false}
permissions:
  env: [HOME, MODE=fast=1, {name: A, from: env:B}, {name: C, from: "task:secrets/doppler", optional: true}, {name: D, secret: key}, {name: E, value: ""}]
  fs: [{path: "${TASK_DIR}/x", permission: rw}]
  run: ["*"]
  net: []
  dicode: {tasks: ["*"], list_tasks: true}
  enforce: best_effort
timeout: 0
retry: {attempts: 3, backoff: 500ms, multiplier: 1.5, max: 2d}
overlap: queue
concurrency: 2
on_failure_chain: {task: alert, params: {level: high}}
include: [../lib]
ignore: ["*.log"]
labels: {gpu: yes}
run_on: [gpu]
run_inputs: {retention: 720h}
""")
    assert spec == TaskSpec(
        name="Slack digest",
        description="what happened",
        version="1.10",
        tags=("a", "b"),
        runtime="deno",
        trigger=Trigger(cron="*/5 * * * *", timezone="Europe/Berlin", dst=Dst(gap="skip", fold="both"), catch_up="all", jitter=90_000),
        params=(Param(name="channel", default="#ops"), Param(name="limit", type="number", default="10", description="how many", required=False)),
        permissions=Permissions(
            env=(
                EnvGrant(name="HOME"),
                EnvGrant(name="MODE", value="fast=1"),
                EnvGrant(name="A", from_="env:B"),
                EnvGrant(name="C", from_="task:secrets/doppler", optional=True),
                EnvGrant(name="D", secret="key"),
                EnvGrant(name="E", value=""),
            ),
            fs=(FsGrant(path="${TASK_DIR}/x", permission="rw"),),
            run=("*",),
            net=(),
            dicode={"tasks": ("*",), "list_tasks": True},
            enforce="best_effort",
        ),
        timeout=0,
        retry=Retry(attempts=3, backoff=500, multiplier=1.5, max=172_800_000),
        overlap="queue",
        concurrency=2,
        on_failure_chain=TaskCall(task="alert", params={"level": "high"}),
        include=("../lib",),
        ignore=("*.log",),
        labels={"gpu": "yes"},
        run_on=("gpu",),
        run_inputs=spec.run_inputs,
    )
    assert spec.run_inputs is not None and spec.run_inputs.retention == 720 * 3_600_000


def test_a_daemon_with_everything() -> None:
    spec = spec_of("""\
name: D
trigger:
  daemon: true
  restart: on-failure
  strategy: rolling
  listen: ["tcp://127.0.0.1:9000"]
  ready: {http: "http://127.0.0.1:9000/healthz"}
  min_ready: 1s
  deadline: 30s
  auto_revert: true
  stop_signal: SIGINT
  stop_grace: 10s
""")
    assert spec.trigger == Trigger(
        daemon=True,
        restart="on-failure",
        strategy="rolling",
        listen=("tcp://127.0.0.1:9000",),
        ready=Ready(http="http://127.0.0.1:9000/healthz"),
        min_ready=1000,
        deadline=30_000,
        auto_revert=True,
        stop_signal="SIGINT",
        stop_grace=10_000,
    )


def test_params_keep_their_written_text_in_every_form() -> None:
    assert task('params: {a: 1.10, b: no, c: "", d: , e: 007}\n').params == (
        Param(name="a", default="1.10"), Param(name="b", default="no"), Param(name="c", default=""), Param(name="d"), Param(name="e", default="007"),
    )  # fmt: skip
    assert task("params:\n  - {name: a, default: x}\n  - name: b\n    required: true\n").params == (
        Param(name="a", default="x"),
        Param(name="b", required=True),
    )


def test_on_failure_chain_forms() -> None:
    assert task("on_failure_chain: alert\n").on_failure_chain == TaskCall(task="alert")
    assert task('on_failure_chain: ""\n').on_failure_chain == TaskCall(task="")
    assert task("on_failure_chain:\n").on_failure_chain is None


def test_a_chain_trigger() -> None:
    assert spec_of("name: C\ntrigger: {chain: {from: a/b, on: always}}\n").trigger == Trigger(chain=Chain(from_="a/b", on="always"))


def test_what_is_not_said_is_not_in_the_spec() -> None:
    assert msgspec.to_builtins(task("description:\ntags: ~\n")) == {"name": "T", "trigger": {"manual": True}}


def test_manual_false_beside_a_trigger_is_fine() -> None:
    assert spec_of('name: T\ntrigger: {manual: false, cron: "@daily"}\n').trigger.type == "cron"


def test_the_order_of_keys_does_not_matter() -> None:
    assert spec_of(f"name: T\ntimeout: 5s\n{MANUAL}") == spec_of(f"{MANUAL}timeout: 5000ms\nname: T\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: T\ntigger: {manual: true}\n", "2:1: unknown field 'tigger', did you mean 'trigger'?"),
        ("name: T\ntrigger: {manual: true}\nrestart: never\n", "3:1: unknown field 'restart', did you mean 'trigger.restart'?"),
        ("name: D\ntrigger:\n  daemon: true\n  restrat: never\n", "4:3: unknown field 'restrat', did you mean 'restart'?"),
        ("name: T\ntrigger: {scedule: 1, manual: true}\n", "2:11: unknown field 'scedule'; known are cron, "),
        ("trigger: {manual: true}\n", "1:1: 'name' is missing"),
        ("name: T\n", "1:1: 'trigger' is missing: every task needs exactly one trigger"),
        ("name: T\ntrigger:\n", "2:1: 'trigger' is missing"),
        ("name: T\ntrigger: {}\n", "2:1: exactly one trigger must be given"),
        ("name: T\ntrigger: {manual: false}\n", "2:1: exactly one trigger must be given"),
        ('name: T\ntrigger:\n  cron: "* * * * *"\n  manual: true\n', "2:1: exactly one trigger is allowed, found cron and manual: keep one"),
        ("name: T\ntrigger: manual\n", "2:1: 'trigger' must be a mapping of fields, not manual"),
        ("kind: TaskSet\nname: T\ntrigger: {manual: true}\n", "1:1: 'kind' must be Task"),
        ("apiVersion: v2\nname: T\ntrigger: {manual: true}\n", "1:1: 'apiVersion' must be dicode/v1"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, expected: str) -> None:
    found = faults(text)
    assert len(found) == 1, found
    assert found[0].startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("timeout: 5 parsecs\n", "'5 parsecs' is not a duration"),
        ("timeout: 30\n", "write 30s for seconds"),
        *(
            (f"timeout: {bad}\n", "duration")
            for bad in (".nan", ".inf", "-1", "1e999", '"5 minutes"', "PT5M", "-5s", "0x10", "9" * 5000, "1s2", "[1s]")
        ),
        ("retry: {attempts: 1.5}\n", "'attempts' must be a whole number, not 1.5"),
        ("retry: {attempts: -1}\n", "'attempts' must be between 0 and 100, not -1"),
        ("retry: {attempts: 0x10}\n", "must be a whole number"),
        (f"retry: {{attempts: 1{'0' * 5000}}}\n", "must be a whole number"),
        ('retry: {attempts: "3"}\n', 'must be a whole number, not "3"'),
        ("retry: {multiplier: .inf}\n", "'multiplier' must be a number"),
        ("retry: {multiplier: 0.5}\n", "between 1 and 1000"),
        ("concurrency: 0\n", "between 1 and 10000"),
        ("overlap: forbid\n", "'overlap' must be one of allow, skip, queue, replace, not forbid"),
        ("overlap: relpace\n", "did you mean 'replace'?"),
        ("runtime: ruby\n", "'runtime' must be one of deno, python, shell, docker, podman"),
        ("runtime: docker\n", "needs 'docker' with an image or a build"),
        ("docker: {image: x}\n", "'docker' needs runtime"),
        ("runtime: podman\ndocker: {command: [x]}\n", "needs an image or a build"),
        ("tags: a\n", "'tags' must be a list, not a"),
        ("tags: [[a]]\n", "'tags' must be text, not a list"),
        ("tags: [a, ]\nlabels: [a]\n", "'labels' must be a mapping"),
        ("tags: [~]\n", "an item of 'tags' is empty"),
        ("description: {a: b}\n", "'description' must be text, not a mapping"),
        ("params: x\n", "'params' must be a mapping"),
        ("params: {a: [1]}\n", "the default of param 'a' must be text"),
        ("params: [{default: x}]\n", "'name' is missing"),
        ("params: [{name: a}, {name: a}]\n", "duplicate param 'a'"),
        ("params: {a: {name: b}}\n", "the name of a param in a mapping is its key"),
        ("params: {a: {tpye: string}}\n", "unknown field 'tpye', did you mean 'type'?"),
        ("params: {a: {type: number, default: ten}}\n", "the default of param 'a' must be a number, not 'ten'"),
        ("params: {a: {type: boolean, default: yes}}\n", "must be true or false, not 'yes'"),
        ('params: {a: {type: cron, default: "60 * * * *"}}\n', "minute"),
        ("permissions: {env: A}\n", "'env' must be a list"),
        ("permissions: {env: [=x]}\n", "cannot be the name of a variable"),
        ('permissions: {env: [{name: "A=B"}]}\n', "cannot be the name of a variable"),
        ('permissions: {env: [{name: "A\\x01"}]}\n', "cannot be the name of a variable"),
        ("permissions: {env: [A, A=1]}\n", "duplicate variable 'A'"),
        ('permissions: {env: [{name: A, from: "file:/etc/passwd"}]}\n', "'from' must be VAR, env:VAR or task:ID"),
        ("permissions: {net: }\n", "'net' has no value: write [] for no network"),
        ("permissions: {enforce: strict}\n", "'enforce: strict' is not possible in this release"),
        ("permissions: {fs: [{path: x, permission: rx}]}\n", "must be one of r, w, rw"),
        ("permissions: {fs: [/data]}\n", "must be a mapping of fields, not /data"),
        ("permissions: {dicode: {tasks: true}}\n", "'tasks' must be a list"),
        ("permissions: {dicode: {list_task: true}}\n", "unknown field 'list_task'"),
        ("on_failure_chain: {task: a, params: {status: x}}\n", "params status are set by dicode"),
        ("include: [/etc/passwd]\n", "must hold paths relative to the task's folder"),
        ("mcp_port: 65536\n", "between 0 and 65535"),
    ],
)
def test_a_wrong_value_is_one_fault_in_its_line(text: str, expected: str) -> None:
    found = fault_in(text)
    assert expected in found
    assert found.startswith(("3:", "4:"))


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        ('cron: "60 * * * *"', "minute"),
        ('cron: "99 * * * *"', "minute"),
        ('cron: "0 0 30 2 *"', "never"),
        ('cron: "0 0 * * * *"', "5 fields"),
        ('cron: "0 0 * * * * *"', "5 fields"),
        ('cron: "R R * * *"', "minute"),
        ('cron: "H H * * *"', "minute"),
        ('cron: "*/0 * * * *"', "minute"),
        ('cron: "*/99999999999 * * * *"', "minute"),
        (f'cron: "{",".join(["1"] * 5000)} * * * *"', "200"),
        ('cron: "\u0661 * * * *"', "ASCII"),
        ('cron: "0\u00a00 * * *"', "ASCII"),
        ("cron: 12:30:00", "5 fields"),
        ('cron: ""', "5 fields"),
        ('cron: "@never"', "@never"),
        ("cron: [a]", "'cron' must be text"),
        ('cron: "@daily", timezone: Mars/Base', "Mars/Base"),
        ('cron: "@daily", timezone: ../../etc/passwd', "timezone"),
        ('cron: "@daily", timezone: ""', "timezone"),
        ('cron: "@daily", timezone: Europe', "timezone"),
        ('cron: "@daily", catch_up: some', "must be one of last, none, all"),
        ("webhook: /x", "must be /hooks/ and a name"),
        ('webhook: ""', "must be /hooks/ and a name"),
        ("webhook: /hooks/", "must be /hooks/ and a name"),
        ("webhook: /hooks/../admin", "must be /hooks/ and a name"),
        ("webhook: /hooks/a//b", "must be /hooks/ and a name"),
        ("webhook: /hooks/%2e%2e", "must be /hooks/ and a name"),
        ("webhook: /hooks/git/x", "reserved"),
        ("webhook: /hooks/x, methods: POST", "'methods' must be a list"),
        ("webhook: /hooks/x, methods: [TRACE]", "must be one of GET, POST"),
        ("webhook: /hooks/x, auth: yes", "'auth' must be true or false, not yes"),
        ("daemon: yes", "'daemon' must be true or false, not yes"),
        ("daemon: true, restart: no", "must be one of always, on-failure, never"),
        ("daemon: true, stop_signal: SIGSTOP", "'stop_signal' must be one of"),
        ("daemon: true, listen: [9000]", "'listen' must be like tcp://"),
        ("daemon: true, ready: {http: a, tcp: b}", "must name one probe"),
        ("chain: {on: success}", "'from' is missing"),
        ("chain: {from: a, on: sucess}", "did you mean 'success'?"),
    ],
)
def test_a_wrong_trigger_is_one_fault_in_its_line(trigger: str, expected: str) -> None:
    found = faults(f"name: T\ntrigger: {{{trigger}}}\n")
    assert len(found) == 1, found
    assert found[0].startswith("2:")
    assert expected in found[0]


def test_a_trailing_newline_in_a_cron_is_no_fifth_field() -> None:
    assert faults('name: T\ntrigger: {cron: "* * * *\\n"}\n')


@pytest.mark.parametrize("cron", ["*/5 * * * *", "@hourly", "@every 90s", "0 0 29 2 *", "0 9 * * 1-5", "0 0 * * sun"])
def test_a_good_cron_is_kept_as_written(cron: str) -> None:
    assert spec_of(f'name: T\ntrigger: {{cron: "{cron}"}}\n').trigger.cron == cron


@pytest.mark.parametrize("name", ["../x", "a/b", ".", "x" * 300, "😀", "A", "a", "é", "e\u0301"])
def test_a_name_is_for_people_and_may_be_anything_that_shows(name: str) -> None:
    assert spec_of(f'name: "{name}"\n{MANUAL}').name == name


@pytest.mark.parametrize("name", ["", " ", "a\\nb", "\\e[31m", "\u202eabc", "a\\0"])
def test_a_name_that_would_play_tricks_on_a_screen_is_refused(name: str) -> None:
    assert "1:" in faults(f'name: "{name}"\n{MANUAL}')[0]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "the file is empty"),
        (b"---\n", "the file must be a mapping"),
        (b"name: a\n---\nname: b\n", "second document"),
        (b"- a\n- b\n", "the file must be a mapping"),
        (b"name: \0", "NUL"),
        (b"\xff\xfen\0", "UTF-16"),
        (b"name: \xc3(", "not UTF-8"),
        (b"name: T\ntrigger:\n\tmanual: true\n", "tab"),
        (b"#".ljust(64 * 1024 + 1), "larger than 64 KiB"),
        (b"a" * 10_000_000, "larger than 64 KiB"),
        (b"[" * 50_000, "nested deeper"),
        (b"{a:" * 100_000, "larger than 64 KiB"),
        (b"{a: " * 16_000, "nested deeper"),
        (b"name: a\nname: b\n", "duplicate key 'name'"),
        (b"name: !!python/object/apply:os.system [x]\n", "tag"),
        (b"name: &a [*a]\n", "anchor"),
        (b"a: &a {x: 1}\nb: {<<: *a}\n", "anchor"),
    ],
)
def test_hostile_files_are_refused_by_name(data: bytes, expected: str) -> None:
    assert expected in faults(data)[0]


def test_unknown_fields_come_first_then_by_position() -> None:
    found = faults("name: T\ntimeout: x\ntrigger: {manual: yes, foo: 1}\nbar: 2\n")
    assert [text.split(": ")[0] for text in found] == ["3:24", "4:1", "2:1", "3:11"]


def test_kind_is_required_where_asked() -> None:
    assert parse(f"name: T\n{MANUAL}", kind_required=True).faults[0].message.startswith("'kind: Task' is missing")
    assert parse(f"kind: Task\nname: T\n{MANUAL}", kind_required=True).faults == ()


def test_a_fault_found_later_is_placed_at_the_first_key_that_is_set() -> None:
    parsed = parse(f"name: T\nruntime: python\n{MANUAL}")
    assert parsed.fault("x", "docker", "runtime") == Fault("task.yaml", 2, 1, "x")
    assert parsed.fault("x", "docker") == Fault("task.yaml", 1, 1, "x")


@given(st.binary(max_size=400))
def test_any_bytes_give_a_spec_or_faults(data: bytes) -> None:
    parsed = parse(data)
    assert (parsed.spec is None) == bool(parsed.faults)


_keys = st.sampled_from(
    [
        "name",
        "trigger",
        "params",
        "permissions",
        "env",
        "cron",
        "manual",
        "timeout",
        "retry",
        "docker",
        "ready",
        "net",
        "x",
        "include",
        "chain",
        "from",
        "on_failure_chain",
        "dicode",
    ]
)
_trees = st.recursive(
    st.sampled_from(["a", "true", "false", "null", "1", "1.5", "5s", '""', "A=b", "${X}", "* * * * *", "é"]).map(lambda text: f'"{text}"' if text in ("* * * * *", "${X}") else text),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
    | st.dictionaries(_keys, inner, max_size=4).map(lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(_keys, _trees, max_size=6))
def test_any_shape_of_fields_gives_a_spec_or_faults(fields: dict[str, str]) -> None:
    parsed = parse("".join(f"{key}: {value}\n" for key, value in fields.items()))
    assert (parsed.spec is None) == bool(parsed.faults)
    if parsed.spec is not None:
        assert msgspec.json.decode(msgspec.json.encode(parsed.spec), type=TaskSpec) == parsed.spec


# ── what follows from a spec ──


@pytest.mark.parametrize(
    ("runtime", "files", "expected"),
    [
        ("", {"task.py": "-"}, Script("python", "task.py")),
        ("", {"task.ts": "-"}, Script("deno", "task.ts")),
        ("", {"task.mjs": "-"}, Script("deno", "task.mjs")),
        ("", {"task.ts": "-", "task.js": "-"}, Script("deno", "task.ts")),
        ("", {"task.sh": "-"}, Script("shell", "task.sh")),
        ("", {"task": "x"}, Script("shell", "task")),
        ("shell", {"task.py": "-", "task.sh": "-"}, Script("shell", "task.sh")),
        ("js", {"task.js": "-"}, Script("deno", "task.js")),
        ("docker\ndocker: {image: x}", {}, Script("docker", "")),
    ],
)
def test_the_script_decides_the_runtime(runtime: str, files: dict[str, str], expected: Script) -> None:
    assert choose_script(task(f"runtime: {runtime}\n"), files) == expected


@pytest.mark.parametrize(
    ("runtime", "files", "expected"),
    [
        ("python", {"main.py": "-"}, "expected task.py beside task.yaml"),
        ("", {}, "expected task.py or task.ts or task.js or task.mjs or task.sh or an executable task"),
        ("shell", {"task": "-"}, "task is there but not executable"),
        ("", {"task.py": "-", "task.sh": "-"}, "both task.py and task.sh are here"),
        ("deno", {"sub/task.ts": "-"}, "expected task.ts"),
    ],
)
def test_a_missing_script_is_named(runtime: str, files: dict[str, str], expected: str) -> None:
    wrong = choose_script(task(f"runtime: {runtime}\n"), files)
    assert isinstance(wrong, str)
    assert expected in wrong


def test_what_is_accepted_without_effect_is_named() -> None:
    spec = task("""\
permissions: {env: [A, B=1, {name: C, secret: k}, {name: D, from: task:p}], net: [], run: [git]}
notify: {on_success: true}
user: nobody
retry: {attempts: 2}
overlap: skip
on_failure_chain: alert
""")
    assert set(not_built(spec, "python")) == {
        "permissions.run",
        "permissions.net",
        "permissions.env[C]",
        "permissions.env[D]",
        "notify",
        "user",
        "on_failure_chain",
    }
    assert not {"permissions.run", "permissions.net"} & set(not_built(spec, "deno")), "deno enforces what it is told to"
    assert not_built(task("permissions: {net: ['*']}\n"), "shell") == (), "all of the network is what it gets"
    assert not_built(task("retry: {attempts: 2}\non_failure_chain: ''\n"), "python") == ()
    assert not_built(spec_of("name: C\ntrigger: {chain: {from: a}}\n"), "python") == ("trigger.chain",)
