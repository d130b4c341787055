"""The cascade of SPEC 4: a task, and over it the patches of the sets that lead to it. Pure.

What a patch may say at all was checked when its file was read; here is checked what comes of them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from dicode.messages.fault import Fault
from dicode.messages.task import EnvGrant, Param, Part, Permissions, TaskSpec, Trigger
from dicode.spec import yaml
from dicode.spec.params import check_value
from dicode.spec.task import TRIGGERS
from dicode.spec.taskset import Layer, Overrides
from dicode.spec.yaml import TOP, Node, Place, Scalar, shown

#: What belongs to a type of trigger, and goes with it when another type takes its place.
BELONGS: dict[str, tuple[str, ...]] = {
    "cron": ("timezone", "dst", "catch_up", "jitter"),
    "webhook": ("webhook_secret", "auth", "methods", "respond"),
    "chain": (),
    "manual": (),
    "daemon": ("restart", "strategy", "listen", "ready", "min_ready", "deadline", "auto_revert", "stop_signal", "stop_grace"),
}
_Part = TypeVar("_Part", bound=Part)


def apply(spec: TaskSpec, patches: Iterable[Overrides]) -> TaskSpec:
    """The spec with these patches over it, the lowest first. It may have become invalid: see `check`."""
    for patch in patches:
        spec = _patched(spec, patch)
    return spec


def _patched(spec: TaskSpec, patch: Overrides) -> TaskSpec:
    return replace(
        spec,
        name=spec.name if patch.name is None else patch.name,
        description=spec.description if patch.description is None else patch.description,
        runtime=spec.runtime if patch.runtime is None else patch.runtime,
        timeout=spec.timeout if patch.timeout is None else patch.timeout,
        trigger=spec.trigger if patch.trigger is None else _trigger(spec.trigger, patch.trigger),
        params=spec.params if patch.params is None else _params(spec.params or (), patch.params),
        retry=_over(spec.retry, patch.retry),
        notify=_over(spec.notify, patch.notify),
        permissions=_permissions(spec.permissions, patch),
    )


def _over(below: _Part | None, above: _Part | None) -> _Part | None:
    """What is set above, over what is set below, sub-field by sub-field."""
    if below is None or above is None:
        return below if above is None else above
    return replace(below, **{name: value for name in above.__struct_fields__ if (value := getattr(above, name)) is not None})


def _trigger(below: Trigger, above: Trigger) -> Trigger:
    """A type clears the others and what belonged to them; the rest is patched field by field."""
    type = next((name for name in TRIGGERS if getattr(above, name) not in (None, False)), None)
    if type is not None:
        others = [name for name in TRIGGERS if name != type]
        below = replace(below, **dict.fromkeys([*others, *(field for name in others for field in BELONGS[name])]))
    merged = _over(below, above)
    assert merged is not None, "of two there is one"
    return merged


def _params(below: Sequence[Param], above: Sequence[Param]) -> tuple[Param, ...]:
    merged = {param.name: param for param in below}
    for param in above:
        merged[param.name] = _over(merged.get(param.name), param) or param
    return tuple(merged.values())


def _permissions(below: Permissions | None, patch: Overrides) -> Permissions | None:
    if patch.env is None and patch.net is None and patch.dicode is None:
        return below
    below = below or Permissions()
    return replace(
        below,
        env=below.env if patch.env is None else _env(below.env or (), patch.env),
        net=below.net if patch.net is None else patch.net,
        dicode=below.dicode if patch.dicode is None else {**(below.dicode or {}), **patch.dicode},
    )


def _env(below: Sequence[EnvGrant], above: Sequence[EnvGrant]) -> tuple[EnvGrant, ...]:
    """A variable is replaced whole: else the value of a lower one would win over the secret of a higher one."""
    return tuple({grant.name: grant for grant in (*below, *above)}.values())


# ── is what came of it still a task? ──


class Base(NamedTuple):
    """The file that the lowest layer stands in, and its mapping of task fields."""

    file: str
    node: yaml.Mapping | None


def check(spec: TaskSpec, base: Base, layers: Sequence[Layer]) -> tuple[Fault, ...]:
    """What is wrong with a patched spec, each at the key of the layer that made it so."""
    faults: list[Fault] = []
    trigger = spec.trigger
    if trigger.cron is None and trigger.webhook is None and trigger.chain is None and not trigger.manual and not trigger.daemon:
        faults.append(blamed("exactly one trigger must be left, this takes the last one away", base, layers, ("trigger",)))
    if spec.runtime in ("docker", "podman") and spec.docker is None:
        faults.append(blamed(f"runtime {spec.runtime} needs 'docker' with an image or a build", base, layers, ("runtime",)))
    for param in spec.params or ():
        wrong = _wrong_default(param)
        if wrong is not None:
            message = f"the default of param '{shown(param.name)}' {wrong}"
            faults.append(blamed(message, base, layers, ("params", param.name, "default"), ("params", param.name)))
    return tuple(faults)


def _wrong_default(param: Param) -> str | None:
    if param.type in (None, "string") or not param.default or "${" in param.default:
        return None
    return check_value(param.type, param.default)


def blamed(message: str, base: Base, layers: Sequence[Layer], *paths: tuple[str, ...]) -> Fault:
    """A fault at the first of these paths that anything sets, in the highest layer that sets it; else at the top of the base."""
    for path in paths:
        for file, node in (*((layer.file, layer.node) for layer in reversed(layers)), base):
            place = place_of(node, path) if node is not None else None
            if place is not None:
                return Fault(file, *place, message)
    place = TOP if base.node is None or not layers else Place(base.node.line, base.node.column)
    return Fault(base.file, *place, message)


def place_of(node: yaml.Mapping, path: Sequence[str]) -> Place | None:
    """Where the key at `path` stands, None if it is not set. In a list a name stands for the item that has it."""
    place: Place | None = None
    here: Node = node
    for step in path:
        if isinstance(here, yaml.Mapping) and step in here.items:
            place, here = here.place(step), here.items[step]
        elif isinstance(here, yaml.Sequence):
            item = next((each for each in here.items if _is_called(each, step)), None)
            if item is None:
                return None
            place, here = Place(item.line, item.column), item
        elif isinstance(here, Scalar) and step == "default":  # `name: default`
            return None if here.is_null else place
        else:
            return None
    return None if isinstance(here, Scalar) and here.is_null else place


def _is_called(node: Node, name: str) -> bool:
    found = node.items.get("name") if isinstance(node, yaml.Mapping) else None
    return isinstance(found, Scalar) and found.text == name
