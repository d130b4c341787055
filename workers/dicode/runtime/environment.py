"""The environment of a task, built from nothing: PATH, LANG, HOME, what `permissions.env` grants, and `DICODE_*` of its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from dicode.messages.task import EnvGrant, TaskSpec
from dicode.process.filenames import file_name

OWN = "DICODE_"  # variables of this prefix are ours: never taken from the host, never granted
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_TEMPLATE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Environment(NamedTuple):
    """`variables` is all a task will see. `missing` says, for people, what it needs and nobody gives: do not start it then."""

    variables: dict[str, str]
    missing: tuple[str, ...] = ()


def build(
    spec: TaskSpec,
    host: Mapping[str, str],
    *,
    task_id: str,
    task_dir: Path,
    state_dir: Path,
    data_dir: Path,
    set_dir: str = "",
    params: Mapping[str, object] | None = None,
    withheld: Collection[str] = (),
    own: Mapping[str, str] | None = None,
) -> Environment:
    """The environment of one process of a task.

    `host` is the environment of the role, of which only granted variables are taken, and never those in `withheld`
    (Config.withheld_env). `params` are the effective ones. `own` are further DICODE_* variables, such as DICODE_RUN_ID.
    """
    names = known(task_dir, data_dir, host, set_dir)
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
        value, lack = _granted(grant, seen, names)
        if lack:
            missing.append(lack)
        elif value is not None:
            variables[grant.name] = value
    variables |= {"DICODE_TASK_ID": task_id, "DICODE_STATE_DIR": str(state_dir)}
    for name, given in (params or {}).items():
        variables[param_variable(name)] = _text(given)
    return Environment(variables | dict(own or {}), tuple(missing))


def visible(host: Mapping[str, str], withheld: Collection[str]) -> dict[str, str]:
    """The variables of the host that a task may name at all."""
    return {name: value for name, value in host.items() if not name.startswith(OWN) and name not in withheld}


def known(task_dir: Path, data_dir: Path, host: Mapping[str, str], set_dir: str = "") -> dict[str, str]:
    """The variables `${…}` may name wherever it may stand. Outside of TaskSets (`set_dir` "") TASK_SET_DIR is none of them."""
    names = {"TASK_DIR": str(task_dir), "DATADIR": str(data_dir), "HOME": host.get("HOME", "/")}
    return names | {"TASK_SET_DIR": set_dir} if set_dir else names


def _granted(grant: EnvGrant, seen: Mapping[str, str], names: Mapping[str, str]) -> tuple[str | None, str]:
    """(value or None for unset, what is missing or ""). The order is value, secret, from; an empty value falls through."""
    if grant.value:
        return expand(grant.value, names), ""
    if grant.secret:
        if grant.optional:
            return "", ""
        return None, f"secret '{expand(grant.secret, names, seen)}' for {grant.name} is not set"
    if grant.from_:
        source = expand(grant.from_, names, seen)
        if source.startswith("task:"):
            if grant.optional:
                return "", ""
            return None, f"{grant.name} comes from the secret provider '{source}', which this release cannot ask"
        return seen.get(source.removeprefix("env:")), ""
    if grant.value is not None:
        return "", ""
    return seen.get(grant.name), ""


def expand(text: str, names: Mapping[str, str], host: Mapping[str, str] | None = None) -> str:
    """`${NAME}` replaced by what `names` has, else by the host's variable where `host` is given; an unknown one stays as written."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        return names.get(name) or (host or {}).get(name, match[0])

    return _TEMPLATE.sub(value, text)


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
