"""`${VAR}` in a few fields of a spec, expanded where it is used and never in what is hashed, stored or shown. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from dicode.messages.task import EnvGrant, Permissions, TaskSpec

#: What dicode itself knows; the variables of the host only stand in the fields that name something on it.
TASK_VARIABLES = ("TASK_DIR", "TASK_SET_DIR", "DATADIR", "HOME")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Expanded(NamedTuple):
    """Unknown variables stay as they were written."""

    text: str
    unknown: tuple[str, ...]


class ExpandedSpec(NamedTuple):
    """`unknown`: (field, variable), for a condition."""

    spec: TaskSpec
    unknown: tuple[tuple[str, str], ...]


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
    """The spec as it is used now. `variables`: TASK_VARIABLES; `host`: the environment of the machine.

    Host variables count only in webhook_secret, fs.path, env.from and env.secret, so that a default or a value
    cannot carry them off.
    """
    return _Expanding(variables, host).spec(spec)


class _Expanding:
    def __init__(self, variables: Mapping[str, str], host: Mapping[str, str]) -> None:
        self._own = (variables,)
        self._all = (variables, host)
        self._unknown: list[tuple[str, str]] = []

    def spec(self, spec: TaskSpec) -> ExpandedSpec:
        trigger = replace(spec.trigger, webhook_secret=self._host("trigger.webhook_secret", spec.trigger.webhook_secret))
        permissions = spec.permissions and self._permissions(spec.permissions)
        params = spec.params and tuple(replace(param, default=self._plain(f"params[{param.name}].default", param.default)) for param in spec.params)
        return ExpandedSpec(replace(spec, trigger=trigger, permissions=permissions, params=params), tuple(self._unknown))

    def _permissions(self, permissions: Permissions) -> Permissions:
        env = permissions.env and tuple(self._grant(grant) for grant in permissions.env)
        fs = permissions.fs and tuple(
            replace(grant, path=self._host(f"permissions.fs[{index}].path", grant.path)) for index, grant in enumerate(permissions.fs)
        )
        return replace(permissions, env=env, fs=fs)

    def _grant(self, grant: EnvGrant) -> EnvGrant:
        field = f"permissions.env[{grant.name}]"
        return replace(
            grant,
            from_=self._host(f"{field}.from", grant.from_),
            secret=self._host(f"{field}.secret", grant.secret),
            value=self._plain(f"{field}.value", grant.value),
        )

    def _host(self, field: str, text: str | None) -> str | None:
        return self._expand(field, text, self._all)

    def _plain(self, field: str, text: str | None) -> str | None:
        return self._expand(field, text, self._own)

    def _expand(self, field: str, text: str | None, variables: tuple[Mapping[str, str], ...]) -> str | None:
        if text is None:
            return None
        expanded = expand(text, *variables)
        self._unknown += [(field, name) for name in expanded.unknown]
        return expanded.text
