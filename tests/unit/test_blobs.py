"""Bundles: what was hashed is what is unpacked, and nothing else is."""

from __future__ import annotations

import os
import resource
import tarfile
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from dicode.messages.task import TaskSpec, Trigger
from dicode.process.blobs import BadBundle, Bundles, MissingBundle, layout_of, parse_manifest

SPEC = TaskSpec(name="Hello", trigger=Trigger(manual=True))
SPEC_JSON = msgspec.json.encode(SPEC)
File = tuple[str, str, bytes]
FILES: list[File] = [
    ("task.yaml", "-", b"name: Hello\n"),
    ("task.sh", "x", b"#!/bin/sh\necho hi\n"),
    ("sub/data.bin", "-", bytes(range(256)) * 5),
    ("current", "l", b"sub/data.bin"),
]


def sealed(files: list[File]) -> tuple[str, bytes]:
    lines = ["dicode-digest/1", f"spec {sha256(SPEC_JSON).hexdigest()}"]
    lines += [f"{kind} {sha256(content).hexdigest()} {len(content)} {path}" for path, kind, content in sorted(files, key=lambda f: f[0].encode())]
    manifest = "".join(f"{line}\n" for line in lines).encode()
    return sha256(manifest).hexdigest(), manifest


@pytest.fixture
def bundles(tmp_path: Path) -> Bundles:
    for name in ("bundles", "trees"):
        (tmp_path / name).mkdir()
    return Bundles(tmp_path / "bundles", tmp_path / "trees")


def stored(bundles: Bundles, files: list[File]) -> str:
    digest, manifest = sealed(files)
    bundles.put(digest, manifest, SPEC_JSON, files)
    return digest


def tar_of(tmp_path: Path, digest: str) -> Path:
    return tmp_path / "bundles" / f"{digest}.tar"


def test_a_stored_bundle_gives_back_its_manifest_its_spec_and_its_files(bundles: Bundles) -> None:
    digest = stored(bundles, FILES)
    assert bundles.has(digest)
    assert bundles.digests() == {digest}
    assert bundles.manifest(digest) == sealed(FILES)[1]
    assert bundles.spec(digest) == SPEC
    assert bundles.files(digest) == {path: (kind, content) for path, kind, content in FILES}


def test_the_unpacked_folder_holds_the_bytes_read_only_with_the_exec_bit_kept(bundles: Bundles) -> None:
    folder = bundles.unpack(stored(bundles, FILES))
    for path, kind, content in FILES:
        assert (folder / path).is_symlink() == (kind == "l")
        assert (os.fsencode(os.readlink(folder / path)) if kind == "l" else (folder / path).read_bytes()) == content
    assert (folder / "task.yaml").stat().st_mode & 0o777 == 0o444
    assert (folder / "task.sh").stat().st_mode & 0o777 == 0o555
    assert (folder / "sub").stat().st_mode & 0o777 == 0o555


@pytest.mark.parametrize(
    ("paths", "folder"),
    [
        (["task.py"], "root/task"),
        (["task.py", "../lib/common.py"], "root/task"),
        (["task.py", "../lib/a.py", "../../shared/b.py"], "root/_/task"),
        (["task.py", "../task/a.py"], "root/task_"),
        (["task.py", "../../_/a.py"], "root/__/task"),
    ],
)
def test_includes_keep_their_relative_place_and_never_stand_on_the_tasks_own_files(paths: list[str], folder: str) -> None:
    layout = layout_of(paths)
    places = [layout.place(path) for path in paths]
    assert layout.folder == folder
    assert layout.place("task.py") == f"{folder}/task.py"
    assert all(place.startswith("root/") for place in places)
    assert len(set(places)) == len(places)
    for path in paths:
        assert os.path.relpath(layout.place(path), folder) == path


def test_an_include_is_reached_from_the_unpacked_task_folder(bundles: Bundles) -> None:
    files: list[File] = [("task.py", "-", b"x"), ("../../shared/lib.py", "-", b"shared")]
    folder = bundles.unpack(stored(bundles, files))
    assert (folder / "../../shared/lib.py").read_bytes() == b"shared"


def test_the_same_files_give_the_same_tar_whatever_their_order(bundles: Bundles, tmp_path: Path) -> None:
    digest = stored(bundles, FILES)
    first = tar_of(tmp_path, digest).read_bytes()
    bundles.remove(digest)
    stored(bundles, FILES[::-1])
    assert tar_of(tmp_path, digest).read_bytes() == first


def test_any_tar_reads_it_and_long_or_foreign_names_survive(bundles: Bundles, tmp_path: Path) -> None:
    long = "/".join(["grün" * 15] * 3) + "/task.py"
    digest = stored(bundles, [(long, "-", b"deep")])
    with tarfile.open(tar_of(tmp_path, digest)) as tar:
        assert tar.getnames() == ["manifest", "spec.json", f"root/task/{long}"]
    assert (bundles.unpack(digest) / long).read_bytes() == b"deep"


