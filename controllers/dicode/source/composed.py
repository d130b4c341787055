"""One source that is composed: of a TaskSet on this disk or in a commit, or of the task folders of a commit.

Its own tree has the key "", each repository that its refs name has one of its own. What is seen in them makes an expansion
(`Survey`), that makes places that are due (`Book`), these are read and written a few at a time. A step does one small thing
and says when to come again, so that a save waits for nobody.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from dicode.git.trees import TreeGone
from dicode.messages.kinds import Commit, ConfigSource, Credential
from dicode.process.clock import mono
from dicode.source.decide import View, agrees, every
from dicode.source.ground import Ground
from dicode.source.intake import Intake
from dicode.source.local import LOOK, READ, LocalTree
from dicode.source.reading import shown
from dicode.source.remotes import OWN, Remotes
from dicode.source.sets import Book, Due, Piece, Place, pieces_of
from dicode.source.snapshot import Root
from dicode.source.state import ALL, Burst, Dirt, Reading, Touched
from dicode.source.survey import LOOKS, Survey
from dicode.source.tools import MISSING_ROOT, Tools, deaf, new_cause
from dicode.source.work import BecamePlain, Problem
from dicode.source.writing import Op, Pen
from dicode.spec.access import repo_of_source, rules_of
from dicode.spec.config import default_name
from dicode.spec.expand import SetAt
from dicode.spec.removal import TWICE
from dicode.spec.trees import At, CommitInfo, Repo

SIFTED = 200  # places compared before someone else has a turn
MAX_DUE = 100  # touches that are followed together
FETCH_WAIT = 60.0  # seconds between two looks at what nobody told us of


@dataclass
class _Round:
    """A look at everything. `looks` and `places` are what is left of it; `bundled`: what is stored; `syncs`: rounds of repos it waits for."""

    looks: list[At]
    places: list[Place]
    bundled: set[str]
    syncs: dict[Repo, int]


@dataclass
class _Changed:
    """The expansion is to be made again: why, and which sets differ, as they are called and shown."""

    burst: Burst | None
    said: dict[str, str] = field(default_factory=dict)


class ComposedSource:
    """A `Work`."""

    def __init__(
        self, spec: ConfigSource, tools: Tools, pen: Pen, wake: Callable[[], None], *, dev: bool, credentials: tuple[Credential, ...]
    ) -> None:
        self.spec = spec
        self.rounds_begun = 0
        self.rounds_done = 0
        self._tools = tools
        self._pen = pen
        self._wake = wake
        self._dev = dev
        self._rules = rules_of(spec, credentials)
        own = repo_of_source(spec, credentials) if spec.type == "git" else None
        self._remotes = Remotes(spec.name, own, spec.poll_interval, tools)
        self._ground = Ground(spec, tools)
        self._root: Root | None = None
        self._local: LocalTree | None = None
        self._remote = ""
        self._misplaced: Problem | None = None  # why there is no root
        self._wrong: Problem | None = None  # what is wrong with what stands there
        self._unsure = False  # what was seen last was seen while the root was going
        self._plain_since: float | None = None
        self._dirt = Dirt(max(spec.settle, 1) / 1000)
        self._round: _Round | None = None
        self._round_at = 0.0
        self._round_took = 0.0
        self._round_again = False
        self._read = False
        self._begin_anew(root_of(spec))

    def _begin_anew(self, root: At) -> None:
        """Everything that was learned of the trees is forgotten; what is written stays."""
        self._survey = Survey(self.spec.name, root, self._dev, self._rules, self._tools)
        self._book = Book()
        self._looks: dict[str, dict[At, Burst | None]] = {}  # tree → places to look at
        self._changed: _Changed | None = None
        self._plain = False
        self._intake = Intake(self._book, self._survey, self._remotes, self._pen, self._dirt)
        self._remotes.commits.clear()

    # ── what others ask ──

    def touched(self, touches: list[Touched] | None) -> None:
        """Something happened on disk; None: anything may have."""
        self._ground.hear(touches, self._dirt, self._concerned)
        self._wake()

    def _concerned(self, touched: Touched) -> set[str]:
        if touched.path in self._ground.way or (self._root is not None and touched.path == self._root.path):
            return {ALL}
        return self._local.concerned(touched) if self._local is not None else set()

    def look_again(self, pushed_at: float = 0.0) -> int:
        """Look at everything now, also at the remotes; gives the number of the round that will have done so."""
        self._remotes.ask(pushed_at)
        self._want_round()
        self._wake()
        return self.rounds_begun + 1

    def _want_round(self) -> None:
        self._round_again = self._round is not None
        self._round_at = 0.0

    @property
    def problem(self) -> Problem | None:
        return self._trouble() or self._remotes.unreachable()

    @property
    def at_rest(self) -> bool:
        """All that was seen has been read and written."""
        return self._intake.at_rest and not self._looks and self._changed is None

    def close(self) -> None:
        self._remotes.close()
        if self._tools.watcher is not None:
            self._tools.watcher.forget_all(self.spec.name)

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
        looks_in = self._next_looks()
        if looks_in is not None:
            await self._look(looks_in)
        elif self._changed is not None and not self._looks:
            await self._expand(self._changed)
        elif tree is not None or self._intake.unwritten:
            await self._take_in(tree)
        elif self._round is not None:
            await self._go_round(self._round)
        elif mono() >= self._round_at:
            await self._begin_round()
        await self._tell()
        return self._rest()

    def _rest(self) -> float:
        if self._round is not None and (self._round.looks or self._round.places):
            return 0.0
        if self._ground.waits_for_git and not self.at_rest:
            return self._dirt.settle
        if self._intake.next_tree() is not None or self._intake.unwritten or self._next_looks() is not None:
            return 0.0
        if self._changed is not None and not self._looks:
            return 0.0
        if self._round is not None and self._round_is_through(self._round):
            return 0.0
        times = [self._round_at if self._round is None else math.inf, self._dirt.next_due() or math.inf, mono() + FETCH_WAIT]
        times += [gone.until for gone in self._survey.gone.values()] + list(self._intake.again.values())
        return max(0.0, min(times) - mono())

    # ── what was heard ──

    async def _hear_touches(self) -> None:
        due = self._dirt.take(mono(), MAX_DUE)
        if due.pop(ALL, None) is not None:
            self._want_round()
        if not due or self._local is None:
            return
        if await self._tools.on_disk(self._ground.locked):
            for key, burst in due.items():
                self._dirt.put_back(key, burst._replace(first=mono()), mono())  # as if it had just begun
            return
        for key, burst in due.items():
            if key.startswith(LOOK):
                self._look_at([At(OWN, key.removeprefix(LOOK))], burst)
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
                self._make_again(None)

    def _take_up(self, tree: str, repo: Repo, commit: CommitInfo, pushed_at: float) -> None:
        now = mono()
        burst = Burst(new_cause(), pushed_at, now, now) if self._read else None
        self._remotes.commits[tree] = commit
        name = self.spec.name if tree == OWN else default_name(repo.url)
        self._survey.trees[tree] = self._tools.repositories().tree(repo, commit, name)
        self._survey.away.pop(tree, None)
        self._survey.gone.pop(tree, None)
        self._intake.close(tree)
        self._look_at(self._survey.documents.asked_in(tree), burst)
        if tree == OWN:
            self._look_at([self._survey.root], burst)
            for id, done in self._book.done.items():
                if done.asks_set_dir:
                    self._book.must_read(id, burst)
        for place in self._book.places_of(tree):
            self._book.suspect(place, burst)
        self._make_again(burst)

    def _trouble(self) -> Problem | None:
        """Why something cannot be read."""
        return self._misplaced or self._wrong or next((gone.problem for gone in self._survey.gone.values()), None)

    # ── what stands where, and what that makes ──

    def _look_at(self, places: Iterable[At], burst: Burst | None) -> None:
        for at in places:
            waiting = self._looks.setdefault(at.tree, {})
            waiting[at] = waiting.get(at) or burst

    def _next_looks(self) -> str | None:
        """The tree in which to look next."""
        return next((tree for tree in sorted(self._looks) if self._survey.readable(tree)), None)

    async def _look(self, tree: str) -> None:
        waiting = self._looks.pop(tree)
        places, left = dict(islice(waiting.items(), LOOKS)), dict(islice(waiting.items(), LOOKS, None))
        if left:
            self._looks[tree] = left
        burst = next((each for each in places.values() if each is not None), None)
        try:
            said = await self._survey.look(list(places))
        except TreeGone as gone:
            self._survey.lose(tree, gone)
            self._look_at(places, burst)
            return
        if self._remotes.own is not None and self._survey.root in places:
            self._plain = not isinstance(self._survey.documents.seen.get(self._survey.root), SetAt)
        if said is not None or (self._plain and self._survey.root in places):
            self._make_again(burst, said)

    def _make_again(self, burst: Burst | None, said: Mapping[str, str] | None = None) -> None:
        changed = self._changed = self._changed or _Changed(burst)
        changed.burst = changed.burst or burst
        changed.said.update(said or {})

    async def _expand(self, changed: _Changed) -> None:
        if self._plain:
            await self._find(changed)
            return
        if OWN not in self._survey.trees:
            self._changed = None
            return
        if self._root is not None and not await self._tools.on_disk(self._ground.stands_on, self._root):
            self._changed, self._unsure = None, True
            self._want_round()  # it is not the entries that are wrong
            return
        expansion = await self._survey.expand()
        open_places = self._survey.open()
        if open_places:
            self._look_at(open_places, changed.burst)
            return
        self._changed = None
        if "" in expansion.faults:
            fault = self._survey.faults()[""][0]
            self._wrong = ("Invalid", str(msgspec.structs.replace(fault, file=shown(fault.file, self._tools.working_dir))))
            return
        self._wrong = None
        await self._adopt(pieces_of(expansion, self._book.pieces), changed)

    async def _find(self, changed: _Changed) -> None:
        """The task folders of a plain source in a commit."""
        root = self._survey.root
        try:
            found = await self._survey.trees[OWN].find(root.path)
        except TreeGone as gone:
            self._survey.lose(OWN, gone)
            return
        self._changed = None
        self._survey.expansion = None
        self._survey.documents.forget_unasked([root])
        unreadable = next(iter(found.unreadable), None)
        self._wrong = ("Unreadable", f"{self._survey.trees[OWN].shown(unreadable[0]).removesuffix(':')}: {unreadable[1]}") if unreadable else None
        pieces = {task.id: Piece(task.id, Place(OWN, task.path)) for task in found.tasks}
        if unreadable:
            pieces = {**self._book.pieces, **pieces}
        await self._adopt(pieces, changed)

    async def _adopt(self, pieces: dict[str, Piece], changed: _Changed) -> None:
        if self._book.adopt(pieces, {} if self._plain else self._survey.faults(), changed.burst, changed.said):
            self._want_round()
        await self._say_faults(changed.burst)

    async def _say_faults(self, burst: Burst | None) -> None:
        """Entries that are wrong: their tasks keep what was, and say so."""
        source = self._pen.source
        if source is None:
            return
        ops: list[Op] = []
        for id, faults in self._book.faulted(self._pen.ids):
            ops += self._pen.say(source, Reading(id, "", None, faults=faults), burst)
            self._book.done.pop(id, None)
        await self._pen.write(ops)

    # ── reading and writing ──

    async def _take_in(self, tree: str | None) -> None:
        if tree == OWN and self._local is not None and self._intake.is_calm(tree) and await self._tools.on_disk(self._ground.locked):
            tree = None  # of what somebody waits for that was asked when it was touched
        for place, due in await self._intake.advance(tree, polled=self._polled):
            self._miss(place, due)

    def _miss(self, place: Place, due: Due) -> None:
        """What was a task is none any more: what led there leads to something else, or nowhere."""
        looks = [at for at in self._survey.documents.asked_in(place.tree) if self._leads_to(at, place)]
        self._look_at(looks, due.burst or self._noticed())
        if self._plain:
            self._make_again(due.burst)

    def _leads_to(self, at: At, place: Place) -> bool:
        seen = self._survey.documents.seen.get(at)
        return getattr(seen, "at", None) == At(place.tree, place.path) or at.path == place.path

    # ── rounds through everything ──

    async def _begin_round(self) -> None:
        if self._remotes.own is None and not await self._find_ground():
            return
        self._round_again = False
        self.rounds_begun += 1
        looks = self._survey.documents.worth_another_look(OWN) if self._local is not None else []
        if self._local is not None and not looks:
            looks = [self._survey.root]
        bundled = await self._tools.on_disk(self._tools.bundles.digests)
        self._round = _Round(
            looks, [place for tree in self._survey.trees for place in self._book.places_of(tree)], bundled, self._remotes.take_syncs()
        )

    async def _find_ground(self) -> bool:
        """Is there a TaskSet on this disk, and is it where it was?"""
        found = await self._tools.on_disk(self._ground.find)
        self._remote = found.remote
        if found.root is None:
            self._misplaced = found.problem
            self.rounds_begun += 1
            self.rounds_done = self.rounds_begun
            self._round_at = mono() + min(MISSING_ROOT, self.spec.rescan / 1000)
            return False
        if not found.composed:
            self._wait_or_become_plain()
            return False
        self._plain_since = self._misplaced = None
        if found.root != self._root:
            self._stand_on(found.root, found.entry)
        elif self._unsure:
            self._make_again(self._noticed())
        self._unsure = False
        if await self._tools.on_disk(self._ground.locked):
            self._round_at = mono() + self._dirt.settle  # what git is in the middle of is not what anybody saved
            return False
        return True

    def _wait_or_become_plain(self) -> None:
        """A set file that is not there may be on its way: its tasks would lose their ids. Seen twice, it is believed."""
        self._plain_since = self._plain_since or mono()
        if mono() - self._plain_since >= TWICE:
            raise BecamePlain
        self._round_at = self._plain_since + TWICE

    def _stand_on(self, root: Root, entry: str) -> None:
        if self._tools.watcher is not None:
            self._tools.watcher.forget_all(self.spec.name)
        self._ground.listen()
        self._root = root
        below = posixpath.relpath(entry, root.reach)
        self._begin_anew(At(OWN, "" if below == "." else below))
        self._local = LocalTree(root, self._tools, deaf if self._remote else self._tools.ears_of(self.spec.name))
        self._survey.trees[OWN] = self._local
        self._make_again(None)

    async def _go_round(self, round: _Round) -> None:
        """A part of it, when nobody waits for anything else."""
        began = mono()
        burst = self._noticed()
        if round.looks:
            some, round.looks = round.looks[:LOOKS], round.looks[LOOKS:]
            self._look_at(some, burst)
        elif round.places:
            some_places, round.places = round.places[:SIFTED], round.places[SIFTED:]
            self._sift(some_places, round.bundled, burst)
        elif self._round_is_through(round):
            await self._end_round(round)
        self._round_took += mono() - began

    def _sift(self, places: Iterable[Place], bundled: set[str], burst: Burst | None) -> None:
        """What may have changed unheard is read again, and what is not as it was written."""
        source = self._pen.source
        for place in places:
            for id in self._book.users(place):
                done = self._book.done.get(id)
                if done is None or source is None or self._pen.holding:
                    continue
                if not agrees(self._pen.present(id), done.digest, done.faulty, source.order) or (done.digest and done.digest not in bundled):
                    self._book.must_read(id, burst)
            if place.tree == OWN and self._local is not None:
                self._book.suspect(place, burst)

    def _round_is_through(self, round: _Round) -> bool:
        if round.looks or round.places or not (self.at_rest or self._survey.gone):
            return False
        return self._remotes.has_done(round.syncs)

    async def _end_round(self, round: _Round) -> None:
        self._round = None
        self._round_at = 0.0 if self._round_again else mono() + every(self.spec.rescan / 1000, self._polled, self._round_took)
        self._round_took = 0.0
        await self._say_faults(self._noticed())
        if self._is_whole():
            await self._settle_missing()
        self._tidy()
        self._read = self._read or OWN in self._survey.trees
        self.rounds_done = self.rounds_begun

    def _is_whole(self) -> bool:
        """Only what was read completely may remove anything."""
        if self._trouble() is not None or OWN not in self._survey.trees:
            return False
        return self._plain or self._survey.whole

    async def _settle_missing(self) -> None:
        found = self._book.found(self._pen.ids)
        never_good = [id for id in self._pen.ids - found if (present := self._pen.present(id)) is not None and not present.digest]
        await self._pen.remove(never_good)  # entries that were wrong and are no more: nothing is lost with them
        again = await self._pen.settle_missing({*found, *never_good})
        if again is not None:
            self._round_at = min(self._round_at, mono() + again)

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
        now = mono()
        return Burst(new_cause(), 0.0, now, now) if self._read else None

    # ── what is told ──

    @property
    def _polled(self) -> bool:
        return self._local is not None and (bool(self._remote) or self._tools.limited)

    async def _tell(self) -> None:
        unreachable = self._remotes.unreachable()
        problem = self._trouble()
        if not (self.at_rest or self._survey.gone) or (not self._read and problem is None and not (unreachable and self._remotes.has_done({}))):
            return
        if self._pen.holding and self._read and problem is None:
            await self._release()
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

    async def _release(self) -> None:
        try:
            await self._pen.release()
        except BaseException:
            self._book.forget_readings()
            for id in self._book.pieces:
                self._book.must_read(id, None)
            self._want_round()
            raise


def root_of(spec: ConfigSource) -> At:
    """Where a git source begins in its repository."""
    path = posixpath.normpath(spec.path.lstrip("/") or ".")
    return At(OWN, "" if path == "." else path)
