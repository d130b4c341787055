"""Both ends of the wire over real sockets, in one process: what the client does when the store is away, fails or is asked too much."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.waiting import until

from dicode.messages.commands import AnyCommand, AnyReply, Change, Failed, List, Listing, Ping, Pong, Put, WriteAll, Written, WroteAll
from dicode.messages.kinds import Task
from dicode.process.mirror import Mirror
from dicode.wire.blocking import BlockingWire
from dicode.wire.client import Wire
from dicode.wire.frames import MAX_FRAME, StoreAway, StoreFailed, encode, endpoints
from dicode.wire.server import Server

pytestmark = pytest.mark.process
Answering = Callable[[AnyCommand], AnyReply]


@pytest.fixture
def addresses() -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory(prefix="dcw-") as folder:  # short: a socket's path ends at 107 bytes
        yield endpoints(Path(folder))


@contextmanager
def wire_to(addresses: tuple[str, str]) -> Iterator[Wire]:
    wire = Wire(*addresses)
    try:
        yield wire
    finally:
        wire.close()


@contextmanager
def store(addresses: tuple[str, str], answer: Answering, heard: list[AnyCommand]) -> Iterator[Server]:
    """Answers on the running loop, and beats."""
    server = Server(*addresses)

    async def serve() -> None:
        while True:
            for asked in server.asked(0):
                heard.append(asked.command)
                server.reply(asked.peer, asked.request, answer(asked.command))
            server.heartbeat("e", 1, {"Task": 1})
            await asyncio.sleep(0.01)

    serving = asyncio.get_running_loop().create_task(serve())
    try:
        yield server
    finally:
        serving.cancel()
        server.close()


def yes(command: AnyCommand) -> AnyReply:
    if isinstance(command, WriteAll):
        return WroteAll(answers=tuple(Written(revs=tuple(1 for _ in ops)) for ops in command.writes))
    return Pong(epoch="e", head=1)


def test_what_was_asked_while_the_store_was_away_is_not_done_later(addresses: tuple[str, str]) -> None:
    async def ask() -> list[AnyCommand]:
        heard: list[AnyCommand] = []
        with wire_to(addresses) as wire:
            with pytest.raises(StoreAway):
                await wire.ask(List(what="given up"), Listing, deadline=0.1)
            waits = asyncio.create_task(wire.ask(Ping(), Pong))
            await asyncio.sleep(0)
            with store(addresses, yes, heard):
                assert await waits == Pong(epoch="e", head=1)
        return heard

    assert all(isinstance(command, Ping) for command in asyncio.run(ask()))


def test_a_write_that_can_never_be_sent_is_refused_and_its_neighbours_are_written(addresses: tuple[str, str]) -> None:
    async def write() -> list[object]:
        with wire_to(addresses) as wire, store(addresses, yes, []):
            small, big = Put("Task", "small", b"x"), Put("Task", "big", b"x" * MAX_FRAME)
            return await asyncio.gather(*(wire.write((op,)) for op in (small, big, small)), return_exceptions=True)

    first, refused, last = asyncio.run(write())
    assert first == last == Written(revs=(1,))
    assert isinstance(refused, StoreFailed) and "a frame has at most" in str(refused)


def test_who_writes_what_cannot_be_encoded_hears_of_it(addresses: tuple[str, str]) -> None:
    async def write() -> None:
        with wire_to(addresses) as wire:
            await wire.write((Put("Task", "\ud800", b"x"),))

    with pytest.raises(UnicodeEncodeError):
        asyncio.run(write())


def test_a_command_line_is_refused_what_does_not_fit(addresses: tuple[str, str]) -> None:
    wire = BlockingWire(*addresses)
    with pytest.raises(StoreFailed, match="a frame has at most"):
        wire.ask(List(what="x" * MAX_FRAME), Listing)
    wire.close()


def test_a_mirror_outlives_a_store_that_cannot_list(addresses: tuple[str, str]) -> None:
    listings = iter([Failed(message="the disk is full", retry=True)])
    full = Listing(epoch="e", head=1, changes=(Change("a", 1, encode(Task(id="a", source="s")), ""),), full=True)

    async def follow() -> Task | None:
        with wire_to(addresses) as wire, store(addresses, lambda command: next(listings, full), []):
            mirror = Mirror(wire, [Task], lambda *_: None)
            following = asyncio.create_task(mirror.run())
            await until(lambda: following.done() or mirror.count(Task))
            found = mirror.get(Task, "a")
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            return found

    assert asyncio.run(follow()) == Task(id="a", source="s")
