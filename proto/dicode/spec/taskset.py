"""taskset.yaml, read (SPEC 4): refs, inline tasks and patches, each with its place in the file. Pure.

What is wrong with one entry stays with that entry; only what concerns all of them is wrong with the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from dicode.messages.fault import Fault
from dicode.messages.task import EnvGrant, Millis, Notify, Param, Part, Permissions, Retry, Runtime, TaskSpec, Trigger
from dicode.spec import names, task, yaml
from dicode.spec.fields import BAD, At, Faults, Schema, text
from dicode.spec.yaml import TOP, Node, Place, Scalar, shown

FILE = "taskset.yaml"
API_VERSION = task.API_VERSION
POLL_INTERVAL = 30_000  # ms; SPEC 4


# ── the file, as it is written ──


class Metadata(Part, frozen=True, kw_only=True):
    name: str | None = None


class RefAuth(Part, frozen=True, kw_only=True):
    token_env: str | None = None
    ssh_key: str | None = None


class WrittenRef(Part, frozen=True, kw_only=True):
    path: str | None = None
    url: str | None = None
    branch: str | None = None
    auth: RefAuth | None = None
    poll_interval: Millis | None = None
    dev_ref: WrittenRef | None = None


class SetDefaults(Part, frozen=True, kw_only=True):
    timeout: Millis | None = None
    retry: Retry | None = None
    env: tuple[EnvGrant, ...] | None = None
    trigger: Trigger | None = None
    notify: Notify | None = None


class Overrides(Part, frozen=True, kw_only=True):
    """A patch of one task or set. Only what is set is changed; `entries` reaches into the set that a ref leads to."""

    enabled: bool | None = None
    name: str | None = None
    description: str | None = None
    trigger: Trigger | None = None
    params: tuple[Param, ...] | None = None
    env: tuple[EnvGrant, ...] | None = None
    net: tuple[str, ...] | None = None
    timeout: Millis | None = None
    retry: Retry | None = None
    runtime: Runtime | None = None
    notify: Notify | None = None
    dicode: dict[str, bool | tuple[str, ...]] | None = None
    entries: dict[str, Overrides] | None = None


class WrittenEntry(Part, frozen=True, kw_only=True):
    ref: WrittenRef | None = None
    inline: TaskSpec | None = None
    overrides: Overrides | None = None


class WrittenSpec(Part, frozen=True, kw_only=True):
    entries: dict[str, WrittenEntry]
    defaults: SetDefaults | None = None


class WrittenSet(Part, frozen=True, kw_only=True, rename={"api_version": "apiVersion"}):
    kind: str
    spec: WrittenSpec
    api_version: str | None = None
    metadata: Metadata | None = None


# ── what is made of it ──


class Ref(NamedTuple):
    """Where an entry leads, as it is written. `url` "" : in the same tree as the file. The places are for faults found later."""

    path: str
    url: str = ""
    branch: str = "main"
    token_env: str = ""
    poll_interval: int = POLL_INTERVAL
    path_at: Place = TOP
    url_at: Place = TOP
    auth_at: Place = TOP


class Layer:
    """One patch of the cascade, from one place in one file.

    `text` stands for what it changes in a task (`{}` for nothing): two layers with the same text change the same.
    `mark` also tells where every part of it stands. `children`: the patches for the entries of a set.
    """

    __slots__ = ("children", "file", "mark", "node", "patch", "text")

    def __init__(self, file: str, patch: Overrides, node: yaml.Mapping) -> None:
        self.file = file
        self.patch = patch
        self.node = node
        self.text = _encoder.encode(msgspec.structs.replace(patch, enabled=None, entries=None))
        self.children: dict[str, Layer] = {key: Layer(file, inner, child) for key, inner, child in _inner(patch, node)}
        inner = tuple([(key, child.mark) for key, child in self.children.items()])
        self.mark: tuple[object, ...] = (file, patch.enabled, self.text, inner, tuple(_places(node)))

    @property
    def changes_a_task(self) -> bool:
        return self.text != b"{}"


def _inner(patch: Overrides, node: yaml.Mapping) -> Iterator[tuple[str, Overrides, yaml.Mapping]]:
    nodes = node.items.get("entries")
    for key, inner in (patch.entries or {}).items():
        child = nodes.items.get(key) if isinstance(nodes, yaml.Mapping) else None
        if isinstance(child, yaml.Mapping):
            yield key, inner, child


def _places(node: Node) -> Iterator[object]:
    """Every key below with its place: equal for two mappings exactly when all faults in them would be placed alike."""
    if isinstance(node, yaml.Mapping):
        for key, child in node.items.items():
            at = node.keys[key]
            yield (key, at.line, at.column)
            yield from _places(child)
    else:
        yield (node.line, node.column)
        if isinstance(node, yaml.Sequence):
            for child in node.items:
                yield from _places(child)


_encoder = msgspec.json.Encoder(order="sorted")


class Inline:
    """A task that is written in the set itself. `text` is its spec as JSON; `mark` also tells where every part of it stands."""

    __slots__ = ("file", "mark", "node", "spec", "text")

    def __init__(self, file: str, spec: TaskSpec, node: yaml.Mapping) -> None:
        self.file = file
        self.spec = spec
        self.node = node
        self.text = _encoder.encode(spec)
        self.mark: tuple[object, ...] = (file, self.text, tuple(_places(node)))


class Entry(NamedTuple):
    """One entry. With `faults` it has neither `ref` nor `inline`; `enabled` is known all the same, if it can be read."""

    place: Place
    ref: Ref | None = None
    dev_ref: Ref | None = None
    inline: Inline | None = None
    overrides: Layer | None = None
    enabled: bool | None = None
    faults: tuple[Fault, ...] = ()


class ParsedSet:
    """What a taskset.yaml says. With `faults`, which concern the whole file, it has no entries. Equal only to itself."""

    __slots__ = ("defaults", "entries", "faults", "file")

    def __init__(self, file: str, entries: Mapping[str, Entry] | None = None, defaults: Layer | None = None, faults: tuple[Fault, ...] = ()) -> None:
        self.file = file
        self.entries: Mapping[str, Entry] = entries or {}
        self.defaults = defaults
        self.faults = faults


def parse_set(data: bytes, file: str) -> ParsedSet:
    """What the bytes of a taskset.yaml say; `file` is how faults name it. Never raises."""
    document = yaml.read(data, file, yaml.CONFIG)
    if document.faults:
        return ParsedSet(file, faults=document.faults)
    faults = Faults(file)
    root = document.root
    if not isinstance(root, yaml.Mapping):
        faults.add(TOP, "the file is empty" if root is None else "the file must be a mapping of fields, beginning with `kind: TaskSet`")
        return ParsedSet(file, faults=faults.sorted())
    _check_head(root, faults)
    if faults:
        return ParsedSet(file, faults=faults.sorted())
    written = _SET(root, faults, TOP, "the file")
    if faults:
        return ParsedSet(file, faults=faults.sorted())
    spec = root.items["spec"]
    assert isinstance(written, WrittenSet) and isinstance(spec, yaml.Mapping), "without faults there is a value"
    entries = spec.items["entries"]
    assert isinstance(entries, yaml.Mapping), "without faults there are entries"
    return ParsedSet(
        file,
        {key: _entry(key, child, entries.keys[key], file) for key, child in entries.items.items()},
        _defaults(written.spec.defaults, spec.items.get("defaults"), file),
    )


def _check_head(root: yaml.Mapping, faults: Faults) -> None:
    kind = root.items.get("kind")
    if kind is None or (isinstance(kind, Scalar) and kind.is_null):
        faults.add(root.keys.get("kind", TOP), "'kind' is missing: a file that a ref leads to says `kind: TaskSet`, or is a task.yaml")
    elif isinstance(kind, Scalar) and kind.text == "Task":
        faults.add(root.keys["kind"], f"this is a Task: call the file {task.FILE}, in a folder of its own, and let the ref lead to that folder")
    elif not isinstance(kind, Scalar) or kind.text != "TaskSet":
        faults.add(root.keys["kind"], "'kind' must be TaskSet")
    version = root.items.get("apiVersion")
    if version is not None and (not isinstance(version, Scalar) or version.text != API_VERSION):
        faults.add(root.keys["apiVersion"], f"'apiVersion' must be {API_VERSION}")


def _defaults(written: SetDefaults | None, node: Node | None, file: str) -> Layer | None:
    if written is None or not isinstance(node, yaml.Mapping):
        return None
    return Layer(file, Overrides(**{name: getattr(written, name) for name in SetDefaults.__struct_fields__}), node)


def _entry(key: str, node: Node, at: Scalar, file: str) -> Entry:
    faults = Faults(file)
    place = Place(at.line, at.column)
    if not names.is_segment(key):
        faults.add(at, names.bad_segment(key))
    if isinstance(node, Scalar) and node.is_null:
        faults.add(at, f"'{shown(key)}' says nothing: exactly one of ref and inline is needed")
        return Entry(place, faults=faults.sorted())
    written = _ENTRY(node, faults, at, shown(key))
    enabled = _enabled(node)
    if faults:
        return Entry(place, enabled=enabled, faults=faults.sorted())
    assert isinstance(written, WrittenEntry) and isinstance(node, yaml.Mapping), "without faults there is a value"
    ref, dev_ref = _refs(written.ref, node.items.get("ref"))
    return Entry(place, ref, dev_ref, _inline(written.inline, node.items.get("inline"), file), _overrides(written, node, file), enabled)


def _enabled(node: Node) -> bool | None:
    """`overrides.enabled`, whatever else is wrong: an entry that is off bothers nobody."""
    overrides = node.items.get("overrides") if isinstance(node, yaml.Mapping) else None
    found = overrides.items.get("enabled") if isinstance(overrides, yaml.Mapping) else None
    said = {"true": True, "false": False}
    return said.get(found.text) if isinstance(found, Scalar) and found.plain else None


def _refs(written: WrittenRef | None, node: Node | None) -> tuple[Ref | None, Ref | None]:
    """The ref, and what stands in its place in dev mode."""
    if written is None or not isinstance(node, yaml.Mapping):
        return None, None
    return _ref(written, node), _refs(written.dev_ref, node.items.get("dev_ref"))[0]


def _ref(written: WrittenRef, node: yaml.Mapping) -> Ref:
    place = Place(node.line, node.column)
    url_at = node.place("url") or place
    interval = POLL_INTERVAL if written.poll_interval is None else written.poll_interval
    return Ref(
        written.path or "",
        written.url or "",
        written.branch or "main",
        written.auth.token_env or "" if written.auth else "",
        interval,
        node.place("path") or url_at,
        url_at,
        node.place("auth") or url_at,
    )


def _inline(written: TaskSpec | None, node: Node | None, file: str) -> Inline | None:
    return Inline(file, written, node) if written is not None and isinstance(node, yaml.Mapping) else None


def _overrides(written: WrittenEntry, node: yaml.Mapping, file: str) -> Layer | None:
    inner = node.items.get("overrides")
    return Layer(file, written.overrides, inner) if written.overrides is not None and isinstance(inner, yaml.Mapping) else None


# ── forms and rules that an annotation cannot say ──

_URL = re.compile(r"(?:https?|ssh)://[^\s\0?#]+|file:///[^\s\0?#]+|(?!-)[A-Za-z0-9._-]+@(?!-)[A-Za-z0-9.-]+:[^\s\0]+")
_SECRET = re.compile(r"https?://[^/]*@|ssh://[^/@]*:[^/@]*@|https?://[^?#]*[?#]")


def _url(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is BAD:
        return BAD
    if _SECRET.match(value):
        return faults.add(at, "'url' holds a user, a password or a query: name the secret with `credentials` in dicode.yaml")
    if not _URL.fullmatch(value) or "/../" in f"{value}/":
        return faults.add(
            at, "'url' must be like https://host/path, ssh://user@host/path or user@host:path"
        )  # never shown: who knows what stands in it
    return value


def _branch(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is not BAD and not names.is_branch(value):
        return faults.add(at, f"'branch' must be the name of a branch, not {shown(value) or 'empty'}")
    return value


def _variable(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    wrong = names.bad_variable(value) if value is not BAD else None
    return value if wrong is None else faults.add(at, f"'{label}' {wrong}")


def _ref_path(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is BAD:
        return BAD
    if not value or len(value) > 4096 or not value.isprintable():
        return faults.add(at, f"'path' must lead to a folder, a task.yaml or a taskset.yaml, not {shown(value) or 'nowhere'}")
    return value


def _dev_ref(node: Node, faults: Faults, at: At, label: str) -> Any:
    if isinstance(node, yaml.Mapping) and "dev_ref" in node.items:
        return faults.add(node.keys["dev_ref"], "a dev_ref has no dev_ref of its own: remove it")
    return _SCHEMA.reader(WrittenRef)(node, faults, at, label)


def _inline_task(node: Node, faults: Faults, at: At, label: str) -> Any:
    if isinstance(node, yaml.Mapping):
        task.check_head(node, faults, at, False)
    return _TASK(node, faults, at, label)


def _params(node: Node, faults: Faults, at: At, label: str) -> Any:
    """As in a task.yaml. Of a mapping the order is that of the names: keys may be moved around without changing a digest."""
    found = task.read_params(node, faults, at, label)
    return tuple(sorted(found, key=_name)) if isinstance(node, yaml.Mapping) and found is not BAD else found


def _name(param: Param) -> str:
    return param.name


def _patches(node: Node, faults: Faults, at: At, label: str) -> Any:
    """`overrides.entries`: a patch for each KEY of the set that the ref leads to."""
    if not isinstance(node, yaml.Mapping):
        return faults.add(at, f"'{label}' must be a mapping of keys to overrides")
    read = _SCHEMA.reader(Overrides)
    found = {key: read(child, faults, node.keys[key], shown(key)) for key, child in node.items.items() if not _is_null(child)}
    return BAD if any(each is BAD for each in found.values()) else found


def _entries(node: Node, faults: Faults, at: At, label: str) -> Any:
    """Only that it is a mapping; each entry is read for itself."""
    return {} if isinstance(node, yaml.Mapping) else faults.add(at, "'entries' must be a mapping of keys to entries")


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.is_null


def _has(node: yaml.Mapping, key: str) -> bool:
    return key in node.items and not _is_null(node.items[key])


def _check_entry(node: yaml.Mapping, values: dict[str, Any], faults: Faults, at: At) -> None:
    said = [key for key in ("ref", "inline") if _has(node, key)]
    if len(said) != 1:
        faults.add(at, f"exactly one of ref and inline is needed, found {'both' if said else 'neither'}")


def _check_ref(node: yaml.Mapping, values: dict[str, Any], faults: Faults, at: At) -> None:
    if _has(node, "url"):
        return
    if not _has(node, "path"):
        faults.add(at, "'path' is missing: where does the ref lead?")
    for key in ("branch", "auth", "poll_interval"):
        if key in node.items:
            faults.add(node.keys[key], f"'{key}' has no meaning without a url: remove it, or name the repository")


def _check_auth(node: yaml.Mapping, values: dict[str, Any], faults: Faults, at: At) -> None:
    if "ssh_key" in node.items:
        faults.add(node.keys["ssh_key"], "a key file cannot be named in a ref: name it under `credentials` in dicode.yaml")
    elif "token_env" not in node.items:
        faults.add(at, "'token_env' is missing")


def _check_trigger(node: yaml.Mapping, values: dict[str, Any], faults: Faults, at: At) -> None:
    said = task.trigger_types(node)
    if len(said) > 1:
        faults.add(at, f"only one trigger is allowed, found {' and '.join(said)}: keep one")


def _check_overrides(node: yaml.Mapping, values: dict[str, Any], faults: Faults, at: At) -> None:
    if "net" in node.items and _is_null(node.items["net"]):
        faults.add(node.keys["net"], "'net' has no value: write [] for no network, or remove the key to leave it as it is")


#: Reads patches, where a trigger may be incomplete and nothing is required.
_SCHEMA = Schema(
    {
        **task.FORMS,
        (Overrides, "name"): task.read_name,
        (Overrides, "runtime"): task.read_runtime,
        (Overrides, "params"): _params,
        (Overrides, "env"): task.FORMS[Permissions, "env"],
        (Overrides, "dicode"): task.FORMS[Permissions, "dicode"],
        (Overrides, "entries"): _patches,
        (SetDefaults, "env"): task.FORMS[Permissions, "env"],
        (WrittenSpec, "entries"): _entries,
        (WrittenEntry, "inline"): _inline_task,
        (WrittenRef, "url"): _url,
        (WrittenRef, "path"): _ref_path,
        (WrittenRef, "branch"): _branch,
        (WrittenRef, "dev_ref"): _dev_ref,
        (RefAuth, "token_env"): _variable,
    },
    {
        **task.RULES,
        Trigger: _check_trigger,
        Overrides: _check_overrides,
        WrittenEntry: _check_entry,
        WrittenRef: _check_ref,
        RefAuth: _check_auth,
    },
    task.HINTS,
)
_TASK = Schema({**task.FORMS, (TaskSpec, "params"): _params}, task.RULES, task.HINTS).reader(TaskSpec, task.HEAD)
_SET = _SCHEMA.reader(WrittenSet)
_ENTRY = _SCHEMA.reader(WrittenEntry)
