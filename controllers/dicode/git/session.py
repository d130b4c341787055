"""Sessions with children that do git work: the controller's side. This text is the contract.

    children = Children(environ)                            # starts nothing yet
    async with children.session() as session:               # a child of its own, forked in about 3 ms, with limits
        found = await session.one("look", mirror, args, Answer)             # exactly one item
        async for batch in session.stream("read", mirror, args, Batch):     # any number of items
            ...

- `mirror` is the absolute path of a bare repository: `Repositories` knows it. `args` is anything msgspec can encode; the type
  at the end is what each item is decoded to (NamedTuples, Structs, lists and dicts of them; bytes stay bytes).
- Asks of one session are answered one after another by the same child, so what it opened for the first is there for the next.
- An item is at most `frames.FRAME_MAX` (40 MiB) when encoded; a child that yields more is told so by a GitFault TooLarge.
  The child waits while nobody reads, so memory here is one item. Time it waits counts for its deadline (`Limits.seconds`).
- In the child: `frames.Verb(ArgsType, handler)`; the handler takes (mirror path, args) and yields items. Tables of them
  are `mirror.VERBS` and `objects.VERBS`; `fetcher.verbs()` puts them together.
- Everything that goes wrong is a GitFault, which is a TreeGone: `reason` (TimedOut, OutOfMemory, TooLarge, CacheCorrupt, Killed, …) and our
  own words. After a fault that the child told of itself the session is as good as before; when the child is gone, each further ask raises the same.
- A consumer that leaves a stream early ends the session's child; leaving `async with` always does.
- Who ends a late child is the fetcher. When that is late itself (stopped, or stuck), it is ended with all its children, and started again.
- A mirror that was found damaged (CacheCorrupt, from whatever verb) is told to `children.on_damage(mirror)`.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from dicode.git.frames import ASK, END, FAULT, FRAME_MAX, HEAD, ITEM, MESSAGE, Ask, Ended, GitFault, Kill, Limits, Opening, Said, ended_badly
from dicode.process import rights
from dicode.process.child import Child, spawn

T = TypeVar("T")

PROGRAM = (sys.executable, "-P", "-m", "dicode.git.fetcher")
WIDTH = 40  # sessions at the same time; more wait
LATE = 10.0  # seconds after which a child must have been ended for its deadline
TELL_WITHIN = 5.0  # seconds between the end of a session's socket and the fetcher's word on how its child ended
GATHER = 1 << 18  # bytes that are taken from the socket at once
PASSED_ON = (  # all that git work may know of our environment
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
)  # fmt: skip
PASSED_ON_TO_TEST = ("DICODE_TEST_", "COVERAGE_", "PYTHON")  # what begins so


class Children:
    """The door to the fetcher, which is started by the first session and again after it died. Belongs to one event loop."""

    def __init__(self, environ: Mapping[str, str], limits: Limits | None = None, on_damage: Callable[[str], None] | None = None) -> None:
        """`environ` is ours; git work is given only what it needs of it. `limits` hold for sessions that name none."""
        self.limits = limits or Limits()
        self.on_damage = on_damage
        self._environ = {name: environ[name] for name in environ if name in PASSED_ON or name.startswith(PASSED_ON_TO_TEST)}
        self._ids = itertools.count(1)
        self._room = asyncio.Semaphore(WIDTH)
        self._waiting: dict[int, asyncio.Future[Ended | None]] = {}  # session → how its child ended
        self._control: socket.socket | None = None
        self._fetcher: Child | None = None

    @property
    def pid(self) -> int | None:
        """Of the fetcher; None while there is none."""
        return self._fetcher.pid if self._fetcher is not None and self._control is not None else None

    @asynccontextmanager
    async def session(self, limits: Limits | None = None, *, tls: bool = False) -> AsyncIterator[Session]:
        """A child of its own. Raises GitFault when none can be had."""
        async with self._room:
            session = self._open(limits or self.limits, tls)
            try:
                yield session
            finally:
                session.close()

    def _open(self, limits: Limits, tls: bool) -> Session:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        id = next(self._ids)
        try:
            self._tell(Opening(id, limits, tls), theirs.fileno())
        except OSError as error:
            ours.close()
            raise GitFault("Killed", f"no process for git work can be started: {error.strerror}") from None
        finally:
            theirs.close()
        ended = self._waiting[id] = asyncio.get_running_loop().create_future()
        return Session(ours, limits, ended, lambda: self._end(id), self._damaged, self._end_fetcher)

    def _damaged(self, mirror: str) -> None:
        if self.on_damage is not None:
            self.on_damage(mirror)

    def _tell(self, message: Opening | Kill, fd: int | None = None) -> None:
        """To the fetcher, which is started when it is not there. Raises OSError."""
        data = msgspec.msgpack.encode(message)
        if self._control is not None:
            try:
                return rights.send(self._control, data, fd)
            except ConnectionError:
                self._gone()  # it died, and the loop has not told us yet
        rights.send(self._start(), data, fd)
        return None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._fetcher = spawn((*PROGRAM, str(theirs.fileno())), env=self._environ, cwd=Path("/"), stderr_fd=2, pass_fds=(theirs.fileno(),))
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        asyncio.get_running_loop().add_reader(ours, self._hear)
        self._control = ours
        return ours

    def _hear(self) -> None:
        assert self._control is not None
        while True:
            try:
                data, _ = rights.receive(self._control, MESSAGE, wait=False)
            except BlockingIOError:
                return None
            except OSError:
                data = b""
            if not data:
                return self._gone()
            ended = msgspec.msgpack.decode(data, type=Ended)
            waiting = self._waiting.pop(ended.id, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(ended)

    def _gone(self) -> None:
        """The fetcher has ended, and all its children with it."""
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None
        if self._fetcher is not None:
            self._fetcher.close()
            self._fetcher = None
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_result(None)

    def _end_fetcher(self) -> None:
        """It has let a deadline pass. We hear of its end as of any other."""
        if self._fetcher is not None:
            self._fetcher.signal(signal.SIGKILL)

    def _end(self, id: int) -> None:
        """A session is over, done or not."""
        if self._waiting.pop(id, None) is not None and self._control is not None:
            with suppress(OSError):  # full or gone: it ends by its deadline, or has ended
                rights.send(self._control, msgspec.msgpack.encode(Kill(id)))

    async def close(self) -> None:
        """End the fetcher and every session. A later session starts it again."""
        fetcher, self._fetcher = self._fetcher, None
        self._gone()
        if fetcher is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(fetcher.wait(), TELL_WITHIN)
            fetcher.close()


class Session:
    """One child and its socket. See the text at the top."""

    def __init__(
        self,
        link: socket.socket,
        limits: Limits,
        ended: asyncio.Future[Ended | None],
        end: Callable[[], None],
        damaged: Callable[[str], None],
        late: Callable[[], None],
    ) -> None:
        self.limits = limits
        self._until = asyncio.get_running_loop().time() + limits.seconds + LATE
        self._late = late
        self._link = link
        self._ended = ended
        self._end = end
        self._damaged = damaged
        self._broken: GitFault | None = None
        self._answering = False
        self._read = bytearray()

    async def one(self, verb: str, mirror: str, args: object, type: type[T]) -> T:
        """The single item this verb answers with. Raises GitFault."""
        items: list[T] = []
        async for item in self.stream(verb, mirror, args, type):
            items.append(item)
        if len(items) != 1:
            raise GitFault("Killed", f"{verb}: {len(items)} answers where one was due")
        return items[0]

    async def stream(self, verb: str, mirror: str, args: object, type: type[T]) -> AsyncIterator[T]:
        """Each item as it comes. Raises GitFault."""
        if self._broken is not None:
            raise self._broken
        whole = False
        self._answering = True
        decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(type)
        try:
            await self._send(msgspec.msgpack.encode(Ask(verb, mirror, msgspec.Raw(msgspec.msgpack.encode(args)))))
            while True:
                kind, body = await self._frame()
                if kind == ITEM:
                    yield decoder.decode(body)
                    continue
                whole, self._answering = True, False
                if kind == FAULT:
                    raise self._fault(body, mirror)
                return
        except (OSError, msgspec.DecodeError) as error:
            raise await self._break(error) from None
        finally:
            if not whole:
                self._give_up()

    def _fault(self, body: bytes, mirror: str) -> GitFault:
        said = msgspec.msgpack.decode(body, type=Said)
        if said.reason == "CacheCorrupt":
            self._damaged(mirror)
        return GitFault(said.reason, said.message, said.permanent)

    async def _send(self, body: bytes) -> None:
        async with asyncio.timeout_at(self._until):
            await asyncio.get_running_loop().sock_sendall(self._link, HEAD.pack(len(body), ASK) + body)

    async def _frame(self) -> tuple[int, bytes]:
        """Raises OSError when the child is gone or talks nonsense."""
        size, kind = HEAD.unpack(await self._bytes(HEAD.size))
        if size > FRAME_MAX or kind not in (ITEM, END, FAULT):
            raise ConnectionError("not a frame")
        return kind, await self._bytes(size)

    async def _bytes(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        while len(self._read) < size:
            async with asyncio.timeout_at(self._until):
                more = await loop.sock_recv(self._link, GATHER)
            if not more:
                raise ConnectionError("the child has gone")
            self._read += more
        taken = bytes(memoryview(self._read)[:size])
        del self._read[:size]
        return taken

    async def _break(self, error: Exception) -> GitFault:
        """The child is gone, or talks nonsense: learn why, and remember it."""
        if isinstance(error, msgspec.DecodeError):
            self._broken = GitFault("Killed", "its process gave an answer that means nothing")
            return self._broken
        if isinstance(error, TimeoutError):
            self._late()
            self._broken = GitFault("TimedOut", f"not done within {self.limits.seconds:g} s: given up")
            return self._broken
        try:
            ended = await asyncio.wait_for(asyncio.shield(self._ended), TELL_WITHIN)
        except TimeoutError:
            ended = None
        self._broken = ended_badly(ended, self.limits)
        return self._broken

    def _give_up(self) -> None:
        """What the child still says belongs to nobody: it is of no further use."""
        if self._broken is None:
            self._broken = GitFault("Killed", "the session was left in the middle of an answer")
        self.close()

    def close(self) -> None:
        """End the child: one that waits for an ask ends by itself, with its socket."""
        self._link.close()
        if self._answering:
            self._end()


__all__ = ["Children", "GitFault", "Limits", "Session"]
