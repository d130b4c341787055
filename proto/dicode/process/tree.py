"""Reading a task folder on disk whole. Everything here blocks.

Nothing is followed and nothing is trusted: folders and files are opened one name at a time from the folder above
(O_NOFOLLOW, O_NONBLOCK), only plain files are read, and the limits of SPEC 9 are checked on the way. `finding` says why a
source looks at the same folders in another way.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Sequence

from dicode.messages.fault import Fault
from dicode.process.finding import TASK_FILE, ignores_for, with_ignore_files
from dicode.process.opening import FILE, FOLDER, called, read_whole
from dicode.spec.folder import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_FILES,
    TOO_DEEP,
    TOO_MANY_BYTES,
    TOO_MANY_FILES,
    Folder,
    FolderFile,
    Wanted,
    bad_links,
    bad_name,
    own_names,
    wanted,
)
from dicode.spec.ignore import IGNORE_FILES, Ignores
from dicode.spec.names import speakable
from dicode.spec.trees import Want
from dicode.spec.yaml import TOP

READ_AGAIN = 3  # times, of a file that changes while it is read


def read_folder(dir: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None, ignores: Ignores | None = None) -> Folder:
    """All that belongs to the task in `dir`. What is wrong comes back as faults, never as an exception.

    `root` is what includes may not leave (default: the folder itself); `ignores` as `find_tasks` gives it, else it
    is read from the root down.
    """
    return _Reading(os.path.abspath(dir), os.path.abspath(root if root is not None else dir), ignores).whole()


def read_inline(
    dir: str | os.PathLike[str],
    key: str,
    *,
    root: str | os.PathLike[str],
    include: Sequence[str] = (),
    ignore: Sequence[str] = (),
    ignores: Ignores | None = None,
) -> Folder:
    """The files of the inline task `key` of the set in `dir`: `KEY.*`, or where there are none `task.*`, and `include`.

    What is wrong with an include is said as `include PATH: …`; who knows the set puts it in its place.
    """
    asked = Wanted(tuple((written, TOP) for written in include), tuple(ignore))
    return _Reading(os.path.abspath(dir), os.path.abspath(root), ignores, key, asked).whole()


def read_wanted(root: str | os.PathLike[str], want: Want, ignores: Ignores | None = None) -> Folder:
    """The folder of a task, or the part of one that is an inline task's."""
    dir = os.path.join(root, want.path) if want.path else os.fspath(root)
    if not want.key:
        return read_folder(dir, root=root, ignores=ignores)
    return read_inline(dir, want.key, root=root, include=want.include, ignore=want.ignore, ignores=ignores)


class _Stop(Exception):
    """The folder is over a limit: no use in going on."""


