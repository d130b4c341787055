"""What a worker remembers: the runs it holds. Told again by the store after a restart: a lease that is not renewed ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dicode.messages.commands import Held
from dicode.messages.kinds import Run


@dataclass
class Holding:
    """One claimed run. `fence` proves that it is ours; `refused` is set when the store says that it is no longer."""

    run: Run
    cancelled: bool = False
    refused: bool = False


@dataclass
class Holdings:
    """The runs held now, by id."""

    by_run: dict[str, Holding] = field(default_factory=dict)

    def take(self, run: Run) -> Holding | None:
        """Hold it; None when it is held already (a claim answered twice)."""
        known = self.by_run.get(run.id)
        if known is not None and known.run.fence >= run.fence:
            return None
        holding = self.by_run[run.id] = Holding(run)
        return holding

    def let_go(self, holding: Holding) -> None:
        if self.by_run.get(holding.run.id) is holding:
            del self.by_run[holding.run.id]

    def held(self) -> tuple[Held, ...]:
        """What to renew."""
        return tuple(Held(each.run.id, each.run.fence) for each in self.by_run.values() if not each.refused)

    def of(self, runs: Iterable[str], asked: Iterable[Held] | None = None) -> list[Holding]:
        """Those of these runs that we hold; with `asked`, only under the very fence that was asked about: an answer about a lost attempt
        may come when the next one of the same run is ours again."""
        fences = None if asked is None else {each.run: each.fence for each in asked}
        found = [self.by_run[run] for run in runs if run in self.by_run]
        return found if fences is None else [each for each in found if fences.get(each.run.id) == each.run.fence]
