"""task.yaml, read: every field of SPEC 3 typed, every fault placed.

The fields are those of `messages.task.TaskSpec`; here stand only the forms and rules that an annotation cannot say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from dicode.messages.fault import Fault
from dicode.messages.task import (
    EnvGrant,
    Param,
    Permissions,
    Ready,
    Resources,
    Retry,
    Runtime,
    TaskCall,
    TaskSpec,
    Trigger,
)
from dicode.spec import schedule, yaml
from dicode.spec.fields import BAD, At, Check, Faults, Schema, Take, boolean, many, number, one_of, text, whole
from dicode.spec.params import check_value
from dicode.spec.yaml import TOP, Node, Scalar, Sequence, shown

FILE = "task.yaml"
API_VERSION = "dicode/v1"
HEAD = frozenset({"apiVersion", "kind"})  # keys of the file, not of the task
#: Params that dicode gives itself to a task of `on_failure_chain`.
RESERVED_PARAMS = frozenset({"taskID", "runID", "status", "output", "_chain_depth"})
#: What `permissions.dicode` may name: lists of ids, and single capabilities.
DICODE_LISTS = ("tasks", "mcp")
DICODE_SWITCHES = (
    "list_tasks", "get_runs", "secrets_write", "oauth_init", "oauth_store", "oauth_status", "runs_list_expired", "runs_delete_input",
    "runs_pin_input", "runs_unpin_input", "runs_replay", "tasks_test", "sources_set_dev_mode", "git_commit_push",
)  # fmt: skip
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL")
TRIGGERS = ("cron", "webhook", "chain", "manual", "daemon")

#: What the script of a task folder is called; of two the first counts.
SCRIPTS: dict[Runtime, tuple[str, ...]] = {
    "python": ("task.py",),
    "deno": ("task.ts", "task.js", "task.mjs"),
    "shell": ("task.sh", "task"),
}


def scripts_of(stem: str) -> dict[Runtime, tuple[str, ...]]:
    """What the script of an inline task is called: `KEY.py`, `task.sh`. Its files have an ending, all of them."""
    return {runtime: tuple(f"{stem}{path[4:]}" for path in paths if path != "task") for runtime, paths in SCRIPTS.items()}


_HOOK = re.compile(r"/hooks(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@-]+)+")
_LISTEN = re.compile(r"tcp://(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}|unix://[^\0]+")
_FROM = re.compile(r"(?:env:)?[^\0=:/]+|task:[^\0]+|.*\$\{.*", re.DOTALL)


class Parsed(NamedTuple):
    """`spec` is None exactly when there are faults. `root` and `file` say where things stand, for faults found later."""

    spec: TaskSpec | None
    faults: tuple[Fault, ...]
    file: str = FILE
    root: yaml.Mapping | None = None

    def fault(self, message: str, *keys: str) -> Fault:
        """A fault at the first of these keys that is set, else of the whole file."""
        place = next((place for key in keys if self.root is not None and (place := self.root.place(key))), TOP)
        return Fault(self.file, place.line, place.column, message)


def parse_task(data: bytes, file: str = FILE, *, kind_required: bool = False) -> Parsed:
    """What the bytes of a task.yaml say; `file` is how faults name it. Never raises."""
    document = yaml.read(data, file, yaml.TASK)
    if document.faults:
        return Parsed(None, document.faults, file)
    faults = Faults(file)
    if not isinstance(document.root, yaml.Mapping):
        faults.add(TOP, "the file is empty" if document.root is None else "the file must be a mapping of fields, beginning with `name:`")
        return Parsed(None, faults.sorted(), file)
    spec = read_task(document.root, faults, kind_required=kind_required)
    return Parsed(None if faults else spec, faults.sorted(), file, document.root)


def read_task(node: yaml.Mapping, faults: Faults, at: At = TOP, *, kind_required: bool = False) -> TaskSpec | None:
    """The task that a mapping says, or None with its faults noted."""
    check_head(node, faults, at, kind_required)
    spec = _READER(node, faults, at, "task")
    return None if spec is BAD else spec


def check_head(node: yaml.Mapping, faults: Faults, at: At, kind_required: bool) -> None:
    """`apiVersion` and `kind` of a task."""
    for key, expected in (("apiVersion", API_VERSION), ("kind", "Task")):
        found = node.items.get(key)
        if found is None:
            if kind_required and key == "kind":
                faults.add(at, "'kind: Task' is missing: a file behind a ref must say what it is")
        elif not isinstance(found, Scalar) or found.text != expected:
            faults.add(node.keys[key], f"'{key}' must be {expected}")


# ── forms of single fields ──


def read_name(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is BAD:
        return BAD
    if not value.strip():
        return faults.add(at, "'name' is empty")
    if not value.isprintable():
        return faults.add(at, f"'name' holds characters that cannot be shown: {shown(value)}")
    return value


def read_runtime(node: Node, faults: Faults, at: At, label: str) -> Any:
    if isinstance(node, Scalar) and node.text == "js":
        return "deno"
    return _RUNTIME(node, faults, at, label)


_RUNTIME = one_of(("deno", "python", "shell", "docker", "podman"))


def read_params(node: Node, faults: Faults, at: At, label: str) -> Any:
    """`name: default`, `name: {…}`, or a list of `{name, …}`."""
    if isinstance(node, Sequence):
        found = [(each, _PARAM(each, faults, each, "a param")) for each in node.items]
    elif isinstance(node, yaml.Mapping):
        found = [(node.keys[name], _named_param(name, child, faults, node.keys[name])) for name, child in node.items.items()]
    else:
        return faults.add(at, "'params' must be a mapping `name: default` or a list of `{name, …}`")
    return _unique(found, faults, "param")


def _named_param(name: str, node: Node, faults: Faults, at: Scalar) -> Any:
    if isinstance(node, yaml.Mapping):
        if "name" in node.items:
            return faults.add(node.keys["name"], f"the name of a param in a mapping is its key: remove 'name' from '{shown(name)}'")
        named = yaml.Mapping(node.line, node.column)
        named.items = {"name": at, **node.items}
        named.keys = {"name": at, **node.keys}
        return _PARAM(named, faults, at, name)
    if isinstance(node, Sequence):
        return faults.add(at, f"the default of param '{shown(name)}' must be text, not a list")
    param = Param(name=name, default=None if node.is_null else node.text)
    return param if _param_name(at, faults, at, "name") is not BAD else BAD


def _param_name(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is not BAD and (not value or not value.isprintable() or "=" in value):
        return faults.add(at, f"'{shown(value)}' cannot be the name of a param: no '=' and no control characters")
    return value


def _check_param(node: yaml.Mapping, values: dict[str, Any], faults: Faults, at: At) -> None:
    type, default = values.get("type"), values.get("default")
    if type in (None, "string") or not default or "${" in default:
        return
    wrong = check_value(type, default)
    if wrong is not None:
        faults.add(node.keys["default"], f"the default of param '{shown(values.get('name', ''))}' {wrong}")


def read_env(node: Node, faults: Faults, at: At, label: str) -> Any:
    if not isinstance(node, Sequence):
        return faults.add(at, "'env' must be a list of NAME, NAME=literal or {name, …}")
    return _unique([(each, _grant(each, faults)) for each in node.items], faults, "variable")


def _grant(node: Node, faults: Faults) -> Any:
    if not isinstance(node, Scalar):
        return _GRANT(node, faults, node, "an item of env")
    name, literal, value = node.text.partition("=")
    if _env_name(Scalar(name, False, node.line, node.column), faults, node, "name") is BAD:
        return BAD
    return EnvGrant(name=name, value=value) if literal else EnvGrant(name=name)


def _env_name(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is not BAD and (not value or "=" in value or not value.isprintable() or " " in value):
        return faults.add(at, f"'{shown(value)}' cannot be the name of a variable: no '=', blanks or control characters")
    return value


def _env_from(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is not BAD and not _FROM.fullmatch(value):
        return faults.add(at, f"'from' must be VAR, env:VAR or task:ID, not {shown(value) or 'empty'}")
    return value


def read_capabilities(node: Node, faults: Faults, at: At, label: str) -> Any:
    """`permissions.dicode`: lists of ids, and switches; a switch may be a list too (of what it is limited to)."""
    if not isinstance(node, yaml.Mapping):
        return faults.add(at, "'dicode' must be a mapping, such as `{tasks: [ID]}`")
    values: dict[str, Any] = {}
    for key, child in node.items.items():
        if key not in (*DICODE_LISTS, *DICODE_SWITCHES):
            faults.unknown(node.keys[key], f"unknown field '{shown(key)}'; known are {', '.join((*DICODE_LISTS, *DICODE_SWITCHES))}")
            values[key] = BAD
        elif isinstance(child, Sequence):
            values[key] = many(text)(child, faults, node.keys[key], key)
        else:
            values[key] = (many(text) if key in DICODE_LISTS else boolean)(child, faults, node.keys[key], key)
    return BAD if BAD in values.values() else values


def _call(node: Node, faults: Faults, at: At, label: str) -> Any:
    """A task id, or `{task, params}`. The empty id says: none, not even the default."""
    return TaskCall(task=node.text) if isinstance(node, Scalar) else _CALL(node, faults, at, label)


def _check_call(node: yaml.Mapping, values: dict[str, Any], faults: Faults, at: At) -> None:
    reserved = RESERVED_PARAMS & set(values.get("params") or ())
    if reserved:
        faults.add(node.keys["params"], f"params {', '.join(sorted(reserved))} are set by dicode: choose other names")


def _said(check: Callable[[str], str | None]) -> Callable[[Node, Faults, At, str], Any]:
    """Text that this check has nothing to say about."""
    kept = lru_cache(maxsize=4096)(check)

    def take(node: Node, faults: Faults, at: At, label: str) -> Any:
        value = text(node, faults, at, label)
        wrong = None if value is BAD else kept(value)
        return value if wrong is None else faults.add(at, f"'{label}': {wrong}")

    return take


def check_hook(path: str) -> str | None:
    """What is wrong with the path of a webhook; None when it is fine."""
    if path == "/hooks/git" or path.startswith("/hooks/git/"):
        return "/hooks/git/ is reserved for pushes: choose another path"
    if len(path) > 512:
        return "the path is longer than 512 characters"
    if not _HOOK.fullmatch(path):
        return f"{shown(path) or 'an empty path'} must be /hooks/ and a name: letters, digits, . _ - and /"
    return None


def _signal(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is not BAD and value not in SIGNALS and f"SIG{value}" not in SIGNALS:
        return faults.add(at, f"'stop_signal' must be one of {', '.join(SIGNALS)}, not {shown(value)}")
    return value


def _listen(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is not BAD and not _LISTEN.fullmatch(value):
        return faults.add(at, f"'listen' must be like tcp://127.0.0.1:9000, not {shown(value)}")
    return value


def _method(node: Node, faults: Faults, at: At, label: str) -> Any:
    return one_of(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"))(node, faults, at, label)


def _path(node: Node, faults: Faults, at: At, label: str) -> Any:
    value = text(node, faults, at, label)
    if value is not BAD and (not value.strip("/") or value.startswith("/") or not value.isprintable()):
        return faults.add(at, f"'{label}' must hold paths relative to the task's folder, not {shown(value) or 'nothing'}")
    return value


def _unique(found: Collection[tuple[At, Any]], faults: Faults, what: str) -> Any:
    seen: set[str] = set()
    for at, value in found:
        if value is BAD:
            continue
        if value.name in seen:
            faults.add(at, f"duplicate {what} '{shown(value.name)}'")
        seen.add(value.name)
    return BAD if any(value is BAD for _, value in found) else tuple(value for _, value in found)


# ── rules over several fields ──


def _check_trigger(node: yaml.Mapping, values: dict[str, Any], faults: Faults, at: At) -> None:
    said = trigger_types(node)
    if len(said) > 1:
        faults.add(at, f"exactly one trigger is allowed, found {' and '.join(said)}: keep one")
    elif not said:
        faults.add(at, "exactly one trigger must be given: cron, webhook, chain, `manual: true` or `daemon: true`")


def trigger_types(node: yaml.Mapping) -> list[str]:
    """The trigger types that a `trigger:` says; `manual: false` says nothing."""
    return [name for name in TRIGGERS if _says(node, name)]


def _says(node: yaml.Mapping, name: str) -> bool:
    found = node.items.get(name)
    return found is not None and not (isinstance(found, Scalar) and (found.is_null or (name in ("manual", "daemon") and found.text == "false")))


def _check_permissions(node: yaml.Mapping, values: dict[str, Any], faults: Faults, at: At) -> None:
    net = node.items.get("net")
    if isinstance(net, Scalar) and net.is_null:
        faults.add(node.keys["net"], "'net' has no value: write [] for no network, or remove the key for all of it")
    if values.get("enforce") == "strict":
        faults.add(node.keys["enforce"], "'enforce: strict' is not possible in this release: nothing would be enforced; use best_effort")


def _check_ready(node: yaml.Mapping, values: dict[str, Any], faults: Faults, at: At) -> None:
    if len(values) > 1:
        faults.add(at, f"'ready' must name one probe, found {' and '.join(values)}")


def _check_task(node: yaml.Mapping, values: dict[str, Any], faults: Faults, at: At) -> None:
    container = values.get("runtime") in ("docker", "podman")
    docker = values.get("docker")
    if container and "docker" not in node.items:
        faults.add(node.keys["runtime"], f"runtime {values['runtime']} needs 'docker' with an image or a build")
    elif docker is not None and not container and "runtime" not in node.items:
        faults.add(node.keys["docker"], "'docker' needs runtime: docker or podman")
    elif docker is not None and docker.image is None and docker.build is None:
        faults.add(node.keys["docker"], "'docker' needs an image or a build")


#: How fields in a form of their own are read, in a task.yaml and wherever else they may stand.
FORMS: dict[tuple[type[msgspec.Struct], str], Take] = {
    (TaskSpec, "name"): read_name,
    (TaskSpec, "runtime"): read_runtime,
    (TaskSpec, "params"): read_params,
    (TaskSpec, "concurrency"): whole(1, 10_000),
    (TaskSpec, "on_failure_chain"): _call,
    (TaskSpec, "include"): many(_path),
    (TaskSpec, "mcp_port"): whole(0, 65_535),
    (Trigger, "cron"): _said(schedule.check_cron),
    (Trigger, "timezone"): _said(schedule.check_zone),
    (Trigger, "webhook"): _said(check_hook),
    (Trigger, "methods"): many(_method),
    (Trigger, "listen"): many(_listen),
    (Trigger, "stop_signal"): _signal,
    (Param, "name"): _param_name,
    (Permissions, "env"): read_env,
    (Permissions, "dicode"): read_capabilities,
    (EnvGrant, "name"): _env_name,
    (EnvGrant, "from"): _env_from,
    (Retry, "attempts"): whole(0, 100),
    (Retry, "multiplier"): number(1, 1000),  # in this range JSON writes a float in one way only
    (Resources, "nofile"): whole(1),
    (Resources, "nproc"): whole(1),
}
#: Rules over several fields of one mapping.
RULES: dict[type[msgspec.Struct], Check] = {
    TaskSpec: _check_task,
    Trigger: _check_trigger,
    Permissions: _check_permissions,
    Param: _check_param,
    TaskCall: _check_call,
    Ready: _check_ready,
}
HINTS = {"trigger": ": every task needs exactly one trigger, such as `trigger: {manual: true}`"}
_SCHEMA = Schema(FORMS, RULES, HINTS)
_PARAM = _SCHEMA.reader(Param)
_GRANT = _SCHEMA.reader(EnvGrant)
_CALL = _SCHEMA.reader(TaskCall)
_READER = _SCHEMA.reader(TaskSpec, accepted=HEAD)


# ── what follows from a spec ──


class Script(NamedTuple):
    """How a task is run. `path` is "" for a container."""

    runtime: Runtime
    path: str


def own_stem(paths: Iterable[str], key: str) -> str:
    """What the files of an inline task are called before the dot: its KEY, or where no file is, `task`."""
    return key if any(path.startswith(f"{key}.") for path in paths) else "task"


def choose_script(spec: TaskSpec, kinds: dict[str, str], key: str = "") -> Script | str:
    """The script among the files of the folder (path → `x`, `-` or `l`), or what is missing. `key`: of an inline task.

    A file called `task` counts only when it may be executed.
    """
    if spec.runtime in ("docker", "podman"):
        return Script(spec.runtime, "")
    names = scripts_of(own_stem(kinds, key)) if key else SCRIPTS
    runtimes: Iterable[Runtime] = names if spec.runtime is None else (spec.runtime,)
    found = [Script(runtime, path) for runtime in runtimes for path in names[runtime] if path in kinds and (path != "task" or kinds[path] == "x")]
    if not found:
        return _script_missing(runtimes, kinds, key)
    if len({script.runtime for script in found}) > 1:
        return f"both {' and '.join(script.path for script in found)} are here: choose with `runtime:`"
    return found[0]


def _script_missing(runtimes: Iterable[Runtime], kinds: dict[str, str], key: str) -> str:
    names = scripts_of(key) if key else SCRIPTS
    expected = " or ".join(path if path != "task" else "an executable task" for runtime in runtimes for path in names[runtime])
    if key:
        return f"the script is missing: expected {expected} beside the TaskSet, or a task.* where there is no {key}.*"
    more = "; task is there but not executable" if "task" in kinds else ""
    return f"the script is missing: expected {expected} beside {FILE}{more}"


def not_built(spec: TaskSpec, runtime: Runtime | None) -> tuple[str, ...]:
    """The fields that are accepted but without effect in this release (condition NotImplemented). deno enforces what it is told to."""
    trigger, permissions = spec.trigger, spec.permissions
    found = [f"runtime: {spec.runtime}"] if spec.runtime in ("docker", "podman") else []
    found += [f"trigger.{name}" for name in ("chain", "listen", "ready", "deadline") if getattr(trigger, name) is not None]
    found += [f"trigger.{name}" for name in ("min_ready", "auto_revert") if getattr(trigger, name)]  # 0 and false: as it is
    if trigger.strategy == "rolling":
        found.append("trigger.strategy: rolling")
    if spec.on_failure_chain is not None and spec.on_failure_chain.task:
        found.append("on_failure_chain")
    if permissions is not None:
        walls = ("dicode",) if runtime == "deno" else ("fs", "run", "net", "sys", "dicode")
        found += [f"permissions.{name}" for name in walls if getattr(permissions, name) not in (None, ("*",))]
        for grant in permissions.env or ():
            if grant.value is None and (grant.secret is not None or (grant.from_ or "").startswith("task:") or grant.if_missing is not None):
                found.append(f"permissions.env[{grant.name}]")
    found += [
        name
        for name in ("resources", "user", "labels", "notify", "provider", "run_inputs", "auto_fix", "mcp_port")
        if getattr(spec, name) is not None
    ]
    return tuple(found)
