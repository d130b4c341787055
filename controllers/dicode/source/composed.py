"""One source that is composed: of a TaskSet on this disk or in a commit, or of the task folders of a commit.

Its own tree has the key "", each repository that its refs name has one of its own. What is seen in them makes an expansion
(`Survey`), that makes places that are due (`Book`), these are read and written a few at a time. A step does one small thing
and says when to come again, so that a save waits for nobody.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable

from dicode.messages.kinds import Commit, ConfigSource, Credential
from dicode.process.clock import mono
from dicode.source.checking import Check
from dicode.source.composition import Composition
from dicode.source.decide import View
from dicode.source.ground import Ground
from dicode.source.intake import Intake
from dicode.source.local import LOOK, READ, LocalTree
from dicode.source.remotes import OWN, Remotes
from dicode.source.rounds import Rounds
from dicode.source.sets import Book, Due, Place
from dicode.source.snapshot import Root
from dicode.source.state import ALL, Burst, Dirt, Touched
from dicode.source.survey import Survey
from dicode.source.tools import Tools, burst_now, deaf
from dicode.source.work import BecamePlain, Problem
from dicode.source.writing import Pen
from dicode.spec.access import repo_of_source, rules_of
from dicode.spec.config import default_name
from dicode.spec.removal import TWICE
from dicode.spec.trees import At, CommitInfo, Repo

MAX_DUE = 100  # touches that are followed together
FETCH_WAIT = 60.0  # seconds between two looks at what nobody told us of


class ComposedSource:
    """A `Work`."""

    def __init__(
        self,
        spec: ConfigSource,
        tools: Tools,
        pen: Pen,
        rounds: Rounds,
        wake: Callable[[], None],
        *,
        dev: bool,
        credentials: tuple[Credential, ...],
    ) -> None:
        self.spec = spec
        self._tools = tools
        self._pen = pen
        self._rounds = rounds
        self._wake = wake
        self._dev = dev
        self._rules = rules_of(spec, credentials)
        own = repo_of_source(spec, credentials) if spec.type == "git" else None
        self._remotes = Remotes(spec.name, own, spec.poll_interval, tools)
        self._ground = Ground(spec, tools)
        self._local: LocalTree | None = None
        self._remote = ""
        self._misplaced: Problem | None = None  # why there is no root
        self._unsure = False  # what was seen last was seen while the root was going
        self._plain_since: float | None = None
        self._dirt = Dirt(max(spec.settle, 1) / 1000)
        self._round: Check | None = None
        self._read = False
        self._begin_anew(root_of(spec))

    def _begin_anew(self, root: At) -> None:
        """Everything that was learned of the trees is forgotten; what is written stays."""
        self._survey = Survey(self.spec.name, root, self._dev, self._rules, self._tools)
        self._book = Book()
        self._made = Composition(self._survey, self._book, self._pen, self._rounds)
        self._intake = Intake(self._book, self._survey, self._remotes, self._pen, self._dirt)
        self._remotes.commits.clear()

    # ── what others ask ──

    def touched(self, touches: list[Touched] | None) -> None:
        """Something happened on disk; None: anything may have."""
        self._ground.hear(touches, self._dirt, self._concerned)
        self._wake()

    def _concerned(self, touched: Touched) -> set[str]:
        if touched.path in self._ground.way or (self._local is not None and touched.path == self._local.root.path):
            return {ALL}
        return self._local.concerned(touched) if self._local is not None else set()

    def look_again(self, pushed_at: float = 0.0) -> int:
        """Look at everything now, also at the remotes; gives the number of the round that will have done so."""
        self._remotes.ask(pushed_at)
        self._wake()
        return self._rounds.want()

    @property
    def problem(self) -> Problem | None:
        return self._trouble() or self._remotes.unreachable()

    @property
    def synced_at(self) -> int:
        return self._remotes.synced_at

    @property
    def at_rest(self) -> bool:
        """All that was seen has been read and written."""
        return self._intake.at_rest and self._made.at_rest

    def close(self) -> None:
        self._remotes.close()
        self._ground.leave()

    def freeze(self) -> None:
        """Nothing is asked of the remotes until somebody steps again."""
        self._remotes.leave()

    # ── the loop: wait, observe, decide, act ──

    async def step(self) -> float:
        """One small piece of work; gives the seconds after which there is more. Raises BecamePlain, Lost, StoreAway, StoreFailed."""
        self._remotes.follow(self._survey.expansion)
        self._hear_commits()
        await self._hear_touches()
        self._hear_time()
        tree = self._intake.next_tree()
        looks_in = self._made.next_looks()
        if looks_in is not None:
            await self._made.look(looks_in, may_be_plain=self._remotes.own is not None)
        elif self._made.is_due:
            await self._make()
        elif tree is not None or self._intake.unwritten:
            await self._take_in(tree)
        elif self._round is not None:
            await self._go_round(self._round)
        elif mono() >= self._rounds.at:
            await self._begin_round()
        await self._tell()
        return self._rest()

    def _rest(self) -> float:
        if self._round is not None and not self._round.is_through:
            return 0.0
        if self._ground.waits_for_git and not self.at_rest:
            return self._dirt.settle
        if self._intake.next_tree() is not None or self._intake.unwritten or self._made.next_looks() is not None or self._made.is_due:
            return 0.0
        if self._round is not None and self._may_end(self._round):
            return 0.0
        times = [self._remotes.late_at, self._rounds.at if self._round is None else math.inf, self._dirt.next_due() or math.inf, mono() + FETCH_WAIT]
        times += [gone.until for gone in self._survey.gone.values()] + list(self._intake.again.values())
        return max(0.0, min(times) - mono())

    # ── what was heard ──

    async def _hear_touches(self) -> None:
        due = self._dirt.take(mono(), MAX_DUE)
        if due.pop(ALL, None) is not None:
            self._rounds.want()
        if not due or self._local is None:
            return
        if await self._tools.on_disk(self._ground.locked):
            self._dirt.wait_on(due, mono())
            return
        for key, burst in due.items():
            if key.startswith(LOOK):
                self._made.look_at([At(OWN, key.removeprefix(LOOK))], burst)
            else:
                for place in self._book.places_at(OWN, *self._local.places_of(key.removeprefix(READ))):
                    self._intake.suspect(place, burst)

    def _hear_time(self) -> None:
        """Try again what could not be done a while ago."""
        self._intake.try_again(mono(), self._noticed())
        self._survey.try_again(mono())

    # ── repositories ──

    def _hear_commits(self) -> None:
        """Take up what the repositories brought: another commit, or the news that there is none to be had."""
        for tree, repo, state in list(self._remotes.news()):
            if state.commit is not None:
                self._take_up(tree, repo, state.commit, state.pushed_at)
            elif state.problem is not None and self._survey.away.get(tree) != state.problem[1]:
                self._survey.away[tree] = state.problem[1]
                self._made.change(None)

    def _take_up(self, tree: str, repo: Repo, commit: CommitInfo, pushed_at: float) -> None:
        burst = burst_now(pushed_at) if self._read else None
        if tree not in self._remotes.commits:
            self._tools.answered_at = mono()
        self._remotes.commits[tree] = commit
        name = self.spec.name if tree == OWN else default_name(repo.url)
        self._survey.trees[tree] = self._tools.repositories().tree(repo, commit, name)
        self._survey.away.pop(tree, None)
        self._survey.gone.pop(tree, None)
        self._intake.close(tree)
        self._made.look_at(self._survey.documents.asked_in(tree), burst)
        if tree == OWN:
            self._made.look_at([self._survey.root], burst)
            for id, done in self._book.done.items():
                if done.asks_set_dir:
                    self._book.must_read(id, burst)
        for place in self._book.places_of(tree):
            self._book.suspect(place, burst)
        self._made.change(burst)

    def _trouble(self) -> Problem | None:
        """Why something cannot be read."""
        return self._misplaced or self._made.wrong or next((gone.problem for gone in self._survey.gone.values()), None)

    # ── making, reading and writing ──

    async def _make(self) -> None:
        if self._local is not None and not await self._tools.on_disk(self._ground.stands_on, self._local.root):
            self._unsure = True
            self._made.distrust()
        else:
            await self._made.make()

    async def _take_in(self, tree: str | None) -> None:
        if tree == OWN and self._local is not None and self._intake.is_calm(tree) and await self._tools.on_disk(self._ground.locked):
            tree = None  # of what somebody waits for that was asked when it was touched
        for place, due in await self._intake.advance(tree, polled=self._polled):
            self._miss(place, due)

    def _miss(self, place: Place, due: Due) -> None:
        """What was a task is none any more: what led there leads to something else, or nowhere."""
        looks = [at for at in self._survey.documents.asked_in(place.tree) if self._leads_to(at, place)]
        self._made.look_at(looks, due.burst or self._noticed())
        if self._made.plain:
            self._made.change(due.burst)

    def _leads_to(self, at: At, place: Place) -> bool:
        seen = self._survey.documents.seen.get(at)
        return getattr(seen, "at", None) == At(place.tree, place.path) or at.path == place.path

    # ── rounds through everything ──

    async def _begin_round(self) -> None:
        if self._remotes.own is None and not await self._find_ground():
            return
        self._rounds.begin()
        looks = self._survey.documents.worth_another_look(OWN) if self._local is not None else []
        if self._local is not None and not looks:
            looks = [self._survey.root]
        bundled = await self._tools.on_disk(self._tools.bundles.digests)
        places = [place for tree in self._survey.trees for place in self._book.places_of(tree)]
        self._round = Check(self._made, looks, places, bundled, self._remotes.take_syncs(), self._local is not None)

    async def _find_ground(self) -> bool:
        """Is there a TaskSet on this disk, and is it where it was?"""
        found = await self._tools.on_disk(self._ground.find)
        self._remote = found.remote
        if found.root is None:
            self._misplaced = found.problem
            self._rounds.fail(mono())
            return False
        if not found.composed:
            self._wait_or_become_plain()
            return False
        self._plain_since = self._misplaced = None
        if self._local is None or found.root != self._local.root:
            self._stand_on(found.root, found.entry)
        elif self._unsure:
            self._made.change(self._noticed())
        self._unsure = False
        if await self._tools.on_disk(self._ground.locked):
            self._rounds.at = mono() + self._dirt.settle  # what git is in the middle of is not what anybody saved
            return False
        return True

    def _wait_or_become_plain(self) -> None:
        """A set file that is not there may be on its way: its tasks would lose their ids. Seen twice, it is believed."""
        self._plain_since = self._plain_since or mono()
        if mono() - self._plain_since >= TWICE:
            raise BecamePlain
        self._rounds.at = self._plain_since + TWICE

    def _stand_on(self, root: Root, entry: str) -> None:
        self._ground.leave()
        self._ground.listen()
        below = posixpath.relpath(entry, root.reach)
        self._begin_anew(At(OWN, "" if below == "." else below))
        self._local = LocalTree(root, self._tools, deaf if self._remote else self._tools.ears_of(self.spec.name))
        self._survey.trees[OWN] = self._local
        self._made.change(None)

    async def _go_round(self, round: Check) -> None:
        began = mono()
        if not round.is_through:
            round.go_on(self._noticed())
        elif self._may_end(round):
            await self._end_round(round)
        self._rounds.spend(mono() - began)

    def _may_end(self, round: Check) -> bool:
        return round.is_through and (self.at_rest or bool(self._survey.gone)) and self._remotes.has_done(round.syncs)

    async def _end_round(self, round: Check) -> None:
        self._round = None
        self._rounds.through(mono(), polled=self._polled)
        await self._made.say_faults(self._noticed())
        if self._trouble() is None and self._made.whole:
            self._rounds.within(await round.settle(), mono())
        self._tidy()
        self._read = self._read or OWN in self._survey.trees
        self._rounds.end()

    def _tidy(self) -> None:
        """Forget what nobody asks for any more."""
        self._survey.tidy()
        if self._local is not None:
            looked = {at.path for at in self._survey.documents.asked_in(OWN)}
            self._local.forget_but(looked, {(place.path, place.key) for place in self._book.places_of(OWN)})
        for tree in [tree for tree in self._survey.trees if tree != OWN and self._remotes.repo(tree) is None]:
            del self._survey.trees[tree]
            self._remotes.commits.pop(tree, None)
            self._survey.gone.pop(tree, None)

    def _noticed(self) -> Burst | None:
        """A round found it, not an event: then there is no moment to measure from. None for the first reading."""
        return burst_now() if self._read else None

    # ── what is told ──

    @property
    def _polled(self) -> bool:
        return self._local is not None and (bool(self._remote) or self._tools.limited)

    async def _tell(self) -> None:
        expecting = self._remotes.is_expecting()
        unreachable = self._remotes.unreachable()
        problem = self._trouble()
        if not (self.at_rest or self._survey.gone) or (not self._read and problem is None and (expecting or not unreachable)):
            return
        if self._pen.holding and self._read and problem is None:
            await self._pen.release(self._forget_readings)
        await self._pen.tell(self._view(problem, unreachable))

    def _view(self, problem: Problem | None, unreachable: Problem | None) -> View:
        own = self._remotes.commits.get(OWN)
        return View(
            self._read,
            0,
            problem,
            0,
            self._remote,
            self._local is not None and self._tools.limited,
            self._intake.failed,
            unreachable,
            Commit(own.id, own.author, own.at, own.subject) if own is not None else None,
            self._remotes.synced_at,
            self._remotes.vector(),
            self._remotes.notes(),
        )

    def _forget_readings(self) -> None:
        self._book.forget_readings()
        for id in self._book.pieces:
            self._book.must_read(id, None)
        self._rounds.want()


def root_of(spec: ConfigSource) -> At:
    """Where a git source begins in its repository."""
    path = posixpath.normpath(spec.path.lstrip("/") or ".")
    return At(OWN, "" if path == "." else path)
