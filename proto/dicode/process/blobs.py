"""Bundles: the exact files behind a digest, as one canonical tar each, and unpacked once for running.

A tar holds, in this order, `manifest` (the text whose SHA-256 is the digest, SPEC 5), `spec.json`, then each file at
the place it has relative to the task folder. It lies in a file of its own or, stored together with others, in a pack.
Nothing is believed that the manifest does not say: whoever reads a bundle checks it against its own name. No fsync: what a
power cut takes is read from the sources again.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
import shutil
import stat
import tarfile
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from dicode.messages.task import TaskSpec
from dicode.process.packs import Packs, write_whole
from dicode.process.ustar import member

MANIFEST_HEAD = "dicode-digest/1"
ROOT = "root"  # of the files in the tar and in the tree

SMALL = 64 * 1024  # bytes; a bigger bundle never goes into a pack
FEW = 4  # bundles; so many need no pack
_spec_decoder = msgspec.json.Decoder(TaskSpec)


class MissingBundle(Exception):
    """There is no bundle of this digest here; the source-controller makes it again from the source's next reading."""


class BadBundle(Exception):
    """The bundle is not what its digest says. It has been set aside and will not be found again."""


class ManifestEntry(NamedTuple):
    """One file of a task. `kind`: `x` executable, `-` plain, `l` a link (then hash and size are its target's)."""

    kind: str
    sha256: str
    size: int
    path: str


class Manifest(NamedTuple):
    spec_sha256: str
    entries: tuple[ManifestEntry, ...]


def parse_manifest(text: bytes) -> Manifest:
    """The manifest in `text`. Raises BadBundle."""
    try:
        head, spec_line, *lines = text.decode().removesuffix("\n").split("\n")
        word, spec_sha256 = spec_line.split(" ")
        if head != MANIFEST_HEAD or word != "spec":
            raise ValueError(head)
        entries = []
        for line in lines:
            kind, digest, size, path = line.split(" ", 3)
            if kind not in ("x", "-", "l") or path.startswith("/"):
                raise ValueError(line)
            entries.append(ManifestEntry(kind, digest, int(size), path))
    except ValueError as error:
        raise BadBundle(f"no manifest: {error}") from None
    return Manifest(spec_sha256, tuple(entries))


class Layout(NamedTuple):
    """Where the files of one task stand below `root/`, so that an include's `../lib/c.py` keeps its relative place."""

    folder: str  # the task folder

    def place(self, path: str) -> str:
        """The place of `path`, which is relative to the task folder."""
        if path[:1] != "." and "//" not in path and "/." not in path:
            return f"{self.folder}/{path}"  # nearly all
        return posixpath.normpath(posixpath.join(self.folder, path))


def layout_of(paths: Iterable[str]) -> Layout:
    """The task folder stands as deep as the includes reach up, under names that no include uses."""
    taken: dict[int, set[str]] = {}
    for path in paths:
        if path[:3] != "../":
            continue
        parts = path.split("/")
        ups = next((depth for depth, part in enumerate(parts) if part != ".."), len(parts))
        if ups and ups < len(parts):
            taken.setdefault(ups, set()).add(parts[ups])
    folder = ""
    for level in range(max(taken, default=1), 0, -1):
        name = "task" if level == 1 else "_"
        while name in taken.get(level, ()):
            name += "_"
        folder = posixpath.join(folder, name)
    return Layout(posixpath.join(ROOT, folder))


