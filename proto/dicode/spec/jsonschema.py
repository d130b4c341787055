"""JSON Schemas of task.yaml, taskset.yaml and dicode.yaml for editors, made from the structs that read them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from dicode.messages.task import EnvGrant, Millis, Param, Permissions, TaskCall, TaskSpec
from dicode.spec.config import ConfigFile, Defaults, Ref
from dicode.spec.fields import without_none
from dicode.spec.task import API_VERSION, DICODE_LISTS, DICODE_SWITCHES
from dicode.spec.taskset import Overrides, SetDefaults, WrittenEntry, WrittenRef, WrittenSet

_TEXT: dict[str, Any] = {"type": ["string", "number", "boolean"]}
_DURATION: dict[str, Any] = {
    "description": "30s, 1m30s, 500ms, 2d; 0 for none",
    "anyOf": [{"type": "string", "pattern": r"^(0|([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+)$"}, {"const": 0}],
}


def task_schema() -> dict[str, Any]:
    """For a whole task.yaml."""
    return _file("task.yaml", _task())


def taskset_schema() -> dict[str, Any]:
    """For a whole taskset.yaml."""
    return {**_file("taskset.yaml", _object(WrittenSet)), "$defs": {"overrides": _object(Overrides)}}


def config_schema() -> dict[str, Any]:
    """For a whole dicode.yaml."""
    return _file("dicode.yaml", _object(ConfigFile))


#: By what `dicode schema` calls them.
KINDS: dict[str, Callable[[], dict[str, Any]]] = {"task": task_schema, "taskset": taskset_schema, "config": config_schema}


def _file(name: str, shape: dict[str, Any]) -> dict[str, Any]:
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"dicode {name}", **shape}


def _task() -> dict[str, Any]:
    shape = _object(TaskSpec)
    return {**shape, "properties": {"apiVersion": {"const": API_VERSION}, "kind": {"const": "Task"}, **shape["properties"]}}


def _object(struct: type[msgspec.Struct], but: frozenset[str] = frozenset()) -> dict[str, Any]:
    if struct not in _TYPES:
        _TYPES[struct] = get_type_hints(struct, include_extras=True)
    fields = [field for field in msgspec.structs.fields(struct) if field.encode_name not in but]
    required = [field.encode_name for field in fields if field.required]
    return {
        "type": "object",
        "properties": {field.encode_name: _field(struct, field.encode_name, _TYPES[struct][field.name]) for field in fields},
        "additionalProperties": False,
        **({"required": required} if required else {}),
        **_BESIDES.get(struct, {}),
    }


_TYPES: dict[type[msgspec.Struct], dict[str, Any]] = {}


def _field(struct: type[msgspec.Struct], name: str, annotation: Any) -> dict[str, Any]:
    special = _SPECIAL.get((struct, name))
    return _value(annotation) if special is None else special()


_BY_TYPE: dict[Any, dict[str, Any]] = {str: _TEXT, bool: {"type": "boolean"}, int: {"type": "integer"}, float: {"type": "number"}, Millis: _DURATION}


def _value(annotation: Any) -> dict[str, Any]:
    annotation = without_none(annotation)
    if annotation in _BY_TYPE:
        return _BY_TYPE[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        meta = next(extra for extra in annotation.__metadata__ if isinstance(extra, msgspec.Meta))
        limits = {"minimum": meta.ge, "maximum": meta.le}
        return {**_BY_TYPE[arguments[0]], **{name: limit for name, limit in limits.items() if limit is not None}}
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


def _dev_ref() -> dict[str, Any]:
    shape = _object(WrittenRef, frozenset({"dev_ref"}))
    return {**shape, "description": "replaces the ref in dev mode"}


def _patch() -> dict[str, Any]:
    return {"$ref": "#/$defs/overrides"}


def _patches() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": _patch()}


def _const(value: str) -> Callable[[], dict[str, Any]]:
    return lambda: {"const": value}


#: The fields that are read in a form of their own.
_SPECIAL: dict[tuple[type[msgspec.Struct], str], Callable[[], dict[str, Any]]] = {
    (TaskSpec, "runtime"): _runtime,
    (TaskSpec, "params"): _params,
    (TaskSpec, "on_failure_chain"): _call,
    (Permissions, "env"): _env,
    (Permissions, "dicode"): _capabilities,
    (WrittenSet, "apiVersion"): _const(API_VERSION),
    (WrittenSet, "kind"): _const("TaskSet"),
    (WrittenRef, "dev_ref"): _dev_ref,
    (WrittenEntry, "inline"): _task,
    (WrittenEntry, "overrides"): _patch,
    (SetDefaults, "env"): _env,
    (Overrides, "runtime"): _runtime,
    (Overrides, "params"): _params,
    (Overrides, "env"): _env,
    (Overrides, "dicode"): _capabilities,
    (Overrides, "entries"): _patches,
    (Defaults, "on_failure_chain"): _call,
}
#: What holds of several fields at once.
_BESIDES: dict[type[msgspec.Struct], dict[str, Any]] = {
    WrittenEntry: {"oneOf": [{"required": ["ref"]}, {"required": ["inline"]}]},
    WrittenRef: {"anyOf": [{"required": ["path"]}, {"required": ["url"]}]},
    Ref: {"minProperties": 1, "maxProperties": 1},
}
