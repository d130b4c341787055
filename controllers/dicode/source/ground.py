"""Where a local source stands on this disk: its root, the way to it, and whether git is at work there. Everything here blocks."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from dicode.messages.kinds import ConfigSource
from dicode.process.clock import mono, wall
from dicode.process.finding import SET_FILE
from dicode.source.snapshot import Root, find_root, index_lock, way_to
from dicode.source.state import ALL, Dirt, Touched
from dicode.source.tools import LOCK_WAIT, Tools, new_cause
from dicode.source.watch import remote_type
from dicode.source.work import Problem


class Beginning(NamedTuple):
    """The root as it is found when a round begins, or why there is none.

    `entry`: the TaskSet file that was named, or the root itself. `composed`: what stands there is a TaskSet.
    `remote`: the filesystem, if it must be polled.
    """

    root: Root | None
    entry: str = ""
    composed: bool = False
    problem: Problem | None = None
    remote: str = ""


@dataclass
class Ground:
    """One source's place. `way`: links and folders that lead to the root; a touch of one means everything."""

    spec: ConfigSource
    tools: Tools
    way: frozenset[str] = frozenset()
    _lock: str = ""
    _lock_since: float | None = None

    def find(self) -> Beginning:
        """Look for the root, and hear when it, or a link that leads to it, is replaced."""
        self.way = frozenset(way_to(self.spec.path))
        self.listen()
        found = self._find()
        self._lock = index_lock(found.root.reach) if found.root is not None else ""
        return found

    def _find(self) -> Beginning:
        path = self.spec.path
        try:
            entry = os.path.realpath(path, strict=True)
            is_file = os.path.isfile(entry)
            root = find_root(os.path.dirname(entry) if is_file else entry, self.spec.root, self.tools.data_dir)
        except OSError as error:
            reason = "NotFound" if isinstance(error, FileNotFoundError) else "Unreadable"
            return Beginning(None, problem=(reason, f"{path}: {error.strerror}"))
        composed = is_file or os.path.lexists(f"{entry}/{SET_FILE}")
        if composed and posixpath.commonpath((entry, root.reach)) != root.reach:
            return Beginning(None, problem=("OutsideRoot", f"{path} lies outside its root {root.reach}"))
        return Beginning(root, entry, composed, None, remote_type(root.path))

    def stands_on(self, root: Root) -> bool:
        """Is the root still this one?"""
        try:
            found = os.stat(root.path)
            entry = os.path.realpath(self.spec.path, strict=True)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (root.device, root.inode) and root.path in (entry, os.path.dirname(entry))

    def hear(self, touches: list[Touched] | None, dirt: Dirt, concerned: Callable[[Touched], Collection[str]]) -> None:
        """Something happened on disk; None: anything may have. `concerned`: the keys of `dirt` that a touch makes dirty."""
        now, cause = mono(), new_cause()
        if touches is None:
            dirt.touch(ALL, now, wall(), cause)
        for each in touches or ():
            if each.gone and (each.directory or not each.name) and self.tools.watcher is not None:
                self.tools.watcher.forget(each.path, self.spec.name)
            for key in concerned(each):
                dirt.touch(key, now, each.at, cause, path=each.path, writing=each.writing)

    def listen(self) -> None:
        for path in self.way:
            folder, name = os.path.split(path)
            try:
                inode = os.stat(folder).st_ino
            except OSError:
                continue
            if self.tools.watcher is not None:
                self.tools.watcher.watch(folder, inode, self.spec.name, frozenset((name,)))

    def leave(self) -> None:
        """Hear of nothing any more."""
        if self.tools.watcher is not None:
            self.tools.watcher.forget_all(self.spec.name)

    def locked(self) -> bool:
        """Is a checkout under way, and has it not been for too long?"""
        if not self._lock or not os.path.exists(self._lock):
            self._lock_since = None
            return False
        self._lock_since = self._lock_since or mono()
        return mono() - self._lock_since < LOCK_WAIT

    @property
    def waits_for_git(self) -> bool:
        return self._lock_since is not None and mono() - self._lock_since < LOCK_WAIT
