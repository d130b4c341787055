"""Whom a source asks, and what it makes of no answer: its own credentials, a plan that cannot be made, a start without mirrors and without a remote."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.support import git_remote
from tests.support.git_remote import Repository, Server, serving
from tests.support.git_system import at_commit, git_source
from tests.support.system import System

from dicode.messages.kinds import DesiredTask, Source
from dicode.spec.plan import Offer

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="inotify, /proc")]
TASK = "apiVersion: dicode/v1\nkind: Task\nname: X\nruntime: shell\ntrigger: {manual: true}\n"


@pytest.fixture
def remote(system: System) -> Iterator[Server]:
    with serving(system.home / "remote") as server:
        yield server


def task(folder: str, script: str = "echo 0\n") -> dict[str, str]:
    return {f"{folder}/task.yaml": TASK, f"{folder}/task.sh": script}


def digests(system: System) -> dict[str, str]:
    return {task.id: task.digest for task in system.objects(DesiredTask).values()}


def test_credentials_of_dicode_yaml_open_the_repository_of_a_source_too(system: System) -> None:
    with serving(system.home / "remote", token="t0ken") as server:
        repository = Repository(server.folder, "infra")
        commit = repository.commit(task("a"))
        system.write_config(
            "sources:\n" + git_source("infra", f"{server.url}/infra") + f"credentials: [{{match: '{server.url}/', token_env: TOKEN}}]\n"
        )
        system.start("store")
        system.start("source-controller", TOKEN="t0ken")
        at_commit(system, "infra", commit)
        assert set(digests(system)) == {"a"}


def test_a_plan_of_a_branch_is_of_what_is_there_to_stay_or_refused(system: System, remote: Server) -> None:
    """In dev mode, too, no dev_ref applies to it; and what was seen of the remote some time ago is not taken for the branch."""
    infra = Repository(remote.folder, "infra")
    set_file = "kind: TaskSet\nspec: {entries: {e: {ref: {path: real, dev_ref: {path: trial}}}}}\n"
    commit = infra.commit({"taskset.yaml": set_file, **task("real"), **task("trial", "echo trial\n")})
    system.write_config("sources:\n" + git_source("infra", f"{remote.url}/infra"))
    system.start("store")
    system.start("source-controller")
    at_commit(system, "infra", commit)
    real = digests(system)
    shutil.copytree(infra.work, system.home / "copy")
    assert system.request("source.dev", "infra", local_path=str(system.home / "copy")).ok
    assert digests(system) != real
    answer = system.request("source.plan", "infra", ref="main")
    assert answer.ok, answer.message
    assert {each.id: each.digest for each in msgspec.json.decode(answer.message, type=Offer).tasks} == real

    assert system.request("source.dev", "infra", disable=True).ok
    remote.tricks.append(git_remote.status(500))
    answer = system.request("source.plan", "infra", ref="main")
    assert not answer.ok and "THE-REMOTES-WORDS" not in answer.message
    assert digests(system) == real


def test_started_without_mirrors_and_without_a_repository_nothing_is_taken_for_removed(system: System, remote: Server) -> None:
    infra, lib = Repository(remote.folder, "infra"), Repository(remote.folder, "lib")
    lib.commit({"taskset.yaml": "kind: TaskSet\nspec: {entries: {a: {ref: {path: a}}, b: {ref: {path: b}}}}\n", **task("a"), **task("b")})
    entries = f"    own: {{ref: {{path: own}}}}\n    lib: {{ref: {{url: '{remote.url}/lib', poll_interval: 0}}}}\n"
    infra.commit({"taskset.yaml": f"kind: TaskSet\nspec:\n  entries:\n{entries}", **task("own")})
    system.write_config("sources:\n" + git_source("infra", f"{remote.url}/infra"))
    system.start("store")
    keeper = system.start("source-controller")
    before = system.object(Source, "infra", lambda source: source.status == "ok")
    known = digests(system)
    assert set(known) == {"infra/own", "infra/lib/a", "infra/lib/b"}

    remote.tricks.append(lambda handler: handler.path.startswith("/lib/") and git_remote.reset(handler))
    pid = system.kill(keeper, "source-controller", signal.SIGSTOP)
    _throw_away(system.data / "mirrors")
    os.kill(pid, signal.SIGKILL)
    again = system.object(Source, "infra", lambda source: source.epoch != before.epoch and source.status == "stale")
    assert [condition.type for condition in again.conditions] == ["Reachable"]
    commit = infra.commit({"own/task.sh": "echo 1\n"})
    system.request("source.sync", "infra")
    system.object(DesiredTask, "infra/infra/own", lambda task: task.revision == commit)
    system.request("source.sync", "infra")  # a second whole look would be enough to remove what is missing
    now = digests(system)
    assert now.pop("infra/own") != known.pop("infra/own")
    assert {id: digest for id, digest in now.items() if id != "infra/lib"} == known

    remote.tricks.clear()
    assert system.request("source.sync", "infra").ok
    assert set(digests(system)) == {"infra/own", *known}


def test_who_asked_is_answered_when_a_repository_that_was_named_only_now_has_been_asked_too(system: System, remote: Server) -> None:
    """Its mirror is there from an earlier time, and what that holds is served at once; but it is not the answer."""
    infra, lib = Repository(remote.folder, "infra"), Repository(remote.folder, "lib")
    lib.commit(task("a"))

    def with_lib(enabled: str) -> dict[str, str]:
        entry = f"{{ref: {{url: '{remote.url}/lib', path: a, poll_interval: 0}}, overrides: {{enabled: {enabled}}}}}"
        return {"taskset.yaml": f"kind: TaskSet\nspec:\n  entries:\n    own: {{ref: {{path: own}}}}\n    lib: {entry}\n", **task("own")}

    infra.commit(with_lib("true"))
    system.write_config("sources:\n" + git_source("infra", f"{remote.url}/infra"))
    system.start("store")
    system.start("source-controller")
    system.object(Source, "infra", lambda source: source.status == "ok")
    infra.commit(with_lib("false"))
    assert system.request("source.sync", "infra").ok
    assert len(system.object(Source, "infra").resolutions[0].revisions) == 1, "nobody follows it any more"

    newest = lib.commit(task("a", "echo 1\n"))
    never = threading.Event()
    remote.tricks.append(lambda handler: handler.path.startswith("/lib/") and never.wait(0.5))  # a slow host; then git answers
    infra.commit(with_lib("true"))
    assert system.request("source.sync", "infra").ok
    assert system.object(Source, "infra").resolutions[0].revisions[f"{remote.url}/lib#branch=main"] == newest
    assert system.object(DesiredTask, "infra/infra/lib").revision == newest


def test_credentials_that_are_changed_while_it_runs_are_used_at_once_by_a_source_and_by_the_refs_of_its_set(system: System) -> None:
    with serving(system.home / "remote", token="t0ken") as server:
        lib = Repository(server.folder, "lib")
        lib.commit(task("a"))
        infra = Repository(server.folder, "infra")
        commit = infra.commit(
            {
                "taskset.yaml": f"kind: TaskSet\nspec:\n  entries:\n    own: {{ref: {{path: own}}}}\n    far: {{ref: {{url: '{server.url}/lib', path: a}}}}\n"
            }
            | task("own")
        )

        def config(variable: str) -> str:
            return "sources:\n" + git_source("infra", f"{server.url}/infra") + f"credentials: [{{match: '{server.url}/', token_env: {variable}}}]\n"

        system.write_config(config("OLD"))
        system.start("store")
        keeper = system.start("source-controller", OLD="expired", NEW="t0ken")
        refused = system.object(Source, "infra", lambda source: source.status == "unavailable")
        assert [condition.reason for condition in refused.conditions] == ["AuthFailed"]
        pid = system.pid(keeper, "source-controller")
        system.write_config(config("NEW"))
        at_commit(system, "infra", commit)
        assert set(digests(system)) == {"infra/own", "infra/far"}

        system.write_config(config("OLD"))
        stale = system.object(Source, "infra", lambda source: source.status == "stale")
        assert [condition.reason for condition in stale.conditions] == ["AuthFailed"]
        assert set(digests(system)) == {"infra/own", "infra/far"} and system.pid(keeper, "source-controller") == pid


def test_damaged_mirrors_under_a_taskset_are_made_anew_when_something_of_before_is_read_in_them(system: System, remote: Server) -> None:
    infra, lib = Repository(remote.folder, "infra"), Repository(remote.folder, "lib")
    lib.commit(task("a") | task("b", "echo " + "b" * 100 + "\n"))

    def with_entries(*names: str) -> dict[str, str]:
        refs = "".join(f"    {name}: {{ref: {{url: '{remote.url}/lib', path: {name}, poll_interval: 0}}}}\n" for name in names)
        return {"taskset.yaml": f"kind: TaskSet\nspec:\n  entries:\n    own: {{ref: {{path: own}}}}\n{refs}"}

    first = infra.commit(with_entries("a") | task("own"))
    system.write_config("sources:\n" + git_source("infra", f"{remote.url}/infra"))
    system.start("store")
    system.start("source-controller")
    at_commit(system, "infra", first)
    before = digests(system)
    assert set(before) == {"infra/own", "infra/a"}

    packs = list((system.data / "mirrors").rglob("*.pack"))
    assert len(packs) >= 2, "one of each repository"
    for pack in packs:
        pack.chmod(0o600)
        os.truncate(pack, 40)
    second = infra.commit(with_entries("a", "b"))
    system.request("source.sync", "infra")
    at_commit(system, "infra", second)
    after = digests(system)
    assert after.pop("infra/b") and after == before


def _throw_away(mirrors: Path) -> None:
    shutil.rmtree(mirrors)


def test_a_remote_that_hangs_does_not_hold_back_ready_and_is_named(system: System, remote: Server) -> None:
    answers = threading.Event()
    remote.tricks.append(lambda handler: not answers.wait(60))  # then git answers
    infra = Repository(remote.folder, "infra")
    commit = infra.commit(task("a"))
    system.write_task("plain", TASK, task_sh="echo 0\n")
    (system.home / "set").mkdir()
    (system.home / "set" / "taskset.yaml").write_text(
        "kind: TaskSet\nspec:\n  entries:\n    own: {inline: {name: X, runtime: shell, trigger: {manual: true}}}\n"
        f"    far: {{ref: {{url: '{remote.url}/infra', path: a}}}}\n"
    )
    (system.home / "set" / "own.sh").write_text("echo 0\n")
    sources = git_source("infra", f"{remote.url}/infra") + "  - {name: tasks, path: ./tasks}\n  - {name: set, path: ./set}\n"
    system.write_config(f"sources:\n{sources}credentials: [{{match: '{remote.url}/', token_env: TOKEN}}]\n")
    try:
        system.up(TOKEN="t0ken")
        said = system.hears("ready: 2 tasks")
        assert not answers.is_set()
        words = "not read yet: the remote has not answered for 5 s"
        assert f"source/infra unavailable: {words}" in said and f"source/set stale: infra: {words}" in said
        assert {source["name"]: source["status"] for source in system.get("sources")} == {"infra": "unavailable", "tasks": "ok", "set": "stale"}
    finally:
        answers.set()
    at_commit(system, "infra", commit)
    system.object(Source, "set", lambda source: source.status == "ok" and not source.conditions)
    assert digests(system).keys() == {"a", "plain", "set/own", "set/far"}
