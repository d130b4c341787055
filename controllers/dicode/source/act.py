"""The work on one source, as what it is made of now: a plain folder, or trees that are composed (a TaskSet, commits)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dicode.messages.kinds import ConfigSource, Credential
from dicode.source.composed import ComposedSource
from dicode.source.dev import at_home
from dicode.source.plain import PlainSource
from dicode.source.rounds import Rounds
from dicode.source.state import Touched
from dicode.source.tools import Tools
from dicode.source.work import BecamePlain, BecameSet, Problem, Work
from dicode.source.writing import Pen


class Origin(NamedTuple):
    """Where a source is read from. With another one it begins anew. `dev`: as in Source; `credentials`: of dicode.yaml."""

    spec: ConfigSource
    dev: str = ""
    credentials: tuple[Credential, ...] = ()


class SourceWork:
    """`step` is called by one worker at a time, everything else by the loop's thread."""

    def __init__(self, origin: Origin, tools: Tools, ids: set[str], wake: Callable[[], None], *, whole: bool = False) -> None:
        """`ids`: the tasks that are written for this source; the caller keeps it true.

        `whole`: nothing is written and nothing removed before everything was read once.
        """
        self.origin = origin
        self._spec = origin.spec  # as it is read
        self._tools = tools
        self._pen = Pen(origin.spec.name, tools, ids)
        self._wake = wake
        self._rounds = Rounds(origin.spec.rescan / 1000)
        self._work: Work | None = None
        self._asked: list[float] = []  # to look again, before there was anybody to do it
        if whole:
            self._pen.hold()

    # ── what others ask ──

    def touched(self, touches: list[Touched] | None) -> None:
        """Something happened on disk; None: anything may have."""
        if self._work is not None:
            self._work.touched(touches)

    def look_again(self, pushed_at: float = 0.0) -> int:
        """Look at everything now, on disk or at the remote; gives the number of the round that will have done so."""
        if self._work is not None:
            return self._work.look_again(pushed_at)
        self._asked.append(pushed_at)
        self._wake()
        return 1

    def confirm(self) -> int:
        """Somebody agrees to lose what is missing; gives how many tasks that is."""
        held = self._pen.confirm()
        if self._pen.confirmed:
            self.look_again()
        return held

    @property
    def rounds_done(self) -> int:
        return self._rounds.done

    @property
    def problem(self) -> Problem | None:
        return self._work.problem if self._work is not None else None

    @property
    def at_rest(self) -> bool:
        """All that was seen has been read and written, or it is known why that cannot be."""
        work = self._work
        return work is not None and (work.problem is not None or (work.at_rest and not self._pen.holding))

    @property
    def synced_at(self) -> int:
        """When its own repository was last reached since the start, ms; 0: never, or it has none."""
        return self._work.synced_at if self._work is not None else 0

    @property
    def composed(self) -> bool:
        """Is it made of trees, so that credentials matter?"""
        return isinstance(self._work, ComposedSource)

    def freeze(self) -> None:
        """Nobody steps any more until `look_again`."""
        if self._work is not None:
            self._work.freeze()

    def close(self) -> None:
        if self._work is not None:
            self._work.close()

    # ── the work ──

    async def step(self) -> float:
        """One small piece of work; gives the seconds after which there is more."""
        if self._work is None:
            await self._begin()
        assert self._work is not None
        try:
            return await self._work.step()
        except BecameSet:
            self._become(composed=True)
        except BecamePlain:
            self._become(composed=False)
        return 0.0

    async def _begin(self) -> None:
        self._spec = await self._tools.on_disk(at_home, self.origin.spec, self.origin.dev)
        self._become(composed=self._spec.type == "git")
        for pushed_at in self._asked:
            self.look_again(pushed_at)

    def _become(self, *, composed: bool) -> None:
        before = self._work
        if before is not None:
            before.close()
        self._rounds = Rounds(self._spec.rescan / 1000, self._rounds.begun, self._rounds.done)
        if composed:
            dev, credentials = bool(self.origin.dev), self.origin.credentials
            self._work = ComposedSource(self._spec, self._tools, self._pen, self._rounds, self._wake, dev=dev, credentials=credentials)
        else:
            self._work = PlainSource(self._spec, self._tools, self._pen, self._rounds, self._wake)
