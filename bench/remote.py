"""A git host for benches: `python -m bench.remote FOLDER` serves all repositories in it over HTTP, each request by git's own http-backend.

In a process of its own, so that its work is not counted as ours. It prints its port; `GET /asked` tells how often refs were asked for.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.git_remote import Handler, serving
from tests.support.system import REPOSITORY


class Remote:
    """The running host, as a bench sees it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def asked(self) -> int:
        """How often a client has asked for the refs of any repository."""
        with urllib.request.urlopen(f"{self.url}/asked", timeout=10) as answer:
            return int(answer.read())


@contextmanager
def remote(folder: Path) -> Iterator[Remote]:
    process = subprocess.Popen([sys.executable, "-m", "bench.remote", str(folder)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Remote(int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait(10)


def _count(handler: Handler) -> bool:
    if handler.path != "/asked":
        return False
    handler.answer(200, str(handler.server.hits.count("ls-refs")).encode())
    return True


def main(folder: str) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with serving(Path(folder)) as server:
        server.tricks.append(_count)
        print(server.server_address[1], flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
