"""Speak to what runs here: commands to the store, requests to the roles, each waited for until it is answered."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dicode.admin.errors import Failed
from dicode.messages.commands import Found, Get, Ping, Pong, Put, Write, Written
from dicode.messages.kinds import Answer, Request
from dicode.process.clock import mono, wall_ms
from dicode.process.settings import Settings
from dicode.wire.blocking import BlockingWire
from dicode.wire.frames import StoreAway, StoreFailed, decode_body, encode, endpoints

NOTHING_RUNS = "nothing is running here: dicode up"
HELLO = 1.0  # seconds a store that is just being restarted has to answer
ANSWER = 10.0  # seconds the owner of a request has to carry it out
OWNERS = {"source": "source-controller", "task": "reconciler", "daemon": "supervisor"}


@contextmanager
def talking(settings: Settings, hearing: str = "Request") -> Iterator[BlockingWire]:
    """The way to the store of this place; it has answered once, and changes of the kind `hearing` can be heard.

    Raises Failed when nothing runs here, or no longer.
    """
    commands, changes = endpoints(settings.data_dir)
    if not Path(commands.removeprefix("ipc://")).exists():
        raise Failed(NOTHING_RUNS)
    wire = BlockingWire(commands, changes)
    try:
        try:
            wire.ask(Ping(), Pong, HELLO)
        except StoreAway:
            raise Failed(NOTHING_RUNS) from None
        wire.subscribe([hearing])
        yield wire
    except StoreAway:
        raise Failed("the store went away before it answered; `dicode get events` shows whether it was done") from None
    except StoreFailed as error:
        raise Failed(str(error)) from None
    finally:
        wire.close()


def request(wire: BlockingWire, verb: str, target: str, args: Mapping[str, Any] | None = None, *, wait: float = ANSWER) -> str:
    """Write the request and wait until its owner has carried it out; gives what it said. Raises Failed.

    With `wait` 0 only the writing is waited for.
    """
    asked = order(wire, verb, target, args)
    return outcome(wire, asked, wait) if wait else ""


def order(wire: BlockingWire, verb: str, target: str, args: Mapping[str, Any] | None = None) -> Request:
    """Write the request; its owner will carry it out."""
    asked = Request(token=token(), verb=verb, target=target, args=dict(args or {}), who=who_asks(), when=wall_ms())
    wire.ask(Write(ops=(Put("Request", asked.token, encode(asked), expect=0),)), Written)
    return asked


def outcome(wire: BlockingWire, asked: Request, wait: float = ANSWER) -> str:
    """What the owner said when it had carried it out. Raises Failed when it could not, or has not within `wait` seconds."""
    answer = _answer(wire, asked.token, wait)
    if answer is None:
        owner = OWNERS[asked.verb.partition(".")[0]]
        raise Failed(f"the {owner} has not answered in {wait:g} s; it is done when the {owner} returns (dicode doctor)")
    if not answer.ok:
        raise Failed(answer.message)
    return answer.message


def _answer(wire: BlockingWire, token: str, wait: float) -> Answer | None:
    until = mono() + wait
    while True:
        found = wire.ask(Get(what="Request", key=token), Found)
        value = decode_body("Request", found.body) if found.body else None
        if isinstance(value, Request) and value.answer is not None:
            return value.answer
        left = until - mono()
        if left <= 0:
            return None
        wire.hear(min(left, 0.5))  # a hint: the store is asked in any case


def who_asks() -> str:
    """The name of the account that types."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def token() -> str:
    return os.urandom(8).hex()
