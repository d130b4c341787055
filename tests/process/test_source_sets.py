"""TaskSets on disk, with a real store and a real source-controller: what is edited, broken, mended and worked on elsewhere."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.kinds import DesiredTask, Source
from dicode.process.clock import mono
from dicode.spec.plan import Offer

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="inotify, /proc")]

SOON = 10.0  # seconds: an event was heard, on a busy machine; less than `rescan` is in these tests
CONFIG = "sources:\n  - {name: infra, path: ./infra, rescan: 1h}\n"  # so that nothing but events can be the reason
TASK = "apiVersion: dicode/v1\nkind: Task\nname: X\ntrigger: {manual: true}\n"
SCRIPT = "#!/bin/sh\necho first\n"
ROOT = """\
apiVersion: dicode/v1
kind: TaskSet
metadata: {name: infra}
spec:
  entries:
    backend:
      ref: {path: backend}
    hello:
      ref: {path: tasks/hello}
      overrides: {timeout: 5s}
    twin:
      ref: {path: tasks/hello}
      overrides: {timeout: 7s}
    ping:
      inline: {name: Ping, trigger: {manual: true}, runtime: shell}
"""
BACKEND = """\
kind: TaskSet
spec:
  entries:
    deploy:
      ref: {path: deploy}
    sweep:
      ref: {path: sweep}
      overrides: {timeout: 30s}
"""
ALL = {"infra/backend/deploy", "infra/backend/sweep", "infra/hello", "infra/twin", "infra/ping"}


def write(path: Path, text: str) -> None:
    """As an editor saves: the whole new file in the place of the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new~")
    fresh.write_text(text)
    fresh.replace(path)


def task(folder: Path, script: str = SCRIPT, yaml: str = TASK) -> None:
    write(folder / "task.sh", script)
    write(folder / "task.yaml", yaml)


def lay_out(infra: Path) -> None:
    write(infra / "taskset.yaml", ROOT)
    write(infra / "ping.sh", SCRIPT)
    write(infra / "backend" / "taskset.yaml", BACKEND)
    for folder in ("backend/deploy", "backend/sweep", "tasks/hello"):
        task(infra / folder)


@pytest.fixture
def infra(system: System) -> Path:
    """A set of five tasks, read."""
    folder = system.home / "infra"
    lay_out(folder)
    system.write_config(CONFIG)
    system.start("store")
    system.start("source-controller")
    system.object(Source, "infra", lambda source: source.status == "ok")
    assert ids(system) == ALL
    return folder


def ids(system: System) -> set[str]:
    return {task.id for task in system.objects(DesiredTask).values()}


def desired(system: System, id: str, fact: Callable[[DesiredTask], object] = bool) -> DesiredTask:
    return system.object(DesiredTask, f"infra/infra/{id}", fact, SOON)


def revs(system: System) -> dict[str, int]:
    reader = system.reader()
    return {key: reader.rev(DesiredTask, key) for key in system.objects(DesiredTask)}


