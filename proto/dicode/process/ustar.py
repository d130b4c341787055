"""Members of a canonical tar: owner, group and time are 0, so the same files give the same bytes."""

from __future__ import annotations

import os
import struct
import tarfile
from functools import lru_cache

_BLOCK = struct.Struct("100s8s8s8s12s12s8s1s100s8s247x")  # name, mode, uid, gid, size, mtime, checksum, type, target, magic
_ZERO = b"0000000"


def member(place: str, kind: str, content: bytes) -> tuple[bytes, bytes, bytes]:
    """(header, content, filling) of a file; `kind`: `x` executable, `-` plain, `l` a link whose target is `content`."""
    if kind == "l":
        return _header(place, 0o777, 0, os.fsdecode(content)), b"", b""
    return _header(place, 0o555 if kind == "x" else 0o444, len(content)), content, bytes(-len(content) % tarfile.BLOCKSIZE)


def _header(place: str, mode: int, size: int, target: str = "") -> bytes:
    """By hand where ustar can say it: many times as fast."""
    if not place.isascii() or not target.isascii() or len(place) > 100 or len(target) > 100:
        info = tarfile.TarInfo(place)
        info.type, info.mode, info.size, info.linkname = tarfile.SYMTYPE if target else tarfile.REGTYPE, mode, size, target
        return info.tobuf(tarfile.PAX_FORMAT)
    before, between, after, total = _frame(place, mode, target)
    digits = b"%011o" % size
    return b"%b%b%b%06o\0 %b" % (before, digits, between, total + sum(digits), after)


@lru_cache(maxsize=256)
def _frame(place: str, mode: int, target: str) -> tuple[bytes, bytes, bytes, int]:
    """What stands before the size, between size and checksum, and behind it; and the sum of it all, the checksum counted as blanks."""
    kind = tarfile.SYMTYPE if target else tarfile.REGTYPE
    block = _BLOCK.pack(place.encode(), b"%07o" % mode, _ZERO, _ZERO, b"", b"%011o" % 0, b" " * 8, kind, target.encode(), b"ustar\x0000")
    return block[:124], block[135:148], block[156:], sum(block)
