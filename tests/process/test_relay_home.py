"""A home against relays that are none, or mean ill: its token goes nowhere else, and it lives on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.support.waiting import until
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from dicode.relay import home as home_module
from dicode.relay.frames import CONNECT_AT, MESSAGE_MAX, NAME_HEADER, WAITING_MAX, Call, Reply, State, encode, read_reply
from dicode.relay.home import Home

pytestmark = pytest.mark.process
TOKEN = "token-of-this-test"
Play = Callable[[ServerConnection], Awaitable[None]]


async def with_home(url: str, answer: home_module.Answer, states: list[State], then: Callable[[], Awaitable[None]]) -> None:
    running = asyncio.create_task(Home(url, "home", TOKEN, answer, states.append).run())
    try:
        await then()
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def echo(call: Call) -> Reply:
    return Reply(call.id, 200, (), call.body)


def url_of(server: object) -> str:
    host, port = next(iter(server.sockets)).getsockname()[:2]  # type: ignore[attr-defined]
    return f"http://{host}:{port}"


def test_a_redirect_is_not_followed_and_the_token_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_module, "AGAIN_FIRST", 0.01)
    seen: list[str] = []

    async def scene() -> None:
        async def elsewhere(connection: ServerConnection, request: Request) -> Response | None:
            seen.append(request.path)
            return None

        async def idle(connection: ServerConnection) -> None:
            await connection.wait_closed()

        async with serve(idle, "127.0.0.1", 0, process_request=elsewhere) as thief:

            async def away(connection: ServerConnection, request: Request) -> Response | None:
                assert request.headers["authorization"] == f"Bearer {TOKEN}" and request.headers[NAME_HEADER] == "home" and request.path == CONNECT_AT
                response = connection.respond(302, "")
                response.headers["Location"] = url_of(thief).replace("http", "ws") + "/stolen"
                return response

            async with serve(idle, "127.0.0.1", 0, process_request=away) as relay:
                states: list[State] = []

                async def then() -> None:
                    await until(lambda: states)
                    assert states[0].reason == "Away" and "answered 302" in states[0].message

                await with_home(url_of(relay), echo, states, then)

    asyncio.run(scene())
    assert seen == []


@pytest.mark.parametrize(
    "nonsense",
    [b"", b"\xc1", "text", b"\x95" * 100_000, encode([1, "POST", b"/", [], b"x" * (6 << 20)])],
    ids=["empty", "no msgpack", "text", "deep", "big"],
)
def test_a_relay_that_talks_nonsense_is_left_and_tried_again(monkeypatch: pytest.MonkeyPatch, nonsense: bytes | str) -> None:
    monkeypatch.setattr(home_module, "AGAIN_FIRST", 0.01)
    count = 0

    async def scene() -> None:
        async def play(connection: ServerConnection) -> None:
            nonlocal count
            count += 1
            await connection.send(nonsense)
            await connection.wait_closed()

        async with serve(play, "127.0.0.1", 0, max_size=MESSAGE_MAX) as relay:
            states: list[State] = []

            async def then() -> None:
                await until(lambda: count >= 2)

            await with_home(url_of(relay), echo, states, then)
            assert [state.reason for state in states[:2]] in (["Connected", "BadRelay"], ["Connected", "Away"])

    asyncio.run(scene())


def test_a_flood_of_calls_is_bounded_and_each_call_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        gate = asyncio.Event()
        answers: list[Reply] = []

        async def slow(call: Call) -> Reply:
            await gate.wait()
            return Reply(call.id, 200, (), b"")

        async def play(connection: ServerConnection) -> None:
            for number in range(WAITING_MAX + 20):
                await connection.send(encode(Call(number, "POST", b"/hooks/x", (), b"")))
            async for message in connection:
                answers.append(read_reply(message if isinstance(message, bytes) else b""))

        async with serve(play, "127.0.0.1", 0) as relay:

            async def then() -> None:
                await until(lambda: len(answers) == 20)
                assert {each.status for each in answers} == {429}
                gate.set()
                await until(lambda: len(answers) == WAITING_MAX + 20)
                assert sorted(each.id for each in answers) == list(range(WAITING_MAX + 20))

            await with_home(url_of(relay), slow, [], then)

    asyncio.run(scene())


def test_an_answer_that_is_too_big_late_or_broken_becomes_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_module, "ANSWER_WITHIN", 0.05)

    async def scene() -> None:
        answers: dict[int, int] = {}

        async def odd(call: Call) -> Reply:
            if call.body == b"late":
                await asyncio.Event().wait()
            if call.body == b"broken":
                raise RuntimeError("x")
            return Reply(call.id, 200, (), b"x" * (6 << 20))

        async def play(connection: ServerConnection) -> None:
            for number, body in enumerate((b"big", b"late", b"broken")):
                await connection.send(encode(Call(number, "POST", b"/hooks/x", (), body)))
            async for message in connection:
                reply = read_reply(message if isinstance(message, bytes) else b"")
                answers[reply.id] = reply.status

        async with serve(play, "127.0.0.1", 0) as relay:

            async def then() -> None:
                await until(lambda: len(answers) == 3)
                assert answers == {0: 502, 1: 504, 2: 500}

            await with_home(url_of(relay), odd, [], then)

    asyncio.run(scene())
