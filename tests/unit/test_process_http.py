"""Who a caller is, and how many places he has."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from tests.support.waiting import DEADLINE, until

from dicode.process.http import CONNECTIONS_MAX, PER_CALLER, Address, Server, bind, caller_of, remote_of


@pytest.mark.parametrize(
    ("peer", "forwarded", "remote"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["127.0.0.1"], "203.0.113.9"),  # a stranger may say what he likes
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["1.2.3.4, 203.0.113.7"], "203.0.113.7"),  # a proxy of this machine appends what it saw
        ("::1", ["1.2.3.4", "2001:db8::1"], "2001:db8::1"),
        ("::ffff:127.0.0.1", ["1.2.3.4, 203.0.113.7"], "203.0.113.7"),  # as a listener for IPv4 and IPv6 tells it
        ("::ffff:203.0.113.9", ["127.0.0.1"], "203.0.113.9"),
        ("127.0.0.1", ["1.2.3.4, <script>"], "127.0.0.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", ["\xff" * 500], "127.0.0.1"),
        ("not an address", ["1.2.3.4"], ""),
        ("", [], ""),
    ],
)
def test_only_a_proxy_of_this_machine_is_believed(peer: str, forwarded: list[str], remote: str) -> None:
    headers = [(b"X-Forwarded-For", value.encode("latin-1")) for value in forwarded]
    assert remote_of({"client": (peer, 1), "headers": headers}) == remote


def test_a_caller_without_an_address_has_none() -> None:
    assert remote_of({"client": None, "headers": []}) == ""


@pytest.mark.parametrize(
    ("peer", "caller"),
    [
        ("127.0.0.1", ""),
        ("127.8.9.1", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("", ""),
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_address_shares_its_places_with_its_network_and_this_machine_has_all(peer: str, caller: str) -> None:
    assert caller_of(peer) == caller


# ── places, with real sockets; every address but 127.0.0.1 is taken for that of another machine ──


def stranger(peer: str) -> str:
    return "" if peer == "127.0.0.1" else peer


class Listener:
    """A Server whose app answers when it is let."""

    def __init__(self, connections: int) -> None:
        self.free = asyncio.Event()
        self.begun = 0
        self.server = Server(self, connections=connections, caller_of=stranger)
        self.socket = bind(Address("127.0.0.1", 0))
        self._writers: list[asyncio.StreamWriter] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun += 1
        await self.free.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def connect(self, source: str, request: bytes = b"") -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection(*self.socket.getsockname(), local_addr=(source, 0))
        self._writers.append(writer)
        writer.write(request)
        return reader

    async def status(self, reader: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(DEADLINE):
            return (await reader.readline())[9:12]

    async def under_way(self, count: int) -> None:
        await until(lambda: self.begun >= count)

    async def __aenter__(self) -> Listener:
        await self.server.listen(self.socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.free.set()
        for writer in self._writers:
            writer.close()
        await self.server.close(within=1)


POST = b"POST / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.%d\r\nContent-Length: 0\r\n\r\n"


def test_one_address_cannot_take_the_places_of_the_others() -> None:
    async def story() -> None:
        async with Listener(CONNECTIONS_MAX) as here:
            greedy = [await here.connect("127.0.0.2", POST % number) for number in range(PER_CALLER)]
            await here.under_way(PER_CALLER)
            for number in range(3):  # whatever it says of where it comes from
                assert await here.status(await here.connect("127.0.0.2", POST % (100 + number))) == b"429"
            others = [await here.connect(source, POST % 1) for source in ("127.0.0.3", *["127.0.0.1"] * (PER_CALLER + 1))]
            await here.under_way(PER_CALLER + len(others))
            here.free.set()
            for reader in (*greedy, *others, await here.connect("127.0.0.2", POST % 1)):
                assert await here.status(reader) == b"200"

    asyncio.run(story())


def test_an_idle_connection_gives_way_to_a_new_one_of_the_same_address_only() -> None:
    async def story() -> None:
        async with Listener(CONNECTIONS_MAX) as here:
            other = await here.connect("127.0.0.3")
            idle = [await here.connect("127.0.0.2") for _ in range(PER_CALLER)]
            last = await here.connect("127.0.0.2", POST % 1)
            with contextlib.suppress(ConnectionResetError):
                assert await here.status(idle[0]) == b"", "the one that was idle longest"
            await here.under_way(1)
            here.free.set()
            assert await here.status(last) == b"200" and not other.at_eof() and not idle[1].at_eof()

    asyncio.run(story())


def test_when_all_places_are_taken_the_next_is_told_to_come_again() -> None:
    async def story() -> None:
        async with Listener(2) as here:
            for _ in range(2):
                await here.connect("127.0.0.1", POST % 1)
            await here.under_way(2)
            assert await here.status(await here.connect("127.0.0.3")) == b"503"

    asyncio.run(story())
