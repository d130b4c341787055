"""The same tree on disk and in a commit is the same: the tasks that are found, what belongs to each, and so the digest."""

from __future__ import annotations

import os
import posixpath
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.raw_repository import RawRepository

from dicode.git.commits import Commit, NoFolder, differences, find, look
from dicode.git.committed import merged, still_held
from dicode.git.gather import read
from dicode.git.packs import Database
from dicode.git.questions import FoundIn, told
from dicode.process.finding import find_tasks, ignores_for
from dicode.process.tree import read_folder, read_wanted
from dicode.process.ways import look as look_on_disk
from dicode.spec.digest import digest_of, manifest
from dicode.spec.folder import Folder
from dicode.spec.trees import Finding, NothingSeen, SetSeen, TaskSeen, Want

YAML = "name: T\ntrigger: {manual: true}\n"


@pytest.fixture
def repository(tmp_path: Path) -> RawRepository:
    return RawRepository(tmp_path / "bare")


def opened(repository: RawRepository, tree: bytes, **how: bool) -> Commit:
    return Commit(Database(str(repository.folder)), tree, **how)


def commit_of(repository: RawRepository, **files: str | bytes) -> Commit:
    return opened(repository, repository.files({path.replace("__", "/"): content for path, content in files.items()}))


def folder_of(commit: Commit, path: str) -> Folder:
    done = read(commit, Want(path), f"r@1234567:{path}")
    assert done.folder is not None
    return done.folder


def fault(folder: Folder) -> str:
    assert len(folder.faults) == 1, folder.faults
    return str(folder.faults[0])


# ── the same tree has the same digest (H3) ──

NAMES = ["a", "b.log", "keep.log", "sub", "lib", "ü", "u\u0308", "with blank", "node_modules", "x.pyc", "build", ".env", "task.py", "index.html", "t"]
PATTERNS = ["*.log", "!keep.log", "/sub", "sub/", "build/", "t/a", "**/a", "lib/*", "!lib/a", ".gitignore", "# x", "ü", "a", "/t/sub", "?.log"]
TARGETS = ["a", "sub", "../a", "../../a", "lib/a", "sub/../a", "/etc/passwd", "..", ".", "task.py", "nowhere", "../lib/a", "../t/a", "keep.log"]
INCLUDES = [
    "../lib",
    "../lib/a",
    "../shared/sub",
    "a",
    "sub",
    "..",
    "../..",
    "../nowhere",
    "../../x",
    "../b.log",
    "/etc",
    "../lib/../lib/sub",
    "../.gitignore",
    "../a/",
]

paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)
ignore_files = st.lists(st.sampled_from(PATTERNS), max_size=3).map("\n".join)
contents = st.sampled_from(["", "x\n", "a\r\nb\r\n", "\ufeffbom", "long " * 500])
entries = st.one_of(
    st.tuples(paths, st.sampled_from(["-", "x"]), contents),
    st.tuples(paths, st.just("l"), st.sampled_from(TARGETS)),
    st.tuples(paths.map(posixpath.dirname).map(lambda folder: posixpath.join(folder, ".gitignore")), st.just("-"), ignore_files),
    st.tuples(paths.map(posixpath.dirname).map(lambda folder: posixpath.join(folder, ".dicodeignore")), st.just("-"), ignore_files),
    st.tuples(paths.map(lambda path: f"{path}/task.yaml"), st.just("-"), st.just(YAML)),
)
task_yamls = st.tuples(st.lists(st.sampled_from(INCLUDES), max_size=3), st.lists(st.sampled_from(PATTERNS), max_size=2)).map(
    lambda asked: f"{YAML}include: {list(asked[0])}\nignore: {list(asked[1])}\n"
)
trees = st.lists(entries, max_size=25)
whole_trees = st.tuples(trees, task_yamls, st.lists(entries.map(lambda each: (f"t/{each[0]}", *each[1:])), max_size=12)).map(
    lambda parts: [("t/task.yaml", "-", parts[1]), *parts[0], *parts[2]]
)


def lay_out(root: Path, tree: list[tuple[str, str, str]]) -> None:
    """What comes first stands; what would need to pass through a file or link is left out."""
    for path, kind, content in tree:
        place = root / path
        if os.path.lexists(place) or any(
            os.path.lexists(up) and (up.is_symlink() or not up.is_dir()) for up in place.parents if up.is_relative_to(root)
        ):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind == "l":
            place.symlink_to(content)
        else:
            place.write_bytes(content.encode())
            place.chmod(0o755 if kind == "x" else 0o644)


