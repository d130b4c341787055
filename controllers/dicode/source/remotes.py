"""The repositories that one composed source draws from: which they are, at which commit of each it stands, what is asked of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dicode.git.trees import Repositories, RepoState
from dicode.process.clock import mono
from dicode.source.tools import Tools
from dicode.source.work import Problem
from dicode.spec.config import default_name
from dicode.spec.expand import Expansion
from dicode.spec.trees import CommitInfo, Repo

NEVER = 7 * 86_400_000  # ms between polls of what is not polled
OWN = ""  # the key of the source's own tree
ANSWER_WITHIN = 5.0  # seconds in which a remote is expected to answer for the first time: nobody waits longer without a word
NOT_YET: Problem = ("NoAnswerYet", f"not read yet: the remote has not answered for {ANSWER_WITHIN:g} s; it is waited for")


class News(NamedTuple):
    """Of one tree: its repository has another commit than the source stands at, or none, and there is a reason."""

    tree: str
    repo: Repo
    state: RepoState


class Remotes:
    """For source `name`, whose own repository is `own` and polled each `every` ms, if it has one.

    `commits`: by the key of the tree; whoever takes one up notes it there. Nothing is opened before something is followed.
    """

    def __init__(self, name: str, own: Repo | None, every: int, tools: Tools) -> None:
        self.own = own
        self.commits: dict[str, CommitInfo] = {}
        self._name = name
        self._every = every
        self._tools = tools
        self._repos: dict[str, Repo] = {OWN: own} if own is not None else {}
        self._followed: dict[Repo, int] = {}
        self._asked_since = math.inf  # the last one that is new here
        self._late = False  # one does not answer, and people are told so
        self.late_at = math.inf  # when an answer that is expected will be late
        self._closed = False
        self._asked: float | None = None  # for news, by a push at that moment; 0.0: by somebody
        self._syncs: dict[Repo, int] = {}

    @property
    def _repositories(self) -> Repositories:
        return self._tools.repositories()

    # ── which ──

    def follow(self, expansion: Expansion | None) -> None:
        """Draw from what an expansion names, and say so when that is something else than before."""
        own = {OWN: self.own} if self.own is not None else {}
        wants = {repo: interval or NEVER for repo, interval in (expansion.polls if expansion is not None else {}).items()}
        if self.own is not None:
            wants[self.own] = self._every
        self._repos = {**(expansion.repos if expansion is not None else {}), **own}
        if wants != self._followed and not self._closed:
            self._repositories.follow(self._name, wants)
            self._asked_since = mono() if wants.keys() - self._followed.keys() else self._asked_since
            self._followed = wants
        self._sync()

    def leave(self) -> None:
        """Ask for nothing until `follow`."""
        if self._followed:
            self._repositories.follow(self._name, {})
            self._followed = {}

    def close(self) -> None:
        self._closed = True
        self.leave()

    def repo(self, tree: str) -> Repo | None:
        """None for trees that are no repositories, and those nobody draws from any more."""
        return self._repos.get(tree)

    # ── what is new ──

    def ask(self, pushed_at: float) -> None:
        """Look at all remotes now."""
        if self._repos:
            self._asked = max(pushed_at, self._asked or 0.0)
            self._sync()

    def _sync(self) -> None:
        if self._asked is None or not self._followed:
            return
        pushed_at, self._asked = self._asked, None
        for repo in self._followed:
            self._syncs[repo] = self._repositories.sync(repo, pushed_at)

    def take_syncs(self) -> dict[Repo, int]:
        """The rounds of each that were asked for since."""
        syncs, self._syncs = self._syncs, {}
        return syncs

    def has_done(self, syncs: Mapping[Repo, int]) -> bool:
        """Are these over, and is of every repository known whether it can be had?

        Who asked is not answered with what a mirror holds of a repository that was named only since.
        """
        states = {repo: self._repositories.state(repo) for repo in self._repos.values()}
        known = all(map(_is_known, states.values()))
        return known and all(state.rounds >= syncs.get(repo, 1 if syncs else 0) for repo, state in states.items())

    def is_expecting(self) -> bool:
        """Is nothing known yet of one of them, which may still answer in time?

        While others still answer for the first time, it may be this machine that is slow.
        """
        silent = any(not _is_known(self._repositories.state(repo)) for repo in self._repos.values())
        due = max(self._asked_since, self._tools.answered_at) + ANSWER_WITHIN
        self._late = silent and (self._late or mono() >= due)
        self.late_at = due if silent and not self._late else math.inf
        return silent and not self._late

    def news(self) -> Iterator[News]:
        for tree, repo in self._repos.items():
            state = self._repositories.state(repo)
            if state.commit != self.commits.get(tree) or (state.commit is None and state.problem is not None):
                yield News(tree, repo, state)

    def unreachable(self) -> Problem | None:
        """Why one of them cannot be asked."""
        for tree, repo in self._repos.items():
            state = self._repositories.state(repo)
            problem = NOT_YET if self._late and not _is_known(state) else state.problem
            if problem is not None:
                return problem[0], problem[1] if tree == OWN else f"{default_name(repo.url)}: {problem[1]}"
        return None

    # ── what is told of them ──

    @property
    def synced_at(self) -> int:
        return self._repositories.state(self.own).synced_at if self.own is not None else 0

    def vector(self) -> dict[str, str]:
        """As in Resolution."""
        repos = [(tree, repo) for tree, repo in sorted(self._repos.items()) if tree in self.commits]
        return {f"{repo.url}#{repo.ref_kind}={repo.ref}" if tree != OWN else "": self.commits[tree].id for tree, repo in repos}

    def notes(self) -> tuple[str, ...]:
        """What they hold that is not supported."""
        return tuple(dict.fromkeys(note for tree in self._repos if tree in self.commits for note in self.commits[tree].notes))


def _is_known(state: RepoState) -> bool:
    """Does anybody know whether it can be had?"""
    return state.commit is not None or state.rounds > 0
