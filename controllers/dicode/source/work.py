"""What the controller asks of the work on one source, whatever the source is made of."""

from __future__ import annotations

from typing import Protocol

from dicode.source.state import Touched

Problem = tuple[str, str]  # reason in CamelCase, message for people


class BecameSet(Exception):  # it is news, not an error
    """A plain source has a taskset.yaml now."""


class BecamePlain(Exception):
    """What was a TaskSet is a folder without one now."""


class Work(Protocol):
    """`step` is called by one worker at a time, everything else by the loop's thread."""

    def touched(self, touches: list[Touched] | None) -> None:
        """Something happened on disk; None: anything may have."""
        ...

    def look_again(self, pushed_at: float = 0.0) -> int:
        """Look at everything now, also at the remotes; gives the number of the round that will have done so. `pushed_at`: of the push that asks."""
        ...

    @property
    def problem(self) -> Problem | None:
        """Why the last round could not read everything."""
        ...

    @property
    def synced_at(self) -> int:
        """When its own repository was last reached since the start, ms; 0: never, or it has none."""
        ...

    @property
    def at_rest(self) -> bool:
        """All that was seen has been read and written."""
        ...

    def freeze(self) -> None:
        """Nobody steps any more until `look_again`: ask nobody else for news either."""
        ...

    def close(self) -> None: ...

    async def step(self) -> float:
        """One small piece of work; gives the seconds after which there is more. Raises Lost, StoreAway, StoreFailed."""
        ...
