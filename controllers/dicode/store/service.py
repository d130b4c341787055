"""What the store does with a batch of commands: one transaction, then the answers, then the news. No sockets, no clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar, assert_never

import msgspec

from dicode.messages.commands import (
    Acquire,
    AnyCommand,
    AnyReply,
    Append,
    Cancel,
    Claim,
    Conflict,
    Delete,
    Enqueue,
    Failed,
    Finish,
    Get,
    List,
    Ping,
    Pong,
    Put,
    Release,
    Renew,
    Write,
    WriteAll,
    Written,
    WroteAll,
)
from dicode.messages.kinds import Config
from dicode.store.engine import BadCommand, Committed, Engine, Moment, Retention, Unavailable
from dicode.wire.frames import MAX_FRAME, BadMessage, decode_body, encode

T = TypeVar("T")

REMEMBERED = 20_000  # answers
REMEMBERED_BYTES = 32 << 20
REMEMBERED_FOR = 600_000  # ms
LIGHT = (Get, List, Ping, Renew)  # they write nothing: a renewal is kept in memory alone
TOLD = frozenset({"Request", "Delivery"})  # kinds by which something is promised to someone outside


class Asked(NamedTuple):
    """One command of a batch. `request` is what the asker repeats when no answer comes."""

    request: bytes
    command: AnyCommand


class Service:
    """Answers commands from one engine. `epoch` is new with each start."""

    def __init__(self, engine: Engine, epoch: str) -> None:
        self.engine = engine
        self.epoch = epoch
        self.trouble = ""  # why the last batch could not be done; "" when it could
        self._answered = Answered()

    def answer(self, batch: Sequence[Asked], at: Moment) -> tuple[list[bytes], list[Committed]]:
        """The encoded replies, in order, and what to publish. All of it is durable. Raises Corrupt."""
        if all(isinstance(asked.command, LIGHT) for asked in batch):
            return [self._light(asked.command, at) for asked in batch], []
        self._answered.forget(at)
        try:
            replies, changes = self._transaction(batch, at)
        except Unavailable as error:
            self.engine.rollback()
            self.trouble = str(error)
            return [self._without_writing(asked, at) for asked in batch], []
        except BaseException:
            self.engine.rollback()
            raise
        self.trouble = ""
        for asked, reply in zip(batch, replies, strict=True):
            if not isinstance(asked.command, LIGHT):
                self._answered.add(asked.request, reply, at)
        return replies, changes

    def _without_writing(self, asked: Asked, at: Moment) -> bytes:
        """What can be said while nothing can be written. Workers keep what they hold."""
        if isinstance(asked.command, LIGHT):
            return self._light(asked.command, at)
        return self._answered.get(asked.request) or encode(Failed(message=self.trouble, retry=True))

    def _light(self, command: AnyCommand, at: Moment) -> bytes:
        try:
            return self._tried(command, at)
        except Unavailable as error:
            return encode(Failed(message=str(error), retry=True))

    def _transaction(self, batch: Sequence[Asked], at: Moment) -> tuple[list[bytes], list[Committed]]:
        self.engine.begin(promised=any(promises(asked.command) for asked in batch))
        done: dict[bytes, bytes] = {}
        replies = []
        for request, command in batch:
            reply = done.get(request) or self._answered.get(request)
            if reply is None:
                reply = done[request] = self._tried(command, at)
            replies.append(reply)
        return replies, self.engine.commit()

    def _tried(self, command: AnyCommand, at: Moment) -> bytes:
        """The reply to one command; one that fails is undone alone."""
        try:
            with self.engine.attempt():
                reply = encode(self._do(command, at))
                if len(reply) > MAX_FRAME:
                    raise BadCommand(f"the answer to {type(command).__name__} has {len(reply)} bytes, a frame has at most {MAX_FRAME}")
                return reply
        except (BadCommand, msgspec.MsgspecError) as error:
            return encode(Failed(message=str(error)))

    def _do(self, command: AnyCommand, at: Moment) -> AnyReply:
        objects, queue, leases = self.engine.objects, self.engine.queue, self.engine.leases
        match command:
            case Write(ops=ops):
                return objects.write(ops, at)
            case WriteAll(writes=writes):
                return WroteAll(answers=tuple(self._one(ops, at) for ops in writes))
            case Get(what=kind, key=key):
                return objects.get(kind, key)
            case List(what=kind, since=since, after=after, until=until):
                return msgspec.structs.replace(objects.list(kind, since, after, until), epoch=self.epoch)
            case Enqueue(run=run):
                return queue.enqueue(run, at)
            case Claim() as claim:
                return queue.claim(claim.worker, claim.token, claim.n, claim.labels, claim.runtimes, claim.lease, at)
            case Renew(worker=worker, held=held, lease=lease):
                return queue.renew(worker, held, lease, at)
            case Finish() as end:
                return queue.finish(end.run, end.fence, end.status, end.exit_code, end.result, end.error, at)
            case Cancel(run=run_id, who=who):
                return queue.cancel(run_id, who, at)
            case Acquire(name=name, holder=holder, ttl=ttl):
                return leases.acquire(name, holder, ttl, at)
            case Release(name=name, holder=holder):
                return leases.release(name, holder)
            case Ping():
                return Pong(epoch=self.epoch, head=self.engine.head())
            case _:
                assert_never(command)

    def _one(self, ops: Sequence[Put | Delete | Append], at: Moment) -> Written | Conflict | Failed:
        """One write of several; one that fails is undone alone."""
        try:
            with self.engine.attempt():
                return self.engine.objects.write(ops, at)
        except BadCommand as error:
            return Failed(message=str(error))

    def expire(self, at: Moment) -> list[Committed]:
        """Take back runs whose lease ended; what to publish. Raises Unavailable: try again in a moment."""
        if not self.engine.queue.overdue(at):
            return []
        return self._alone(lambda: self.engine.queue.expire(at))[1]

    def tidy(self, at: Moment) -> tuple[bool, list[Committed]]:
        """One small step of forgetting: whether more is left, and what to publish. Raises Unavailable."""
        return self._alone(lambda: self.engine.sweep(self._retention(), at))

    def _alone(self, work: Callable[[], T]) -> tuple[T, list[Committed]]:
        """A transaction that no command asked for."""
        try:
            self.engine.begin()
            done = work()
            return done, self.engine.commit()
        except BaseException:
            self.engine.rollback()
            raise

    def _retention(self) -> Retention:
        body = self.engine.objects.get("Config", "dicode.yaml").body
        try:
            config = decode_body("Config", body) if body else None
        except BadMessage:
            config = None
        if not isinstance(config, Config):
            return Retention()
        return Retention(runs=config.retention_runs, runs_per_task=config.retention_runs_per_task)


def promises(command: AnyCommand) -> bool:
    """Whether its answer is a promise to someone outside, so that it must outlive a power cut (DESIGN 3).

    What a controller writes down is none: after a power cut it is read, seen or measured again.
    """
    match command:
        case Write(ops=ops):
            return any(op.kind in TOLD for op in ops)
        case WriteAll(writes=writes):
            return any(op.kind in TOLD for ops in writes for op in ops)
        case _:
            return not isinstance(command, LIGHT)


class Answered:
    """The last answers by request id, so that a command that is sent twice is done once. Bounded by count, bytes and age."""

    def __init__(self) -> None:
        self._replies: OrderedDict[bytes, tuple[int, bytes]] = OrderedDict()
        self._bytes = 0

    def get(self, request: bytes) -> bytes | None:
        known = self._replies.get(request)
        return known[1] if known else None

    def add(self, request: bytes, reply: bytes, at: Moment) -> None:
        if request in self._replies:
            return
        self._replies[request] = (at.mono, reply)
        self._bytes += len(reply)

    def forget(self, at: Moment) -> None:
        while self._replies:
            since, reply = next(iter(self._replies.values()))
            if len(self._replies) <= REMEMBERED and self._bytes <= REMEMBERED_BYTES and at.mono - since <= REMEMBERED_FOR:
                return
            self._replies.popitem(last=False)
            self._bytes -= len(reply)
