"""An HTTP listener for strangers: uvicorn's httptools protocol behind limits of our own. The hooks and the relay listen so.

A connection that has no complete request within REQUEST_WITHIN is closed, and when all places are taken the one that
has been idle longest gives way: slow and silent clients cost themselves, not the others. No address of another machine has
more than PER_CALLER places, so that nobody can take them all.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from asyncio import TimerHandle
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

HEAD_MAX = 16 << 10  # bytes of request line and headers
FIELDS_MAX = 64
CONNECTIONS_MAX = 256
PER_CALLER = 32  # of them for one address
REQUEST_WITHIN = 10.0  # seconds from the first byte, or the connect, to the end of the body
IDLE = 5  # seconds a connection may stay open between two requests
BACKLOG = 1024  # so many may wait in the kernel while the role restarts

App = Callable[[Any, Any, Any], Awaitable[None]]


class Address(NamedTuple):
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self}"

    @property
    def loopback(self) -> bool:
        return self.host == "localhost" or self.host == "::1" or self.host.startswith("127.")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`127.0.0.1:8080`, `[::1]:0`. Raises ValueError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{text!r} is no address: write host:port")
    return Address(host, int(port))


def bind(address: Address) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: else asyncio leaves Nagle on, and answers take 40 ms
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host, address.port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def address_of(listening: socket.socket) -> Address:
    host, port, *_ = listening.getsockname()
    return Address(host, port)


def suits(listening: socket.socket, wanted: Address) -> bool:
    """Whether this socket already is where we are to listen; port 0 is any."""
    try:
        present = address_of(listening)
    except OSError:
        return False
    host = "127.0.0.1" if wanted.host == "localhost" else wanted.host
    return present.host == host and wanted.port in (0, present.port)


def remote_of(scope: Any) -> str:
    """The address of a caller, "" when it has none. Of one that came by a proxy of this machine (it has the certificate) what the proxy says,
    the last of its list; nobody else is believed."""
    peer = _ip(str((scope["client"] or ("",))[0]))
    if peer is None:
        return ""
    given = [value for name, value in scope["headers"] if name.lower() == b"x-forwarded-for"]
    if not given or not peer.is_loopback:
        return str(peer)
    last = given[-1].decode("latin-1").rpartition(",")[2].strip()
    return last if _ip(last) is not None else str(peer)


def caller_of(peer: str) -> str:
    """Who shares PER_CALLER places with this address: an IPv6 network of 64 bits is one. "": this machine, whose proxies speak for many.

    No header counts here: it would let a stranger be as many as he likes.
    """
    address = _ip(peer)
    if address is None or address.is_loopback:
        return ""
    return str(address) if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address in `text`; one of IPv4 that a listener for both has written as IPv6 is one of IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


class WebSockets(NamedTuple):
    """One path of a listener takes WebSockets: messages of at most `size` bytes, a ping every `ping` seconds, answered within as many."""

    path: bytes
    size: int
    ping: float


class Server:
    """Serves `app` on one socket at a time, at most `connections` at once, PER_CALLER of them for who is one to `caller_of`."""

    def __init__(
        self,
        app: App,
        *,
        connections: int = CONNECTIONS_MAX,
        websockets: WebSockets | None = None,
        caller_of: Callable[[str], str] = caller_of,
    ) -> None:
        self._config = Config(
            app,
            log_config=None,
            log_level="critical",
            access_log=False,
            lifespan="off",
            proxy_headers=False,  # `remote_of` believes less
            ws="websockets-sansio" if websockets else "none",
            ws_max_size=websockets.size if websockets else 0,
            ws_ping_interval=websockets.ping if websockets else None,
            ws_ping_timeout=websockets.ping if websockets else None,
            ws_per_message_deflate=False,
            timeout_keep_alive=IDLE,
            server_header=False,
        )
        self._config.load()
        self._limits = Limits(connections, caller_of, websockets.path if websockets else b"")
        self._state = ServerState()
        self._listener: asyncio.Server | None = None

    async def listen(self, listening: socket.socket) -> None:
        """From now on here, and no more where it was before; connections that are open go on."""
        loop = asyncio.get_running_loop()
        if self._listener is not None:
            self._listener.close()
        self._listener = await loop.create_server(lambda: GuardedProtocol(self._config, self._state, self._limits), sock=listening, backlog=BACKLOG)

    def close_listener(self) -> None:
        """Take no new callers."""
        if self._listener is not None:
            self._listener.close()

    async def close(self, within: float) -> None:
        """Take no more; let answers that are under way be given within so many seconds."""
        self.close_listener()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=within)
        for connection in list(self._state.connections):
            connection.transport.abort()


class Limits(NamedTuple):
    connections: int
    caller_of: Callable[[str], str]
    websockets_at: bytes  # the one path that may be upgraded, b"" for none


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, config: Config, state: ServerState, limits: Limits) -> None:
        super().__init__(config, state, {})
        self._limits = limits
        self._in_head = False
        self._head = 0
        self._refusal = 400
        self._deadline: TimerHandle | None = None
        self.idle_since = 0.0  # loop time; 0 while a request is under way
        self._caller = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self._caller = self._limits.caller_of(str((transport.get_extra_info("peername") or ("",))[0]))
        refusal = self._crowded()
        if refusal:
            transport.write(_refusal(refusal, b"retry-after: 1\r\n"))
            transport.close()
            return
        super().connection_made(transport)
        self.idle_since = self.loop.time()
        self._arm()

    def _crowded(self) -> int:
        """The status that says there is no place for this one, even after an idle one has given way; 0 when there is."""
        own = [connection for connection in self._guarded() if connection._caller == self._caller] if self._caller else []
        if len(own) >= PER_CALLER and not self._make_room(own):
            return 429
        if len(self.connections) >= self._limits.connections and not self._make_room(self._guarded()):
            return 503
        return 0

    def _guarded(self) -> list[GuardedProtocol]:
        return [connection for connection in self.connections if isinstance(connection, GuardedProtocol)]

    def _make_room(self, among: list[GuardedProtocol]) -> bool:
        idle = [connection for connection in among if connection.idle_since]
        if not idle:
            return False
        oldest = min(idle, key=lambda connection: connection.idle_since)
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self.transport is not None:
            super().connection_lost(exc)

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_WITHIN, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.cycle is None or not self.cycle.response_started:
            self.transport.write(_refusal(408))
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._arm_at_first_byte()
        if self._in_head:
            self._head += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade()
        except httptools.HttpParserError:
            self._refuse(self._refusal)
        else:
            if self._in_head and self._head > HEAD_MAX:
                self._refuse(431)

    def _upgrade(self) -> None:
        """To a WebSocket where that is spoken; elsewhere we speak nothing else, and what follows is not HTTP."""
        if self._limits.websockets_at and self.url == self._limits.websockets_at and self._should_upgrade():
            self._disarm()
            self.handle_websocket_upgrade()
        else:
            self._refuse(400)

    def _arm_at_first_byte(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._arm()

    def _refuse(self, status: int) -> None:
        """Answer in a line and close: this connection's bytes cannot be trusted any more."""
        self._disarm()
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete or not self.cycle.response_started):
            self.transport.write(_refusal(status))
        self.transport.close()

    def _fault(self, status: int) -> None:
        """From inside a parser callback: stop the parser."""
        self._refusal = status
        raise ValueError(status)

    # parser callbacks

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head = max(self._head, len(self.url))
        if len(self.url) > HEAD_MAX:
            self._fault(431)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > FIELDS_MAX:
            self._fault(431)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEAD_MAX:
            self._fault(431)
        names = [name for name, _ in self.headers]
        if names.count(b"content-length") > 1 or (b"transfer-encoding" in names and b"content-length" in names):
            self._fault(400)  # two ways to find the end are one way to smuggle
        self.idle_since = 0.0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.idle_since = self.loop.time()
        super().on_response_complete()


def _refusal(status: int, headers: bytes = b"") -> bytes:
    return STATUS_LINE[status] + headers + b"content-length: 0\r\nconnection: close\r\n\r\n"
