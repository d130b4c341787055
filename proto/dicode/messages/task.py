"""What a task.yaml says: only the fields that were set. Defaults are filled in where they are used.

Encoding a `TaskSpec` with its defaults omitted is, by construction, the spec that is hashed (SPEC 5):
absent stays absent, `${…}` stays unexpanded, durations are whole milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

#: A length of time in whole milliseconds. The title is how `render` knows to print it in seconds.
Millis = Annotated[int, msgspec.Meta(ge=0, title="duration")]


class Part(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Base of everything below: absent fields are not encoded."""


class Dst(Part, frozen=True, kw_only=True):
    gap: Literal["run_after", "skip"] | None = None
    fold: Literal["once", "both"] | None = None


class Chain(Part, frozen=True, kw_only=True, rename={"from_": "from"}):
    from_: str
    on: Literal["success", "failure", "always"] | None = None


class Ready(Part, frozen=True, kw_only=True):
    http: str | None = None
    tcp: str | None = None
    exec: tuple[str, ...] | None = None
    log: str | None = None
    notify: bool | None = None


class Trigger(Part, frozen=True, kw_only=True):
    cron: str | None = None
    timezone: str | None = None
    dst: Dst | None = None
    catch_up: Literal["last", "none", "all"] | None = None
    jitter: Millis | None = None
    webhook: str | None = None
    webhook_secret: str | None = None
    auth: bool | None = None
    methods: tuple[str, ...] | None = None
    respond: Literal["result", "accepted"] | None = None
    chain: Chain | None = None
    manual: bool | None = None
    daemon: bool | None = None
    restart: Literal["always", "on-failure", "never"] | None = None
    strategy: Literal["recreate", "rolling"] | None = None
    listen: tuple[str, ...] | None = None
    ready: Ready | None = None
    min_ready: Millis | None = None
    deadline: Millis | None = None
    auto_revert: bool | None = None
    stop_signal: str | None = None
    stop_grace: Millis | None = None

    @property
    def type(self) -> Literal["cron", "webhook", "chain", "daemon", "manual"]:
        """Which of the five it is; a parsed spec has exactly one."""
        if self.cron is not None:
            return "cron"
        if self.webhook is not None:
            return "webhook"
        if self.chain is not None:
            return "chain"
        return "daemon" if self.daemon else "manual"


class Param(Part, frozen=True, kw_only=True):
    name: str
    type: Literal["string", "number", "boolean", "cron"] | None = None
    default: str | None = None
    description: str | None = None
    required: bool | None = None


class TaskCall(Part, frozen=True, kw_only=True):
    """A task to run with params: `on_failure_chain`, `if_missing`."""

    task: str
    params: dict[str, str] | None = None


class EnvGrant(Part, frozen=True, kw_only=True, rename={"from_": "from"}):
    """One variable a task may see. Of several givers the order is value, secret, from."""

    name: str
    from_: str | None = None
    secret: str | None = None
    value: str | None = None
    optional: bool | None = None
    if_missing: TaskCall | None = None


class FsGrant(Part, frozen=True, kw_only=True):
    path: str
    permission: Literal["r", "w", "rw"] | None = None


class Permissions(Part, frozen=True, kw_only=True):
    env: tuple[EnvGrant, ...] | None = None
    fs: tuple[FsGrant, ...] | None = None
    run: tuple[str, ...] | None = None
    net: tuple[str, ...] | None = None
    sys: tuple[str, ...] | None = None
    dicode: dict[str, bool | tuple[str, ...]] | None = None
    enforce: Literal["best_effort", "strict"] | None = None


class Retry(Part, frozen=True, kw_only=True):
    attempts: int | None = None
    backoff: Millis | None = None
    multiplier: float | None = None
    max: Millis | None = None


class DockerBuild(Part, frozen=True, kw_only=True):
    dockerfile: str | None = None
    context: str | None = None


class Docker(Part, frozen=True, kw_only=True):
    image: str | None = None
    build: DockerBuild | None = None
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    volumes: tuple[str, ...] | None = None
    ports: tuple[str, ...] | None = None
    working_dir: str | None = None
    env_vars: dict[str, str] | None = None
    pull_policy: Literal["missing", "always", "never"] | None = None


class Resources(Part, frozen=True, kw_only=True):
    memory: str | None = None
    cpu: str | None = None
    nofile: int | None = None
    nproc: int | None = None


class Notify(Part, frozen=True, kw_only=True):
    on_success: bool | None = None
    on_failure: bool | None = None


class Provider(Part, frozen=True, kw_only=True):
    cache_ttl: Millis | None = None


class RunInputs(Part, frozen=True, kw_only=True):
    enabled: bool | None = None
    retention: Millis | None = None
    body_full_textual: bool | None = None


class AutoFix(Part, frozen=True, kw_only=True):
    include_input: bool | None = None
    show_redacted_field_names: bool | None = None


Runtime = Literal["deno", "python", "shell", "docker", "podman"]


class TaskSpec(Part, frozen=True, kw_only=True):
    """The resolved spec of one task. `runtime` is None until a script file decides it (see spec.task)."""

    name: str
    trigger: Trigger
    description: str | None = None
    version: str | None = None
    author: str | None = None
    tags: tuple[str, ...] | None = None
    runtime: Runtime | None = None
    params: tuple[Param, ...] | None = None
    permissions: Permissions | None = None
    timeout: Millis | None = None
    retry: Retry | None = None
    overlap: Literal["allow", "skip", "queue", "replace"] | None = None
    concurrency: int | None = None
    on_failure_chain: TaskCall | None = None
    docker: Docker | None = None
    include: tuple[str, ...] | None = None
    ignore: tuple[str, ...] | None = None
    resources: Resources | None = None
    user: str | None = None
    labels: dict[str, str] | None = None
    run_on: tuple[str, ...] | None = None
    notify: Notify | None = None
    provider: Provider | None = None
    run_inputs: RunInputs | None = None
    auto_fix: AutoFix | None = None
    mcp_port: int | None = None


DEFAULT_TIMEOUT: int = 60_000  # ms; SPEC 3. None for daemons and containers.


def timeout_of(spec: TaskSpec, runtime: Runtime) -> int | None:
    """The timeout in force, in ms; None for none (a written 0, a daemon, a container without one)."""
    if spec.timeout is not None:
        return spec.timeout or None
    if spec.trigger.type == "daemon" or runtime in ("docker", "podman"):
        return None
    return DEFAULT_TIMEOUT
