"""What a database must be able to do. `sqlite.py` does it; tests/unit/test_store_contract.py is what any engine must pass.

All work happens between `begin` and `commit`: one transaction for a whole batch of commands, each of them tried inside
`attempt`, so that one that fails takes back its own doing only. Nothing is true, and nothing may be answered or told,
before `commit` has returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from dicode.messages.commands import (
    Append,
    Claimed,
    Conflict,
    Delete,
    Enqueued,
    Finished,
    Found,
    Held,
    Leased,
    Listing,
    Put,
    Refused,
    Renewed,
    Written,
)
from dicode.messages.kinds import Result, Run, RunStatus
from dicode.wire.frames import MAX_FRAME

MAX_OBJECT = MAX_FRAME - 4096  # bytes; an object, its key and its header fit into one frame
MAX_RUN = MAX_OBJECT - 16_384  # bytes of a run when it is queued: what its life adds (worker, fence, error) still fits into an object
MAX_ERROR = 8_192  # bytes of a run's error
MAX_PAGE = 900 * 1024  # bytes of one listing or claim
RUN = "Run"  # the kind the queue alone writes
TOMBSTONES = 86_400_000  # ms a deletion stays in listings


class Moment(NamedTuple):
    """Now, in ms: `wall` for what people read and for due times, `mono` for leases, since it never steps."""

    wall: int
    mono: int


class Committed(NamedTuple):
    """One change to tell. `prev`: the rev of the same kind's change before it; `body` None: deleted."""

    kind: str
    key: str
    rev: int
    prev: int
    body: bytes | None
    cause: str


class Retention(NamedTuple):
    """How much history is kept."""

    runs: int = 30 * 86_400_000  # ms
    runs_per_task: int = 1000
    events: int = 10_000
    requests: int = 86_400_000  # ms after the answer


class Unavailable(Exception):
    """The database cannot write now (disk full, an I/O error): the same may succeed later. `lasting`: not before a person has acted."""

    def __init__(self, text: str, *, lasting: bool = False) -> None:
        super().__init__(text)
        self.lasting = lasting


class Corrupt(Exception):
    """The file is no database of ours any more."""


class TooNew(Exception):
    """The database was written by a newer dicode."""


class BadCommand(Exception):
    """This can never be done: too big, a kind that is not for everyone. The message says why."""


class Objects(Protocol):
    def get(self, kind: str, key: str) -> Found: ...

    def list(self, kind: str, since: int, after: int, until: int) -> Listing:
        """One page; see commands.List. The caller fills in the epoch."""
        ...

    def write(self, ops: Sequence[Put | Delete | Append], at: Moment) -> Written | Conflict:
        """All or none. Raises BadCommand."""
        ...


class Queue(Protocol):
    def enqueue(self, run: Run, at: Moment) -> Enqueued | Refused: ...

    def claim(self, worker: str, token: str, n: int, labels: Sequence[str], runtimes: Sequence[str], lease: int, at: Moment) -> Claimed: ...

    def renew(self, worker: str, held: Sequence[Held], lease: int, at: Moment) -> Renewed:
        """Good at once, also outside a batch."""
        ...

    def finish(self, run: str, fence: int, status: RunStatus, exit_code: int | None, result: Result | None, error: str, at: Moment) -> Finished: ...

    def cancel(self, run: str, who: str, at: Moment) -> Found: ...

    def overdue(self, at: Moment) -> bool:
        """Whether some lease has ended; costs no transaction."""
        ...

    def expire(self, at: Moment) -> int:
        """Take back what was not renewed in time; how many that were."""
        ...

    def leased(self) -> int:
        """How many runs workers hold."""
        ...


class Leases(Protocol):
    def acquire(self, name: str, holder: str, ttl: int, at: Moment) -> Leased: ...

    def release(self, name: str, holder: str) -> Leased: ...


class Engine(Protocol):
    @property
    def objects(self) -> Objects: ...

    @property
    def queue(self) -> Queue: ...

    @property
    def leases(self) -> Leases: ...

    def begin(self, *, promised: bool = True) -> None:
        """Start the transaction of a batch. Raises Unavailable, Corrupt.

        `promised`: its commit must survive a power cut, and with it all before. Otherwise it survives any crash of ours.
        """
        ...

    def attempt(self) -> AbstractContextManager[None]:
        """A part of the batch that is undone alone when it raises BadCommand. Outside a batch: for what only reads.

        Raises Unavailable, Corrupt: then the whole batch is to be rolled back.
        """
        ...

    def commit(self) -> list[Committed]:
        """Make the batch durable; what it changed, in order. Raises Unavailable or Corrupt: then nothing was done."""
        ...

    def rollback(self) -> None:
        """Forget the batch."""
        ...

    def head(self) -> int:
        """The newest rev given."""
        ...

    def heads(self) -> Mapping[str, int]:
        """The newest rev of each kind."""
        ...

    def sweep(self, retention: Retention, at: Moment) -> bool:
        """One small step of tidying, inside a batch; False when nothing was left to do."""
        ...

    def idle(self) -> None:
        """Outside a batch, nobody waits: a moment for the log of the database."""
        ...

    def close(self) -> None: ...
