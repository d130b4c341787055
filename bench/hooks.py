"""Webhooks: how many calls a second are accepted durably, and how long a caller waits for its 202; beside adnanh/webhook, which stores nothing.

No worker runs meanwhile: what is measured is the promise to run, and the queue holds 10,000 of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench import peers
from bench.place import up
from bench.table import Budget, Figure, Finding, Note, Row, figure
from tests.support.system import REPOSITORY, System

CONNECTIONS = 16
WARM = 200
YAML = "name: Hook\nruntime: shell\ntrigger: {webhook: /hooks/bench}\n"


class Load(NamedTuple):
    a_second: Figure
    taken: Figure


def run(quick: bool) -> Iterator[Finding]:
    requests = 1_000 if quick else 8_000
    with up("--workers", "0", prepare=_write) as place:
        host, _, port = (place.system.data / "run" / "hooks.addr").read_text().strip().rpartition(":")
        ours = _load(host.rpartition("/")[2], int(port), "/hooks/bench?wait=false", requests, "202")
    theirs: list[tuple[str, Load]] = []
    try:
        with tempfile.TemporaryDirectory(prefix="dcb-") as folder, peers.webhook(Path(folder)) as port:
            theirs.append(("webhook", _load("127.0.0.1", port, "/hooks/bench", requests, "200")))
    except peers.NotHere as why:
        yield Note(f"webhook (the program): skipped, {why}")
    yield Row(
        f"webhook accepted durably, {CONNECTIONS} connections",
        ours.a_second,
        "/s",
        Budget(2_000),
        tuple((name, load.a_second) for name, load in theirs),
    )
    yield Row("  time to the 202", ours.taken, budget=Budget(p99=25), peers=tuple((name, load.taken) for name, load in theirs))


def _write(system: System) -> None:
    system.write_task("hook", YAML, task_sh="#!/bin/sh\n")


def _load(host: str, port: int, path: str, requests: int, status: str) -> Load:
    """Raises AssertionError when a call was answered with another status."""
    _client(host, port, path, WARM)
    got = _client(host, port, path, requests)
    assert got["statuses"] == {status: requests}, f"{path}: {got['statuses']}"
    return Load(Figure(requests / got["seconds"]), figure(got["taken"]))


def _client(host: str, port: int, path: str, requests: int) -> dict[str, Any]:
    argv = [sys.executable, "-m", "bench.client", host, str(port), path, str(CONNECTIONS), str(requests)]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
