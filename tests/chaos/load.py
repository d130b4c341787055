"""What happens while something breaks: schedules fire, a client posts webhooks, an editor saves, daemons run."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.kinds import Daemon, Route, Schedule

SOAK = os.environ.get("DICODE_SOAK") == "1"  # the counts of RELIABILITY 3.1 instead of those of CI
EVERY = 0.08  # seconds between two webhooks of the client
SAVE_EVERY = 0.2  # seconds between two saves of the editor
PATIENCE = 20.0  # seconds the client tries one delivery before it gives up
STEADY = ("steady-a", "steady-b", "steady-c")  # daemons that nobody edits
EDITED = "edited"  # the daemon that the editor edits
CRON_ALL, CRON_LAST = "cron-all", "cron-last"  # every missed slot is caught up; the last one is
HOOK = "hook"
LEAVES_BEHIND = "setsid sleep 1000 </dev/null >/dev/null 2>&1 &\n"
HASHES = 'printf \'"%s"\' "$(cat task.sh text task.yaml | sha256sum | cut -c1-64)" > "$DICODE_RESULT"\n'


def seeded(row: str) -> random.Random:
    """The dice of one row; DICODE_SEED repeats what a failure has printed."""
    seed = os.environ.get("DICODE_SEED") or os.urandom(4).hex()
    print(f"{row}: DICODE_SEED={seed}")
    return random.Random(f"{row} {seed}")


class Delivery(NamedTuple):
    """A webhook that was answered 2xx."""

    key: str
    run: str


@dataclass
class Client:
    """Posts one delivery after the other, each until it is accepted; some again after that, as GitHub does."""

    system: System
    seed: str
    accepted: list[Delivery] = field(default_factory=list)
    refused: int = 0  # connects
    given_up: list[str] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        number = 0
        while not self._end.wait(EVERY):
            number += 1
            self._deliver(f"{self.seed}-{number}", again=number % 5 == 0)

    def _deliver(self, key: str, *, again: bool) -> None:
        until = time.monotonic() + PATIENCE
        why = ""
        while time.monotonic() < until:
            why = self._post(key)
            if not why:
                if again:
                    self._post(key)
                return
            self._end.wait(EVERY)
        self.given_up.append(f"{key}: {why}")

    def _post(self, key: str) -> str:
        """ "" when it was accepted, else why not."""
        try:
            host, port = (self.system.data / "run" / "hooks.addr").read_text().strip().rsplit(":", 1)
            connection = http.client.HTTPConnection(host, int(port), timeout=5)
            with contextlib.closing(connection):
                connection.request("POST", f"/hooks/{HOOK}?wait=false", b"{}", {"Idempotency-Key": key, "Content-Type": "application/json"})
                answer = connection.getresponse()
                body = answer.read()
        except ConnectionRefusedError:
            self.refused += 1
            return "refused"
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        if answer.status // 100 != 2:
            return f"{answer.status} {body[:200]!r}"
        self.accepted.append(Delivery(key, json.loads(body)["runId"]))
        return ""

    def end(self) -> None:
        self._end.set()


@dataclass
class Editor:
    """Saves the hook's task and one daemon in turn: often a part of it, sometimes broken YAML, at the end something good."""

    system: System
    saves: int = 0
    _end: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._end.wait(SAVE_EVERY):
            self.saves += 1
            if self.saves % 9 == 0:
                self.system.write_task(HOOK, "name: [broken\n")
            elif self.saves % 5 == 0:
                self.system.write_task(EDITED, daemon_yaml(EDITED), task_sh=daemon_script(self.saves))
            else:
                write_hook(self.system, self.saves)
        write_hook(self.system, self.saves + 1)

    def end(self) -> None:
        self._end.set()


def write_hook(system: System, number: int, weight: int = 1000) -> None:
    """The script first, then the text: a reader may well meet the one without the other."""
    folder = system.tasks / HOOK
    system.write_task(
        HOOK, f"name: hook\nruntime: shell\ntrigger: {{webhook: /hooks/{HOOK}}}\ndescription: save {number}\n", task_sh=HASHES + f"# {number}\n"
    )
    fresh = folder / ".text.new~"
    fresh.write_bytes(f"{number}\n".encode() * weight)
    fresh.replace(folder / "text")


def daemon_yaml(id: str) -> str:
    return f"name: {id}\nruntime: shell\ntrigger: {{daemon: true, stop_grace: 1s, min_ready: 0}}\n"


def daemon_script(number: int = 0) -> str:
    return f"exec sleep {100_000 + number}\n"


def cron_yaml(id: str, catch_up: str) -> str:
    return f'name: {id}\nruntime: shell\ntrigger: {{cron: "@every 1s", catch_up: {catch_up}}}\n'


class Load:
    """The tasks of a row, and the two who use them while `running`."""

    def __init__(self, system: System, config: str = "") -> None:
        self.system = system
        self.client = Client(system, os.urandom(4).hex())
        self.editor = Editor(system)
        system.write_config(
            "retention: {bundles: 100000, runs_per_task: 1000000}\nsources:\n  - {name: tasks, type: local, path: ./tasks, rescan: 2s}\n" + config
        )
        write_hook(system, 0)
        for id, catch_up, script in ((CRON_ALL, "all", HASHES), (CRON_LAST, "last", LEAVES_BEHIND + HASHES)):
            system.write_task(id, cron_yaml(id, catch_up), task_sh=script)
            (system.tasks / id / "text").write_text("fixed\n")
        for id in (*STEADY, EDITED):
            system.write_task(id, daemon_yaml(id), task_sh=daemon_script())

    def settled(self) -> dict[str, int]:
        """Wait until all of it works for the first time; gives the pids of the daemons that nobody edits."""
        self.system.object(Route, HOOK, lambda route: route.url)
        for id in (CRON_ALL, CRON_LAST):
            self.system.object(Schedule, id, lambda schedule: schedule.next)
        return self.steady()

    def steady(self) -> dict[str, int]:
        """The pids of the daemons that nobody edits, when they all run."""

        def pids() -> dict[str, int]:
            daemons = self.system.objects(Daemon)
            assert all(id in daemons and daemons[id].state == "running" for id in STEADY), daemons
            return {id: daemons[id].pid for id in STEADY}

        return wait_for(pids, "the daemons run")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Posting and saving go on inside; at the end each has finished what it had begun."""
        workers = [threading.Thread(target=each.run, name=type(each).__name__, daemon=True) for each in (self.client, self.editor)]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            for each in (self.client, self.editor):
                each.end()
            for worker in workers:
                worker.join(2 * PATIENCE)
        assert not any(worker.is_alive() for worker in workers)

    def after_more(self, posts: int, deadline: float = 30.0) -> None:
        """When so many more deliveries were accepted than there are now."""
        wanted = len(self.client.accepted) + posts
        wait_for(lambda: len(self.client.accepted) >= wanted, f"{posts} more deliveries were accepted; given up: {self.client.given_up}", deadline)
