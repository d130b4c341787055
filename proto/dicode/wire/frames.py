"""What a frame looks like. Pure: bytes in, values or `BadMessage` out."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from dicode.messages.commands import AnyCommand, AnyReply
from dicode.messages.kinds import KINDS, Kind, kind_of

T = TypeVar("T")

VERSION = 1
MAX_FRAME = 1 << 20  # bytes; SPEC 9. Bigger things travel as blobs.
PIPE_PATH_MAX = 107  # bytes; sun_path of a unix socket, less its NUL
HEARTBEAT = 0.5  # seconds between two heartbeats of the store
HEARTBEAT_TOPIC = b"!/"
ASK_AGAIN = 0.4  # seconds; a store that was restarted answers the same request id, or does the same harmless thing
DEADLINE = 10.0  # seconds a question may stay open


class BadMessage(Exception):
    """These bytes are no message of ours: count it, drop it, go on."""


class StoreAway(Exception):
    """No answer within the deadline. What was asked may or may not have been done: look before repeating."""


class StoreFailed(Exception):
    """The store could not (disk full), or can never do it (bad command, too big)."""


class Header(msgspec.Struct, frozen=True, array_like=True):
    """Of a change. `prev` is the rev of the same kind's change before this one: a gap shows as a mismatch."""

    version: int
    epoch: str
    kind: str
    key: str
    rev: int
    prev: int
    cause: str = ""


class Heads(msgspec.Struct, frozen=True, array_like=True):
    """Body of a heartbeat: the newest rev of each kind. A lost tail shows here, where no gap would."""

    head: int
    kinds: dict[str, int]


class Heard(NamedTuple):
    """One published change, or a heartbeat (then `heads` is set). An empty body: the object was deleted."""

    header: Header
    body: bytes
    heads: Heads | None = None


_encode = msgspec.msgpack.Encoder().encode
_headers = msgspec.msgpack.Decoder(Header)
_heads = msgspec.msgpack.Decoder(Heads)
_commands: msgspec.msgpack.Decoder[AnyCommand] = msgspec.msgpack.Decoder(AnyCommand)
_replies: msgspec.msgpack.Decoder[AnyReply] = msgspec.msgpack.Decoder(AnyReply)
_bodies: dict[str, msgspec.msgpack.Decoder[Kind]] = {name: msgspec.msgpack.Decoder(kind) for name, kind in KINDS.items()}
_BAD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)  # RELIABILITY M1: bad bytes raise any of these


def encode(message: Kind | AnyCommand | AnyReply | Header | Heads) -> bytes:
    return _encode(message)


def encode_command(command: AnyCommand) -> bytes:
    """Raises StoreFailed when it does not fit into a frame: the store would hang up without a word."""
    frame = _encode(command)
    if len(frame) > MAX_FRAME:
        raise StoreFailed(f"{type(command).__name__} has {len(frame)} bytes, a frame has at most {MAX_FRAME}")
    return frame


def decode_body(kind: str, body: bytes) -> Kind:
    """The object in `body`. Raises BadMessage: unknown kind, or not such an object."""
    decoder = _bodies.get(kind)
    if decoder is None:
        raise BadMessage(f"unknown kind {kind!r}")
    return _guarded(decoder, body)


def decode_header(frame: bytes) -> Header:
    header = _guarded(_headers, frame)
    if header.version != VERSION:
        raise BadMessage(f"version {header.version}")
    return header


def decode_heads(frame: bytes) -> Heads:
    return _guarded(_heads, frame)


def decode_command(frame: bytes) -> AnyCommand:
    return _guarded(_commands, frame)


def decode_reply(frame: bytes) -> AnyReply:
    return _guarded(_replies, frame)


def _guarded(decoder: msgspec.msgpack.Decoder[T], frame: bytes) -> T:
    if len(frame) > MAX_FRAME:
        raise BadMessage(f"{len(frame)} bytes")
    try:
        return decoder.decode(frame)
    except _BAD as error:
        raise BadMessage(str(error)) from None


def heard_of(parts: list[bytes]) -> Heard:
    """The change in these frames. Raises BadMessage."""
    if len(parts) != 3:
        raise BadMessage(f"{len(parts)} frames")
    header = decode_header(parts[1])
    if parts[0] == HEARTBEAT_TOPIC:
        return Heard(header, b"", decode_heads(parts[2]))
    return Heard(header, parts[2])


def topic(kind: str, key: str) -> bytes:
    """`kind/key/`: it ends in a separator, or a subscription to `a` would hear `ab`."""
    return f"{kind}/{key}/".encode()


def topic_of(value: Kind, key: str) -> bytes:
    return topic(kind_of(value), key)


def endpoints(data_dir: Path) -> tuple[str, str]:
    """(commands, changes): the two ipc addresses of the store of `data_dir`.

    In data_dir/run; where that is too long for a socket, in XDG_RUNTIME_DIR or /tmp/dicode-<uid>-<hash>.
    """
    run = data_dir / "run"
    if len(os.fsencode(run / "commands.sock")) > PIPE_PATH_MAX:
        mark = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()  # noqa: TID251  # a shell: where sockets may live
        run = Path(base) / f"dicode-{os.getuid()}-{mark}"
    return f"ipc://{run}/commands.sock", f"ipc://{run}/changes.sock"
