"""What nothing refers to any more, beside the database: bundles and their trees, exports of commits, logs and inputs of forgotten runs,
logs of removed daemons, environments of scripts that nobody runs any more.

Each sweep sees one moment of the database and leaves alone what is younger than GRACE: something may be written down
about it next. Whoever stores a bundle that is there already makes it young again (process.blobs).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dicode.git.exports import remove_exports
from dicode.messages.kinds import Config, Daemon, DesiredTask, History, Run, Task
from dicode.process.blobs import BadBundle, Bundles, MissingBundle
from dicode.process.filenames import file_name
from dicode.process.settings import Settings
from dicode.runtime.command import CannotStart, find_script
from dicode.runtime.dependencies import needs_of, remove_unused
from dicode.store.read import Reader

GRACE = 3600.0  # seconds
BAD_KEPT = 7 * 86_400.0  # seconds a bundle that was set aside stays, for whoever wonders what happened to it
ENVS_KEPT = 30 * 86_400.0  # seconds an environment stays that nobody has asked for: it can be built again
_RUN_LOG = re.compile(r"(?P<run>[^.]+)\.\d+\.log")


class InUse(NamedTuple):
    digests: set[str]
    runs: set[str]
    inputs: set[str]
    exports: set[str]  # names of folders
    logs: set[str]  # of daemons, as files
    running: dict[str, str]  # daemon → the bundle its process runs
    logs_kept: float  # seconds


def in_use(reader: Reader) -> InUse:
    """All that any object names. Raises Unreadable."""
    config = reader.get(Config, "dicode.yaml") or Config()
    kept = config.retention_bundles
    runs, desired = reader.all(Run).values(), reader.all(DesiredTask).values()
    tasks, daemons = reader.all(Task).values(), reader.all(Daemon).values()
    digests = {each.digest for each in desired}
    digests |= {digest for task in tasks for digest in (task.digest, task.pinned)}
    digests |= {digest for daemon in daemons for digest in (daemon.digest, daemon.bundle)}
    digests |= {revision.digest for history in reader.all(History).values() for revision in history.revisions[:kept]}
    digests |= {run.digest for run in runs if run.status in ("queued", "running")}
    set_dirs = [each.set_dir for each in desired] + [each.set_dir for each in tasks]
    set_dirs += [each.set_dir for each in daemons] + [each.set_dir for each in runs]
    exports = {os.path.basename(path) for path in set_dirs}
    return InUse(
        digests,
        {run.id for run in runs},
        {run.input_blob for run in runs},
        exports,
        {file_name(each.id) for each in tasks} | {file_name(daemon.task) for daemon in daemons},
        {daemon.task: daemon.bundle for daemon in daemons if daemon.pid},
        config.retention_runs / 1000,
    )


def sweep(settings: Settings, now: float) -> int:
    """Remove what is neither in use nor young; gives how much that was. `now`: seconds since the epoch. Raises Unreadable, OSError."""
    reader = Reader(settings.database)
    try:
        used = in_use(reader)
    finally:
        reader.close()
    bundles = Bundles(settings.bundles, settings.trees)
    unused = bundles.older_than(now - GRACE) - used.digests
    bundles.remove(*unused)
    removed = len(unused) + remove_exports(str(settings.exports), used.exports, now)
    for path in _old(settings.bundles, now - BAD_KEPT):
        if path.name.endswith(".bad"):
            path.unlink(missing_ok=True)
            removed += 1
    for path in _old(settings.logs, now):
        log = _RUN_LOG.fullmatch(path.name)
        if log is not None and log["run"] not in used.runs:
            path.unlink(missing_ok=True)
            removed += 1
    for path in _old(settings.logs / "daemon", now - used.logs_kept):
        if path.name.removesuffix(".1").removesuffix(".log") not in used.logs:
            path.unlink(missing_ok=True)
            removed += 1
    for path in _old(settings.inputs, now):
        if path.name not in used.inputs:
            path.unlink(missing_ok=True)
            removed += 1
    return removed + remove_unused(settings.data_dir / "envs", now - ENVS_KEPT, lambda: _environments(bundles, used.running))


def _environments(bundles: Bundles, running: Mapping[str, str]) -> set[str]:
    """Those that daemons run from: who was started long ago has not asked since."""
    found = set()
    for task, bundle in running.items():
        with suppress(MissingBundle, BadBundle, CannotStart, OSError):
            needs = needs_of(find_script("python", bundles.unpack(bundle), task).read_bytes())
            found.add(needs.key if needs is not None else "")
    return found


def _old(folder: Path, now: float) -> Iterator[Path]:
    if not folder.exists():
        return
    with os.scandir(folder) as entries:
        found = [entry.path for entry in entries if entry.is_file(follow_symlinks=False) and now - entry.stat().st_mtime > GRACE]
    yield from map(Path, found)
