"""File descriptors over a unix socket. (`socket.send_fds` and `recv_fds` of Python 3.11 ignore their flags.)"""

from __future__ import annotations

import array
import socket


def send(link: socket.socket, data: bytes, fd: int | None = None) -> None:
    """One message, with at most one fd. Raises BlockingIOError when there is no room for it, other OSErrors when the peer is gone."""
    rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    link.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive(link: socket.socket, size: int, *, wait: bool) -> tuple[bytes, list[int]]:
    """One message and the fds that came with it, not inheritable; b"" at the end. Raises BlockingIOError unless `wait`."""
    flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
    data, ancillary, _, _ = link.recvmsg(size, socket.CMSG_SPACE(4), flags)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)
