"""What the trees of one composed source make: places are looked at, the expansion is made of them, and its tasks go into the `Book`.

Looking leads to other places, those to further looks; when nothing is open any more, the tasks are what they should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from dicode.git.trees import TreeGone
from dicode.source.reading import shown
from dicode.source.remotes import OWN
from dicode.source.rounds import Rounds
from dicode.source.sets import Book, Piece, pieces_found, pieces_of
from dicode.source.state import Burst, Reading
from dicode.source.survey import LOOKS, Survey
from dicode.source.work import Problem
from dicode.source.writing import Op, Pen
from dicode.spec.expand import SetAt
from dicode.spec.trees import At


@dataclass
class _Changed:
    """The expansion is to be made again: why, and which sets differ, as they are called and shown."""

    burst: Burst | None
    said: dict[str, str] = field(default_factory=dict)


@dataclass
class Composition:
    """`plain`: there is no TaskSet, and every task folder is a task. `wrong`: what is wrong with all of it."""

    survey: Survey
    book: Book
    pen: Pen
    rounds: Rounds
    plain: bool = False
    wrong: Problem | None = None
    _looks: dict[str, dict[At, Burst | None]] = field(default_factory=dict)  # tree → places to look at
    _changed: _Changed | None = None

    @property
    def at_rest(self) -> bool:
        return not self._looks and self._changed is None

    # ── what stands where ──

    def look_at(self, places: Iterable[At], burst: Burst | None) -> None:
        """They may be different."""
        for at in places:
            waiting = self._looks.setdefault(at.tree, {})
            waiting[at] = waiting.get(at) or burst

    def next_looks(self) -> str | None:
        """The tree in which to look next."""
        return next((tree for tree in sorted(self._looks) if self.survey.readable(tree)), None)

    async def look(self, tree: str, *, may_be_plain: bool) -> None:
        """At some of the places that wait in this tree. `may_be_plain`: what stands at the root decides whether there is a TaskSet."""
        waiting = self._looks.pop(tree)
        places, left = dict(islice(waiting.items(), LOOKS)), dict(islice(waiting.items(), LOOKS, None))
        if left:
            self._looks[tree] = left
        burst = next((each for each in places.values() if each is not None), None)
        try:
            said = await self.survey.look(list(places))
        except TreeGone as gone:
            self.survey.lose(tree, gone)
            self.look_at(places, burst)
            return
        if may_be_plain and self.survey.root in places:
            self.plain = not isinstance(self.survey.documents.seen.get(self.survey.root), SetAt)
        if said is not None or (self.plain and self.survey.root in places):
            self.change(burst, said)

    # ── what that makes ──

    def change(self, burst: Burst | None, said: Mapping[str, str] | None = None) -> None:
        """It must be made again. `said`: the sets that differ, as they are called and shown."""
        changed = self._changed = self._changed or _Changed(burst)
        changed.burst = changed.burst or burst
        changed.said.update(said or {})

    @property
    def is_due(self) -> bool:
        """Is it to be made again, and has all been looked at for that?"""
        return self._changed is not None and not self._looks

    def distrust(self) -> None:
        """What was seen was seen while the root was going: it is not the entries that are wrong."""
        self._changed = None
        self.rounds.want()

    async def make(self) -> None:
        """Make it again, when it is due, or see what must be looked at first."""
        assert self._changed is not None, "it is due"
        changed = self._changed
        if self.plain:
            await self._find(changed)
            return
        if OWN not in self.survey.trees:
            self._changed = None
            return
        expansion = await self.survey.expand()
        open_places = self.survey.open()
        if open_places:
            self.look_at(open_places, changed.burst)
            return
        self._changed = None
        if "" in expansion.faults:
            fault = self.survey.faults()[""][0]
            self.wrong = ("Invalid", str(msgspec.structs.replace(fault, file=shown(fault.file, self.pen.tools.working_dir))))
            return
        self.wrong = None
        await self._adopt(pieces_of(expansion, self.book.pieces), changed)

    async def _find(self, changed: _Changed) -> None:
        """The task folders of a plain source in a commit."""
        root, own = self.survey.root, self.survey.trees[OWN]
        try:
            found = await own.find(root.path)
        except TreeGone as gone:
            self.survey.lose(OWN, gone)
            return
        self._changed = None
        self.survey.expansion = None
        self.survey.documents.forget_unasked([root])
        unreadable = next(iter(found.unreadable), None)
        self.wrong = ("Unreadable", f"{own.shown(unreadable[0]).removesuffix(':')}: {unreadable[1]}") if unreadable else None
        pieces = pieces_found(OWN, found.tasks)
        if unreadable:
            pieces = {**self.book.pieces, **pieces}
        await self._adopt(pieces, changed)

    async def _adopt(self, pieces: dict[str, Piece], changed: _Changed) -> None:
        if self.book.adopt(pieces, {} if self.plain else self.survey.faults(), changed.burst, changed.said):
            self.rounds.want()  # some are gone, or no longer wrong
        await self.say_faults(changed.burst)

    async def say_faults(self, burst: Burst | None) -> None:
        """Entries that are wrong: their tasks keep what was, and say so."""
        source = self.pen.source
        if source is None:
            return
        ops: list[Op] = []
        for id, faults in self.book.faulted(self.pen.ids):
            ops += self.pen.say(source, Reading(id, "", None, faults=faults), burst)
            self.book.done.pop(id, None)
        await self.pen.write(ops)

    @property
    def whole(self) -> bool:
        """Is everything known that there should be? Only then may anything be taken for removed."""
        return OWN in self.survey.trees and (self.plain or self.survey.whole)
