"""Rounds of a source: who asks for one is told of one that began later; and how long a remote that was never heard of is waited for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dicode.git.trees import RepoState
from dicode.source import remotes
from dicode.source.remotes import OWN, Remotes
from dicode.source.rounds import MISSING_ROOT, Rounds
from dicode.spec.trees import CommitInfo, Repo


def test_who_asks_during_a_round_gets_another_one_at_once() -> None:
    rounds = Rounds(rescan=10)
    assert rounds.want() == 1
    rounds.begin()
    assert rounds.want() == 2, "what is under way may have passed by what he means"
    rounds.through(now=5, polled=False)
    rounds.end()
    assert (rounds.done, rounds.at) == (1, 0.0)
    rounds.begin()
    rounds.spend(3)
    rounds.through(now=20, polled=False)
    rounds.end()
    assert (rounds.done, rounds.at) == (2, 30)
    rounds.within(None, now=21)
    rounds.within(4, now=21)
    assert rounds.at == 25


def test_without_a_root_it_is_looked_for_often_and_nobody_waits() -> None:
    rounds = Rounds(rescan=3600)
    assert rounds.want() == 1
    rounds.fail(now=7)
    assert (rounds.begun, rounds.done, rounds.at) == (1, 1, 7 + MISSING_ROOT)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(remotes, "mono", lambda: clock.now)
    return clock


def test_a_remote_that_is_not_heard_of_for_5_s_is_late_but_not_while_others_still_answer(clock: SimpleNamespace) -> None:
    repo = Repo("https://git.invalid/x", trusted=True)
    states = {repo: RepoState(repo)}
    repositories = SimpleNamespace(follow=lambda owner, wants: None, state=states.__getitem__)
    tools = SimpleNamespace(repositories=lambda: repositories, answered_at=0.0)
    mine = Remotes("infra", repo, 30_000, tools)  # type: ignore[arg-type]
    mine.follow(None)
    assert mine.is_expecting() and mine.late_at == 105 and mine.unreachable() is None
    clock.now, tools.answered_at = 105.0, 103.0  # this machine is busy with all the others
    assert mine.is_expecting() and mine.late_at == 108
    clock.now = 108.0
    assert not mine.is_expecting()
    assert mine.unreachable() == ("NoAnswerYet", "not read yet: the remote has not answered for 5 s; it is waited for")
    tools.answered_at = 108.0
    assert not mine.is_expecting() and mine.unreachable() is not None, "what was said is not taken back"

    states[repo] = RepoState(repo, problem=("TimedOut", "no answer within 60 s"), rounds=1)
    assert not mine.is_expecting() and mine.unreachable() == ("TimedOut", "no answer within 60 s")
    states[repo] = RepoState(repo, CommitInfo("c", "t"), rounds=2)
    assert not mine.is_expecting() and mine.unreachable() is None
    assert next(mine.news()).tree == OWN and mine.late_at == float("inf"), "nothing is waited for any more"
