"""Real git repositories and a real HTTP server before them: git's own http-backend behind a small threaded server that can misbehave."""

from __future__ import annotations

import base64
import os
import re
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BACKEND = Path(subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()) / "git-http-backend"
ENVIRON = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "3",
    "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "Ada Lovelace",
    "GIT_CONFIG_KEY_1": "user.email", "GIT_CONFIG_VALUE_1": "ada@example.org",
    "GIT_CONFIG_KEY_2": "safe.directory", "GIT_CONFIG_VALUE_2": "*",
    "GIT_AUTHOR_DATE": "2026-11-23T10:00:00Z",
    "GIT_COMMITTER_DATE": "2026-11-23T10:00:01Z",
}  # fmt: skip


def git(folder: Path, *words: str, stdin: bytes | None = None) -> str:
    """Run git there; what it says."""
    done = subprocess.run(["git", *words], cwd=folder, env=ENVIRON, input=stdin, capture_output=True, timeout=60)
    assert done.returncode == 0, f"git {' '.join(words)}: {done.stderr.decode(errors='replace')}"
    return done.stdout.decode(errors="replace").strip()


class Repository:
    """A bare repository, and a work tree to commit from."""

    def __init__(self, folder: Path, name: str = "tasks.git") -> None:
        self.bare = folder / name
        self.work = folder / f"{name}.work"
        self.bare.mkdir(parents=True)
        git(self.bare, "init", "-q", "--bare", "-b", "main")
        git(self.bare, "config", "http.receivepack", "true")
        git(folder, "clone", "-q", str(self.bare), str(self.work))
        git(self.work, "checkout", "-q", "-B", "main")

    def commit(self, files: Mapping[str, str | bytes | None], message: str = "a change", *, branch: str = "main", amend: bool = False) -> str:
        """Write (None: remove) files, commit and push; the commit's id. `amend`: history is rewritten."""
        if git(self.work, "branch", "--show-current") != branch:
            git(self.work, "checkout", "-q", "-B", branch)
        for path, content in files.items():
            file = self.work / path
            if content is None:
                file.unlink()
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        git(self.work, "add", "-A")
        git(self.work, "commit", "-q", "--allow-empty", "-m", message, *(["--amend"] if amend else []))
        git(self.work, "push", "-q", "-f", "origin", f"HEAD:refs/heads/{branch}")
        return git(self.work, "rev-parse", "HEAD")

    def tag(self, name: str, commit: str = "HEAD", *, annotated: bool = True) -> None:
        git(self.work, "tag", "-f", *(["-a", "-m", f"release {name}"] if annotated else []), name, commit)
        git(self.work, "push", "-q", "-f", "origin", f"refs/tags/{name}")

    def delete(self, ref: str) -> None:
        git(self.bare, "update-ref", "-d", ref)

    def empty(self) -> None:
        """As if it were new."""
        for ref in git(self.bare, "for-each-ref", "--format=%(refname)").split():
            self.delete(ref)


Trick = Callable[["Handler"], bool]  # True: it has answered, in its own way


class Handler(BaseHTTPRequestHandler):
    """One request. `server.tricks` come first, then git."""

    protocol_version = "HTTP/1.1"
    server: Server
    body = b""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._serve()

    def _serve(self) -> None:
        asked = re.search(rb"command=([a-z-]+)", self.body)
        self.server.hits.append(asked[1].decode() if asked else "fetch" if self.command == "POST" else "refs")
        self.server.seen.append(dict(self.headers.items()))
        if any(trick(self) for trick in self.server.tricks):
            return
        if self.server.token and self.headers.get("Authorization", "") != self.server.authorization:
            self.answer(401, b"THE-REMOTES-WORDS", **{"WWW-Authenticate": 'Basic realm="git"'})
        else:
            status, body = self.backend()
            self.answer(status, body, **self.backend_headers)

    backend_headers: dict[str, str] = {}

    def backend(self) -> tuple[int, bytes]:
        """What git answers: status and body; its headers in `backend_headers`."""
        path, _, query = re.sub("^http://[^/]*", "", self.path).partition("?")  # a proxy is asked for the whole URL
        environ = {
            **ENVIRON, "GIT_PROJECT_ROOT": str(self.server.folder), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query,
            "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("Content-Type") or "", "CONTENT_LENGTH": str(len(self.body)),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol") or "" if self.server.version == 2 else "", "REMOTE_ADDR": "127.0.0.1", "REMOTE_USER": "tester",
        }  # fmt: skip
        said = subprocess.run([str(BACKEND)], env=environ, input=self.body, capture_output=True).stdout
        head, _, body = said.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200 OK").split()[0])
        self.backend_headers = headers
        return status, body

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """All repositories of a folder at `url`. `hits`: what was asked so far (refs, ls-refs, fetch), `seen`: the headers of each; `tricks`: what happens
    instead of the truth. `version` 0: it knows nothing newer."""

    daemon_threads = True

    def __init__(self, folder: Path, *, token: str = "", version: int = 2) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.token = token
        self.version = version
        self.tricks: list[Trick] = []
        self.hits: list[str] = []
        self.seen: list[dict[str, str]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def authorization(self) -> str:
        return f"Basic {base64.b64encode(f'git:{self.token}'.encode()).decode()}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed


@contextmanager
def serving(folder: Path, *, token: str = "", version: int = 2) -> Iterator[Server]:
    server = Server(folder, token=token, version=version)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


# ── tricks ──


def hang(handler: Handler) -> bool:
    """Never answers."""
    handler.server.over.wait()
    handler.close_connection = True
    return True


def drip(handler: Handler) -> bool:
    """A byte now and then, for ever."""
    with suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\nContent-Length: 100000\r\n\r\nffff")
        while not handler.server.over.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()
    handler.close_connection = True
    return True


def reset(handler: Handler) -> bool:
    """RST instead of an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True
    return True


def truncate(handler: Handler) -> bool:
    """Half of what git says, where a pack is asked for."""
    if handler.command != "POST" or b"command=fetch" not in handler.body:
        return False
    status, body = handler.backend()
    handler.send_response(status)
    for name, value in handler.backend_headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True
    return True


def status(code: int, **headers: str) -> Trick:
    def trick(handler: Handler) -> bool:
        handler.answer(code, b"THE-REMOTES-WORDS", **headers)
        return True

    return trick


def endless_refs(handler: Handler) -> bool:
    """An advertisement that never ends, as fast as it goes."""
    if handler.command != "GET":
        return False
    handler.send_response(200)
    handler.send_header("Content-Type", "application/x-git-upload-pack-advertisement")
    handler.send_header("Connection", "close")
    handler.end_headers()
    lines = b"".join(b"%04x%s" % (len(text) + 4, text) for number in range(1000) if (text := b"%040x refs/tags/t%d\n" % (number, number)))
    with suppress(OSError):
        handler.wfile.write(b"001e# service=git-upload-pack\n0000")
        while not handler.server.over.is_set():
            handler.wfile.write(lines)
    handler.close_connection = True
    return True