def changed(system: System, before: dict[str, int]) -> set[str]:
    after = revs(system)
    return {key.removeprefix("infra/infra/") for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def timeout_of(task: DesiredTask) -> int | None:
    return task.spec.timeout if task.spec is not None else None


# ── edits ──


def test_an_override_in_a_nested_set_changes_the_task_it_is_for_and_no_other(system: System, infra: Path) -> None:
    before = revs(system)
    write(infra / "backend" / "taskset.yaml", BACKEND.replace("30s", "31s"))
    desired(system, "backend/sweep", lambda task: timeout_of(task) == 31_000)
    assert changed(system, before) == {"backend/sweep"}
    assert "file changed: infra/backend/taskset.yaml\n" in system.said()


def test_defaults_of_a_set_change_its_own_tasks_and_not_those_of_inner_sets(system: System, infra: Path) -> None:
    before = revs(system)
    write(infra / "taskset.yaml", ROOT.replace("spec:\n", "spec:\n  defaults: {retry: {attempts: 2}}\n"))
    for id in ("hello", "twin", "ping"):
        desired(system, id, lambda task: task.spec is not None and task.spec.retry is not None)
    assert changed(system, before) == {"hello", "twin", "ping"}


def test_a_file_of_a_folder_that_two_entries_share_changes_both(system: System, infra: Path) -> None:
    first = {id: desired(system, id).digest for id in ("hello", "twin")}
    assert len(set(first.values())) == 2
    before = revs(system)
    write(infra / "tasks" / "hello" / "task.sh", "#!/bin/sh\necho second\n")
    for id, digest in first.items():
        desired(system, id, lambda task, digest=digest: task.digest != digest)
    assert changed(system, before) == {"hello", "twin"}
    assert system.said().count("file changed: infra/tasks/hello/task.sh\n") == 2


def test_the_file_of_an_inline_task_belongs_to_it(system: System, infra: Path) -> None:
    before, first = revs(system), desired(system, "ping").digest
    write(infra / "ping.sh", "#!/bin/sh\necho pong\n")
    desired(system, "ping", lambda task: task.digest != first)
    assert changed(system, before) == {"ping"}


def test_an_entry_that_is_added_is_there_and_one_that_is_taken_out_goes_after_a_second_look(system: System, infra: Path) -> None:
    task(infra / "tasks" / "new")
    before, since = revs(system), mono()
    write(
        infra / "taskset.yaml",
        ROOT.replace("    twin:\n      ref: {path: tasks/hello}\n      overrides: {timeout: 7s}\n", "    new:\n      ref: {path: tasks/new}\n"),
    )
    desired(system, "new", lambda task: task.digest)
    wait_for(lambda: ids(system) == ALL - {"infra/twin"} | {"infra/new"}, "twin is gone", SOON)
    assert mono() - since >= 1.0
    assert changed(system, before) == {"new", "twin"}
    write(infra / "tasks" / "new" / "task.sh", "#!/bin/sh\necho edited\n")
    wait_for(lambda: "file changed: infra/tasks/new/task.sh\n" in system.said(), "the new folder is listened to", SOON)


def test_moving_things_around_in_a_set_file_writes_nothing(system: System, infra: Path) -> None:
    before = revs(system)
    write(infra / "taskset.yaml", "# a comment\n" + ROOT.replace("{timeout: 5s}", "{timeout: 5000ms}"))
    assert system.request("source.sync", "infra").ok
    assert changed(system, before) == set()


def test_a_set_that_becomes_nested_in_a_folder_that_was_missing_is_found_when_it_appears(system: System, infra: Path) -> None:
    write(infra / "taskset.yaml", ROOT + "    late:\n      ref: {path: deep/er/late}\n")
    fault = desired(system, "late", lambda task: task.faults).faults[0]
    assert (fault.file, fault.line) == ("infra/taskset.yaml", 17)
    task(infra / "deep" / "er" / "late")
    desired(system, "late", lambda task: task.digest and not task.faults)


# ── faults ──


def test_an_entry_that_breaks_keeps_its_last_good_digest_and_its_neighbours_are_untouched(system: System, infra: Path) -> None:
    before, good = revs(system), desired(system, "hello").digest
    write(infra / "taskset.yaml", ROOT.replace("timeout: 5s", "timeuot: 5s"))
    broken = desired(system, "hello", lambda task: task.faults)
    assert broken.digest == good and changed(system, before) == {"hello"}
    assert str(broken.faults[0]).startswith("infra/taskset.yaml:10:19: unknown field 'timeuot'")
    write(infra / "taskset.yaml", ROOT)
    desired(system, "hello", lambda task: not task.faults and task.digest == good)
    assert changed(system, before) == {"hello"}


def test_a_nested_set_that_breaks_keeps_all_its_tasks_which_say_why(system: System, infra: Path) -> None:
    before = revs(system)
    write(infra / "backend" / "taskset.yaml", BACKEND + "  surprise: 1\n")
    for id in ("backend/deploy", "backend/sweep"):
        broken = desired(system, id, lambda task: task.faults)
        assert broken.digest and broken.faults[0].file == "infra/backend/taskset.yaml"
    assert changed(system, before) == {"backend/deploy", "backend/sweep"}
    write(infra / "backend" / "taskset.yaml", BACKEND)
    for id in ("backend/deploy", "backend/sweep"):
        desired(system, id, lambda task: not task.faults)


def test_a_broken_root_keeps_everything_and_the_source_says_where(system: System, infra: Path) -> None:
    before = revs(system)
    write(infra / "taskset.yaml", ROOT.replace("kind: TaskSet", "kind: TaksSet"))
    source = system.object(Source, "infra", lambda source: source.status == "stale", SOON)
    assert source.conditions[0].message.startswith("infra/taskset.yaml:2:1: ")
    (infra / "taskset.yaml").unlink()
    write(infra / "taskset.yaml", ROOT)
    system.object(Source, "infra", lambda source: source.status == "ok", SOON)
    assert changed(system, before) == set()


def test_a_task_folder_that_goes_is_a_fault_of_its_entry_until_it_is_back(system: System, infra: Path) -> None:
    good = desired(system, "backend/deploy").digest
    (infra / "backend" / "deploy").rename(infra.parent / "aside")
    assert desired(system, "backend/deploy", lambda task: task.faults).digest == good
    (infra.parent / "aside").rename(infra / "backend" / "deploy")
    desired(system, "backend/deploy", lambda task: not task.faults and task.digest == good)
    write(infra / "backend" / "deploy" / "task.sh", "#!/bin/sh\necho edited\n")
    desired(system, "backend/deploy", lambda task: task.digest != good)


def test_an_entry_that_never_was_good_goes_with_its_entry(system: System, infra: Path) -> None:
    write(infra / "taskset.yaml", ROOT + "    wrong:\n      ref: {path: ../../etc}\n")
    assert "outside the root" in desired(system, "wrong", lambda task: task.faults).faults[0].message
    write(infra / "taskset.yaml", ROOT)
    wait_for(lambda: ids(system) == ALL, "the placeholder is gone", SOON)


# ── roots ──


def test_inside_a_work_tree_refs_may_leave_the_path_and_without_one_they_may_not(system: System) -> None:
    infra = system.home / "code" / "infra"
    lay_out(infra)
    task(system.home / "code" / "shared" / "tool")
    write(infra / "taskset.yaml", ROOT + "    tool:\n      ref: {path: ../shared/tool}\n")
    system.write_config(CONFIG.replace("./infra", "./code/infra"))
    system.start("store")
    system.start("source-controller")
    system.object(Source, "infra", lambda source: source.status == "ok")
    assert "outside the root" in desired(system, "tool").faults[0].message
    (system.home / "code" / ".git").mkdir()
    assert system.request("source.sync", "infra").ok
    good = desired(system, "tool", lambda task: task.digest and not task.faults)
    write(system.home / "code" / "shared" / "tool" / "task.sh", "#!/bin/sh\necho edited\n")
    desired(system, "tool", lambda task: task.digest != good.digest)


def test_a_set_may_have_any_name_and_a_plain_source_may_become_one(system: System) -> None:
    infra = system.home / "infra"
    lay_out(infra)
    (infra / "taskset.yaml").rename(infra / "prod.yaml")
    system.write_config("sources:\n  - {name: infra, path: ./infra/prod.yaml, rescan: 1h}\n  - {name: plain, path: ./tasks, rescan: 1h}\n")
    system.write_task("one", TASK, task_sh=SCRIPT)
    system.start("store")
    system.start("source-controller")
    for name in ("infra", "plain"):
        system.object(Source, name, lambda source: source.status == "ok")
    assert ids(system) == ALL | {"one"}
    write(infra / "prod.yaml", ROOT.replace("5s", "6s"))
    desired(system, "hello", lambda task: timeout_of(task) == 6_000)
    write(system.tasks / "taskset.yaml", "kind: TaskSet\nspec: {entries: {uno: {ref: {path: one}}}}\n")
    system.object(DesiredTask, "plain/plain/uno", lambda task: task.digest, SOON)


def test_after_a_restart_nothing_that_is_as_it_was_is_written_again(system: System) -> None:
    infra = system.home / "infra"
    lay_out(infra)
    system.write_config(CONFIG)
    system.start("store")
    keeper = system.start("source-controller")
    first = system.object(Source, "infra", lambda source: source.status == "ok")
    before = revs(system)
    system.kill(keeper, "source-controller", signal.SIGKILL)
    write(infra / "backend" / "taskset.yaml", BACKEND.replace("30s", "31s"))
    system.object(Source, "infra", lambda source: source.status == "ok" and source.epoch != first.epoch)
    desired(system, "backend/sweep", lambda task: timeout_of(task) == 31_000)
    assert changed(system, before) == {"backend/sweep"}


# ── dev mode ──


def test_dev_mode_reads_a_working_copy_until_it_is_turned_off_also_over_a_restart(system: System) -> None:
    infra = system.home / "infra"
    lay_out(infra)
    task(infra / "tasks" / "local")
    write(
        infra / "taskset.yaml",
        ROOT.replace("hello:\n      ref: {path: tasks/hello}", "hello:\n      ref: {path: tasks/hello, dev_ref: {path: tasks/local}}"),
    )
    system.write_config(CONFIG)
    system.start("store")
    keeper = system.start("source-controller")
    source = system.object(Source, "infra", lambda source: source.status == "ok")
    copy = system.home / "copy"
    shutil.copytree(infra, copy)
    write(copy / "tasks" / "local" / "task.sh", "#!/bin/sh\necho under work\n")
    before, good = revs(system), desired(system, "hello").digest

    answer = system.request("source.dev", "infra", local_path=str(copy))
    assert answer.ok, answer.message
    assert system.object(Source, "infra").dev == str(copy)
    assert changed(system, before) == {"hello"}
    worked_on = desired(system, "hello", lambda task: task.digest != good)

    write(copy / "tasks" / "local" / "task.sh", "#!/bin/sh\necho more work\n")
    edited = desired(system, "hello", lambda task: task.digest != worked_on.digest)
    system.kill(keeper, "source-controller", signal.SIGKILL)
    again = system.object(Source, "infra", lambda now: now.status == "ok" and now.epoch != source.epoch)
    assert again.dev == str(copy) and desired(system, "hello").digest == edited.digest

    assert system.request("source.dev", "infra", disable=True).ok
    assert system.object(Source, "infra").dev == ""
    assert desired(system, "hello", lambda task: task.digest == good)
    assert changed(system, before) == {"hello"}


def test_a_working_copy_that_is_not_there_is_refused_and_one_that_vanishes_keeps_what_was(system: System, infra: Path) -> None:
    answer = system.request("source.dev", "infra", local_path=str(system.home / "nowhere"))
    assert not answer.ok and "clone the repository there" in answer.message
    assert not system.request("source.dev", "infra", branch="main").ok
    copy = system.home / "copy"
    shutil.copytree(infra, copy)
    before = revs(system)
    assert system.request("source.dev", "infra", local_path=str(copy)).ok
    copy.rename(system.home / "aside")
    system.object(Source, "infra", lambda source: source.status == "stale", SOON)
    (system.home / "aside").rename(copy)
    system.object(Source, "infra", lambda source: source.status == "ok", SOON)
    assert changed(system, before) == set()
    shutil.rmtree(copy)
    system.object(Source, "infra", lambda source: source.status == "stale", SOON)
    assert ids(system) == ALL and all(task.digest for task in system.objects(DesiredTask).values())
    assert system.request("source.dev", "infra", disable=True).ok
    system.object(Source, "infra", lambda source: source.status == "ok", SOON)
    wait_for(lambda: not any(task.faults for task in system.objects(DesiredTask).values()), "all are well", SOON)


def test_a_plain_folder_has_a_dev_mode_too(system: System) -> None:
    system.write_config("sources:\n  - {name: infra, path: ./tasks, rescan: 1h}\n")
    system.write_task("one", TASK, task_sh=SCRIPT)
    system.write_task("two", TASK, task_sh=SCRIPT)
    system.start("store")
    system.start("source-controller")
    system.object(Source, "infra", lambda source: source.status == "ok")
    copy = system.home / "copy"
    shutil.copytree(system.tasks, copy)
    write(copy / "two" / "task.sh", "#!/bin/sh\necho under work\n")
    reader = system.reader()
    before = {key: reader.rev(DesiredTask, key) for key in ("infra/one", "infra/two")}
    assert system.request("source.dev", "infra", local_path=str(copy)).ok
    assert reader.rev(DesiredTask, "infra/one") == before["infra/one"] and reader.rev(DesiredTask, "infra/two") != before["infra/two"]


# ── plan ──


def planned(system: System, **args: object) -> Offer:
    answer = system.request("source.plan", "infra", **args)
    assert answer.ok, answer.message
    return msgspec.json.decode(answer.message, type=Offer)


def test_a_plan_of_a_working_copy_of_a_set_and_one_of_a_plain_folder(system: System, infra: Path) -> None:
    assert planned(system) == Offer()
    copy = system.home / "copy"
    shutil.copytree(infra, copy)
    write(copy / "backend" / "taskset.yaml", BACKEND.replace("30s", "31s"))
    write(copy / "ping.sh", "#!/bin/sh\nexit 1\n")
    before = revs(system)
    assert [task.id for task in planned(system, local_path=str(copy)).tasks] == ["infra/backend/sweep", "infra/ping"]
    assert changed(system, before) == set()
    (copy / "taskset.yaml").unlink()
    offer = planned(system, local_path=str(copy))
    assert sorted(task.id for task in offer.tasks) == ["backend/deploy", "backend/sweep", "tasks/hello"]
    assert set(offer.removed) == ALL and offer.held


def test_an_offer_too_big_for_a_message_lies_in_a_file(system: System, infra: Path) -> None:
    copy = system.home / "copy"
    shutil.copytree(infra, copy)
    entries = "".join(f"    t{number}: {{ref: {{path: tasks/hello}}, overrides: {{description: {'x' * 600}}}}}\n" for number in range(1000))
    write(copy / "taskset.yaml", ROOT + entries)
    offer = planned(system, local_path=str(copy))
    assert not offer.tasks and (path := Path(offer.file)).stat().st_mode & 0o777 == 0o600
    assert len(msgspec.json.decode(path.read_bytes(), type=Offer).tasks) == 1000
