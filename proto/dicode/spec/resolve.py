"""From a folder that was read to a task that can be registered. Pure."""

from __future__ import annotations

import posixpath
from typing import Literal

import msgspec

from dicode.messages.fault import Fault
from dicode.messages.task import Runtime, TaskSpec
from dicode.spec import digest, names
from dicode.spec.cascade import Base, apply, blamed, check
from dicode.spec.expand import Leaf
from dicode.spec.folder import Folder, FolderFile
from dicode.spec.task import FILE, Parsed, choose_script, parse_task
from dicode.spec.taskset import Inline, Layer
from dicode.spec.trees import Want
from dicode.spec.yaml import Scalar, Sequence

MAX_LINKS = 40  # as the kernel follows
MAX_SPEC = 256 << 10  # bytes of a spec as JSON: four times a task.yaml, and it still travels in one frame with all that goes with it


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
    parsed = _parsed(folder, kind_required=source_kind == "taskset")
    faults = [*parsed.faults, *folder.faults]
    wrong_id = names.check_id(id)
    if wrong_id is not None:
        faults.append(Fault(parsed.file, 1, 1, wrong_id))
    if parsed.spec is None or faults:
        return tuple(faults)
    return _resolved(folder, id, parsed.spec, Base(parsed.file, parsed.root))


def _parsed(folder: Folder, *, kind_required: bool) -> Parsed:
    file = posixpath.join(folder.dir, FILE)
    found = folder.find(FILE)
    if found is not None and found.kind != "l":
        return parse_task(found.content, file, kind_required=kind_required)
    missing = Fault(file, 1, 1, f"there is no {FILE}" if found is None else f"{FILE} is a link: make it a file")
    return Parsed(None, () if folder.faults else (missing,), file)


def want_of(leaf: Leaf) -> Want:
    """What must be read for this leaf; its path is one of the tree `leaf.at.tree`."""
    if leaf.inline is None:
        return Want(leaf.at.path)
    return Want(leaf.at.path, leaf.key, leaf.inline.spec.include or (), leaf.inline.spec.ignore or ())


def resolve_leaf(leaf: Leaf, folder: Folder) -> Resolved | tuple[Fault, ...]:
    """The task that this leaf is with this folder, or all that is wrong with it.

    `folder` is what was read for `want_of(leaf)`. Faults of patches and inline tasks name the file of their TaskSet.
    """
    if leaf.inline is not None:
        base, spec, faults = Base(leaf.inline.file, leaf.inline.node), leaf.inline.spec, [_placed(fault, leaf.inline) for fault in folder.faults]
    else:
        parsed = _parsed(folder, kind_required=True)
        base, faults = Base(parsed.file, parsed.root), [*parsed.faults, *folder.faults]
        if parsed.spec is None:
            return tuple(faults)
        spec = parsed.spec
    if leaf.layers:
        spec = apply(spec, [layer.patch for layer in leaf.layers])
        faults += check(spec, base, leaf.layers)
    return tuple(faults) if faults else _resolved(folder, leaf.id, spec, base, leaf.layers, leaf.key)


def _placed(fault: Fault, inline: Inline) -> Fault:
    """What is wrong with an include stands at its item in the set: who read the files knew only what it says."""
    for written in inline.spec.include or ():
        if fault.message.startswith(f"include {written}: "):
            items = inline.node.items.get("include")
            at = (
                next((each for each in items.items if isinstance(each, Scalar) and each.text == written), None)
                if isinstance(items, Sequence)
                else None
            )
            return Fault(inline.file, at.line, at.column, fault.message) if at is not None else fault
    return fault


def _resolved(folder: Folder, id: str, spec: TaskSpec, base: Base, layers: tuple[Layer, ...] = (), key: str = "") -> Resolved | tuple[Fault, ...]:
    script = choose_script(spec, _script_kinds(folder, key), key)
    if isinstance(script, str):
        return (blamed(script, base, layers, ("runtime",)),)
    spec_json = digest.spec_json(spec)
    if len(spec_json) > MAX_SPEC:
        return (_too_long(spec_json, base, layers),)
    manifest = digest.manifest(spec_json, folder.files)
    return Resolved(
        id, spec, script.runtime, script.path, digest.digest_of(manifest), digest.process_of(spec, manifest), manifest, spec_json, folder.dir
    )


def _too_long(spec_json: bytes, base: Base, layers: tuple[Layer, ...]) -> Fault:
    fields: dict[str, msgspec.Raw] = msgspec.json.decode(spec_json, type=dict[str, msgspec.Raw])
    longest = max(fields, key=lambda name: len(bytes(fields[name])))
    said = f"the resolved spec has {len(spec_json):,} bytes, most of them in '{longest}'; {MAX_SPEC:,} are allowed: move what is long into a file"
    return blamed(said, base, layers, (longest,))


def _script_kinds(folder: Folder, key: str) -> dict[str, str]:
    """Kinds of the files directly in the folder; of a link, that of the file it leads to."""
    kinds: dict[str, str] = {}
    stems = ("task", f"{key}.") if key else ("task",)
    for file in folder.files:
        if "/" not in file.path and file.path.startswith(stems):
            led_to = _followed(folder, file)
            if led_to is not None:
                kinds[file.path] = led_to.kind
    return kinds


def _followed(folder: Folder, file: FolderFile) -> FolderFile | None:
    """The file at the end of its links; None where there is none. Links that go round in a circle are faults of the folder."""
    for _ in range(MAX_LINKS):
        if file.kind != "l":
            return file
        found = folder.find(posixpath.normpath(posixpath.join(posixpath.dirname(file.path), file.content.decode(errors="replace"))))
        if found is None:
            return None
        file = found
    return None
