"""Task folders on disk: finding them, reading one whole, and looking at what a ref leads to. Everything here blocks.

Nothing is followed and nothing is trusted: folders and files are opened one name at a time from the folder above
(O_NOFOLLOW, O_NONBLOCK), only plain files are read, and the limits of SPEC 9 are checked on the way.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from dicode.messages.fault import Fault
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
from dicode.spec.trees import Look, NothingSeen, SetSeen, TaskSeen, Want
from dicode.spec.yaml import CONFIG, TOP

TASK_FILE = "task.yaml"
SET_FILE = "taskset.yaml"
MAX_LINKS = 40  # on the way to one file, as Linux has it
MAX_IGNORE_FILE = 64 * 1024
FIND_DEPTH = 64  # folders; an id holds 16 segments, so what lies deeper could only be an error
READ_AGAIN = 3  # times, of a file that changes while it is read
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

OnError = Callable[[OSError], None]


class Found(NamedTuple):
    """A task folder. `ignores` are the rules that hold in it, before its own ignore files."""

    id: str
    dir: str
    ignores: Ignores


def find_tasks(root: str | os.PathLike[str], on_error: OnError, *, ignores: Ignores | None = None) -> Iterator[Found]:
    """The task folders below `root`, at any depth, by path; inside a task folder nothing else is a task.

    The id is the path below the root; a root that is a task folder itself gives one task, called like the folder.
    `on_error` hears of every folder that could not be read: then the finding is not complete, and nothing may be
    taken for removed. Raises OSError when the root itself cannot be read.
    """
    top = os.path.abspath(root)
    waiting: list[tuple[str, str, Ignores, int]] = [("", top, ignores or Ignores(), 0)]
    while waiting:
        id, dir, rules, depth = waiting.pop()
        try:
            folders, files = _names(dir)
        except OSError as error:
            if not id:
                raise
            on_error(error)
            continue
        if TASK_FILE in files or TASK_FILE in folders:
            yield Found(id or os.path.basename(top), dir, rules)
            continue
        if depth == FIND_DEPTH:
            continue
        for name in IGNORE_FILES:
            if name in files:
                rules = _with_ignore_file(rules, os.path.join(dir, name))
        for name in sorted(folders, reverse=True):
            if not rules.ignored(name, True):
                waiting.append((f"{id}/{name}" if id else name, f"{dir}/{name}", rules.below(name), depth + 1))


def _names(dir: str) -> tuple[list[str], set[str]]:
    """The folders in a folder, and everything else."""
    folders, files = [], set()
    with os.scandir(dir) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                files.add(entry.name)
    return folders, files


def _with_ignore_file(rules: Ignores, path: str) -> Ignores:
    try:
        fd = os.open(path, _FILE)
    except OSError:  # gone since, a link, unreadable: then it says nothing
        return rules
    try:
        return _with_ignores_of(rules, fd)
    finally:
        os.close(fd)


def _with_ignores_of(rules: Ignores, fd: int) -> Ignores:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return rules
    return rules.with_file(os.read(fd, MAX_IGNORE_FILE).decode(errors="surrogateescape"))


def ignores_for(dir: str | os.PathLike[str], root: str | os.PathLike[str]) -> Ignores:
    """The rules that hold in `dir` by the ignore files of the folders from `root` down to the one above it."""
    top, bottom = os.path.abspath(root), os.path.abspath(dir)
    steps = os.path.relpath(bottom, top).split("/") if bottom != top else []
    if ".." in steps:
        return Ignores()
    rules, place = Ignores(), top
    for step in steps:
        for name in IGNORE_FILES:
            rules = _with_ignore_file(rules, f"{place}/{name}")
        rules, place = rules.below(step), f"{place}/{step}"
    return rules


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
        self._faults: list[Fault] = []

    def whole(self) -> Folder:
        try:
            self._walk()
        except OSError as error:
            return Folder(self._dir, (), (Fault(self._dir, 1, 1, error.strerror or "cannot be read"),))
        for base, links in self._links.items():
            for path, message in bad_links(links).items():
                self._fault(base + path, message)
        return Folder(self._dir, tuple(self._taken), tuple(self._faults), tuple(self._moved))

    def _walk(self) -> None:
        """Raises OSError when the folder cannot be opened."""
        try:
            fd = os.open(self._dir, _FOLDER if self._dir != self._root else _FOLDER & ~os.O_NOFOLLOW)  # only a root may be a link
            try:
                asked = self._asked or wanted(self._task_yaml(fd))
                rules = _own_rules(self._ignores, fd)
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
                    self._fault(ascii(name)[1:-1], wrong)

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
        self._fault(TASK_FILE, f"{TASK_FILE} is {_called(mode)}: it must be a plain file")
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
                    self._fault(f"{path}{ascii(name)[1:-1]}", wrong)
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
            inner = os.open(name, _FOLDER, dir_fd=fd)
        except OSError as error:
            self._failed(path[:-1], error)
            return
        try:
            self._folder(inner, path, _own_rules(rules, inner), depth + 1)
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
                rules = _own_rules(rules, fds[-1]).below(step)
                fds.append(os.open(step, _FOLDER, dir_fd=fds[-1]))
            rules = _own_rules(rules, fds[-1]).below(steps[-1])
            mode = os.stat(steps[-1], dir_fd=fds[-1], follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                fds.append(os.open(steps[-1], _FOLDER, dir_fd=fds[-1]))
                self._base = f"{path}/"
                self._folder(fds[-1], self._base, _own_rules(rules, fds[-1]), 1)
            elif stat.S_ISLNK(mode):
                return "is a link: name the file it leads to"
            else:
                self._count(fds[-1], steps[-1], path, None)
        except NotADirectoryError:
            return "leads through a link or a file"
        except OSError as error:
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
                self._fault(path, f"{path} is {_called(mode)}: only files, folders and links can belong to a task")
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
        file = os.open(name, _FILE, dir_fd=fd)
        try:
            for _ in range(READ_AGAIN):
                before = os.fstat(file)
                if not stat.S_ISREG(before.st_mode):
                    self._fault(path, f"{path} is {_called(before.st_mode)}: only files, folders and links can belong to a task")
                    return
                if before.st_nlink > 1 and before.st_uid not in self._owners:
                    self._fault(path, f"{path} is a hard link to a file of another user: copy it")
                    return
                if self._bytes + before.st_size > MAX_BYTES:
                    self._over(TOO_MANY_BYTES)
                content = _read(file, before.st_size)
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
        self._fault(path, f"{path}: {error.strerror}")

    def _over(self, message: str) -> None:
        self._faults.append(Fault(self._dir, 1, 1, message))
        raise _Stop


# ── what a ref leads to ──


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
    file = os.open(name, _FILE, dir_fd=way.fd)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            return NothingSeen(f"{name} is {_called(found.st_mode)}: it must be a file")
        if found.st_nlink > 1 and found.st_uid not in (os.fstat(way.fd).st_uid, os.geteuid()):
            return NothingSeen(f"{name} is a hard link to a file of another user: copy it")
        return SetSeen(f"{way.folder}/{name}" if way.folder else name, _read(file, min(found.st_size, CONFIG.bytes)))
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
                self._fds.append(os.open(step, _FOLDER, dir_fd=self.fd))
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


def work_tree(folder: str) -> str:
    """The git work tree around `folder`, else the folder itself: what includes and refs may not leave."""
    place = folder
    while not os.path.lexists(f"{place}/.git"):
        above = os.path.dirname(place)
        if above == place:
            return folder
        place = above
    return place


def _own_rules(rules: Ignores, fd: int) -> Ignores:
    """With the ignore files of the folder that is open as `fd`."""
    for name in IGNORE_FILES:
        try:
            file = os.open(name, _FILE, dir_fd=fd)
        except OSError:
            continue
        try:
            rules = _with_ignores_of(rules, file)
        finally:
            os.close(file)
    return rules


def _read(fd: int, size: int) -> bytes:
    """As many bytes as `fstat` promised; one more is asked for, to see a file that grew."""
    content = os.read(fd, size + 1)
    while len(content) < size:
        more = os.read(fd, size + 1 - len(content))
        if not more:
            break
        content += more
    return content


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode


def _called(mode: int) -> str:
    """What kind of thing it is, for a message."""
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISLNK(mode):
        return "a link"
    if stat.S_ISFIFO(mode):
        return "a fifo"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
