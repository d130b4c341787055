"""The params a run gets: what was given, over the defaults, checked against what is declared. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dicode.messages.task import Param, TaskSpec
from dicode.spec import schedule

_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
MAX_LENGTH = 64 * 1024  # characters of one value


def effective(spec: TaskSpec, given: Mapping[str, Any]) -> dict[str, str] | tuple[str, ...]:
    """Name → value of every param that has one, or what is wrong, one line each.

    Values given may be text, numbers or booleans (from JSON); they are checked and come back as text.
    """
    declared = {param.name: param for param in spec.params or ()}
    wrong = [_undeclared(name, declared) for name in given if name not in declared]
    values: dict[str, str] = {}
    for name, param in declared.items():
        value = given.get(name)
        written = param.default if value is None else _written(value)
        if written is None and value is not None:
            wrong.append(f"param '{name}' must be text, a number or a boolean")
        elif not written and param.required:
            wrong.append(f"param '{name}' is required")
        elif written is not None:
            problem = _problem(param, written)
            if problem is None:
                values[name] = _normal(param, written)
            else:
                wrong.append(f"param '{name}' {problem}")
    return tuple(wrong) if wrong else values


def check_value(type: str, value: str) -> str | None:
    """What is wrong with a value of this declared type; None when it is fine."""
    match type:
        case "number":
            return None if _NUMBER.fullmatch(value.strip()) and len(value) < 400 else f"must be a number, not '{_short(value)}'"
        case "boolean":
            return None if value.strip().lower() in ("true", "false") else f"must be true or false, not '{_short(value)}'"
        case "cron":
            return schedule.check_cron(value)
        case _:
            return None


def _problem(param: Param, value: str) -> str | None:
    if len(value) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH:,} characters: send it as input"
    if "\0" in value:
        return "holds a NUL character"
    if not value and param.type in ("number", "boolean", "cron") and not param.required:
        return None  # an empty default means: none
    return check_value(param.type or "string", value)


def _normal(param: Param, value: str) -> str:
    match param.type:
        case "number":
            return value.strip()
        case "boolean":
            return value.strip().lower()
        case _:
            return value


def _written(value: Any) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int() | float():
            return repr(value)
        case _:
            return None


def _undeclared(name: str, declared: Mapping[str, Param]) -> str:
    import difflib  # 3 ms, and only for whoever mistyped

    near = difflib.get_close_matches(name, declared, 1)
    if near:
        return f"param '{_short(name)}' is not declared, did you mean '{near[0]}'?"
    return f"param '{_short(name)}' is not declared; " + (f"known are {', '.join(declared)}" if declared else "the task has no params")


def _short(value: str) -> str:
    short = value if len(value) <= 60 else value[:60] + "…"
    return short if short.isprintable() else ascii(short)[1:-1]
