"""What a commit is to a reader: who, when, its first line, and what its root holds that is not supported. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dicode.spec.trees import CommitInfo

MAX_TEXT = 200  # characters of an author or a subject
MAX_ENTRIES = 100_000  # of a root that are looked at
GITLINK = b"160000"
_TREE = re.compile(rb"tree ([0-9a-f]{40})")
_PERSON = re.compile(rb"(.*?) ?<([^<>]*)> (-?[0-9]{1,12})(?: [+-][0-9]{4})?")


def summary(id: str, text: bytes) -> CommitInfo:
    """Of a commit's own text. Raises ValueError when it is none."""
    head, _, message = text.partition(b"\n\n")
    tree = _TREE.match(head)
    if tree is None:
        raise ValueError("a commit without a tree")
    fields: dict[bytes, bytes] = {}
    for line in head.split(b"\n"):
        name, _, value = line.partition(b" ")
        fields.setdefault(name, value)
    encoding = fields.get(b"encoding", b"utf-8").decode("ascii", "replace")
    author = _PERSON.fullmatch(fields.get(b"author", b""))
    committer = _PERSON.fullmatch(fields.get(b"committer", b""))
    return CommitInfo(
        id,
        tree[1].decode(),
        clean(f"{_decoded(author[1], encoding)} <{_decoded(author[2], encoding)}>".strip()) if author else "",
        int(committer[3]) * 1000 if committer else 0,
        clean(_decoded(message.lstrip(b"\n").partition(b"\n")[0], encoding)),
    )


def _decoded(text: bytes, encoding: str) -> str:
    try:
        return text.decode(encoding, "replace")
    except LookupError:
        return text.decode("utf-8", "replace")


def clean(text: str) -> str:
    """For a terminal and a page: nothing that is not shown, blanks single, not too long."""
    shown = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * MAX_TEXT]).split())
    return shown if len(shown) <= MAX_TEXT else f"{shown[: MAX_TEXT - 1]}…"


class Entry(NamedTuple):
    mode: bytes
    name: bytes
    id: bytes


def entries(tree: bytes) -> Iterator[Entry]:
    """Of a tree object. Ends where it stops making sense."""
    at = 0
    for _ in range(MAX_ENTRIES):
        blank, nul = tree.find(b" ", at), tree.find(b"\0", at)
        if not at < blank < nul or nul + 21 > len(tree):
            return
        yield Entry(tree[at:blank], tree[blank + 1 : nul], tree[nul + 1 : nul + 21])
        at = nul + 21


def notes(root: bytes, start: Callable[[bytes], bytes]) -> tuple[str, ...]:
    """What the root of a commit holds that is not supported. `start(id)` gives the first bytes of a blob."""
    found = set()
    for entry in entries(root):
        if entry.mode == GITLINK or entry.name == b".gitmodules":
            found.add("submodules")
        elif entry.name == b".gitattributes" and entry.mode.startswith(b"100") and b"filter=lfs" in start(entry.id):
            found.add("git-lfs")
    return tuple(sorted(found))
