"""Bodies are read within bounds, and who sends too much hears so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dicode.process.bodies import BODY_MAX, DRAIN_MAX, SMALL, Crowded, Gone, Room


class Sender:
    """Sends `chunks` of these sizes; `rest` of them are left when nobody asks any more."""

    def __init__(self, *sizes: int, hangs_up: bool = False) -> None:
        self.rest = list(sizes)
        self._hangs_up = hangs_up

    async def receive(self) -> Any:
        if not self.rest:
            assert self._hangs_up, "read beyond the end"
            return {"type": "http.disconnect"}
        size = self.rest.pop(0)
        return {"type": "http.request", "body": b"x" * size, "more_body": bool(self.rest) or self._hangs_up}


def read(room: Room, sender: Sender, *headers: tuple[bytes, bytes]) -> bytes | None:
    return asyncio.run(room.read_body(headers, sender.receive))


def test_the_limit_is_exact_and_what_is_too_big_is_read_to_its_end() -> None:
    room = Room()
    for size, taken in ((0, True), (BODY_MAX - 1, True), (BODY_MAX, True), (BODY_MAX + 1, False)):
        sender = Sender(size)
        body = read(room, sender)
        assert (body is not None) is taken and (body is None or len(body) == size)
    sender = Sender(BODY_MAX, 1, 1000, 1000)
    assert read(room, sender) is None and sender.rest == []
    endless = Sender(*([BODY_MAX] * 10))
    assert read(room, endless) is None and len(endless.rest) == 10 - DRAIN_MAX // BODY_MAX - 1
    untouched = Sender(1)
    assert read(room, untouched, (b"content-length", str(DRAIN_MAX + 1).encode())) is None and untouched.rest == [1]
    assert room.left == Room().left


def test_in_a_full_room_small_bodies_pass_and_big_ones_are_told_to_come_again() -> None:
    room = Room(1000)
    assert read(room, Sender(SMALL)) is not None and read(room, Sender(SMALL, 1000)) is not None
    big = Sender(SMALL, 1001, 5)
    with pytest.raises(Crowded):
        read(room, big)
    assert big.rest == [] and room.left == 1000
    assert read(room, Sender(SMALL, 1001, BODY_MAX)) is None  # too big comes before too many
    full = Room(0)
    assert read(full, Sender(SMALL)) is not None
    with pytest.raises(Crowded):
        read(full, Sender(SMALL + 1))


def test_room_is_given_back_by_whoever_hangs_up() -> None:
    room = Room(100_000)
    with pytest.raises(Gone):
        read(room, Sender(SMALL, 50_000, hangs_up=True))
    assert room.left == 100_000


def test_many_at_once_share_the_room() -> None:
    async def crowd() -> list[object]:
        room = Room(3 << 20)
        started = asyncio.Event()

        async def one() -> bytes | None:
            sender = Sender(1 << 20, 1 << 20)

            async def receive() -> Any:
                await started.wait()
                await asyncio.sleep(0)  # the others' turn
                return await sender.receive()

            return await room.read_body((), receive)

        tasks = [asyncio.create_task(one()) for _ in range(10)]
        await asyncio.sleep(0)
        started.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert room.left == 3 << 20
        return list(answers)

    answers = asyncio.run(crowd())
    assert any(isinstance(each, bytes) for each in answers) and any(isinstance(each, Crowded) for each in answers)