def test_a_missing_bundle_says_so(bundles: Bundles) -> None:
    with pytest.raises(MissingBundle):
        bundles.spec("0" * 64)
    with pytest.raises(MissingBundle):
        bundles.unpack("0" * 64)


def test_every_flipped_bit_is_noticed_or_harmless_and_the_bad_bundle_is_set_aside(bundles: Bundles, tmp_path: Path) -> None:
    digest = stored(bundles, FILES)
    good = tar_of(tmp_path, digest).read_bytes()
    wanted = bundles.files(digest)
    noticed = 0
    for place in range(0, len(good), 7):
        tar_of(tmp_path, digest).write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            assert bundles.files(digest) == wanted
        except BadBundle:
            noticed += 1
            assert not bundles.has(digest)
    assert noticed > 100


def test_a_truncated_bundle_is_bad(bundles: Bundles, tmp_path: Path) -> None:
    digest = stored(bundles, FILES)
    good = tar_of(tmp_path, digest).read_bytes()
    for size in (0, 100, 512, 2000, 3000):
        tar_of(tmp_path, digest).write_bytes(good[:size])
        with pytest.raises(BadBundle):
            bundles.unpack(digest)
        assert not bundles.has(digest)


def test_a_bundle_under_anothers_name_is_bad(bundles: Bundles, tmp_path: Path) -> None:
    digest = stored(bundles, FILES)
    tar_of(tmp_path, digest).rename(tar_of(tmp_path, "1" * 64))
    with pytest.raises(BadBundle):
        bundles.spec("1" * 64)


@pytest.mark.parametrize("harm", ["changed", "deleted", "exec bit", "folder gone", "link moved"])
def test_a_tampered_tree_is_unpacked_again(bundles: Bundles, tmp_path: Path, harm: str) -> None:
    digest = stored(bundles, FILES)
    folder = bundles.unpack(digest)
    for path in (folder, folder / "sub", folder / "task.yaml"):
        path.chmod(0o755)
    match harm:
        case "changed":
            (folder / "task.yaml").write_bytes(b"name: Other\n")
        case "deleted":
            (folder / "task.yaml").unlink()
        case "exec bit":
            pass
        case "folder gone":
            (folder / "sub" / "data.bin").unlink()
            (folder / "sub").rmdir()
        case "link moved":
            (folder / "current").unlink()
            (folder / "current").symlink_to("/etc/passwd")
    assert bundles.unpack(digest) == folder
    assert (folder / "task.yaml").read_bytes() == b"name: Hello\n"
    assert (folder / "task.yaml").stat().st_mode & 0o777 == 0o444
    assert os.readlink(folder / "current") == "sub/data.bin"
    assert os.listdir(tmp_path / "trees") == [digest]


def test_unpacking_twice_costs_no_second_copy(bundles: Bundles) -> None:
    digest = stored(bundles, FILES)
    before = (bundles.unpack(digest) / "task.yaml").stat().st_ino
    assert (bundles.unpack(digest) / "task.yaml").stat().st_ino == before


def test_what_a_killed_process_left_half_made_is_swept_and_what_lives_is_not(bundles: Bundles, tmp_path: Path) -> None:
    digest = stored(bundles, FILES)
    bundles.unpack(digest)
    dead = f".{digest}.{2**22 + 1}.aaaa"
    living = f".{digest}.{os.getpid()}.aaaa"
    for name in (dead, living):
        (tmp_path / "bundles" / name).write_bytes(b"half")
        (tmp_path / "trees" / name / "root").mkdir(parents=True)
        (tmp_path / "trees" / name).chmod(0o555)
    bundles.sweep()
    assert sorted(os.listdir(tmp_path / "bundles")) == sorted([f"{digest}.tar", living])
    assert sorted(os.listdir(tmp_path / "trees")) == sorted([digest, living])


def test_a_removed_digest_is_gone_with_its_tree(bundles: Bundles, tmp_path: Path) -> None:
    digest = stored(bundles, FILES)
    bundles.unpack(digest)
    bundles.remove(digest)
    bundles.remove(digest)
    assert not bundles.has(digest)
    assert os.listdir(tmp_path / "trees") == []


def test_a_manifest_of_another_shape_is_refused() -> None:
    for text in (b"", b"\xff", b"dicode-digest/2\nspec 00\n", b"dicode-digest/1\n", b"dicode-digest/1\nspec a\n- aa x task.py\n"):
        with pytest.raises(BadBundle):
            parse_manifest(text)


def test_a_disk_that_is_nearly_full_takes_no_half_bundle(bundles: Bundles, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with pytest.raises(OSError):
            stored(bundles, FILES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path / "bundles") == []
