"""Other programs that do a part of the same, as people install them and with their defaults; in throw-away folders."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.support.waiting import wait_for

Peer = AbstractContextManager[bool]
INSTALL_WITHIN = 90  # seconds
STOPS_WITHIN = 15


class NotHere(Exception):
    """This program cannot be had on this machine; the text says why."""


@contextmanager
def circus(folder: Path, program: Path) -> Iterator[bool]:
    """circusd with this one program, and its plugin that restarts a program whose file has changed."""
    venv = _install("circus", folder)
    config = folder / "circus.ini"
    config.write_text(
        f"[circus]\nendpoint = ipc://{folder}/endpoint\npubsub_endpoint = ipc://{folder}/pubsub\n"
        f"[watcher:program]\ncmd = {program}\nshell = False\n"
        "[plugin:reload]\nuse = circus.plugins.command_reloader.CommandReloader\n"
    )
    with _running([str(venv / "bin" / "circusd"), str(config)], folder):
        yield True


@contextmanager
def supervisor(folder: Path, program: Path) -> Iterator[bool]:
    """supervisord with this one program. It does not watch files."""
    venv = _install("supervisor", folder)
    config = folder / "supervisord.conf"
    config.write_text(
        f"[supervisord]\nnodaemon = true\nlogfile = {folder}/log\npidfile = {folder}/pid\nchildlogdir = {folder}\n[program:program]\ncommand = {program}\n"
    )
    with _running([str(venv / "bin" / "supervisord"), "-c", str(config)], folder):
        yield False


@contextmanager
def webhook(folder: Path) -> Iterator[int]:
    """adnanh/webhook with one hook, `/hooks/bench`, that runs /bin/true and does not wait for it. Gives its port. Raises NotHere."""
    if not shutil.which("webhook"):
        raise NotHere("it is not installed (apt-get install webhook)")
    hooks = folder / "hooks.json"
    hooks.write_text('[{"id": "bench", "execute-command": "/bin/true"}]')
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])  # it takes no port 0: closed here, taken there
    with _running(["webhook", "-hooks", str(hooks), "-ip", "127.0.0.1", "-port", str(port)], folder):
        wait_for(lambda: _listens(port), "webhook listens")
        yield port


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _install(package: str, folder: Path) -> Path:
    """A venv with this package from the registry. Raises NotHere."""
    venv = folder / "venv"
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "--disable-pip-version-check", "install", "--quiet", package]
    try:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, capture_output=True, timeout=INSTALL_WITHIN)
        subprocess.run(pip, check=True, capture_output=True, timeout=INSTALL_WITHIN)
    except subprocess.TimeoutExpired:
        raise NotHere(f"pip could not install it in {INSTALL_WITHIN} s") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise NotHere(f"it cannot be installed: {said[-1] if said else error}") from None
    return venv


@contextmanager
def _running(argv: list[str], folder: Path) -> Iterator[None]:
    with open(folder / "output", "ab") as output:
        process = subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
