"""What the worker and the shepherd of one run say to each other: length-prefixed msgpack over a socketpair."""

from __future__ import annotations

import struct
from typing import Any, Literal

import msgspec

from dicode.messages.kinds import RunStatus

LENGTH = struct.Struct("<I")
DIRECT_MAX = 32 * 1024  # bytes of a job the worker itself writes into the task's pipe: they always fit, so it never waits


class Needs(msgspec.Struct, frozen=True):
    """PEP 723 dependencies whose environment is not there yet. `host` is the environment uv runs with."""

    dependencies: tuple[str, ...]
    python: str
    key: str
    envs: str
    host: dict[str, str]


class Job(msgspec.Struct, frozen=True, kw_only=True, tag="job"):
    """All that is needed to carry out one attempt of a run. Nothing in it is decided later."""

    run: str
    task: str
    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str]
    folder: str  # of its shepherd, private: the socket, the result file
    log: str
    kv: str
    token: str
    params: dict[str, Any]
    input: str = ""  # JSON text
    script: str = ""  # a python task to run in a forked interpreter, in place of argv
    stdin_is_input: bool = False
    timeout: int | None = None  # ms
    needs: Needs | None = None


def socket_in(folder: str) -> str:
    """DICODE_SOCKET of the shepherd of this folder."""
    return f"{folder}/s"


def result_in(folder: str) -> str:
    """DICODE_RESULT of the shepherd of this folder."""
    return f"{folder}/result"


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End it: SIGTERM, and SIGKILL to the whole tree after `grace` seconds."""

    status: Literal["cancelled", "lost"]
    why: str
    grace: float = 0.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True, tag="outcome", omit_defaults=True):
    """How the attempt ended. No process of it is left."""

    status: RunStatus
    exit_code: int | None = None
    error: str = ""
    value: str = ""
    content_type: str = ""
    content: bytes = b""


def is_direct(job: Job, body: bytes) -> bool:
    """Whether the worker gives it to the waiting task process at once, in place of the shepherd."""
    return job.needs is None and len(body) <= DIRECT_MAX


_to_shepherd: msgspec.msgpack.Decoder[Job | Stop] = msgspec.msgpack.Decoder(Job | Stop)
_to_worker = msgspec.msgpack.Decoder(Outcome)
_encode = msgspec.msgpack.Encoder().encode


def packed(message: Job | Stop | Outcome) -> bytes:
    body = _encode(message)
    return LENGTH.pack(len(body)) + body


def order(body: bytes) -> Job | Stop:
    return _to_shepherd.decode(body)


def outcome(body: bytes) -> Outcome:
    return _to_worker.decode(body)
