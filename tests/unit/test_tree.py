"""Task folders on disk: what counts, what is refused, and that nothing outside is ever read."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from dicode.process.finding import Found, find_tasks, ignores_for
from dicode.process.tree import read_folder
from dicode.spec.folder import MAX_BYTES, MAX_DEPTH, MAX_FILES, Folder
from dicode.spec.resolve import Resolved, resolve_folder

YAML = "name: T\ntrigger: {manual: true}\n"


def write(root: Path, **files: str) -> None:
    for name, content in files.items():
        put(root / name.replace("__", "/"), content)


def put(path: Path, content: str | bytes = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def task(tmp_path: Path) -> Path:
    put(tmp_path / "t/task.yaml", YAML)
    put(tmp_path / "t/task.py", "pass\n")
    return tmp_path / "t"


def paths(folder: Folder) -> list[str]:
    assert folder.faults == ()
    return sorted(file.path for file in folder.files)


def fault(folder: Folder) -> str:
    assert len(folder.faults) == 1, folder.faults
    return str(folder.faults[0])


def found(root: Path) -> dict[str, Found]:
    return {each.id: each for each in find_tasks(root, _no_error)}


def _no_error(error: OSError) -> None:
    raise AssertionError(error)


# ── finding ──


def test_tasks_are_found_at_any_depth_and_not_inside_a_task(tmp_path: Path) -> None:
    for name in (
        "b/task.yaml",
        "a/task.yaml",
        "a/inner/task.yaml",
        "group/sub/c/task.yaml",
        "empty/x.txt",
        "node_modules/n/task.yaml",
        ".git/h/task.yaml",
    ):
        put(tmp_path / name)
    assert list(found(tmp_path)) == ["a", "b", "group/sub/c"]
    assert found(tmp_path)["group/sub/c"].dir == str(tmp_path / "group/sub/c")


def test_a_folder_that_is_ignored_holds_no_tasks(tmp_path: Path) -> None:
    for name in ("old/a/task.yaml", "new/a/task.yaml", "new/.dicodeignore", "new/draft/task.yaml"):
        put(tmp_path / name, "draft\n" if name.endswith("ignore") else YAML)
    put(tmp_path / ".gitignore", "old/\n")
    assert list(found(tmp_path)) == ["new/a"]


def test_a_root_that_is_a_task_is_one_task_called_like_the_folder(task: Path) -> None:
    assert list(found(task)) == ["t"]


def test_links_to_folders_are_not_followed(tmp_path: Path, task: Path) -> None:
    (tmp_path / "again").symlink_to("t")
    (tmp_path / "loop").symlink_to(".")
    assert list(found(tmp_path)) == ["t"]


def test_a_missing_root_is_an_error_and_not_an_empty_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(find_tasks(tmp_path / "gone", _no_error))


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "locked/u/task.yaml", YAML)
    real = os.scandir

    def scandir(path: str) -> object:  # root may read everything, so chmod would not do
        if path == str(tmp_path / "locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    errors: list[OSError] = []
    assert [each.id for each in find_tasks(tmp_path, errors.append)] == ["t"]
    assert [error.filename for error in errors] == [str(tmp_path / "locked")]


def test_a_task_yaml_that_is_no_file_is_still_a_task(tmp_path: Path) -> None:
    (tmp_path / "d/task.yaml").mkdir(parents=True)
    (tmp_path / "f").mkdir()
    os.mkfifo(tmp_path / "f/task.yaml")
    (tmp_path / "z").mkdir()
    (tmp_path / "z/task.yaml").symlink_to("/dev/zero")
    assert list(found(tmp_path)) == ["d", "f", "z"]
    assert "task.yaml is a folder: it must be a plain file" in fault(read_folder(tmp_path / "d"))
    assert "task.yaml is a fifo" in fault(read_folder(tmp_path / "f"))
    assert "task.yaml is a link" in fault(read_folder(tmp_path / "z"))


# ── reading ──


def test_all_files_of_the_folder_belong(task: Path) -> None:
    write(task, sub__helper="x", data="", **{".env": "1"})
    (task / "data").chmod(0o755)
    folder = read_folder(task)
    assert paths(folder) == [".env", "data", "sub/helper", "task.py", "task.yaml"]
    assert {file.path: file.kind for file in folder.files}["data"] == "x"
    assert folder.find("task.py") == ("task.py", "-", b"pass\n")


def test_only_the_owners_bit_makes_a_file_executable(task: Path) -> None:
    (task / "task.py").chmod(0o611)
    found_file = read_folder(task).find("task.py")
    assert found_file is not None and found_file.kind == "-"


def test_what_is_ignored_is_not_read_but_the_ignore_files_are(tmp_path: Path, task: Path) -> None:
    put(tmp_path / ".gitignore", "*.log\n/t/build\n.gitignore\n")
    put(task / ".dicodeignore", "!keep.log\ncache/\n")
    put(task / ".gitignore", "")
    for name in ("out.log", "keep.log", "build/x", "cache/x", "x.pyc", "__pycache__/y", "sub/build/z", "sub/.gitignore", "sub/no"):
        put(task / name, "no\n.gitignore\n" if name.endswith("ignore") else "")
    expected = [".dicodeignore", ".gitignore", "keep.log", "sub/build/z", "task.py", "task.yaml"]
    assert paths(read_folder(task, root=tmp_path)) == expected
    assert paths(read_folder(task, ignores=found(tmp_path)["t"].ignores)) == expected
    assert paths(read_folder(task, ignores=ignores_for(task, tmp_path))) == expected


def test_ignore_of_the_task_has_the_last_word(task: Path) -> None:
    put(task / "task.yaml", YAML + "ignore: ['*.tmp', '!x.pyc']\n")
    put(task / "a.tmp")
    put(task / "x.pyc")
    assert paths(read_folder(task)) == ["task.py", "task.yaml", "x.pyc"]


def test_links_inside_belong_and_all_others_are_faults(task: Path) -> None:
    put(task / "sub/deep/x")
    for name, target in {
        "alias.py": "task.py",
        "sub/deep/up": "../../task.py",
        "folder": "sub",
        "dangling": "gone",
        "thrice": "folder/deep/x",
    }.items():
        (task / name).symlink_to(target)
    folder = read_folder(task)
    assert paths(folder) == ["alias.py", "dangling", "folder", "sub/deep/up", "sub/deep/x", "task.py", "task.yaml", "thrice"]
    assert folder.find("sub/deep/up") == ("sub/deep/up", "l", b"../../task.py")


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside", "sub/../../outside", "/", "..", "up/../outside", "self"])
def test_a_link_that_leads_out_is_named_and_not_read(tmp_path: Path, task: Path, target: str) -> None:
    put(tmp_path / "outside", "canary")
    put(task / "sub/x")
    (task / "up").symlink_to(".")
    (task / "self").symlink_to(target)
    folder = read_folder(task, root=tmp_path)
    assert fault(folder).startswith(f"{task}/self:1:1: self: the link to ")
    assert all(b"canary" not in file.content for file in folder.files)


def test_a_link_through_a_link_cannot_escape(task: Path) -> None:
    put(task / "p/q/x")
    (task / "p/q/top").symlink_to("../..")
    (task / "p/q/out").symlink_to("top/../secret")
    assert "p/q/out" in fault(read_folder(task))


def test_fifos_and_sockets_are_faults_and_block_nothing(task: Path) -> None:
    os.mkfifo(task / "pipe")
    here = os.getcwd()
    os.chdir(task)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("sock")
            messages = sorted(each.message for each in read_folder(task).faults)
    finally:
        os.chdir(here)
    assert messages == [
        "pipe is a fifo: only files, folders and links can belong to a task",
        "sock is a socket: only files, folders and links can belong to a task",
    ]


@pytest.mark.parametrize(
    ("name", "words"), [(b"\xff", "not UTF-8"), (b"a\nb", "control characters"), (b"\x1b[31m", "control characters"), (b"\x7f", "control")]
)
def test_a_name_that_cannot_be_written_down_is_a_fault(task: Path, name: bytes, words: str) -> None:
    put(Path(os.fsdecode(os.fsencode(task) + b"/" + name)))
    text = fault(read_folder(task))
    assert words in text
    assert text.isprintable()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_hard_link_to_a_file_of_somebody_else_is_refused(tmp_path: Path, task: Path) -> None:
    secret = put(tmp_path / "secret", "canary")
    os.chown(secret, 12345, 12345)
    os.link(secret, task / "mine")
    os.link(put(tmp_path / "own"), task / "fine")
    folder = read_folder(task)
    assert "mine is a hard link to a file of another user" in fault(folder)
    assert all(file.content != b"canary" for file in folder.files)


def test_a_missing_folder_is_a_fault(tmp_path: Path) -> None:
    assert "No such file" in fault(read_folder(tmp_path / "gone"))


def test_a_file_that_grows_while_it_is_read_is_named(task: Path) -> None:
    growing = task / "growing"
    growing.write_bytes(b"")
    ended = threading.Event()

    def grow() -> None:
        with growing.open("ab", buffering=0) as file:
            while not ended.is_set() and file.tell() < 8_000_000:
                file.write(b"x" * 64)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        folder = read_folder(task)
    finally:
        ended.set()
        writer.join()
    assert folder.faults == ()
    assert folder.moved in ((), ("growing",))
    assert read_folder(task).moved == ()


def test_a_task_folder_that_became_a_link_is_not_read(tmp_path: Path, task: Path) -> None:
    put(tmp_path / "elsewhere/task.yaml", YAML)
    (tmp_path / "swapped").symlink_to("elsewhere")
    assert read_folder(tmp_path / "swapped", root=tmp_path).faults
    assert paths(read_folder(tmp_path / "swapped")) == ["task.yaml"]


# ── limits ──


def test_the_limit_of_files(task: Path) -> None:
    for number in range(MAX_FILES - 3):
        put(task / f"d/{number}")
    assert len(paths(read_folder(task))) == MAX_FILES - 1
    put(task / "d/a")
    assert len(paths(read_folder(task))) == MAX_FILES
    put(task / "d/b")
    assert "more than 2,000 files" in fault(read_folder(task))


def test_the_limit_of_bytes(task: Path) -> None:
    room = MAX_BYTES - len(YAML) - len("pass\n")
    with (task / "big").open("wb") as file:
        file.truncate(room - 1)
    assert paths(read_folder(task))
    os.truncate(task / "big", room)
    assert paths(read_folder(task))
    os.truncate(task / "big", room + 1)
    assert "more than 16 MiB" in fault(read_folder(task))
    os.truncate(task / "big", 1 << 40)
    assert "more than 16 MiB" in fault(read_folder(task))


def test_the_limit_of_depth(task: Path) -> None:
    put(task.joinpath(*["d"] * (MAX_DEPTH - 2), "x"))
    assert paths(read_folder(task))
    put(task.joinpath(*["d"] * (MAX_DEPTH - 1), "x"))
    assert paths(read_folder(task))
    put(task.joinpath(*["d"] * MAX_DEPTH, "x"))
    assert "deeper than 16 folders" in fault(read_folder(task))


def test_a_task_far_below_is_refused_by_its_id(tmp_path: Path) -> None:
    put(tmp_path.joinpath(*["d"] * 17, "task.yaml"), YAML)
    (each,) = find_tasks(tmp_path, _no_error)
    wrong = resolve_folder(read_folder(each.dir), each.id)
    assert not isinstance(wrong, Resolved)
    assert "17 segments" in wrong[0].message


# ── includes ──


def include(task: Path, *written: str) -> None:
    put(task / "task.yaml", YAML + "include:\n" + "".join(f"  - {path}\n" for path in written))


def test_includes_keep_their_relative_place(tmp_path: Path, task: Path) -> None:
    include(task, "../lib", "../one.py", "../deep/er/two.py")
    for name in ("lib/a.py", "lib/sub/b.py", "lib/x.pyc", "one.py", "deep/er/two.py", "deep/er/other.py"):
        put(tmp_path / name, name)
    (tmp_path / "lib/link").symlink_to("a.py")
    assert paths(read_folder(task, root=tmp_path)) == [
        "../deep/er/two.py",
        "../lib/a.py",
        "../lib/link",
        "../lib/sub/b.py",
        "../one.py",
        "task.py",
        "task.yaml",
    ]


def test_what_is_included_twice_counts_once(tmp_path: Path, task: Path) -> None:
    put(tmp_path / "lib/a.py")
    include(task, "../lib", "../lib/a.py", "../lib/../lib", "task.py", "./task.py")
    assert paths(read_folder(task, root=tmp_path)) == ["../lib/a.py", "task.py", "task.yaml"]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("../../etc", "leaves the root"),
        ("../lib/../../etc", "leaves the root"),
        ("/etc/passwd", "leaves the root"),
        ("..", "holds the task's own folder"),
        ("../gone", "No such file"),
        ("../link", "is a link"),
        ("../linked/x", "leads through a link"),
        ("../one.py/x", "leads through a link or a file"),
    ],
)
def test_an_include_that_cannot_be_is_a_fault_at_its_line(tmp_path: Path, task: Path, written: str, words: str) -> None:
    put(tmp_path / "one.py")
    (tmp_path / "link").symlink_to("/etc/hostname")
    (tmp_path / "linked").symlink_to("/etc")
    include(task, "../one.py", written)
    text = fault(read_folder(task, root=tmp_path))
    assert text.startswith(f"{task}/task.yaml:5:5: include {written}: ")
    assert words in text


def test_without_a_root_nothing_outside_can_be_included(tmp_path: Path, task: Path) -> None:
    put(tmp_path / "one.py")
    include(task, "../one.py")
    assert "leaves the root" in fault(read_folder(task))


def test_a_link_in_an_included_folder_may_not_leave_that_folder(tmp_path: Path, task: Path) -> None:
    put(tmp_path / "lib/a.py")
    (tmp_path / "lib/out").symlink_to("../t/task.py")
    include(task, "../lib")
    assert "../lib/out" in fault(read_folder(task, root=tmp_path))


def test_what_could_not_be_read_today_may_be_readable_tomorrow_and_look_the_same(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(task / "lib/a")
    assert not read_folder(task).unread
    real = os.open
    for name in ("a", "lib", "task.py", str(task)):

        def failing(path: str, *args: object, name: str = name, **kwargs: object) -> int:
            if path == name:
                raise OSError(5, "Input/output error")
            return real(path, *args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "open", failing)
        read = read_folder(task)
        assert read.unread and "Input/output error" in fault(read), name
    monkeypatch.undo()
    (task / "loop").symlink_to("loop")  # what is wrong in itself is seen to change when it does
    assert fault(read_folder(task)) and not read_folder(task).unread