def digest(folder: Folder) -> str:
    return digest_of(manifest(b"{}", folder.files))


@settings(max_examples=200, deadline=None)
@given(whole_trees)
def test_the_same_tree_is_the_same_on_disk_and_committed(tree: list[tuple[str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root"
        root.mkdir()
        lay_out(root, tree)
        (root / "empty/folder").mkdir(parents=True, exist_ok=True) if not (root / "empty").exists() else None
        repository = RawRepository(Path(place) / "bare")
        commit = opened(repository, repository.folder_of(root))
        on_disk = {os.path.relpath(each.dir, root): each for each in find_tasks(root, _no_error)}
        committed = find(commit, "")
        assert committed.unreadable == []
        assert sorted(committed.tasks) == sorted(path for path in on_disk if path != ".")
        for path, each in on_disk.items():
            there = read_folder(each.dir, root=root, ignores=each.ignores)
            here = folder_of(commit, path)
            assert _faults(here, f"r@1234567:{path}") == _faults(there, each.dir)
            if not there.faults:
                assert sorted(here.files) == sorted(there.files)
                assert digest(here) == digest(there)


sets = st.lists(st.tuples(st.sampled_from(["k", "task", "k.l", "a"]), st.sampled_from(["py", "yaml", "log", "a/b", "d"]), st.sampled_from(["-", "x", "l"])), max_size=8).map(
    lambda files: [("taskset.yaml", "-", "kind: TaskSet"), *((f"{stem}.{rest}", kind, "a.py") for stem, rest, kind in files)]
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(
    sets,
    trees,
    st.lists(st.sampled_from(INCLUDES).map(lambda path: path.removeprefix("../")), max_size=2),
    st.lists(st.sampled_from(PATTERNS), max_size=2),
    ignore_files,
)
def test_inline_tasks_and_looks_are_the_same_too(
    own: list[tuple[str, str, str]], tree: list[tuple[str, str, str]], include: list[str], ignore: list[str], ignored: str
) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root"
        root.mkdir()
        lay_out(root, [(".gitignore", "-", ignored), *((f"sub/{path}", kind, content) for path, kind, content in own), *own, *tree])
        repository = RawRepository(Path(place) / "bare")
        commit = opened(repository, repository.folder_of(root))
        for path in ("", "sub"):
            for key in ("k", "k.l", "z"):
                want = Want(path, key, tuple(include), tuple(ignore))
                there, here = read_wanted(root, want), read(commit, want, f"r@1234567:{path}").folder
                assert here is not None
                assert _faults(here, f"r@1234567:{path}") == _faults(there, str(root / path))
                assert there.faults or sorted(here.files) == sorted(there.files)
        for path in sorted({path for path, *_ in tree} | {"", "sub", "sub/taskset.yaml", "t/../sub", "a/a", "..", "sub/../../root", "nowhere"}):
            assert look(commit, path) == look_on_disk(root, path), path


def _faults(folder: Folder, dir: str) -> list[tuple[str, str]]:
    told = [(str(each.file).removeprefix(dir), each.message.partition(": leaves the ")[0]) for each in folder.faults]
    return sorted(told)


def _no_error(error: OSError) -> None:
    raise AssertionError(error)


@settings(max_examples=150, deadline=None)
@given(trees, trees, st.booleans())
def test_what_differs_from_the_commit_before_leads_to_the_same_finding(
    before: list[tuple[str, str, str]], after: list[tuple[str, str, str]], on_top: bool
) -> None:
    with tempfile.TemporaryDirectory() as place:
        repository = RawRepository(Path(place) / "bare")
        commits = []
        for name, tree in (("1", before), ("2", before[: len(before) // 2] + after if on_top else after)):
            (Path(place) / name).mkdir()
            lay_out(Path(place) / name, tree)
            commits.append(opened(repository, repository.folder_of(Path(place) / name)))
        for root in ("", "sub", "a"):
            try:
                first, second = (merged(Finding(()), _told(find(commit, root)), root, "n") for commit in commits)
            except NoFolder:
                continue
            differing = _told(find(commits[1], root, commits[0]))
            assert merged(first, differing, root, "n") == second


@settings(max_examples=150, deadline=None)
@given(whole_trees, trees)
def test_what_is_taken_to_be_unchanged_is_unchanged(before: list[tuple[str, str, str]], more: list[tuple[str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        repository = RawRepository(Path(place) / "bare")
        commits = []
        for name, tree in (("1", before), ("2", [*before[:1], *more[:2], *before[1:], *more[2:]])):
            (Path(place) / name).mkdir()
            lay_out(Path(place) / name, tree)
            commits.append(opened(repository, repository.folder_of(Path(place) / name)))
        held = set()
        for want in [*map(Want, find(commits[0], "").tasks), Want("sub", "task"), Want("", "task", ("lib",)), Want("a", "b", (), ("*.log",))]:
            done = read(commits[0], want, "d")
            if not done.missing:
                held.add(want._replace(fingerprint=done.fingerprint, includes=done.includes))
        differing = differences(commits[1], commits[0])
        assert differing is not None
        for want in still_held(held, differing):
            assert read(commits[1], want, "d").folder is None
        assert still_held(held, []) == held


def _told(found: tuple[list[str], list[str], list[tuple[str, str]]]) -> FoundIn:
    tasks, gone, unreadable = found
    return FoundIn([*map(told, tasks)], [*map(told, gone)], [(told(path), told(why)) for path, why in unreadable])


def test_the_commit_git_itself_makes_and_packs_is_the_same_too(tmp_path: Path) -> None:
    work = tmp_path / "work"
    for number in range(30):
        folder = work / f"group/task{number}"
        folder.mkdir(parents=True)
        (folder / "task.yaml").write_text(f"name: T{number}\ntrigger: {{manual: true}}\n")
        (folder / "data.txt").write_text("".join(f"line {line} of all\n" for line in range(2000)) + f"{number}\n")  # git packs these as changes
        (folder / "run").write_text("#!/bin/sh\n")
        (folder / "run").chmod(0o755)
        (folder / "link").symlink_to("run")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*words: str) -> str:
        return subprocess.run(["git", "-c", "user.name=T", "-c", "user.email=t@example.org", *words], cwd=work, env=environment, check=True, capture_output=True, text=True).stdout  # fmt: skip

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "one")
    git("gc", "-q")
    assert not list((work / ".git/objects").glob("??/*"))
    assert any(
        line.split()[-1]
        for line in git("verify-pack", "-v", *map(str, (work / ".git/objects/pack").glob("*.idx"))).splitlines()
        if "chain length" in line
    )
    commit = Commit(Database(str(work / ".git")), bytes.fromhex(git("rev-parse", "HEAD^{tree}").strip()))
    found = find(commit, "group")
    assert len(found.tasks) == 30
    for path in found.tasks:
        assert sorted(folder_of(commit, path).files) == sorted(read_folder(work / path, root=work).files)


def test_the_root_of_the_repository_may_be_a_task(repository: RawRepository) -> None:
    commit = commit_of(repository, **{"task.yaml": YAML, "task.py": "x"})
    assert find(commit, "").tasks == [""]
    assert merged(Finding(()), _told(find(commit, "")), "", "infra").tasks[0][:2] == ("infra", "")
    assert [file.path for file in folder_of(commit, "").files] == ["task.yaml", "task.py"]


# ── fingerprints ──


def test_nothing_is_read_while_all_that_contributes_is_the_same(repository: RawRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, str | bytes] = {"g/t/task.yaml": f"{YAML}include: [../lib]\n", "g/lib/c.py": "1", "g/other": "1", ".gitignore": "*.log"}
    first = read(opened(repository, repository.files(files)), Want("g/t"), "d")
    assert first.includes == ("g/lib",)
    again = opened(repository, repository.files({**files, "g/other": "2", "new/task.yaml": YAML}))
    blobs: list[bytes] = []
    monkeypatch.setattr(Commit, "blob", lambda self, id, limit: blobs.append(id))
    done = read(again, Want("g/t", fingerprint=first.fingerprint, includes=first.includes), "d")
    assert done.folder is None and not done.missing and done.fingerprint == first.fingerprint
    assert blobs == []


@pytest.mark.parametrize(
    ("path", "content"),
    [("g/t/task.py", "x"), ("g/lib/c.py", "2"), (".gitignore", "*.txt"), ("g/.dicodeignore", ""), ("g/lib/new", ""), ("g/t/task.yaml", YAML)],
)
def test_whatever_contributes_changes_the_fingerprint(repository: RawRepository, path: str, content: str) -> None:
    files: dict[str, str | bytes] = {"g/t/task.yaml": f"{YAML}include: [../lib]\n", "g/lib/c.py": "1", ".gitignore": "*.log"}
    first = read(opened(repository, repository.files(files)), Want("g/t"), "d")
    done = read(
        opened(repository, repository.files({**files, path: content})), Want("g/t", fingerprint=first.fingerprint, includes=first.includes), "d"
    )
    assert done.folder is not None and done.fingerprint != first.fingerprint


def test_an_include_that_was_missing_is_read_when_it_comes(repository: RawRepository) -> None:
    files: dict[str, str | bytes] = {"t/task.yaml": f"{YAML}include: [../lib/c.py]\n"}
    first = read(opened(repository, repository.files(files)), Want("t"), "d")
    assert first.folder is not None
    assert fault(first.folder) == "d/task.yaml:3:11: include ../lib/c.py: No such file or directory"
    same = read(opened(repository, repository.files({**files, "x": ""})), Want("t", fingerprint=first.fingerprint, includes=first.includes), "d")
    assert same.folder is None
    done = read(
        opened(repository, repository.files({**files, "lib/c.py": ""})), Want("t", fingerprint=first.fingerprint, includes=first.includes), "d"
    )
    assert done.folder is not None and [file.path for file in done.folder.files] == ["task.yaml", "../lib/c.py"]


def test_a_task_that_is_gone_is_missing(repository: RawRepository) -> None:
    commit = commit_of(repository, a__x="", file="")
    for path in ("a", "gone", "a/gone", "file"):
        done = read(commit, Want(path), "d")
        assert done.missing and done.folder is None


# ── looking ──


def test_a_folder_means_its_taskset_else_its_task(repository: RawRepository) -> None:
    commit = commit_of(
        repository, **{"a/taskset.yaml": "kind: TaskSet", "a/task.yaml": YAML, "b/task.yaml": YAML, "c/x": "", "d.yaml": "kind: TaskSet"}
    )
    assert look(commit, "a") == SetSeen("a/taskset.yaml", b"kind: TaskSet")
    assert look(commit, "b") == TaskSeen("b")
    assert look(commit, "d.yaml") == SetSeen("d.yaml", b"kind: TaskSet")
    assert isinstance(look(commit, "c"), NothingSeen)
    assert isinstance(look(commit, "nowhere"), NothingSeen)
    assert isinstance(look(commit, "d.yaml/x"), NothingSeen)


def test_links_are_followed_inside_the_commit_only(repository: RawRepository) -> None:
    task = repository.files({"task.yaml": YAML})
    rows = [("120000", name, repository.blob(to)) for name, to in {"in": "deep/t", "out": "../x", "abs": "/etc", "loop": "loop", "up": "deep/../deep/t", "far": "in/../../deep/t"}.items()]  # fmt: skip
    commit = opened(repository, repository.tree([*rows, ("40000", "deep", repository.tree([("40000", "t", task)]))]))
    assert look(commit, "in") == look(commit, "up") == TaskSeen("deep/t")
    assert look(commit, "far") == TaskSeen("deep/t")  # as the kernel has it: `..` is where the link led
    for path in ("out", "abs", "../x"):
        assert look(commit, path) == NothingSeen("leads outside the root")
    assert look(commit, "loop") == NothingSeen("cannot be read: its links go round in a circle")


def test_ignore_files_count_from_the_root_of_the_repository(repository: RawRepository, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        ".gitignore": "*.log\n",
        "s/.dicodeignore": "draft\n",
        "s/draft/task.yaml": YAML,
        "s/t/task.yaml": YAML,
        "s/t/x.log": "",
    }
    commit = opened(repository, repository.files(files))
    assert find(commit, "s").tasks == ["s/t"]
    assert [file.path for file in folder_of(commit, "s/t").files] == ["task.yaml"]
    for path, content in files.items():
        (tmp_path / "w" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "w" / path).write_text(str(content))
    assert [each.id for each in find_tasks(tmp_path / "w/s", _no_error, ignores=ignores_for(tmp_path / "w/s", tmp_path / "w"))] == ["t"]
    shutil.rmtree(tmp_path / "w")


def test_only_what_a_change_can_touch_is_asked_for_again() -> None:
    held = {Want("g/a"), Want("g/b", includes=("lib/x",)), Want("h/c"), Want("")}
    assert still_held(held, ["g/a/task.py"]) == held - {Want("g/a"), Want("")}
    assert still_held(held, ["lib/x/deep/y"]) == held - {Want("g/b", includes=("lib/x",)), Want("")}
    assert still_held(held, ["lib"]) == held - {Want("g/b", includes=("lib/x",)), Want("")}
    assert still_held(held, ["g/.gitignore"]) == {Want("h/c")}
    assert still_held(held, [".dicodeignore"]) == set()
    assert still_held(held, ["g/ab"]) == held - {Want("")}
