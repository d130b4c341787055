"""What stands in the trees of a source, and which tasks that makes: looking and expanding in turns until nothing is open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dicode.git.trees import Tree, TreeGone
from dicode.messages.fault import Fault
from dicode.process.clock import mono
from dicode.source.sets import Documents
from dicode.source.tools import Tools
from dicode.source.work import Problem
from dicode.spec.access import Rules
from dicode.spec.expand import Away, Expansion, Memo, Seen, SetAt, expand, name_of, told
from dicode.spec.taskset import parse_set
from dicode.spec.trees import At, SetSeen

LOOKS = 200  # places of one tree that are looked at together
GONE_WAIT = 2.0  # seconds before a tree that could not be read is tried again
LARGE = 64 * 1024  # bytes of a set that is parsed while the disk thread does something else


class Gone(NamedTuple):
    """A tree cannot be read now: (reason, message). It is tried again at `until`."""

    problem: Problem
    until: float


@dataclass
class Survey:
    """Of source `source`, whose tasks or TaskSet are at `root`. `trees`: by key, as they are now; `away`: why others cannot be read;

    `gone`: of those that are there, which cannot be read at the moment.
    """

    source: str
    root: At
    dev: bool
    rules: Rules
    tools: Tools
    trees: dict[str, Tree] = field(default_factory=dict)
    away: dict[str, str] = field(default_factory=dict)
    gone: dict[str, Gone] = field(default_factory=dict)
    documents: Documents = field(default_factory=Documents)
    expansion: Expansion | None = None
    _memo: Memo = field(default_factory=Memo)

    def readable(self, tree: str) -> bool:
        return tree in self.trees and tree not in self.gone

    def lose(self, tree: str, gone: TreeGone) -> None:
        """It cannot be read now; what is known of it stays."""
        self.gone[tree] = Gone((gone.reason, str(gone)), mono() + GONE_WAIT)

    def try_again(self, now: float) -> None:
        for tree in [tree for tree, gone in self.gone.items() if gone.until <= now]:
            del self.gone[tree]

    async def look(self, places: Sequence[At]) -> dict[str, str] | None:
        """Look at some places of one tree. None: nothing is different; else the sets that are, as they are called and shown.

        Raises TreeGone.
        """
        tree = self.trees[places[0].tree]
        seen = await tree.look([at.path for at in places])
        different, said = False, {}
        for at in places:
            look, before = seen[at.path], self.documents.seen.get(at)
            if self.documents.must_parse(at, look):
                assert isinstance(look, SetSeen), "only sets are parsed"
                self.documents.parsed(at, look, await self._parsed(at, look))
                said[name_of(At(at.tree, look.path))] = tree.shown(look.path)
            different = different or self.documents.seen[at] != before
        return said if different else None

    async def _parsed(self, at: At, look: SetSeen) -> SetAt:
        there = At(at.tree, look.path)
        executor = self.tools.disk if len(look.content) <= LARGE else None
        return SetAt(there, await asyncio.get_running_loop().run_in_executor(executor, parse_set, look.content, name_of(there)))

    async def expand(self) -> Expansion:
        """With what has been seen until now. It is the very same object while nothing changed."""
        self.expansion = await asyncio.get_running_loop().run_in_executor(None, self._expand)
        return self.expansion

    def tidy(self) -> None:
        """Forget what was seen where nobody asks any more."""
        if self.expansion is not None:
            self.documents.forget_unasked(self.expansion.seen)

    def _expand(self) -> Expansion:
        return expand(self.root, self._seen, source=self.source, dev=self.dev, rules=self.rules, memo=self._memo)

    def _seen(self, at: At) -> Seen | None:
        seen = self.documents.seen.get(at)
        if seen is None and at.tree in self.away and at.tree not in self.trees:
            return Away(self.away[at.tree])
        return seen

    def open(self) -> list[At]:
        """What must be looked at before the expansion is whole, and can be."""
        return [at for at in self.expansion.wanted if at.tree in self.trees] if self.expansion is not None else []

    @property
    def whole(self) -> bool:
        """Is nothing of it unknown, and no repository away? Only then may anything be taken for removed."""
        expansion = self.expansion
        return expansion is not None and not expansion.wanted and "" not in expansion.faults and not self._anything_away(expansion)

    def _anything_away(self, expansion: Expansion) -> bool:
        return any(at.tree in self.away and at.tree not in self.trees for at in expansion.seen)

    def shown(self, faults: Iterable[Fault]) -> tuple[Fault, ...]:
        """Faults with their files as people call them."""
        return told(faults, self._shown)

    def _shown(self, at: At) -> str:
        tree = self.trees.get(at.tree)
        return tree.shown(at.path) if tree is not None else at.path

    def faults(self) -> Mapping[str, tuple[Fault, ...]]:
        return {id: self.shown(faults) for id, faults in self.expansion.faults.items()} if self.expansion is not None else {}


async def survey_all(survey: Survey) -> Expansion:
    """Look and expand until nothing is open that could be looked at. Raises TreeGone."""
    while True:
        expansion = await survey.expand()
        open_places = survey.open()
        if not open_places:
            return expansion
        for some in in_portions(open_places):
            await survey.look(some)


def in_portions(places: Iterable[At]) -> Iterable[list[At]]:
    """Places of one tree each, as many as are looked at together."""
    by_tree: dict[str, list[At]] = {}
    for at in places:
        by_tree.setdefault(at.tree, []).append(at)
    for those in by_tree.values():
        for start in range(0, len(those), LOOKS):
            yield those[start : start + LOOKS]
