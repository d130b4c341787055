"""Opening what stands in folders that nobody vouches for: by name from the folder above, no link followed, nothing waited for."""

from __future__ import annotations

import os
import stat

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # else a fifo would keep us


def read_whole(fd: int, size: int) -> bytes:
    """As many bytes as `fstat` promised; one more is asked for, to see a file that grew."""
    content = os.read(fd, size + 1)
    while len(content) < size:
        more = os.read(fd, size + 1 - len(content))
        if not more:
            break
        content += more
    return content


def called(mode: int) -> str:
    """What kind of thing it is, for a message."""
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISLNK(mode):
        return "a link"
    if stat.S_ISFIFO(mode):
        return "a fifo"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
