"""The objects of a bare repository by their ids, read with limits and checked. Blocks; runs in a child of the fetcher.

What a stranger packed is not trusted: the size of an object, and of all it is a change of, is asked before anything is
inflated, and what comes out must have the hash it was asked by. Only the indexes are mapped, for a mirror may be larger
than the memory a child has (dulwich maps whole packs and keeps 96 MiB of each).
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections import OrderedDict
from hashlib import sha1
from typing import Final, NamedTuple

from dulwich.errors import ApplyDeltaError
from dulwich.pack import apply_delta

COMMIT: Final = 1
TREE: Final = 2
BLOB: Final = 3
_NAMES = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob", 4: b"tag"}
_NUMBERS = {name: number for number, name in _NAMES.items()}
_OFFSET_DELTA = 6
_ID_DELTA = 7

MAX_CHAIN = 4_095  # changes of changes; what git allows
MAX_WEIGHT = 64 * 1024**2  # of an object and everything it is a change of, together
MAX_WORK = 1024**3  # bytes that are made on the way to one object
_TOO_HEAVY = f"stored as changes of more than {MAX_WEIGHT // 1024**2} MiB"
KEPT = 16 * 1024**2  # of what objects are changes of, kept for the next
KEPT_EACH = 1024**2
FIRST = 4096  # bytes that are read at once: most objects whole
MORE = 1 << 17
_PACK_HEAD = struct.Struct(">4sLL")
_INDEX_HEAD = b"\xfftOc\x00\x00\x00\x02"
_FANOUT = struct.Struct(">256L")
_LONG = struct.Struct(">L")
_LONG_LONG = struct.Struct(">Q")


class Damaged(Exception):
    """An object is missing, or not what its id says: this copy of the repository must be made anew, or the repository itself is broken."""


class Unusable(Exception):
    """An object is whole, but nothing that can be used here: too large, of the wrong kind. The text says what, for a fault."""


class _Entry(NamedTuple):
    """Where an object of a pack is, as its head says. `size`: of what is inflated, so of the change if it is one."""

    kind: int
    size: int
    base: int | bytes | None  # what it is a change of: an offset in the same pack, an id
    at: int  # of the compressed data
    data: bytes  # the first of it


class Database:
    """The objects below `folder`, a bare repository with SHA-1 ids. Ids are 20 bytes. All methods raise Damaged."""

    def __init__(self, folder: str) -> None:
        self._objects = os.path.join(folder, "objects")
        self._packs: dict[str, _Pack] = {}
        self._bases: OrderedDict[tuple[int, int], tuple[int, bytes]] = OrderedDict()
        self._kept = 0
        self._scan()

    def close(self) -> None:
        for pack in self._packs.values():
            pack.close()
        self._packs.clear()
        self._bases.clear()

    def read(self, id: bytes, kind: int, limit: int) -> bytes:
        """An object of this kind, of at most `limit` bytes; else Unusable, before it is inflated."""
        found = self._find(id)
        if found is None:
            real, content = _Loose(self._objects, id).whole(kind, limit)
        else:
            real, content = self._packed(*found, limit)
        if real != kind:
            raise Unusable(f"{_called(real)} where {_called(kind)} should be")
        if sha1(b"%s %d\0" % (_NAMES[kind], len(content)) + content, usedforsecurity=False).digest() != id:
            raise Damaged(f"object {id.hex()[:7]} is not what its id says")
        return content

    def size(self, id: bytes) -> int:
        """How many bytes an object has, as its head says. Nothing but that is read."""
        found = self._find(id)
        if found is None:
            return _Loose(self._objects, id).size
        pack, offset = found
        entry = pack.entry(offset)
        return entry.size if entry.base is None else _sizes_of_change(pack.inflate(entry, 64, whole=False))[1]

    def start(self, id: bytes, length: int, limit: int) -> bytes:
        """The first bytes of a blob of any size; not checked if there are more. Unusable only for a change of more than `limit` bytes."""
        found = self._find(id)
        if found is None:
            loose = _Loose(self._objects, id)
            return self.read(id, BLOB, length) if loose.size <= length else loose.start(length)
        pack, offset = found
        entry = pack.entry(offset)
        if entry.base is None and entry.kind == BLOB and entry.size > length:
            return pack.inflate(entry, length, whole=False)
        return self.read(id, BLOB, max(length, limit))[:length]

    def _find(self, id: bytes) -> tuple[_Pack, int] | None:
        """Where it is packed; None: perhaps by itself. A pack may have come, or several become one, since we looked."""
        for again in (False, True):
            if again and (os.path.exists(_loose_path(self._objects, id)) or not self._scan()):
                return None
            for name, pack in self._packs.items():
                offset = pack.find(id)
                if offset is not None:
                    if next(iter(self._packs)) != name:  # the next one is probably in it too
                        self._packs = {name: pack, **self._packs}
                    return pack, offset
        return None

    def _scan(self) -> bool:
        """Open packs that are new; False when there are none. Those that are gone stay open: what they hold is true for ever."""
        folder = os.path.join(self._objects, "pack")
        try:
            names = set(os.listdir(folder))
        except OSError:
            return False
        new = sorted(name[:-5] for name in names if name.endswith(".pack") and f"{name[:-5]}.idx" in names and name[:-5] not in self._packs)
        for name in new:
            path = os.path.join(folder, name)
            try:
                self._packs[name] = _Pack(path)
            except Damaged:
                if os.path.exists(f"{path}.pack") and os.path.exists(f"{path}.idx"):
                    raise
                # Else it became part of another since we listed; that one is found when something is missed.
        return bool(new)

    def _packed(self, pack: _Pack, offset: int, limit: int) -> tuple[int, bytes]:
        """Its kind and content. Down to what is no change, weighing all; then up again."""
        changes: list[tuple[_Pack, int, _Entry]] = []
        weight = 0
        while (found := self._bases.get((id(pack), offset))) is None:
            entry = pack.entry(offset)
            if not changes:
                _check_size(entry.size if entry.base is None else _sizes_of_change(pack.inflate(entry, 64, whole=False))[1], limit)
            weight += entry.size
            if weight > MAX_WEIGHT or len(changes) > MAX_CHAIN:
                raise Unusable(_TOO_HEAVY)
            if entry.base is None:
                found = entry.kind, pack.inflate(entry, entry.size)
                break
            changes.append((pack, offset, entry))
            pack, offset = self._base(pack, offset, entry.base)
        kind, content = found
        if not changes:
            _check_size(len(content), limit)
        return kind, self._with_changes(content, kind, pack, offset, changes)

    def _with_changes(self, content: bytes, kind: int, pack: _Pack, offset: int, changes: list[tuple[_Pack, int, _Entry]]) -> bytes:
        """`content` stands at `offset`; the last of `changes` is of it, the next of what came of that."""
        made = 0
        for of, at, entry in reversed(changes):
            if len(content) <= KEPT_EACH:
                self._keep(pack, offset, kind, content)
            content = _changed(content, of.inflate(entry, entry.size))
            pack, offset = of, at
            made += len(content)
            if made > MAX_WORK:
                raise Unusable(_TOO_HEAVY)
        return content

    def _base(self, pack: _Pack, offset: int, base: int | bytes) -> tuple[_Pack, int]:
        if isinstance(base, int):
            return pack, offset - base
        at = pack.find(base)
        found = (pack, at) if at is not None else self._find(base)
        if found is None:
            raise Damaged(f"object {base.hex()[:7]}, which another is a change of, is missing")
        return found

    def _keep(self, pack: _Pack, offset: int, kind: int, content: bytes) -> None:
        key = (id(pack), offset)
        if key in self._bases:
            return
        self._bases[key] = kind, content
        self._kept += len(content)
        while self._kept > KEPT:
            self._kept -= len(self._bases.popitem(last=False)[1][1])


class _Pack:
    """A pack and its index, version 2."""

    def __init__(self, path: str) -> None:
        self._name = os.path.basename(path)
        self._fd = -1
        try:
            with open(f"{path}.idx", "rb") as index:
                self._index = mmap.mmap(index.fileno(), 0, access=mmap.ACCESS_READ)
            self._fd = os.open(f"{path}.pack", os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise self._damaged("cannot be read") from error
        index_size = len(self._index)
        if index_size < 8 + _FANOUT.size + 40 or self._index[:8] != _INDEX_HEAD:
            raise self._damaged("has no index of version 2")
        self._fanout = _FANOUT.unpack_from(self._index, 8)
        count = self._fanout[255]
        self._ids = 8 + _FANOUT.size
        self._offsets = self._ids + 24 * count
        self._far = self._offsets + 4 * count
        if index_size < self._far + 40 or any(low > high for low, high in zip(self._fanout, self._fanout[1:], strict=False)):
            raise self._damaged("has an index that is cut off")
        head = os.pread(self._fd, _PACK_HEAD.size, 0)
        if len(head) < _PACK_HEAD.size or _PACK_HEAD.unpack(head) != (b"PACK", 2, count):
            raise self._damaged("does not fit its index")

    def close(self) -> None:
        self._index.close()
        os.close(self._fd)

    def find(self, id: bytes) -> int | None:
        """The offset of an object; None when it is not in this pack."""
        index, ids = self._index, self._ids
        low, high = self._fanout[id[0] - 1] if id[0] else 0, self._fanout[id[0]]
        while low < high:
            middle = (low + high) // 2
            at = ids + 20 * middle
            there = index[at : at + 20]
            if there < id:
                low = middle + 1
            elif there > id:
                high = middle
            else:
                return self._offset(middle)
        return None

    def _offset(self, number: int) -> int:
        near: int = _LONG.unpack_from(self._index, self._offsets + 4 * number)[0]
        if near < 1 << 31:
            return near
        at = self._far + 8 * (near & 0x7FFFFFFF)
        if at + 8 > len(self._index) - 40:
            raise self._damaged("has an index that is cut off")
        far: int = _LONG_LONG.unpack_from(self._index, at)[0]
        return far

    def entry(self, offset: int) -> _Entry:
        """The head of the object that begins here."""
        if not _PACK_HEAD.size <= offset < 1 << 62:
            raise self._damaged("points outside itself")
        data = os.pread(self._fd, FIRST, offset)
        try:
            kind, size, used = data[0] >> 4 & 7, data[0] & 15, 1
            shift = 4
            while data[used - 1] & 0x80:
                size |= (data[used] & 0x7F) << shift
                used, shift = used + 1, shift + 7
            base: int | bytes | None = None
            if kind == _OFFSET_DELTA:
                base, used = _distance(data, used)
                if not 0 < base <= offset - _PACK_HEAD.size:
                    raise self._damaged("points outside itself")
            elif kind == _ID_DELTA:
                base, used = data[used : used + 20], used + 20
        except IndexError:
            raise self._damaged("is cut off") from None
        if used > len(data) or (kind not in _NAMES and base is None) or shift > 60:
            raise self._damaged("holds something that is no object")
        return _Entry(kind, size, base, offset + used, data[used:])

    def inflate(self, entry: _Entry, length: int, *, whole: bool = True) -> bytes:
        """What was compressed: all of it, which must be `length` bytes, or its first `length` bytes at most."""
        try:
            return _inflate(self._fd, entry.at, entry.data, length, whole=whole)
        except zlib.error:
            raise self._damaged("does not inflate") from None

    def _damaged(self, what: str) -> Damaged:
        return Damaged(f"{self._name} {what}")


class _Loose:
    """An object that is a file of its own."""

    def __init__(self, objects: str, id: bytes) -> None:
        self._id = id.hex()[:7]
        try:
            with open(_loose_path(objects, id), "rb", buffering=0) as file:
                self._data = file.read(16 * 1024**2 + MORE)  # compressed: nothing we take is larger
        except OSError:
            raise Damaged(f"object {self._id} is missing") from None
        try:
            head, nul, _ = zlib.decompressobj().decompress(self._data, 64).partition(b"\0")
            word, size = head.split(b" ")
            self._kind, self.size = _NUMBERS[word], int(size)
        except (zlib.error, ValueError, KeyError):
            raise Damaged(f"object {self._id} is damaged") from None
        self._head = len(head) + len(nul)

    def whole(self, kind: int, limit: int) -> tuple[int, bytes]:
        if self._kind == kind:
            _check_size(self.size, limit)
            content = self.start(self.size)
            if len(content) != self.size:
                raise Damaged(f"object {self._id} is damaged")
            return kind, content
        return self._kind, b""

    def start(self, length: int) -> bytes:
        try:
            return zlib.decompressobj().decompress(self._data, self._head + length)[self._head :]
        except zlib.error:
            raise Damaged(f"object {self._id} is damaged") from None


def _loose_path(objects: str, id: bytes) -> str:
    name = id.hex()
    return f"{objects}/{name[:2]}/{name[2:]}"


def _distance(data: bytes, at: int) -> tuple[int, int]:
    """How far back the base is, and where that number ends; written as git does, most significant first, each step plus one."""
    value = data[at] & 0x7F
    while data[at] & 0x80:
        at += 1
        value = (value + 1 << 7) | (data[at] & 0x7F)
    return value, at + 1


def _inflate(fd: int, at: int, data: bytes, length: int, *, whole: bool) -> bytes:
    """Raises zlib.error."""
    engine = zlib.decompressobj()
    at += len(data)
    parts: list[bytes] = []
    left = length + whole  # one more than it should be is asked for, to see that there is no more
    while True:
        part = engine.decompress(data, left)
        parts.append(part)
        left -= len(part)
        if engine.eof or left == 0:
            break
        data = os.pread(fd, MORE, at)
        if not data:
            raise zlib.error("cut off")
        at += len(data)
    if whole and (left != 1 or not engine.eof):
        raise zlib.error("not of its size")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _sizes_of_change(change: bytes) -> tuple[int, int]:
    """How large what it changes must be, and what comes of it."""
    sizes: list[int] = []
    at = 0
    for _ in range(2):
        size = shift = 0
        while True:
            if at >= len(change) or shift > 60:
                raise Damaged("a change of an object is damaged")
            size |= (change[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if not change[at - 1] & 0x80:
                break
        sizes.append(size)
    return sizes[0], sizes[1]


def _changed(content: bytes, change: bytes) -> bytes:
    before, after = _sizes_of_change(change)
    _check_size(after, MAX_WEIGHT)
    if before != len(content):
        raise Damaged("a change of an object does not fit")
    try:
        made = apply_delta(content, change)
    except (ApplyDeltaError, ValueError, TypeError, IndexError, AssertionError):
        raise Damaged("a change of an object is damaged") from None
    return made if isinstance(made, bytes) else b"".join(made)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise Unusable(f"larger than {limit // 1024**2:,} MiB" if limit >= 1024**2 else f"larger than {limit // 1024:,} KiB")


def _called(kind: int) -> str:
    return f"a {_NAMES[kind].decode()}"
