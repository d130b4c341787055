"""`dicode relay serve`: listen, follow the tokens file, stop orderly. No data folder, no store: it keeps nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

from dicode.process.clock import mono
from dicode.process.http import Address, Server, WebSockets, address_of, bind
from dicode.process.logs import Log
from dicode.relay.frames import CONNECT_AT, MESSAGE_MAX, PING
from dicode.relay.public import PublicApp
from dicode.relay.tokens import SIZE_MAX, BadTokens, Tokens, parse

CONNECTIONS_MAX = 1024  # homes and strangers
LOOK_AGAIN = 1.0  # seconds between two looks at the tokens file
DRAIN = 3.0  # seconds calls that are under way may take when we are told to stop: a Procfile manager kills after 5


def read_tokens(path: Path, shown: str) -> Tokens:
    """Raises BadTokens, naming the line."""
    try:
        with path.open("rb") as file:
            return parse(file.read(SIZE_MAX + 1), shown)
    except OSError as error:
        raise BadTokens(f"{shown}: {error.strerror}") from None


async def serve(listen: Address, tokens_file: Path, log: Log) -> None:
    """Be the public end until SIGTERM or SIGINT. Raises BadTokens, OSError when the address cannot be had."""
    tokens = read_tokens(tokens_file, str(tokens_file))
    app = PublicApp(tokens, log)
    server = Server(app, connections=CONNECTIONS_MAX, websockets=WebSockets(CONNECT_AT.encode(), MESSAGE_MAX, PING))
    listening = bind(listen)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await server.listen(listening)
    log.say(f"relay: listening at {address_of(listening).url}, {len(tokens)} name{'' if len(tokens) == 1 else 's'} in {tokens_file}")
    for note in tokens.notes:
        log.say(f"relay: {note}")
    following = asyncio.create_task(_follow(tokens_file, app, log))
    await stopping.wait()
    following.cancel()
    server.close_listener()
    until = mono() + DRAIN
    while app.waiting and mono() < until:
        await asyncio.sleep(0.05)
    await server.close(within=1.0)
    log.say("relay: stopped")


async def _follow(path: Path, app: PublicApp, log: Log) -> None:
    """Apply the file whenever it has changed; what cannot be read leaves the last good one in force, and says so once."""
    seen = _state(path)
    while True:
        await asyncio.sleep(LOOK_AGAIN)
        state = _state(path)
        if state == seen:
            continue
        seen = state
        try:
            tokens = await asyncio.to_thread(read_tokens, path, str(path))
        except BadTokens as bad:
            log.say(f"relay: tokens kept as they were: {bad}")
            continue
        app.admit(tokens)
        log.say(f"relay: {path} applied, {len(tokens)} name{'' if len(tokens) == 1 else 's'}")
        for note in tokens.notes:
            log.say(f"relay: {note}")


def _state(path: Path) -> tuple[int, int, int] | None:
    with contextlib.suppress(OSError):
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
    return None
