"""The parent of all shepherds: one thread, everything a task commonly imports loaded, no zmq. Forks when told, and nothing else.

A fork of it is a python interpreter ready to run in about a millisecond, where a fresh one takes tens.
Run as `python -P -m dicode.worker.zygote FD`; each byte that comes over FD brings the control socket of one run.
"""

from __future__ import annotations

import array
import gc
import os
import signal
import socket
import sys
from typing import NoReturn

_PRELOADED = ("asyncio", "base64", "collections", "datetime", "hashlib", "json", "re", "ssl", "typing", "urllib.request", "dicode.sdk")


def main(fd: int) -> NoReturn:
    for name in _PRELOADED:
        __import__(name)
    from dicode.worker.shepherd import live

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # shepherds report over their sockets; nobody waits for them
    gc.collect()
    gc.freeze()  # objects of now are shared for ever: a collection in a child must not copy their pages
    orders = socket.socket(fileno=fd)
    while True:
        control = _next(orders)
        if control is None:
            os._exit(0)
        if not os.fork():
            orders.close()
            live(control)
        control.close()


def _next(orders: socket.socket) -> socket.socket | None:
    """The control socket of the next run; None when the worker is gone."""
    while True:
        data, ancillary, _, _ = orders.recvmsg(1, socket.CMSG_SPACE(4))
        fds = array.array("i")
        for _, _, payload in ancillary:
            fds.frombytes(payload)
        if not data:
            return None
        if fds:
            return socket.socket(fileno=fds[0])


if __name__ == "__main__":
    main(int(sys.argv[1]))
