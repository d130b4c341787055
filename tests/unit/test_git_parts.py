"""The parts of a sync: packets, what a remote's words mean, what a commit is to a reader, and packs that become one."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.git_remote import Repository, git

from dicode.git import merging, mirror
from dicode.git.frames import GitFault, Limits, SweepArgs, SyncArgs, Wanted
from dicode.git.packs import Damaged
from dicode.git.remote import Advertised
from dicode.git.summary import clean, entries, notes, summary
from dicode.git.upload import FLUSH, Packets, ask_pack_0, ask_pack_2, ask_refs_2, line, read_pack_0, read_pack_2, read_refs_0, read_refs_2
from dicode.spec.trees import Repo

A, B, C = "a" * 40, "b" * 40, "c" * 40


def said(*parts: bytes, most: int = 1 << 16) -> Packets:
    return Packets(io.BytesIO(b"".join(parts)).read, most)


# ── packets ──


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_whatever_a_remote_says_is_understood_or_a_fault(text: bytes, more: bytes) -> None:
    for words in (text, line(text) + more, line(more) + FLUSH + text):

        def read(understand: object, words: bytes = words) -> None:
            try:
                understand()  # type: ignore[operator]
            except GitFault:
                pass

        read(lambda words=words: read_refs_2(said(words)))
        read(lambda words=words: read_refs_0(said(words), said(words).next()))
        read(lambda words=words: list(read_pack_2(said(words), 100)))
        stream = io.BytesIO(words)
        read(lambda stream=stream: list(read_pack_0(Packets(stream.read, 100), 100, set(), stream.read)))


def test_no_more_is_heard_than_was_allowed() -> None:
    heard = said(line(b"x" * 60), line(b"x" * 60), most=100)
    assert heard.next() == b"x" * 60
    with pytest.raises(GitFault) as refused:
        heard.next()
    assert refused.value.reason == "TooLarge"


def test_a_packet_that_is_cut_off_and_one_without_a_length() -> None:
    for words, reason in (
        (b"0010abc", "HostUnreachable"),
        (b"00", "HostUnreachable"),
        (b"zzzz", "ProtocolError"),
        (b"-001", "ProtocolError"),
        (b"", "HostUnreachable"),
    ):
        with pytest.raises(GitFault) as refused:
            said(words).next()
        assert refused.value.reason == reason, words


def test_an_error_of_the_remote_is_told_in_our_words() -> None:
    with pytest.raises(GitFault) as refused:
        said(line(b"ERR CANARY: not our ref")).next()
    assert refused.value.reason == "RefNotFound" and "CANARY" not in str(refused.value)


def test_refs_of_version_2() -> None:
    told = said(
        line(f"{A} refs/heads/main\n".encode()), line(f"{B} refs/tags/v1 peeled:{C}\n".encode()), line(b"unborn HEAD symref-target:refs/heads/x\n"),
        line(b"\xff\xfe what\n"), line(f"{A} refs/heads/\xff\n".encode("latin-1")), FLUSH,
    )  # fmt: skip
    assert read_refs_2(told) == {"refs/heads/main": Advertised(A), "refs/tags/v1": Advertised(B, C)}


def test_refs_of_version_0() -> None:
    lines = [f"{A} HEAD\0side-band-64k ofs-delta agent=x\n", f"{A} refs/heads/main\n", f"{B} refs/tags/v1\n", f"{C} refs/tags/v1^{{}}\n"]
    told = said(*(line(each.encode()) for each in lines), FLUSH)
    refs, able = read_refs_0(told, told.next())
    assert refs == {"HEAD": Advertised(A), "refs/heads/main": Advertised(A), "refs/tags/v1": Advertised(B, C)}
    assert {b"side-band-64k", b"ofs-delta"} <= able
    told = said(line(f"{'0' * 40} capabilities^{{}}\0side-band-64k\n".encode()), FLUSH)
    assert read_refs_0(told, told.next())[0] == {}


def test_a_repository_of_the_other_kind_of_ids_is_refused() -> None:
    told = said(line(f"{A} HEAD\0object-format=sha256\n".encode()), FLUSH)
    with pytest.raises(GitFault) as refused:
        read_refs_0(told, told.next())
    assert refused.value.reason == "Unsupported" and refused.value.permanent


def test_a_pack_comes_out_of_its_bands() -> None:
    bands = (line(b"\x02progress"), line(b"\x01PA"), line(b"\x01CK"), FLUSH)
    assert b"".join(read_pack_2(said(line(b"shallow-info\n"), line(b"shallow x"), b"0001", line(b"packfile\n"), *bands), 100)) == b"PACK"
    assert b"".join(read_pack_0(said(line(b"NAK\n"), *bands), 100, {b"side-band-64k"}, lambda _: b"")) == b"PACK"
    with pytest.raises(GitFault):
        list(read_pack_2(said(line(b"packfile\n"), line(b"\x03CANARY")), 100))
    with pytest.raises(GitFault) as refused:
        list(read_pack_2(said(line(b"packfile\n"), line(b"\x01" + b"x" * 200)), 100))
    assert refused.value.reason == "TooLarge"


def test_what_is_asked_is_what_git_documents() -> None:
    assert ask_refs_2(["refs/heads/main"]) == b"0014command=ls-refs\n001bagent=git/2.40-(dicode)00010009peel\n001fref-prefix refs/heads/main\n0000"
    asked = ask_pack_2([A], [B])
    assert asked.endswith(b"0032want %s\n0032have %s\n0009done\n0000" % (A.encode(), B.encode())) and b"packfile-uris" not in asked
    assert ask_pack_0([A, B], [C], {b"ofs-delta"}) == b"0054want %s ofs-delta agent=git/2.40-(dicode)\n0032want %s\n00000032have %s\n0009done\n" % (
        A.encode(), B.encode(), C.encode(),
    )  # fmt: skip


# ── commits ──


def commit(**fields: str | bytes) -> bytes:
    parts = {"author": "Ada <a@x> 1 +0000", "committer": "Bob <b@x> 1795428001 +0100", **fields}
    message = parts.pop("message", "subject\n\nbody")
    head = b"".join(name.encode() + b" " + (value if isinstance(value, bytes) else value.encode()) + b"\n" for name, value in parts.items())
    return f"tree {A}\nparent {B}\n".encode() + head + b"\n" + (message if isinstance(message, bytes) else message.encode())


def test_a_commit_is_who_when_and_its_first_line() -> None:
    assert summary(C, commit()) == (C, A, "Ada <a@x>", 1_795_428_001_000, "subject", ())


@pytest.mark.parametrize(
    ("text", "author", "subject"),
    [
        (commit(message="\x1b[31mred\x07\u202e\tx\n"), "Ada <a@x>", "[31mred x"),
        (commit(message="x" * 500), "Ada <a@x>", "x" * 199 + "…"),
        (commit(message=b"\xff\xfe"), "Ada <a@x>", "��"),
        (commit(message=""), "Ada <a@x>", ""),
        (commit(author="nonsense"), "", "subject"),
        (commit(encoding="iso-8859-1", author="Bj\xf6rn <b@x> 1 +0000".encode("latin-1")), "Björn <b@x>", "subject"),
        (commit(encoding="no-such-thing"), "Ada <a@x>", "subject"),
    ],
)
def test_what_others_write_into_a_commit_is_cleaned(text: bytes, author: str, subject: str) -> None:
    told = summary(C, text)
    assert (told.author, told.subject) == (author, subject)


@given(st.text())
def test_cleaned_text_is_printable_and_short(text: str) -> None:
    shown = clean(text)
    assert shown.isprintable() and len(shown) <= 200


def test_what_is_no_commit_is_said_so() -> None:
    with pytest.raises(ValueError):
        summary(C, b"parent x\n\n")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_tree_as_far_as_they_make_sense(data: bytes) -> None:
    for entry in entries(data):
        assert len(entry.id) == 20


def test_notes_name_what_is_not_supported() -> None:
    id = b"\1" * 20
    tree = b"".join(mode + b" " + name + b"\0" + id for mode, name in ((b"100644", b".gitattributes"), (b"40000", b"a"), (b"160000", b"sub")))
    assert notes(tree, lambda _: b"*.bin filter=lfs") == ("git-lfs", "submodules")
    assert notes(tree[:-50], lambda _: b"*.txt text") == ()


# ── packs that become one ──


@pytest.fixture
def repository(data_dir: Path) -> Repository:
    return Repository(data_dir / "remote")


def synced(folder: Path, repository: Repository, known: str = "") -> str:
    (outcome,) = next(mirror.sync(str(folder), SyncArgs([Wanted(Repo(str(repository.bare), trusted=True), known)]))).outcomes
    assert outcome.fault is None and outcome.commit is not None
    return outcome.commit.id


def test_many_packs_become_one_that_git_finds_whole(data_dir: Path, repository: Repository) -> None:
    words = random.Random(1)
    text = [f"line {words.random()}\n" for _ in range(400)]
    folder = data_dir / "m"
    for number in range(12):
        text[words.randrange(400)] = f"changed {number}\n"
        tip = repository.commit({"big": "".join(text), f"other{number % 3}": "".join(reversed(text))})
        assert synced(folder, repository) == tip
    before = git(folder, "cat-file", "--batch-all-objects", "--batch-check")
    assert merging.count(str(folder)) == 12
    assert list(mirror.repack(str(folder), Limits())) == [1]
    assert git(folder, "cat-file", "--batch-all-objects", "--batch-check") == before
    git(folder, "fsck", "--full", "--strict")
    git(folder, "verify-pack", *(str(each) for each in (folder / "objects/pack").glob("*.idx")))
    assert synced(folder, repository) == tip
    assert list(mirror.repack(str(folder), Limits())) == [1], "again changes nothing"


def test_changes_that_point_at_each_other_from_two_packs_close_no_circle(data_dir: Path) -> None:
    """Object x as a change of y in one pack, y as a change of x in the other."""
    text = "".join(f"line {number}\n" for number in range(500))
    one, two = text + "one\n", text + "two and more\n"
    folder = data_dir / "m"
    mirror.make(str(folder))
    names = [git(folder, "hash-object", "-w", "--stdin", stdin=each.encode()) for each in (one, two)]
    for order in (names, names[::-1]):
        git(
            folder,
            "-c",
            "pack.compression=1",
            "pack-objects",
            "-q",
            "--no-reuse-delta",
            "--window=10",
            "objects/pack/pack",
            stdin="".join(f"{name} {at}\n" for at, name in enumerate(order)).encode(),
        )
    git(folder, "prune-packed")
    made = merging.count(str(folder))
    merging.merge(str(folder), 1 << 20)
    assert made and merging.count(str(folder)) == 1
    for name, content in zip(names, (one, two), strict=True):
        assert git(folder, "cat-file", "blob", name) == content.strip()


def test_large_packs_are_left_alone(data_dir: Path, repository: Repository) -> None:
    folder = data_dir / "m"
    noise = random.Random(2)
    repository.commit({"big": noise.randbytes(200_000)})
    synced(folder, repository)
    for number in range(3):
        repository.commit({"small": str(number)})
        synced(folder, repository)
    merging.merge(str(folder), 100_000)
    assert merging.count(str(folder)) == 2
    git(folder, "fsck", "--full")


def test_a_damaged_pack_is_not_copied_into_a_new_one_unseen(data_dir: Path, repository: Repository) -> None:
    folder = data_dir / "m"
    for number in range(3):
        repository.commit({"a": str(number)})
        synced(folder, repository)
    for index in (folder / "objects/pack").glob("*.idx"):
        index.chmod(0o600)
        index.write_bytes(index.read_bytes()[:600])
    with pytest.raises(Damaged):
        list(mirror.repack(str(folder), Limits()))
    assert merging.count(str(folder)) == 3


def test_what_a_killed_child_left_is_swept(data_dir: Path, repository: Repository) -> None:
    folder = data_dir / "m"
    repository.commit({"a": "1"})
    synced(folder, repository)
    left = [folder / "objects/pack/pack-half.pack", folder / "objects/tmp_pack_x", folder / "objects/pack/tmp_pack_x.idx"]
    for path in left:
        path.touch()
    repository.commit({"a": "2"})
    synced(folder, repository)
    assert not any(path.exists() for path in left)


def test_mirrors_that_nobody_has_followed_for_long_are_removed(data_dir: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.commit({"a": "1"})
    mirrors = data_dir / "mirrors"
    for name in ("kept", "left"):
        synced(mirrors / name, repository)
    assert list(mirror.sweep(str(mirrors), SweepArgs([]))) == [0], "both were used just now"
    monkeypatch.setattr(mirror, "UNUSED_FOR", -1.0)
    assert list(mirror.sweep(str(mirrors), SweepArgs(["kept"]))) == [1]
    assert sorted(each.name for each in mirrors.iterdir()) == ["kept", "kept.lock"]


def test_a_repository_that_is_itself_broken_is_not_cloned_for_ever(data_dir: Path, repository: Repository) -> None:
    folder = data_dir / "m"
    tip = repository.commit({"a": "1"})
    args = SyncArgs([Wanted(Repo(str(repository.bare), trusted=True), tip)])

    def renewed() -> Iterator[bool]:
        for _ in range(3):
            mirror.distrust(str(folder))
            yield next(mirror.sync(str(folder), args)).renewed

    synced(folder, repository)
    assert list(renewed()) == [True, False, False]