class Bundles:
    """The bundles and trees of one data folder. All methods block; any number of processes may use them at once."""

    def __init__(self, bundles: Path, trees: Path) -> None:
        self._bundles = bundles
        self._trees = trees
        self._packs = Packs(bundles, _passing_name)

    def put(self, digest: str, manifest: bytes, spec_json: bytes, files: Iterable[tuple[str, str, bytes]]) -> None:
        """Store a bundle, whole or not at all; one that is there stays. `files`: (path, kind, content) as in the manifest."""
        if not self._renewed(digest):
            self._write(digest, _tar_of(manifest, spec_json, files))

    def together(self) -> Batch:
        """For the first reading of many tasks: what is put there is stored by `Batch.write`, in one file."""
        return Batch(self)

    def _renewed(self, digest: str) -> bool:
        """Is it there? Then it is young again: it is about to be referred to."""
        try:
            os.utime(f"{self._bundles}/{digest}.tar")
        except FileNotFoundError:
            return self._packs.touch(digest)
        return True

    def _write(self, digest: str, tar: bytes) -> None:
        write_whole(self._tar(digest), tar, self._bundles / _passing_name(digest))

    def has(self, digest: str) -> bool:
        return os.path.exists(self._tar(digest)) or self._packs.find(digest) is not None

    def digests(self) -> set[str]:
        """All that are here."""
        names = os.listdir(self._bundles)
        self._packs.refresh(names)
        return {name[:-4] for name in names if name.endswith(".tar") and not name.startswith(".")}.union(self._packs.digests())

    def older_than(self, instant: float) -> set[str]:
        """All that nobody has stored, or stored again, since then (seconds since the epoch)."""
        with os.scandir(self._bundles) as entries:
            times = {entry.name: entry.stat(follow_symlinks=False).st_mtime for entry in entries if not entry.name.startswith(".")}
        self._packs.refresh(times)
        ages = {digest: times.get(spot.pack, instant) for digest, spot in self._packs.digests().items()}
        for name, time in times.items():
            if name.endswith(".tar"):
                ages[name[:-4]] = max(time, ages.get(name[:-4], 0.0))
        return {digest for digest, time in ages.items() if time < instant}

    def manifest(self, digest: str) -> bytes:
        """The text whose hash the digest is. Raises MissingBundle, BadBundle."""
        with self._file(digest) as file:
            header = file.read(tarfile.BLOCKSIZE)
            size = header[124:135]  # by hand: this is asked for with every save
            text = file.read(int(size, 8)) if re.fullmatch(rb"[0-7]+", size) else b""
        if sha256(text).hexdigest() != digest:
            raise self._bad(digest, "its manifest has another hash")
        return text

    def spec(self, digest: str) -> TaskSpec:
        """The resolved spec. Raises MissingBundle, BadBundle."""
        with self._open(digest) as tar:
            return _spec_decoder.decode(self._head(digest, tar)[1])

    def files(self, digest: str) -> dict[str, tuple[str, bytes]]:
        """Path → (kind, content) of every file, verified. Raises MissingBundle, BadBundle."""
        with self._open(digest) as tar:
            manifest = parse_manifest(self._head(digest, tar)[0])
            return {entry.path: (entry.kind, content) for entry, content in self._contents(digest, tar, manifest)}

    def unpack(self, digest: str) -> Path:
        """The task folder of this digest, read-only, made on first use and made again when someone has changed it.

        Raises MissingBundle, BadBundle, OSError.
        """
        tree = self._trees / digest
        manifest = parse_manifest(self.manifest(digest))
        layout = layout_of(entry.path for entry in manifest.entries)
        if tree.exists() and not _untouched(tree, layout, manifest):
            self._discard(tree)
        if not tree.exists():
            self._build(digest, tree, layout, manifest)
        return tree / layout.folder

    def _build(self, digest: str, tree: Path, layout: Layout, manifest: Manifest) -> None:
        made = self._trees / _passing_name(digest)
        try:
            (made / layout.folder).mkdir(parents=True)
            with self._open(digest) as tar:
                contents = self._contents(digest, tar, manifest)
                for entry, content in sorted(contents, key=lambda each: each[0].kind == "l"):  # links last: no file passes through one
                    _write(made / layout.place(entry.path), entry.kind, content)
            for folder, _, _ in os.walk(made):
                os.chmod(folder, 0o555)
            made.rename(tree)
        except OSError:
            if not tree.exists():  # else another process was first, which is as good
                raise
        finally:
            if made.exists():
                _remove_tree(made)

    def remove(self, *digests: str) -> None:
        """Forget the bundles and their trees. Something that runs from such a tree must not be around."""
        self._packs.drop(digests)
        for digest in digests:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._tar(digest))
            if (self._trees / digest).exists():
                self._discard(self._trees / digest)

    def sweep(self) -> None:
        """Remove what processes left half-made when they were killed."""
        for place in (self._bundles, self._trees):
            for name in os.listdir(place):
                if not name.startswith(".") or _alive(name):
                    continue
                path = place / name
                with contextlib.suppress(OSError):
                    _remove_tree(path) if path.is_dir() else path.unlink()

    def _tar(self, digest: str) -> Path:
        return self._bundles / f"{digest}.tar"

    def _file(self, digest: str) -> BinaryIO:
        with contextlib.suppress(FileNotFoundError):
            return open(self._tar(digest), "rb")
        packed = self._packs.find(digest)
        if packed is None:
            raise MissingBundle(f"no bundle {digest[:6]}: it is made again when its source is read")
        return io.BytesIO(packed)

    @contextlib.contextmanager
    def _open(self, digest: str) -> Iterator[tarfile.TarFile]:
        with self._file(digest) as file:
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    yield tar
            except (tarfile.TarError, EOFError) as error:
                raise self._bad(digest, str(error)) from None

    def _head(self, digest: str, tar: tarfile.TarFile) -> tuple[bytes, bytes]:
        """(manifest, spec.json), each checked."""
        manifest = _content(tar, tar.next(), "manifest")
        if manifest is None or sha256(manifest).hexdigest() != digest:
            raise self._bad(digest, "its manifest has another hash")
        spec_json = _content(tar, tar.next(), "spec.json")
        if spec_json is None or sha256(spec_json).hexdigest() != parse_manifest(manifest).spec_sha256:
            raise self._bad(digest, "its spec has another hash")
        return manifest, spec_json

    def _contents(self, digest: str, tar: tarfile.TarFile, manifest: Manifest) -> Iterator[tuple[ManifestEntry, bytes]]:
        layout = layout_of(entry.path for entry in manifest.entries)
        places = {layout.place(entry.path): entry for entry in manifest.entries}
        for each in tar:
            if each.name in ("manifest", "spec.json"):
                continue
            entry = places.pop(each.name, None)
            content = _content(tar, each, each.name)
            if entry is None or content is None or sha256(content).hexdigest() != entry.sha256 or (entry.kind == "l") != each.issym():
                raise self._bad(digest, f"{each.name} is not what was hashed")
            yield entry, content
        if places:
            raise self._bad(digest, f"{next(iter(places))} is missing")

    def _bad(self, digest: str, why: str) -> BadBundle:
        """Set it aside, so that the source-controller finds it missing and makes it again."""
        aside = self._bundles / f"{digest}.bad"
        with contextlib.suppress(OSError):
            try:
                os.replace(self._tar(digest), aside)
            except FileNotFoundError:
                aside.write_bytes(self._packs.find(digest) or b"")
                self._packs.drop((digest,))
        return BadBundle(f"bundle {digest[:6]}: {why}")

    def _discard(self, tree: Path) -> None:
        """Out of the way at once, then removed: what still runs in it keeps its working directory."""
        aside = tree.with_name(_passing_name(tree.name))
        with contextlib.suppress(FileNotFoundError):  # another process was first
            tree.rename(aside)
            _remove_tree(aside)


