"""From a folder that was read to a task that can be registered. Pure."""

from __future__ import annotations

import posixpath
from typing import Literal

import msgspec

from dicode.messages.fault import Fault
from dicode.messages.task import Runtime, TaskSpec
from dicode.spec import digest, names
from dicode.spec.folder import Folder
from dicode.spec.task import FILE, Parsed, choose_script, parse_task


class Resolved(msgspec.Struct, frozen=True):
    """One task, whole. `manifest` is the text behind `digest`, `spec_json` the one behind its spec line; `script` is "" for containers."""

    id: str
    spec: TaskSpec
    runtime: Runtime
    script: str
    digest: str
    process: str
    manifest: bytes
    spec_json: bytes
    dir: str


def resolve_folder(folder: Folder, id: str, source_kind: Literal["plain", "taskset"] = "plain") -> Resolved | tuple[Fault, ...]:
    """The task in this folder under this id, or all that is wrong with it. Faults name files below `folder.dir`."""
    file = posixpath.join(folder.dir, FILE)
    found = folder.find(FILE)
    if found is None or found.kind == "l":
        return folder.faults or (Fault(file, 1, 1, f"there is no {FILE}" if found is None else f"{FILE} is a link: make it a file"),)
    parsed = parse_task(found.content, file, kind_required=source_kind == "taskset")
    faults = [*parsed.faults, *folder.faults]
    wrong_id = names.check_id(id)
    if wrong_id is not None:
        faults.append(Fault(file, 1, 1, wrong_id))
    if parsed.spec is None or faults:
        return tuple(faults)
    return _resolved(folder, id, parsed, parsed.spec)


def _resolved(folder: Folder, id: str, parsed: Parsed, spec: TaskSpec) -> Resolved | tuple[Fault, ...]:
    script = choose_script(spec, _script_kinds(folder))
    if isinstance(script, str):
        return (parsed.fault(script, "runtime"),)
    spec_json = digest.spec_json(spec)
    manifest = digest.manifest(spec_json, folder.files)
    return Resolved(
        id, spec, script.runtime, script.path, digest.digest_of(manifest), digest.process_of(spec, manifest), manifest, spec_json, folder.dir
    )


def _script_kinds(folder: Folder) -> dict[str, str]:
    """Kinds of the files directly in the folder; of a link, that of the file it leads to."""
    kinds: dict[str, str] = {}
    for path, kind, content in folder.files:
        if "/" in path or not path.startswith("task"):
            continue
        if kind != "l":
            kinds[path] = kind
            continue
        led_to = folder.find(posixpath.normpath(content.decode(errors="replace")))
        if led_to is not None and led_to.kind != "l":
            kinds[path] = led_to.kind
    return kinds
