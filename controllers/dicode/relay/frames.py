"""What the relay and a home say to each other, over one WebSocket: calls down, answers up. Pure.

Each binary message is one MessagePack array. A call and its answer share a number that the relay chose.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, NamedTuple

import msgspec

from dicode.process.bodies import BODY_MAX

CONNECT_AT = "/.relay"  # below the relay's URL; no home's name begins with a dot
NAME_HEADER = "dicode-relay-name"
REPLACED = 4000  # close code: a newer connection of the same name took this one's place
WITHDRAWN = 4001  # close code: the tokens file does not have this name and token any more

WITHIN = 35.0  # seconds a public caller waits for the home's answer; the home itself answers a long run after 30
PING = 15.0  # seconds between pings, and until one must be answered
WAITING_MAX = 64  # calls of one home that wait for an answer at once
BYTES_MAX = 16 << 20  # bytes of bodies among them; one always fits
FIELDS_MAX = 80
HEAD_MAX = 24 << 10  # bytes: what a listener takes, and what the relay adds
MESSAGE_MAX = BODY_MAX + (64 << 10)

Field = tuple[bytes, bytes]
Fields = Annotated[tuple[Field, ...], msgspec.Meta(max_length=FIELDS_MAX)]


class BadFrame(Exception):
    """What came over the line is none of ours; the text says why, in our words."""


class Call(msgspec.Struct, frozen=True, array_like=True):
    """A request for a hook, as it reached the relay. `target`: the raw path below the home's name, and its query. `remote`: the caller's address."""

    id: int
    method: Annotated[str, msgspec.Meta(max_length=16)]
    target: Annotated[bytes, msgspec.Meta(max_length=HEAD_MAX)]
    headers: Fields
    body: bytes
    remote: Annotated[str, msgspec.Meta(max_length=64)] = ""


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """The home's answer to the call with this id."""

    id: int
    status: Annotated[int, msgspec.Meta(ge=200, le=599)]
    headers: Fields
    body: bytes


class State(NamedTuple):
    """How it stands. `reason` is a word for a condition; `message` a sentence for people, in our own words only."""

    connected: bool
    reason: str
    message: str


_calls, _replies, _encoder = msgspec.msgpack.Decoder(Call), msgspec.msgpack.Decoder(Reply), msgspec.msgpack.Encoder()
encode = _encoder.encode


def read_call(message: bytes) -> Call:
    """Raises BadFrame."""
    try:
        call = _calls.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        raise BadFrame("not a call") from None
    _check(call.headers, call.body)
    return call


def read_reply(message: bytes) -> Reply:
    """Raises BadFrame."""
    try:
        reply = _replies.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        raise BadFrame("not an answer") from None
    _check(reply.headers, reply.body)
    return reply


def _check(headers: Iterable[Field], body: bytes) -> None:
    if len(body) > BODY_MAX or sum(len(name) + len(value) + 4 for name, value in headers) > HEAD_MAX:
        raise BadFrame("bigger than a message may be")


# ── headers ──

_OF_ONE_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade expect".split()
)
_OF_THE_WAY = frozenset((b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip", b"forwarded"))
_UNFIT = frozenset(b"\r\n\0")


def forwarded(headers: Iterable[Field], remote: str) -> tuple[Field, ...]:
    """A caller's headers as they travel on: those of one hop are gone, and where it came from is what the relay saw."""
    kept = passed_on(headers)
    return (*(field for field in kept if field[0] not in _OF_THE_WAY), (b"x-forwarded-for", remote.encode("ascii", "replace")))


def passed_on(headers: Iterable[Field], *, without: frozenset[bytes] = frozenset()) -> tuple[Field, ...]:
    """End-to-end headers, names in small letters."""
    fields = [(name.lower(), value) for name, value in headers]
    named = {word.strip().lower() for name, value in fields if name == b"connection" for word in value.split(b",")}
    dropped = _OF_ONE_HOP | without | named
    return tuple(field for field in fields if field[0] not in dropped and not _UNFIT & (set(field[0]) | set(field[1])))


# ── the way of a path ──


class Address(msgspec.Struct, frozen=True):
    """Whom a public path means, and what of it the home is told."""

    home: str
    target: bytes


def address_of(raw_path: bytes, query: bytes) -> Address | None:
    """Of `/<name>/hooks/…`, as it was sent; None for everything else. What is behind `hooks/` is the home's to judge."""
    parts = raw_path.split(b"/", 3)
    if len(parts) != 4 or parts[0] or parts[2] != b"hooks" or not parts[3] or not parts[1].isascii():
        return None
    return Address(parts[1].decode(), b"/hooks/" + parts[3] + (b"?" + query if query else b""))
