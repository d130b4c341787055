"""The environment of a task, built from nothing: PATH, LANG, HOME, what `permissions.env` grants, and `DICODE_*` of its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from dicode.messages.task import EnvGrant, TaskSpec
from dicode.process.filenames import file_name
from dicode.spec.template import OWN, visible

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


class Environment(NamedTuple):
    """`variables` is all a task will see. `missing` says, for people, what it needs and nobody gives: do not start it then."""

    variables: dict[str, str]
    missing: tuple[str, ...] = ()


def build(
    spec: TaskSpec,
    host: Mapping[str, str],
    *,
    task_id: str,
    state_dir: Path,
    params: Mapping[str, object] | None = None,
    withheld: Collection[str] = (),
    own: Mapping[str, str] | None = None,
) -> Environment:
    """The environment of one process of a task, whose variables are filled in (runtime.variables).

    `host` is the environment of the role, of which only granted variables are taken, and never those in `withheld`
    (Config.withheld_env). `params` are the effective ones. `own` are further DICODE_* variables, such as DICODE_RUN_ID.
    """
    seen = visible(host, withheld)
    variables = {
        "PATH": host.get("PATH") or DEFAULT_PATH,
        "LANG": host.get("LANG") or "C.UTF-8",
        "HOME": host.get("HOME") or str(state_dir),
    }
    missing: list[str] = []
    for grant in (spec.permissions.env if spec.permissions else None) or ():
        if grant.name.startswith(OWN):
            continue
        value, lack = _granted(grant, seen)
        if lack:
            missing.append(lack)
        elif value is not None:
            variables[grant.name] = value
    variables |= {"DICODE_TASK_ID": task_id, "DICODE_STATE_DIR": str(state_dir)}
    for name, given in (params or {}).items():
        variables[param_variable(name)] = _text(given)
    return Environment(variables | dict(own or {}), tuple(missing))


def _granted(grant: EnvGrant, seen: Mapping[str, str]) -> tuple[str | None, str]:
    """(value or None for unset, what is missing or ""). The order is value, secret, from; an empty value falls through."""
    if grant.value:
        return grant.value, ""
    if grant.secret:
        if grant.optional:
            return "", ""
        return None, f"secret '{grant.secret}' for {grant.name} is not set"
    if grant.from_:
        if grant.from_.startswith("task:"):
            if grant.optional:
                return "", ""
            return None, f"{grant.name} comes from the secret provider '{grant.from_}', which this release cannot ask"
        return seen.get(grant.from_.removeprefix("env:")), ""
    if grant.value is not None:
        return "", ""
    return seen.get(grant.name), ""


def param_variable(name: str) -> str:
    """`DICODE_PARAM_NAME` for the param `name`: upper case, everything but letters and digits as `_`."""
    return f"{OWN}PARAM_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def state_folder(state: Path, task_id: str) -> Path:
    """The writable folder of a task: one level, so that `a/b` does not lie inside the folder of `a`. Not made here."""
    return state / file_name(task_id)
