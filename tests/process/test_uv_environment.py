"""Environments are built with the worker's own environment (its index, certificates, proxy); the task that uses them has only its own."""

from __future__ import annotations

import http.server
import io
import threading
import zipfile
from collections.abc import Iterator

import pytest
from tests.support.system import System

from dicode.messages.kinds import Task

pytestmark = pytest.mark.process
NAME = "only_here-1.0-py3-none-any.whl"
SCRIPT = """\
# /// script
# dependencies = ["only-here==1.0"]
# ///
import os
import only_here

result = [only_here.WORD, sorted(name for name in os.environ if name.startswith(("UV_", "SSL_", "HTTP", "PIP_")) or "proxy" in name.lower())]
"""


def wheel() -> bytes:
    """The smallest package there is."""
    info = "only_here-1.0.dist-info"
    files = {
        "only_here.py": "WORD = 'found'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: only-here\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return packed.getvalue()


class Index(http.server.BaseHTTPRequestHandler):
    """A package index with one package."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        found = {"/simple/only-here/": f'<a href="/{NAME}">{NAME}</a>'.encode(), f"/{NAME}": wheel()}.get(self.path)
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/octet-stream" if self.path == f"/{NAME}" else "text/html")
        self.send_header("Content-Length", str(len(found or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(found or b"")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def index() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("OneIndex", (Index,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/simple/", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_uv_asks_the_index_of_the_worker_and_the_task_never_hears_of_it(system: System, index: tuple[str, list[str]]) -> None:
    url, asked = index
    (system.tasks / "needs").mkdir()
    (system.tasks / "needs" / "task.py").write_text(SCRIPT)
    (system.tasks / "needs" / "task.yaml").write_text("name: needs\ntrigger: {manual: true}\n")
    system.up(UV_DEFAULT_INDEX=url, NO_PROXY="127.0.0.1", UV_NO_CACHE="1")
    system.object(Task, "needs", lambda task: task.digest)
    done = system.run("run", "needs")
    assert done.returncode == 0, done.stderr
    assert '["found", []]' in done.stderr
    assert "/simple/only-here/" in asked
