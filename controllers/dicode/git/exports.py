"""The folder of all exports: what nobody refers to any more goes. Exports are made by a child of the fetcher (exporting.py). Blocks."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection

GRACE = 3600.0  # seconds an export is kept that nobody names: something may be about to
_TREE_ID = re.compile(r"[0-9a-f]{40}")


def remove_exports(folder: str, kept: Collection[str], now: float) -> int:
    """Remove what is in `folder` unless its tree id is `kept` or it is young, half-made ones too; gives how many that were.

    `kept`: the names of all exports that anything refers to. `now`: seconds since the epoch. Raises OSError.
    """
    removed = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in kept or not entry.is_dir(follow_symlinks=False) or now - entry.stat(follow_symlinks=False).st_mtime < GRACE:
                continue
            aside = entry.path
            if _TREE_ID.fullmatch(entry.name):
                aside = os.path.join(folder, f".{entry.name}.gone.{os.urandom(4).hex()}")
                os.rename(entry.path, aside)  # nobody may find half of it
            remove(aside)
            removed += 1
    return removed


def remove(path: str) -> None:
    """A folder, although it is read-only. Raises OSError."""
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o700)
    shutil.rmtree(path)
