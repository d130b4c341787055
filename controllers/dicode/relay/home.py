"""A home's end of the line: one outbound WebSocket, kept up. What comes down it is answered by whoever made the Home."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random  # noqa: TID251  # jitter, so that the homes of a relay that was away do not all return at once
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dicode.process.bodies import BODY_MAX
from dicode.process.clock import mono
from dicode.relay import frames
from dicode.relay.frames import CONNECT_AT, MESSAGE_MAX, NAME_HEADER, PING, WAITING_MAX, WITHIN, BadFrame, Call, Reply, State, encode, read_call

OPEN_WITHIN = 10.0  # seconds
AGAIN_FIRST, AGAIN_MAX = 0.5, 60.0  # seconds until the next try
FIRST = {"Refused": 5.0, "Withdrawn": 5.0, "Replaced": 30.0}  # seconds; two that take a name from each other should not do it all the time
HELD = 10.0  # seconds after which a connection counts as a success
ANSWER_WITHIN = WITHIN - 1.0  # seconds
UNSENT_MAX = 4 * WAITING_MAX  # answers, also refusals, that the relay may leave unread
BYTES_MAX = 32 << 20  # bytes of bodies under way here; a good relay sends half of it

Answer = Callable[[Call], Awaitable[Reply]]
_silent = logging.getLogger("dicode.relay")
_silent.disabled = True  # what there is to tell, we tell


class Home:
    """`run` keeps the connection until cancelled; `told` hears of each change."""

    def __init__(self, url: str, name: str, token: str, answer: Answer, told: Callable[[State], None]) -> None:
        self._url = url
        self._name = name
        self._token = token
        self._answer = answer
        self._told = told
        self._state: State | None = None
        self._calls = 0  # under way
        self._bytes = 0  # of their bodies
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            await self._keep_connected()
        finally:
            for task in self._tasks:
                task.cancel()

    async def answered(self, within: float) -> None:
        """Wait until the calls that are under way have their answers, at most so many seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within)

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            began = mono()
            try:
                state = await self._live(await _open(self._url, self._name, self._token))
                failures = 0 if mono() - began >= HELD else failures
            except Exception as error:  # the one broad catch: whatever it is, we try again and say so once
                state = refusal(error, self._url, self._name)
            self._tell(state)
            pause = min(FIRST.get(state.reason, AGAIN_FIRST) * 2**failures, AGAIN_MAX)
            failures = min(failures + 1, 10)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    def _tell(self, state: State) -> None:
        if self._state is None or state.reason != self._state.reason:
            self._told(state)
        self._state = state

    async def _live(self, line: ClientConnection) -> State:
        """Answer calls until the connection ends; says how it did."""
        self._tell(State(True, "Connected", f"connected to {self._url} as {self._name}: hooks at {self._url}/{self._name}/hooks/…"))
        try:
            async for message in line:
                self._take(line, message)
            code = line.close_code
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else None
        except BadFrame:
            return State(False, "BadRelay", f"{self._url} sent what is no call: is it a dicode relay of this release?")
        finally:
            await line.close()
        return ended(code, self._url, self._name)

    def _take(self, line: ClientConnection, message: str | bytes) -> None:
        """Raises BadFrame."""
        call = read_call(message if isinstance(message, bytes) else b"")
        if len(self._tasks) >= UNSENT_MAX:
            raise BadFrame("calls and does not listen to the answers")
        size = len(call.body)
        if self._calls >= WAITING_MAX or (self._bytes and self._bytes + size > BYTES_MAX):
            self._spawn(_send(line, _plain(call, 429, "too many calls at once")))
            return
        self._calls, self._bytes = self._calls + 1, self._bytes + size
        self._spawn(self._reply(line, call))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, line: ClientConnection, call: Call) -> None:
        try:
            reply = await self._answered(call)
        finally:
            self._calls, self._bytes = self._calls - 1, self._bytes - len(call.body)
        await _send(line, reply)

    async def _answered(self, call: Call) -> Reply:
        try:
            reply = await asyncio.wait_for(self._answer(call), ANSWER_WITHIN)
        except TimeoutError:
            return _plain(call, 504, "no answer in time")
        except Exception:  # the caller gets an answer whatever happens; what there is to say of it, the hooks have said
            return _plain(call, 500, "internal error")
        return reply if len(reply.body) <= BODY_MAX else _plain(call, 502, "the answer is too big for the relay")


async def _send(line: ClientConnection, reply: Reply) -> None:
    with contextlib.suppress(ConnectionClosed):  # whoever waits for it has heard that we went away
        await line.send(encode(reply))


def _plain(call: Call, status: int, text: str) -> Reply:
    return Reply(call.id, status, ((b"content-type", b"text/plain"),), text.encode())


class _Dialling(connect):
    """Our token goes where dicode.yaml says and nowhere else."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


async def _open(url: str, name: str, token: str) -> ClientConnection:
    return await _Dialling(
        websocket_url(url),
        additional_headers={NAME_HEADER: name, "authorization": f"Bearer {token}"},
        user_agent_header="dicode",
        compression=None,
        open_timeout=OPEN_WITHIN,
        ping_interval=PING,
        ping_timeout=PING,
        close_timeout=1.0,
        max_size=MESSAGE_MAX,
        max_queue=1,
        logger=_silent,
    )


def websocket_url(url: str) -> str:
    """`https://relay.example` → where homes connect."""
    parts = urlsplit(url)
    scheme = {"https": "wss", "http": "ws"}.get(parts.scheme, parts.scheme)
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}{CONNECT_AT}"


def refusal(error: Exception, url: str, name: str) -> State:
    """Why no connection came about, without a word of the other side."""
    match error:
        case InvalidStatus() if error.response.status_code in (401, 403):
            return State(False, "Refused", f"{url} does not know the name {name} with this token: compare token_env with the relay's tokens file")
        case InvalidStatus():
            return State(False, "Away", f"{url} answered {error.response.status_code}: no relay is there now")
        case ssl.SSLCertVerificationError():
            why = getattr(error, "verify_message", "") or "not verified"
            return State(False, "BadCertificate", f"{url}: its certificate is not good: {why}")
        case TimeoutError():
            return State(False, "Away", f"{url} did not answer in {OPEN_WITHIN:g} s")
        case OSError() if error.strerror:
            return State(False, "Away", f"{url} cannot be reached: {os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror}")
        case _:
            return State(False, "Away", f"{url} cannot be reached: {type(error).__name__}")


def ended(code: int | None, url: str, name: str) -> State:
    """What the end of a connection means."""
    match code:
        case frames.REPLACED:
            return State(False, "Replaced", f"another dicode connected to {url} as {name}: give each its own name and token")
        case frames.WITHDRAWN:
            return State(False, "Withdrawn", f"{url} has taken out the name {name} or changed its token")
        case 1001 | 1012:
            return State(False, "Away", f"{url} is going down: connecting again")
        case _:
            return State(False, "Away", f"the connection to {url} was lost: connecting again")
