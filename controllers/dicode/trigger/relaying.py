"""The hooks for a machine behind NAT: what comes down the line to the relay is answered as if it had been called here.

Not quite: a relayed call comes from anywhere, so it is never taken for one of this machine (`Request.relayed`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from dicode.messages.kinds import Condition, Config, Event, Relay, Route
from dicode.process.clock import wall_ms
from dicode.process.logs import Log
from dicode.process.mirror import Lost, Mirror, append, delete, put
from dicode.process.role import explain
from dicode.relay.frames import Call, Reply, State, passed_on
from dicode.spec.condition import carried
from dicode.trigger.decide import ROLE
from dicode.trigger.request import RELAYED
from dicode.wire.frames import StoreAway, StoreFailed

if TYPE_CHECKING:
    from dicode.relay.home import Home

RELAYS = "relay:"  # before a relay's name, in keys of Route: no task id holds a colon
AGAIN = 1.0  # seconds until a write that failed is tried again

App = Callable[[Any, Any, Any], Awaitable[None]]


class Relaying:
    """Follows `relay:` of dicode.yaml: connects, disconnects, and says how it stands."""

    def __init__(self, app: App, mirror: Mirror, environ: dict[str, str], log: Log) -> None:
        self._app = app
        self._mirror = mirror
        self._environ = environ
        self._log = log
        self._wanted: Relay | None = None
        self._state: State | None = None
        self._home: Home | None = None
        self._running: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def follow(self, configured: asyncio.Event) -> None:
        """Until cancelled; the connection stays until `close`."""
        telling = asyncio.create_task(self._keep_told(), name="relay's route")
        try:
            while True:
                configured.clear()
                config = self._mirror.get(Config, "dicode.yaml")
                if config is not None and (config.relay != self._wanted or self._state is None):
                    await self._switch(config.relay)
                await configured.wait()
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def close(self, within: float) -> None:
        """Let answers that are under way be given within so many seconds, then hang up."""
        if self._home is not None:
            await self._home.answered(within)
        await self._hang_up()

    async def _switch(self, relay: Relay | None) -> None:
        await self._hang_up()
        if self._wanted is not None:
            self._log.say(f"relay: disconnected from {self._wanted.url}")
        self._wanted = relay
        self._state = State(False, "Away", f"connecting to {relay.url}" if relay else "no relay")
        self._changed.set()
        if relay is None:
            return
        token = self._environ.get(relay.token_env, "")
        if not token:
            self._hear(State(False, "NoToken", f"token_env: {relay.token_env} is not set where dicode runs: set it and restart dicode"))
            return
        from dicode.relay.home import Home  # brings websockets and ssl: only for who has a relay

        self._home = Home(relay.url, relay.name, token, self._answer, self._hear)
        self._running = asyncio.create_task(self._home.run(), name="relay")

    async def _hang_up(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._running = self._home = None

    # --- calls

    async def _answer(self, call: Call) -> Reply:
        """The answer the same call would get at our own listener."""
        path, _, query = call.target.partition(b"?")
        answered: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": call.body, "more_body": False}

        async def send(message: Any) -> None:
            answered.append(message)

        scope = {
            "type": "http",
            "method": call.method,
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "headers": [(name.lower(), value) for name, value in call.headers],
            "client": (call.remote, 0),
            RELAYED: True,
        }
        await self._app(scope, receive, send)
        start = answered[0]
        body = b"".join(message.get("body", b"") for message in answered[1:])
        return Reply(call.id, start["status"], passed_on(start["headers"]), body)

    # --- how it stands

    def _hear(self, state: State) -> None:
        self._state = state
        self._changed.set()
        self._log.say(f"relay: {state.message}")

    async def _keep_told(self) -> None:
        """Keep the Route of the relay what is true; one that the store did not take is written a moment later."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._state is None:
                continue
            try:
                await self._write(self._wanted, self._state)
            except (StoreAway, StoreFailed, Lost) as error:
                self._log.debug(f"the relay's route was not written: {explain(error)}")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), AGAIN)
                self._changed.set()

    async def _write(self, relay: Relay | None, state: State) -> None:
        key = RELAYS + relay.name if relay else ""
        operations: list[Any] = [
            delete(Route, other, self._mirror.rev(Route, other)) for other, _ in self._mirror.all(Route) if _is_stale(other, key)
        ]
        if relay is not None:
            known = self._mirror.get(Route, key)
            route = _route(relay, state, known)
            if route != known:
                kind = "Normal" if state.connected else "Warning"
                event = Event(object=f"relay/{relay.name}", type=kind, reason=state.reason, message=state.message, at=wall_ms(), role=ROLE)  # type: ignore[arg-type]  # one of the two
                operations += [put(route, key, self._mirror.rev(Route, key)), append(event)]
        if operations:
            await self._mirror.write(*operations)


def _is_stale(key: str, present: str) -> bool:
    return key.startswith(RELAYS) and key != present


def _route(relay: Relay, state: State, known: Route | None) -> Route:
    connected = Condition("Connected", state.connected, state.reason, state.message)
    return Route(
        task=RELAYS + relay.name,
        path="/hooks/",
        url=f"{relay.url}/{relay.name}/hooks/",
        conditions=carried(known.conditions if known else (), [connected], 0, wall_ms()),
    )
