"""What happens to an HTTP request on the hooks listener: verify, store, answer. A bare ASGI application.

The order is fixed: method and path, length, body, signature, and only then is anything parsed; a 2xx leaves after the
run was committed.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from dicode.messages.commands import Enqueue as EnqueueCommand
from dicode.messages.commands import Enqueued, Put, Refused, Write, Written
from dicode.messages.kinds import Delivery, Run
from dicode.process.blobs import BadBundle, Bundles, MissingBundle
from dicode.process.bodies import Crowded, Gone, Receive, Room, Send
from dicode.process.clock import wall_ms
from dicode.process.http import remote_of
from dicode.process.inputs import INLINE, store_input
from dicode.process.logs import Log
from dicode.process.mirror import Mirror
from dicode.process.role import explain
from dicode.process.settings import Settings
from dicode.spec.params import effective
from dicode.trigger import webhook
from dicode.trigger.decide import Hook, webhook_run
from dicode.trigger.page import SCRIPT, SCRIPT_NAME, TYPES, asset_type, base_of, with_script
from dicode.trigger.push import PATH
from dicode.trigger.pushes import Pushes
from dicode.trigger.request import RELAYED, Request, is_of_this_machine, is_plain
from dicode.trigger.runs import RunWatch
from dicode.trigger.state import Hooks
from dicode.trigger.webhook import NOT_FOUND, Answer, Call, Malformed, problem
from dicode.wire.client import Wire
from dicode.wire.frames import StoreAway, StoreFailed, encode

WAIT = 30.0  # seconds a caller waits for its run; SPEC 7
STORE_WITHIN = 5.0  # seconds the store may take to accept a run
START_WITHIN = 5.0  # seconds a call waits for us to have heard of the tasks, right after a start


class HookApp:
    """Answers requests from the table of hooks, the store and the bundles."""

    def __init__(self, wire: Wire, mirror: Mirror, hooks: Hooks, settings: Settings, log: Log) -> None:
        self.known = asyncio.Event()  # set once the table of hooks is complete for the first time
        self.watch = RunWatch(wire, drop_hints=settings.environ.get("DICODE_TEST_DROP_HINTS") == "1")
        self.closing = asyncio.Event()
        self._wire = wire
        self._mirror = mirror
        self._hooks = hooks
        self._inputs = settings.inputs
        self._bundles = Bundles(settings.bundles, settings.trees)
        self._log = log
        self._room = Room()
        self._pushes = Pushes(wire, mirror, settings.environ, self._remember)
        self._writing: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        request = Request(scope["method"], scope["path"], scope["query_string"], scope["headers"], remote_of(scope), RELAYED in scope)
        try:
            answer = await self._answer(request, receive)
        except Gone:
            return
        except (StoreAway, StoreFailed) as error:
            answer = problem(503, f"the store cannot take it now: {error}", retry_after=1)
        except Crowded:
            answer = problem(503, "too many big bodies at once", retry_after=1, headers=((b"connection", b"close"),))
        except Exception as error:
            self._log.say(f"hook {request.path}: {explain(error)}")
            answer = problem(500, "internal error")
        await _send(send, answer)

    async def _answer(self, request: Request, receive: Receive) -> Answer:
        if request.header(b"content-encoding") not in (b"", b"identity"):
            return problem(415, "send the body as it is, without Content-Encoding")
        if request.relayed and not request.path.startswith("/hooks/"):
            return NOT_FOUND
        if request.path == f"/{SCRIPT_NAME}" and request.method in ("GET", "HEAD"):
            return Answer(200, SCRIPT, TYPES[".js"])
        if not self.known.is_set():
            await self._wait_for_table()
        if not is_plain(request.path):
            return NOT_FOUND
        if f"{request.path}/".startswith(PATH):
            return await self._pushes.answer(request, lambda: self._room.read_body(request.headers, receive))
        found = self._hooks.find(request.path)
        if found is None or (request.relayed and found.hook.same_site):
            return NOT_FOUND  # relayed: a hook that is open because only this machine reaches it is not open to the world
        hook, below = found
        if request.method in ("GET", "HEAD"):
            page = await self._page(hook, request.path, below)
            if page is not None:
                return page
        if request.method not in hook.methods:
            return problem(
                405, f"this hook answers {', '.join(sorted(hook.methods))}", headers=((b"allow", ", ".join(sorted(hook.methods)).encode()),)
            )
        body = await self._room.read_body(request.headers, receive)
        if body is None:
            return problem(413, f"a body has at most {webhook.BODY_MAX} bytes")
        if not _allowed(hook, request, body):
            return NOT_FOUND
        return await self._fire(hook, request, body)

    async def _wait_for_table(self) -> None:
        try:
            await asyncio.wait_for(self.known.wait(), START_WITHIN)
        except TimeoutError:
            raise StoreAway("the tasks are not known yet") from None

    async def _fire(self, hook: Hook, request: Request, body: bytes) -> Answer:
        declared = hook.spec.params or ()
        try:
            if request.method == "GET":
                call = webhook.read_query(request.query, declared)
            else:
                call = webhook.read(body, request.header(b"content-type"), declared)
        except Malformed as error:
            return problem(400, str(error))
        if hook.spec.params:
            checked = effective(hook.spec, call.params)
            if not isinstance(checked, dict):
                return problem(422, "; ".join(checked))
        delivery = webhook.delivery_id(request.headers)
        answer = await self._enqueue(hook, request, call, delivery, len(body))
        if isinstance(answer, Answer):
            return answer
        if hook.accept_only or b"wait=false" in request.query.split(b"&"):
            return webhook.accepted(answer)
        run = await self._ended(answer)
        return webhook.accepted(answer) if run is None else webhook.finished(run)

    async def _enqueue(self, hook: Hook, request: Request, call: Call, delivery: str, size: int) -> str | Answer:
        """The id of the run, committed; or why there is none."""
        if self._mirror.silent:
            raise StoreAway("it has not been heard of")  # what we sent now would be run later, though we had said no
        blob = ""
        text = call.input
        if len(text) > INLINE // 4 and len(encoded := text.encode()) > INLINE:
            text, blob = "", await asyncio.to_thread(store_input, self._inputs, encoded)
        run = webhook_run(hook.task, delivery or os.urandom(16).hex(), text, blob, call.params)
        reply = await self._wire.ask_any(EnqueueCommand(run=run), deadline=STORE_WITHIN)
        if isinstance(reply, Refused):
            return webhook.refused(reply)
        if not isinstance(reply, Enqueued):
            raise TypeError(f"an enqueue was answered {reply}")
        if delivery:
            event = request.header(b"x-github-event").decode("latin-1")
            self._remember(Delivery(task=hook.task, id=delivery, run=reply.run, at=wall_ms(), remote=request.remote, event=event, bytes=size))
        return reply.run

    def _remember(self, delivery: Delivery) -> None:
        """Write the record beside the answer: it is for people. What makes a repeated delivery harmless is the run's unique key."""
        task = asyncio.create_task(self._write_delivery(delivery))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write_delivery(self, delivery: Delivery) -> None:
        key = f"{delivery.task}:{delivery.id}"
        try:
            await self._wire.ask(Write(ops=(Put("Delivery", key, encode(delivery)),)), Written)
        except (StoreAway, StoreFailed) as error:
            self._log.say(f"delivery {key} was not recorded: {explain(error)}")

    async def _ended(self, run: str) -> Run | None:
        """The ended run; None after WAIT, or when we are told to stop."""
        ended = asyncio.create_task(self.watch.ended(run, WAIT))
        closing = asyncio.create_task(self.closing.wait())
        try:
            await asyncio.wait((ended, closing), return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended.done() else None
        finally:
            ended.cancel()
            closing.cancel()

    async def _page(self, hook: Hook, path: str, below: str) -> Answer | None:
        """The page or an asset of a hook whose folder has an index.html; None when it has none."""
        try:
            return await asyncio.to_thread(_read_page, self._bundles, hook, path, below)
        except (MissingBundle, BadBundle) as error:
            return problem(503, str(error), retry_after=5)


_NO_CACHE = (b"cache-control", b"no-cache")


def _read_page(bundles: Bundles, hook: Hook, path: str, below: str) -> Answer | None:
    folder = bundles.unpack(hook.digest)
    index = folder / "index.html"
    if not index.is_file():
        return None
    if not below or below == "index.html":
        return Answer(200, with_script(index.read_bytes(), base_of(path, below)), TYPES[".html"], (_NO_CACHE,))
    if below == SCRIPT_NAME:
        return Answer(200, SCRIPT, TYPES[".js"], (_NO_CACHE,))
    inline = not (folder / "task.yaml").is_file()
    type = asset_type(below, hook.task.rpartition("/")[2] if inline else "")
    asset = folder / below
    if type is None or not asset.is_file() or not asset.resolve().is_relative_to(folder.resolve()):
        return NOT_FOUND
    return Answer(200, asset.read_bytes(), type, (_NO_CACHE, (b"x-content-type-options", b"nosniff")))


def _allowed(hook: Hook, request: Request, body: bytes) -> bool:
    if hook.secret is not None:
        return webhook.signed(hook.secret, body, request.all(b"x-hub-signature-256"))
    return not hook.same_site or _from_here(request)


def _from_here(request: Request) -> bool:
    """Not sent by a page of another site: programs send no Origin, our own page sends that of this listener.

    A name that somebody else's DNS leads to this machine makes no page ours; what a browser fetches for another site it says so itself.
    """
    if request.header(b"sec-fetch-site") not in (b"", b"same-origin", b"none"):
        return False
    origin, host = request.header(b"origin"), request.header(b"host")
    return not origin or (origin.partition(b"://")[2] == host and is_of_this_machine(host))


async def _send(send: Send, answer: Answer) -> None:
    headers = [(b"content-type", answer.type), (b"content-length", str(len(answer.body)).encode()), *answer.headers]
    if answer.status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