class Batch:
    """Bundles that are stored together; belongs to one thread. `put` as in Bundles, but small ones are only there after `write`."""

    def __init__(self, bundles: Bundles) -> None:
        self._bundles = bundles
        self._tars: dict[str, bytes] = {}

    def put(self, digest: str, manifest: bytes, spec_json: bytes, files: Iterable[tuple[str, str, bytes]]) -> None:
        if digest in self._tars or self._bundles._renewed(digest):
            return
        tar = _tar_of(manifest, spec_json, files)
        if len(tar) > SMALL:
            self._bundles._write(digest, tar)
        else:
            self._tars[digest] = tar

    def manifest(self, digest: str) -> bytes:
        """Of a bundle that was there before. Raises MissingBundle, BadBundle."""
        return self._bundles.manifest(digest)

    def write(self) -> None:
        """Store what was put. Raises OSError: then some may not be there, and all are to be put again."""
        tars, self._tars = self._tars, {}
        if len(tars) > FEW:
            self._bundles._packs.write(tars)
            return
        for digest, tar in tars.items():
            self._bundles._write(digest, tar)


def _tar_of(manifest: bytes, spec_json: bytes, files: Iterable[tuple[str, str, bytes]]) -> bytes:
    files = sorted(files, key=lambda file: os.fsencode(file[0]))
    layout = layout_of(path for path, _, _ in files)
    parts = [*member("manifest", "-", manifest), *member("spec.json", "-", spec_json)]
    for path, kind, content in files:
        parts += member(layout.place(path), kind, content)
    parts.append(bytes(2 * tarfile.BLOCKSIZE))
    return b"".join(parts)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo | None, name: str) -> bytes | None:
    """The bytes of a file or the target of a link; None when the member is something else."""
    if member is None or member.name != name:
        return None
    if member.issym():
        return os.fsencode(member.linkname)
    if not member.isreg():
        return None
    file = tar.extractfile(member)
    return (file or io.BytesIO()).read()


def _write(path: Path, kind: str, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "l":
        os.symlink(os.fsdecode(content), path)
        return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(fd, 0o555 if kind == "x" else 0o444)
        os.utime(fd, (0, 0))


def _untouched(tree: Path, layout: Layout, manifest: Manifest) -> bool:
    """No file was changed, moved or removed since it was unpacked, as far as stat tells: every file dates from 1970."""
    try:
        return all(_is_as_unpacked(tree / layout.place(entry.path), entry) for entry in manifest.entries)
    except OSError:
        return False


def _is_as_unpacked(path: Path, entry: ManifestEntry) -> bool:
    """Raises OSError where it is not even there."""
    there = os.lstat(path)
    if entry.kind == "l":
        return stat.S_ISLNK(there.st_mode) and sha256(os.fsencode(os.readlink(path))).hexdigest() == entry.sha256
    mode = stat.S_IFREG | (0o555 if entry.kind == "x" else 0o444)
    return there.st_mode == mode and there.st_size == entry.size and there.st_mtime_ns == 0


def _passing_name(digest: str) -> str:
    """Of something half-made: names its maker, so that `sweep` knows when nobody will finish it."""
    return f".{digest}.{os.getpid()}.{os.urandom(4).hex()}"


def _alive(passing_name: str) -> bool:
    try:
        os.kill(int(passing_name.split(".")[2]), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError, IndexError, OverflowError):
        return False
    return True


def _remove_tree(path: Path) -> None:
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o700)
    shutil.rmtree(path)
