"""A bare repository into which anything can be put, also what git would refuse."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from hashlib import sha1
from pathlib import Path

Row = tuple[str, str | bytes, bytes]  # mode, name, id


class RawRepository:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "objects/pack").mkdir(parents=True)
        (folder / "refs/heads").mkdir(parents=True)
        (folder / "HEAD").write_text("ref: refs/heads/main\n")
        (folder / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")

    def put(self, kind: str, content: bytes) -> bytes:
        whole = b"%s %d\0" % (kind.encode(), len(content)) + content
        id = sha1(whole).digest()
        path = self.path(id)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(zlib.compress(whole, 1))
        return id

    def path(self, id: bytes) -> Path:
        return self.folder / "objects" / id.hex()[:2] / id.hex()[2:]

    def blob(self, content: str | bytes) -> bytes:
        return self.put("blob", content.encode() if isinstance(content, str) else content)

    def tree(self, rows: Iterable[Row]) -> bytes:
        return self.put("tree", listing(rows))

    def files(self, files: dict[str, str | bytes]) -> bytes:
        """A tree of plain files by their paths."""
        here: list[Row] = []
        below: dict[str, dict[str, str | bytes]] = {}
        for path, content in files.items():
            name, slash, rest = path.partition("/")
            if slash:
                below.setdefault(name, {})[rest] = content
            else:
                here.append(("100644", name, self.blob(content)))
        return self.tree([*here, *(("40000", name, self.files(inner)) for name, inner in below.items())])

    def folder_of(self, folder: Path) -> bytes:
        """The tree git would make of a folder on disk, with everything in it."""
        rows: list[Row] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.is_symlink():
                    rows.append(("120000", name, self.blob(os.fsencode(os.readlink(entry.path)))))
                elif entry.is_dir():
                    if os.listdir(entry.path):  # git knows no empty folders
                        rows.append(("40000", name, self.folder_of(Path(entry.path))))
                else:
                    mode = "100755" if entry.stat().st_mode & 0o100 else "100644"
                    rows.append((mode, name, self.blob(Path(entry.path).read_bytes())))
        return self.tree(sorted(rows, key=lambda row: row[1] + (b"/" if row[0] == "40000" else b"")))  # type: ignore[operator]

    def commit(self, tree: bytes) -> bytes:
        who = b"T <t@example.org> 1700000000 +0000"
        return self.put("commit", b"tree %s\nauthor %s\ncommitter %s\n\nsubject\n" % (tree.hex().encode(), who, who))

    def pack(self, entries: list[tuple[bytes, int, bytes]]) -> None:
        """A pack of entries (id, type, what follows the head: compressed content, for type 6 or 7 the base first); its size is learned by inflating."""
        body, offsets = b"PACK" + struct.pack(">LL", 2, len(entries)), []
        for _, kind, data in entries:
            offsets.append(len(body))
            size = len(zlib.decompressobj().decompress(data[20:] if kind == 7 else data))
            body += _head(kind, size) + data
        self.write_pack(body, [entry[0] for entry in entries], offsets)

    def write_pack(self, body: bytes, ids: list[bytes], offsets: list[int]) -> Path:
        body += sha1(body).digest()
        rows = sorted(zip(ids, offsets, strict=True))
        fanout = b"".join(struct.pack(">L", sum(id[0] <= first for id, _ in rows)) for first in range(256))
        index = b"\xfftOc\0\0\0\2" + fanout + b"".join(id for id, _ in rows) + bytes(4 * len(rows))
        index += b"".join(struct.pack(">L", offset) for _, offset in rows) + body[-20:]
        path = self.folder / "objects/pack" / f"pack-{sha1(index).hexdigest()}.pack"
        path.write_bytes(body)
        path.with_suffix(".idx").write_bytes(index + sha1(index).digest())
        return path


def listing(rows: Iterable[Row]) -> bytes:
    return b"".join(b"%s %s\0%s" % (mode.encode(), name.encode() if isinstance(name, str) else name, id) for mode, name, id in rows)


def _head(kind: int, size: int) -> bytes:
    first, rest = kind << 4 | size & 15, size >> 4
    out = bytearray()
    while rest:
        out.append(first | 0x80)
        first, rest = rest & 0x7F, rest >> 7
    return bytes([*out, first])
