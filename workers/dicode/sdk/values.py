"""The small values a task keeps from run to run: one JSON file, changed under a lock, replaced whole."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILE_MAX = 4 << 20  # bytes of all values of one task together


class KvRefused(Exception):
    """It cannot be kept, or what was kept cannot be read; the text says why."""


class KvFile:
    """`path` and `<path>.lock` lie outside the folder the task may write to. Methods block, and raise OSError on a bad disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> Any:
        return self._read().get(key)

    def set(self, key: str, value: Any) -> None:
        with self._locked():
            values = self._read()
            values[key] = value
            self._write(values)

    def delete(self, key: str) -> None:
        with self._locked():
            values = self._read()
            if key in values:
                del values[key]
                self._write(values)

    def list(self, prefix: str) -> list[str]:
        return sorted(key for key in self._read() if key.startswith(prefix))

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise KvRefused(f"{self._path} does not hold a JSON object any more: mend it, or remove it and lose what was kept")
        return values

    def _write(self, values: dict[str, Any]) -> None:
        text = json.dumps(values, ensure_ascii=False).encode(errors="surrogatepass")
        if len(text) > FILE_MAX:
            raise KvRefused(f"all values together would have {len(text)} bytes, {FILE_MAX} are allowed")
        passing = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with open(passing, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave an empty file in the place of all that was kept
        passing.replace(self._path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
