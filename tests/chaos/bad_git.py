"""Repositories nobody's git would make, and servers nobody should run: part E (git, 55-76) of the abuse list, RELIABILITY 4.5.

Each crafted tree is the folder of one task that is wrong in itself, so the task must say so; beside it lies a good one.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable
from hashlib import sha1
from pathlib import Path
from typing import NamedTuple

from tests.support.git_remote import Handler, Trick
from tests.support.raw_repository import RawRepository, Row

TRAP = "dicode-was-here"  # part of the name of every file that must never come to be
GOOD = "name: x\nruntime: shell\ntrigger: {manual: true}\n"
WELL = "echo I am well\n"
NOWHERE = b"\x07" * 20  # the id of an object that is not there
Rows = Callable[[RawRepository], list[Row]]  # what lies in a task folder beside its task.yaml and task.sh


def file(name: str | bytes, content: str = "x", mode: str = "100644") -> Rows:
    return lambda repository: [(mode, name, repository.blob(content))]


def folder(name: str, **files: str) -> Rows:
    return lambda repository: [("40000", name, repository.files(dict(files) or {TRAP: "x", "config": "[core]\n\tfsmonitor = touch /tmp/" + TRAP}))]


def link(name: str, target: str) -> Rows:
    return file(name, target, "120000")


def all_of(*some: Rows) -> Rows:
    return lambda repository: [row for rows in some for row in rows(repository)]


def submodule(repository: RawRepository) -> list[Row]:
    text = f'[submodule "../../../{TRAP}"]\n\tpath = ../../../{TRAP}\n\turl = ext::sh -c "touch /tmp/{TRAP}"\n'
    return [("100644", ".gitmodules", repository.blob(text)), ("160000", "vendored", sha1(b"somewhere").digest())]


def many_files(repository: RawRepository) -> list[Row]:
    """10⁸ files out of nine objects."""
    id = repository.tree([("100644", f"f{number}", repository.blob("x")) for number in range(10)])
    for _ in range(7):
        id = repository.tree([("40000", f"d{number}", id) for number in range(10)])
    return [("40000", "bomb", id)]


def deep(repository: RawRepository) -> list[Row]:
    id = repository.files({"x": ""})
    for _ in range(1000):
        id = repository.tree([("40000", "d", id)])
    return [("40000", "d", id)]


LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"

TREES: dict[str, Rows] = {
    "e55-up": folder(".."),
    "e56-slash": file(f"../{TRAP}"),
    "e57-absolute": file(f"/tmp/{TRAP}"),
    "e58-git": folder(".git"),
    "e58-git-config": file(".git/config"),
    "e59-capitals": folder(".GIT"),
    "e60-short-name": folder("git~1"),
    "e61-blank": folder(".git "),
    "e62-unseen": folder(".g\u200cit"),
    "e63-link-and-folder": all_of(link("out", "../../.."), folder("out")),
    "e63-link-out": link("out", f"../../../../../../../../tmp/{TRAP}"),
    "e64-twins": all_of(link("D", "/tmp"), folder("d", **{TRAP: "x"})),
    "e65-twice": all_of(file("helper", "one"), file("helper", "two")),
    "e65-task-twice": file("task.sh", "echo another\n"),
    "e66-setuid": file("odd", mode="104755"),
    "e66-gitlink": lambda repository: [("160000", "odd", sha1(b"odd").digest())],
    "e66-sevens": file("odd", mode="777777"),
    "e68-many-files": many_files,
    "e68-deep": deep,
    "e76-submodule": submodule,
    "e76-lfs": all_of(file(".gitattributes", "data filter=lfs diff=lfs merge=lfs -text\n"), file("data", LFS_POINTER)),
    "x-no-utf8": file(b"\xff\xfe"),
    "x-escape": file("a\x1b[31mb"),
    "x-newline": file("a\nb"),
}
HARMLESS: dict[str, Rows] = {  # what they ask for is not done, and they are fine without it
    "e76-filter": file(".gitattributes", f"* filter=evil\n*.sh smudge=touch\\ /tmp/{TRAP}\n"),
    "good": lambda repository: [],
}


class Made(NamedTuple):
    bad: list[str]
    good: list[str]


def write_trees(repository: RawRepository) -> Made:
    """A plain source of all of them, at `main`."""
    rows: list[Row] = []
    for id, more in sorted((TREES | HARMLESS).items()):
        own: list[Row] = [("100644", "task.sh", repository.blob(WELL)), ("100644", "task.yaml", repository.blob(GOOD))]
        rows.append(("40000", id, repository.tree([*own, *more(repository)])))
    commit(repository, rows)
    return Made(list(TREES), list(HARMLESS))


def commit(repository: RawRepository, rows: list[Row]) -> str:
    id = repository.commit(repository.tree(rows)).hex()
    (repository.folder / "refs/heads/main").write_text(f"{id}\n")
    return id


# ── whole repositories ──


def one_task(repository: RawRepository, more: list[Row]) -> list[Row]:
    own: list[Row] = [("100644", "task.sh", repository.blob(WELL)), ("100644", "task.yaml", repository.blob(GOOD))]
    return [("40000", "task", repository.tree([*own, *more]))]


def missing_blob(folder: Path) -> None:
    repository = RawRepository(folder)
    commit(repository, one_task(repository, [("100644", "lost", NOWHERE)]))


def many_folders(folder: Path) -> None:
    """No task anywhere, and 10⁸ places where one could be."""
    repository = RawRepository(folder)
    commit(repository, many_files(repository))


def zeros(folder: Path) -> None:
    """A blob of 1.5 GB in a pack of 1.5 MB, which git hands out as it lies there."""
    repository = RawRepository(folder)
    megabytes = 1536
    id = sha1(b"blob %d\0" % (megabytes << 20))
    for _ in range(megabytes):
        id.update(bytes(1 << 20))
    body = b"PACK" + struct.pack(">LL", 2, 1) + _size_of(3, megabytes << 20) + _deflated_zeros(megabytes)
    repository.write_pack(body, [id.digest()], [12])
    commit(repository, one_task(repository, [("100644", "zeros", id.digest())]))


def _size_of(kind: int, size: int) -> bytes:
    out, left = [kind << 4 | size & 15], size >> 4
    while left:
        out[-1] |= 0x80
        out.append(left & 0x7F)
        left >>= 7
    return bytes(out)


def _deflated_zeros(megabytes: int) -> bytes:
    """As zlib would deflate them, made from one of them."""
    engine = zlib.compressobj()
    block = engine.compress(bytes(1 << 20)) + engine.flush(zlib.Z_FULL_FLUSH)
    end = zlib.compressobj(wbits=-15).flush()
    return block[:2] + block[2:] * megabytes + end + struct.pack(">HH", (megabytes << 20) % 65521, 1)


def head_to_nowhere(folder: Path) -> None:
    repository = RawRepository(folder)
    commit(repository, one_task(repository, []))
    (folder / "HEAD").write_text("ref: refs/heads/nowhere\n")
    (folder / "refs/heads/main").rename(folder / "refs/heads/elsewhere")


def empty(folder: Path) -> None:
    RawRepository(folder)


REPOSITORIES: dict[str, Callable[[Path], None]] = {
    "e67-missing-blob": missing_blob,
    "e68-many-folders": many_folders,
    "e69-zeros": zeros,
    "e75-empty": empty,
    "e75-head-to-nowhere": head_to_nowhere,
}


# ── servers ──


def only(path: str, trick: Trick) -> Trick:
    """Of this repository alone."""
    return lambda handler: handler.path.startswith(f"/{path}/") and trick(handler)


def stuck(released: threading.Event, first: bytes = b"", every: bytes = b"") -> Trick:
    """Says `first`, then `every` twenty times a second, and never comes to an end before it is released."""

    def trick(handler: Handler) -> bool:
        try:
            handler.wfile.write(first)
            while not released.wait(0.05) and not handler.server.over.is_set():
                handler.wfile.write(every)
                handler.wfile.flush()
        except OSError:
            pass
        handler.close_connection = True
        return True

    return trick


DRIP_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\nContent-Length: 100000\r\n\r\nffff"

URLS = (  # 73: what may stand where a URL should
    "ssh://-oProxyCommand=touch%20/tmp/dicode-was-here/x",
    "ext::sh -c 'touch /tmp/dicode-was-here'",
    "--upload-pack=touch /tmp/dicode-was-here",
    "git@-x:y",
    "-x@host:y",
    "https://host:99999/x",
    "https://ho\tst/x",
    "https://us\ner@host/x",
    "gopher://host/x",
)
URLS_IN_A_REPOSITORY = (
    *URLS,
    "../../etc",
    "file:///etc",
    "/etc",
    "git://example.org/x",
    "http://127.0.0.1:1/x",
    "http://[::1]/x",
    "http://0x7f.1/x",
    "http://169.254.169.254/x",
)
