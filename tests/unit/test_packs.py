"""Packs: bundles that were stored together are found, renewed, left out and made again like any other."""

from __future__ import annotations

import os
import resource
import tarfile
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from dicode.messages.task import TaskSpec, Trigger
from dicode.process.blobs import FEW, SMALL, BadBundle, Bundles, MissingBundle

SPEC_JSON = msgspec.json.encode(TaskSpec(name="Hello", trigger=Trigger(manual=True)))
MANY = 20
Bundle = tuple[str, bytes, bytes, list[tuple[str, str, bytes]]]


def bundle(text: bytes) -> Bundle:
    files = [("task.sh", "x", text)]
    manifest = f"dicode-digest/1\nspec {sha256(SPEC_JSON).hexdigest()}\nx {sha256(text).hexdigest()} {len(text)} task.sh\n".encode()
    return sha256(manifest).hexdigest(), manifest, SPEC_JSON, files


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("bundles", "trees"):
        (tmp_path / name).mkdir()
    return tmp_path


def opened(place: Path) -> Bundles:
    """As another process would see it."""
    return Bundles(place / "bundles", place / "trees")


def stored(place: Path, count: int = MANY) -> dict[str, bytes]:
    """Digest → content of task.sh, of bundles that were stored together."""
    made = [bundle(b"#!/bin/sh\necho %d\n" % number) for number in range(count)]
    batch = opened(place).together()
    for each in made:
        batch.put(*each)
    batch.write()
    return {each[0]: each[3][0][2] for each in made}


def packs(place: Path) -> list[Path]:
    return sorted((place / "bundles").glob("*.pack"))


def contents(bundles: Bundles, digests: set[str]) -> dict[str, bytes]:
    return {digest: bundles.files(digest)["task.sh"][1] for digest in digests}


def test_many_are_one_file_and_each_is_found_by_its_digest(place: Path) -> None:
    meant = stored(place)
    bundles = opened(place)
    assert len(os.listdir(place / "bundles")) == 1
    assert bundles.digests() == set(meant)
    assert contents(bundles, set(meant)) == meant
    one = next(iter(meant))
    assert bundles.has(one) and not bundles.has("0" * 64)
    assert bundles.manifest(one) == bundle(meant[one])[1]
    assert bundles.spec(one).name == "Hello"
    assert (bundles.unpack(one) / "task.sh").read_bytes() == meant[one]


def test_a_few_are_files_of_their_own(place: Path) -> None:
    meant = stored(place, FEW)
    assert {path.name for path in (place / "bundles").iterdir()} == {f"{digest}.tar" for digest in meant}


def test_a_big_one_is_a_file_of_its_own_and_there_at_once(place: Path) -> None:
    batch = opened(place).together()
    big = bundle(b"x" * SMALL)
    batch.put(*big)
    assert opened(place).has(big[0])


def test_any_tar_opens_a_pack_and_the_bundles_in_it(place: Path) -> None:
    meant = stored(place)
    with tarfile.open(packs(place)[0]) as pack:
        assert pack.getnames() == ["index", *(f"{digest}.tar" for digest in meant)]
        for digest in meant:
            with tarfile.open(fileobj=pack.extractfile(f"{digest}.tar")) as tar:
                assert tar.getnames() == ["manifest", "spec.json", "root/task/task.sh"]


def test_the_same_bundles_give_the_same_pack(place: Path) -> None:
    stored(place)
    first = packs(place)[0].read_bytes()
    packs(place)[0].unlink()
    stored(place)
    assert packs(place)[0].read_bytes() == first


def test_who_looked_before_finds_what_another_process_stored_since(place: Path) -> None:
    bundles = opened(place)
    assert bundles.digests() == set()
    meant = stored(place)
    assert contents(bundles, set(meant)) == meant


def test_what_is_there_is_not_stored_again_but_is_young_again(place: Path) -> None:
    meant = stored(place)
    os.utime(packs(place)[0], (1.0, 1.0))
    assert opened(place).older_than(2.0) == set(meant)
    stored(place)
    opened(place).put(*bundle(next(iter(meant.values()))))
    assert len(os.listdir(place / "bundles")) == 1
    assert opened(place).older_than(2.0) == set()


def test_what_is_removed_leaves_the_others_and_their_age(place: Path) -> None:
    meant = stored(place)
    bundles, reader = opened(place), opened(place)
    assert contents(reader, set(meant)) == meant
    for digest in meant:
        bundles.unpack(digest)
    os.utime(packs(place)[0], (1.0, 1.0))
    gone = set(list(meant)[::2])
    bundles.remove(*gone)
    left = {digest: text for digest, text in meant.items() if digest not in gone}
    for each in (bundles, reader, opened(place)):
        assert each.digests() == set(left)
        assert contents(each, set(left)) == left
    assert set(os.listdir(place / "trees")) == set(left)
    assert opened(place).older_than(2.0) == set(left)
    bundles.remove(*left)
    assert os.listdir(place / "bundles") == []


def test_a_reader_with_an_old_index_finds_what_moved(place: Path) -> None:
    meant = stored(place)
    reader = opened(place)
    assert contents(reader, set(meant)) == meant
    first, *rest = meant
    opened(place).remove(first)
    with pytest.raises(MissingBundle):
        reader.files(first)
    assert contents(reader, set(rest)) == {digest: meant[digest] for digest in rest}


def test_every_flipped_bit_is_noticed_or_harmless_and_costs_nobody_else_his_bundle(place: Path) -> None:
    meant = stored(place, FEW + 1)
    pack = packs(place)[0]
    good = pack.read_bytes()
    set_aside = 0
    for at in range(0, len(good), 37):
        for path in (place / "bundles").iterdir():
            path.unlink()
        pack.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        bundles = opened(place)
        for digest in meant:
            try:
                assert bundles.files(digest)["task.sh"][1] == meant[digest]
            except BadBundle:
                set_aside += 1
                with pytest.raises(MissingBundle):
                    bundles.files(digest)
                assert not opened(place).has(digest)
                assert contents(opened(place), set(meant) - {digest}) == {other: text for other, text in meant.items() if other != digest}
            except MissingBundle:
                assert at < 1024  # the index itself is hurt
    assert set_aside > 50


@pytest.mark.parametrize("size", [0, 100, 512, 700])
def test_a_pack_a_power_cut_took_is_out_of_the_way_and_can_be_made_again(place: Path, size: int) -> None:
    meant = stored(place)
    pack = packs(place)[0]
    pack.write_bytes(pack.read_bytes()[:size])
    bundles = opened(place)
    assert bundles.digests() == set()
    assert packs(place) == []
    assert stored(place) == meant
    assert contents(bundles, set(meant)) == meant


def test_a_pack_that_was_cut_in_the_middle_keeps_its_beginning(place: Path) -> None:
    meant = stored(place)
    pack = packs(place)[0]
    pack.write_bytes(pack.read_bytes()[:-15_000])
    bundles = opened(place)
    lost = set()
    for digest in meant:
        try:
            assert bundles.files(digest)["task.sh"][1] == meant[digest]
        except BadBundle:
            lost.add(digest)
    assert 0 < len(lost) < MANY
    assert opened(place).digests() == set(meant) - lost
    assert stored(place) == meant
    assert contents(opened(place), set(meant)) == meant


def test_a_full_disk_stores_none_and_leaves_no_half(place: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(OSError):
            stored(place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(place / "bundles") == []
    meant = stored(place)
    assert contents(opened(place), set(meant)) == meant
