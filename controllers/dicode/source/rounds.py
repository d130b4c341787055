"""When a source is looked at as a whole, and which of these looks somebody waits for."""

from __future__ import annotations

from dataclasses import dataclass

from dicode.source.decide import every

MISSING_ROOT = 2.0  # seconds between two looks for a root that is not there


@dataclass
class Rounds:
    """Of one source. Times are those of `mono`; `at`: when the next one is due."""

    rescan: float  # seconds
    begun: int = 0
    done: int = 0
    at: float = 0.0
    _under_way: bool = False
    _again: bool = False  # at once, when the one under way is through
    _took: float = 0.0

    def want(self) -> int:
        """Look at everything now; gives the number of the round that will have done so."""
        self._again = self._under_way
        self.at = 0.0
        return self.begun + 1

    def within(self, seconds: float | None, now: float) -> None:
        """It is known that something may change then; None: nothing."""
        if seconds is not None:
            self.at = min(self.at, now + seconds)

    def begin(self) -> None:
        self.begun += 1
        self._under_way, self._again, self._took = True, False, 0.0

    def spend(self, seconds: float) -> None:
        """What a part of it took: whoever has to poll may do so for a share of the time only."""
        self._took += seconds

    def through(self, now: float, *, polled: bool) -> None:
        """Everything has been seen."""
        self._under_way = False
        self.at = 0.0 if self._again else now + every(self.rescan, polled, self._took)

    def end(self) -> None:
        """What was seen has been dealt with: whoever waits for it may be told."""
        self.done = self.begun

    def fail(self, now: float) -> None:
        """There is nothing to look at."""
        self.begun += 1
        self.end()
        self.at = now + min(MISSING_ROOT, self.rescan)
