"""The cascade, field by field: what a patch changes, what it leaves, and what may not come of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.messages.task import TaskSpec, Trigger
from dicode.spec.cascade import BELONGS, Base, apply, check
from dicode.spec.task import TRIGGERS, parse_task
from dicode.spec.taskset import Layer, Overrides, parse_set

TYPES = {"cron": '"@daily"', "webhook": "/hooks/x", "chain": "{from: a}", "manual": "true", "daemon": "true"}


def task(text: str) -> TaskSpec:
    found = parse_task(f"name: T\n{text}".encode())
    assert found.spec is not None, found.faults
    return found.spec


def layer(text: str, file: str = "set") -> Layer:
    entry = parse_set(f"kind: TaskSet\nspec: {{entries: {{e: {{ref: {{path: a}}, overrides:\n  {{{text}}}}}}}}}".encode(), file).entries["e"]
    assert entry.overrides is not None, entry.faults
    return entry.overrides


def cascaded(base: str, *patches: str) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(apply(task(base), [layer(patch).patch for patch in patches])))
    return found


@pytest.mark.parametrize(
    ("base", "patches", "path", "expected"),
    [
        ("trigger: {manual: true}", ["name: N, description: D, runtime: js, timeout: 9s"], "runtime", "deno"),
        ("trigger: {manual: true}\ntimeout: 5s", ["timeout: 0"], "timeout", 0),
        ("trigger: {manual: true}\ntimeout: 5s", ["timeout: 6s", "timeout: 7s"], "timeout", 7000),
        ("trigger: {manual: true}\ntimeout: 5s", ["timeout: 6s", "name: X"], "timeout", 6000),
        ("trigger: {manual: true}\ndescription: x", ["description: ''"], "description", ""),
        ("trigger: {manual: true}\nretry: {attempts: 3, backoff: 1s}", ["retry: {backoff: 2s}"], "retry", {"attempts": 3, "backoff": 2000}),
        ("trigger: {manual: true}", ["retry: {attempts: 1}", "retry: {max: 1m}"], "retry", {"attempts": 1, "max": 60_000}),
        ("trigger: {manual: true}\nnotify: {on_failure: true}", ["notify: {on_success: false}"], "notify", {"on_failure": True, "on_success": False}),
        ("trigger: {manual: true}\npermissions: {net: [a], fs: [{path: /x}]}", ["net: []"], "permissions", {"net": [], "fs": [{"path": "/x"}]}),
        ("trigger: {manual: true}\npermissions: {net: [a, b]}", ["net: [c]"], "permissions", {"net": ["c"]}),
        (
            "trigger: {manual: true}\npermissions: {dicode: {tasks: [a], list_tasks: true}}",
            ["dicode: {tasks: [], get_runs: true}"],
            "permissions",
            {"dicode": {"tasks": [], "list_tasks": True, "get_runs": True}},
        ),
        (
            "trigger: {manual: true}\npermissions: {env: [A=1, {name: B, secret: K}]}",
            ["env: [{name: A, secret: S}, C]", "env: [B=2]"],
            "permissions",
            {"env": [{"name": "A", "secret": "S"}, {"name": "B", "value": "2"}, {"name": "C"}]},
        ),
        (
            "trigger: {manual: true}\nparams: {z: {type: number, default: '1', description: d}, a: x}",
            ["params: {y: 2, z: {default: 3, required: true}, b: 1}", "params: [{name: q}]"],
            "params",
            [
                {"name": "z", "type": "number", "default": "3", "description": "d", "required": True},
                {"name": "a", "default": "x"},
                {"name": "b", "default": "1"},
                {"name": "y", "default": "2"},
                {"name": "q"},
            ],
        ),
        ("trigger: {manual: true}", ["trigger: {manual: false, daemon: true}"], "trigger", {"manual": False, "daemon": True}),
        ("trigger: {cron: '@daily', timezone: UTC}", ["trigger: {jitter: 5s}"], "trigger", {"cron": "@daily", "timezone": "UTC", "jitter": 5000}),
        (
            "trigger: {webhook: /hooks/x, auth: true, webhook_secret: s}",
            ["trigger: {webhook: /hooks/y, methods: [PUT]}"],
            "trigger",
            {"webhook": "/hooks/y", "auth": True, "webhook_secret": "s", "methods": ["PUT"]},
        ),
        (
            "trigger: {daemon: true, restart: never, stop_grace: 1s}",
            ["trigger: {cron: '@daily'}", "trigger: {daemon: true}"],
            "trigger",
            {"daemon": True},
        ),
    ],
)
def test_the_cascade_field_by_field(base: str, patches: list[str], path: str, expected: object) -> None:
    assert cascaded(base, *patches)[path] == expected


@pytest.mark.parametrize("before", TRIGGERS)
@pytest.mark.parametrize("after", TRIGGERS)
def test_a_trigger_type_leaves_nothing_of_another(before: str, after: str) -> None:
    left = set(cascaded(f"trigger: {{{before}: {TYPES[before]}}}", f"trigger: {{{after}: {TYPES[after]}}}")["trigger"])
    assert left == {after}


def test_every_field_of_a_trigger_belongs_to_a_type() -> None:
    assert set(Trigger.__struct_fields__) == {*TRIGGERS, *(field for fields in BELONGS.values() for field in fields)}


# ── what may not come of it ──


def wrong(base: str, *patches: str) -> str:
    text = f"name: T\n{base}"
    found = parse_task(text.encode(), "task.yaml")
    assert found.spec is not None and found.root is not None
    layers = [layer(patch, f"set{number}") for number, patch in enumerate(patches)]
    (fault,) = check(apply(found.spec, [each.patch for each in layers]), Base("task.yaml", found.root), layers)
    return str(fault)


@pytest.mark.parametrize(
    ("base", "patches", "said"),
    [
        ("trigger: {manual: true}", ["trigger: {manual: false}"], "set0:3:4: exactly one trigger must be left"),
        ("trigger: {manual: true}", ["name: X", "description: d, trigger: {manual: false}"], "set1:3:20: exactly one trigger"),
        ("trigger: {manual: true}", ["runtime: docker"], "set0:3:4: runtime docker needs 'docker'"),
        ("trigger: {manual: true}", ["runtime: docker", "runtime: podman", "timeout: 1s"], "set1:3:4: runtime podman needs 'docker'"),
        (
            "trigger: {manual: true}\nparams: {n: {type: number, default: 1}}",
            ["params: {n: x}"],
            "set0:3:13: the default of param 'n' must be a number",
        ),
        (
            "trigger: {manual: true}\nparams: {n: {type: boolean}}",
            ["params: [{name: m}, {name: n, default: x}]"],
            "set0:3:34: the default of param 'n' must be true or false",
        ),
        (
            "trigger: {manual: true}\nparams: {n: x}",
            ["params: [{name: n, type: number}]"],
            "task.yaml:3:10: the default of param 'n' must be a number",
        ),
    ],
)
def test_what_came_of_it_must_still_be_a_task(base: str, patches: list[str], said: str) -> None:
    assert wrong(base, *patches).startswith(said)


def test_a_default_that_is_to_be_expanded_is_judged_when_it_is() -> None:
    spec = apply(task("trigger: {manual: true}\nparams: {n: {type: number}}"), [layer("params: {n: '${HOME}'}").patch])
    assert check(spec, Base("f", None), ()) == ()


# ── properties ──

PATCHES = st.lists(
    st.sampled_from(
        [
            "timeout: 5s", "timeout: 0", "name: A", "description: d", "runtime: python", "net: []", "net: [a]", "env: [A=1]", "env: [B, A=2]",
            "params: {p: 1}", "params: {q: {type: number, default: 2}, p: 3}", "retry: {attempts: 2}", "retry: {backoff: 1s}",
            "notify: {on_failure: true}", "dicode: {tasks: [x]}", "trigger: {cron: '@daily'}", "trigger: {restart: never}",
            "trigger: {webhook: /hooks/x, auth: true}", "trigger: {daemon: true}", "trigger: {manual: true}",
        ]
    ),
    max_size=6,
)  # fmt: skip
BASE = "trigger: {cron: '@hourly', jitter: 1s}\nparams: {p: {default: '0'}}\npermissions: {env: [Z], net: [n]}\nretry: {max: 1m}"


@given(PATCHES)
def test_a_patch_twice_is_a_patch_once_and_nothing_changes_nothing(patches: list[str]) -> None:
    layers = [layer(text).patch for text in patches]
    once = apply(task(BASE), layers)
    assert apply(once, layers[-1:]) == once
    assert apply(task(BASE), [Overrides(), *layers, Overrides(enabled=True, entries={})]) == once


@given(PATCHES)
def test_what_the_cascade_makes_has_at_most_one_trigger(patches: list[str]) -> None:
    trigger = apply(task(BASE), [layer(text).patch for text in patches]).trigger
    assert len([name for name in TRIGGERS if getattr(trigger, name)]) == 1
