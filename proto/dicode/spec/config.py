"""dicode.yaml, read (SPEC 2). Pure: where paths are relative to and where home is, is told."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from dicode.messages.fault import Fault
from dicode.messages.kinds import Config, ConfigSource
from dicode.messages.kinds import Credential as Access
from dicode.messages.kinds import Relay as RelayHome
from dicode.messages.task import Millis, TaskCall
from dicode.spec import names, yaml
from dicode.spec.fields import BAD, At, Faults, Schema, text
from dicode.spec.yaml import TOP, Node, Scalar, shown

MAX_SOURCES = 200
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]


class BadConfig(Exception):
    """dicode.yaml cannot be used; the text names file, line, column and what would be right."""


class ParsedConfig(NamedTuple):
    """`config` is None exactly when there are faults. `not_built`: what is accepted but without effect in this release."""

    config: Config | None
    faults: tuple[Fault, ...]
    not_built: tuple[str, ...] = ()


# ── the file, as it is written ──


class _Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class Ref(_Part, frozen=True, kw_only=True):
    branch: str | None = None
    tag: str | None = None
    semver: str | None = None
    commit: str | None = None


class Auth(_Part, frozen=True, kw_only=True):
    token_env: str | None = None
    ssh_key: str | None = None
    known_hosts: str | None = None


class SourceEntry(_Part, frozen=True, kw_only=True):
    name: str | None = None
    type: Literal["local", "git"] | None = None
    path: str | None = None
    entry_path: str | None = None
    url: str | None = None
    branch: str | None = None
    ref: Ref | None = None
    root: str | None = None
    settle: Millis | None = None
    rescan: Millis | None = None
    poll_interval: Millis | None = None
    auth: Auth | None = None
    allowed_token_envs: tuple[str, ...] | None = None
    webhook_secret_env: str | None = None


class Relay(_Part, frozen=True, kw_only=True):
    url: str
    name: str
    token_env: str


class Credential(_Part, frozen=True, kw_only=True):
    match: str
    token_env: str | None = None
    ssh_key: str | None = None
    known_hosts: str | None = None


class Defaults(_Part, frozen=True, kw_only=True):
    timeout: Millis | None = None
    on_failure_chain: TaskCall | None = None


class Listener(_Part, frozen=True, kw_only=True):
    listen: str


class Execution(_Part, frozen=True, kw_only=True):
    max_concurrent_runs: Count | None = None


class Retention(_Part, frozen=True, kw_only=True):
    runs: Millis | None = None
    runs_per_task: Count | None = None
    bundles: Count | None = None


class ConfigFile(_Part, frozen=True, kw_only=True):
    data_dir: str | None = None
    store: str | None = None
    sources: tuple[SourceEntry, ...] | None = None
    relay: Relay | None = None
    credentials: tuple[Credential, ...] | None = None
    defaults: Defaults | None = None
    hooks: Listener | None = None
    admin: Listener | None = None
    execution: Execution | None = None
    retention: Retention | None = None


# ── forms and rules that an annotation cannot say ──

_LISTEN = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_URL = re.compile(r"(?:https?|ssh|git|file)://[^\s\0]+|(?!-)[A-Za-z0-9._-]+@(?!-)[A-Za-z0-9.-]+:[^\s\0]+|/[^\0]+")
_RELAY_URL = re.compile(
    r"(?:https://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])|http://(?:localhost|127\.[0-9.]+|\[::1\]))(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*)?"
)
_WITH_SECRET = re.compile(r"[a-z]+://(?:[^/@]*:[^/]*|[^/@]{33,})@|https?://[^?#]*[?#]")  # a user of this length is rather a token


def _listen(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is BAD:
        return BAD
    found = _LISTEN.fullmatch(value)
    if found is None or int(found[1]) > 65_535:
        return faults.add(at, f"'listen' must be host:port, such as 127.0.0.1:8080 or 0.0.0.0:8080, not {shown(value)}")
    return value


def _store(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is not BAD and value != "sqlite" and not value.startswith(("postgresql://", "postgres://")):
        return faults.add(at, f"'store' must be sqlite or postgresql://…, not {shown(value)}")
    return value


def _url(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is not BAD and _WITH_SECRET.match(value):  # never shown
        return faults.add(at, "'url' holds a password, a token or a query: remove it, and name the token in auth: {token_env: …}")
    if value is not BAD and not _URL.fullmatch(value):
        return faults.add(at, "'url' must be like https://host/path, ssh://user@host/path or user@host:path")
    return value


def _relay_url(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is not BAD and not _RELAY_URL.fullmatch(value):
        return faults.add(
            at, "'url' must be like https://relay.example.org; http:// only reaches this machine, for the token would be read on its way"
        )
    return value


def _relay_name(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is not BAD and not names.is_segment(value):
        return faults.add(at, f"'name' must be 1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit, not {shown(value)}")
    return value


def _branch(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is not BAD and not names.is_branch(value):
        return faults.add(at, f"'{label}' must be the name of a {label}, not {shown(value) or 'empty'}")
    return value


def _variable(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    wrong = names.bad_variable(value) if value is not BAD else None
    return value if wrong is None else faults.add(at, f"'{label}' {wrong}")


def _chain(node: Node, faults: Faults, at: At, label: str) -> Any:
    return TaskCall(task=node.text) if isinstance(node, Scalar) else _SCHEMA.reader(TaskCall)(node, faults, at, label)


def _check_source(node: yaml.Mapping, values: dict[str, Any], faults: Faults, at: At) -> None:
    type = values.get("type") or ("git" if "url" in node.items else "local")
    if type == "git" and "url" not in node.items:
        faults.add(at, "'url' is missing: a git source needs one")
    if type == "local":
        if "path" not in node.items:
            faults.add(at, "'path' is missing: a local source needs one")
        for key in ("url", "branch", "ref", "auth", "entry_path"):
            if key in node.items:
                faults.add(node.keys[key], f"'{key}' has no meaning in a local source: remove it, or say type: git")
    if "entry_path" in node.items and "path" in node.items:
        faults.add(node.keys["entry_path"], "'entry_path' means the same as 'path': keep one")
    if "ref" in node.items and "branch" in node.items:
        faults.add(node.keys["branch"], "'branch' and 'ref' say the same: keep one")


def _check_ref(node: yaml.Mapping, values: dict[str, Any], faults: Faults, at: At) -> None:
    if len(node.items) != 1:
        faults.add(at, "'ref' must say exactly one of branch, tag, semver, commit")


def _check_auth(node: yaml.Mapping, values: dict[str, Any], faults: Faults, at: At) -> None:
    if ("token_env" in node.items) == ("ssh_key" in node.items):
        faults.add(at, "exactly one of token_env and ssh_key is needed")


_SCHEMA = Schema(
    special={
        (ConfigFile, "store"): _store,
        (Listener, "listen"): _listen,
        (SourceEntry, "url"): _url,
        (SourceEntry, "branch"): _branch,
        (Ref, "branch"): _branch,
        (Ref, "tag"): _branch,
        (SourceEntry, "webhook_secret_env"): _variable,
        (Auth, "token_env"): _variable,
        (Relay, "url"): _relay_url,
        (Relay, "name"): _relay_name,
        (Relay, "token_env"): _variable,
        (Credential, "token_env"): _variable,
        (Defaults, "on_failure_chain"): _chain,
    },
    checks={SourceEntry: _check_source, Ref: _check_ref, Auth: _check_auth, Credential: _check_auth},
)
_READER = _SCHEMA.reader(ConfigFile)


# ── what is made of it ──


def data_dir_of(data: bytes, file: str) -> str | None:
    """`data_dir` as it is written, or None. Other faults are not its business. Raises BadConfig when this is not YAML."""
    document = yaml.read(data, file, yaml.CONFIG)
    if document.faults:
        raise BadConfig(str(document.faults[0]))
    root = document.root
    written = root.items.get("data_dir") if isinstance(root, yaml.Mapping) else None
    return written.text if isinstance(written, Scalar) and not written.is_null else None


def parse_config(data: bytes, file: str, *, base_dir: str, home: str) -> ParsedConfig:
    """What dicode.yaml says, with paths made absolute. An empty file says nothing, which is fine. Never raises."""
    document = yaml.read(data, file, yaml.CONFIG)
    if document.faults:
        return ParsedConfig(None, document.faults)
    root = document.root
    if root is None or (isinstance(root, Scalar) and root.is_null):
        return ParsedConfig(Config(file=file), ())
    faults = Faults(file)
    if not isinstance(root, yaml.Mapping):
        faults.add(TOP, "dicode.yaml must be a mapping of fields, such as `sources:`")
        return ParsedConfig(None, faults.sorted())
    written = _READER(root, faults, TOP, "dicode.yaml")
    if faults:
        return ParsedConfig(None, faults.sorted())
    assert isinstance(written, ConfigFile), "without faults there is a value"
    sources = tuple(_source(entry, base_dir, home) for entry in written.sources or ())
    _check_names(root, sources, faults)
    if faults:
        return ParsedConfig(None, faults.sorted())
    return ParsedConfig(_config(written, sources, file, base_dir, home), (), tuple(_not_built(written)))


def _config(written: ConfigFile, sources: tuple[ConfigSource, ...], file: str, base_dir: str, home: str) -> Config:
    defaults, execution, retention = written.defaults or Defaults(), written.execution or Execution(), written.retention or Retention()
    standard = Config()
    return Config(
        file=file,
        sources=sources,
        hooks_listen=written.hooks.listen if written.hooks else standard.hooks_listen,
        admin_listen=written.admin.listen if written.admin else standard.admin_listen,
        max_concurrent_runs=_or(execution.max_concurrent_runs, standard.max_concurrent_runs),
        retention_runs=_or(retention.runs, standard.retention_runs),
        retention_runs_per_task=_or(retention.runs_per_task, standard.retention_runs_per_task),
        retention_bundles=_or(retention.bundles, standard.retention_bundles),
        default_timeout=defaults.timeout,
        default_on_failure_chain=defaults.on_failure_chain.task if defaults.on_failure_chain else None,
        withheld_env=tuple(sorted(set(_withheld(written)))),
        credentials=tuple(_credential(each, base_dir, home) for each in written.credentials or ()),
        relay=RelayHome(url=written.relay.url.rstrip("/"), name=written.relay.name, token_env=written.relay.token_env) if written.relay else None,
    )


def _credential(written: Credential, base_dir: str, home: str) -> Access:
    way = _auth(Auth(token_env=written.token_env, ssh_key=written.ssh_key, known_hosts=written.known_hosts), base_dir, home)
    return Access(match=written.match, **(way or {}))


def _or(written: int | None, standard: int) -> int:
    return standard if written is None else written


def _source(entry: SourceEntry, base_dir: str, home: str) -> ConfigSource:
    is_git = entry.type == "git" or (entry.type is None and entry.url is not None)
    path = (entry.path or entry.entry_path or "") if is_git else absolute(entry.path or "", base_dir, home)
    ref = _ref(entry.ref)
    standard = ConfigSource(name="")
    return ConfigSource(
        name=entry.name or default_name((entry.url or "") if is_git else path),
        type="git" if is_git else "local",
        path=path,
        url=entry.url or "",
        branch=entry.branch or (ref or {}).get("branch", "main" if is_git and not ref else ""),
        ref=ref,
        root=entry.root or "" if is_git or not entry.root else absolute(entry.root, base_dir, home),
        settle=_or(entry.settle, standard.settle),
        rescan=_or(entry.rescan, standard.rescan),
        poll_interval=_or(entry.poll_interval, standard.poll_interval),
        auth=_auth(entry.auth, base_dir, home),
        allowed_token_envs=entry.allowed_token_envs or (),
        webhook_secret_env=entry.webhook_secret_env or "",
    )


def _ref(ref: Ref | None) -> dict[str, str] | None:
    if ref is None:
        return None
    return {name: value for name in Ref.__struct_fields__ if (value := getattr(ref, name)) is not None}


def _auth(auth: Auth | None, base_dir: str, home: str) -> dict[str, str] | None:
    if auth is None:
        return None
    if auth.token_env:
        return {"token_env": auth.token_env}
    paths = {"ssh_key": auth.ssh_key, "known_hosts": auth.known_hosts}
    return {name: absolute(path, base_dir, home) for name, path in paths.items() if path}


def absolute(path: str, base_dir: str, home: str) -> str:
    """A path of dicode.yaml: relative to its folder, `~` for home."""
    if path == "~" or path.startswith("~/"):
        path = home + path[1:]
    return posixpath.normpath(posixpath.join(base_dir, path))


def default_name(place: str) -> str:
    """The name of a source that has none: the last part of its path or URL."""
    last = place.rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    return last.removesuffix(".git")


def _check_names(root: yaml.Mapping, sources: tuple[ConfigSource, ...], faults: Faults) -> None:
    entries = root.items.get("sources")
    if not isinstance(entries, yaml.Sequence):
        return
    if len(sources) > MAX_SOURCES:
        faults.add(root.keys["sources"], f"more than {MAX_SOURCES} sources")
    first: dict[str, int] = {}
    for entry, source in zip(entries.items, sources, strict=True):
        at: At = entry.keys.get("name", entry) if isinstance(entry, yaml.Mapping) else entry
        if not names.is_segment(source.name):
            faults.add(at, f"'{shown(source.name)}' cannot name a source: give it a `name` of 1 to 63 of A-Z a-z 0-9 . _ -")
        elif source.name in first:
            faults.add(at, f"duplicate source name '{source.name}', first in line {first[source.name]}: give one of them another `name`")
        first.setdefault(source.name, at.line)


def _withheld(written: ConfigFile) -> Iterator[str]:
    """The variables that a `*_env` key names: secrets of dicode itself, never given to tasks."""
    for source in written.sources or ():
        yield from source.allowed_token_envs or ()
        yield from filter(None, (source.webhook_secret_env, source.auth and source.auth.token_env))
    for holder in (written.relay, *(written.credentials or ())):
        if holder is not None and holder.token_env:
            yield holder.token_env


def _not_built(written: ConfigFile) -> Iterator[str]:
    if written.store not in (None, "sqlite"):
        yield "store: postgresql"
    if written.defaults is not None and written.defaults.on_failure_chain is not None and written.defaults.on_failure_chain.task:
        yield "defaults.on_failure_chain"
