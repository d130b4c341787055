"""What a child of the fetcher answers about the files of a commit: `VERBS`.

A missing or damaged object is CacheCorrupt, so that the mirror is cloned again; if it is still missing then, the controller
asks with `mild`, and it is the fault of its task alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dicode.git import exporting, gather
from dicode.git.commits import Commit, NoFolder, differences, find, look
from dicode.git.frames import GitFault, Verb
from dicode.git.packs import Damaged, Database, Unusable
from dicode.git.questions import (
    Differ,
    Differing,
    Export,
    Files,
    FindIn,
    FoundIn,
    LookFor,
    Read,
    Seen,
    SomeRead,
    TaskRead,
    WantOf,
    heard,
    told,
)
from dicode.spec.trees import NothingSeen, SetSeen, TaskSeen, Want

PORTION = 1024**2  # bytes of content after which an answer is sent


def _look(mirror: str, asked: LookFor) -> Iterator[Seen]:
    commit = _commit(mirror, asked.files)
    for path in asked.paths:
        with _judging():
            seen = look(commit, heard(path))
        match seen:
            case SetSeen(real, content):
                yield Seen("set", told(real), content)
            case TaskSeen(real):
                yield Seen("task", told(real))
            case NothingSeen(why):
                yield Seen("nothing", told(why))


def _find(mirror: str, asked: FindIn) -> Iterator[FoundIn]:
    commit = _commit(mirror, asked.files)
    before = _commit(mirror, Files(asked.before, False)) if asked.before else None
    path = heard(asked.path)
    with _judging():
        try:
            found = find(commit, path, before)
        except NoFolder as error:
            raise GitFault("NotFound", f"{path or 'the root'}: {error}") from None
        except Unusable as error:
            raise GitFault("Unreadable", f"{path or 'the root'}: {error}") from None
    yield FoundIn([*map(told, found.tasks)], [*map(told, found.gone)], [(told(where), told(why)) for where, why in found.unreadable])


def _differ(mirror: str, asked: Differ) -> Iterator[Differing]:
    """As commits.differences; what is missing from the commit before is no damage."""
    try:
        found = differences(_commit(mirror, asked.files), _commit(mirror, Files(asked.before, False)))
    except Damaged:
        found = None
    yield Differing(None if found is None else [*map(told, found)])


def _read(mirror: str, asked: Read) -> Iterator[SomeRead]:
    commit = _commit(mirror, asked.files)
    some = SomeRead([], [])
    weight = 0
    for number, want_of in enumerate(asked.wants):
        want = _want(want_of)
        with _judging():
            read = gather.read(commit, want, asked.shown + want.path)
        if read.folder is None and not read.missing:
            some.same.append(number)
            continue
        content = None if read.folder is None else ([(file.path, file.kind, file.content) for file in read.folder.files], list(read.folder.faults))
        some.read.append(TaskRead(number, content, read.fingerprint, [*map(told, read.includes)], [*map(told, read.ignore)]))
        weight += sum(len(file.content) for file in read.folder.files) if read.folder is not None else 0
        if weight >= PORTION:
            yield some
            some, weight = SomeRead([], []), 0
    if some.same or some.read:
        yield some


def _want(asked: WantOf) -> Want:
    include, ignore, includes = (tuple(map(heard, texts)) for texts in (asked.include, asked.ignore, asked.includes))
    return Want(heard(asked.path), asked.key, include, ignore, asked.fingerprint, includes)


def _export(mirror: str, asked: Export) -> Iterator[str]:
    commit = _commit(mirror, asked.files)
    with _judging():
        made = exporting.export(commit, heard(asked.path), asked.into)
    yield made


@contextmanager
def _judging() -> Iterator[None]:
    """Damage that is met is told as such."""
    try:
        yield
    except Damaged as error:
        raise GitFault("CacheCorrupt", f"the mirror is damaged ({error}): it is fetched again") from None


VERBS = {
    "look": Verb(LookFor, _look),
    "find": Verb(FindIn, _find),
    "differ": Verb(Differ, _differ),
    "read": Verb(Read, _read),
    "export": Verb(Export, _export),
}

# ── what a child keeps open from one ask to the next ──

_databases: dict[str, Database] = {}
_commits: dict[tuple[str, Files], Commit] = {}


def _commit(mirror: str, files: Files) -> Commit:
    commit = _commits.get((mirror, files))
    if commit is None:
        with _judging():
            if mirror not in _databases:
                _databases[mirror] = Database(mirror)
        while len(_commits) > 1:
            del _commits[next(iter(_commits))]
        commit = _commits[mirror, files] = Commit(_databases[mirror], bytes.fromhex(files.tree), files.mild)
    return commit
