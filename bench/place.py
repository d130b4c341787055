"""Where a bench happens: an installation of its own with real processes, and an ear for the store's changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import Popen
from typing import NamedTuple, TypeVar

from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.commands import Ping, Pong
from dicode.messages.kinds import Kind
from dicode.wire.blocking import BlockingWire
from dicode.wire.frames import StoreAway, decode_body, endpoints

K = TypeVar("K", bound=Kind)
DEADLINE = 40.0  # seconds for anything to happen
SHELL_TASK = "name: Task {number}\nruntime: shell\ntrigger: {trigger}\ntimeout: 30s\n"
SCRIPT = "#!/bin/sh\necho {text}\n"
TRIGGERS = ("cron: '17 4 * * *'", "webhook: /hooks/t{number}", *["manual: true"] * 8)


class Place(NamedTuple):
    """`dicode up` that has said `ready`, after `seconds`."""

    system: System
    keeper: Popen[bytes]
    wire: BlockingWire
    seconds: float

    def heard(self, kind: type[K], fact: Callable[[K], object]) -> K:
        """The next change of this kind of which the fact is true; `subscribe` has been called before."""
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            change = self.wire.hear(1.0)
            if change is None or change.heads is not None or change.header.kind != kind.__name__ or not change.body:
                continue
            value = decode_body(change.header.kind, change.body)
            if isinstance(value, kind) and fact(value):
                return value
        raise AssertionError(f"no such {kind.__name__} within {DEADLINE:g} s")

    def subscribe(self, *kinds: type[Kind]) -> None:
        """Hear changes of these kinds from now on."""
        self.wire.subscribe([kind.__name__ for kind in kinds])
        wait_for(lambda: self.wire.hear(1.0), "a heartbeat: the subscription took")

    def calm(self, silence: float = 0.03) -> None:
        """What else follows belongs to what was measured: wait until no change, heartbeats apart, is told for `silence` seconds."""
        until = time.monotonic() + silence
        while (left := until - time.monotonic()) > 0:
            change = self.wire.hear(left)
            if change is not None and change.heads is None:
                until = time.monotonic() + silence


def write_tasks(system: System, count: int) -> None:
    """t0, t1, …: shell tasks; of ten one has a schedule, one a webhook."""
    for number in range(count):
        trigger = TRIGGERS[number % len(TRIGGERS)].format(number=number)
        system.write_task(f"t{number}", SHELL_TASK.format(number=number, trigger=f"{{{trigger}}}"), task_sh=SCRIPT.format(text="first"))


@contextmanager
def up(*words: str, prepare: Callable[[System], object] = lambda _: None, **environ: str) -> Iterator[Place]:
    """An installation on which `dicode up` has said ready. `prepare` may write tasks and the config before; `environ` is what it knows beside."""
    system = System()
    wire = BlockingWire(*endpoints(system.data))
    try:
        prepare(system)
        began = time.monotonic()
        keeper = system.start("up", *words, cwd=None, **environ)
        try:
            system.hears("ready: ", DEADLINE)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said:\n{system.said()}") from None
        seconds = time.monotonic() - began
        wait_for(lambda: answers(wire), "the store answers")
        yield Place(system, keeper, wire, seconds)
    finally:
        wire.close()
        system.close()


def answers(wire: BlockingWire) -> bool:
    try:
        return bool(wire.ask(Ping(), Pong, 0.5))
    except StoreAway:
        return False
