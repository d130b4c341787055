"""How files and folders of a task are called."""

from __future__ import annotations

from hashlib import sha256

NAME_MAX = 200  # bytes; the file system's 255 less what others put behind it
KEPT = 100  # bytes of a longer one, for people


def file_name(task: str) -> str:
    """`a/b` as `a~b`, so that nothing of `a/b` lies inside what is of `a`; an id too long for a file system ends in its hash."""
    name = task.replace("/", "~")
    encoded = name.encode(errors="surrogateescape")
    if len(encoded) <= NAME_MAX:
        return name
    return f"{encoded[:KEPT].decode(errors='ignore')}~{sha256(task.encode(errors='surrogateescape')).hexdigest()}"
