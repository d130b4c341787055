"""The store's budgets (DESIGN 11), measured from outside in under five seconds: `python bench/store.py`.

A real store process, one client process with many commands under way, one plain client for the latency.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import zmq

from dicode.messages.commands import AnyCommand, AnyReply, Claim, Claimed, Enqueue, Finish, Ping, Pong, Put, Write, Written
from dicode.messages.kinds import Run, RunTrigger, Task
from dicode.messages.task import TaskSpec, Trigger
from dicode.wire.blocking import BlockingWire
from dicode.wire.frames import decode_reply, encode, endpoints

PUTS = 15_000
RUNS = 5_000
UNDER_WAY = 256


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


def task(name: str, digest: str) -> bytes:
    spec = TaskSpec(name=name, trigger=Trigger(cron="*/5 * * * *"), description="x" * 120)
    return encode(Task(id=name, source="bench", digest=digest, process=digest, spec=spec, runtime="python", dir=f"/tmp/tasks/{name}"))


def puts(pipe: Pipe) -> float:
    commands = (Write(ops=(Put("Task", f"t{n % 1000}", task(f"t{n % 1000}", f"{n:064x}")),)) for n in range(PUTS))
    began = time.perf_counter()
    assert all(isinstance(reply, Written) for reply in pipe.ask_all(iter(commands)))
    return PUTS / (time.perf_counter() - began)


def enqueues(pipe: Pipe) -> float:
    commands = (Enqueue(run=Run(id="", task="t1", unique=f"u{n}", trigger=RunTrigger(type="webhook", key=f"u{n}"))) for n in range(RUNS))
    began = time.perf_counter()
    assert sum(1 for _ in pipe.ask_all(iter(commands))) == RUNS
    return RUNS / (time.perf_counter() - began)


def claims_and_finishes(pipe: Pipe) -> float:
    """Each run is claimed alone and finished alone, as by many workers."""
    began = time.perf_counter()
    claimed = [
        run for reply in pipe.ask_all(Claim(worker="w", token=f"c{n}", n=1) for n in range(RUNS)) if isinstance(reply, Claimed) for run in reply.runs
    ]
    assert len(claimed) == RUNS
    assert sum(1 for _ in pipe.ask_all(Finish(run=run.id, fence=run.fence, status="succeeded", exit_code=0) for run in claimed)) == RUNS
    return RUNS / (time.perf_counter() - began)


def latency(wire: BlockingWire) -> list[float]:
    """ms from the put to the published change, one at a time."""
    wire.subscribe(["Source"])
    while wire.hear(2.0) is None:
        pass
    took = []
    for number in range(300):
        began = time.perf_counter()
        wire.ask(Write(ops=(Put("Source", "s", b"x" * 200 + str(number).encode()),)), Written)
        while (heard := wire.hear(2.0)) is not None and heard.heads is not None:
            pass
        took.append((time.perf_counter() - began) * 1000)
    return sorted(took)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="dcb-") as folder:
        environ = {**os.environ, "DICODE_DATA_DIR": folder}
        store = subprocess.Popen([sys.executable, "-P", "-m", "dicode", "store"], env=environ)
        wire, pipe = BlockingWire(*endpoints(Path(folder))), Pipe(endpoints(Path(folder))[0])
        try:
            wire.ask(Ping(), Pong)
            figures: dict[str, float] = {
                "durable puts/s": round(puts(pipe)),
                "enqueue/s": round(enqueues(pipe)),
                "claim + finish/s": round(claims_and_finishes(pipe)),
            }
            took = latency(wire)
            figures |= {"put to event p50 ms": round(statistics.median(took), 2), "put to event p99 ms": round(took[-3], 2)}
            print(json.dumps(figures, indent=2))
        finally:
            pipe.close()
            wire.close()
            store.terminate()
            store.wait(10)


if __name__ == "__main__":
    main()
