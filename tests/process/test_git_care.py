"""Care for what git work stands on: the process that forks for it may be stopped, a mirror may be worn."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from tests.support.git_remote import Repository, serving
from tests.support.waiting import until

from dicode.git import session
from dicode.git.frames import Limits
from dicode.git.repositories import GitRepositories
from dicode.spec.trees import Repo

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="pidfds")]
HOUR = 3_600_000  # ms: no timer is the reason for anything


def test_a_fetcher_that_is_stopped_is_ended_and_the_next_sync_has_another(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LATE", 0.5)
    asyncio.run(_stopped(data_dir))


async def _stopped(data_dir: Path) -> None:
    repository = Repository(data_dir / "remote")
    first = repository.commit({"a": "1"})
    with serving(repository.bare.parent) as server:
        repo = Repo(f"{server.url}/tasks.git", trusted=True)
        repositories = GitRepositories(str(data_dir), dict(os.environ), None, lambda owner: None, Limits(seconds=1.0), spread=False)
        running = asyncio.create_task(repositories.run())
        try:
            repositories.follow("owner", {repo: HOUR})
            await until(lambda: repositories.state(repo).commit and repositories.state(repo).rounds)
            await until(lambda: not psutil.Process(repositories.children.pid).children())
            stopped = psutil.Process(repositories.children.pid)
            stopped.send_signal(signal.SIGSTOP)
            second = repository.commit({"a": "2"})
            due = repositories.sync(repo)
            await until(lambda: repositories.state(repo).rounds >= due)
            state = repositories.state(repo)
            assert state.problem is not None and (state.problem[0], state.stalled) == ("TimedOut", False)
            assert state.commit is not None and state.commit.id == first, "the last good one is served"
            await until(lambda: not stopped.is_running() or stopped.status() == psutil.STATUS_ZOMBIE)
            due = repositories.sync(repo)
            await until(lambda: repositories.state(repo).rounds >= due)
            now = repositories.state(repo)
            assert now.problem is None and now.commit is not None and now.commit.id == second
            assert repositories.children.pid != stopped.pid
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def test_a_mirror_of_more_packs_than_it_may_have_is_cloned_again(data_dir: Path) -> None:
    asyncio.run(_worn(data_dir))


async def _worn(data_dir: Path) -> None:
    repository = Repository(data_dir / "remote")
    repository.commit({"a": "0"})
    repo = Repo(str(repository.bare), trusted=True)
    limits = Limits(packs=1_000, worn=3)  # as where packing them together has failed each time
    repositories = GitRepositories(str(data_dir), dict(os.environ), None, lambda owner: None, limits, spread=False)
    running = asyncio.create_task(repositories.run())
    try:
        repositories.follow("owner", {repo: HOUR})
        for number in range(1, 8):
            pushed = repository.commit({"a": f"{number}"})
            due = repositories.sync(repo)
            await until(lambda due=due: repositories.state(repo).rounds >= due)  # type: ignore[misc]  # bound now
            commit = repositories.state(repo).commit
            assert commit is not None and commit.id == pushed
            (mirror,) = [folder for folder in (data_dir / "mirrors").iterdir() if folder.is_dir()]
            assert len(list((mirror / "objects/pack").glob("*.pack"))) <= limits.worn + 1
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
