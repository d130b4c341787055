"""Reading one task folder whole: what stood still is resolved, bundled, and given back as a value. Everything here blocks."""

from __future__ import annotations

import os
import posixpath
from dataclasses import replace
from typing import NamedTuple

from dicode.messages.fault import Fault
from dicode.process.blobs import BadBundle, Batch, Bundles, MissingBundle, parse_manifest
from dicode.process.finding import TASK_FILE, OnFolder
from dicode.process.tree import read_folder
from dicode.source.snapshot import Glance, Root, glance
from dicode.source.state import Known, Reading
from dicode.spec.folder import Folder, Wanted, wanted
from dicode.spec.names import speakable
from dicode.spec.resolve import Resolved, resolve_folder

MAX_FAULTS = 50
READ_AGAIN = 3  # times at once, while something moves under the reading


class Still(NamedTuple):
    """A task folder as it was read. `folder` is None when there is no task any more; `moved`: it would not hold still."""

    folder: Folder | None
    known: Known
    newest: int = 0
    moved: bool = False


def read_task(glanced: Glance, folder: str, root: Root, before: Known | None, on_folder: OnFolder, bundles: Bundles | Batch) -> Reading:
    """Stat, read all, stat again; once more if anything moved. What was read is bundled before it is told."""
    still = read_still(glanced, folder, root.reach, before or Known(glanced.id), on_folder)
    if still.folder is None:
        return Reading(glanced.id, folder, None)
    return _resolve(Reading(glanced.id, folder, still.known, newest=still.newest, unsettled=still.moved), still.folder, still.known, bundles)


def read_still(glanced: Glance, folder: str, reach: str, known: Known, on_folder: OnFolder) -> Still:
    """A folder with a task.yaml, read until nothing moves under the reading, or READ_AGAIN times."""
    first = glanced.fingerprint
    for _ in range(READ_AGAIN):
        read = read_folder(folder, root=reach, ignores=glanced.rules)
        task_yaml = read.find(TASK_FILE)
        if task_yaml is None and not os.path.lexists(f"{folder}/{TASK_FILE}"):
            return Still(None, known)
        if task_yaml is not None:
            known = _asking(known, wanted(task_yaml.content), folder, reach)
        watch_includes(known.includes, on_folder)
        second = glance(glanced.id, folder, glanced.rules, known, on_folder)
        moved = bool(read.moved) or first != second.fingerprint
        if not moved:
            break
        first = second.fingerprint
    return Still(read, replace(known, fingerprint=None if moved or read.unread else second.fingerprint), second.newest, moved)


def _resolve(reading: Reading, read: Folder, known: Known, bundles: Bundles | Batch) -> Reading:
    found = resolve_folder(read, reading.id)
    if not isinstance(found, Resolved):
        return reading._replace(known=replace(known, faulty=True), faults=found)
    changed = changed_files(known.digest, read, found, bundles)
    try:
        bundles.put(found.digest, found.manifest, found.spec_json, read.files)
    except OSError as error:
        return reading._replace(failed=not_bundled(error))
    return reading._replace(known=replace(known, digest=found.digest, faulty=False), resolved=found, changed=changed)


def not_bundled(error: OSError) -> str:
    return f"the bundle cannot be written: {error.strerror}"


def changed_files(before: str, read: Folder, found: Resolved, bundles: Bundles | Batch) -> tuple[str, ...]:
    """The paths that differ between the bundle before and what was found now; all of them when there was none."""
    if before == found.digest:
        return ()
    if not before:
        return tuple(sorted(file.path for file in read.files))
    try:
        old = {entry.path: entry for entry in parse_manifest(bundles.manifest(before)).entries}
    except (MissingBundle, BadBundle):
        return ()
    new = {entry.path: entry for entry in parse_manifest(found.manifest).entries}
    return tuple(sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path)))


def _asking(known: Known, asked: Wanted, folder: str, reach: str) -> Known:
    """With what this task.yaml asks for. What leaves the root is a fault of the task and not looked at."""
    targets = (posixpath.normpath(posixpath.join(folder, written)) for written, _ in asked.include)
    inside = reach.rstrip("/") + "/"
    return replace(known, includes=tuple(target for target in targets if target.startswith(inside)), ignore=asked.ignore)


def watch_includes(includes: tuple[str, ...], on_folder: OnFolder) -> None:
    """The folder an include stands in: there it is replaced, deleted or made."""
    for path in includes:
        parent = posixpath.dirname(path)
        try:
            on_folder(parent, os.stat(parent, follow_symlinks=False).st_ino)
        except OSError:
            continue  # the next round looks again


def for_people(reading: Reading, working_dir: str) -> Reading:
    """With the first faults, which are enough for anybody, and with files as people write them."""
    faults = tuple(
        Fault(speakable(shown(each.file, working_dir)), each.line, each.column, speakable(each.message)) for each in reading.faults[:MAX_FAULTS]
    )
    return reading._replace(faults=faults, dir=speakable(reading.dir or reading.folder))


def shown(path: str, working_dir: str) -> str:
    """A path for people: relative to the working directory when below it, else absolute."""
    return path[len(working_dir) + 1 :] if path.startswith(working_dir.rstrip("/") + "/") and working_dir != "/" else path
