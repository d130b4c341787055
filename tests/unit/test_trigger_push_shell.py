"""The shell around a push, with a store whose answers a test chooses: what is counted, and what is asked for once."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Iterable
from typing import Any

from dicode.messages.commands import AnyCommand, Conflict, Found, Write, Written
from dicode.messages.kinds import ConfigSource, Delivery, Source
from dicode.trigger.push import RATE
from dicode.trigger.pushes import Pushes
from dicode.trigger.request import Request
from dicode.trigger.webhook import Answer
from dicode.wire.frames import StoreAway

BODY = b'{"ref": "refs/heads/main"}'
SIGNED = [(b"x-hub-signature-256", b"sha256=" + hmac.new(b"s", BODY, hashlib.sha256).hexdigest().encode()), (b"x-github-event", b"push")]
INFRA = Source(name="infra", spec=ConfigSource(name="infra", type="git", url="https://h/x", branch="main", webhook_secret_env="S"))


class Store:
    """Wire and mirror in one: knows one source and no delivery."""

    silent = False

    def __init__(self) -> None:
        self.writes: list[AnyCommand] = []
        self.gate = asyncio.Event()
        self.away = False
        self.conflict = ""

    def get(self, kind: type, key: str) -> Source | None:
        return INFRA if (kind, key) == (Source, "infra") else None

    def all(self, kind: type) -> Iterable[tuple[str, Source]]:
        return [("infra", INFRA)]

    async def ask(self, command: AnyCommand, reply: type, deadline: float = 5) -> Any:
        return Found()

    async def ask_any(self, command: AnyCommand, deadline: float = 5) -> Any:
        self.writes.append(command)
        await self.gate.wait()
        if self.away:
            raise StoreAway("no answer")
        return Conflict(what=self.conflict, key="k", rev=1) if self.conflict else Written(revs=(1, 2))


class Caller:
    def __init__(self) -> None:
        self.store = Store()
        self.remembered: list[Delivery] = []
        self.pushes = Pushes(self.store, self.store, {"S": "s"}, self.remembered.append)  # type: ignore[arg-type]  # the parts of them that are used

    async def push(self, delivery: str = "") -> Answer:
        headers = [*SIGNED, *([(b"x-github-delivery", delivery.encode())] if delivery else [])]

        async def body() -> bytes:
            return BODY

        return await self.pushes.answer(Request("POST", "/hooks/git/infra", b"", headers, "203.0.113.9"), body)


def test_any_number_of_copies_at_the_same_moment_are_one_push() -> None:
    async def scene() -> None:
        caller = Caller()
        copies = [asyncio.create_task(caller.push("d1")) for _ in range(3 * RATE)]
        await asyncio.sleep(0.01)
        caller.store.gate.set()
        answers = await asyncio.gather(*copies)
        assert {answer.status for answer in answers} == {202} and len({answer.body for answer in answers}) == 1
        assert len(caller.store.writes) == 1
        assert [(await caller.push(f"e{number}")).status for number in range(RATE)] == [202] * (RATE - 1) + [429]

    asyncio.run(scene())


def test_calls_without_an_id_are_pushes_of_their_own() -> None:
    async def scene() -> None:
        caller = Caller()
        caller.store.gate.set()
        first, second = await caller.push(), await caller.push()
        assert first.status == second.status == 202 and first.body != second.body
        assert all(isinstance(write, Write) and [op.kind for op in write.ops] == ["Request"] for write in caller.store.writes)

    asyncio.run(scene())


def test_what_the_store_did_not_take_does_not_count() -> None:
    async def scene() -> None:
        caller = Caller()
        caller.store.gate.set()
        caller.store.away = True
        for number in range(2 * RATE):
            try:
                await caller.push(f"d{number}")
            except StoreAway:
                continue
            raise AssertionError("a 2xx without a commit")
        caller.store.away = False
        assert (await caller.push("d")).status == 202

    asyncio.run(scene())


def test_a_request_that_is_there_already_is_the_answer_and_endless_conflicts_are_a_store_away() -> None:
    async def scene() -> None:
        caller = Caller()
        caller.store.gate.set()
        caller.store.conflict = "Request"
        assert (await caller.push("d1")).status == 202
        caller.store.conflict = "Delivery"
        try:
            await caller.push("d2")
        except StoreAway:
            return
        raise AssertionError("accepted what was never written")

    asyncio.run(scene())
