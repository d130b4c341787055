"""A request as it reached the hooks: its parts that decide, and what its path means. Pure."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

RELAYED = "dicode.relayed"  # a key of the ASGI scope that no HTTP request can set


class Request(NamedTuple):
    """The parts of a request that decide. `relayed`: it came by the relay, from anywhere, whatever address we listen at."""

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    remote: str
    relayed: bool = False

    def header(self, wanted: bytes) -> bytes:
        return next((value for name, value in self.headers if name == wanted), b"")

    def all(self, wanted: bytes) -> list[bytes]:
        return [value for name, value in self.headers if name == wanted]


def is_plain(path: str) -> bool:
    """A path that means what it says: no dot segments, no empty ones, nothing a file system or a log would take otherwise."""
    segments = path.removeprefix("/").removesuffix("/").split("/")
    return path.isprintable() and "\\" not in path and all(segment not in ("", ".", "..") for segment in segments)


def is_of_this_machine(host: bytes) -> bool:
    """A Host that needs no DNS: an address, or localhost. Any other name may lead here because its owner says so."""
    name = host.decode("latin-1").rpartition("]")[0].removeprefix("[") or host.decode("latin-1").partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.lower() == "localhost" or name.lower().endswith(".localhost")
    return True
