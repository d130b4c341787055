"""What a person may ask of sources, and what it comes to. Pure."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import msgspec

from dicode.messages.kinds import ConfigSource, Request, Source
from dicode.spec.names import is_segment

VERBS = frozenset({"source.add", "source.remove", "source.sync", "source.confirm", "source.suspend", "source.resume", "source.dev", "source.plan"})


class Refusal(Exception):
    """It cannot be done; the text says why, for a person."""


def added(request: Request, sources: dict[str, Source]) -> ConfigSource:
    """The source to add. Raises Refusal."""
    name = request.target
    if not is_segment(name):
        raise Refusal(f"{name!r} cannot name a source: use 1 to 63 of A-Z a-z 0-9 . _ -")
    args: dict[str, Any] = {**request.args, "name": name}
    try:
        spec = msgspec.convert(args, ConfigSource, strict=True)
    except msgspec.ValidationError as error:
        raise Refusal(f"source {name}: {error}") from None
    if spec.type == "local" and not spec.path.startswith("/"):
        raise Refusal(f"source {name}: the path must be absolute, not {spec.path!r}")
    present = sources.get(name)
    if present is not None and not (present.origin == "store" and present.spec == spec):
        raise Refusal(f"there is a source {name} already, at {present.spec.path or present.spec.url}: take another name")
    same = next((source for source in sources.values() if source.name != name and spec.path and source.spec.path == spec.path), None)
    if same is not None and spec.type == "local":
        raise Refusal(f"source {same.name} reads {spec.path} already")
    return spec


def removable(request: Request, sources: dict[str, Source], line: str) -> Source | None:
    """The source to remove, None when that is done already. `line`: where dicode.yaml names it. Raises Refusal."""
    source = sources.get(request.target)
    if source is None:
        return None
    if source.origin == "file":
        raise Refusal(f"source {source.name} is written in {line}: take it out there")
    if source.origin == "up":
        raise Refusal(f"source {source.name} was given to `dicode up`: it is gone when that ends")
    return source


def target_of(request: Request, sources: dict[str, Source]) -> Source:
    """Raises Refusal, with a suggestion."""
    source = sources.get(request.target)
    if source is None:
        close = get_close_matches(request.target, sources, 1)
        raise Refusal(f"no source {request.target!r}" + (f", did you mean {close[0]!r}?" if close else ""))
    return source


def line_of(name: str, file: str, text: str) -> str:
    """`dicode.yaml:7`: where the file names this source, or the path it is called after; the file alone when it does not."""
    shown = file.rpartition("/")[2]
    for number, line in enumerate(text.splitlines(), 1):
        key, _, value = line.strip().lstrip("-{ ").partition(":")
        if key in ("name", "path", "url") and value.split(",")[0].strip(" \"'}/").rpartition("/")[2].removesuffix(".git") == name:
            return f"{shown}:{number}"
    return shown
