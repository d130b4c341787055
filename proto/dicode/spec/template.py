"""`${VAR}` in a few fields of a spec, expanded where it is used and never in what is hashed, stored or shown. Pure.

Here alone stands which names may stand in which field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from typing import Literal, NamedTuple

from msgspec.structs import replace

from dicode.messages.task import EnvGrant, FsGrant, Param, Permissions, TaskSpec

#: What dicode itself knows; the variables of the host only stand in the fields that name something on it.
TASK_VARIABLES = ("TASK_DIR", "TASK_SET_DIR", "DATADIR", "HOME")
OWN = "DICODE_"  # variables of this prefix are ours: never taken from the host, never granted
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Place(NamedTuple):
    """A field in which variables may stand. `of`: the param, or the variable a grant is for; `host`: may one of the host stand here?"""

    kind: Literal["secret", "fs", "env", "param"]
    field: str
    of: str = ""
    host: bool = False


class Use(NamedTuple):
    """A variable where it stands."""

    place: Place
    variable: str


class Unknown(NamedTuple):
    """A variable that nobody knows where it stands. `message` names field and variable, and the cure."""

    place: Place
    message: str


class Expanded(NamedTuple):
    """Unknown variables stay as they were written."""

    text: str
    unknown: tuple[str, ...]


class ExpandedSpec(NamedTuple):
    """Unknown variables stay as they were written."""

    spec: TaskSpec
    unknown: tuple[Use, ...]


# ── filling in ──


def variables_of(*, task_dir: str, set_dir: str, data_dir: str, home: str) -> dict[str, str]:
    """The variables that may stand everywhere. What is "" is none of them: TASK_SET_DIR, outside of TaskSets."""
    values = zip(TASK_VARIABLES, (task_dir, set_dir, data_dir, home), strict=True)
    return {name: value for name, value in values if value}


def visible(host: Mapping[str, str], withheld: Container[str]) -> dict[str, str]:
    """The variables of the host that a task may name at all. `withheld`: Config.withheld_env."""
    return {name: value for name, value in host.items() if _is_visible(name, withheld)}


def _is_visible(name: str, withheld: Container[str]) -> bool:
    return not name.startswith(OWN) and name not in withheld


def expand(text: str, *variables: Mapping[str, str]) -> Expanded:
    """Each `${VAR}` replaced by its value in the first mapping that has it. What was put in is not expanded again."""
    if "${" not in text:
        return Expanded(text, ())
    unknown: list[str] = []

    def value(match: re.Match[str]) -> str:
        for known in variables:
            if match[1] in known:
                return known[match[1]]
        unknown.append(match[1])
        return match[0]

    return Expanded(_VARIABLE.sub(value, text), tuple(unknown))


def expand_spec(spec: TaskSpec, variables: Mapping[str, str], host: Mapping[str, str]) -> ExpandedSpec:
    """The spec as it is used now. `variables`: `variables_of`; `host`: what of the environment may be named.

    Host variables count only in webhook_secret, fs.path, env.from and env.secret, so that a default or a value
    cannot carry them off.
    """
    unknown: list[Use] = []

    def filled(place: Place, text: str) -> str:
        expanded = expand(text, variables, host) if place.host else expand(text, variables)
        unknown.extend(Use(place, name) for name in expanded.unknown)
        return expanded.text

    return ExpandedSpec(_changed(spec, filled), tuple(unknown))


# ── what nobody knows ──


def uses(spec: TaskSpec) -> tuple[Use, ...]:
    """Every variable the spec names, where it may name one."""
    return expand_spec(spec, {}, {}).unknown


def unknown_in(spec: TaskSpec, set_dir: str, host: Container[str], withheld: Collection[str] = ()) -> tuple[Unknown, ...]:
    """What would be unknown to a process of this task. `host`: the names of the environment; `withheld` of them are kept from tasks."""

    def is_known(use: Use) -> bool:
        if use.variable in TASK_VARIABLES:
            return use.variable != "TASK_SET_DIR" or bool(set_dir)
        return use.place.host and use.variable in host and (use.place.kind == "secret" or _is_visible(use.variable, withheld))

    return named((use for use in uses(spec) if not is_known(use)), withheld)


def secretless(unknown: Iterable[Unknown]) -> str:
    """Why a webhook has no secret, "" when it is not for that. It is an error of the task; the others are one of the runs that need them."""
    return next((each.message for each in unknown if each.place.kind == "secret"), "")


def named(unknown: Iterable[Use], withheld: Container[str] = ()) -> tuple[Unknown, ...]:
    """Each with its words for a person."""
    return tuple(Unknown(use.place, f"{use.place.field}: ${{{use.variable}}} {_why(use, withheld)}") for use in unknown)


def _why(use: Use, withheld: Container[str]) -> str:
    if use.variable == "TASK_SET_DIR":
        return "is known in a TaskSet only: write a path from ${TASK_DIR}"
    if not use.place.host:
        return f"is unknown: here may stand {', '.join(TASK_VARIABLES)}, and no variable of the host"
    if use.place.kind != "secret" and not _is_visible(use.variable, withheld):
        return "is dicode's own and kept from tasks: take another"
    return "is not set where dicode runs: set it there and restart dicode"


# ── the fields ──

_Change = Callable[[Place, str], str]


def _changed(spec: TaskSpec, change: _Change) -> TaskSpec:
    """The spec with every text that names variables changed; the same one when there is none. Asked for at each admission."""

    def text(place: Place, written: str | None) -> str | None:
        return change(place, written) if written is not None and "${" in written else written

    def param(each: Param) -> Param:
        if not _names_any(each.default):
            return each
        return replace(each, default=text(Place("param", f"params[{each.name}].default", each.name), each.default))

    def fs(index: int, each: FsGrant) -> FsGrant:
        return replace(each, path=text(Place("fs", f"permissions.fs[{index}].path", host=True), each.path)) if _names_any(each.path) else each

    def env(each: EnvGrant) -> EnvGrant:
        if not _names_any(each.value, each.secret, each.from_):
            return each
        field = f"permissions.env[{each.name}]"
        return replace(
            each,
            value=text(Place("env", f"{field}.value", each.name), each.value),
            secret=text(Place("env", f"{field}.secret", each.name, host=True), each.secret),
            from_=text(Place("env", f"{field}.from", each.name, host=True), each.from_),
        )

    def permissions(each: Permissions) -> Permissions:
        return replace(each, env=each.env and tuple(map(env, each.env)), fs=each.fs and tuple(fs(*numbered) for numbered in enumerate(each.fs)))

    if _names_any(spec.trigger.webhook_secret):
        secret = text(Place("secret", "trigger.webhook_secret", host=True), spec.trigger.webhook_secret)
        spec = replace(spec, trigger=replace(spec.trigger, webhook_secret=secret))
    if spec.params and any(_names_any(each.default) for each in spec.params):
        spec = replace(spec, params=tuple(map(param, spec.params)))
    if spec.permissions and _grants_name_any(spec.permissions):
        spec = replace(spec, permissions=permissions(spec.permissions))
    return spec


def _grants_name_any(granted: Permissions) -> bool:
    env, fs = granted.env or (), granted.fs or ()
    return any(_names_any(each.value, each.secret, each.from_) for each in env) or any(_names_any(each.path) for each in fs)


def _names_any(*texts: str | None) -> bool:
    return any(text is not None and "${" in text for text in texts)
