"""From task folders that were read to tasks that can be written: resolved, bundled, told as people read it. Everything here blocks."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable
from typing import NamedTuple

from dicode.git.trees import Tree
from dicode.messages.fault import Fault
from dicode.process.blobs import Batch, Bundles
from dicode.source.reading import changed_files, not_bundled
from dicode.source.sets import Piece
from dicode.source.state import Burst, Known, Reading
from dicode.spec.names import speakable
from dicode.spec.resolve import Resolved, resolve_folder, resolve_leaf
from dicode.spec.trees import FolderRead

SET_DIR = b"TASK_SET_DIR"

ShownFaults = Callable[[Iterable[Fault]], tuple[Fault, ...]]


class Job(NamedTuple):
    """A task to resolve with what was read of its place. `before`: the digest that is written; `said`: set files that changed."""

    piece: Piece
    read: FolderRead
    tree: Tree
    dir: str
    revision: str
    before: str
    burst: Burst | None = None
    said: tuple[str, ...] = ()


def resolved(piece: Piece, read: FolderRead) -> Resolved | tuple[Fault, ...]:
    """The task, or what is wrong with it. `read.folder` must not be None."""
    assert read.folder is not None, "there is something to resolve"
    return resolve_folder(read.folder, piece.id) if piece.leaf is None else resolve_leaf(piece.leaf, read.folder)


def reading_of(job: Job, bundles: Bundles | Batch, shown_faults: ShownFaults, shown: Callable[[str], str]) -> Reading:
    """What to write of it; its bundle is stored before that is told. `shown`: a path for people."""
    read, piece = job.read, job.piece
    found = resolved(piece, read)
    reading = Reading(piece.id, "", Known(piece.id), speakable(job.dir), newest=read.newest, unsettled=read.unsettled, revision=job.revision)
    if not isinstance(found, Resolved):
        return reading._replace(faults=shown_faults(found))
    assert read.folder is not None, "it was resolved"
    changed = [shown(job.tree.shown(posixpath.normpath(posixpath.join(read.want.path, path)))) for path in _changed(job, read, found, bundles)]
    if not changed and found.digest != job.before:
        changed = [shown(each) for each in job.said]
    try:
        bundles.put(found.digest, found.manifest, found.spec_json, read.folder.files)
    except OSError as error:
        return reading._replace(failed=not_bundled(error))
    known = Known(piece.id, digest=found.digest)
    return reading._replace(known=known, resolved=found, changed=tuple(changed), asks_set_dir=SET_DIR in found.spec_json)


def _changed(job: Job, read: FolderRead, found: Resolved, bundles: Bundles | Batch) -> tuple[str, ...]:
    assert read.folder is not None, "it was resolved"
    return changed_files(job.before, read.folder, found, bundles) if job.burst is not None else ()
