"""What the relay and its homes say to each other, and who may connect."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.waiting import until
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from dicode.process.bodies import BODY_MAX
from dicode.relay import line as line_module
from dicode.relay.frames import (
    BYTES_MAX,
    FIELDS_MAX,
    REPLACED,
    WITHDRAWN,
    BadFrame,
    Call,
    Reply,
    address_of,
    encode,
    forwarded,
    passed_on,
    read_call,
    read_reply,
)
from dicode.relay.home import ended, refusal, websocket_url
from dicode.relay.line import Busy, Line, Lost, Slow
from dicode.relay.tokens import BadTokens, Tokens, parse

CALL = Call(1, "POST", b"/hooks/x?y=1", ((b"a", b"b"),), b"\x00\xff", "203.0.113.9")
REPLY = Reply(1, 202, ((b"content-type", b"text/plain"),), b"ok")


def test_what_was_said_is_heard() -> None:
    assert read_call(encode(CALL)) == CALL and read_reply(encode(REPLY)) == REPLY


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_a_bad_frame(data: bytes) -> None:
    for read in (read_call, read_reply):
        try:
            read(data)
        except BadFrame as bad:
            assert str(bad) in ("not a call", "not an answer", "bigger than a message may be")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        b"\x94" * 1_000_000,
        b"\xdd\xff\xff\xff\xff",
        encode([1, "POST", b"/", [[b"a", b"b"]] * (FIELDS_MAX + 1), b""]),
        encode([1, 99, [], b""]),
    ]
    + [
        encode([1, 600, [], b""]),
        encode([1, 200, [[b"a", b"x" * 30_000]], b""]),
        encode([1, 200, [], b"x" * (BODY_MAX + 1)]),
        encode([1, "x" * 17, b"/", [], b""]),
    ]
    + [encode({"id": 1}), encode([1, 200, [["a", "b"]], b""])],
    ids=lambda value: str(len(value)),
)
def test_what_is_too_much_or_something_else_is_refused(message: bytes) -> None:
    for read in (read_call, read_reply):
        with pytest.raises(BadFrame):
            read(message)


def test_a_header_list_of_millions_is_refused_before_it_is_made() -> None:
    bomb = b"\x94\x01\xcc\xc8\xdd" + (1_000_000).to_bytes(4, "big") + b"\x92\xc4\x00\xc4\x00" * 1_000_000
    with pytest.raises(BadFrame):
        read_reply(bomb)


@pytest.mark.parametrize(
    ("path", "query", "home", "target"),
    [
        (b"/home/hooks/x", b"", "home", b"/hooks/x"),
        (b"/home/hooks/x/y/", b"a=1&b", "home", b"/hooks/x/y/?a=1&b"),
        (b"/home/hooks/%2e%2e/x", b"", "home", b"/hooks/%2e%2e/x"),  # the home's to judge, and it says 404
    ],
)
def test_a_public_path_names_its_home_and_a_hook(path: bytes, query: bytes, home: str, target: bytes) -> None:
    address = address_of(path, query)
    assert address is not None and (address.home, address.target) == (home, target)


@pytest.mark.parametrize(
    "path", [b"", b"/", b"/home", b"/home/hooks", b"/home/hooks/", b"/home/admin/x", b"//hooks/x", b"home/hooks/x", b"/h/Hooks/x", b"/\xff/hooks/x"]
)
def test_every_other_path_leads_nowhere(path: bytes) -> None:
    address = address_of(path, b"")
    assert address is None or address.home == ""


def test_a_home_name_is_taken_as_written_so_an_escaped_one_is_nobody() -> None:
    address = address_of(b"/ho%6de/hooks/x", b"")
    assert address is not None and address.home not in Tokens({"home": b""})


def test_headers_of_one_hop_and_of_the_way_stay_behind() -> None:
    given = [
        (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"X-Forwarded-For", b"1.2.3.4"),
        (b"Forwarded", b"for=x"),
    ]
    given += [(b"X-Hub-Signature-256", b"sha256=1"), (b"X-Hub-Signature-256", b"sha256=2"), (b"X-A", b"1\r\nX-B: 2")]
    assert forwarded(given, "203.0.113.9") == (
        (b"x-hub-signature-256", b"sha256=1"),
        (b"x-hub-signature-256", b"sha256=2"),  # twice is for the home to refuse
        (b"x-forwarded-for", b"203.0.113.9"),
    )
    assert passed_on([(b"Content-Length", b"1"), (b"A", b"b")], without=frozenset((b"content-length",))) == ((b"a", b"b"),)


# ── tokens ──


def test_a_name_is_admitted_with_its_own_token_only() -> None:
    tokens = parse(b"# homes\n\nhome  aaaabbbbccccdddd \nother\teeeeffffgggghhhh\r\n", "f")
    assert len(tokens) == 2 and tokens.notes == () and tokens.admit("home", b"aaaabbbbccccdddd")
    for name, token in (("home", b""), ("home", b"eeeeffffgggghhhh"), ("home", b"aaaabbbbccccdddd "), ("nobody", b"aaaabbbbccccdddd"), ("", b"")):
        assert not tokens.admit(name, token)
    assert tokens.same("home", parse(b"home aaaabbbbccccdddd", "f")) and not tokens.same("home", parse(b"home x", "f"))
    assert "can be guessed" in parse(b"home short\n", "f").notes[0] and "short" not in parse(b"home short\n", "f").notes[0]


@given(st.binary(max_size=200))
def test_any_bytes_are_tokens_or_a_line_that_says_where(data: bytes) -> None:
    try:
        assert len(parse(data, "tokens"))
    except BadTokens as bad:
        assert str(bad).startswith("tokens:")


def test_the_file_has_a_limit() -> None:
    with pytest.raises(BadTokens, match="more than 1 MiB"):
        parse(b"a b\n" * 300_000, "f")


# ── what ends a connection, in words ──


def test_why_no_connection_came_about_is_told_in_our_own_words() -> None:
    def answered(status: int) -> InvalidStatus:
        return InvalidStatus(Response(status, "<script>", Headers(), b"<script>"))

    cases: list[tuple[Exception, str, str]] = [
        (answered(401), "Refused", "compare token_env with the relay's tokens file"),
        (answered(403), "Refused", "compare token_env"),
        (answered(302), "Away", "answered 302"),
        (answered(502), "Away", "answered 502"),
        (OSError(111, "Connect call failed ('10.0.0.1', 443)"), "Away", os.strerror(111)),
        (TimeoutError(), "Away", "did not answer"),
        (ssl.SSLCertVerificationError(1, "x"), "BadCertificate", "certificate"),
        (ValueError("<script>"), "Away", "ValueError"),
    ]
    for error, reason, words in cases:
        state = refusal(error, "https://r.example", "home")
        assert (state.connected, state.reason) == (False, reason) and words in state.message and "script" not in state.message
    assert [ended(code, "u", "n").reason for code in (REPLACED, WITHDRAWN, 1001, 1012, 1006, None)] == [
        "Replaced",
        "Withdrawn",
        "Away",
        "Away",
        "Away",
        "Away",
    ]


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("https://r.example", "wss://r.example/.relay"),
        ("https://r.example:8443/dicode/", "wss://r.example:8443/dicode/.relay"),
        ("http://[::1]:1", "ws://[::1]:1/.relay"),
    ],
)
def test_homes_connect_below_the_url(url: str, line: str) -> None:
    assert websocket_url(url) == line


# ── a line ──


class Far:
    """The other end of a Line: what was sent to it, and what it will say."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.says: asyncio.Queue[Any] = asyncio.Queue()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def answer(self, reply: Reply) -> None:
        self.says.put_nowait({"type": "websocket.receive", "bytes": encode(reply)})


