"""Trees of files as sources draw from them, local or of a commit, seen as plain values. Pure.

A source has a tree of its own (key ""), and one for each repository that the refs of its TaskSets name. Places in
them are written as `At`. What a shell saw at a place is a `Look`; what stands in a task folder is a `Folder`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from dicode.spec.folder import Folder
from dicode.spec.ignore import Ignores


class At(NamedTuple):
    """A place in a tree. `tree`: "" for the source's own, else the `key` of a Repo.

    `path` is relative to the root of the tree, normalised, without a leading slash; "" is the root itself.
    """

    tree: str
    path: str


RefKind = Literal["branch", "tag", "semver", "commit"]


class Repo(NamedTuple):
    """A repository at a ref, and by which secret it is reached: what is fetched, polled and pushed to as one thing.

    `trusted`: the URL stands in dicode.yaml or was given by a person, and is obeyed; one that came out of a file of a
    source may not lead into our own network. Secrets are named, never held: `token_env` an environment variable.
    """

    url: str
    ref_kind: RefKind = "branch"
    ref: str = "main"
    token_env: str = ""
    ssh_key: str = ""
    known_hosts: str = ""
    trusted: bool = False

    @property
    def key(self) -> str:
        """One text per repository, ref and way to reach it; the key of its tree."""
        way = self.token_env or self.ssh_key
        return f"{self.url}#{self.ref_kind}={self.ref}" + (f"@{way}:{self.known_hosts}" if way else "") + ("!" if self.trusted else "")


# ── what a ref leads to ──


class SetSeen(NamedTuple):
    """A file that may be a TaskSet: the `taskset.yaml` of a folder, or a file that was named. `path` is where it really stands."""

    path: str
    content: bytes


class TaskSeen(NamedTuple):
    """A folder with a task.yaml. `path` is the folder, where it really stands."""

    path: str


class NothingSeen(NamedTuple):
    """Nothing that a ref could mean. `why` begins with a small letter: `there is no such folder`, `leads outside the root`."""

    why: str


Look = SetSeen | TaskSeen | NothingSeen


# ── reading task folders ──


class Want(NamedTuple):
    """A task folder that should be read, and what is known of it.

    `key` is "" for a folder with a task.yaml. An inline task has its KEY here, and owns of the folder only the files
    `KEY.*`, or where there are none `task.*`; then `include` and `ignore` are what its spec asks for (else they are
    learned from task.yaml). `fingerprint`: as it was given with the last reading; while it holds, nothing is read.
    `includes`: the paths of all that was included then, relative to the root of the tree.
    """

    path: str
    key: str = ""
    include: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fingerprint: str = ""
    includes: tuple[str, ...] = ()


class FolderRead(NamedTuple):
    """What came of a `Want`. `folder` is None when the fingerprint holds, or with `missing` when there is no task any more.

    `unsettled`: it moved under the reading. `newest`: of the changes stat knows of, ns; 0 in a commit.
    """

    want: Want
    folder: Folder | None = None
    fingerprint: str = ""
    includes: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    missing: bool = False
    unsettled: bool = False
    newest: int = 0


class TaskFound(NamedTuple):
    """A task folder below a root: its id there (`group/b`), its path in the tree, and the ignore rules that hold in it."""

    id: str
    path: str
    rules: Ignores = Ignores()


class Finding(NamedTuple):
    """All task folders below a root. `unreadable`: path → why; then the finding is not complete, and nothing may be taken for removed."""

    tasks: tuple[TaskFound, ...]
    unreadable: tuple[tuple[str, str], ...] = ()


class CommitInfo(NamedTuple):
    """A commit: `id` in hex, `author` as `Name <mail>`, `at` its committer time in ms since the epoch, `subject` its first line.

    `notes`: what the tree holds that is not supported, for a condition: `submodules`, `git-lfs`.
    """

    id: str
    tree: str
    author: str = ""
    at: int = 0
    subject: str = ""
    notes: tuple[str, ...] = ()
