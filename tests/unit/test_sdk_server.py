"""Our end of a task's socket: any bytes get an answer or a hang-up, and the limits hold."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.sdk.server import MESSAGE_MAX, RESULT_MAX, Conversation, Desk, Hangup
from dicode.sdk.values import FILE_MAX, KvFile


def packed(message: Any) -> bytes:
    body = json.dumps(message).encode()
    return struct.pack("<I", len(body)) + body


def unpacked(data: bytes) -> list[dict[str, Any]]:
    messages = []
    while data:
        (length,) = struct.unpack_from("<I", data)
        messages.append(json.loads(data[4 : 4 + length]))
        data = data[4 + length :]
    return messages


def desk(kv: Path = Path("/nowhere/kv"), said: list[tuple[str, str]] | None = None) -> Desk:
    lines = [] if said is None else said
    return Desk("t/x", "run", "token", {"a": 1}, '{"b": 2}', KvFile(kv), lambda level, text: lines.append((level, text)))


def asked(conversation: Conversation, method: str, **args: Any) -> Any:
    (answer,) = unpacked(conversation.feed(packed({"method": method, "args": args})))
    return answer.get("result") if "error" not in answer else answer["error"]


def open_to(desk: Desk) -> Conversation:
    conversation = Conversation(desk)
    assert unpacked(conversation.feed(packed({"token": "token"}))) == [{"proto": 1, "task_id": "t/x", "run_id": "run"}]
    return conversation


@given(st.lists(st.binary(max_size=60)))
def test_any_bytes_are_answered_or_hung_up_on(pieces: list[bytes]) -> None:
    conversation = open_to(desk())
    with contextlib.suppress(Hangup):
        for piece in pieces:
            conversation.feed(piece)


@given(st.integers(1, 12))
def test_messages_may_come_in_pieces(size: int) -> None:
    conversation, stream = Conversation(desk()), packed({"token": "token"}) + packed({"method": "params"}) + packed({"method": "input", "id": 9})
    answers = b"".join(conversation.feed(stream[at : at + size]) for at in range(0, len(stream), size))
    assert unpacked(answers)[1:] == [{"result": {"a": 1}}, {"id": 9, "result": {"b": 2}}]


@pytest.mark.parametrize("first", [{"token": "wrong"}, {"token": None}, {"method": "params"}, [], "token", {"token": "tökén"}])
def test_without_the_token_there_is_no_answer(first: Any) -> None:
    with pytest.raises(Hangup):
        Conversation(desk()).feed(packed(first))


def test_a_message_over_the_limit_is_hung_up_on_before_it_comes() -> None:
    open_to(desk()).feed(struct.pack("<I", MESSAGE_MAX))
    with pytest.raises(Hangup):
        open_to(desk()).feed(struct.pack("<I", MESSAGE_MAX + 1))


@pytest.mark.parametrize(("size", "fits"), [(RESULT_MAX - 1, True), (RESULT_MAX, True), (RESULT_MAX + 1, False)])
def test_a_result_has_a_greatest_size_together_with_the_output(size: int, fits: bool) -> None:
    here = desk()
    talk = open_to(here)
    assert (asked(talk, "return", value="x" * size) is None) == fits
    asked(talk, "return", value="x" * 10)
    content = base64.b64encode(b"y" * (size - 10)).decode()
    assert (asked(talk, "output", content_type="text/plain", content=content) is None) == fits
    assert len(here.content) == (size - 10 if fits else 0)


def test_data_of_an_output_is_the_result_in_place_of_the_return_value() -> None:
    here = desk()
    talk = open_to(here)
    asked(talk, "output", content_type="text/html", content=base64.b64encode(b"<p>").decode(), data={"d": 1})
    asked(talk, "return", value='"returned"')
    assert (here.result, here.content_type, here.content) == ('{"d": 1}', "text/html", b"<p>")


@pytest.mark.parametrize(
    ("method", "args", "words"),
    [
        ("dicode.run_task", {"args": ["x"]}, "dicode.run_task is not built in this release"),
        ("mcp.call", {}, "mcp.call is not built in this release"),
        ("nothing", {}, "there is no 'nothing'"),
        ("return", {"value": 3}, "value must be text"),
        ("output", {"content_type": "x", "content": "???"}, "output: content is not base64"),
        ("kv.get", {}, "key must be text"),
        ("return", {"value": "\ud800"}, "value holds half a character (a lone surrogate)"),
        ("output", {"content_type": "x", "content": "", "data": "\udfff"}, "the result holds half a character (a lone surrogate)"),
    ],
)
def test_what_cannot_be_had_is_refused_in_words(method: str, args: dict[str, Any], words: str) -> None:
    assert asked(open_to(desk()), method, **args) == words


def test_log_lines_go_to_the_log() -> None:
    said: list[tuple[str, str]] = []
    asked(open_to(desk(said=said)), "log", level="warn", message="careful")
    assert said == [("warn", "careful")]


def test_values_are_kept_from_run_to_run_up_to_a_size(tmp_path: Path) -> None:
    first, second = open_to(desk(tmp_path / "kv")), open_to(desk(tmp_path / "kv"))
    assert asked(first, "kv.get", key="n") is None
    asked(first, "kv.set", key="n", value={"é": [1]})
    asked(first, "kv.set", key="m", value=None)
    assert asked(second, "kv.get", key="n") == {"é": [1]}
    assert asked(second, "kv.list", prefix="") == ["m", "n"]
    asked(second, "kv.delete", key="n")
    asked(second, "kv.delete", key="n")
    assert asked(first, "kv.list", prefix="n") == []
    for number in range(5):
        answer = asked(first, "kv.set", key=str(number), value="x" * 1_000_000)
    assert f"{FILE_MAX} are allowed" in answer
    assert asked(first, "kv.list", prefix="") == ["0", "1", "2", "3", "m"]


def test_a_value_of_none_can_be_deleted(tmp_path: Path) -> None:
    conversation = open_to(desk(tmp_path / "kv"))
    asked(conversation, "kv.set", key="n", value=None)
    asked(conversation, "kv.delete", key="n")
    assert asked(conversation, "kv.list", prefix="") == []


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_values_that_cannot_be_read_are_refused_and_left_as_they_are(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kv").write_bytes(content)
    conversation = open_to(desk(tmp_path / "kv"))
    for method, args in (("kv.get", {}), ("kv.set", {"value": 1}), ("kv.delete", {})):
        assert "mend it, or remove it" in asked(conversation, method, key="a", **args)
    assert (tmp_path / "kv").read_bytes() == content


def test_json_of_any_depth_is_answered_or_hung_up_on(tmp_path: Path) -> None:
    for depth in range(900, 1000):
        conversation = open_to(desk(tmp_path / "kv"))
        body = b'{"method": "kv.set", "args": {"key": "a", "value": ' + b"[" * depth + b"]" * depth + b"}}"
        with contextlib.suppress(Hangup):
            (answer,) = unpacked(conversation.feed(struct.pack("<I", len(body)) + body))
            assert answer.keys() & {"result", "error"}
