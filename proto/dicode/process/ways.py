"""What a ref leads to on disk. Everything here blocks.

Links are followed by us, a name at a time, so that none leads out.
"""

from __future__ import annotations

import os
import posixpath
import stat

from dicode.process.finding import SET_FILE, TASK_FILE
from dicode.process.opening import FILE, FOLDER, called, read_whole
from dicode.spec.trees import Look, NothingSeen, SetSeen, TaskSeen
from dicode.spec.yaml import CONFIG

MAX_LINKS = 40  # on the way to one file, as Linux has it


def look(root: str | os.PathLike[str], path: str) -> Look:
    """What a ref to `path`, relative to `root`, means. Links are followed as long as they stay inside; of a file at most
    one byte more is read than a set may have.
    """
    top = os.path.realpath(root)
    try:
        with _Way(top) as way:
            return _seen(way, path)
    except _Outside:
        return NothingSeen("leads outside the root")
    except FileNotFoundError:
        return NothingSeen("there is no such file or folder")
    except NotADirectoryError:
        return NothingSeen("there is no such folder, a file is in its place")
    except OSError as error:
        return NothingSeen(f"cannot be read: {error.strerror}")


class _Outside(Exception):
    """A link leads out of the root."""


def _seen(way: _Way, path: str) -> Look:
    way.go(path)
    if way.file is None:
        if way.has(SET_FILE):
            way.go(SET_FILE)
            if way.file is None:
                return NothingSeen(f"{SET_FILE} is a folder: it must be a file")
        elif way.has(TASK_FILE):
            return TaskSeen(way.folder)
        else:
            return NothingSeen(f"there is neither a {SET_FILE} nor a {TASK_FILE} in it")
    elif way.file == TASK_FILE:
        return TaskSeen(way.folder)
    return _set_seen(way)


def _set_seen(way: _Way) -> Look:
    name = way.file or ""
    file = os.open(name, FILE, dir_fd=way.fd)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            return NothingSeen(f"{name} is {called(found.st_mode)}: it must be a file")
        if found.st_nlink > 1 and found.st_uid not in (os.fstat(way.fd).st_uid, os.geteuid()):
            return NothingSeen(f"{name} is a hard link to a file of another user: copy it")
        return SetSeen(f"{way.folder}/{name}" if way.folder else name, read_whole(file, min(found.st_size, CONFIG.bytes)))
    finally:
        os.close(file)


class _Way:
    """A way through folders, each opened by name from the one above; links are followed by us, so none leads out.

    `folder` is where it really stands, relative to the root; `file` the name in it when what was gone to is no folder.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._steps: list[str] = []
        self._fds: list[int] = []
        self.file: str | None = None

    def __enter__(self) -> _Way:
        self._fds.append(os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)

    @property
    def fd(self) -> int:
        return self._fds[-1]

    @property
    def folder(self) -> str:
        return "/".join(self._steps)

    def has(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def go(self, path: str) -> None:
        """To what stands at `path` from here. Raises _Outside, OSError."""
        todo = path.split("/")[::-1]
        links = 0
        while todo:
            step = todo.pop()
            if step in ("", "."):
                continue
            if self.file is not None:
                raise NotADirectoryError(20, "is no folder")
            if step == "..":
                self._up()
                continue
            mode = os.stat(step, dir_fd=self.fd, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                if links > MAX_LINKS:
                    raise OSError(40, "its links go round in a circle")
                todo += self._target(os.readlink(step, dir_fd=self.fd)).split("/")[::-1]
            elif stat.S_ISDIR(mode):
                self._fds.append(os.open(step, FOLDER, dir_fd=self.fd))
                self._steps.append(step)
            else:
                self.file = step

    def _up(self) -> None:
        if not self._steps:
            raise _Outside
        self._steps.pop()
        os.close(self._fds.pop())

    def _target(self, link: str) -> str:
        """Where to go for a link, from its folder, or for an absolute one from the root."""
        if not link.startswith("/"):
            return link
        inside = f"{self._root.rstrip('/')}/"
        target = posixpath.normpath(link)
        if not f"{target}/".startswith(inside):
            raise _Outside
        while self._steps:
            self._up()
        return target[len(inside) :]
