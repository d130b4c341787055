"""The parent of all shepherds: one thread, everything a task commonly imports loaded, no zmq. Forks when told, and nothing else.

A fork of it is a python interpreter ready to run in about a millisecond, where a fresh one takes tens.
Run as `python -P -m dicode.worker.zygote FD RUNS`; for each message over FD one shepherd is forked, which offers itself to the
worker over the same socket and makes its folder below RUNS.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

_PRELOADED = ("asyncio", "base64", "collections", "datetime", "hashlib", "json", "re", "ssl", "typing", "urllib.request", "dicode.sdk")


def main(fd: int, runs: Path) -> NoReturn:
    for name in _PRELOADED:
        __import__(name)
    from dicode.worker.shepherd import live

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # shepherds report over their sockets; nobody waits for them
    gc.collect()
    gc.freeze()  # objects of now are shared for ever: a collection in a child must not copy their pages
    orders = socket.socket(fileno=fd)
    while orders.recv(1):
        if not os.fork():
            live(orders, runs)
    os._exit(0)  # the worker is gone


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
