"""Inputs of runs that are too big to travel in a message: files by their SHA-256, on the disk before the run that names them is asked for."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

INLINE = 256 << 10  # bytes; a bigger input travels as a file


def store_input(folder: Path, content: bytes) -> str:
    """Its name. One that is there already is young again: no sweep takes it from the run that is asked for next. Blocks. Raises OSError."""
    name = sha256(content).hexdigest()
    try:
        os.utime(folder / name)
    except FileNotFoundError:
        _write(folder / name, content)
    return name


def _write(path: Path, content: bytes) -> None:
    passing = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    with passing.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    passing.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # else a power cut may take the name, though the run is there
    finally:
        os.close(folder)
