"""What may be asked of the store, and what it answers. One tagged union each way.

A command is answered after its transaction has been committed: what promises something to someone outside (a run accepted,
claimed or finished, a request, a delivery) with synchronous=FULL, what a controller writes down without waiting for the disk. Sent twice with the same
request id it is done once; after a restart of the store each is harmless to repeat:
`Write` by `expect`, `Enqueue` by `Run.unique`, `Claim` by its token, `Renew` and `Finish` by the fence.
"""

from __future__ import annotations

import msgspec

from dicode.messages.kinds import Result, Run, RunStatus


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="do"):
    """Base of the commands."""


class Put(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="op", tag="put"):
    """Write one object. `expect`: the rev it must have now (0: must not exist); None: whatever it is."""

    kind: str
    key: str
    body: bytes  # msgpack of the kind
    expect: int | None = None
    cause: str = ""


class Delete(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="op", tag="delete"):
    """Remove one object; a tombstone is kept for 24 h. Deleting what is not there changes nothing and has rev 0."""

    kind: str
    key: str
    expect: int | None = None
    cause: str = ""


class Append(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="op", tag="append"):
    """Write one object under a key the store gives: the rev, as 16 decimal digits."""

    kind: str
    body: bytes
    cause: str = ""


class Write(Command, frozen=True, kw_only=True, tag="write"):
    """All of these or none. Answers `Written` or `Conflict`. A put whose body is what is there already gets no new rev."""

    ops: tuple[Put | Delete | Append, ...]


class WriteAll(Command, frozen=True, kw_only=True, tag="write_all"):
    """Several writes, each of them all or none. Answers `WroteAll`, one answer for each, in order."""

    writes: tuple[tuple[Put | Delete | Append, ...], ...]


class Get(Command, frozen=True, kw_only=True, tag="get"):
    """Answers `Found` (rev 0 and empty body when it does not exist)."""

    what: str
    key: str


class List(Command, frozen=True, kw_only=True, tag="list"):
    """What changed after `since` (0: all), oldest rev first, deletions too. Answers `Listing`.

    `since` older than the kept tombstones, or newer than the head, is answered in full (`full` is set).
    A listing that did not fit into one frame goes on with `after` = the last rev it had; what changes meanwhile comes on a
    later page. `until` may give the head of the first page: then older deletions are left out, where `since` is 0.
    """

    what: str
    since: int = 0
    after: int = 0
    until: int = 0


class Enqueue(Command, frozen=True, kw_only=True, tag="enqueue"):
    """Put a run on the queue. Answers `Enqueued` or `Refused`.

    In one transaction: the unique key is looked up, the task's suspension and overlap are applied, digest, runtime,
    retry, overlap and labels are filled in from the registered Task when `run.digest` is "".
    """

    run: Run


class Claim(Command, frozen=True, kw_only=True, tag="claim"):
    """Take up to `n` (at most 256) due runs this worker may run, as many as fit into a frame. Answers `Claimed`.

    The same token finds the same runs again, as long as they run. No `runtimes` means all.
    """

    worker: str
    token: str
    n: int
    labels: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    lease: int = 6_000  # ms; R7


class Held(msgspec.Struct, frozen=True):
    run: str
    fence: int


class Renew(Command, frozen=True, kw_only=True, tag="renew"):
    """Keep what this worker holds. Answers `Renewed`: which are to be cancelled, which are no longer its own."""

    worker: str
    held: tuple[Held, ...]
    lease: int = 6_000


class Finish(Command, frozen=True, kw_only=True, tag="finish"):
    """End one attempt. Answers `Finished`; `fenced` when the lease was lost: nothing was written."""

    run: str
    fence: int
    status: RunStatus
    exit_code: int | None = None
    result: Result | None = None
    error: str = ""


class Cancel(Command, frozen=True, kw_only=True, tag="cancel"):
    """A queued run ends at once; a running one is marked, its worker is told by `Renew` and by the change. Answers `Found`."""

    run: str
    who: str = ""


class Acquire(Command, frozen=True, kw_only=True, tag="acquire"):
    """Take or renew a named lease. Answers `Leased`: the fence, 0 when someone else holds it."""

    name: str
    holder: str
    ttl: int


class Release(Command, frozen=True, kw_only=True, tag="release"):
    """Give a lease back before it ends; of another holder it changes nothing. Answers `Leased` with fence 0."""

    name: str
    holder: str


class Ping(Command, frozen=True, kw_only=True, tag="ping"):
    """Answers `Pong`."""


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="is"):
    """Base of the replies."""


class Written(Reply, frozen=True, kw_only=True, tag="written"):
    revs: tuple[int, ...]


class Conflict(Reply, frozen=True, kw_only=True, tag="conflict"):
    """Nothing was written: object `key` is at `rev`, not where the writer thought."""

    what: str
    key: str
    rev: int


class Failed(Reply, frozen=True, kw_only=True, tag="failed"):
    """The store could not do it: disk full, bad command. `retry`: the same command may succeed later."""

    message: str
    retry: bool = False


class WroteAll(Reply, frozen=True, kw_only=True, tag="wrote_all"):
    answers: tuple[Written | Conflict | Failed, ...]


class Found(Reply, frozen=True, kw_only=True, tag="found"):
    rev: int = 0
    body: bytes = b""


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One object as it is at `rev`; `body` None: deleted."""

    key: str
    rev: int
    body: bytes | None
    cause: str


class Listing(Reply, frozen=True, kw_only=True, tag="listing"):
    """`head`: the rev up to which this is complete once `more` is False. `full`: what is not listed does not exist."""

    epoch: str
    head: int
    changes: tuple[Change, ...]
    full: bool = False
    more: bool = False


class Enqueued(Reply, frozen=True, kw_only=True, tag="enqueued"):
    """`created` False: the unique key was known, this is the run it names."""

    run: str
    created: bool = True
    status: RunStatus = "queued"


class Refused(Reply, frozen=True, kw_only=True, tag="refused"):
    """Not accepted. `reason`: `suspended`, `unknown`, `overlap`, `full`, `not_ready`; `run` where a skipped one was recorded."""

    reason: str
    message: str
    run: str = ""


class Claimed(Reply, frozen=True, kw_only=True, tag="claimed"):
    runs: tuple[Run, ...] = ()
    waiting: int = 0


class Renewed(Reply, frozen=True, kw_only=True, tag="renewed"):
    cancel: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


class Finished(Reply, frozen=True, kw_only=True, tag="finished"):
    fenced: bool = False
    status: RunStatus = "succeeded"  # `queued` when a retry follows


class Leased(Reply, frozen=True, kw_only=True, tag="leased"):
    fence: int = 0


class Pong(Reply, frozen=True, kw_only=True, tag="pong"):
    epoch: str
    head: int


AnyCommand = Write | WriteAll | Get | List | Enqueue | Claim | Renew | Finish | Cancel | Acquire | Release | Ping
AnyReply = Written | WroteAll | Conflict | Found | Listing | Enqueued | Refused | Claimed | Renewed | Finished | Leased | Pong | Failed
