"""Many small packs become one, by copying what they hold as it is: nothing is inflated, so it costs little more than reading.

Each fetch adds a pack, and each pack a look-up and two open files. Packs here are complete (no change in them needs an object of
another), so a copy of an object from the first pack that has it can never close a circle of changes: a base is found in the same pack
or in one before it.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from dicode.git.packs import Damaged

ID_DELTA = 7
OFFSET_DELTA = 6
LARGEST_OFFSET = 1 << 31  # beyond it an index needs wider numbers, which a merged pack never does
LEAVE = 2  # packs, at least: below it there is nothing to merge
_FANOUT = struct.Struct(">256L")
_INDEX = b"\xfftOc\x00\x00\x00\x02"


def count(mirror: str) -> int:
    """How many packs there are."""
    try:
        return sum(name.endswith(".pack") for name in os.listdir(os.path.join(mirror, "objects", "pack")))
    except OSError:
        return 0


def merge(mirror: str, most: int) -> None:
    """The small packs of a mirror, as many as are `most` bytes together, become one. Raises Damaged."""
    folder = os.path.join(mirror, "objects", "pack")
    small = _small(folder, most)
    if len(small) < LEAVE:
        return
    handle, path = tempfile.mkstemp(prefix="tmp_pack_", dir=folder)
    with os.fdopen(handle, "w+b") as file:
        merged = _copied(file, [_Pack(os.path.join(folder, name)) for name in small])
        checksum = _finished(file, len(merged))
    merged.sort()
    name = f"pack-{hashlib.sha1(b''.join(each.id for each in merged), usedforsecurity=False).hexdigest()}"
    index = f"{path}.idx"
    with open(index, "wb") as file:
        file.write(_index(merged, checksum))
    os.chmod(path, 0o400)
    os.replace(path, os.path.join(folder, f"{name}.pack"))
    os.replace(index, os.path.join(folder, f"{name}.idx"))  # a pack counts from here on
    for each in small:
        if each != name:
            for end in (".idx", ".pack"):
                os.unlink(os.path.join(folder, each + end))


def _small(folder: str, most: int) -> list[str]:
    sizes = sorted((entry.stat().st_size, entry.name.removesuffix(".pack")) for entry in os.scandir(folder) if entry.name.endswith(".pack"))
    taken, whole = [], 0
    for size, name in sizes:
        whole += size
        if whole > most:
            break
        if os.path.exists(os.path.join(folder, f"{name}.idx")):
            taken.append(name)
    return taken


class _Written(NamedTuple):
    id: bytes
    offset: int
    crc: int


class _Pack:
    """A pack and what its index says is in it: offset → id."""

    def __init__(self, path: str) -> None:
        self.path = f"{path}.pack"
        with open(f"{path}.idx", "rb") as file:
            index = file.read()
        if index[:8] != _INDEX or len(index) < 8 + _FANOUT.size + 40:
            raise Damaged("an index is not of version 2")
        number = _FANOUT.unpack_from(index, 8)[255]
        ids, offsets = 8 + _FANOUT.size, 8 + _FANOUT.size + 24 * number
        if len(index) < offsets + 4 * number + 40:
            raise Damaged("an index is cut off")
        places = struct.unpack_from(f">{number}L", index, offsets)
        if any(place >= LARGEST_OFFSET for place in places):
            raise Damaged("an index of a small pack has large offsets")
        self.ids = {place: index[ids + 20 * at : ids + 20 * at + 20] for at, place in enumerate(places)}


def _copied(file: BinaryIO, packs: list[_Pack]) -> list[_Written]:
    file.write(b"PACK\0\0\0\2\0\0\0\0")
    written: list[_Written] = []
    seen: set[bytes] = set()
    offset = file.tell()
    for pack in packs:
        for id, head, body in _entries(pack):
            if id in seen:
                continue
            seen.add(id)
            file.write(head)
            file.write(body)
            written.append(_Written(id, offset, zlib.crc32(body, zlib.crc32(head))))
            offset += len(head) + len(body)
    return written


def _entries(pack: _Pack) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Id, head, and compressed body of each object; a change names what it is a change of by its id."""
    places = sorted(pack.ids)
    with open(pack.path, "rb") as file:
        if file.read(8) != b"PACK\0\0\0\2":
            raise Damaged("a pack is none")
        ends = [*places[1:], os.fstat(file.fileno()).st_size - 20]
        for place, end in zip(places, ends, strict=True):
            file.seek(place)
            data = file.read(max(0, end - place))
            try:
                yield pack.ids[place], *_split(pack, data, place)
            except (IndexError, KeyError):
                raise Damaged("a pack does not fit its index") from None


def _split(pack: _Pack, data: bytes, place: int) -> tuple[bytes, bytes]:
    used = 1
    while data[used - 1] & 0x80:
        used += 1
    kind = data[0] >> 4 & 7
    if kind != OFFSET_DELTA:
        used += 20 if kind == ID_DELTA else 0
        return data[:used], data[used:]
    size = bytearray(data[:used])
    size[0] = size[0] & 0x8F | ID_DELTA << 4
    back = data[used] & 0x7F
    while data[used] & 0x80:
        used += 1
        back = (back + 1 << 7) | (data[used] & 0x7F)
    return bytes(size) + pack.ids[place - back], data[used + 1 :]


def _finished(file: BinaryIO, number: int) -> bytes:
    """Put the count into the head and the checksum at the end, which it gives."""
    file.seek(8)
    file.write(struct.pack(">L", number))
    file.seek(0)
    checksum = hashlib.sha1(usedforsecurity=False)
    while part := file.read(1 << 20):
        checksum.update(part)
    file.write(checksum.digest())
    return checksum.digest()


def _index(written: list[_Written], checksum: bytes) -> bytes:
    """Version 2; `written` sorted by id."""
    counts = [0] * 256
    for each in written:
        counts[each.id[0]] += 1
    total, fanout = 0, []
    for number in counts:
        total += number
        fanout.append(total)
    body = b"".join(
        (
            _INDEX,
            _FANOUT.pack(*fanout),
            b"".join(each.id for each in written),
            struct.pack(f">{total}L", *(each.crc for each in written)),
            struct.pack(f">{total}L", *(each.offset for each in written)),
            checksum,
        )
    )
    return body + hashlib.sha1(body, usedforsecurity=False).digest()
