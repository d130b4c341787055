"""What is said between the controller, the fetcher and its children: who opens a session, what it may use, asks and answers.

On a session's socket each frame is a length (4 bytes, big-endian), one byte for its kind, and msgpack. The child hears `Ask`
frames, one at a time, and answers each with any number of ITEM frames and then one END or FAULT. No asyncio here: the
children are plain blocking code.
"""

from __future__ import annotations

import signal
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from dicode.git.trees import TreeGone
from dicode.spec.trees import CommitInfo, Repo

ASK: Final = 0
ITEM: Final = 1
END: Final = 2
FAULT: Final = 3

HEAD = struct.Struct(">IB")
FRAME_MAX = 40 << 20  # bytes: a task has 16 MiB at most, and what is about it
MESSAGE = 1 << 16  # bytes of one message between controller and fetcher
EX_MEMORY = 3  # exit code of a child that had no memory left to say so


class GitFault(TreeGone):
    """Git work that failed: `reason` is one word, the text our own words. `permanent`: it will not heal by waiting."""

    def __init__(self, reason: str, message: str, permanent: bool = False) -> None:
        super().__init__(reason, message)
        self.permanent = permanent


class Limits(msgspec.Struct, frozen=True):
    """What one session may use, and what makes a mirror too big or worn. Bytes and seconds (SPEC 9)."""

    seconds: float = 60.0  # of wall clock, and of processor time, for the whole session
    memory: int = 512 << 20  # of address space
    fetch: int = 256 << 20  # of one file, so of one pack
    refs: int = 16 << 20  # of one ref advertisement
    mirror: int = 1 << 30  # beyond it the mirror is cloned again
    packs: int = 20  # beyond it they are made one
    worn: int = 100  # beyond it, packing again has failed for long: cloned again
    open_files: int = 256


class Opening(msgspec.Struct, frozen=True, tag=True):
    """Controller → fetcher, with the child's end of the session's socket: fork for it."""

    id: int
    limits: Limits
    tls: bool = False  # the child will speak TLS: what can be made ready once for all is


class Kill(msgspec.Struct, frozen=True, tag=True):
    """Controller → fetcher: nobody waits for this session any more."""

    id: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """Fetcher → controller: the child of a session has ended. `code` as of os.waitstatus_to_exitcode."""

    id: int
    code: int
    late: bool = False  # it was at its deadline


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """A verb, the absolute path of the mirror it is about, and its arguments as msgpack."""

    verb: str
    mirror: str
    args: msgspec.Raw


class Said(msgspec.Struct, frozen=True, array_like=True):
    """The body of a FAULT frame."""

    reason: str
    message: str
    permanent: bool = False


# ── what mirrors are asked ──


class Wanted(msgspec.Struct, frozen=True):
    """A repo to sync, and the commit of it that is served already, "" for none."""

    repo: Repo
    known: str = ""


class SyncArgs(msgspec.Struct, frozen=True):
    """Repos of one URL that are reached in one way. `token`: the value, which is never written anywhere."""

    wanted: list[Wanted]
    token: str = ""
    limits: Limits = Limits()


class Outcome(msgspec.Struct, frozen=True):
    """Of one repo: its commit when that is another than was known, or `fault`; neither: no news."""

    commit: CommitInfo | None = None
    fault: Said | None = None


class Synced(msgspec.Struct, frozen=True):
    """`outcomes` in the order they were asked for. `renewed`: the mirror was made anew, other repos of it must be synced too. `worn`: it should be packed."""

    outcomes: list[Outcome]
    renewed: bool = False
    worn: bool = False


class SweepArgs(msgspec.Struct, frozen=True):
    """Names of the folders that somebody follows."""

    keep: list[str]


# ── how it is answered ──


class Verb(NamedTuple):
    """A thing a child can do: `answer(mirror, args)` yields what msgspec can encode; `args` is the type it wants.

    It may raise GitFault. What it raises otherwise becomes one: MemoryError OutOfMemory, a full file TooLarge, what
    the object database throws when it is damaged CacheCorrupt.
    """

    args: Any
    answer: Callable[[str, Any], Iterator[Any]]


def ended_badly(ended: Ended | None, limits: Limits) -> GitFault:
    """Why a session broke off, told by how its child ended; None: with its fetcher."""
    if ended is None:
        return GitFault("Killed", "the process that does all git work has ended; it is started again")
    if ended.late or ended.code == -signal.SIGXCPU:
        return GitFault("TimedOut", f"not done within {limits.seconds:g} s: given up")
    if ended.code == -signal.SIGXFSZ:
        return too_large(limits)
    if ended.code == EX_MEMORY:
        return out_of_memory(limits)
    if ended.code < 0:
        return GitFault("Killed", f"its process was ended by signal {-ended.code}")
    return GitFault("Killed", f"its process has ended with code {ended.code}")


def too_large(limits: Limits) -> GitFault:
    return GitFault(
        "TooLarge", f"the remote sends more than {limits.fetch // 1024**2} MiB at once: make the repository smaller, or use one of its own for tasks"
    )


def out_of_memory(limits: Limits) -> GitFault:
    return GitFault(
        "OutOfMemory", f"what the remote sent needs more than {limits.memory // 1024**2} MiB of memory: look for a very large file in the repository"
    )
