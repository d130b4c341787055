"""The store's end of the wire: one ROUTER for commands, one XPUB for changes, one thread."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import zmq

from dicode.messages.commands import AnyCommand, AnyReply
from dicode.wire.frames import HEARTBEAT_TOPIC, VERSION, BadMessage, Header, Heads, decode_command, encode, topic

MAX_PARTS = 4  # frames of one command: identity, request id, body (and no more)
BATCH = 512  # commands taken in one go, and so put into one group commit


class Asked(NamedTuple):
    """One command: answer it with `Server.reply(peer, request, …)`."""

    peer: bytes
    request: bytes
    command: AnyCommand


class Server:
    """Bind both sockets. Only the thread that made it may use it. Raises OSError when the run folder is not ours."""

    def __init__(self, commands: str, changes: str) -> None:
        self._thread = threading.get_ident()
        self._context = zmq.Context()
        self.malformed = 0
        for endpoint in (commands, changes):
            private_folder(endpoint)
        self._router = self._socket(zmq.ROUTER, commands)
        self._router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._publisher = self._socket(zmq.XPUB, changes)
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)

    def _socket(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, (1 << 20) + 4096)
        socket.setsockopt(zmq.SNDHWM, 100_000 if kind == zmq.XPUB else 10_000)
        socket.bind(endpoint)
        return socket

    def watch(self, fd: int) -> None:
        """Also wake `asked` when this file descriptor becomes readable (signals, the keeper)."""
        self._poller.register(fd, zmq.POLLIN)

    def asked(self, timeout: float) -> list[Asked]:
        """Up to BATCH commands, waiting at most `timeout` seconds for the first. May be empty."""
        self._own()
        ready = dict(self._poller.poll(int(timeout * 1000)))
        return list(self._drain()) if self._router in ready else []

    def _drain(self) -> Iterator[Asked]:
        for _ in range(BATCH):
            try:
                parts = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(parts) != 3 or len(parts[1]) > 64:
                self.malformed += 1
                continue
            try:
                yield Asked(parts[0], parts[1], decode_command(parts[2]))
            except BadMessage:
                self.malformed += 1

    def reply(self, peer: bytes, request: bytes, answer: AnyReply | bytes) -> None:
        """Answer one command; a peer that has gone or stalled is dropped, it will ask again."""
        self._own()
        try:
            self._router.send_multipart([peer, request, answer if isinstance(answer, bytes) else encode(answer)], zmq.NOBLOCK)
        except zmq.ZMQError:
            pass  # EAGAIN or EHOSTUNREACH: the command is idempotent and the peer retries it

    def publish(self, epoch: str, kind: str, key: str, rev: int, prev: int, body: bytes | None, cause: str) -> None:
        """Tell one change; a body of None says the object was deleted. Never blocks: a full subscriber loses it and resyncs."""
        self._own()
        header = Header(VERSION, epoch, kind, key, rev, prev, cause)
        self._publisher.send_multipart([topic(kind, key), encode(header), body or b""], zmq.NOBLOCK)

    def heartbeat(self, epoch: str, head: int, kinds: Mapping[str, int]) -> None:
        self._own()
        header = Header(VERSION, epoch, "", "", head, head)
        self._publisher.send_multipart([HEARTBEAT_TOPIC, encode(header), encode(Heads(head, dict(kinds)))], zmq.NOBLOCK)
        self._drain_subscriptions()

    def _drain_subscriptions(self) -> None:
        """XPUB hands us each (un)subscription; unread ones would pile up."""
        while True:
            try:
                self._publisher.recv(zmq.NOBLOCK)
            except zmq.Again:
                return

    def close(self) -> None:
        self._router.close(linger=200)
        self._publisher.close(linger=0)
        self._context.term()

    def _own(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("a socket belongs to the thread that made it")


def private_folder(endpoint: str) -> None:
    """Make the folder of an ipc address, 0700 and ours. Raises PermissionError when it belongs to someone else."""
    folder = Path(endpoint.removeprefix("ipc://")).parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = folder.stat()
    if owner.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to uid {owner.st_uid}")
    if stat.S_IMODE(owner.st_mode) & 0o077:
        folder.chmod(0o700)
