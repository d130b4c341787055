"""The params a process of a task is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dicode.messages.task import TaskSpec
from dicode.runtime.command import CannotStart
from dicode.spec.params import effective


def params_of(spec: TaskSpec, given: Mapping[str, str]) -> dict[str, Any]:
    """What the task gets, whose variables are filled in: numbers and booleans where it declares such. Raises CannotStart."""
    found = effective(spec, given)
    if isinstance(found, tuple):
        raise CannotStart(f"BadParams: {'; '.join(found)}")
    types = {param.name: param.type for param in spec.params or ()}
    return {name: _typed(value, types.get(name)) for name, value in found.items()}


def _typed(value: str, type: str | None) -> Any:
    """`effective` has checked that it is one."""
    if type == "boolean" and value:
        return value == "true"
    if type == "number" and value:
        return int(value) if value.lstrip("+-").isdigit() else float(value)
    return value
