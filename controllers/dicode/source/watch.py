"""Ears on directories: says which names were touched, never what happened to them.

Uses watchdog's lower layer, because its upper one drops what an overflow swallowed, delays every rename by half a
second to pair it, wakes us for our own reading, and watches what nobody asked for (RELIABILITY W1-W9). One watch per
directory that someone owns; the inotify thread only marks names and hands them over, coalesced.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from watchdog.events import EVENT_TYPE_CLOSED_NO_WRITE, EVENT_TYPE_OPENED, FileSystemEvent, FileSystemEventHandler

from dicode.process.clock import wall
from dicode.source.state import Touched

MAX_TOUCHED = 10_000  # names per owner between two hand-overs; more than that means "everything"


#: Called on the loop's thread with an owner and what was touched; None: events were lost, anything may have happened.
OnTouched = Callable[[str, list[Touched] | None], None]
CallSoon = Callable[[Callable[[], None]], object]


class Watcher(Protocol):
    """What the rest of the room needs. All methods may be called from any thread."""

    limited: bool  # a watch was refused: whoever needs to know must poll

    def watch(self, folder: str, inode: int, owner: str, only: frozenset[str] | None = None) -> None:
        """Hear of every name in `folder`, or of `only` these. Watching again what is watched costs nothing. Never raises."""

    def forget(self, folder: str, owner: str) -> None:
        """This owner no longer cares for `folder` and all below it."""

    def forget_all(self, owner: str) -> None: ...

    def close(self) -> None: ...


class HandOver:
    """Collects touched names per owner on one thread, gives them over on another: at most one call under way."""

    def __init__(self, call_soon: CallSoon, on_touched: OnTouched) -> None:
        self._call_soon = call_soon
        self._on_touched = on_touched
        self._lock = threading.Lock()
        self._touched: dict[str, dict[tuple[str, str], Touched] | None] = {}

    def add(self, owner: str, touched: Touched) -> None:
        with self._lock:
            idle = not self._touched
            names = self._touched.setdefault(owner, {})
            if names is not None:
                key = (touched.folder, touched.name)
                known = names.get(key)
                names[key] = touched if known is None else touched._replace(at=known.at, directory=known.directory or touched.directory)
                if len(names) > MAX_TOUCHED:
                    self._touched[owner] = None
        if idle:
            self._wake()

    def lose(self, owners: set[str]) -> None:
        """Events were lost: anything of these owners may have changed."""
        with self._lock:
            idle = not self._touched
            self._touched.update(dict.fromkeys(owners, None))
        if idle and owners:
            self._wake()

    def _wake(self) -> None:
        try:
            self._call_soon(self._deliver)
        except RuntimeError:
            self._touched.clear()  # the loop is closed: this role is going down

    def _deliver(self) -> None:
        with self._lock:
            touched, self._touched = self._touched, {}
        for owner, names in touched.items():
            self._on_touched(owner, None if names is None else list(names.values()))


if sys.platform == "linux":
    from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask, WatchDescriptor

    MASK = Mask(
        InotifyConstants.IN_MODIFY
        | InotifyConstants.IN_ATTRIB
        | InotifyConstants.IN_CLOSE_WRITE
        | InotifyConstants.IN_MOVED_FROM
        | InotifyConstants.IN_MOVED_TO
        | InotifyConstants.IN_CREATE
        | InotifyConstants.IN_DELETE
        | InotifyConstants.IN_DELETE_SELF
        | InotifyConstants.IN_MOVE_SELF
        | InotifyConstants.IN_ONLYDIR
        | InotifyConstants.IN_DONT_FOLLOW
    )
    GONE = InotifyConstants.IN_DELETE | InotifyConstants.IN_MOVED_FROM
    SELF_GONE = InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_MOVE_SELF | InotifyConstants.IN_UNMOUNT
    WRITING = InotifyConstants.IN_MODIFY | InotifyConstants.IN_CREATE

    @dataclass
    class _Watched:
        handle: tuple[WatchDescriptor, CallbackId]
        inode: int
        owners: dict[str, frozenset[str] | None]  # owner → names it cares for, None: all

    class InotifyWatcher:
        """One inotify instance for all owners, with our own tree of what is watched where."""

        def __init__(self, call_soon: CallSoon, on_touched: OnTouched) -> None:
            self.limited = False
            self._over = HandOver(call_soon, on_touched)
            self._lock = threading.Lock()
            self._watched: dict[str, _Watched] = {}
            self._below: dict[str, set[str]] = {}  # folder → watched folders directly in it
            self._folder: dict[int, str] = {}
            self._numbers = itertools.count()
            self._inotify = InotifyFD()
            self._inotify.start()

        def watch(self, folder: str, inode: int, owner: str, only: frozenset[str] | None = None) -> None:
            with self._lock:
                known = self._watched.get(folder)
                if known is None or known.inode != inode:
                    known = self._add(folder, inode, known)
                    if known is None:
                        return
                if only is not None and owner in known.owners:
                    mine = known.owners[owner]
                    only = None if mine is None else mine | only
                known.owners[owner] = only

        def _add(self, folder: str, inode: int, before: _Watched | None) -> _Watched | None:
            if before is not None:  # another folder has this name now
                self._drop(folder)
                self._inotify.remove_callbacks([before.handle])
            callback = CallbackId(next(self._numbers))
            try:
                wd = self._inotify.add_callback(os.fsencode(folder), MASK, self, callback)
            except OSError as error:
                self.limited = self.limited or error.errno == errno.ENOSPC
                return None  # else it is gone again, or no folder: whoever lists it will see
            if wd == -1:  # what watchdog makes of EACCES
                self._inotify.remove_callbacks([(wd, callback)])
                return None
            elsewhere = self._folder.get(wd)
            if elsewhere is not None:  # this folder under the name it had before it was moved
                stale = self._watched[elsewhere].handle
                self._drop(elsewhere)
                self._inotify.remove_callbacks([stale])
            watched = _Watched((wd, callback), inode, before.owners if before else {})
            self._watched[folder] = watched
            self._folder[wd] = folder
            self._below.setdefault(os.path.dirname(folder), set()).add(folder)
            return watched

        def forget(self, folder: str, owner: str) -> None:
            with self._lock:
                leaving = [folder]
                for each in leaving:  # grows while we walk
                    leaving.extend(self._below.get(each, ()))
                self._inotify.remove_callbacks([callback for each in leaving for callback in self._release(each, owner)])

        def _release(self, folder: str, owner: str) -> list[tuple[WatchDescriptor, CallbackId]]:
            watched = self._watched.get(folder)
            if watched is None or owner not in watched.owners:
                return []
            del watched.owners[owner]
            if watched.owners:
                return []
            self._drop(folder)
            return [watched.handle]

        def _drop(self, folder: str) -> None:
            del self._folder[self._watched.pop(folder).handle[0]]
            siblings = self._below[os.path.dirname(folder)]
            siblings.discard(folder)
            if not siblings:
                del self._below[os.path.dirname(folder)]

        def forget_all(self, owner: str) -> None:
            with self._lock:
                mine = [folder for folder, watched in self._watched.items() if owner in watched.owners]
                self._inotify.remove_callbacks([callback for each in mine for callback in self._release(each, owner)])

        def folders(self, owner: str) -> set[str]:
            """What this owner hears of."""
            with self._lock:
                return {folder for folder, watched in self._watched.items() if owner in watched.owners}

        def close(self) -> None:
            self._inotify.stop()
            self._inotify.join(timeout=2)

        def on_event(self, event: InotifyEvent) -> None:
            with self._lock:
                folder = self._folder.get(event.wd)
                owners = list(self._watched[folder].owners.items()) if folder is not None else []
            if folder is None:
                return
            name = os.fsdecode(event.name)
            mask = event.mask
            touched = Touched(
                folder,
                "" if mask & SELF_GONE else name,
                wall(),
                directory=bool(mask & InotifyConstants.IN_ISDIR),
                writing=bool(mask & WRITING) and not mask & InotifyConstants.IN_ISDIR,
                gone=bool(mask & (GONE | SELF_GONE)),
            )
            for owner, only in owners:
                if only is None or name in only:
                    self._over.add(owner, touched)

        def on_watch_deleted(self, wd: WatchDescriptor) -> None:
            with self._lock:
                folder = self._folder.get(wd)
                if folder is not None:
                    self._drop(folder)

        def on_queue_overflow(self) -> None:
            with self._lock:
                owners = {owner for watched in self._watched.values() for owner in watched.owners}
            self._over.lose(owners)


class ObserverWatcher:
    """For systems without inotify: watchdog's own observer, as a marker of dirt only."""

    def __init__(self, call_soon: CallSoon, on_touched: OnTouched) -> None:
        from watchdog.observers import Observer

        self.limited = False
        self._over = HandOver(call_soon, on_touched)
        self._lock = threading.Lock()
        self._owners: dict[str, dict[str, frozenset[str] | None]] = {}
        self._observer = Observer()
        self._observer.start()

    def watch(self, folder: str, inode: int, owner: str, only: frozenset[str] | None = None) -> None:
        with self._lock:
            owners = self._owners.setdefault(folder, {})
            if not owners:
                try:
                    self._observer.schedule(_Marker(self._touch), folder, recursive=False)
                except OSError:
                    self.limited = True
            owners[owner] = only if owner not in owners else None

    def forget(self, folder: str, owner: str) -> None:
        with self._lock:
            for each in [each for each in self._owners if each == folder or each.startswith(folder + os.sep)]:
                self._owners[each].pop(owner, None)

    def forget_all(self, owner: str) -> None:
        with self._lock:
            for owners in self._owners.values():
                owners.pop(owner, None)

    def close(self) -> None:
        self._observer.stop()
        self._observer.join(timeout=2)

    def _touch(self, path: str, directory: bool) -> None:
        folder, name = os.path.split(path)
        with self._lock:
            owners = list(self._owners.get(folder, {}).items())
        for owner, only in owners:
            if only is None or name in only:
                self._over.add(owner, Touched(folder, name, wall(), directory))


