"""A spec as readers of JSON and YAML output see it: where task.yaml has the fields, durations in seconds. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, get_args, get_type_hints

import msgspec

from dicode.messages.task import Millis, Runtime, TaskSpec, timeout_of


def view(spec: TaskSpec, runtime: Runtime) -> dict[str, Any]:
    """Plain values; the timeout and the runtime in force are filled in, what is absent is missing (a timeout: None)."""
    fields = _plain(spec)
    timeout = timeout_of(spec, runtime)
    return {**fields, "runtime": runtime, "timeout": None if timeout is None else seconds(timeout)}


def seconds(millis: int) -> int | float:
    """A number of seconds, whole if it is."""
    return millis // 1000 if millis % 1000 == 0 else millis / 1000


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        names = _shape(type(value))
        found = ((name, shown, is_duration, getattr(value, name)) for name, shown, is_duration in names)
        return {shown: seconds(each) if is_duration else _plain(each) for name, shown, is_duration, each in found if each is not None}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value


@lru_cache(maxsize=64)
def _shape(struct: type[msgspec.Struct]) -> tuple[tuple[str, str, bool], ...]:
    """(attribute, name in task.yaml, is it a duration) of each field."""
    hints = get_type_hints(struct, include_extras=True)
    return tuple(
        (field.name, field.encode_name, Millis in (hints[field.name], *get_args(hints[field.name]))) for field in msgspec.structs.fields(struct)
    )
