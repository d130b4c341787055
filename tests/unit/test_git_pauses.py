"""How long a remote is left alone: as its source says, a little more or less; ever longer while it fails; not longer for what may come back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dicode.git.frames import GitFault
from dicode.git.repositories import BACKOFF_LEAST, BACKOFF_MAX, JITTER, GitRepositories, _Followed
from dicode.git.trees import RepoState
from dicode.spec.trees import Repo

MINUTE = 60_000  # ms


def repositories(*, spread: bool = True) -> GitRepositories:
    return GitRepositories(str(Path("/nowhere")), {}, None, lambda owner: None, spread=spread)


def followed(url: str = "https://h/x", rounds: int = 1) -> _Followed:
    repo = Repo(url)
    return _Followed(repo, RepoState(repo, rounds=rounds), {"owner": MINUTE, "patient": 10 * MINUTE})


def after(reason: str, times: int, *, spread: bool = False) -> list[float]:
    """The pauses after so many failures in a row."""
    here, each, pauses = repositories(spread=spread), followed(), []
    for _ in range(times):
        each.failures += 1
        pauses.append(here._pause_after(each, GitFault(reason, "")))
    return pauses


def test_each_failure_doubles_the_pause_up_to_five_minutes() -> None:
    assert after("HostUnreachable", 11) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, BACKOFF_MAX, BACKOFF_MAX]
    assert after("Busy", 4) == [32.0, 64.0, 128.0, 256.0], "who asks to be left alone is"
    assert len(after("TimedOut", 2_000)) == 2_000, "no number grows without bound"


def test_of_a_pause_a_random_part_is_waited_so_that_not_all_come_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", random.Random("pauses").uniform)
    most, parts = after("HostUnreachable", 40), after("HostUnreachable", 40, spread=True)
    assert all(BACKOFF_LEAST <= part <= whole for part, whole in zip(parts, most, strict=True))
    assert len(set(parts)) > 30


def test_a_ref_that_is_not_there_is_looked_for_as_often_as_always() -> None:
    assert after("RefNotFound", 5) == [60.0] * 5


def test_polls_are_jittered_around_the_shortest_interval_of_all_who_draw_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", random.Random("polls").uniform)
    pauses = [repositories()._pause(followed(), False) for _ in range(50)]
    assert all(60 * (1 - JITTER) <= pause <= 60 * (1 + JITTER) for pause in pauses) and len(set(pauses)) > 40


def test_after_a_start_two_hundred_repositories_do_not_come_due_together() -> None:
    dues = sorted(repositories()._pause(followed(f"https://h/{number}", rounds=0), False) for number in range(200))
    assert 0 < dues[0] and dues[-1] <= 60
    assert max(sum(due <= at < due + 3 for due in dues) for at in range(60)) < 30, "200 in a minute are ten in three seconds"
