"""Packs: many small bundles in one file, because making ten thousand files costs a disk more than all that is in them.

A pack is a tar of bundles behind an `index`, written whole or not at all and never changed; any tar lists and opens it. What
leaves it (a bundle that is bad, or that nobody needs) leaves behind a new pack without it.
"""

from __future__ import annotations

import contextlib
import os
import re
import tarfile
from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from dicode.process.ustar import member

SUFFIX = ".pack"
_LINE = re.compile(rb"([0-9a-f]{64}) ([0-9]{12}) ([0-9]{12})\n")  # digest, where its tar begins in the file, bytes
_LINE_SIZE = 64 + 12 + 12 + 3


class Spot(NamedTuple):
    """Where the tar of one bundle lies."""

    pack: str
    offset: int
    size: int


class Packs:
    """The packs in one folder. All methods block; any number of processes may use them at once.

    Indexes are read once and remembered: a pack of a name never changes, it only goes away.
    """

    def __init__(self, folder: Path, passing_name: Callable[[str], str]) -> None:
        self._folder = folder
        self._passing_name = passing_name
        self._packs: dict[str, dict[str, Spot]] = {}
        self._spots: dict[str, Spot] = {}
        self._looked = False

    def write(self, bundles: Mapping[str, bytes], dated: float | None = None) -> None:
        """Store these: digest → tar. `dated`: the age of the pack, when it is not new. Raises OSError: then none is stored."""
        name = sha256("".join(sorted(bundles)).encode()).hexdigest()[:32] + SUFFIX
        index, content = _packed(name, bundles)
        write_whole(self._folder / name, content, self._folder / self._passing_name(name), dated)
        self._packs[name] = index
        self._spots.update(index)

    def find(self, digest: str) -> bytes | None:
        """The tar of this bundle as it lies there; None when no pack holds it."""
        for again in (True, False):
            spot = self._spots.get(digest)
            if spot is not None:
                with contextlib.suppress(FileNotFoundError):  # written anew by another process
                    return self._bytes(spot)
            if not again or not self.refresh(os.listdir(self._folder)):
                break
        return None

    def _bytes(self, spot: Spot) -> bytes:
        fd = os.open(self._folder / spot.pack, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, spot.size, spot.offset)
        finally:
            os.close(fd)

    def touch(self, digest: str) -> bool:
        """Make the pack that holds it young again; False when none does, as far as we know."""
        if not self._looked:
            self.refresh(os.listdir(self._folder))
        spot = self._spots.get(digest)
        if spot is None:
            return False
        try:
            os.utime(self._folder / spot.pack)
        except FileNotFoundError:
            return False
        return True

    def digests(self) -> dict[str, Spot]:
        """All that are in packs, as of the last `refresh`."""
        return self._spots

    def refresh(self, names: Iterable[str]) -> bool:
        """Learn of packs that others made or took away; `names` is what lies in the folder now. False: we knew."""
        self._looked = True
        there = {name for name in names if name.endswith(SUFFIX) and not name.startswith(".")}
        if there == self._packs.keys():
            return False
        packs = {name: index for name in there if (index := self._packs.get(name) or self._index(name))}
        self._spots = {digest: spot for index in packs.values() for digest, spot in index.items()}
        self._packs = packs
        return True

    def _index(self, name: str) -> dict[str, Spot]:
        """What a pack says it holds; a damaged one (a power cut) is set aside, and what was in it is made again."""
        try:
            with open(self._folder / name, "rb") as file:
                written = file.read(tarfile.BLOCKSIZE)[124:135]
                size = int(written, 8) if re.fullmatch(rb"[0-7]{11}", written) else 0
                text = file.read(size)
        except OSError:
            return {}
        if not text or len(text) != size:
            with contextlib.suppress(OSError):
                os.replace(self._folder / name, self._folder / f"{name}.bad")
            return {}
        return {digest.decode(): Spot(name, int(offset), int(size)) for digest, offset, size in _LINE.findall(text)}

    def drop(self, digests: Collection[str]) -> None:
        """No pack holds these any more. Raises OSError: then some still do, and nothing else is lost."""
        self.refresh(os.listdir(self._folder))
        for name, index in list(self._packs.items()):
            if not index.keys().isdisjoint(digests):
                self._leave_out(name, index, digests)

    def _leave_out(self, name: str, index: Mapping[str, Spot], digests: Collection[str]) -> None:
        with contextlib.suppress(FileNotFoundError):  # another process was first: what it left is found the next time
            dated = (self._folder / name).stat().st_mtime
            left = {digest: self._bytes(spot) for digest, spot in index.items() if digest not in digests}
            if left:
                self.write(left, dated)
            os.unlink(self._folder / name)
        self.refresh(os.listdir(self._folder))


def write_whole(path: Path, content: bytes, passing: Path, dated: float | None = None) -> None:
    """A file with this content at `path`, or none; `passing` is its name while it is made. Raises OSError."""
    try:
        with open(passing, "xb", buffering=0) as out:
            left = memoryview(content)
            while left:
                left = left[out.write(left) :]  # a disk that is nearly full takes a part, and refuses the rest
        if dated is not None:
            os.utime(passing, (dated, dated))
        os.replace(passing, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(passing)  # a full disk must not fill up with halves
        raise


def _packed(name: str, bundles: Mapping[str, bytes]) -> tuple[dict[str, Spot], bytes]:
    """The index, and the bytes of the pack."""
    lines: list[bytes] = []
    parts: list[bytes] = []
    index: dict[str, Spot] = {}
    at = tarfile.BLOCKSIZE + _blocks(_LINE_SIZE * len(bundles))
    for digest, tar in bundles.items():
        head, content, filler = member(f"{digest}.tar", "-", tar)
        index[digest] = Spot(name, at + len(head), len(tar))
        lines.append(b"%b %012d %012d\n" % (digest.encode(), at + len(head), len(tar)))
        parts += (head, content, filler)
        at += len(head) + len(content) + len(filler)
    return index, b"".join((*member("index", "-", b"".join(lines)), *parts, bytes(2 * tarfile.BLOCKSIZE)))


def _blocks(size: int) -> int:
    return size + -size % tarfile.BLOCKSIZE
