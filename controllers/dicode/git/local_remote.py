"""A repository on this machine as a remote: read in place, no other program started. Only trusted URLs lead here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence

from dulwich.object_store import DiskObjectStore, peel_sha
from dulwich.objects import ObjectID
from dulwich.pack import write_pack_data
from dulwich.refs import DiskRefsContainer

from dicode.git.frames import GitFault
from dicode.git.remote import Advertised
from dicode.git.upload import Refs

PIECE = 1 << 18


class OverFiles:
    """A bare repository, or a work tree with its `.git` folder."""

    def __init__(self, path: str, most: int) -> None:
        """Raises GitFault RepoNotFound."""
        self._folder = _git_folder(path)
        self._most = most
        self._store = DiskObjectStore(os.path.join(self._folder, "objects"))

    def refs(self, prefixes: Sequence[str]) -> Refs:
        found: Refs = {}
        container = DiskRefsContainer(self._folder)
        for name in sorted(container.allkeys()):
            shown = name.decode("utf-8", "replace")
            if not shown.startswith(tuple(prefixes)):
                continue
            try:
                id = container[name]
                _, peeled = peel_sha(self._store, id) if shown.startswith("refs/tags/") else (None, None)
            except (KeyError, OSError):
                continue  # it leads nowhere
            found[shown] = Advertised(id.decode(), peeled.id.decode() if peeled is not None and peeled.id != id else "")
        return found

    def fetch(self, wants: Sequence[str], haves: Iterable[str]) -> Iterator[bytes]:
        missing = [want for want in wants if ObjectID(want.encode()) not in self._store]
        if missing:
            raise GitFault("RefNotFound", "the repository does not have this commit")
        known = {ObjectID(have.encode()) for have in haves if ObjectID(have.encode()) in self._store}
        count, records = self._store.generate_pack_data(known, {ObjectID(want.encode()) for want in wants}, ofs_delta=True)
        with tempfile.TemporaryFile() as file:
            write_pack_data(file.write, records, num_records=count, object_format=self._store.object_format)
            if file.tell() > self._most:
                raise GitFault("TooLarge", f"there is more than {self._most // 1024**2} MiB to copy at once: make the repository smaller")
            file.seek(0)
            while piece := file.read(PIECE):
                yield piece

    def close(self) -> None:
        self._store.close()


def _git_folder(path: str) -> str:
    for folder in (path, os.path.join(path, ".git")):
        if os.path.isdir(os.path.join(folder, "objects")) and os.path.isdir(os.path.join(folder, "refs")):
            return folder
    raise GitFault("RepoNotFound", "there is no git repository at this path of this machine", permanent=True)
