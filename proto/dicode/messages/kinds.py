"""The kinds: everything that is kept in the store and told over the wire. One writer per kind.

All times are whole milliseconds since the Unix epoch, UTC. Keys are given per kind.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from dicode.messages.fault import Fault
from dicode.messages.task import Runtime, TaskSpec


class Kind(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """Base of the kinds; the tag is the kind's name."""


class Condition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Kubernetes condition. `since` is when `status` last changed."""

    type: str
    status: bool
    reason: str
    message: str = ""
    since: int = 0
    observed_generation: int = 0


class ConfigSource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of `sources:`, with paths made absolute and durations in ms."""

    name: str
    type: Literal["local", "git"] = "local"
    path: str = ""
    url: str = ""
    branch: str = ""
    ref: dict[str, str] | None = None
    root: str = ""
    settle: int = 10
    rescan: int = 10_000
    poll_interval: int = 30_000
    auth: dict[str, str] | None = None
    allowed_token_envs: tuple[str, ...] = ()
    webhook_secret_env: str = ""


class Credential(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of `credentials:`: how every URL that begins with `match` is reached. Secrets are named, never held."""

    match: str
    token_env: str = ""
    ssh_key: str = ""
    known_hosts: str = ""


class Relay(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`relay:`: the public machine that forwards hooks to this one."""

    url: str
    name: str
    token_env: str = ""


class Config(Kind, frozen=True, kw_only=True, tag="Config"):
    """dicode.yaml as it is applied now. Key `dicode.yaml`. Writer: source-controller."""

    file: str = ""
    sources: tuple[ConfigSource, ...] = ()
    hooks_listen: str = "127.0.0.1:8080"
    admin_listen: str = "127.0.0.1:8081"
    max_concurrent_runs: int = 0
    retention_runs: int = 30 * 86_400_000
    retention_runs_per_task: int = 1000
    retention_bundles: int = 20
    default_timeout: int | None = None
    default_on_failure_chain: str | None = None
    epoch: str = ""  # of the source-controller's start that wrote it, as in Source
    withheld_env: tuple[str, ...] = ()  # variables named by a `*_env` key: never given to tasks
    credentials: tuple[Credential, ...] = ()
    relay: Relay | None = None
    conditions: tuple[Condition, ...] = ()


class Commit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A git commit. `author` as `Name <mail>`; `at`: its committer time; `subject`: its first line."""

    id: str
    author: str = ""
    at: int = 0
    subject: str = ""


class Resolution(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a source was made of from `at` on: repository (URL and ref; "" for the source's own) → commit."""

    at: int
    revisions: dict[str, str] = {}


class Source(Kind, frozen=True, kw_only=True, tag="Source"):
    """A place tasks come from. Key: its name. Writer: source-controller.

    `status`: `ok` (read whole), `stale` (the last good reading is served), `unavailable` (never read),
    `pending` (not read yet since the controller started), `held` (a prune waits for confirmation).
    `order` is the place in dicode.yaml: it decides who keeps a contested id.
    `revision` is the commit of its own tree, "" for a folder. `dev`: the absolute path of the working copy it is read
    from, or `branch:NAME`; "" outside of dev mode. `resolutions`: the last few, newest first.
    """

    name: str
    type: Literal["local", "git"] = "local"
    spec: ConfigSource
    origin: Literal["file", "store", "up"] = "file"
    order: int = 0
    status: Literal["pending", "ok", "stale", "unavailable", "held"] = "pending"
    revision: str = ""
    dev: str = ""
    tasks: int = 0
    suspended: bool = False
    read_at: int = 0
    epoch: str = ""  # when the source-controller that wrote it was started, ms: `ready` waits for the present one
    commit: Commit | None = None
    synced_at: int = 0  # when the remote was last reached
    resolutions: tuple[Resolution, ...] = ()
    conditions: tuple[Condition, ...] = ()


class DesiredTask(Kind, frozen=True, kw_only=True, tag="DesiredTask"):
    """What a source says a task should be. Key `<source>/<id>`. Writer: source-controller.

    With faults, `spec` and `digest` are those of the last good reading, or None and "" if there was none.
    """

    id: str
    source: str
    digest: str = ""
    process: str = ""
    spec: TaskSpec | None = None
    runtime: Runtime | None = None
    dir: str = ""
    revision: str = ""
    faults: tuple[Fault, ...] = ()
    conditions: tuple[Condition, ...] = ()  # of the reading: Unsettled, TooLarge
    seen_at: float = 0.0  # of the file event that led here, seconds since the epoch with fraction
    cause: str = ""
    order: int = 0  # of the source
    set_dir: str = ""  # TASK_SET_DIR: the folder of the root TaskSet on this machine; "" outside of TaskSets


class Operation(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last thing done to a task: register, update, suspend, resume, restart, …"""

    verb: str
    at: int
    who: str = ""
    message: str = ""


Sync = Literal["Synced", "OutOfSync", "Unknown"]
Health = Literal["Healthy", "Progressing", "Degraded", "Suspended", "Missing", "Unknown"]


class Task(Kind, frozen=True, kw_only=True, tag="Task"):
    """A registered task. Key: its id. Writer: reconciler.

    `digest` is "" and `spec` None while nothing good was ever admitted; the conditions say why.
    `generation` counts what was admitted. `sync` is measured: every actual reports this digest.
    """

    id: str
    source: str
    digest: str = ""
    process: str = ""
    spec: TaskSpec | None = None
    runtime: Runtime | None = None
    dir: str = ""
    generation: int = 0
    revision: str = ""
    sync: Sync = "Unknown"
    health: Health = "Unknown"
    suspended: bool = False
    pinned: str = ""
    operation: Operation | None = None
    conditions: tuple[Condition, ...] = ()
    registered_at: int = 0
    restart_token: str = ""  # of the last `restart` request; the supervisor carries it out once
    cause: str = ""
    set_dir: str = ""  # as in DesiredTask


class Schedule(Kind, frozen=True, kw_only=True, tag="Schedule"):
    """The next fire of a cron task. Key: task id. Writer: trigger-engine.

    `last` is the cursor: the newest slot that has been decided (fired, skipped or missed).
    """

    task: str
    digest: str = ""
    expression: str = ""  # cron text, zone and dst policy: the cursor holds while this stays the same
    next: int = 0
    last: int = 0
    suspended: bool = False
    conditions: tuple[Condition, ...] = ()


class Route(Kind, frozen=True, kw_only=True, tag="Route"):
    """A served webhook. Key: task id. Writer: trigger-engine."""

    task: str
    digest: str = ""
    path: str = ""
    url: str = ""
    methods: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()


DaemonState = Literal["starting", "running", "stopping", "stopped", "backoff", "crash_loop", "failed", "exited"]


class Daemon(Kind, frozen=True, kw_only=True, tag="Daemon"):
    """A daemon process as it is. Key: task id. Writer: supervisor.

    A process is known by (boot_id, pid, start_time), never by pid alone. `digest` is the task digest
    it is labelled with, `process` what it was started from, `bundle` the digest whose files it runs.
    """

    task: str
    digest: str = ""
    process: str = ""
    bundle: str = ""
    generation: int = 0
    state: DaemonState = "stopped"
    pid: int = 0
    start_time: float = 0.0  # seconds after boot
    boot_id: str = ""
    restarts: int = 0
    failures: int = 0  # in a row, without a healthy spell between
    since: int = 0
    retry_at: int = 0
    exit: str = ""  # of the last process, for people: `exit code 1`, `killed by SIGSEGV`
    log: str = ""  # key of its log
    restart_token: str = ""
    conditions: tuple[Condition, ...] = ()
    launch: str = ""  # mark of the last start: it is in the process's DICODE_DAEMON_ID and names its kept pipes
    failed: str = ""  # the digest that could not be started; the condition StartFailed says why
    stop_signal: str = "SIGTERM"  # how the process is asked to go, and the ms it is given: of the spec it was started from
    stop_grace: int = 10_000
    set_dir: str = ""  # TASK_SET_DIR of the process, as in DesiredTask


RunStatus = Literal["queued", "running", "succeeded", "failed", "timed_out", "cancelled", "lost", "skipped"]
ENDED: frozenset[str] = frozenset({"succeeded", "failed", "timed_out", "cancelled", "lost", "skipped"})


class RunTrigger(msgspec.Struct, frozen=True, omit_defaults=True):
    """What fired a run. `key` is the scheduled instant (ms), the delivery id, or who asked."""

    type: Literal["cron", "webhook", "manual", "chain", "replay"]
    key: str = ""
    parent: str = ""
    depth: int = 0


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a task gave back: `value` is JSON text; `content` what `output.*` set, for the webhook's answer."""

    value: str = ""
    content_type: str = ""
    content: bytes = b""


class Run(Kind, frozen=True, kw_only=True, tag="Run"):
    """One execution, pinned to a digest for its whole life. Key: its id. Writer: the queue in the store.

    `unique` is the key under which a second enqueue finds this run instead of making another.
    A retried run keeps its id; `attempt` counts from 1. `fence` grows with every claim.
    """

    id: str
    task: str
    unique: str = ""
    digest: str = ""
    runtime: Runtime | None = None
    status: RunStatus = "queued"
    trigger: RunTrigger
    params: dict[str, str] | None = None
    input: str = ""  # JSON text; "" for none. Bigger than 256 KiB: `input_blob` names a file
    input_blob: str = ""
    attempt: int = 1
    attempts: int = 1  # at most: 1 + retry.attempts
    backoff: int = 10_000
    multiplier: float = 2.0
    backoff_max: int = 600_000
    overlap: Literal["allow", "skip", "queue", "replace"] = "allow"
    concurrency: int = 0  # 0: 1 where overlap limits
    labels: tuple[str, ...] = ()
    worker: str = ""
    fence: int = 0
    created: int = 0
    due: int = 0
    started: int = 0
    finished: int = 0
    exit_code: int | None = None
    result: Result | None = None
    error: str = ""
    cancel: bool = False
    cause: str = ""
    set_dir: str = ""  # as in DesiredTask, when it was enqueued


class Worker(Kind, frozen=True, kw_only=True, tag="Worker"):
    """A worker process. Key: its name, `worker-<n>`. Writer: that worker."""

    name: str
    pid: int = 0
    host: str = ""
    slots: int = 0
    busy: int = 0
    labels: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    started: int = 0
    state: Literal["ready", "draining", "gone"] = "ready"
    conditions: tuple[Condition, ...] = ()


class Delivery(Kind, frozen=True, kw_only=True, tag="Delivery"):
    """One webhook call that was verified. Key: `<task>:<delivery id>`. Writer: trigger-engine."""

    task: str
    id: str
    run: str = ""
    at: int = 0
    remote: str = ""
    event: str = ""
    bytes: int = 0


class Event(Kind, frozen=True, kw_only=True, tag="Event"):
    """Something that happened, for people. Key: given by the store, in order. Appended by all."""

    object: str  # `task/slack-digest`, `source/infra`, …
    type: Literal["Normal", "Warning"] = "Normal"
    reason: str
    message: str
    at: int
    role: str = ""
    cause: str = ""


class Revision(msgspec.Struct, frozen=True, omit_defaults=True):
    digest: str
    process: str
    at: int
    source: str
    revision: str = ""
    who: str = ""
    generation: int = 0


class History(Kind, frozen=True, kw_only=True, tag="History"):
    """The last digests of a task, newest first. Key: task id. Writer: reconciler."""

    task: str
    revisions: tuple[Revision, ...] = ()


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a Request ended. `ok` False: `message` says why, for a person."""

    ok: bool
    message: str = ""
    at: int = 0


class Request(Kind, frozen=True, kw_only=True, tag="Request"):
    """Something a person asks for. Key: token. Appended by anyone, answered once by the target's owner.

    Verbs and owners: `source.add`, `source.remove`, `source.sync`, `source.confirm`, `source.suspend`,
    `source.resume`, `source.dev` (args `local_path`, `branch` or `disable: true`), `source.plan` (args `branch`,
    `local_path` or none; the answer's message is JSON) → source-controller; `task.suspend`, `task.resume`, `task.restart` → reconciler;
    `daemon.figures` (the answer's message is JSON) → supervisor.
    """

    token: str
    verb: str
    target: str
    args: dict[str, Any] = {}
    who: str = ""
    when: int = 0
    answer: Answer | None = None


AnyKind = (
    Config | Source | DesiredTask | Task | Schedule | Route | Daemon | Run | Worker | Delivery
    | Event | History | Request
)  # fmt: skip
KINDS: dict[str, type[Kind]] = {
    kind.__struct_config__.tag: kind  # type: ignore[misc]  # our tags are the class names
    for kind in (
        Config, Source, DesiredTask, Task, Schedule, Route, Daemon, Run, Worker, Delivery, Event, History, Request,
    )
}  # fmt: skip


def kind_of(value: Kind) -> str:
    """The kind's name, as it stands in topics and tables."""
    return type(value).__name__
