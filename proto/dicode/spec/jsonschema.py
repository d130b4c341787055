"""The JSON Schema of task.yaml for editors, made from the structs that read it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from dicode.messages.task import EnvGrant, Millis, Param, Permissions, TaskCall, TaskSpec
from dicode.spec.fields import without_none
from dicode.spec.task import DICODE_LISTS, DICODE_SWITCHES

_TEXT: dict[str, Any] = {"type": ["string", "number", "boolean"]}
_DURATION: dict[str, Any] = {
    "description": "30s, 1m30s, 500ms, 2d; 0 for none",
    "anyOf": [{"type": "string", "pattern": r"^(0|([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+)$"}, {"const": 0}],
}


def task_schema() -> dict[str, Any]:
    """For a whole task.yaml."""
    schema = _object(TaskSpec)
    schema["properties"] = {"apiVersion": {"const": "dicode/v1"}, "kind": {"const": "Task"}, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "dicode task.yaml", **schema}


def _object(struct: type[msgspec.Struct]) -> dict[str, Any]:
    hints = get_type_hints(struct, include_extras=True)
    fields = msgspec.structs.fields(struct)
    properties = {
        field.encode_name: _SPECIAL[struct, field.encode_name]() if (struct, field.encode_name) in _SPECIAL else _value(hints[field.name])
        for field in fields
    }
    required = [field.encode_name for field in fields if field.required]
    return {"type": "object", "properties": properties, "additionalProperties": False, **({"required": required} if required else {})}


_BY_TYPE: dict[Any, dict[str, Any]] = {str: _TEXT, bool: {"type": "boolean"}, int: {"type": "integer"}, float: {"type": "number"}, Millis: _DURATION}


def _value(annotation: Any) -> dict[str, Any]:
    annotation = without_none(annotation)
    if annotation in _BY_TYPE:
        return _BY_TYPE[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _value(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _value(arguments[1])}
    return _object(annotation)


def _runtime() -> dict[str, Any]:
    return {"enum": [*get_args(without_none(get_type_hints(TaskSpec)["runtime"])), "js"]}


def _params() -> dict[str, Any]:
    one = _object(Param)
    named = {**one, "properties": {name: shape for name, shape in one["properties"].items() if name != "name"}}
    named.pop("required", None)
    return {"anyOf": [{"type": "object", "additionalProperties": {"anyOf": [_TEXT, {"type": "null"}, named]}}, {"type": "array", "items": one}]}


def _env() -> dict[str, Any]:
    return {"type": "array", "items": {"anyOf": [{"type": "string", "description": "NAME or NAME=literal"}, _object(EnvGrant)]}}


def _call() -> dict[str, Any]:
    return {"anyOf": [{"type": "string", "description": "a task id"}, _object(TaskCall)]}


def _capabilities() -> dict[str, Any]:
    ids = {"type": "array", "items": _TEXT}
    switch = {"anyOf": [{"type": "boolean"}, ids]}
    return {
        "type": "object",
        "properties": {**dict.fromkeys(DICODE_LISTS, ids), **dict.fromkeys(DICODE_SWITCHES, switch)},
        "additionalProperties": False,
    }


#: The fields that `spec.task` reads in a form of their own.
_SPECIAL: dict[tuple[type[msgspec.Struct], str], Callable[[], dict[str, Any]]] = {
    (TaskSpec, "runtime"): _runtime,
    (TaskSpec, "params"): _params,
    (TaskSpec, "on_failure_chain"): _call,
    (Permissions, "env"): _env,
    (Permissions, "dicode"): _capabilities,
}
