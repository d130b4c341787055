"""What the source-controller makes of what it saw. Pure: facts in, what should be written out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec

from dicode.messages.kinds import Commit, Condition, ConfigSource, DesiredTask, Resolution, Source
from dicode.source.state import ALL, Burst, Reading, Territory, Touched
from dicode.spec.condition import carried
from dicode.spec.config import default_name
from dicode.spec.ignore import IGNORE_FILES, is_noise
from dicode.spec.names import is_segment, speakable
from dicode.spec.removal import HELD, TWICE, loses_too_much
from dicode.spec.task import FILE
from dicode.spec.taskset import FILE as SET_FILE

Status = Literal["pending", "ok", "stale", "unavailable", "held"]
RESOLUTIONS = 20  # kept of a source
POLL_AT_LEAST = 2.0  # seconds between two rounds where events cannot be had
POLL_SHARE = 20  # a round where events cannot be had may take a twentieth of the time


# ── where to look ──


def dirty_keys(territory: Territory, root: str, way: Collection[str], touched: Touched) -> set[str]:
    """Which folders must be looked at because of this; none for what cannot matter.

    `root` without links, "" while there is none; `way`: links and folders that lead to it.
    """
    path = touched.path
    if path == root or path in way:
        return {ALL}
    if is_noise(touched.name):
        return set()
    tasks = territory.tasks_of(path)
    if tasks:
        return tasks
    if not path.startswith(root + "/"):
        return set()
    if touched.name in IGNORE_FILES or path == f"{root}/{SET_FILE}":
        return {ALL}
    if touched.directory or not touched.name:
        return {path}
    if touched.name == FILE or touched.folder not in territory.groups:
        return {touched.folder}  # a task in the making, which nobody has read yet
    return set()


# ── one task ──


def desired(source: Source, reading: Reading, present: DesiredTask | None, burst: Burst | None, now: int) -> DesiredTask | None:
    """What the source says of this task now; None when that is already written. `now` in ms.

    A bad reading keeps the last good one and carries the faults. `reading.known` must not be None.
    """
    conditions = carried(present.conditions if present else (), _conditions(reading), 0, now)
    before = present or DesiredTask(id=reading.id, source=source.name)
    if reading.resolved is None:
        said = msgspec.structs.replace(before, faults=reading.faults, conditions=conditions, order=source.order, dir=before.dir or reading.dir)
    else:
        found = reading.resolved
        same = before.digest == found.digest
        kept = same and bool(source.dev) and bool(before.dir)  # in a working copy, what is equal is no news wherever it stands
        said = DesiredTask(
            id=reading.id,
            source=source.name,
            digest=found.digest,
            process=found.process,
            spec=found.spec,
            runtime=found.runtime,
            dir=before.dir if kept else reading.dir,
            set_dir=before.set_dir if kept and not reading.asks_set_dir else reading.set_dir,
            revision=(before.revision if same else "") or reading.revision,
            conditions=conditions,
            seen_at=before.seen_at,
            cause=before.cause,
            order=source.order,
        )
    if said == present:
        return None
    return msgspec.structs.replace(said, seen_at=burst.at if burst else 0.0, cause=burst.cause if burst else "")


def _conditions(reading: Reading) -> list[Condition]:
    if not reading.unsettled:
        return []
    return [Condition("Unsettled", True, "FilesMoving", "files changed while they were read; it is read again when they lie still")]


def agrees(present: DesiredTask | None, digest: str, faulty: bool, order: int) -> bool:
    """Is what is written what was read? Not so when the store lost something."""
    return present is not None and present.digest == digest and bool(present.faults) == faulty and present.order == order


def changed_line(reading: Reading, folder: str) -> str:
    """`file changed: tasks/x/task.ts (+3 more)`; `folder` is how the task's folder is shown. "" when no file is known."""
    files = [f"{folder}/{path}" if folder else path for path in reading.changed] or list(dict.fromkeys(fault.file for fault in reading.faults))
    if not files:
        return ""
    more = f" (+{len(files) - 1} more)" if len(files) > 1 else ""
    return f"file changed: {files[0]}{more}"


# ── what is no longer there ──


class Removals(NamedTuple):
    """`remove` now; `held` waits for a second look or for `source confirm`; `again`: seconds until the next look, if any."""

    remove: frozenset[str]
    held: frozenset[str] = frozenset()
    again: float | None = None


def missing(written: Iterable[str], found: Iterable[str], absent: Mapping[str, float], now: float) -> dict[str, float]:
    """After a complete reading: each id that is written but was not found → since when no complete reading had it."""
    return {id: absent.get(id, now) for id in set(written).difference(found)}


def removals(absent: Mapping[str, float], tasks: int, confirmed: frozenset[str], now: float) -> Removals:
    """Which of the missing are to be removed, of `tasks` that are written. `confirmed`: a person agreed to lose these."""
    much = loses_too_much(len(absent), tasks)
    waits = {id: TWICE if id in confirmed or not much else HELD for id in absent}
    remove = frozenset(id for id, since in absent.items() if now - since >= waits[id])
    left = [since + waits[id] - now for id, since in absent.items() if id not in remove]
    held = frozenset(id for id in absent if id not in remove and waits[id] == HELD)
    return Removals(remove, held, min(left, default=None))


# ── the source ──


