"""What the controller asks about the files of a commit, and what it is answered. No git library here: the controller needs none.

Paths and names travel as bytes, for they need not be UTF-8 (`told` and `heard`).
"""

from __future__ import annotations

import msgspec

from dicode.messages.fault import Fault
from dicode.spec.folder import FileKind


class Files(msgspec.Struct, frozen=True, array_like=True):
    """Of which commit: the id of its tree in hex. `mild`: what is missing is the fault of its task."""

    tree: str
    mild: bool


class LookFor(msgspec.Struct, frozen=True, array_like=True):
    files: Files
    paths: list[bytes]


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """One Look. `text`: the real path, or why nothing is seen."""

    kind: str  # set, task, nothing
    text: bytes
    content: bytes = b""


class FindIn(msgspec.Struct, frozen=True, array_like=True):
    """`before`: the tree of an earlier finding; then only what differs is told."""

    files: Files
    path: bytes
    before: str = ""


class FoundIn(msgspec.Struct, frozen=True, array_like=True):
    """As commits.Found."""

    tasks: list[bytes]
    gone: list[bytes]
    unreadable: list[tuple[bytes, bytes]]


class Differ(msgspec.Struct, frozen=True, array_like=True):
    files: Files
    before: str


class Differing(msgspec.Struct, frozen=True, array_like=True):
    """As commits.differences."""

    paths: list[bytes] | None


class WantOf(msgspec.Struct, frozen=True, array_like=True):
    """As trees.Want."""

    path: bytes
    key: str
    include: list[bytes]
    ignore: list[bytes]
    fingerprint: str
    includes: list[bytes]


class Read(msgspec.Struct, frozen=True, array_like=True):
    """`shown`: how faults call the root: `infra@abc1234:`."""

    files: Files
    shown: str
    wants: list[WantOf]


class TaskRead(msgspec.Struct, frozen=True, array_like=True):
    """What came of the want of this number. `content`: files and faults, None when there is no task any more."""

    number: int
    content: tuple[list[tuple[str, FileKind, bytes]], list[Fault]] | None
    fingerprint: str
    includes: list[bytes]
    ignore: list[bytes]


class SomeRead(msgspec.Struct, frozen=True, array_like=True):
    """`same`: numbers of the wants whose fingerprints hold."""

    same: list[int]
    read: list[TaskRead]


class Export(msgspec.Struct, frozen=True, array_like=True):
    """`into`: the folder of all exports, absolute."""

    files: Files
    path: bytes
    into: str


def told(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def heard(data: bytes) -> str:
    return data.decode(errors="surrogatepass")
