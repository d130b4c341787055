"""What a ref leads to on disk, and the files of inline tasks: nothing outside the root is ever read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dicode.process.finding import work_tree
from dicode.process.tree import read_inline, read_wanted
from dicode.process.ways import look
from dicode.spec.trees import Look, NothingSeen, SetSeen, TaskSeen, Want
from dicode.spec.yaml import CONFIG

SET = "kind: TaskSet\n"


def put(path: Path, content: str | bytes = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def why(seen: Look) -> str:
    assert isinstance(seen, NothingSeen), seen
    return seen.why


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "secret", "root:x:0:0")
    top = tmp_path / "root"
    put(top / "taskset.yaml", SET)
    put(top / "n/taskset.yaml", SET)
    put(top / "n/task.yaml", "name: T\n")
    put(top / "t/task.yaml", "name: T\n")
    put(top / "empty/x", "")
    return top


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("", SetSeen("taskset.yaml", SET.encode())),
        ("taskset.yaml", SetSeen("taskset.yaml", SET.encode())),
        ("n", SetSeen("n/taskset.yaml", SET.encode())),
        ("n/task.yaml", TaskSeen("n")),
        ("t", TaskSeen("t")),
        ("t/task.yaml", TaskSeen("t")),
        ("t/../n/./taskset.yaml", SetSeen("n/taskset.yaml", SET.encode())),
        ("empty/x", SetSeen("empty/x", b"")),
    ],
)
def test_a_folder_means_its_set_else_its_task_and_a_file_itself(root: Path, path: str, seen: Look) -> None:
    assert look(root, path) == seen


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gone", "there is no such file or folder"),
        ("gone/deeper", "there is no such file or folder"),
        ("t/task.yaml/x", "a file is in its place"),
        ("empty", "there is neither a taskset.yaml nor a task.yaml in it"),
        ("..", "outside"),
        ("t/../../secret", "outside"),
        ("x" * 300, "cannot be read: "),
    ],
)
def test_what_leads_nowhere_says_why(root: Path, path: str, said: str) -> None:
    assert said in why(look(root, path))


def test_links_are_followed_inside_and_the_place_is_where_it_really_stands(root: Path) -> None:
    (root / "a").symlink_to("n")
    (root / "b").symlink_to("empty/../a/taskset.yaml")
    (root / "n/up").symlink_to("../t")
    (root / "absolute").symlink_to(root / "t")
    assert look(root, "a") == look(root, "b") == look(root, "n")
    assert look(root, "a/up") == look(root, "absolute") == TaskSeen("t")


def test_the_root_may_be_a_link_itself(root: Path) -> None:
    (root.parent / "link").symlink_to("root")
    (root / "absolute").symlink_to(root / "t")
    assert look(root.parent / "link", "absolute") == TaskSeen("t")


@pytest.mark.parametrize("target", ["/etc", "../secret", "../../../../../../etc/passwd", "n/../../secret", "/", ".."])
def test_no_link_leads_outside(root: Path, target: str) -> None:
    (root / "out").symlink_to(target)
    (root / "o/taskset.yaml").parent.mkdir()
    (root / "o/taskset.yaml").symlink_to(f"../{target}" if not target.startswith("/") else target)
    assert why(look(root, "out")) == "leads outside the root"
    assert why(look(root, "o")) == "leads outside the root"


def test_links_that_go_round_come_to_an_end(root: Path) -> None:
    (root / "x").symlink_to("y")
    (root / "y").symlink_to("x")
    (root / "z").symlink_to("z/z/z")
    for name in ("x", "z"):
        assert "circle" in why(look(root, name))


def test_a_long_way_of_links_is_followed_to_40(root: Path) -> None:
    for number in range(41):
        (root / f"l{number}").symlink_to(f"l{number - 1}" if number else "t")
    assert look(root, "l39") == TaskSeen("t")
    assert "circle" in why(look(root, "l40"))


def test_only_plain_files_are_read(root: Path) -> None:
    os.mkfifo(root / "pipe")
    os.mkfifo(root / "empty/taskset.yaml")
    (root / "d/taskset.yaml").mkdir(parents=True)
    (root / "zero").symlink_to("/dev/zero")
    assert why(look(root, "pipe")) == "pipe is a fifo: it must be a file"
    assert why(look(root, "empty")) == "taskset.yaml is a fifo: it must be a file"
    assert why(look(root, "d")) == "taskset.yaml is a folder: it must be a file"
    assert why(look(root, "zero")) == "leads outside the root"


def test_of_a_large_file_only_one_byte_more_than_allowed_is_read(root: Path) -> None:
    for size, read in (
        (CONFIG.bytes - 1, CONFIG.bytes - 1),
        (CONFIG.bytes, CONFIG.bytes),
        (CONFIG.bytes + 1, CONFIG.bytes + 1),
        (1 << 30, CONFIG.bytes + 1),
    ):
        with open(root / "large.yaml", "wb") as file:
            file.truncate(size)
        seen = look(root, "large.yaml")
        assert isinstance(seen, SetSeen)
        assert len(seen.content) == read


def test_looking_leaves_nothing_open(root: Path) -> None:
    (root / "out").symlink_to("n/../../secret")
    before = len(os.listdir("/proc/self/fd"))
    for path in ("n", "t/task.yaml", "gone", "out", "n/../t", "t/task.yaml/x"):
        look(root, path)
    assert len(os.listdir("/proc/self/fd")) == before


# ── inline tasks ──


def inline(root: Path, key: str = "k", **more: tuple[str, ...]) -> list[str]:
    folder = read_inline(root, key, root=root, **more)  # type: ignore[arg-type]
    assert folder.faults == ()
    return sorted(file.path for file in folder.files)


def test_an_inline_task_owns_what_is_called_by_its_key_or_else_task(root: Path) -> None:
    for name in ("k.py", "k.json", "kk.py", "k", "task.py", "task.json", "k.pyc", "k.d/x.py", "n/k.py"):
        put(root / name)
    assert inline(root) == ["k.json", "k.py"]
    assert inline(root, "other") == ["task.json", "task.py"]


def test_neither_the_set_nor_a_task_yaml_beside_it_is_ever_its_own(root: Path) -> None:
    put(root / "task.yaml")
    put(root / "taskset.py")
    put(root / "task.sh")
    assert inline(root, "taskset") == ["taskset.py"]
    assert inline(root, "task") == inline(root, "x") == ["task.sh"]


def test_what_is_ignored_is_not_its_own_and_then_task_is(root: Path) -> None:
    put(root / "k.log")
    put(root / "k.tmp")
    put(root / "task.py")
    put(root / ".gitignore", "*.log\n")
    assert inline(root, ignore=("*.tmp",)) == ["task.py"]


def test_includes_of_an_inline_task_are_relative_to_its_set(root: Path) -> None:
    put(root / "n/k.py")
    put(root / "n/lib/a.py")
    put(root / "shared/b.py")
    folder = read_wanted(root, Want("n", "k", ("lib", "../shared/b.py")))
    assert (folder.dir, sorted(file.path for file in folder.files)) == (str(root / "n"), ["../shared/b.py", "k.py", "lib/a.py"])


@pytest.mark.parametrize("include", ["../secret", "../../etc", "gone", "out"])
def test_an_include_that_leads_outside_is_said_with_its_words(root: Path, include: str) -> None:
    put(root / "k.py")
    (root / "out").symlink_to("/etc/hostname")
    (fault,) = read_inline(root, "k", root=root, include=(include,)).faults
    assert fault.message.startswith(f"include {include}: ")


def test_the_wanted_folder_of_a_task_is_all_of_it(root: Path) -> None:
    put(root / "t/x/y.txt")
    assert sorted(file.path for file in read_wanted(root, Want("t")).files) == ["task.yaml", "x/y.txt"]


def test_the_work_tree_is_the_nearest_one_around(tmp_path: Path) -> None:
    put(tmp_path / "r/.git/HEAD")
    put(tmp_path / "r/sub/.git", "gitdir: elsewhere\n")
    put(tmp_path / "r/sub/a/x")
    assert work_tree(str(tmp_path / "r/sub/a")) == str(tmp_path / "r/sub")
    assert work_tree(str(tmp_path / "r")) == str(tmp_path / "r")
    assert work_tree(str(tmp_path / "none")) == str(tmp_path / "none")
