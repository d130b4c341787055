"""The store's end of the wire: one ROUTER for commands, one XPUB for changes, one thread."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.utils.monitor import parse_monitor_message

from dicode.messages.commands import AnyCommand, AnyReply, Failed
from dicode.wire.frames import HEARTBEAT_TOPIC, VERSION, BadMessage, Header, Heads, decode_command, encode, topic

BATCH = 512  # commands taken in one go, and so put into one group commit


class Asked(NamedTuple):
    """One command: answer it with `Server.reply(peer, request, …)`."""

    peer: bytes
    request: bytes
    command: AnyCommand


class Server:
    """Bind both sockets. Only the thread that made it may use it. Raises OSError: the folder is not ours, or no socket can be there."""

    def __init__(self, commands: str, changes: str) -> None:
        self._thread = threading.get_ident()
        self._context = zmq.Context()
        self.malformed = 0
        for endpoint in (commands, changes):
            private_folder(endpoint)
        self._router = self._socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._peers = self._router.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self.peers = 0  # how many are connected to ask
        self._publisher = self._socket(zmq.XPUB)
        self._publisher.setsockopt(zmq.XPUB_VERBOSE, 1)  # tell of each subscriber, not only of the first to a topic
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._publisher, zmq.POLLIN)
        self._poller.register(self._peers, zmq.POLLIN)
        for socket, endpoint in ((self._router, commands), (self._publisher, changes)):
            try:
                socket.bind(endpoint)
            except zmq.ZMQError as error:
                raise OSError(error.errno, error.strerror, endpoint) from None
        self.woken: frozenset[int] = frozenset()  # watched descriptors that are readable since the last `asked`
        self.joined = False  # someone subscribed since the last heartbeat: the sooner it comes, the sooner they start

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, (1 << 20) + 4096)
        socket.setsockopt(zmq.SNDHWM, 100_000 if kind == zmq.XPUB else 10_000)
        return socket

    def watch(self, fd: int) -> None:
        """Also wake `asked` when this file descriptor becomes readable (signals, the keeper)."""
        self._poller.register(fd, zmq.POLLIN)

    def unwatch(self, fd: int) -> None:
        self._poller.unregister(fd)

    def asked(self, timeout: float) -> list[Asked]:
        """Up to BATCH commands, waiting at most `timeout` seconds for the first. May be empty."""
        self._own()
        ready = dict(self._poller.poll(max(0, round(timeout * 1000))))
        self.woken = frozenset(fd for fd in ready if isinstance(fd, int))
        if self._publisher in ready:
            self._drain_subscriptions()
        if self._peers in ready:
            self._count_peers()
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
            except BadMessage as error:
                self.malformed += 1
                self.reply(parts[0], parts[1], Failed(message=f"no command this store knows: {error}"))

    def reply(self, peer: bytes, request: bytes, answer: AnyReply | bytes) -> None:
        """Answer one command; a peer that has gone or stalled is dropped, it will ask again."""
        self._own()
        with suppress(zmq.ZMQError):  # EAGAIN or EHOSTUNREACH: the command is idempotent and the peer retries it
            self._router.send_multipart([peer, request, answer if isinstance(answer, bytes) else encode(answer)], zmq.NOBLOCK)

    def publish(self, epoch: str, kind: str, key: str, rev: int, prev: int, body: bytes | None, cause: str) -> None:
        """Tell one change; a body of None says the object was deleted. Never blocks: a full subscriber loses it and resyncs."""
        self._own()
        header = Header(VERSION, epoch, kind, key, rev, prev, cause)
        self._publisher.send_multipart([topic(kind, key), encode(header), body or b""], zmq.NOBLOCK)

    def heartbeat(self, epoch: str, head: int, kinds: Mapping[str, int]) -> None:
        self._own()
        header = Header(VERSION, epoch, "", "", head, head)
        self._publisher.send_multipart([HEARTBEAT_TOPIC, encode(header), encode(Heads(head, dict(kinds)))], zmq.NOBLOCK)
        self.joined = False

    def _drain_subscriptions(self) -> None:
        """XPUB hands us each (un)subscription; unread ones would pile up."""
        while True:
            try:
                told = self._publisher.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.joined = self.joined or told[:1] == b"\x01"

    def _count_peers(self) -> None:
        while True:
            try:
                event = parse_monitor_message(self._peers.recv_multipart(zmq.NOBLOCK))["event"]
            except zmq.Again:
                return
            self.peers += 1 if event == zmq.EVENT_ACCEPTED else -1

    def close(self) -> None:
        self._router.disable_monitor()
        self._peers.close(linger=0)
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
    owner = folder.lstat()
    if not stat.S_ISDIR(owner.st_mode):
        raise PermissionError(f"{folder} is no folder")  # a link in /tmp could lead anywhere
    if owner.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to uid {owner.st_uid}")
    if stat.S_IMODE(owner.st_mode) & 0o077:
        folder.chmod(0o700)