class _Reading:
    """One pass over a task folder and its includes. Of a folder that holds the inline task `key` only its files are taken."""

    def __init__(self, dir: str, root: str, ignores: Ignores | None, key: str = "", asked: Wanted | None = None) -> None:
        self._dir = dir
        self._root = root
        self._key = key
        self._asked = asked
        self._ignores = ignores_for(dir, root) if ignores is None else ignores
        self._owners = (-1, -1)  # whose files may be hard links: of the folder, and our own
        self._base = ""  # what links may not leave: the task folder, or the include that is being read
        self._seen: set[str] = set()  # paths taken: an include may name what is in the folder anyway
        self._files = 0
        self._folders = 0
        self._bytes = 0
        self._taken: list[FolderFile] = []
        self._links: dict[str, dict[str, str]] = {}  # base → path below it → target
        self._moved: list[str] = []
        self._unread = False
        self._faults: list[Fault] = []

    def whole(self) -> Folder:
        try:
            self._walk()
        except OSError as error:
            return Folder(self._dir, (), (Fault(self._dir, 1, 1, error.strerror or "cannot be read"),), unread=True)
        for base, links in self._links.items():
            for path, message in bad_links(links).items():
                self._fault(base + path, message)
        return Folder(self._dir, tuple(self._taken), tuple(self._faults), tuple(self._moved), self._unread)

    def _walk(self) -> None:
        """Raises OSError when the folder cannot be opened."""
        try:
            fd = os.open(self._dir, FOLDER if self._dir != self._root else FOLDER & ~os.O_NOFOLLOW)  # only a root may be a link
            try:
                asked = self._asked or wanted(self._task_yaml(fd))
                rules = with_ignore_files(self._ignores, fd)
                rules = rules.with_patterns(asked.ignore) if asked.ignore else rules
                if self._key:
                    self._own_files(fd, rules)
                else:
                    self._folder(fd, "", rules, 1)
            finally:
                os.close(fd)
            self._includes(asked)
        except _Stop:
            pass

    def _own_files(self, fd: int, rules: Ignores) -> None:
        """Those of the inline task; folders are never among them."""
        self._owners = (os.fstat(fd).st_uid, os.geteuid())
        with os.scandir(fd) as entries:
            found = {entry.name: entry for entry in entries if not rules.ignored(entry.name, False) and not entry.is_dir(follow_symlinks=False)}
            for name in own_names(found, self._key):
                wrong = bad_name(name)
                if wrong is None:
                    self._count(fd, name, name, found[name])
                else:
                    self._fault(speakable(name), wrong)

    def _task_yaml(self, fd: int) -> bytes:
        self._owners = (os.fstat(fd).st_uid, os.geteuid())
        try:
            mode = os.stat(TASK_FILE, dir_fd=fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return b""
        if stat.S_ISREG(mode):
            self._count(fd, TASK_FILE, TASK_FILE, None)
            return self._taken[0].content if self._taken else b""
        self._seen.add(TASK_FILE)
        self._fault(TASK_FILE, f"{TASK_FILE} is {called(mode)}: it must be a plain file")
        return b""

    def _folder(self, fd: int, path: str, rules: Ignores, depth: int) -> None:
        """Everything in one folder; `rules` with those of its own ignore files. Recursion ends at MAX_DEPTH."""
        self._folders += 1
        if self._folders > MAX_FILES:
            self._over(TOO_MANY_FILES)
        below = []
        with os.scandir(fd) as entries:
            for entry in entries:
                name = entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if rules.ignored(name, is_folder) and not (path == "" and name in IGNORE_FILES):
                    continue
                wrong = bad_name(name)
                if wrong is not None:
                    self._fault(f"{path}{speakable(name)}", wrong)
                elif is_folder:
                    below.append(name)
                else:
                    self._count(fd, name, path + name, entry)
        for name in below:
            self._below(fd, name, f"{path}{name}/", rules.below(name), depth)

    def _below(self, fd: int, name: str, path: str, rules: Ignores, depth: int) -> None:
        if depth == MAX_DEPTH:
            self._fault(path[:-1], TOO_DEEP)
            raise _Stop
        try:
            inner = os.open(name, FOLDER, dir_fd=fd)
        except OSError as error:
            self._failed(path[:-1], error)
            return
        try:
            self._folder(inner, path, with_ignore_files(rules, inner), depth + 1)
        except OSError as error:
            self._failed(path[:-1], error)
        finally:
            os.close(inner)

    def _count(self, fd: int, name: str, path: str, entry: os.DirEntry[str] | None) -> None:
        if path in self._seen:
            return
        self._seen.add(path)
        self._files += 1
        if self._files > MAX_FILES:
            self._over(TOO_MANY_FILES)
        self._take(fd, name, path, entry)

    def _includes(self, asked: Wanted) -> None:
        for written, place in asked.include:
            wrong = self._include(written)
            if wrong is not None:
                self._faults.append(Fault(f"{self._dir}/{TASK_FILE}", place.line, place.column, f"include {written}: {wrong}"))

    def _include(self, written: str) -> str | None:
        """Take an include; what is wrong with it, if anything. Opened name by name from the root, so no link leads out."""
        target = posixpath.normpath(posixpath.join(self._dir, written))
        if not f"{target}/".startswith(f"{self._root}/".replace("//", "/")) or written.startswith("/"):
            return f"leaves the root {self._root}"
        if f"{self._dir}/".startswith(f"{target}/"):
            return "holds the task's own folder"
        path = posixpath.relpath(target, self._dir)
        steps = posixpath.relpath(target, self._root).split("/")
        fds = [os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        try:
            rules = Ignores()
            for step in steps[:-1]:
                rules = with_ignore_files(rules, fds[-1]).below(step)
                fds.append(os.open(step, FOLDER, dir_fd=fds[-1]))
            rules = with_ignore_files(rules, fds[-1]).below(steps[-1])
            mode = os.stat(steps[-1], dir_fd=fds[-1], follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                fds.append(os.open(steps[-1], FOLDER, dir_fd=fds[-1]))
                self._base = f"{path}/"
                self._folder(fds[-1], self._base, with_ignore_files(rules, fds[-1]), 1)
            elif stat.S_ISLNK(mode):
                return "is a link: name the file it leads to"
            else:
                self._count(fds[-1], steps[-1], path, None)
        except NotADirectoryError:
            return "leads through a link or a file"
        except OSError as error:
            self._unread = not isinstance(error, FileNotFoundError) or self._unread
            return error.strerror or "cannot be read"
        finally:
            for fd in fds:
                os.close(fd)
        return None

    def _take(self, fd: int, name: str, path: str, entry: os.DirEntry[str] | None) -> None:
        try:
            if entry is not None and entry.is_symlink():
                self._take_link(fd, name, path)
            elif entry is not None and not entry.is_file(follow_symlinks=False):
                mode = entry.stat(follow_symlinks=False).st_mode
                self._fault(path, f"{path} is {called(mode)}: only files, folders and links can belong to a task")
            else:
                self._take_file(fd, name, path)
        except FileNotFoundError:
            self._moved.append(path)  # gone between listing and reading
        except OSError as error:
            self._failed(path, error)

    def _take_link(self, fd: int, name: str, path: str) -> None:
        target = os.readlink(name, dir_fd=fd)
        self._links.setdefault(self._base, {})[path[len(self._base) :]] = target
        self._taken.append(FolderFile(path, "l", os.fsencode(target)))

    def _take_file(self, fd: int, name: str, path: str) -> None:
        file = os.open(name, FILE, dir_fd=fd)
        try:
            for _ in range(READ_AGAIN):
                before = os.fstat(file)
                if not stat.S_ISREG(before.st_mode):
                    self._fault(path, f"{path} is {called(before.st_mode)}: only files, folders and links can belong to a task")
                    return
                if before.st_nlink > 1 and before.st_uid not in self._owners:
                    self._fault(path, f"{path} is a hard link to a file of another user: copy it")
                    return
                if self._bytes + before.st_size > MAX_BYTES:
                    self._over(TOO_MANY_BYTES)
                content = read_whole(file, before.st_size)
                after = os.fstat(file)
                if _state(before) == _state(after) and len(content) == before.st_size:
                    break
                os.lseek(file, 0, os.SEEK_SET)
            else:
                self._moved.append(path)
        finally:
            os.close(file)
        self._bytes += len(content)
        self._taken.append(FolderFile(path, "x" if before.st_mode & 0o100 else "-", content))

    def _fault(self, path: str, message: str) -> None:
        self._faults.append(Fault(f"{self._dir}/{path}", 1, 1, message))

    def _failed(self, path: str, error: OSError) -> None:
        self._unread = True
        self._fault(path, f"{path}: {error.strerror}")

    def _over(self, message: str) -> None:
        self._faults.append(Fault(self._dir, 1, 1, message))
        raise _Stop


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode
