"""The store alone, from outside: a real store process, one client process with many commands under way, one plain client for the latency."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import zmq
from bench.table import Budget, Figure, Finding, Row, figure
from tests.support.store_process import RealStore

from dicode.messages.commands import AnyCommand, AnyReply, Claim, Claimed, Enqueue, Enqueued, Finish, Finished, Put, Write, Written
from dicode.messages.kinds import Run, RunTrigger, Task
from dicode.messages.task import TaskSpec, Trigger
from dicode.wire.blocking import BlockingWire
from dicode.wire.frames import decode_reply, encode

UNDER_WAY = 256
TIMED = 300  # puts one at a time


class Pipe:
    """Keeps UNDER_WAY commands under way on one DEALER."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.connect(endpoint)
        self._numbers = itertools.count()

    def ask_all(self, commands: Iterator[AnyCommand]) -> Iterator[AnyReply]:
        waiting = 0
        for command in itertools.islice(commands, UNDER_WAY):
            waiting += self._send(command)
        while waiting:
            _, body = self._dealer.recv_multipart()
            waiting -= 1
            following = next(commands, None)
            if following is not None:
                waiting += self._send(following)
            yield decode_reply(body)

    def _send(self, command: AnyCommand) -> int:
        self._dealer.send_multipart([next(self._numbers).to_bytes(16, "big"), encode(command)])
        return 1

    def close(self) -> None:
        self._context.destroy(linger=0)


def run(quick: bool) -> Iterator[Finding]:
    count = 1_000 if quick else 8_000
    with RealStore() as store:
        wire, pipe = BlockingWire(*store.endpoints), Pipe(store.endpoints[0])
        try:
            wire.ask(Write(ops=(Put("Task", "t0", _task("t0", "0")),)), Written)
            yield Row("queue: enqueue, durable", Figure(_enqueues(pipe, count)), "/s")
            yield Row("queue: claim + finish, durable, each run alone", Figure(_claims_and_finishes(pipe, count)), "/s", Budget(5_000))
            yield Row("store: durable puts", Figure(_puts(pipe, 2 * count)), "/s")
            yield Row("store: put → change heard", figure(_latency(wire)))
        finally:
            pipe.close()
            wire.close()


def _task(name: str, digest: str) -> bytes:
    spec = TaskSpec(name=name, trigger=Trigger(cron="*/5 * * * *"), description="x" * 120)
    return encode(Task(id=name, source="bench", digest=digest, process=digest, spec=spec, runtime="python", dir=f"/tmp/tasks/{name}"))


def _puts(pipe: Pipe, count: int) -> float:
    commands = (Write(ops=(Put("Task", f"t{n % 1000}", _task(f"t{n % 1000}", f"{n:064x}")),)) for n in range(1, count + 1))
    began = time.perf_counter()
    assert all(isinstance(reply, Written) for reply in pipe.ask_all(commands))
    return count / (time.perf_counter() - began)


def _enqueues(pipe: Pipe, count: int) -> float:
    commands = (Enqueue(run=Run(id="", task="t0", unique=f"u{n}", trigger=RunTrigger(type="webhook", key=f"u{n}"))) for n in range(count))
    began = time.perf_counter()
    assert all(isinstance(reply, Enqueued) for reply in pipe.ask_all(commands))
    return count / (time.perf_counter() - began)


def _claims_and_finishes(pipe: Pipe, count: int) -> float:
    """Each run is claimed alone and finished alone, as by many workers."""
    began = time.perf_counter()
    replies = pipe.ask_all(Claim(worker="w", token=f"c{n}", n=1) for n in range(count))
    claimed = [run for reply in replies if isinstance(reply, Claimed) for run in reply.runs]
    assert len(claimed) == count
    finishes = pipe.ask_all(Finish(run=run.id, fence=run.fence, status="succeeded", exit_code=0) for run in claimed)
    assert all(isinstance(reply, Finished) and not reply.fenced for reply in finishes)
    return count / (time.perf_counter() - began)


def _latency(wire: BlockingWire) -> list[float]:
    """ms from the put to the published change, one at a time."""
    wire.subscribe(["Source"])
    while wire.hear(2.0) is None:
        pass
    taken = []
    for number in range(TIMED):
        began = time.perf_counter()
        wire.ask(Write(ops=(Put("Source", "s", b"x" * 200 + str(number).encode()),)), Written)
        while (heard := wire.hear(2.0)) is not None and heard.heads is not None:
            pass
        assert heard is not None, "the change was not heard"
        taken.append((time.perf_counter() - began) * 1000)
    return taken
