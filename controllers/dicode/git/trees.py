"""What a source asks of its trees: the same questions whether files lie on this disk or in a commit.

`LocalTree` (dicode.source.local) and `GitTree` (committed.py) answer them; `Repositories` (repositories.py) keeps commits coming.
Everything here only says what is promised.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from dicode.spec.trees import CommitInfo, Finding, FolderRead, Look, Repo, Want


class TreeGone(Exception):
    """The tree cannot be read now: root not there, mirror damaged, reader killed by a limit. The text says why, for a
    condition, in our own words; `reason` is one word in CamelCase."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Tree(Protocol):
    """One tree at one moment. All paths are relative to its root. Every method may raise TreeGone.

    What is wrong with single files or folders comes back in the values, as faults that name `shown(path)`.
    """

    def shown(self, path: str) -> str:
        """How a file or folder of this tree is called in faults: `/abs/path`, `infra@abc1234:path`."""
        ...

    async def look(self, paths: Sequence[str]) -> dict[str, Look]:
        """What refs to these paths mean."""
        ...

    async def find(self, path: str) -> Finding:
        """The task folders of a plain source whose root is `path`."""
        ...

    def read(self, wants: Sequence[Want]) -> AsyncIterator[list[FolderRead]]:
        """Read task folders, a few at a time, so that what came first can be written while the rest is read."""
        ...

    async def export(self, path: str) -> str:
        """An absolute path on this machine where the folder `path` can be read: TASK_SET_DIR."""
        ...


class RepoState(NamedTuple):
    """What is known of a repository. `commit`: the last good one, served whatever happens to the remote.

    `problem`: (reason, message) of the last sync, if it failed. `stalled`: it is not tried again until asked.
    `rounds`: syncs that ended since the start, well or not. `pushed_at`: of the push webhook that asked for the sync
    which brought this commit, seconds since the epoch; 0.0 when nothing but the timer did.
    """

    repo: Repo
    commit: CommitInfo | None = None
    problem: tuple[str, str] | None = None
    stalled: bool = False
    rounds: int = 0
    synced_at: int = 0  # of the last sync that ended well, ms
    pushed_at: float = 0.0


class Repositories(Protocol):
    """Every repository that some source draws from: one bare mirror per URL, one poll and one backoff per Repo."""

    def follow(self, owner: str, wants: Mapping[Repo, int]) -> None:
        """From now on `owner` draws from these, each polled at least every so many ms; those it drew from before and
        does not name are left. `owner` is woken (the callback given at the start) when the state of one changes."""
        ...

    def state(self, repo: Repo) -> RepoState:
        """What is known now. A repo that was never heard of has no commit, no problem and no rounds."""
        ...

    def sync(self, repo: Repo, pushed_at: float = 0.0) -> int:
        """Look at the remote now, also when it was stalled; gives the number of the round that will have done so.

        All repos of the same URL are synced with it.
        """
        ...

    def tree(self, repo: Repo, commit: CommitInfo, name: str) -> Tree:
        """The files of this commit. `name` is how faults call it: the source's name, or the last part of the URL."""
        ...
