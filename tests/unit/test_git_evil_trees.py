"""Commits nobody's git would make, read in a process with 512 MiB: each bad task has a fault that says why, its neighbour is read,
and nothing is written anywhere but into the folder of exports."""

from __future__ import annotations

import os
import pickle
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.raw_repository import RawRepository, Row, listing

from dicode.git.commits import MAX_FOLDERS, Commit, Found, NoFolder, find, look
from dicode.git.exporting import export
from dicode.git.exports import remove_exports
from dicode.git.frames import GitFault
from dicode.git.gather import read
from dicode.git.packs import BLOB, MAX_CHAIN, Damaged, Database, Unusable
from dicode.spec.folder import MAX_BYTES, MAX_DEPTH, MAX_FILES, Folder, bad_git_name
from dicode.spec.trees import NothingSeen, Want

YAML = "name: T\ntrigger: {manual: true}\n"
MEMORY = 512 * 1024**2
GONE = b"\x07" * 20


@pytest.fixture
def repository(tmp_path: Path) -> RawRepository:
    return RawRepository(tmp_path / "bare")


def _mapped() -> int:
    """Bytes of address space this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def in_little_memory(work: Callable[[], Any]) -> Any:
    """What `work` gives in a process that may have 512 MiB, and has 20 seconds."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            most = _mapped() + MEMORY  # beyond what this fork of pytest brings with it
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
            try:
                done: object = work()
            except BaseException as error:
                done = error
            with open(theirs, "wb") as pipe:
                pickle.dump(done, pipe)
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    assert answer, "killed by a limit"
    done = pickle.loads(answer)
    if isinstance(done, BaseException):
        raise done
    return done


def folder_of(commit: Commit, path: str) -> Folder:
    done = read(commit, Want(path), f"r@1234567:{path}")
    assert done.folder is not None
    return done.folder


# ── one evil task beside a good one ──

Evil = Callable[[RawRepository], "bytes | list[Row]"]


def file_called(name: str | bytes) -> Evil:
    return lambda repository: [("100644", name, repository.blob("x"))]


def folder_called(name: str | bytes) -> Evil:
    return lambda repository: [("40000", name, repository.files({"config": "[core]", "x": ""}))]


def link_to(target: bytes) -> Evil:
    return lambda repository: [("120000", "link", repository.blob(target))]


def with_mode(mode: str) -> Evil:
    return lambda repository: [(mode, "odd", repository.blob("x"))]


def rows(*made: tuple[str, str, str | None]) -> Evil:
    """Rows of mode, name and content; None: what is not there."""
    return lambda repository: [
        (mode, name, GONE if content is None else repository.files({"x": ""}) if mode == "40000" else repository.blob(content))
        for mode, name, content in made
    ]


def many_files(repository: RawRepository) -> list[Row]:
    """10⁸ files out of nine objects."""
    id = repository.tree([("100644", f"f{number}", repository.blob("x")) for number in range(10)])
    for _ in range(7):
        id = repository.tree([("40000", f"d{number}", id) for number in range(10)])
    return [("40000", "bomb", id)]


def many_folders(repository: RawRepository) -> list[Row]:
    """10⁸ folders with nothing in them."""
    id = repository.tree([])
    for _ in range(8):
        id = repository.tree([("40000", f"d{number}", id) for number in range(10)])
    return [("40000", "bomb", id)]


def very_deep(repository: RawRepository) -> list[Row]:
    id = repository.files({"x": ""})
    for _ in range(2000):
        id = repository.tree([("40000", "d", id)])
    return [("40000", "d", id)]


def zeros(size: int) -> bytes:
    """So many MiB of zeros, compressed, without having them."""
    engine = zlib.compressobj()
    block = engine.compress(bytes(1024**2)) + engine.flush(zlib.Z_FULL_FLUSH)
    body = block[2:]
    last = zlib.compressobj(wbits=-15).flush()
    return block[:2] + body * size + last + struct.pack(">HH", size * 1024**2 % 65521, 1)


