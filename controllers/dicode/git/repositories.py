"""Every repository that some source draws from: when it is looked at, what is known of it, and who hears of it. `GitRepositories` is `Repositories`.

All repos of one URL are one key of the queue; of these, all that are reached in one way share a session, so one list of refs and at most one
pack. What was last good is learned from the mirror before the network is touched. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random  # noqa: TID251  # jitter of polls and backoff only
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from dicode.git.frames import GitFault, Limits, Outcome, SweepArgs, SyncArgs, Synced, Wanted
from dicode.git.remote import Remote, own_ref, parse
from dicode.git.session import Children, Session
from dicode.git.trees import RepoState, Tree
from dicode.process.clock import mono, wall_ms
from dicode.process.logs import Log
from dicode.process.queue import KeyedQueue
from dicode.process.role import explain
from dicode.spec.access import place_of_url
from dicode.spec.trees import CommitInfo, Repo

if TYPE_CHECKING:
    from dicode.git.committed import Memory, Readers  # they need the git library: only imported when a tree is read

WIDTH = 512  # URLs that have a turn at the same time; most of them wait for a place
PER_HOST = 4  # syncs with one host at the same time: one that hangs keeps nobody else's waiting
JITTER = 0.1  # of a poll interval, either way
SHORTEST = 1.0  # seconds between two polls of one URL
BACKOFF_FIRST = 1.0  # seconds; doubled with each failure, and of that a random part
BACKOFF_MAX = 300.0
BACKOFF_LEAST = 0.25
BUSY_FROM = 5  # doublings a remote begins with that asks to be left alone
SURE_AFTER = 5  # failures in a row after which a permanent one is believed of a repository that was good before
PUSH_AGAIN = (1.0, 5.0)  # seconds after which to look again when a push was told of that is not to be seen: hosts answer from copies
DAMAGE_PAUSE = 10.0  # seconds between two syncs because a mirror was found damaged
SWEEP_EVERY = 86_400.0
SWEEP_FIRST = 600.0  # seconds after the start in which everybody says what he follows


class _Way(NamedTuple):
    """How a URL is reached: repos with the same way can share a session."""

    url: str
    token_env: str
    ssh_key: str
    known_hosts: str
    trusted: bool


def _way(repo: Repo) -> _Way:
    return _Way(repo.url, repo.token_env, repo.ssh_key, repo.known_hosts, repo.trusted)


@dataclass(eq=False)
class _Followed:
    """A repo that somebody draws from. `owners`: who, and how often it is looked at for them (ms)."""

    repo: Repo
    state: RepoState
    owners: dict[str, int] = field(default_factory=dict)
    recalled: bool = False  # the mirror was asked what is known
    failures: int = 0
    due: float = 0.0  # when it is looked at next, on the clock of `mono`; 0: now
    syncing: bool = False
    asked: bool = False  # somebody waits for a round that has not begun
    waited: bool = False  # somebody waits for the round that runs
    pushed_at: float = 0.0
    pushes_seen: int = 0  # times we looked for what a push announced


class GitRepositories:
    """See the protocol `Repositories`. Nothing is started before something is followed."""

    def __init__(
        self,
        data_dir: str,
        environ: Mapping[str, str],
        log: Log | None,
        woken: Callable[[str], None],
        limits: Limits | None = None,
        spread: bool = True,
    ) -> None:
        """`woken(owner)` is called when the state of a repo it draws from has changed. `environ`: where tokens are looked up, and the proxies.

        `spread`: polls are jittered, and 200 repositories do not poll at once; a test may want to know when.
        """
        self._mirrors = os.path.join(data_dir, "mirrors")
        self._exports = os.path.join(data_dir, "exports")
        self._environ = environ
        self._log = log
        self._woken = woken
        self._limits = limits or Limits()
        self._spread = spread
        self.children = Children(environ, self._limits, self._damaged)
        self._queue: KeyedQueue[str] = KeyedQueue(self._work, on_error=self._failed, width=WIDTH)
        self._followed: dict[Repo, _Followed] = {}
        self._by_url: dict[str, dict[Repo, _Followed]] = {}
        self._places: dict[str, asyncio.Semaphore] = {}  # by host
        self._damage_at: dict[str, float] = {}  # URL → when a mirror was last synced because it was damaged
        self._readers: Readers | None = None
        self._memories: dict[Repo, Memory] = {}

    async def run(self) -> None:
        """Keep commits coming, until cancelled."""
        sweeping = asyncio.create_task(self._sweep_now_and_then(), name="mirrors")
        try:
            await self._queue.run()
        finally:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
            await self.close()

    async def close(self) -> None:
        """End all children. What is followed stays followed."""
        if self._readers is not None:
            await self._readers.close()
        await self.children.close()

    # ── Repositories ──

    def follow(self, owner: str, wants: Mapping[Repo, int]) -> None:
        for repo in [repo for repo, each in self._followed.items() if owner in each.owners and repo not in wants]:
            self._leave(owner, repo)
        for repo, every in wants.items():
            each = self._followed.get(repo)
            if each is None:
                each = self._followed[repo] = _Followed(repo, RepoState(repo))
                self._by_url.setdefault(repo.url, {})[repo] = each
            if each.owners.get(owner) == every:
                continue
            each.owners[owner] = every
            self._hurry(each)
            self._queue.add(repo.url)

    def _leave(self, owner: str, repo: Repo) -> None:
        each = self._followed[repo]
        del each.owners[owner]
        if each.owners:
            return
        del self._followed[repo]
        self._memories.pop(repo, None)
        there = self._by_url[repo.url]
        del there[repo]
        if not there:
            del self._by_url[repo.url]
            self._damage_at.pop(repo.url, None)
            self._queue.add(repo.url)  # when nothing is followed any more, its turn closes the door

    def state(self, repo: Repo) -> RepoState:
        each = self._followed.get(repo)
        return RepoState(repo) if each is None else each.state

    def sync(self, repo: Repo, pushed_at: float = 0.0) -> int:
        asked = self._followed.get(repo)
        if asked is None:
            return 0
        for each in self._by_url[repo.url].values():
            self._hurry(each)
            each.asked = True
            each.pushed_at, each.pushes_seen = pushed_at or each.pushed_at, 0
        self._queue.add(repo.url)
        return asked.state.rounds + (2 if asked.syncing else 1)

    def tree(self, repo: Repo, commit: CommitInfo, name: str) -> Tree:
        from dicode.git.committed import GitTree, Memory, Readers

        if self._readers is None:
            self._readers = Readers(self.children)
        memory = self._memories.setdefault(repo, Memory())
        return GitTree(self._readers, self._mirror_of(parse(repo.url, trusted=repo.trusted)), commit, name, self._exports, memory)

    def _hurry(self, each: _Followed) -> None:
        each.due = 0.0
        each.failures = 0
        if each.state.stalled:
            each.state = each.state._replace(stalled=False)

    # ── one URL ──

    async def _work(self, url: str) -> float | None:
        """Sync what is due; gives the seconds until something is again."""
        now = mono()
        ways: dict[_Way, list[_Followed]] = {}
        for each in self._by_url.get(url, {}).values():
            if not each.state.stalled:
                ways.setdefault(_way(each.repo), []).append(each)
        for way, those in ways.items():
            if any(each.due <= now or each.asked for each in those):
                await self._round(way, those)
        waiting = [each.due for each in self._by_url.get(url, {}).values() if not each.state.stalled]
        if not self._followed:
            await self.close()
        return max(0.0, min(waiting) - mono()) if waiting else None

    async def _round(self, way: _Way, those: list[_Followed]) -> None:
        """One session with the remote for all repos that are reached in one way."""
        await self._recall(way, those)  # what is served meanwhile waits for no host
        async with self._places.setdefault(place_of_url(way.url), asyncio.Semaphore(PER_HOST)):
            await self._round_here(way, those)

    async def _round_here(self, way: _Way, those: list[_Followed]) -> None:
        for each in those:
            each.syncing, each.waited, each.asked = True, each.asked, False
        try:
            try:
                remote = parse(way.url, trusted=way.trusted)
                async with self.children.session(tls=remote.scheme == "https") as session:
                    synced = await self._sync(session, remote, way, those)
            except GitFault as fault:
                for each in those:
                    self._settle(each, fault)
                return
            for each, outcome in zip(those, synced.outcomes, strict=True):
                self._settle(each, outcome, synced.renewed)
        finally:
            for each in those:
                each.syncing = False
        if synced.renewed:
            self._sync_others(way)
        if synced.worn:
            await self._pack(remote)

    async def _recall(self, way: _Way, those: Iterable[_Followed]) -> None:
        """What the mirror knows of repos that are new here: good enough to serve until the remote has answered."""
        new = {own_ref(each.repo): each for each in those if not each.recalled}
        with suppress(GitFault):  # the round that follows says what is wrong
            mirror = self._mirror_of(parse(way.url, trusted=way.trusted))
            found: dict[str, CommitInfo] = {}
            if new and os.path.isdir(mirror):
                async with self.children.session() as session:
                    found = await session.one("known", mirror, list(new), dict[str, CommitInfo])
            for ref, each in new.items():
                each.recalled = True
                if ref in found and each.state.commit is None:
                    self._becomes(each, each.state._replace(commit=found[ref]))

    async def _sync(self, session: Session, remote: Remote, way: _Way, those: list[_Followed]) -> Synced:
        token = self._environ.get(way.token_env, "") if way.token_env else ""
        if way.token_env and not token:
            raise GitFault(
                "MissingSecret", f"the environment variable {way.token_env} is not set: set it where the source-controller starts", permanent=True
            )
        wanted = [Wanted(each.repo, each.state.commit.id if each.state.commit is not None else "") for each in those]
        return await session.one("sync", self._mirror_of(remote), SyncArgs(wanted, token, self._limits), Synced)

    def _settle(self, each: _Followed, what: Outcome | GitFault, renewed: bool = False) -> None:
        """A round has ended for this repo."""
        before, state = each.state, each.state
        fault = what if isinstance(what, GitFault) else None if what.fault is None else GitFault(*_words(what))
        if fault is None:
            assert isinstance(what, Outcome)
            each.failures = 0
            new = what.commit is not None and (before.commit is None or what.commit.id != before.commit.id)
            commit = what.commit if what.commit is not None else before.commit
            pushed_at = each.pushed_at if new else before.pushed_at
            state = state._replace(commit=commit, problem=None, stalled=False, synced_at=wall_ms(), pushed_at=pushed_at)
            each.due = mono() + self._pause(each, new)
        else:
            each.failures += 1
            sure = before.commit is None or each.failures >= SURE_AFTER
            state = state._replace(problem=(fault.reason, str(fault)), stalled=fault.permanent and sure)
            each.due = mono() + self._pause_after(each, fault)
        self._becomes(each, state._replace(rounds=before.rounds + 1), always=renewed or each.waited)

    def _becomes(self, each: _Followed, state: RepoState, *, always: bool = False) -> None:
        before, each.state = each.state, state
        first = before.rounds == 0
        if always or first or _shown(before) != _shown(state):
            for owner in list(each.owners):
                self._woken(owner)

    def _pause(self, each: _Followed, new: bool) -> float:
        """Until the next look at a repo that is well."""
        every = max(SHORTEST, min(each.owners.values(), default=0) / 1000)
        if new:
            each.pushed_at = 0.0
        elif each.pushed_at and each.pushes_seen < len(PUSH_AGAIN):
            each.pushes_seen += 1
            return min(every, PUSH_AGAIN[each.pushes_seen - 1])
        else:
            each.pushed_at = 0.0
        if not self._spread:
            return every
        if each.state.rounds == 0:
            return every * (0.1 + 0.9 * _share(each.repo.url))
        return every * random.uniform(1 - JITTER, 1 + JITTER)

    def _pause_after(self, each: _Followed, fault: GitFault) -> float:
        """Until the next try. A ref that is not there is no failure of the remote: it is looked for as often as always."""
        if fault.reason == "RefNotFound" and not fault.permanent:
            each.failures = 0
            return self._pause(each, False)
        doubled = each.failures - 1 + (BUSY_FROM if fault.reason == "Busy" else 0)
        most = min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** min(doubled, 20))
        return max(BACKOFF_LEAST, random.uniform(0, most)) if self._spread else most

    # ── care for the mirrors ──

    def _mirror_of(self, remote: Remote) -> str:
        return os.path.join(self._mirrors, remote.folder)

    def _sync_others(self, way: _Way) -> None:
        """The mirror was made anew for us; who reaches it in another way has to see whether his commit came along."""
        others = [each for each in self._by_url.get(way.url, {}).values() if _way(each.repo) != way and not each.state.stalled]
        for each in others:
            each.due = 0.0
        if others:
            self._queue.add(way.url)

    def _damaged(self, mirror: str) -> None:
        """A reader found it damaged, and has said so in it: a sync makes it anew."""
        for url, those in list(self._by_url.items()):
            first = next(iter(those))
            with suppress(GitFault):
                if self._mirror_of(parse(url, trusted=first.trusted)) != mirror:
                    continue
                last = self._damage_at.get(url)
                if last is not None and mono() - last < DAMAGE_PAUSE:
                    return
                self._damage_at[url] = mono()
                for each in those.values():
                    self._hurry(each)
                self._queue.add(url)

    async def _pack(self, remote: Remote) -> None:
        """In a session of its own: it may fail, then the mirror is cloned again when it is really worn."""
        try:
            async with self.children.session() as session:
                await session.one("repack", self._mirror_of(remote), self._limits, int)
        except GitFault as fault:
            self._say(f"mirror of {remote.host or remote.path}: packing failed: {fault}")

    async def _sweep_now_and_then(self) -> None:
        pause = SWEEP_FIRST
        while True:
            await asyncio.sleep(pause)
            pause = SWEEP_EVERY
            if not os.path.isdir(self._mirrors):
                continue
            keep: list[str] = []
            for repo in self._followed:
                with suppress(GitFault):
                    keep.append(parse(repo.url, trusted=repo.trusted).folder)
            with suppress(GitFault):
                async with self.children.session() as session:
                    await session.one("sweep", self._mirrors, SweepArgs(keep), int)
            if not self._followed:
                await self.close()

    def _failed(self, url: str, error: BaseException, delay: float) -> None:
        self._say(f"git: {explain(error)}; again in {delay:g} s")  # without the URL: who may have written what into it

    def _say(self, line: str) -> None:
        if self._log is not None:
            self._log.say(line)


def _words(outcome: Outcome) -> tuple[str, str, bool]:
    assert outcome.fault is not None
    return outcome.fault.reason, outcome.fault.message, outcome.fault.permanent


def _shown(state: RepoState) -> tuple[object, ...]:
    """What an owner would show or act on."""
    return state.commit, state.problem, state.stalled


def _share(url: str) -> float:
    """Of each URL its own number from 0 to 1, always the same."""
    return int.from_bytes(hashlib.sha256(url.encode()).digest()[:4], "big") / 2**32
