"""Looking at folders by stat: which tasks there are, and whether one looks different."""

from __future__ import annotations

import math
import os
import subprocess
from pathlib import Path

import pytest

from dicode.process.blobs import Bundles
from dicode.process.finding import find_tasks
from dicode.source import snapshot
from dicode.source.reading import for_people, read_task, shown
from dicode.source.snapshot import Root, Walk, find_root, index_lock, way_to
from dicode.source.state import Known, Reading
from dicode.spec.ignore import Ignores

YAML = "name: X\ntrigger: {manual: true}\n"


def task(folder: Path, yaml: str = YAML) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.yaml").write_text(yaml)
    (folder / "task.sh").write_text("#!/bin/sh\n")
    return folder


def walked(root: Root, tasks: dict[str, Known] | None = None, start: str = "", heard: list[str] | None = None) -> Walk:
    walk = Walk(root, tasks or {}, lambda folder, inode: heard.append(folder) if heard is not None else None, start)
    while not walk.advance(0):
        pass
    return walk


def ids(walk: Walk) -> set[str]:
    return {glanced.id for glanced in walk.found.values()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return (tmp_path / "source").resolve() if (tmp_path / "source").mkdir() is None else tmp_path


def fingerprint(source: Path, id: str, known: Known | None = None) -> int:
    folder = str(source / id)
    return walked(find_root(str(source)), {folder: known} if known else {}).found[folder].fingerprint


# ── walks ──


def test_a_walk_finds_what_a_render_finds(source: Path) -> None:
    for id in ("a", "group/b", "group/deep/er/c", "ignored/d", "node_modules/e", "a/inner"):
        task(source / id)
    (source / ".gitignore").write_text("ignored/\n")
    (source / "empty").mkdir()
    (source / "link").symlink_to(source / "group")
    walk = walked(find_root(str(source)))
    assert ids(walk) == {found.id for found in find_tasks(source, lambda error: None)} == {"a", "group/b", "group/deep/er/c"}
    assert walk.complete and walk.groups == {str(source / id) for id in ("", "group", "group/deep", "group/deep/er", "empty")}


def test_every_folder_that_matters_is_announced_before_it_is_listed_and_no_other(source: Path) -> None:
    task(source / "a")
    (source / "a" / "lib" / "deep").mkdir(parents=True)
    for noise in ("a/.git/objects", "a/node_modules/x", ".venv/lib"):
        (source / noise).mkdir(parents=True)
    heard: list[str] = []
    walked(find_root(str(source)), heard=heard)
    assert heard == [str(source / id) for id in ("", "a", "a/lib", "a/lib/deep")]


def test_a_part_of_the_source_can_be_looked_at_alone(source: Path) -> None:
    for id in ("a", "group/b", "group/c"):
        task(source / id)
    root = find_root(str(source))
    assert ids(walked(root, start=str(source / "group"))) == {"group/b", "group/c"}
    assert ids(walked(root, start=str(source / "group" / "b"))) == {"group/b"}
    assert ids(walked(root, start=str(source / "gone"))) == set()
    assert not walked(root, start=str(source / "group")).complete


@pytest.mark.parametrize("start", ["task/inner", "ignored/x", "link/x", ".git/x"])
def test_a_part_that_belongs_to_no_source_holds_no_tasks(source: Path, start: str) -> None:
    task(source / "task")
    (source / ".gitignore").write_text("ignored/\n")
    task(source / "ignored" / "x")
    (source / "link").symlink_to(source / "ignored")
    task(source / "task" / "inner")
    task(source / ".git" / "x")
    assert walked(find_root(str(source)), start=str(source / start)).found == {}


def test_a_source_that_is_one_task_is_called_like_its_folder(source: Path) -> None:
    task(source)
    assert ids(walked(find_root(str(source)))) == {"source"}


def test_a_folder_that_cannot_be_listed_makes_the_reading_incomplete(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task(source / "a")
    task(source / "locked" / "b")
    scandir = os.scandir

    def refused(folder: str) -> object:
        if folder.endswith("locked"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)  # the tests may run as root, whom nothing is denied
    walk = walked(find_root(str(source)))
    assert ids(walk) == {"a"} and not walk.complete and walk.unreadable == {str(source / "locked"): "Permission denied"}


def test_a_root_that_vanishes_under_the_walk_makes_it_incomplete(source: Path) -> None:
    root = find_root(str(source))
    walk = Walk(root, {}, lambda folder, inode: source.rmdir() if source.exists() else None)
    assert walk.advance(math.inf)
    assert not walk.complete


def test_more_tasks_than_a_source_may_hold_make_the_reading_incomplete(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MAX_TASKS", 3)
    for id in "abc":
        task(source / id)
    assert walked(find_root(str(source))).complete
    task(source / "d")
    walk = walked(find_root(str(source)))
    assert len(walk.found) == 3 and not walk.complete


def test_a_name_that_is_not_utf8_becomes_an_id_that_can_be_told(source: Path) -> None:
    folder = os.fsencode(source) + b"/bad\xff"
    os.mkdir(folder)
    with open(folder + b"/task.yaml", "w") as file:
        file.write(YAML)
    assert ids(walked(find_root(str(source)))) == {"bad\\xff"}


# ── fingerprints ──


@pytest.mark.parametrize("change", ["content", "new file", "deleted", "exec bit", "replaced by the same", "deep", "link"])
def test_whatever_counts_changes_the_fingerprint(source: Path, change: str) -> None:
    folder = task(source / "a")
    (folder / "sub" / "sub").mkdir(parents=True)
    (folder / "sub" / "sub" / "data").write_text("1")
    (folder / "link").symlink_to("task.sh")
    before = fingerprint(source, "a")
    match change:
        case "content":
            (folder / "task.sh").write_text("#!/bin/bash\n")
        case "new file":
            (folder / "more").write_text("")
        case "deleted":
            (folder / "task.sh").unlink()
        case "exec bit":
            (folder / "task.sh").chmod(0o755)
        case "replaced by the same":
            (folder / "new").write_text("#!/bin/sh\n")
            (folder / "new").replace(folder / "task.sh")
        case "deep":
            (folder / "sub" / "sub" / "data").write_text("22")
        case "link":
            (folder / "link").unlink()
            (folder / "link").symlink_to("task.yaml")
    assert fingerprint(source, "a") != before


def test_noise_ignored_files_and_reading_do_not_change_the_fingerprint(source: Path) -> None:
    folder = task(source / "a")
    (folder / ".gitignore").write_text("*.log\n")
    known = Known("a", ignore=("out/",))
    before = fingerprint(source, "a", known)
    for noise in (".task.sh.swp", "task.sh~", "4913", "x.pyc", "run.log"):
        (folder / noise).write_text("noise")
    for place in ("__pycache__", "out"):
        (folder / place).mkdir()
        (folder / place / "x").write_text("noise")
    (folder / "task.sh").read_bytes()
    assert fingerprint(source, "a", known) == before


def test_a_change_in_an_include_changes_the_fingerprint_of_all_who_include_it(source: Path) -> None:
    (source / "lib" / "deep").mkdir(parents=True)
    known = {str(task(source / id)): Known(id, includes=(str(source / "lib"), str(source / "one.txt"))) for id in "ab"}
    root = find_root(str(source))

    def looks() -> list[int]:
        return [each.fingerprint for each in walked(root, known).found.values()]

    seen = [looks()]
    (source / "lib" / "deep" / "x.py").write_text("1")
    seen.append(looks())
    (source / "one.txt").write_text("1")
    seen.append(looks())
    assert all(before != after for one, other in zip(seen, seen[1:], strict=False) for before, after in zip(one, other, strict=True))
    assert looks() == seen[-1]


def test_of_a_folder_with_too_many_files_only_as_many_are_looked_at_as_a_task_may_hold(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MAX_FILES", 20)
    folder = task(source / "a")
    for number in range(100):
        (folder / f"f{number}").touch()
    stamps: list[tuple[object, ...]] = []
    snapshot._stamp(str(folder), "", Ignores(), stamps, lambda path, inode: None, 0)
    assert len(stamps) == 21


# ── roots ──


def test_the_root_is_the_real_folder_and_reaches_to_the_work_tree(tmp_path: Path) -> None:
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    (tmp_path / "repo" / "jobs" / "here").mkdir(parents=True)
    (tmp_path / "link").symlink_to("repo/jobs/here")
    root = find_root(str(tmp_path / "link"))
    assert (root.path, root.reach) == (str(tmp_path / "repo" / "jobs" / "here"), str(tmp_path / "repo"))
    assert find_root(str(tmp_path / "link"), str(tmp_path / "repo" / "jobs")).reach == str(tmp_path / "repo" / "jobs")
    assert index_lock(root.reach) == str(tmp_path / "repo" / ".git" / "index.lock")
    assert index_lock(str(tmp_path)) == ""


def test_the_lock_of_a_linked_work_tree_is_found(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path / "main"), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "init", "-q", str(tmp_path / "main")], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    subprocess.run([*git, "worktree", "add", "-q", str(tmp_path / "linked")], check=True, capture_output=True)
    assert index_lock(str(tmp_path / "linked")) == str(tmp_path / "main" / ".git" / "worktrees" / "linked" / "index.lock")


def test_a_missing_root_and_a_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        find_root(str(tmp_path / "none"))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        find_root(str(tmp_path / "file"))


def test_the_way_to_a_source_holds_every_link_and_the_first_name_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "releases" / "one").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/one")
    (tmp_path / "alias").symlink_to(tmp_path / "current")
    assert way_to(str(tmp_path / "alias")) == {str(tmp_path / name) for name in ("alias", "current", "releases/one")}
    assert way_to(str(tmp_path / "current" / "not" / "there")) == {str(tmp_path / "current"), str(tmp_path / "releases" / "one" / "not")}
    (tmp_path / "round").symlink_to("round")
    assert way_to(str(tmp_path / "round")) == {str(tmp_path / "round")}


def test_paths_are_shown_relative_to_the_working_directory_when_below_it() -> None:
    assert shown("/home/me/tasks/a", "/home/me") == "tasks/a"
    assert shown("/home/mellow/a", "/home/me") == "/home/mellow/a"
    assert shown("/home/a", "/") == "/home/a"


# ── reading ──


@pytest.fixture
def bundles(tmp_path: Path) -> Bundles:
    for name in ("bundles", "trees"):
        (tmp_path / name).mkdir()
    return Bundles(tmp_path / "bundles", tmp_path / "trees")


def read(source: Path, bundles: Bundles, known: Known | None = None, heard: list[str] | None = None) -> Reading:
    root = find_root(str(source))
    [(folder, glanced)] = walked(root, {str(source / "a"): known} if known else {}).found.items()
    return read_task(glanced, folder, root, known, lambda path, inode: heard.append(path) if heard is not None else None, bundles)


def test_what_is_read_is_bundled_before_it_is_told(source: Path, bundles: Bundles) -> None:
    task(source / "a")
    reading = read(source, bundles)
    assert reading.resolved is not None and reading.known is not None
    assert bundles.files(reading.resolved.digest)["task.sh"] == ("-", b"#!/bin/sh\n")
    assert reading.known.digest == reading.resolved.digest and not reading.unsettled
    assert reading.known.fingerprint == fingerprint(source, "a")


def test_the_files_that_differ_from_the_bundle_before_are_named(source: Path, bundles: Bundles) -> None:
    folder = task(source / "a")
    first = read(source, bundles)
    assert first.changed == ("task.sh", "task.yaml")
    (folder / "task.sh").write_text("#!/bin/sh\necho 2\n")
    (folder / "lib.sh").write_text("x")
    (folder / "task.yaml").touch()
    assert read(source, bundles, first.known).changed == ("lib.sh", "task.sh")


def test_a_broken_task_gives_faults_and_remembers_the_digest_before(source: Path, bundles: Bundles) -> None:
    folder = task(source / "a")
    first = read(source, bundles)
    (folder / "task.yaml").write_text("nam: X\n")
    broken = read(source, bundles, first.known)
    assert broken.resolved is None and broken.known is not None and first.known is not None
    assert (broken.known.digest, broken.known.faulty) == (first.known.digest, True)
    told = for_people(broken, str(source))
    assert told.faults[0].file == "a/task.yaml" and told.dir == str(folder)


def test_includes_are_learned_and_watched_even_while_they_are_missing(source: Path, bundles: Bundles) -> None:
    (source / "lib").mkdir()
    task(source / "a", YAML + "include: [../lib/common.sh, ../../outside]\n")
    heard: list[str] = []
    reading = read(source, bundles, heard=heard)
    assert reading.known is not None and reading.known.includes == (str(source / "lib" / "common.sh"),)
    assert str(source / "lib") in heard


def test_a_folder_that_moves_under_every_reading_is_unsettled(source: Path, bundles: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = task(source / "a")
    original, count = snapshot._stamp, 0

    def restless(*args: object) -> int:
        nonlocal count
        count += 1
        (folder / "task.sh").write_text(f"#!/bin/sh\n# {count}\n")
        return original(*args)  # type: ignore[arg-type]

    root = find_root(str(source))
    [(path, glanced)] = walked(root).found.items()
    monkeypatch.setattr(snapshot, "_stamp", restless)
    reading = read_task(glanced, path, root, None, lambda path, inode: None, bundles)
    assert reading.unsettled and reading.known is not None and reading.known.fingerprint is None


def test_a_bundle_that_cannot_be_written_is_our_failure_not_the_tasks(source: Path, bundles: Bundles, tmp_path: Path) -> None:
    task(source / "a")
    (tmp_path / "bundles").rmdir()
    reading = read(source, bundles)
    assert reading.failed and not reading.faults


def test_a_folder_whose_task_yaml_went_away_is_no_task(source: Path, bundles: Bundles) -> None:
    folder = task(source / "a")
    root = find_root(str(source))
    [(path, glanced)] = walked(root).found.items()
    (folder / "task.yaml").unlink()
    assert read_task(glanced, path, root, None, lambda path, inode: None, bundles).known is None


def test_our_own_data_folder_is_no_part_of_a_source_that_it_lies_in(tmp_path: Path) -> None:
    task(tmp_path / "mine")
    ours = task(tmp_path / ".data" / "trees" / "d").parents[1]
    heard: list[str] = []
    walk = walked(find_root(str(tmp_path), apart=str(ours)), heard=heard)
    assert ids(walk) == {"mine"} and walk.complete
    assert str(ours) not in heard
    assert not walked(find_root(str(tmp_path), apart=str(ours)), start=str(ours / "trees")).found
