"""The examples the repository ships: all are registered, and those that need no network do what they say."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.system import REPOSITORY, System
from tests.support.waiting import wait_for

from dicode.messages.kinds import Daemon, Route, Task

pytestmark = pytest.mark.process
EXAMPLES = sorted(path.parent.name for path in (REPOSITORY / "examples").glob("*/task.yaml"))


@pytest.fixture(scope="module")
def up() -> Iterator[System]:
    """A copy of the examples, with the clock on another port, in an environment that has nothing of ours."""
    system = System()
    shutil.copytree(REPOSITORY / "examples", system.tasks, dirs_exist_ok=True)
    clock = system.tasks / "clock" / "task.yaml"
    clock.write_text(clock.read_text().replace("default: 8090", "default: 0"))
    keeper = system.up()
    for name in EXAMPLES:
        system.object(Task, name, lambda task: task.digest)
    try:
        yield system
        assert keeper.poll() is None, f"it ended with {keeper.returncode} in the middle:\n{system.said()}"
    finally:
        system.close()


def test_there_is_a_task_for_every_taste() -> None:
    assert len(EXAMPLES) >= 8


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_registered(up: System, name: str) -> None:
    task = up.get("tasks", name)
    ready = next(condition for condition in task["conditions"] if condition["type"] == "Ready")
    assert ready["status"], ready


def test_the_config_of_the_repository_watches_them() -> None:
    assert "path: ./examples" in (REPOSITORY / "dicode.yaml").read_text()
    assert ".dicode/" in (REPOSITORY / ".gitignore").read_text().split()


@pytest.mark.parametrize("name", ["hello", "disk-space", "log-rotate", "backup", "slack-digest"])
def test_examples_that_need_no_network_succeed(up: System, name: str) -> None:
    params = ("-p", "warn_percent=101") if name == "disk-space" else ()
    done = up.run("run", name, *params)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_log_rotation_rotates_and_keeps_the_newest(up: System) -> None:
    folder = up.home / "logs-to-rotate"
    folder.mkdir()
    (folder / "app.log").write_text("x" * 3000)
    (folder / "small.log").write_text("x")
    done = up.run("run", "log-rotate", "-p", f"folder={folder}", "-p", "max_kib=1")
    assert done.returncode == 0, done.stderr
    assert (folder / "app.log").read_text() == ""
    assert (folder / "small.log").read_text() == "x"
    assert len(list(folder.glob("app.log.*.gz"))) == 1


def test_a_signed_push_is_told(up: System) -> None:
    url = wait_for(lambda: (route := up.reader().get(Route, "github-push")) and route.url)
    body = json.dumps({"ref": "refs/heads/main", "repository": {"full_name": "acme/site"}, "commits": [{"message": "Fix"}]}).encode()
    signature = hmac.new(b"development-secret-0", body, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={signature}"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
        assert json.load(answer) == {"repository": "acme/site", "branch": "main", "commits": 1}
    assert "acme/site: someone: Fix" in up.run("logs", "github-push").stdout


def test_the_clock_serves_a_page(up: System) -> None:
    up.object(Daemon, "clock", lambda daemon: daemon.state == "running")
    line = wait_for(lambda: next((line for line in up.run("logs", "clock").stdout.splitlines() if line.startswith("listening on ")), ""))
    with urllib.request.urlopen(line.removeprefix("listening on "), timeout=10) as answer:
        assert "<title>Clock</title>" in answer.read().decode()


def test_the_heartbeat_beats(up: System) -> None:
    up.object(Daemon, "heartbeat", lambda daemon: daemon.state == "running")
    wait_for(lambda: " load " in up.run("logs", "heartbeat").stdout)


def test_shell_scripts_are_executable() -> None:
    assert all(path.stat().st_mode & 0o100 for path in Path(REPOSITORY / "examples").glob("*/task.sh"))
