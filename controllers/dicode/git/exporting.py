"""Folders of commits as files on this disk, read-only, under the id of their tree: what TASK_SET_DIR is for a git source.

An export is made aside and then renamed, so it is there whole or not at all, and one of the same tree is made once for all.
What has no place on a disk is left out: submodules, links that lead out, names that git would not make, what is broken. Blocks.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
from typing import NamedTuple

from dicode.git.commits import FILES, FOLDER, LINK, Commit, Entry, NoFolder
from dicode.git.exports import remove
from dicode.git.frames import GitFault
from dicode.git.packs import Unusable
from dicode.spec.folder import MAX_LINK, bad_git_name, bad_links

MAX_FILES = 50_000
MAX_BYTES = 256 * 1024**2
MAX_DEPTH = 64
MAX_PATH = 2_000  # bytes of a path in an export: with the folder it stands in still fewer than Linux allows


class _Plan(NamedTuple):
    folders: list[str]
    files: dict[str, Entry]
    links: dict[str, str]


def export(commit: Commit, path: str, folder: str) -> str:
    """The absolute path of an export of the folder `path`, made in `folder` if it is not there. Raises GitFault, Damaged, OSError."""
    try:
        id = commit.place(path).id
        made = os.path.join(folder, id.hex())
        if os.path.isdir(made):
            os.utime(made)  # young again: it will be named next
        else:
            _make(commit, _plan(commit, id), made)
    except (NoFolder, Unusable) as error:
        raise GitFault("NotExported", f"{path or 'the root'} cannot be exported: {error}") from None
    return made


def _plan(commit: Commit, root: bytes) -> _Plan:
    """What an export holds. Raises Unusable when that is too much, Damaged."""
    plan = _Plan([], {}, {})
    weight = 0
    waiting = [("", root, 0)]
    while waiting:
        above, id, depth = waiting.pop()
        for name, entry in _entries(commit, id):
            path = posixpath.join(above, name)
            if len(path.encode(errors="surrogateescape")) > MAX_PATH:
                continue
            if entry.kind == FOLDER and depth < MAX_DEPTH:
                plan.folders.append(path)
                waiting.append((path, entry.id, depth + 1))
            elif entry.kind in (*FILES, LINK):
                with contextlib.suppress(Unusable):
                    weight += commit.size(entry.id)
                    plan.files[path] = entry
            if len(plan.files) + len(plan.folders) > MAX_FILES:
                raise Unusable(f"it holds more than {MAX_FILES:,} files: use a repository of its own for tasks, or no TASK_SET_DIR")
            if weight > MAX_BYTES:
                raise Unusable(f"it holds more than {MAX_BYTES // 1024**2} MiB: use a repository of its own for tasks, or no TASK_SET_DIR")
    for path in [path for path, (kind, _) in plan.files.items() if kind == LINK]:
        _, id = plan.files.pop(path)
        with contextlib.suppress(Unusable):
            plan.links[path] = commit.blob(id, MAX_LINK).decode(errors="surrogateescape")
    for path in [*bad_links(plan.links), *(path for path, target in plan.links.items() if "\0" in target)]:
        plan.links.pop(path, None)
    return plan


def _entries(commit: Commit, id: bytes) -> list[tuple[str, Entry]]:
    """What a disk could hold of a folder. Raises Damaged."""
    try:
        node = commit.node(id)
    except Unusable:
        return []
    return [(name, entry) for name, entry in node.entries.items() if bad_git_name(name) is None and name not in node.twice]


def _make(commit: Commit, plan: _Plan, made: str) -> None:
    aside = os.path.join(os.path.dirname(made), f".{os.path.basename(made)}.{os.getpid()}.{os.urandom(4).hex()}")
    os.makedirs(aside, mode=0o700)
    try:
        for path in plan.folders:  # each after the one it stands in
            os.mkdir(os.path.join(aside, path), 0o700)
        for path, (kind, id) in plan.files.items():
            with contextlib.suppress(Unusable):
                _write(os.path.join(aside, path), commit.blob(id, MAX_BYTES), 0o555 if kind == "x" else 0o444)
        for path, target in plan.links.items():  # last: no file passes through one
            os.symlink(target, os.path.join(aside, path))
        for path in reversed(["", *plan.folders]):
            os.chmod(os.path.join(aside, path), 0o555)
        with contextlib.suppress(FileExistsError):  # another child was first, which is as good
            os.rename(aside, made)
    finally:
        if os.path.isdir(aside):
            remove(aside)


def _write(path: str, content: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(fd, mode)
