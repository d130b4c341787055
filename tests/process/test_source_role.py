"""Files → desired, with a real store and a real source-controller: every way to save, to lose and to break something."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.system import DICODE, System
from tests.support.waiting import wait_for

from dicode.messages.commands import Write, Written
from dicode.messages.kinds import Answer, Config, DesiredTask, Event, Request, Source
from dicode.process.blobs import Bundles
from dicode.process.clock import mono
from dicode.process.mirror import append, put

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="inotify, /proc")]

YAML = "name: X\ntrigger: {manual: true}\n"
SCRIPT = "#!/bin/sh\necho first\n"
SOON = 10.0  # seconds: an event was heard, on a busy machine; less than `rescan` is in these tests
FAR = "sources:\n  - {name: tasks, path: ./tasks, rescan: 1h}\n"  # so that nothing but events can be the reason


def begin(system: System, *, config: str = FAR, tasks: int = 1) -> subprocess.Popen[bytes]:
    """A store and a source-controller that has read everything. Gives the latter's keeper."""
    system.write_config(config)
    for number in range(tasks):
        system.write_task(f"t{number}", YAML, task_sh=SCRIPT)
    system.start("store")
    keeper = system.start("source-controller")
    is_read(system)
    return keeper


def is_read(system: System, name: str = "tasks") -> Source:
    return system.object(Source, name, lambda source: source.status == "ok")


def desired(system: System, id: str, fact: Callable[[DesiredTask], object] = bool, deadline: float = SOON) -> DesiredTask:
    return system.object(DesiredTask, f"tasks/{id}", fact, deadline)


def bundled(system: System, digest: str) -> dict[str, bytes]:
    return {path: content for path, (_, content) in Bundles(system.data / "bundles", system.data / "trees").files(digest).items()}


def holds(system: System, path: str, content: bytes) -> Callable[[DesiredTask], bool]:
    """Does the bundle of the desired digest hold this file?"""
    return lambda task: bool(task.digest) and not task.faults and bundled(system, task.digest).get(path) == content


def passed(seconds: float) -> None:
    """Let time pass that is itself what is tested."""
    since = mono()
    wait_for(lambda: mono() - since >= seconds, f"{seconds:g} s have passed", seconds + 5)


# ── every way to save ──


def plain(path: Path, text: str) -> None:
    path.write_text(text)


def truncate_then_write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.flush()
        passed(0.03)
        file.write(text)


def in_pieces(path: Path, text: str) -> None:
    with path.open("r+") as file:
        for letter in text:
            file.write(letter)
            file.flush()
        file.truncate()


def atomic(path: Path, text: str) -> None:
    fresh = path.with_name("fresh.tmp")
    fresh.write_text(text)
    fresh.replace(path)


def like_vim(path: Path, text: str) -> None:
    swap, probe, backup = path.with_name(f".{path.name}.swp"), path.with_name("4913"), path.with_name(f"{path.name}~")
    swap.write_text("swap")
    probe.touch()
    probe.unlink()
    path.rename(backup)
    path.write_text(text)
    backup.unlink()
    swap.unlink()


def like_vim_with_backupcopy(path: Path, text: str) -> None:
    backup = path.with_name(f"{path.name}~")
    shutil.copy2(path, backup)
    truncate_then_write(path, text)
    backup.unlink()


def like_emacs(path: Path, text: str) -> None:
    lock, itself, backup = path.with_name(f".#{path.name}"), path.with_name(f"#{path.name}#"), path.with_name(f"{path.name}~")
    lock.symlink_to("ada@host.4711:1700000000")
    itself.write_text(text)
    path.rename(backup)
    path.write_text(text)
    itself.unlink()
    lock.unlink()


def from_outside(path: Path, text: str) -> None:
    fresh = path.parents[2] / "outside"
    fresh.write_text(text)
    subprocess.run(["mv", str(fresh), str(path)], check=True)


def by_cp(path: Path, text: str) -> None:
    fresh = path.parents[2] / "outside"
    fresh.write_text(text)
    subprocess.run(["cp", str(fresh), str(path)], check=True)