def huge_file(repository: RawRepository) -> list[Row]:
    size, body = 1536 * 1024**2, bytearray(b"PACK" + struct.pack(">LL", 2, 1))
    body.append(3 << 4 | 0x80 | size & 15)
    left = size >> 4
    while left:
        body.append(left & 0x7F | (0x80 if left > 0x7F else 0))
        left >>= 7
    body += zeros(1536)
    assert len(body) < 2 * 1024**2
    repository.write_pack(bytes(body), [b"\x01" * 20], [12])
    return [("100644", "zeros", b"\x01" * 20)]


def number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def copies(before: int, times: int, size: int) -> bytes:
    """A change that takes the first `size` bytes of what was there `times` times."""
    return number(before) + number(size * times) + (b"\x80\x70"[:0] + bytes([0x80 | 0x70]) + size.to_bytes(3, "little")) * times


def growing_file(repository: RawRepository) -> list[Row]:
    """A change of a change of …, that is very large on the way and small at the end."""
    unit, large = 1024**2, 60 * 1024**2
    entries = [(b"\x20" * 20, 3, zlib.compress(bytes(unit)))]
    entries.append((b"\x21" * 20, 7, entries[0][0] + zlib.compress(copies(unit, 60, unit))))
    for step in range(40):
        entries.append((bytes([0x22 + step]) * 20, 7, entries[-1][0] + zlib.compress(copies(large, 60, unit))))
    entries.append((b"\x1f" * 20, 7, entries[-1][0] + zlib.compress(copies(large, 1, 10))))
    repository.pack(entries)
    return [("100644", "growing", b"\x1f" * 20)]


def file_of_a_large_one(repository: RawRepository) -> list[Row]:
    """Ten bytes of 100 MiB."""
    size = 100 * 1024**2
    head = bytearray([3 << 4 | 0x80 | size & 15])
    left = size >> 4
    while left:
        head.append(left & 0x7F | (0x80 if left > 0x7F else 0))
        left >>= 7
    change = copies(size, 1, 10)
    first = b"PACK" + struct.pack(">LL", 2, 2) + bytes(head) + zeros(100)
    second = bytes([7 << 4 | len(change)]) + b"\x01" * 20 + zlib.compress(change)
    repository.write_pack(first + second, [b"\x01" * 20, b"\x02" * 20], [12, len(first)])
    return [("100644", "small", b"\x02" * 20)]


def circular_file(repository: RawRepository) -> list[Row]:
    one, two = b"\x01" * 20, b"\x02" * 20
    repository.pack([(one, 7, two + zlib.compress(copies(10, 1, 10))), (two, 7, one + zlib.compress(copies(10, 1, 10)))])
    return [("100644", "circular", one)]


