"""Git over HTTP to tasks: pushes, broken pushes, rewritten history, remotes that are gone; sets over two repositories."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.support.git_remote import Repository, Server, git, serving
from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.kinds import DesiredTask, Event, Source
from dicode.process.blobs import Bundles
from dicode.spec.plan import Offer

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="inotify, /proc")]

TASK = "apiVersion: dicode/v1\nkind: Task\nname: X\ntrigger: {manual: true}\n"
SCRIPT = "#!/bin/sh\necho first\n"
OTHER = "#!/bin/sh\necho second\n"
PLAIN = {f"{id}/{name}": text for id in ("a", "group/b", "c") for name, text in (("task.yaml", TASK), ("task.sh", SCRIPT))}


@pytest.fixture
def remote(system: System) -> Iterator[Server]:
    folder = system.home / "remote"
    folder.mkdir()
    with serving(folder) as server:
        yield server


def begin(system: System, *sources: str, more: str = "") -> None:
    """A store and a source-controller with these sources. Nothing is polled unless somebody asks."""
    system.write_config("sources:\n" + "".join(f"  - {{{each}, poll_interval: 1h}}\n" for each in sources) + more)
    system.start("store")
    system.start("source-controller")


def url(remote: Server, name: str) -> str:
    return f"{remote.url}/{name}"


def is_read(system: System, name: str = "infra") -> Source:
    return system.object(Source, name, lambda source: source.status == "ok")


def desired(system: System, id: str, fact: Callable[[DesiredTask], object] = bool) -> DesiredTask:
    return system.object(DesiredTask, f"infra/{id}", fact)


def ids(system: System) -> set[str]:
    return {task.id for task in system.objects(DesiredTask).values()}


def revs(system: System) -> dict[str, int]:
    reader = system.reader()
    return {key: reader.rev(DesiredTask, key) for key in system.objects(DesiredTask)}


def changed(system: System, before: dict[str, int]) -> set[str]:
    after = revs(system)
    return {key.removeprefix("infra/") for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def holds(system: System, path: str, content: str) -> Callable[[DesiredTask], bool]:
    kept = Bundles(system.data / "bundles", system.data / "trees")
    return lambda task: bool(task.digest) and kept.files(task.digest).get(path, ("", b""))[1] == content.encode()


# ── plain ──


def test_a_push_writes_the_task_it_changed_and_no_other_and_the_source_names_the_commit(system: System, remote: Server) -> None:
    repository = Repository(remote.folder)
    first = repository.commit(PLAIN, "the beginning")
    begin(system, f"name: infra, url: '{url(remote, 'tasks.git')}'")
    source = is_read(system)
    assert ids(system) == {"a", "group/b", "c"}
    assert source.revision == first and source.commit is not None
    assert (source.commit.author, source.commit.subject) == ("Ada Lovelace <ada@example.org>", "the beginning")
    assert {task.revision for task in system.objects(DesiredTask).values()} == {first}
    assert desired(system, "group/b").dir == "infra:group/b"

    before = revs(system)
    second = repository.commit({"group/b/task.sh": OTHER})
    pushed_at = time.time()
    assert system.request("source.sync", "infra", pushed_at=pushed_at).ok
    updated = desired(system, "group/b", lambda task: task.revision == second)
    assert holds(system, "task.sh", OTHER)(updated) and updated.seen_at == pushed_at
    assert changed(system, before) == {"group/b"}
    assert f"file changed: infra@{second[:7]}:group/b/task.sh\n" in system.said()
    source = system.object(Source, "infra")
    assert source.revision == second and [each.revisions for each in source.resolutions] == [{"": second}, {"": first}]
    assert any(event.message == f"now at infra@{second[:7]}" for event in system.objects(Event).values())


def test_a_commit_that_changes_no_task_writes_none_and_one_that_adds_and_removes_does_both(system: System, remote: Server) -> None:
    repository = Repository(remote.folder)
    repository.commit(PLAIN)
    begin(system, f"name: infra, url: '{url(remote, 'tasks.git')}'")
    is_read(system)
    before = revs(system)
    commit = repository.commit({"README.md": "nothing"})
    assert system.request("source.sync", "infra").ok
    assert system.object(Source, "infra").revision == commit and changed(system, before) == set()
    repository.commit({"d/task.yaml": TASK, "d/task.sh": SCRIPT, "c/task.yaml": None, "c/task.sh": None})
    assert system.request("source.sync", "infra").ok
    wait_for(lambda: ids(system) == {"a", "group/b", "d"}, "c is gone")
    assert changed(system, before) == {"c", "d"}


def test_a_broken_push_keeps_the_last_good_and_a_forced_one_is_followed(system: System, remote: Server) -> None:
    repository = Repository(remote.folder)
    repository.commit(PLAIN)
    begin(system, f"name: infra, url: '{url(remote, 'tasks.git')}'")
    is_read(system)
    good, before = desired(system, "a").digest, revs(system)
    commit = repository.commit({"a/task.yaml": TASK.replace("trigger", "tigger")})
    assert system.request("source.sync", "infra").ok
    broken = desired(system, "a")
    assert broken.digest == good and broken.faults[0].file == f"infra@{commit[:7]}:a/task.yaml"
    repository.commit({"a/task.yaml": TASK, "a/task.sh": OTHER}, amend=True)
    assert system.request("source.sync", "infra").ok
    assert desired(system, "a", lambda task: not task.faults and task.digest != good)
    assert changed(system, before) == {"a"}


def test_with_the_remote_down_the_last_commit_is_served_also_after_a_restart(system: System, remote: Server) -> None:
    repository = Repository(remote.folder)
    first = repository.commit(PLAIN)
    system.write_config(f"sources:\n  - {{name: infra, url: '{url(remote, 'tasks.git')}', poll_interval: 1h}}\n  - {{name: tasks, path: ./tasks}}\n")
    system.write_task("local", TASK, task_sh=SCRIPT)
    system.start("store")
    keeper = system.start("source-controller")
    is_read(system)
    before = revs(system)
    remote.tricks.append(lambda handler: handler.answer(503, b"REMOTE-WORDS") or True)
    answer = system.request("source.sync", "infra")
    assert not answer.ok and "REMOTE-WORDS" not in answer.message
    stale = system.object(Source, "infra", lambda source: source.status == "stale")
    assert [condition.type for condition in stale.conditions] == ["Reachable"] and stale.revision == first

    system.kill(keeper, "source-controller", signal.SIGKILL)
    again = system.object(Source, "infra", lambda source: source.status == "stale" and source.epoch != stale.epoch)
    assert again.revision == first and changed(system, before) == set()
    system.write_task("local", TASK, task_sh=OTHER)
    system.object(DesiredTask, "tasks/local", holds(system, "task.sh", OTHER))
    remote.tricks.clear()
    commit = repository.commit({"a/task.sh": OTHER})
    assert system.request("source.sync", "infra").ok
    assert system.object(Source, "infra", lambda source: source.status == "ok").revision == commit
    assert "REMOTE-WORDS" not in system.said()


def test_suspended_it_stays_at_its_commit_and_resumed_it_catches_up(system: System, remote: Server) -> None:
    repository = Repository(remote.folder)
    first = repository.commit(PLAIN)
    begin(system, f"name: infra, url: '{url(remote, 'tasks.git')}'")
    is_read(system)
    assert system.request("source.suspend", "infra").ok
    second = repository.commit({"a/task.sh": OTHER})
    assert "suspended" in system.request("source.sync", "infra").message
    assert system.object(Source, "infra").revision == first
    assert system.request("source.resume", "infra").ok
    system.object(Source, "infra", lambda source: source.revision == second)


# ── sets ──

LIB = {"report/task.yaml": TASK, "report/task.sh": SCRIPT}


def set_of(lib: str, timeout: str = "5s", more: str = "") -> str:
    return f"""\