class View(NamedTuple):
    """What is known of a source after some step. `problem`: why it cannot be read whole; (reason, message).

    `unreachable`: why a repository cannot be asked for news. `vector`: as in Resolution; `notes`: what its commits hold
    that is not supported.
    """

    read: bool  # completely, since this controller started
    tasks: int
    problem: tuple[str, str] | None = None
    held: int = 0
    remote: str = ""
    watch_limit: bool = False
    failed: str = ""
    unreachable: tuple[str, str] | None = None
    commit: Commit | None = None
    synced_at: int = 0
    vector: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()


def status_of(view: View) -> Status:
    if view.problem is not None:
        return "stale" if view.tasks else "unavailable"
    if view.unreachable is not None:
        return "stale" if view.tasks or view.read else "unavailable"
    if not view.read:
        return "pending"
    return "held" if view.held else "ok"


def source_now(present: Source, view: View, now: int) -> Source:
    """The Source as it should be written after what was seen. `now` in ms."""
    status = status_of(view)
    said = msgspec.structs.replace(
        present,
        status=status,
        tasks=view.tasks,
        read_at=now if status == "ok" and present.status != "ok" else present.read_at,
        revision=view.commit.id if view.commit is not None else "",
        commit=view.commit,
        resolutions=_resolutions(present, view, now),
        conditions=carried(present.conditions, _source_conditions(present, view), 0, now),
    )
    return said if said == present else synced(said, view.synced_at) or said  # that alone is no news: it is written for all sources together


def synced(present: Source, at: int) -> Source | None:
    """The Source with the moment of its last sync, in ms; None when that is written. Of 0, none since the start, the one before stays."""
    return msgspec.structs.replace(present, synced_at=at) if at not in (0, present.synced_at) else None


def _resolutions(present: Source, view: View, now: int) -> tuple[Resolution, ...]:
    """With what it is made of now in front, when that is another vector of commits than before: none, where a working copy is read instead."""
    newest = present.resolutions[0].revisions if present.resolutions else {}
    if newest == dict(view.vector) or not (view.vector or view.read):
        return present.resolutions
    return (Resolution(now, dict(view.vector)), *present.resolutions)[:RESOLUTIONS]


def _source_conditions(present: Source, view: View) -> Iterable[Condition]:
    if view.problem is not None:
        reason, message = view.problem
        yield Condition("Readable", False, reason, speakable(message))
    if view.unreachable is not None:
        yield Condition("Reachable", False, *view.unreachable)
    if view.notes:
        yield Condition("NotSupported", True, "GitFeature", f"{' and '.join(view.notes)}: not read; what needs them carries its own fault")
    if view.held:
        words = (
            f"{view.held} of {view.tasks} tasks are gone: they stay until that was seen twice 60 s apart, or `dicode source confirm {present.name}`"
        )
        yield Condition("Held", True, "MassRemoval", words)
    if view.remote:
        yield Condition("Polled", True, "NoEvents", f"changes on {view.remote} cannot be heard of: it is looked at every few seconds")
    if view.watch_limit:
        yield Condition(
            "WatchLimit", True, "NoSpace", "too few inotify watches: raise fs.inotify.max_user_watches; it is looked at every few seconds"
        )
    if view.failed:
        yield Condition("BundlesWritten", False, "WriteFailed", view.failed)


def every(rescan: float, polled: bool, took: float) -> float:
    """Seconds from the end of one round to the next."""
    return min(rescan, max(POLL_AT_LEAST, POLL_SHARE * took)) if polled else max(rescan, took)


# ── which sources there are ──


class Wanted(NamedTuple):
    spec: ConfigSource
    origin: Literal["file", "store", "up"]
    order: int


def wanted_sources(written: Iterable[ConfigSource], present: Iterable[Source], up: Iterable[str]) -> dict[str, Wanted]:
    """All sources by name: those of dicode.yaml in their order, those added to the store, those of `dicode up PATH`."""
    wanted: dict[str, Wanted] = {}
    for spec in written:
        wanted[spec.name] = Wanted(spec, "file", len(wanted))
    for source in sorted(present, key=lambda source: source.order):
        if source.origin == "store" and source.name not in wanted:
            wanted[source.name] = Wanted(source.spec, "store", len(wanted))
    for path in up:
        if all(each.spec.path != path for each in wanted.values()):
            name = free_name(path, wanted)
            wanted[name] = Wanted(ConfigSource(name=name, path=path), "up", len(wanted))
    return wanted


def free_name(path: str, taken: Iterable[str]) -> str:
    """The last part of the path, made a name that nobody has."""
    base = default_name(path)
    base = base if is_segment(base) else "up"
    names = {base, *(f"{base[:60]}-{number}" for number in range(2, len(list(taken)) + 3))}
    return min(names - set(taken), key=lambda name: (len(name), name))


def source_of(wanted: Wanted, present: Source | None, epoch: str) -> Source:
    """The Source at the start, or when its entry changed: what a person asked of it stays, what was seen of it is open.

    A suspended one is not read, so nobody must wait for it.
    """
    before = present or Source(name=wanted.spec.name, spec=wanted.spec)
    frozen: Status = "stale" if before.tasks else "unavailable"
    return msgspec.structs.replace(
        before,
        synced_at=before.synced_at if before.spec.url == wanted.spec.url else 0,
        type=wanted.spec.type,
        spec=wanted.spec,
        origin=wanted.origin,
        order=wanted.order,
        status=frozen if before.suspended else "pending",
        epoch=epoch,
    )
