"""A real store: `dicode store` with its keeper, in a data folder of its own; and a bus that loses what it is told to lose."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import zmq

from dicode.messages.commands import Ping, Pong
from dicode.wire.blocking import BlockingWire
from dicode.wire.frames import StoreAway, endpoints

T = TypeVar("T")
START_WITHIN = 20.0
STOP_WITHIN = 8.0


class RealStore:
    """`with RealStore() as store:`; stops it at the end, and fails when it has to be killed."""

    def __init__(self, **environ: str) -> None:
        self.environ = environ
        self.folder = Path(tempfile.mkdtemp(prefix="dcs-"))  # short: a socket's path ends at 107 bytes
        self.data = self.folder / "d"
        self.endpoints = endpoints(self.data)
        self.output = self.folder / "output"
        self.keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RealStore:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def start(self) -> None:
        self.keeper = self.launch()
        self.answers()

    def launch(self) -> subprocess.Popen[bytes]:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("DICODE_")}
        with self.output.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "dicode", "store"],
                env={**environ, **self.environ, "DICODE_DATA_DIR": str(self.data)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def answers(self) -> Pong:
        with self.wire() as wire:
            try:
                return wire.ask(Ping(), Pong, deadline=START_WITHIN)
            except StoreAway:
                raise AssertionError(f"the store does not answer; it said: {self.said()}") from None

    def stop(self) -> float:
        """Seconds it took."""
        assert self.keeper is not None
        role, began = self.roles(), time.monotonic()
        self.keeper.terminate()
        try:
            self.keeper.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            for process in (*role, psutil.Process(self.keeper.pid)):
                process.kill()
            self.keeper.wait(STOP_WITHIN)
            raise AssertionError(f"the store did not stop; it said: {self.said()}") from None
        assert not [process for process in role if process.is_running()]
        return time.monotonic() - began

    def roles(self) -> list[psutil.Process]:
        assert self.keeper is not None
        try:
            return psutil.Process(self.keeper.pid).children()
        except psutil.NoSuchProcess:
            return []

    def role(self) -> psutil.Process:
        """The process under the keeper, once there is one."""
        return wait_for(lambda: next(iter(self.roles()), None))

    def kill(self) -> None:
        role = self.role()
        role.send_signal(signal.SIGKILL)
        wait_for(lambda: not role.is_running() or role.status() == psutil.STATUS_ZOMBIE)

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    @contextmanager
    def wire(self) -> Iterator[BlockingWire]:
        wire = BlockingWire(*self.endpoints)
        try:
            yield wire
        finally:
            wire.close()


def wait_for(fact: Callable[[], T], seconds: float = 10.0) -> T:
    """The first true thing `fact` gives."""
    until = time.monotonic() + seconds
    while True:
        found = fact()
        if found:
            return found
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.005)


class LossyBus:
    """Stands between a store's publications and a subscriber. `loses(topic, number)` says which frames never arrive."""

    def __init__(self, changes: str, here: Path) -> None:
        self.endpoint = f"ipc://{here}"
        self.loses: Callable[[bytes, int], bool] = lambda topic, number: False
        self.lost = 0
        self.passed = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._carry, args=(changes,), daemon=True)
        self._thread.start()

    def _carry(self, changes: str) -> None:
        context = zmq.Context()
        front, back = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
        front.setsockopt(zmq.RCVHWM, 0)
        front.connect(changes)
        back.bind(self.endpoint)
        poller = zmq.Poller()
        poller.register(front, zmq.POLLIN)
        poller.register(back, zmq.POLLIN)
        number = 0
        while not self._stop.is_set():
            ready = dict(poller.poll(50))
            if back in ready:
                front.send(back.recv())
            if front in ready:
                parts = front.recv_multipart()
                number += 1
                if self.loses(parts[0], number):
                    self.lost += 1
                else:
                    self.passed += 1
                    back.send_multipart(parts)
        context.destroy(linger=0)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