def test_a_call_that_is_not_answered_in_time_is_slow_and_its_late_answer_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "WITHIN", 0.01)

    async def scene() -> None:
        far = Far()
        line = Line("home", far.says.get, far.send)
        living = asyncio.create_task(line.live())
        with pytest.raises(Slow):
            await line.call(CALL)
        assert line.waiting == 0
        monkeypatch.setattr(line_module, "WITHIN", 30.0)  # only the first was to be slow
        far.answer(REPLY)
        late = asyncio.create_task(line.call(CALL))
        await until(lambda: len(far.sent) == 2)
        far.answer(Reply(2, 204, (), b""))
        assert (await late).status == 204
        line.end(REPLACED, "x")
        await living
        assert far.sent[-1] == {"type": "websocket.close", "code": REPLACED, "reason": "x"}
        with pytest.raises(Lost):
            await line.call(CALL)

    asyncio.run(scene())


def test_bytes_that_wait_are_bounded_but_one_body_always_fits() -> None:
    async def scene() -> None:
        far = Far()
        line = Line("home", far.says.get, far.send)
        big = msgspec.structs.replace(CALL, body=b"x" * BODY_MAX)
        waiting = [asyncio.create_task(line.call(big)) for _ in range(BYTES_MAX // BODY_MAX)]
        await until(lambda: line.waiting == len(waiting))
        with pytest.raises(Busy):
            await line.call(big)
        line.end(1000, "")
        assert all(isinstance(each, Lost) for each in await asyncio.gather(*waiting, return_exceptions=True))

    asyncio.run(scene())


def test_what_nobody_waits_for_any_more_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "WITHIN", 0.02)

    async def scene() -> None:
        far, open_again = Far(), asyncio.Event()

        async def stuck(message: Any) -> None:
            far.sent.append(message)
            await open_again.wait()

        line = Line("home", far.says.get, stuck)
        living = asyncio.create_task(line.live())
        waiting = [asyncio.create_task(line.call(CALL)) for _ in range(5)]
        assert all(isinstance(each, Slow) for each in await asyncio.gather(*waiting, return_exceptions=True))
        open_again.set()
        line.end(1000, "")
        await living
        assert [message["type"] for message in far.sent] == ["websocket.send", "websocket.close"]

    asyncio.run(scene())
