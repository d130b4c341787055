"""Where the hooks are listened for: as dicode.yaml says at the moment, on a socket that outlives this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

from dicode.process.http import Address, Server, address_of, bind, parse_address, suits
from dicode.process.logs import Log
from dicode.process.role import Keeper
from dicode.trigger.decide import Bound

NAME = "hooks"  # of the socket at the keeper
AGAIN = 1.0  # seconds; SPEC 2: a port in use is retried each second


class Listening:
    """`bound` is where we are now; `on_bound` hears of each change of it."""

    def __init__(self, server: Server, keeper: Keeper, address_file: Path, log: Log, on_bound: Callable[[Bound], None]) -> None:
        self._server = server
        self._keeper = keeper
        self._file = address_file
        self._log = log
        self._on_bound = on_bound
        self._socket: socket.socket | None = None
        self.bound = Bound()

    async def take_kept(self) -> None:
        """Serve on the socket of the process before us, if there was one."""
        fd = self._keeper.kept.get(NAME)
        if fd is None:
            return
        kept = socket.socket(fileno=os.dup(fd))
        kept.setblocking(False)
        await self._serve(kept)

    async def follow(self, wanted: Callable[[], str | None], changed: asyncio.Event) -> None:
        """Listen at `wanted()` from now on, until cancelled; None: it is not known yet."""
        while True:
            changed.clear()
            text = wanted()
            settled = text is None or await self._move(text)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), None if settled else AGAIN)

    async def _move(self, text: str) -> bool:
        """Be where `text` says; False when that cannot be had now. Until it can we stay where we are."""
        try:
            address = parse_address(text)
            if self._socket is not None and suits(self._socket, address):
                self._tell(self.bound._replace(why=""))
                return True
            fresh = bind(address)
        except (OSError, ValueError) as error:
            self._missed(text, error)
            return False
        self._keeper.keep(NAME, fresh.fileno())
        await self._serve(fresh)
        return True

    def _missed(self, text: str, error: OSError | ValueError) -> None:
        why = f"hooks.listen {text}: {error.strerror if isinstance(error, OSError) else error}; tried again each second"
        if self._tell(self.bound._replace(why=why)):
            self._log.say(why)

    async def _serve(self, listening: socket.socket) -> None:
        address = address_of(listening)
        self._tell(Bound(address.url, address.loopback))  # before the first call: open hooks are not for every address
        await self._server.listen(listening)
        self._socket = listening
        _write_address(self._file, address)

    def _tell(self, bound: Bound) -> bool:
        """Whether that is news."""
        if bound == self.bound:
            return False
        self.bound = bound
        self._on_bound(bound)
        return True


def _write_address(path: Path, address: Address) -> None:
    made = path.with_name(f".{path.name}.{os.getpid()}")
    made.write_text(f"{address}\n")
    made.replace(path)