def by_sed(path: Path, text: str) -> None:
    subprocess.run(["sed", "-i", f"2s/.*/{text.splitlines()[1]}/", str(path)], check=True)


def delete_then_write(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def by_dd_in_place(path: Path, text: str) -> None:
    subprocess.run(["dd", f"of={path}", "status=none"], input=text.encode(), check=True)


SAVES = (
    plain,
    truncate_then_write,
    in_pieces,
    atomic,
    like_vim,
    like_vim_with_backupcopy,
    like_emacs,
    from_outside,
    by_cp,
    by_sed,
    delete_then_write,
    by_dd_in_place,
)


def test_whatever_an_editor_does_the_saved_bytes_are_desired_and_nothing_half_ever_was(system: System) -> None:
    begin(system)
    path = system.tasks / "t0" / "task.sh"
    meant = {SCRIPT.encode()}
    for number, save in enumerate(SAVES * 2):
        text = f"#!/bin/sh\necho {save.__name__} {number}\n"
        meant.add(text.encode())
        save(path, text)
        desired(system, "t0", holds(system, "task.sh", text.encode()))
    kept = Bundles(system.data / "bundles", system.data / "trees")
    assert {kept.files(digest)["task.sh"][1] for digest in kept.digests()} <= meant
    assert "file changed: tasks/t0/task.sh\n" in system.said()
    assert set(system.objects(DesiredTask)) == {"tasks/t0"}


def test_the_exec_bit_and_a_file_in_a_folder_in_a_folder_count(system: System) -> None:
    begin(system)
    first = desired(system, "t0").digest
    (system.tasks / "t0" / "task.sh").chmod(0o644)
    second = desired(system, "t0", lambda task: task.digest != first).digest
    deep = system.tasks / "t0" / "lib" / "deep"
    deep.mkdir(parents=True)
    (deep / "x.txt").write_text("1")
    desired(system, "t0", holds(system, "lib/deep/x.txt", b"1"))
    (deep / "x.txt").write_text("2")
    desired(system, "t0", holds(system, "lib/deep/x.txt", b"2"))
    shutil.rmtree(system.tasks / "t0" / "lib")
    desired(system, "t0", lambda task: task.digest == second)


# ── new tasks, moved tasks, deleted tasks ──


def test_a_task_made_slowly_file_by_file_is_found_and_its_later_edits_too(system: System) -> None:
    begin(system)
    for folder in (system.tasks / "new", system.tasks / "group" / "deep" / "new"):
        id = str(folder.relative_to(system.tasks))
        folder.mkdir(parents=True)
        passed(0.4)
        (folder / "task.yaml").write_text(YAML)
        desired(system, id, lambda task: task.faults)
        (folder / "task.sh").write_text(SCRIPT)
        desired(system, id, lambda task: task.digest and not task.faults)
        (folder / "task.sh").write_text("#!/bin/sh\necho edited\n")
        desired(system, id, holds(system, "task.sh", b"#!/bin/sh\necho edited\n"))


def test_a_prepared_tree_moved_in_is_found_whole_and_edits_deep_in_it_are_seen(system: System) -> None:
    begin(system)
    prepared = system.home / "prepared"
    for id in ("one", "group/two", "group/deep/three"):
        folder = prepared / id
        folder.mkdir(parents=True)
        (folder / "task.yaml").write_text(YAML)
        (folder / "task.sh").write_text(SCRIPT)
    prepared.rename(system.tasks / "moved")
    for id in ("one", "group/two", "group/deep/three"):
        desired(system, f"moved/{id}", lambda task: task.digest)
    (system.tasks / "moved" / "group" / "deep" / "three" / "task.sh").write_text("#!/bin/sh\n# edited\n")
    desired(system, "moved/group/deep/three", holds(system, "task.sh", b"#!/bin/sh\n# edited\n"))
    (system.tasks / "moved").rename(system.tasks / "again")
    desired(system, "again/one", lambda task: task.digest)
    wait_for(lambda: "tasks/moved/one" not in system.objects(DesiredTask), "the old names are gone", SOON)
    (system.tasks / "again" / "group" / "two" / "task.sh").write_text("#!/bin/sh\n# edited\n")
    desired(system, "again/group/two", holds(system, "task.sh", b"#!/bin/sh\n# edited\n"))


def test_a_deleted_task_goes_after_a_second_look_and_its_neighbours_stay(system: System) -> None:
    begin(system, tasks=3)
    since = mono()
    shutil.rmtree(system.tasks / "t1")
    wait_for(lambda: set(system.objects(DesiredTask)) == {"tasks/t0", "tasks/t2"}, "t1 is gone", SOON)
    assert mono() - since >= 1.0
    system.object(Source, "tasks", lambda source: source.tasks == 2)


def test_a_folder_that_is_back_within_the_second_was_never_gone(system: System) -> None:
    begin(system, tasks=3)
    before = system.reader().rev(DesiredTask, "tasks/t1")
    (system.tasks / "t1").rename(system.home / "aside")
    passed(0.3)
    (system.home / "aside").rename(system.tasks / "t1")
    assert system.request("source.sync", "tasks").ok
    passed(1.2)
    assert system.request("source.sync", "tasks").ok
    assert system.reader().rev(DesiredTask, "tasks/t1") == before


def test_a_file_under_include_belongs_to_every_task_that_names_it(system: System) -> None:
    (system.tasks / "lib").mkdir()
    (system.tasks / "lib" / "common.sh").write_text("one")
    for id in ("a", "b"):
        system.write_task(id, YAML + "include: [../lib/common.sh]\n", task_sh=SCRIPT)
    begin(system)
    (system.tasks / "lib" / "common.sh").write_text("two")
    for id in ("a", "b"):
        desired(system, id, holds(system, "../lib/common.sh", b"two"))
    (system.tasks / "lib" / "common.sh").unlink()
    desired(system, "a", lambda task: task.faults and task.digest)
    atomic(system.tasks / "lib" / "common.sh", "three")
    desired(system, "a", holds(system, "../lib/common.sh", b"three"))


# ── saves that are not whole, or not quiet ──


def test_a_save_of_three_files_with_gaps_is_never_bundled_in_parts(system: System) -> None:
    begin(system, config=FAR.replace("rescan", "settle: 400ms, rescan"))
    folder, chance = system.tasks / "t0", random.Random(7)
    names = ("task.sh", "a.txt", "b.txt")
    for generation in range(8):
        for name in names:
            atomic(folder / name, f"#!/bin/sh\n# {generation}\n")
            passed(chance.uniform(0, 0.06))
        desired(system, "t0", holds(system, "b.txt", f"#!/bin/sh\n# {generation}\n".encode()))
    kept = Bundles(system.data / "bundles", system.data / "trees")
    for digest in kept.digests() - {desired_first(kept)}:
        files = kept.files(digest)
        assert len({files[name][1] for name in names}) == 1


def desired_first(kept: Bundles) -> str:
    """The digest from before the first save."""
    return next(digest for digest in kept.digests() if "a.txt" not in kept.files(digest))


@pytest.mark.parametrize("ignored", [True, False], ids=["ignored", "counted"])
def test_a_file_that_is_written_all_the_time_does_not_starve_a_reload(system: System, ignored: bool) -> None:
    system.write_task("t0", YAML + ('ignore: ["*.log"]\n' if ignored else ""), task_sh=SCRIPT)
    (system.tasks / "t0" / "run.log").touch()
    begin(system, tasks=0)
    noise = subprocess.Popen(["sh", "-c", f"while :; do echo noise >> {system.tasks}/t0/run.log; sleep 0.02; done"], start_new_session=True)
    try:
        for number in range(5):
            text = f"#!/bin/sh\necho {number}\n"
            atomic(system.tasks / "t0" / "task.sh", text)
            desired(system, "t0", holds(system, "task.sh", text.encode()))
    finally:
        os.killpg(noise.pid, signal.SIGKILL)
        noise.wait()


def test_while_git_holds_its_index_nothing_is_read(system: System) -> None:
    subprocess.run(["git", "init", "-q", str(system.home)], check=True)
    begin(system)
    before = desired(system, "t0").digest
    lock = system.home / ".git" / "index.lock"
    lock.touch()
    (system.tasks / "t0" / "task.sh").write_text("#!/bin/sh\n# half a checkout\n")
    passed(0.5)
    assert desired(system, "t0").digest == before
    (system.tasks / "t0" / "task.sh").write_text("#!/bin/sh\n# whole\n")
    lock.unlink()
    desired(system, "t0", holds(system, "task.sh", b"#!/bin/sh\n# whole\n"))
    kept = Bundles(system.data / "bundles", system.data / "trees")
    assert b"#!/bin/sh\n# half a checkout\n" not in {kept.files(digest)["task.sh"][1] for digest in kept.digests()}


# ── broken things ──


def test_a_broken_save_keeps_the_last_good_digest_and_carries_file_and_line(system: System) -> None:
    begin(system)
    good = desired(system, "t0")
    (system.tasks / "t0" / "task.yaml").write_text("name: X\ntigger: {manual: true}\n")
    broken = desired(system, "t0", lambda task: task.faults)
    assert (broken.digest, broken.spec) == (good.digest, good.spec)
    assert (broken.faults[0].file, broken.faults[0].line) == ("tasks/t0/task.yaml", 2)
    (system.tasks / "t0" / "task.yaml").write_text(YAML)
    assert desired(system, "t0", lambda task: not task.faults).digest == good.digest


def test_two_hundred_bad_tasks_a_fifo_and_an_endless_link_do_not_stand_in_the_way_of_a_good_one(system: System) -> None:
    for number in range(200):
        system.write_task(f"bad{number}", f"name: {number}\ntigger: x\n", task_sh=SCRIPT)
    for id in ("fifo", "zero", "loop", "binary"):
        system.write_task(id, YAML, task_sh=SCRIPT)
    os.mkfifo(system.tasks / "fifo" / "pipe")
    (system.tasks / "zero" / "endless").symlink_to("/dev/zero")
    (system.tasks / "loop" / "round").symlink_to("round")
    (system.tasks / "binary" / "task.yaml").write_bytes(b"\xff\xfe\x00name")
    os.mkdir(os.fsencode(system.tasks) + b"/not\xffutf8")
    with open(os.fsencode(system.tasks) + b"/not\xffutf8/task.yaml", "w") as file:
        file.write(YAML)
    begin(system)
    assert desired(system, "t0").digest
    tasks = system.objects(DesiredTask)
    assert len(tasks) == 206
    assert all(task.faults for key, task in tasks.items() if key != "tasks/t0")
    (system.tasks / "t0" / "task.sh").write_text("#!/bin/sh\n# good\n")
    desired(system, "t0", holds(system, "task.sh", b"#!/bin/sh\n# good\n"))


def test_a_lost_bundle_is_made_again(system: System) -> None:
    begin(system, config=FAR.replace("1h", "500ms"))
    digest = desired(system, "t0").digest
    bundle = system.data / "bundles" / f"{digest}.tar"
    bundle.unlink()
    wait_for(bundle.exists, "the bundle is back", SOON)


# ── the watches ──


def test_what_happened_while_the_event_queue_ran_over_is_seen_all_the_same(system: System) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    keeper = begin(system)
    role = system.pid(keeper, "source-controller")
    os.kill(role, signal.SIGSTOP)
    try:
        for number in range(limit // 2 + 1000):
            (system.tasks / "t0" / f"{number}~").touch()
        system.write_task("late", YAML, task_sh=SCRIPT)
        (system.tasks / "t0" / "task.sh").write_text("#!/bin/sh\n# late\n")
    finally:
        os.kill(role, signal.SIGCONT)
    desired(system, "late", lambda task: task.digest)
    desired(system, "t0", holds(system, "task.sh", b"#!/bin/sh\n# late\n"))


def test_too_few_watches_are_a_condition_and_changes_are_found_by_looking(system: System) -> None:
    few = "echo 8 > /proc/sys/user/max_inotify_watches && exec"
    if subprocess.run(["unshare", "-Ur", "sh", "-c", f"{few} true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    system.write_config(FAR.replace("1h", "1m"))
    for number in range(30):
        system.write_task(f"t{number}", YAML, task_sh=SCRIPT)
    system.start("store")
    system.start_program(["unshare", "-Ur", "sh", "-c", f"{few} {DICODE} source-controller"])
    source = is_read(system)
    assert [condition.type for condition in source.conditions] == ["WatchLimit"]
    for number in (0, 29):
        (system.tasks / f"t{number}" / "task.sh").write_text("#!/bin/sh\n# found\n")
    for number in (0, 29):
        desired(system, f"t{number}", holds(system, "task.sh", b"#!/bin/sh\n# found\n"))


# ── the root ──


def test_a_root_that_is_gone_takes_no_task_with_it_and_is_heard_again_when_it_is_back(system: System) -> None:
    begin(system, tasks=8)
    system.tasks.rename(system.home / "away")
    gone = system.object(Source, "tasks", lambda source: source.status == "stale", SOON)
    assert gone.conditions[0].reason == "NotFound" and str(system.tasks) in gone.conditions[0].message
    passed(1.5)
    assert len(system.objects(DesiredTask)) == 8
    (system.home / "away").rename(system.tasks)
    is_read(system)
    (system.tasks / "t3" / "task.sh").write_text("#!/bin/sh\n# back\n")
    desired(system, "t3", holds(system, "task.sh", b"#!/bin/sh\n# back\n"))
    shutil.copytree(system.tasks, system.home / "copy")
    shutil.rmtree(system.tasks)
    system.object(Source, "tasks", lambda source: source.status == "stale", SOON)
    (system.home / "copy").rename(system.tasks)
    is_read(system)
    assert len(system.objects(DesiredTask)) == 8
    (system.tasks / "t5" / "task.sh").write_text("#!/bin/sh\n# again\n")
    desired(system, "t5", holds(system, "task.sh", b"#!/bin/sh\n# again\n"))


def test_a_root_that_is_a_link_follows_the_link(system: System) -> None:
    for release in ("one", "two"):
        folder = system.home / release / "t0"
        folder.mkdir(parents=True)
        (folder / "task.yaml").write_text(YAML)
        (folder / "task.sh").write_text(f"#!/bin/sh\n# {release}\n")
    current = system.home / "current"
    current.symlink_to("one")
    begin(system, config=FAR.replace("./tasks", "./current"), tasks=0)
    desired(system, "t0", holds(system, "task.sh", b"#!/bin/sh\n# one\n"))
    fresh = system.home / "fresh"
    fresh.symlink_to("two")
    fresh.replace(current)
    desired(system, "t0", holds(system, "task.sh", b"#!/bin/sh\n# two\n"))
    (system.home / "two" / "t0" / "task.sh").write_text("#!/bin/sh\n# edited\n")
    desired(system, "t0", holds(system, "task.sh", b"#!/bin/sh\n# edited\n"))


def test_a_source_that_lost_most_of_its_tasks_is_held_until_somebody_confirms(system: System) -> None:
    begin(system, tasks=10)
    for number in range(9):
        shutil.rmtree(system.tasks / f"t{number}")
    held = system.object(Source, "tasks", lambda source: source.status == "held" and "9 of 10" in source.conditions[0].message, SOON)
    assert held.conditions[0].type == "Held"
    passed(1.5)
    assert len(system.objects(DesiredTask)) == 10
    assert system.request("source.confirm", "tasks") == Answer(True, "confirmed: 9 tasks are removed", at=answered_at(system))
    wait_for(lambda: set(system.objects(DesiredTask)) == {"tasks/t9"}, "they are removed", SOON)
    is_read(system)


def test_a_confirmation_that_is_asked_for_while_nobody_reads_waits_for_the_first_reading(system: System) -> None:
    keeper = begin(system, tasks=10)
    system.stop(keeper)
    for number in range(9):
        shutil.rmtree(system.tasks / f"t{number}")
    token = os.urandom(6).hex()
    system.ask(Write(ops=(put(Request(token=token, verb="source.confirm", target="tasks", who="test"), token),)), Written)
    system.start("source-controller")
    answered = system.object(Request, token, lambda request: request.answer)
    assert answered.answer is not None and answered.answer.message == "confirmed: 9 tasks are removed"
    wait_for(lambda: set(system.objects(DesiredTask)) == {"tasks/t9"}, "they are removed", SOON)


def answered_at(system: System) -> int:
    return max(request.answer.at for request in system.objects(Request).values() if request.answer)


# ── dicode.yaml ──


def test_dicode_yaml_is_applied_live_and_a_broken_edit_changes_nothing(system: System) -> None:
    begin(system)
    more = system.home / "more" / "x"
    more.mkdir(parents=True)
    (more / "task.yaml").write_text(YAML)
    (more / "task.sh").write_text(SCRIPT)
    system.write_config(FAR + "  - {name: more, path: ./more}\n")
    system.object(DesiredTask, "more/x", lambda task: task.digest and task.order == 1, SOON)
    system.write_config("sources:\n  - {nmae: more}\n")
    kept = system.object(Config, "dicode.yaml", lambda config: config.conditions, SOON)
    assert len(kept.sources) == 2 and kept.conditions[0].type == "Valid"
    system.hears("dicode.yaml kept as it was: dicode.yaml:5:")
    system.write_config("sources:\n  - {name: more, path: ./more}\n")
    wait_for(lambda: set(system.objects(DesiredTask)) == {"more/x"} and set(system.objects(Source)) == {"more"}, "tasks is gone", SOON)
    system.object(DesiredTask, "more/x", lambda task: task.order == 0, SOON)
    system.hears("source/tasks removed with its 1 tasks")


def test_a_source_that_cannot_be_read_is_unavailable_and_its_neighbours_work(system: System) -> None:
    (system.home / "set").mkdir()
    (system.home / "set" / "taskset.yaml").write_text("kind: TaskSet\n")
    begin(system, config=FAR + "  - {name: set, path: ./set}\n  - {name: far, url: 'http://127.0.0.1:1/x.git'}\n")
    for name, condition in (("set", "Readable"), ("far", "Reachable")):
        source = system.object(Source, name, lambda source: source.status == "unavailable", SOON)
        assert [each.type for each in source.conditions] == [condition]


def test_without_a_good_dicode_yaml_the_start_is_refused_with_its_place(system: System) -> None:
    system.write_config("sources:\n  - {nmae: x, path: y}\n")
    system.start("store")
    keeper = system.start("source-controller")
    assert wait_for(lambda: keeper.poll(), "it ends") == 78
    assert "dicode.yaml:5:" in system.said() and "nmae" in system.said()


def test_a_path_given_to_up_is_a_source_of_that_run_only(system: System) -> None:
    system.write_task("t0", YAML, task_sh=SCRIPT)
    system.write_config("sources: []\n")
    system.start("store")
    first = system.start("source-controller", DICODE_UP_PATHS=str(system.tasks))
    assert is_read(system).origin == "up"
    system.stop(first)
    system.start("source-controller")
    wait_for(lambda: not system.objects(Source) and not system.objects(DesiredTask), "it is gone with its tasks", SOON)


# ── what people ask for ──


def test_sources_are_added_removed_and_survive_a_restart(system: System) -> None:
    keeper = begin(system)
    extra = system.home / "extra" / "x"
    extra.mkdir(parents=True)
    (extra / "task.yaml").write_text(YAML)
    (extra / "task.sh").write_text(SCRIPT)
    assert system.request("source.add", "extra", type="local", path=str(system.home / "extra")).ok
    system.object(DesiredTask, "extra/x", lambda task: task.digest, SOON)
    system.stop(keeper)
    system.start("source-controller")
    is_read(system, "extra")
    assert "dicode.yaml:" in system.request("source.remove", "tasks").message
    assert "did you mean 'extra'" in system.request("source.sync", "extr").message
    assert system.request("source.remove", "extra").ok
    wait_for(lambda: set(system.objects(Source)) == {"tasks"} and set(system.objects(DesiredTask)) == {"tasks/t0"}, "extra is gone", SOON)
    assert {event.reason for event in system.reader().events(about="source/extra")} >= {"Added", "Removed"}


def test_a_suspended_source_stays_as_it_is_until_it_is_resumed_also_over_a_restart(system: System) -> None:
    keeper = begin(system)
    before = desired(system, "t0").digest
    assert system.request("source.suspend", "tasks").ok
    (system.tasks / "t0" / "task.sh").write_text("#!/bin/sh\n# later\n")
    system.stop(keeper)
    system.start("source-controller")
    assert not system.request("source.sync", "tasks").ok
    assert desired(system, "t0").digest == before
    assert system.request("source.resume", "tasks").ok
    desired(system, "t0", holds(system, "task.sh", b"#!/bin/sh\n# later\n"))


def test_a_sync_is_answered_when_what_was_there_is_written(system: System) -> None:
    begin(system)
    for number in range(5):
        text = f"#!/bin/sh\n# {number}\n"
        (system.tasks / "t0" / "task.sh").write_text(text)
        assert system.request("source.sync", "tasks").ok
        assert holds(system, "task.sh", text.encode())(system.objects(DesiredTask)["tasks/t0"])


# ── deaths ──


def test_killed_at_any_moment_it_comes_back_to_what_the_files_say(system: System) -> None:
    keeper = begin(system, tasks=40)
    chance = random.Random(11)
    for round in range(4):
        pid = system.pid(keeper, "source-controller")
        for number in range(40):
            (system.tasks / f"t{number}" / "task.sh").write_text(f"#!/bin/sh\n# {round}\n")
        passed(chance.uniform(0, 0.08))
        os.kill(pid, signal.SIGKILL)
        system.replaced(keeper, "source-controller", pid)
    for number in range(40):
        desired(system, f"t{number}", holds(system, "task.sh", b"#!/bin/sh\n# 3\n"))
    is_read(system)
    assert not [name for name in os.listdir(system.data / "bundles") if name.startswith(".")]


def test_a_restart_with_nothing_changed_writes_no_task(system: System) -> None:
    keeper = begin(system, tasks=20)
    (system.tasks / "t7" / "task.yaml").write_text("name: [")
    desired(system, "t7", lambda task: task.faults)
    revs = {key: system.reader().rev(DesiredTask, key) for key in system.objects(DesiredTask)}
    epoch = is_read(system).epoch
    pid = system.kill(keeper, "source-controller")
    system.replaced(keeper, "source-controller", pid)
    system.object(Source, "tasks", lambda source: source.status == "ok" and source.epoch != epoch)
    assert {key: system.reader().rev(DesiredTask, key) for key in system.objects(DesiredTask)} == revs


def test_a_store_that_was_away_is_told_what_it_missed(system: System) -> None:
    system.write_config(FAR)
    system.write_task("t0", YAML, task_sh=SCRIPT)
    store = system.start("store")
    system.start("source-controller")
    is_read(system)
    system.stop(store)
    (system.tasks / "t0" / "task.sh").write_text("#!/bin/sh\n# meanwhile\n")
    passed(0.5)
    system.start("store")
    desired(system, "t0", holds(system, "task.sh", b"#!/bin/sh\n# meanwhile\n"), 20)


def test_a_store_that_lost_its_objects_is_given_them_again(system: System) -> None:
    begin(system, config=FAR.replace("1h", "500ms"), tasks=3)
    from dicode.process.mirror import delete

    gone = (
        delete(DesiredTask, "tasks/t1"),
        delete(Source, "tasks"),
        delete(Config, "dicode.yaml"),
        append(Event(object="x", reason="x", message="x", at=1)),
    )
    system.ask(Write(ops=gone), Written)
    desired(system, "t1", lambda task: task.digest)
    is_read(system)
    assert system.object(Config, "dicode.yaml").sources