class _Marker(FileSystemEventHandler):
    def __init__(self, touch: Callable[[str, bool], None]) -> None:
        self._touch = touch

    def dispatch(self, event: FileSystemEvent) -> None:
        if event.event_type in (EVENT_TYPE_OPENED, EVENT_TYPE_CLOSED_NO_WRITE):
            return  # our own reading
        for path in (event.src_path, event.dest_path):
            if path:
                self._touch(os.fsdecode(path), event.is_directory)


def open_watcher(call_soon: CallSoon, on_touched: OnTouched) -> Watcher:
    """The best ears this system has. Raises OSError when the limit of inotify instances is reached."""
    if sys.platform == "linux":
        return InotifyWatcher(call_soon, on_touched)
    return ObserverWatcher(call_soon, on_touched)


#: Filesystems that change behind the kernel's back: nothing is heard of what other machines write (W4).
REMOTE = ("nfs", "fuse", "9p", "virtiofs", "cifs", "smb", "ceph", "afs", "vboxsf", "drvfs")


def remote_type(folder: str, mountinfo: str = "/proc/self/mountinfo") -> str:
    """The type of the filesystem `folder` is on, if it must be polled, else "" (also where nobody can tell)."""
    try:
        device = os.stat(folder).st_dev
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
            return remote_device(lines, f"{os.major(device)}:{os.minor(device)}")
    except OSError:
        return ""


def remote_device(mountinfo: Iterable[str], device: str) -> str:
    """The same for a `major:minor`, from the lines of proc(5) mountinfo."""
    for line in mountinfo:
        mount, _, filesystem = line.partition(" - ")
        if mount.split(" ")[2:3] == [device]:
            name = filesystem.split(" ")[0]
            return name if name.startswith(REMOTE) else ""
    return ""
