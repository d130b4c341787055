"""The examples as somebody else starts them: under honcho with four workers, role by role; and what they do to the outside, here a local site."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.system import REPOSITORY, System
from tests.support.waiting import wait_for

from dicode.messages.kinds import Daemon, Task, Worker

pytestmark = pytest.mark.process
EXAMPLES = sorted(path.parent.name for path in (REPOSITORY / "examples").glob("*/task.yaml"))
PASSED_ON = {name: value for name, value in os.environ.items() if name.startswith(("SSL_", "UV_"))}  # for uv, which fetches a dependency
ROLES = ("store", "source-controller", "reconciler", "trigger-engine", "supervisor", "worker")


@pytest.fixture
def examples(system: System) -> System:
    """A copy of them, with the clock on any free port."""
    shutil.copytree(REPOSITORY / "examples", system.tasks, dirs_exist_ok=True)
    replace_in(system.tasks / "clock" / "task.yaml", "default: 8090", "default: 0")
    return system


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def under_honcho(system: System) -> int:
    system.honcho("-c", "worker=4")
    return 4


def role_by_role(system: System) -> int:
    for role in ROLES:
        system.start(role)
    return 1


@pytest.mark.parametrize("start", [under_honcho, role_by_role])
def test_the_first_screen_is_clean_and_each_runtime_runs(examples: System, start: object) -> None:
    workers = start(examples)  # type: ignore[operator]
    for name in EXAMPLES:
        examples.object(Task, name, lambda task: task.sync == "Synced" and task.health == "Healthy")
    wait_for(lambda: len(examples.objects(Worker)) == workers, f"{workers} workers")
    examples.hears(f"ready: {len(EXAMPLES)} tasks, hooks http://127.0.0.1:")
    screen = examples.run("get", "tasks").stdout.splitlines()[1:]
    assert [line.split()[0] for line in screen] == EXAMPLES
    assert all(line.endswith(" -") for line in screen), screen  # no condition on any of them
    for words in (("hello",), ("disk-space", "-p", "warn_percent=101"), ("slack-digest",)):  # python, shell, deno
        done = examples.run("run", *words)
        assert done.returncode == 0 and done.stdout, done.stderr
    for name in ("clock", "heartbeat"):
        examples.object(Daemon, name, lambda daemon: daemon.state == "running")


class Site(http.server.BaseHTTPRequestHandler):
    """Answers every GET, keeps what is posted."""

    posted: list[bytes]

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer()

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def site() -> Iterator[tuple[str, list[bytes]]]:
    posted: list[bytes] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("HereSite", (Site,), {"posted": posted}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", posted
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_digest_is_posted_and_a_site_is_checked_with_a_dependency_of_its_own(examples: System, site: tuple[str, list[bytes]]) -> None:
    url, posted = site
    replace_in(examples.tasks / "slack-digest" / "task.yaml", "net: [", "net: [127.0.0.1, ")
    examples.up(SLACK_WEBHOOK_URL=f"{url}services/T0/B0/x", **PASSED_ON)
    for name in ("slack-digest", "http-check"):
        examples.object(Task, name, lambda task: task.digest)
    sent = ran(examples, "slack-digest", "-p", "dry_run=false")
    assert '{"posted": true}' in sent.stderr or '{"posted":true}' in sent.stderr
    (body,) = posted
    text = json.loads(body)["text"].split("\n")
    assert text[0] == "*2 headlines*" and text[1] == "• <https://example.org/1|Argo CD for everything outside Kubernetes>"
    assert "200 in" in ran(examples, "http-check", "-p", f"url={url}", "-p", "slow_ms=20000").stdout


def ran(system: System, *words: str) -> subprocess.CompletedProcess[str]:
    done = system.run("run", *words, deadline=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