kind: TaskSet
spec:
  entries:
    own: {{ref: {{path: tasks/own}}}}
    set-dir: {{inline: {{name: D, runtime: shell, trigger: {{manual: true}}, permissions: {{env: ["WHERE=${{TASK_SET_DIR}}"]}}}}}}
    report:
      ref: {{url: '{lib}', path: report, poll_interval: 1h}}
      overrides: {{timeout: {timeout}}}
{more}"""


def two(remote: Server, lib_url: str) -> tuple[Repository, Repository]:
    infra, lib = Repository(remote.folder, "infra.git"), Repository(remote.folder, "lib.git")
    lib.commit(LIB)
    infra.commit({"taskset.yaml": set_of(lib_url), "set-dir.sh": SCRIPT, "tasks/own/task.yaml": TASK, "tasks/own/task.sh": SCRIPT})
    return infra, lib


def test_a_set_over_two_repositories_hears_of_a_push_to_either(system: System, remote: Server) -> None:
    infra, lib = two(remote, url(remote, "lib.git"))
    begin(system, f"name: infra, url: '{url(remote, 'infra.git')}', path: taskset.yaml")
    source = is_read(system)
    assert ids(system) == {"infra/own", "infra/set-dir", "infra/report"}
    assert len(source.resolutions[0].revisions) == 2
    before, report = revs(system), desired(system, "infra/report")
    assert report.spec is not None and report.spec.timeout == 5_000 and report.dir == "lib:report"
    exported = Path(desired(system, "infra/set-dir").set_dir)
    assert (exported / "taskset.yaml").is_file() and desired(system, "infra/own").set_dir == ""

    commit = lib.commit({"report/task.sh": OTHER})
    assert system.request("source.sync", "infra").ok
    desired(system, "infra/report", lambda task: task.revision == commit)
    assert changed(system, before) == {"infra/report"}
    assert f"file changed: lib@{commit[:7]}:report/task.sh\n" in system.said()

    before = revs(system)
    commit = infra.commit({"taskset.yaml": set_of(url(remote, "lib.git"), "6s")})
    assert system.request("source.sync", "infra").ok
    task = desired(system, "infra/report", lambda task: task.spec is not None and task.spec.timeout == 6_000)
    assert changed(system, before) == {"infra/report", "infra/set-dir"}  # the latter is told where the set stands now
    assert task.digest != report.digest and f"file changed: infra@{commit[:7]}:taskset.yaml\n" in system.said()
    vectors = [each.revisions for each in system.object(Source, "infra").resolutions]
    assert len(vectors) == 3 and vectors[0][""] == commit


def test_with_one_repository_away_everything_else_is_resolved(system: System, remote: Server) -> None:
    infra, _ = two(remote, url(remote, "gone.git"))
    begin(system, f"name: infra, url: '{url(remote, 'infra.git')}', path: taskset.yaml")
    stale = system.object(Source, "infra", lambda source: source.status == "stale")
    assert [condition.type for condition in stale.conditions] == ["Reachable"]
    assert desired(system, "infra/own").digest
    assert desired(system, "infra/report", lambda task: task.faults).digest == ""
    infra.commit({"tasks/own/task.sh": OTHER})
    system.request("source.sync", "infra")
    desired(system, "infra/own", holds(system, "task.sh", OTHER))


def test_a_set_entry_that_a_push_breaks_keeps_its_digest_and_a_plain_repository_may_become_a_set(system: System, remote: Server) -> None:
    repository = Repository(remote.folder)
    repository.commit(PLAIN)
    begin(system, f"name: infra, url: '{url(remote, 'tasks.git')}'")
    is_read(system)
    repository.commit({"taskset.yaml": "kind: TaskSet\nspec: {entries: {a: {ref: {path: a}}, b: {ref: {path: group/b}}}}\n"})
    assert system.request("source.sync", "infra").ok
    good = desired(system, "infra/a").digest
    commit = repository.commit({"taskset.yaml": "kind: TaskSet\nspec: {entries: {a: {ref: {path: missing}}, b: {ref: {path: group/b}}}}\n"})
    assert system.request("source.sync", "infra").ok
    broken = desired(system, "infra/a", lambda task: task.faults)
    assert broken.digest == good and broken.faults[0].file == f"infra@{commit[:7]}:taskset.yaml"
    assert not desired(system, "infra/b").faults


# ── dev mode ──


def test_dev_mode_on_a_working_copy_and_back_changes_only_what_differs(system: System, remote: Server) -> None:
    infra, _ = two(remote, url(remote, "lib.git"))
    begin(system, f"name: infra, url: '{url(remote, 'infra.git')}', path: taskset.yaml")
    is_read(system)
    before = {key: task.digest for key, task in system.objects(DesiredTask).items()}
    copy = system.home / "copy"
    shutil.copytree(infra.work, copy)
    (copy / "tasks" / "own" / "task.sh").write_text(OTHER)
    written = revs(system)
    answer = system.request("source.dev", "infra", local_path=str(copy))
    assert answer.ok, answer.message
    own = desired(system, "infra/own", lambda task: task.digest != before["infra/infra/own"])
    assert own.revision == "" and changed(system, written) == {"infra/own", "infra/set-dir"}
    asked: list[str] = []
    remote.tricks.append(lambda handler: asked.append(handler.path) is not None)
    (copy / "tasks" / "own" / "task.sh").write_text("#!/bin/sh\necho third\n")
    desired(system, "infra/own", lambda task: task.digest not in ("", own.digest))
    assert system.request("source.sync", "infra").ok
    assert {path.split("/")[1] for path in asked} == {"lib.git"}, "what its refs name is followed, it is not"

    assert system.request("source.dev", "infra", disable=True).ok
    assert {key: task.digest for key, task in system.objects(DesiredTask).items()} == before
    assert desired(system, "infra/own").revision and system.object(Source, "infra").dev == ""


def test_dev_mode_on_a_branch_reads_it_and_one_that_is_not_there_keeps_everything(system: System, remote: Server) -> None:
    repository = Repository(remote.folder)
    first = repository.commit(PLAIN)
    begin(system, f"name: infra, url: '{url(remote, 'tasks.git')}'")
    is_read(system)
    commit = repository.commit({"a/task.sh": OTHER}, branch="feature")
    before = revs(system)
    assert system.request("source.dev", "infra", branch="feature").ok
    source = system.object(Source, "infra")
    assert (source.dev, source.revision) == ("branch:feature", commit) and changed(system, before) == {"a"}
    answer = system.request("source.dev", "infra", branch="nowhere")
    assert not answer.ok
    assert ids(system) == {"a", "group/b", "c"}
    assert system.request("source.dev", "infra", disable=True).ok
    assert system.object(Source, "infra").revision == first


def test_another_url_in_dicode_yaml_starts_anew_and_removes_nothing_that_is_there_too(system: System, remote: Server) -> None:
    one, other = Repository(remote.folder, "one.git"), Repository(remote.folder, "other.git")
    one.commit(PLAIN)
    begin(system, f"name: infra, url: '{url(remote, 'one.git')}'")
    is_read(system)
    before = revs(system)
    commit = other.commit({**PLAIN, "a/task.sh": OTHER})
    system.write_config(f"sources:\n  - {{name: infra, url: '{url(remote, 'other.git')}', poll_interval: 1h}}\n")
    system.object(Source, "infra", lambda source: source.revision == commit)
    desired(system, "a", holds(system, "task.sh", OTHER))
    assert changed(system, before) == {"a"}


def test_what_a_repository_holds_and_we_do_not_read_is_said(system: System, remote: Server) -> None:
    repository = Repository(remote.folder)
    repository.commit({**PLAIN, ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
    begin(system, f"name: infra, url: '{url(remote, 'tasks.git')}'")
    source = is_read(system)
    assert [(condition.type, "git-lfs" in condition.message) for condition in source.conditions] == [("NotSupported", True)]
    assert git(repository.bare, "rev-parse", "main") == source.revision


# ── plan ──


def planned(system: System, **args: object) -> Offer:
    answer = system.request("source.plan", "infra", **args)
    assert answer.ok, answer.message
    return msgspec.json.decode(answer.message, type=Offer)


def test_a_plan_of_a_branch_says_what_then_really_happens_and_writes_nothing(system: System, remote: Server) -> None:
    infra, lib = two(remote, url(remote, "lib.git"))
    begin(system, f"name: infra, url: '{url(remote, 'infra.git')}', path: taskset.yaml")
    is_read(system)
    before, bundles = revs(system), sorted(os.listdir(system.data / "bundles"))
    assert planned(system) == Offer(revision=system.object(Source, "infra").revision)
    entries = set_of(url(remote, "lib.git"), "9s").replace("    own: {ref: {path: tasks/own}}\n", "    bad: {ref: {path: nowhere}}\n")
    commit = infra.commit({"taskset.yaml": entries}, branch="feature")
    for args in ({"branch": "feature"}, {"ref": "feature"}, {"ref": commit}, {"local_path": str(infra.work)}):
        offer = planned(system, **args)
        assert [task.id for task in offer.tasks] == ["infra/report"] and offer.removed == ("infra/own",) and not offer.held
        assert [error.id for error in offer.errors] == ["infra/bad"] and offer.revision == ("" if "local_path" in args else commit)
    assert revs(system) == before and sorted(os.listdir(system.data / "bundles")) == bundles
    git(infra.work, "push", "-q", "-f", "origin", "feature:main")
    assert system.request("source.sync", "infra").ok
    assert desired(system, "infra/report", lambda task: task.revision == commit or task.digest).digest == offer.tasks[0].digest
    wait_for(lambda: ids(system) == {"infra/report", "infra/set-dir", "infra/bad"}, "own is gone")
    assert not system.request("source.plan", "infra", branch="nowhere").ok
    assert "clone the repository" in system.request("source.plan", "infra", local_path="/nowhere").message
