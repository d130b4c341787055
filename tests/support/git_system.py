"""A whole installation that draws from git: sources over HTTP, pushes as a git host announces them, and what people are shown of it."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import urllib.request
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import psutil
from tests.support import processes
from tests.support.system import System
from tests.support.waiting import DEADLINE, wait_for

from dicode.messages.kinds import Source, Task

SECRET_ENV = "PUSH_SECRET"
SECRET = "secret-of-the-pushes"
HEX = 7  # digits of a commit in what is shown


def git_source(name: str, url: str, *, every: str = "1h", **fields: str) -> str:
    """One line of `sources:`. Nothing is polled unless somebody asks; pushes are believed when they are signed with SECRET."""
    more = "".join(f", {key}: {value}" for key, value in fields.items())
    return f"  - {{name: {name}, type: git, url: '{url}', poll_interval: {every}, webhook_secret_env: {SECRET_ENV}{more}}}\n"


def push(system: System, source: str, branch: str = "main") -> str:
    """What a git host does after a push; the token of the request that came of it, "" for none."""
    body = json.dumps({"ref": f"refs/heads/{branch}"}).encode()
    signed = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    address = wait_for(lambda: _hooks(system), "the hooks listen")
    headers = {"X-Hub-Signature-256": f"sha256={signed}", "X-GitHub-Event": "push", "X-GitHub-Delivery": os.urandom(8).hex()}
    call = urllib.request.Request(f"http://{address}/hooks/git/{source}", body, headers)
    with urllib.request.urlopen(call, timeout=DEADLINE) as answer:
        return str(json.load(answer)["request"])


def _hooks(system: System) -> str:
    file = system.data / "run" / "hooks.addr"
    return file.read_text().strip().removeprefix("http://") if file.exists() else ""


def sync(system: System, source: str) -> None:
    """`dicode source sync NAME --wait`."""
    done = system.run("source", "sync", source, "--wait")
    assert done.returncode == 0, done.stderr


def at_commit(system: System, source: str, commit: str, deadline: float = DEADLINE) -> Source:
    """The source, when it is read whole at this commit."""
    return system.object(Source, source, lambda found: found.revision == commit and found.status == "ok", deadline)


def all_synced(system: System, ids: Collection[str], deadline: float = DEADLINE) -> dict[str, Task]:
    """These tasks and no others are registered, each is good and what was registered is everywhere."""

    def settled() -> dict[str, Task]:
        tasks = system.objects(Task)
        assert tasks.keys() == set(ids), sorted(tasks.keys() ^ set(ids))
        wrong = {id: task.conditions for id, task in tasks.items() if not task.digest or task.sync != "Synced"}
        assert not wrong, wrong
        return tasks

    return wait_for(settled, "all tasks are synced", deadline)


def generations(system: System) -> dict[str, int]:
    """How often each task was registered."""
    return {id: task.generation for id, task in system.objects(Task).items()}


def registered_again(system: System, before: dict[str, int]) -> set[str]:
    """The tasks that were registered, changed or removed since."""
    after = generations(system)
    return {id for id in before.keys() | after.keys() if before.get(id) != after.get(id)}


def conditions(shown: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of an object of `get … -o json`, by type, those that say something is wrong."""
    return {each["type"]: each for each in shown["conditions"] if each["type"] != "Ready" or not each["status"]}


def source_shown(system: System, name: str, fact: Callable[[dict[str, Any]], object], deadline: float = DEADLINE) -> dict[str, Any]:
    """What `get sources NAME -o json` prints, once the fact is true of it."""

    def shown() -> dict[str, Any] | None:
        found: dict[str, Any] = system.get("sources", name)
        assert fact(found), found
        return found

    return wait_for(shown, f"source {name} says so", deadline)


# ── secrets, and where they must not be ──


def leaks(system: System, secrets: Collection[str]) -> list[str]:
    """Where any of these stands: what was printed, every file of data_dir, the command lines of all our processes."""
    needles = [secret.encode() for secret in secrets]
    return [place for place, text in _all_that_is_written(system) if any(needle in text for needle in needles)]


def _all_that_is_written(system: System) -> Iterator[tuple[str, bytes]]:
    yield "what was printed", system.said().encode()
    for folder, _, names in os.walk(system.data):
        for path in (Path(folder, name) for name in names):
            if path.is_file() and not path.is_symlink():
                yield str(path), path.read_bytes()
    for process in processes.left_behind(system.mark, system.home):
        try:
            yield f"command line of {process.pid}", "\0".join(process.cmdline()).encode()
        except psutil.Error:
            continue
