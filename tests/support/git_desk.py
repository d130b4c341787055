"""Repositories as the source-controller has them, against remotes that a test plays: what they know, and what stands in their mirrors."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from tests.support.git_remote import Server
from tests.support.waiting import until

from dicode.git.frames import Limits
from dicode.git.remote import parse
from dicode.git.repositories import GitRepositories
from dicode.git.trees import RepoState
from dicode.spec.trees import Repo

HOUR = 3_600_000  # ms: no timer is the reason for anything
CANARY = "CANARY-0f1e2d3c"
WORDS = ("THE-REMOTES-WORDS", CANARY, "SECRET-METADATA")


def lived(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))  # type: ignore[arg-type]

    return run


class Desk:
    """Repositories as the source-controller has them, and a look at what they know."""

    def __init__(self, data_dir: Path, limits: Limits | None, environ: dict[str, str]) -> None:
        self.woken: list[str] = []
        passed = {"PATH": os.environ["PATH"], "HOME": str(data_dir), "DICODE_TEST_MARK": "git"}
        coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
        self.repositories = GitRepositories(str(data_dir), {**passed, **coverage, **environ}, None, self.woken.append, limits, spread=False)
        self._data = data_dir

    def mirror(self, repo: Repo) -> Path:
        return self._data / "mirrors" / parse(repo.url, trusted=repo.trusted).folder

    def state(self, repo: Repo) -> RepoState:
        return self.repositories.state(repo)

    async def follow(self, *repos: Repo, every: int = HOUR) -> RepoState:
        """The state of the first, after its first round."""
        self.repositories.follow("owner", dict.fromkeys(repos, every))
        await until(lambda: all(self.state(repo).rounds for repo in repos))
        return self.state(repos[0])

    async def sync(self, repo: Repo) -> RepoState:
        due = self.repositories.sync(repo)
        await until(lambda: self.state(repo).rounds >= due)
        return self.state(repo)


@asynccontextmanager
async def desk(data_dir: Path, limits: Limits | None = None, **environ: str) -> AsyncIterator[Desk]:
    one = Desk(data_dir, limits, environ)
    running = asyncio.create_task(one.repositories.run())
    try:
        yield one
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def main_of(server: Server, **fields: Any) -> Repo:
    return Repo(f"{server.url}/tasks.git", **{"trusted": True, **fields})


def commit_of(state: RepoState) -> str:
    return state.commit.id if state.commit is not None else ""


def reason_of(state: RepoState) -> str:
    assert state.problem is None or not any(word in state.problem[1] for word in WORDS), state.problem
    return state.problem[0] if state.problem is not None else ""


def fake_ssh(folder: Path, *, version: int) -> str:
    """A PATH with an `ssh` that runs what it is told here, and writes down how it was called."""
    folder.mkdir()
    program = folder / "ssh"
    protocol = "" if version == 2 else "unset GIT_PROTOCOL\n"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{folder}/argv\n{protocol}for last; do :; done\nexec sh -c "$last"\n')
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def children_of(here: Desk) -> list[psutil.Process]:
    assert here.repositories.children.pid is not None
    return psutil.Process(here.repositories.children.pid).children(recursive=True)


def packs(mirror: Path, suffix: str = ".pack") -> list[Path]:
    found = sorted((mirror / "objects/pack").glob(f"*{suffix}"))
    for file in found:
        file.chmod(0o600)
    return found
