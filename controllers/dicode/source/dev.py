"""Dev mode: a source read from a working copy or from another branch, as long as somebody works on it."""

from __future__ import annotations

import os
import posixpath
from typing import Any

import msgspec

from dicode.messages.kinds import ConfigSource, Source
from dicode.process.finding import SET_FILE, work_tree
from dicode.source.requests import Refusal
from dicode.spec.names import is_branch

BRANCH = "branch:"


def wanted_dev(source: Source, args: dict[str, Any]) -> str:
    """What Source.dev should say after this request: an absolute path, `branch:NAME`, or "" for the source itself. Raises Refusal."""
    path, branch, disable = args.get("local_path"), args.get("branch"), args.get("disable")
    if [bool(path), bool(branch), bool(disable)].count(True) != 1:
        raise Refusal("say one of --local-path P, --branch B, --disable")
    if disable:
        return ""
    if branch:
        if source.type != "git":
            raise Refusal(f"source {source.name} is a folder and has no branches: use --local-path P")
        if not isinstance(branch, str) or not is_branch(branch):
            raise Refusal(f"{branch!r} cannot be the name of a branch")
        return BRANCH + branch
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise Refusal(f"the local path must be absolute, not {path!r}")
    return posixpath.normpath(path)


def at_home(spec: ConfigSource, dev: str) -> ConfigSource:
    """The source as it is to be read: itself, or what dev mode says. Looks at the disk."""
    if not dev:
        return spec
    if dev.startswith(BRANCH):
        return msgspec.structs.replace(spec, branch=dev.removeprefix(BRANCH), ref=None)
    place = os.path.realpath(dev)
    return msgspec.structs.replace(
        spec,
        type="local",
        path=entry_in(place, path_below(spec)),
        root="" if os.path.isfile(place) else work_tree(place),
    )  # with its URL: who named that has named the host of its refs, too


def path_below(spec: ConfigSource) -> str:
    """The `path:` of a source below the root of its repository, or of its work tree."""
    if spec.type == "git":
        return spec.path.strip("/")
    real = os.path.realpath(spec.path)
    reach = os.path.realpath(spec.root) if spec.root else work_tree(real if os.path.isdir(real) else os.path.dirname(real))
    below = posixpath.relpath(real, reach)
    return "" if below == "." or below.startswith("../") else below


def entry_in(place: str, path: str) -> str:
    """Where a source begins in the working copy `place`: at `path` in it, or, where that is not, at the place itself."""
    there = posixpath.normpath(posixpath.join(place, path))
    if os.path.isfile(place) or not path or (not os.path.lexists(there) and os.path.lexists(f"{place}/{SET_FILE}")):
        return place
    return there


def missing_place(spec: ConfigSource, dev: str) -> str:
    """Why the source cannot be read from the working copy `dev`, with what to do about it; "" when it can. Looks at the disk."""
    entry = at_home(spec, dev).path
    if os.path.exists(entry):
        return ""
    if not os.path.exists(dev):
        return f"{dev} does not exist: clone the repository there, or name the working copy you have"
    return f"{dev} holds neither {path_below(spec)} nor {SET_FILE}: name the root of the working copy"