NOT_ALLOWED = "is not allowed in a commit"
EVIL: dict[str, tuple[Evil, str]] = {
    **{f"file {name!r}": (file_called(name), NOT_ALLOWED) for name in ("..", ".", "", "../x", "/abs", ".GIT", "git~1", "GIT~2", ".git ", ".git.", ".g\u200cit", "a\\b", "..\\x", ".git::$INDEX_ALLOCATION")},  # fmt: skip
    **{f"folder {name!r}": (folder_called(name), NOT_ALLOWED) for name in ("..", "../x", "/abs", ".git", ".GIT", "git~1", ".git ", ".g\u200cit", ".GI\u200dT")},  # fmt: skip
    "a name that is not UTF-8": (file_called(b"\xff"), "is not UTF-8"),
    "a folder that is not UTF-8": (folder_called(b"\xff"), "is not UTF-8"),
    "a name with a newline": (file_called("a\nb"), "holds control characters"),
    "a name with an escape": (file_called("\x1b[31m"), "holds control characters"),
    "a name with a C1 control": (file_called("\x85"), "holds control characters"),
    "a very long name": (file_called("x" * 300), "longer than 255 bytes"),
    "an extremely long name": (file_called("x" * 1_000_000), "longer than 255 bytes"),
    "a file twice": (rows(("100644", "a", "1"), ("100644", "a", "2")), "a is there twice"),
    "a file and a folder": (rows(("100644", "a", "1"), ("40000", "a", "")), "a is there twice"),
    "a link out, then a folder": (rows(("120000", "a", "/tmp"), ("40000", "a", "")), "a is there twice"),
    "a twin that leads out": (rows(("120000", "D", "/out"), ("40000", "d", "")), "leaves the folder"),
    "task.yaml twice": (rows(("100644", "task.yaml", YAML)), "task.yaml is there twice"),
    ".gitignore twice": (rows(("100644", ".gitignore", "a"), ("100644", ".gitignore", "b")), "is there twice"),
    "a setuid file": (with_mode("104755"), "of mode 104755"),
    "all bits": (with_mode("777777"), "of mode 777777"),
    "a fifo": (with_mode("10644"), "of mode 10644"),
    "no mode": (with_mode("0"), "of mode 0"),
    "a submodule": (rows(("160000", "sub", None)), "sub is a submodule"),
    "a missing file": (rows(("100644", "gone", None)), "is missing"),
    "a missing folder": (rows(("40000", "gone", None)), "is missing"),
    "a folder said to be a file": (lambda repository: [("100644", "odd", repository.files({"x": ""}))], "a tree where a blob should be"),
    "a file said to be a folder": (lambda repository: [("40000", "odd", repository.blob("x"))], "a blob where a tree should be"),
    "a commit said to be a file": (lambda repository: [("100644", "odd", repository.commit(GONE))], "a commit where a blob should be"),
    "a listing that is cut off": (lambda repository: [("40000", "odd", repository.put("tree", listing([("100644", "a", GONE)])[:-1]))], "listing is broken"),
    "a listing of nonsense": (lambda repository: [("40000", "odd", repository.put("tree", b"nonsense"))], "listing is broken"),
    "an absolute link": (link_to(b"/etc/passwd"), "leaves the folder"),
    "a link out": (link_to(b"../../../etc/shadow"), "leaves the folder"),
    "an empty link": (link_to(b""), "leaves the folder"),
    "a link to itself": (link_to(b"link"), "in a circle"),
    "a link with a NUL": (link_to(b"a\0b"), "NUL"),
    "a very long link": (link_to(b"a/../" * 1000), "more than 4,095 bytes"),
    "a long way round": (link_to(b"a/../" * 800), "more than 400 folders"),
    "a pointer to a file elsewhere": (rows(("100644", "big", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")), "Git LFS"),
    "too many files": (lambda repository: [("100644", f"f{each}", repository.blob("")) for each in range(MAX_FILES)], "more than 2,000 files"),
    "too large": (lambda repository: [("100644", "f", repository.blob(bytes(MAX_BYTES - len(YAML) + 1)))], "16 MiB"),
    "a bomb of files": (many_files, "more than 2,000 files"),
    "a bomb of folders": (many_folders, "more than 2,000 files"),
    "very deep": (very_deep, f"deeper than {MAX_DEPTH} folders"),
    "a huge file": (huge_file, "16 MiB"),
    "a file that grows on the way": (growing_file, "stored as changes"),
    "a small part of a large file": (file_of_a_large_one, "stored as changes"),
    "a file that is a change of itself": (circular_file, "stored as changes"),
}  # fmt: skip


@pytest.mark.parametrize("what", EVIL)
def test_an_evil_task_has_a_fault_and_its_neighbour_is_read(repository: RawRepository, tmp_path: Path, what: str) -> None:
    evil, expected = EVIL[what]
    made = evil(repository)
    bad = repository.tree([("100644", "task.yaml", repository.blob(YAML)), *made]) if isinstance(made, list) else made
    root = repository.tree([("40000", "bad", bad), ("40000", "good", repository.files({"task.yaml": YAML, "lib/x.py": "x"}))])

    def work() -> tuple[Found, Folder, Folder, str]:
        commit = Commit(Database(str(repository.folder)), root, mild=True)
        try:
            exported = export(commit, "", str(tmp_path / "exports"))
        except GitFault as fault:
            exported = f"not: {fault}"
        return find(commit, ""), folder_of(commit, "bad"), folder_of(commit, "good"), exported

    before = set(os.listdir(tmp_path))
    found, faulty, good, exported = in_little_memory(work)
    assert found.tasks == ["bad", "good"]
    assert any(expected in each.message for each in faulty.faults), faulty.faults
    assert all(len(str(each)) < 1000 for each in faulty.faults)
    assert good.faults == () and sorted(file.path for file in good.files) == ["lib/x.py", "task.yaml"]
    assert set(os.listdir(tmp_path)) - before <= {"exports"}
    if not exported.startswith("not: "):
        assert set(os.listdir(exported)) == {"bad", "good"}
        assert Path(exported, "good/lib/x.py").read_text() == "x"
        everything = list(Path(exported).rglob("*"))
        assert all(bad_git_name(path.name) is None for path in everything)
        assert all(path.resolve().is_relative_to(exported) for path in everything if path.is_symlink())
        assert [str(path) for path in (tmp_path / "exports").iterdir()] == [exported]
    else:
        assert what in ("a bomb of files", "a bomb of folders", "a huge file") and not any((tmp_path / "exports").glob("*"))


def test_what_is_evil_outside_of_tasks_hides_no_neighbour(repository: RawRepository) -> None:
    task = repository.files({"task.yaml": YAML})
    group = repository.tree([("40000", "t", task)])
    bomb = many_files(repository)[0][2]
    names: list[str | bytes] = ["..", ".", "", "a/b", ".GIT", "git~1", b"\xff", "good", "twice", "twice"]
    root = repository.tree(
        [*(("40000", name, group) for name in names), ("40000", "broken", repository.blob("x")), ("40000", "a-bomb", bomb), ("160000", "sub", GONE), *very_deep(repository)]
    )  # fmt: skip
    found = in_little_memory(lambda: find(Commit(Database(str(repository.folder)), root), ""))
    assert [path.encode("ascii", "backslashreplace").decode() for path in found.tasks] == [".GIT/t", "git~1/t", "\\udcff/t", "good/t"]
    assert len(found.unreadable) == 7
    told = dict(found.unreadable)
    assert told["broken"] == "a blob where a tree should be"
    assert told["twice"] == "is there twice"
    assert told[""] == f"holds more than {MAX_FOLDERS:,} folders: name in .dicodeignore what does not belong"
    assert told[".."] == "the name '..' is not allowed in a commit"


def test_a_path_through_a_bad_name_leads_nowhere(repository: RawRepository) -> None:
    task = repository.files({"task.yaml": YAML})
    commit = Commit(
        Database(str(repository.folder)),
        repository.tree([("40000", ".GIT", task), ("40000", "..", task), ("40000", "a", task), ("40000", "a", task)]),
    )
    assert look(commit, ".GIT") == NothingSeen("the name '.GIT' is not allowed in a commit")
    assert look(commit, "a") == NothingSeen("'a' is there twice")
    assert look(commit, "..") == NothingSeen("leads outside the root")
    for path in (".GIT", "..", "a"):
        assert folder_of(commit, path).faults
        with pytest.raises(NoFolder):
            find(commit, path)


def test_a_submodule_or_a_pointer_that_is_ignored_is_nobodys_fault(repository: RawRepository) -> None:
    rows: list[Row] = [
        ("100644", "task.yaml", repository.blob(YAML + "ignore: [sub/, '*.bin']\n")),
        ("160000", "sub", GONE),
        ("100644", "x.bin", GONE),
    ]
    commit = Commit(Database(str(repository.folder)), repository.tree(rows))
    assert [file.path for file in folder_of(commit, "").files] == ["task.yaml"]


def test_files_with_the_modes_of_gits_first_days_are_plain_files(repository: RawRepository) -> None:
    rows: list[Row] = [
        ("100664", "task.yaml", repository.blob(YAML)),
        ("100755", "run", repository.blob("")),
        ("040000", "lib", repository.files({"x": ""})),
    ]
    folder = folder_of(Commit(Database(str(repository.folder)), repository.tree(rows)), "")
    assert folder.faults == ()
    assert {file.path: file.kind for file in folder.files} == {"task.yaml": "-", "run": "x", "lib/x": "-"}


@pytest.mark.parametrize(("count", "fits"), [(MAX_FILES - 1, True), (MAX_FILES, True), (MAX_FILES + 1, False)])
def test_a_task_has_2000_files(repository: RawRepository, count: int, fits: bool) -> None:
    rows: list[Row] = [("100644", f"f{each}", repository.blob("")) for each in range(count - 1)]
    folder = folder_of(Commit(Database(str(repository.folder)), repository.tree([("100644", "task.yaml", repository.blob(YAML)), *rows])), "")
    assert (folder.faults == ()) == fits
    assert len(folder.files) == (count if fits else 0)


@pytest.mark.parametrize(("more", "fits"), [(-1, True), (0, True), (1, False)])
def test_a_task_has_16_mib(repository: RawRepository, more: int, fits: bool) -> None:
    content = bytes(MAX_BYTES - len(YAML) + more)
    folder = folder_of(Commit(Database(str(repository.folder)), repository.files({"task.yaml": YAML, "f": content})), "")
    assert (folder.faults == ()) == fits


@pytest.mark.parametrize(("depth", "fits"), [(MAX_DEPTH - 1, True), (MAX_DEPTH, True), (MAX_DEPTH + 1, False)])
def test_a_task_is_16_folders_deep(repository: RawRepository, depth: int, fits: bool) -> None:
    folder = folder_of(Commit(Database(str(repository.folder)), repository.files({"task.yaml": YAML, "/".join([*"d" * (depth - 1), "x"]): ""})), "")
    assert (folder.faults == ()) == fits


# ── damage ──


def test_a_missing_object_is_damage_until_the_mirror_was_cloned_again(repository: RawRepository) -> None:
    bad = repository.tree([("100644", "task.yaml", repository.blob(YAML)), ("100644", "gone", GONE)])
    root = repository.tree([("40000", "bad", bad), ("40000", "good", repository.files({"task.yaml": YAML}))])
    commit = Commit(Database(str(repository.folder)), root)
    with pytest.raises(Damaged, match="object 0707070 is missing"):
        folder_of(commit, "bad")
    assert folder_of(commit, "good").faults == ()
    again = Commit(Database(str(repository.folder)), root, mild=True)
    assert [each.message for each in folder_of(again, "bad").faults] == ["gone: object 0707070 is missing: run git fsck there"]


def test_a_changed_bit_of_a_pack_never_changes_a_file(repository: RawRepository) -> None:
    content = os.urandom(300) + b"text " * 100
    id, other = repository.blob(content), repository.blob(b"other")
    repository.path(id).unlink()
    repository.pack([(id, 3, zlib.compress(content))])
    (pack,) = (repository.folder / "objects/pack").glob("*.pack")
    assert Database(str(repository.folder)).read(id, BLOB, 10_000) == content
    whole, noticed = pack.read_bytes(), 0
    for at in range(12, len(whole) - 20):
        pack.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            assert Database(str(repository.folder)).read(id, BLOB, 10_000) == content  # a bit that says nothing
        except (Damaged, Unusable):
            noticed += 1
    assert noticed > len(whole) / 2
    assert Database(str(repository.folder)).read(other, BLOB, 10_000) == b"other"


@pytest.mark.parametrize("ends", [0, 7, 8, 500, 1032, 1040, 1071, -1, -21, -45])
def test_an_index_that_is_cut_off_is_damage(repository: RawRepository, ends: int) -> None:
    id = repository.blob("x")
    repository.path(id).unlink()
    repository.pack([(id, 3, zlib.compress(b"x"))])
    (index,) = (repository.folder / "objects/pack").glob("*.idx")
    index.write_bytes(index.read_bytes()[:ends])
    with pytest.raises(Damaged):
        Database(str(repository.folder)).read(id, BLOB, 10)


def test_a_pack_that_inflates_to_more_than_it_says_is_damage(repository: RawRepository) -> None:
    id, body = b"\x05" * 20, b"PACK" + struct.pack(">LL", 2, 1) + bytes([3 << 4 | 5]) + zeros(1024)
    repository.write_pack(body, [id], [12])
    with pytest.raises(Damaged, match="does not inflate"):
        in_little_memory(lambda: Database(str(repository.folder)).read(id, BLOB, MAX_BYTES))


def test_an_object_that_is_not_what_its_id_says_is_damage(repository: RawRepository) -> None:
    repository.pack([(b"\x05" * 20, 3, zlib.compress(b"something else"))])
    with pytest.raises(Damaged, match="object 0505050 is not what its id says"):
        Database(str(repository.folder)).read(b"\x05" * 20, BLOB, 100)


def test_a_chain_of_changes_as_long_as_git_makes_them_is_read(repository: RawRepository) -> None:
    content = b"0" * 10
    entries = [(repository.blob(content), 3, zlib.compress(content))]
    for step in range(200):
        content += b"%03d" % step
        change = number(len(content) - 3) + number(len(content)) + b"\x90" + bytes([len(content) - 3]) if len(content) - 3 < 256 else b""
        if not change:
            change = number(len(content) - 3) + number(len(content)) + b"\xb0" + (len(content) - 3).to_bytes(2, "little")
        entries.append((repository.blob(content), 7, entries[-1][0] + zlib.compress(change + b"\x03" + b"%03d" % step)))
    for id, *_ in entries:
        repository.path(id).unlink()
    repository.pack(entries)
    database = Database(str(repository.folder))
    assert len(entries) < MAX_CHAIN
    assert database.size(entries[-1][0]) == len(content)
    assert database.read(entries[-1][0], BLOB, 10_000) == content
    assert database.read(entries[100][0], BLOB, 10_000) == content[:310]


def test_objects_that_were_packed_since_are_found(repository: RawRepository) -> None:
    database = Database(str(repository.folder))
    id = repository.blob("late")
    repository.path(id).unlink()
    repository.pack([(id, 3, zlib.compress(b"late"))])
    assert database.read(id, BLOB, 10) == b"late"


# ── exports ──


def test_an_export_is_read_only_whole_and_made_once(repository: RawRepository, tmp_path: Path) -> None:
    task = repository.tree([("100755", "run", repository.blob("#!")), ("100644", "x", repository.blob("x")), ("120000", "ln", repository.blob("x")), ("120000", "out", repository.blob("../..")), ("160000", "sub", GONE)])  # fmt: skip
    commit = Commit(Database(str(repository.folder)), repository.tree([("40000", "set", task)]))
    made = export(commit, "set", str(tmp_path / "exports"))
    assert Path(made).name == task.hex()
    assert {path.name: oct(path.lstat().st_mode) for path in Path(made).iterdir()} == {"run": "0o100555", "x": "0o100444", "ln": "0o120777"}
    assert oct(Path(made).stat().st_mode) == "0o40555"
    os.utime(made, (0, 0))
    assert export(commit, "set", str(tmp_path / "exports")) == made
    assert Path(made).stat().st_mtime > 0
    with pytest.raises(GitFault, match="nowhere cannot be exported: No such file or directory"):
        export(commit, "nowhere", str(tmp_path / "exports"))
    assert os.listdir(tmp_path / "exports") == [task.hex()]


def test_exports_that_nobody_names_are_removed_when_they_are_old(repository: RawRepository, tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    made = [export(Commit(Database(str(repository.folder)), repository.files({"d/x": name})), "", str(exports)) for name in ("old", "kept", "young")]
    (exports / ".half-made").mkdir()
    for path in (made[0], made[1], str(exports / ".half-made")):
        os.utime(path, (0, 0))
    assert remove_exports(str(exports), {Path(made[1]).name}, os.stat(made[2]).st_mtime) == 2
    assert sorted(map(str, exports.iterdir())) == sorted(made[1:])
    assert remove_exports(str(tmp_path / "nowhere"), (), 0.0) == 0
