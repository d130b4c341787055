"""A task's spec as one of its processes uses it: `${…}` filled in, and no start with one that nobody knows."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

from dicode.messages.task import Runtime, TaskSpec
from dicode.runtime.command import CannotStart
from dicode.spec.template import Use, expand_spec, named, variables_of, visible


def filled(
    spec: TaskSpec,
    runtime: Runtime,
    host: Mapping[str, str],
    *,
    task_dir: Path,
    data_dir: Path,
    set_dir: str = "",
    given: Container[str] = (),
    withheld: Container[str] = (),
) -> TaskSpec:
    """The spec with its variables filled in. `host`: the environment of the role; `given`: the params that need no default.

    Raises CannotStart where this process would use a variable that nobody knows.
    """
    variables = variables_of(task_dir=str(task_dir), set_dir=set_dir, data_dir=str(data_dir), home=host.get("HOME", "/"))
    expanded = expand_spec(spec, variables, visible(host, withheld))
    needed = [use for use in expanded.unknown if _is_needed(use, spec, runtime, given)]
    if needed:
        raise CannotStart(f"UnknownVariable: {'; '.join(each.message for each in named(needed, withheld))}")
    return expanded.spec


def _is_needed(use: Use, spec: TaskSpec, runtime: Runtime, given: Container[str]) -> bool:
    match use.place.kind:
        case "param":
            return use.place.of not in given
        case "fs":
            return runtime == "deno"  # the others are not held to it
        case "env":
            return use.place.field in _giving(spec)
        case _:
            return False


def _giving(spec: TaskSpec) -> set[str]:
    """The fields that give the task its environment: one of each grant, and none where it may stay unset."""
    grants = (spec.permissions and spec.permissions.env) or ()
    return {
        f"permissions.env[{grant.name}].{'value' if grant.value else 'secret' if grant.secret else 'from'}"
        for grant in grants
        if grant.value or not grant.optional
    }
