"""A round through everything of a composed source: what may have changed unheard, and what is not stored or written as it was read."""

from __future__ import annotations

from dataclasses import dataclass

from dicode.source.composition import Composition
from dicode.source.decide import agrees
from dicode.source.remotes import OWN
from dicode.source.sets import Place
from dicode.source.state import Burst
from dicode.source.survey import LOOKS
from dicode.spec.trees import At, Repo

SIFTED = 200  # places compared before someone else has a turn


@dataclass
class Check:
    """`looks` and `places` are what is left of it; `bundled`: what is stored; `syncs`: rounds of repositories it waits for.

    `moves`: the source's own tree lies on this disk, where its files may change unheard.
    """

    made: Composition
    looks: list[At]
    places: list[Place]
    bundled: set[str]
    syncs: dict[Repo, int]
    moves: bool

    @property
    def is_through(self) -> bool:
        return not self.looks and not self.places

    def go_on(self, burst: Burst | None) -> None:
        """With a part of it, when nobody waits for anything else: what is to be looked at or read is due from now on."""
        if self.looks:
            some, self.looks = self.looks[:LOOKS], self.looks[LOOKS:]
            self.made.look_at(some, burst)
        else:
            some_places, self.places = self.places[:SIFTED], self.places[SIFTED:]
            for place in some_places:
                self._sift(place, burst)

    def _sift(self, place: Place, burst: Burst | None) -> None:
        book = self.made.book
        for id in book.users(place):
            if self._is_lost(id):
                book.must_read(id, burst)
        if place.tree == OWN and self.moves:
            book.suspect(place, burst)

    def _is_lost(self, id: str) -> bool:
        """Is what was read of this task no longer written or stored?"""
        pen = self.made.pen
        done, source = self.made.book.done.get(id), pen.source
        if done is None or source is None or pen.holding:
            return False
        return not agrees(pen.present(id), done.digest, done.faulty, source.order) or (bool(done.digest) and done.digest not in self.bundled)

    async def settle(self) -> float | None:
        """Everything was read: what is no longer there is removed. Gives the seconds after which to look again, if that may change anything."""
        pen = self.made.pen
        found = self.made.book.found(pen.ids)
        never_good = [id for id in pen.ids - found if (present := pen.present(id)) is not None and not present.digest]
        await pen.remove(never_good)  # entries that were wrong and are no more: nothing is lost with them
        return await pen.settle_missing({*found, *never_good})
