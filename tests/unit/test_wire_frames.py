"""Frames: bytes in, values or BadMessage out; and the bytes of each release still decode."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.messages import commands
from dicode.messages.kinds import KINDS, Kind, kind_of
from dicode.wire.frames import (
    MAX_FRAME,
    BadMessage,
    Header,
    decode_body,
    decode_command,
    decode_header,
    decode_heads,
    decode_reply,
    encode,
    endpoints,
    heard_of,
    topic,
)

GOLDEN = Path(__file__).parent / "wire-0.1"


@given(st.binary(max_size=400))
def test_any_bytes_decode_or_are_a_bad_message(data: bytes) -> None:
    for decode in (decode_header, decode_heads, decode_command, decode_reply, *(lambda b, k=kind: decode_body(k, b) for kind in KINDS)):
        try:
            decode(data)
        except BadMessage:
            pass


@given(st.sampled_from(sorted(KINDS)), st.data())
def test_a_mutated_object_decodes_or_is_a_bad_message(kind: str, data: st.DataObject) -> None:
    good = bytearray((GOLDEN / f"{kind}.msgpack").read_bytes())
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] = data.draw(st.integers(0, 255))
    try:
        decode_body(kind, bytes(good))
    except BadMessage:
        pass


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_objects_written_by_each_release_still_decode(kind: str) -> None:
    value = decode_body(kind, (GOLDEN / f"{kind}.msgpack").read_bytes())
    assert kind_of(value) == kind
    assert decode_body(kind, encode(value)) == value


def test_nesting_and_size_bombs_are_refused() -> None:
    for bomb in (b"\x91" * 900_000, b"\xdf\xff\xff\xff\xff", b"\x00" * (MAX_FRAME + 1)):
        with pytest.raises(BadMessage):
            decode_body("Task", bomb)


def test_another_version_and_an_unknown_kind_are_refused() -> None:
    with pytest.raises(BadMessage):
        decode_header(encode(Header(255, "e", "Task", "t", 1, 0)))
    with pytest.raises(BadMessage):
        decode_body("Nonsense", b"\x80")
    with pytest.raises(BadMessage):
        heard_of([b"Task/t/"])


def test_fields_of_a_newer_release_are_skipped() -> None:
    newer = msgspec.msgpack.encode({"kind": "Task", "id": "t", "source": "s", "mood": "sunny"})
    assert decode_body("Task", newer) == KINDS["Task"](id="t", source="s")


def test_a_topic_ends_in_a_separator() -> None:
    assert not topic("Task", "ab").startswith(topic("Task", "a"))


def test_a_data_folder_too_deep_for_a_socket_gets_a_short_address(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    assert all(len(address.removeprefix("ipc://")) <= 107 for address in endpoints(deep))
    assert endpoints(deep) == endpoints(deep) != endpoints(tmp_path / ("e" * 120))


def test_every_command_and_reply_is_in_its_union() -> None:
    for base, union in ((commands.Command, commands.AnyCommand), (commands.Reply, commands.AnyReply)):
        assert set(base.__subclasses__()) == set(union.__args__)


def golden() -> dict[str, Kind]:
    """One object of each kind with every field set; `python -m tests.unit.test_wire_frames` writes their bytes."""
    return {name: _filled(kind) for name, kind in KINDS.items()}


def _filled(kind: type[Kind]) -> Kind:
    values = {field.name: _sample(field.type) for field in msgspec.inspect.type_info(kind).fields}  # type: ignore[attr-defined]
    return msgspec.convert({"kind": kind.__name__, **_encoded_names(kind, values)}, kind)


def _encoded_names(kind: type, values: dict[str, object]) -> dict[str, object]:
    names = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
    return {names[name]: value for name, value in values.items()}


def _sample(info: msgspec.inspect.Type) -> object:
    match info:
        case msgspec.inspect.StrType():
            return "x"
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.IntType():
            return 7
        case msgspec.inspect.FloatType():
            return 1.5
        case msgspec.inspect.BytesType():
            return b"b"
        case msgspec.inspect.LiteralType(values=values):
            return values[0]
        case msgspec.inspect.VarTupleType(item_type=item):
            return (_sample(item),)
        case msgspec.inspect.DictType(value_type=value):
            return {"k": _sample(value)}
        case msgspec.inspect.StructType(fields=fields):
            return {field.encode_name: _sample(field.type) for field in fields}
        case msgspec.inspect.UnionType(types=types):
            return _sample(next(t for t in types if not isinstance(t, msgspec.inspect.NoneType)))
        case msgspec.inspect.Metadata(type=inner):
            return _sample(inner)
        case msgspec.inspect.AnyType():
            return "any"
        case _:
            raise TypeError(info)


if __name__ == "__main__":
    for name, value in golden().items():
        (GOLDEN / f"{name}.msgpack").write_bytes(encode(value))
