"""A source's TaskSets expanded to its tasks (SPEC 4). Pure: what stands in the trees is told by `look`.

Nothing is fetched or waited for: what nobody has looked at yet comes back as `wanted`; look there and expand again.
"""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from dicode.messages.fault import Fault
from dicode.spec.access import Rules, place_of_repo, repo_of_ref
from dicode.spec.cascade import place_of
from dicode.spec.names import MAX_SEGMENTS, is_segment
from dicode.spec.taskset import FILE, Entry, Inline, Layer, Overrides, ParsedSet, Ref
from dicode.spec.trees import At, Repo
from dicode.spec.yaml import TOP, Place, shown

MAX_TASKS = 20_000  # a source; SPEC 9
OWN = ""  # the tree of the source itself
NO_RULES = Rules()
MAX_VISITS = 3 * MAX_TASKS  # entries looked at: sets that refer to each other twice grow without bound, and need hold no task


# ── what a place holds ──


class SetAt(NamedTuple):
    """A TaskSet; `at` is its file, where it really stands."""

    at: At
    parsed: ParsedSet


class TaskAt(NamedTuple):
    """A folder with a task.yaml, where it really stands."""

    at: At


class Nothing(NamedTuple):
    """Nothing that a ref could mean; `why` begins with a small letter."""

    why: str


class Away(NamedTuple):
    """Its repository cannot be read now: what came of it before is kept."""

    why: str


Seen = SetAt | TaskAt | Nothing | Away
Looked = Callable[[At], Seen | None]


# ── how files are called ──


def name_of(at: At) -> str:
    """How a set's file is called, for `parse_set`, until its faults are shown.

    It stays the same from commit to commit, so that a set whose bytes are the same stays the same set.
    """
    return f"\0{at.tree}\0{at.path}"


def told(faults: Iterable[Fault], shown: Callable[[At], str]) -> tuple[Fault, ...]:
    """The faults with each file that was called by `name_of` as people call it; other files keep their names."""
    return tuple([each if each.file[:1] != "\0" else msgspec.structs.replace(each, file=shown(_at_of(each.file))) for each in faults])


def _at_of(name: str) -> At:
    _, tree, path = name.split("\0", 2)
    return At(tree, path)


# ── what comes of it ──


class Leaf:
    """A task of a set, before its folder was read. `at` is that folder; of an inline task that of its set, and `key` is its KEY.

    Two leaves are equal when nothing but the folder can make their tasks differ. Where faults would be placed does not
    count for that: what had faults is resolved again when the leaf is another object.
    """

    __slots__ = ("at", "file", "id", "inline", "inputs", "key", "layers", "mark", "place")

    def __init__(self, id: str, at: At, key: str, inline: Inline | None, layers: tuple[Layer, ...], file: str, place: Place) -> None:
        self.id = id
        self.at = at
        self.key = key
        self.inline = inline
        self.layers = layers  # the lowest first; only those that change something
        self.file = file  # of the entry, for faults
        self.place = place
        self.inputs: tuple[object, ...] = (id, at, key, inline and inline.text, *[layer.text for layer in layers])
        self.mark: tuple[object, ...] = (self.inputs, file, place, inline and inline.mark, *[layer.mark for layer in layers])

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Leaf) and self.inputs == other.inputs)

    def __hash__(self) -> int:
        return hash(self.inputs)

    def __repr__(self) -> str:
        return f"Leaf({self.id})"

    def fault(self, message: str) -> Fault:
        """A fault of the entry, at the ref that leads to the folder."""
        return Fault(self.file, *self.place, message)


class Expansion(NamedTuple):
    """What a source consists of.

    `faults`: by id; all at and below it keeps what was, "" is the whole source. An id has a leaf or faults, never both.
    `wanted`: nobody looked there yet. `seen`: all that was asked, also what was wanted.
    `repos`: by the key of their tree. `polls`: how often each is looked at, in ms; 0 for never by the timer.
    """

    leaves: dict[str, Leaf]
    faults: dict[str, tuple[Fault, ...]]
    wanted: frozenset[At]
    seen: frozenset[At]
    repos: dict[str, Repo]
    polls: dict[Repo, int]


def changes(before: Expansion | None, after: Expansion) -> tuple[list[Leaf], list[str]]:
    """The leaves that are new or not equal to before, and the ids of those that are gone."""
    old = before.leaves if before is not None else {}
    if old is after.leaves:
        return [], []
    new = after.leaves
    different = [leaf for id, leaf in new.items() if (known := old.get(id)) is not leaf and known != leaf]
    return different, [id for id in old if id not in new]


class Memo:
    """What the last expansion found, so that the next one works out only what changed. One for each source."""

    def __init__(self) -> None:
        self.asked: object = None
        self.sets: dict[str, _Set] = {}
        self.expansion: Expansion | None = None


def expand(root: At, look: Looked, *, source: str, dev: bool = False, rules: Rules = NO_RULES, memo: Memo | None = None) -> Expansion:
    """The tasks of the source whose set is at `root` (its file, or the folder of it). `dev`: each dev_ref replaces its ref.

    With the `memo` of an earlier expansion the answer is the same, and the very same object if nothing changed; it costs
    one `look` for each ref and work for what changed.
    """
    memo = memo or Memo()
    asked = (root, source, dev, rules)
    return _Expanding(look, dev, rules, memo, memo.sets if memo.asked == asked else {}).whole(root, source, asked)


class _TooMany(Exception):
    pass


class _Visit(NamedTuple):
    """A set to be expanded under an id. `above`: patches for its entries, the outermost first.

    `chain`: the sets that lead to it, itself the last, each by its repository (`place_of_repo`) and path there.
    """

    id: str
    seen: SetAt
    above: tuple[Layer, ...]
    chain: tuple[At, ...]


class _Expanding:
    """One expansion."""

    def __init__(self, look: Looked, dev: bool, rules: Rules, memo: Memo, before: dict[str, _Set]) -> None:
        self._look = look
        self._dev = dev
        self._rules = rules
        self._memo = memo
        self._before = before
        self._now: dict[str, _Set] = {}
        self._visits = 0
        self._leaves = 0

    def whole(self, root: At, source: str, asked: object) -> Expansion:
        seen = self._look(root)
        wrong = _wrong_root(root, seen)
        try:
            if isinstance(seen, SetAt) and not wrong:
                self._set(_Visit(source, seen, (), (At(self._rules.home, seen.at.path),)))
        except _TooMany:
            assert isinstance(seen, SetAt), "nothing else leads anywhere"
            wrong = (Fault(seen.parsed.file, 1, 1, f"leads to more than {MAX_TASKS:,} tasks: split it into several sources"),)
        if wrong or seen is None:
            places = self._places(root)
            return Expansion({}, {"": wrong} if wrong else {}, frozenset([root] if seen is None else ()), places, {}, {})
        memo = self._memo
        expansion = memo.expansion
        if expansion is None or memo.asked != asked or self._is_other():
            expansion = self._together(root)
        memo.asked, memo.sets, memo.expansion = asked, self._now, expansion
        return expansion

    def _is_other(self) -> bool:
        """Is any set another than before?"""
        return len(self._now) != len(self._before) or any(self._before.get(id) is not found for id, found in self._now.items())

    def _places(self, root: At) -> frozenset[At]:
        return frozenset([root]).union(*[each.places for each in self._now.values()])

    def _together(self, root: At) -> Expansion:
        leaves: dict[str, Leaf] = {}
        faults: dict[str, tuple[Fault, ...]] = {}
        wanted: set[At] = set()
        repos: dict[str, Repo] = {}
        polls: dict[Repo, int] = {}
        for each in self._now.values():
            leaves.update(each.leaves)
            faults.update(each.faults)
            wanted |= each.wanted
            for repo, interval in each.repos.values():
                repos[repo.key] = repo
                polls[repo] = _sooner(polls.get(repo, 0), interval)
        return Expansion(leaves, faults, frozenset(wanted), self._places(root), repos, polls)

    def _set(self, visit: _Visit) -> None:
        """Recursion ends at MAX_SEGMENTS."""
        found = self._before.get(visit.id)
        if found is None or not found.holds(visit, self._look):
            found = _Set(visit, self._look, self._dev, self._rules, found)
        self._visits += len(visit.seen.parsed.entries) + 1
        self._leaves += len(found.leaves)
        if self._visits > MAX_VISITS or self._leaves > MAX_TASKS:
            raise _TooMany
        self._now[visit.id] = found
        for inner in found.inner.values():
            self._set(inner)


def _wrong_root(root: At, seen: Seen | None) -> tuple[Fault, ...]:
    match seen:
        case SetAt(parsed=parsed):
            return parsed.faults
        case TaskAt():
            return (Fault(name_of(root), 1, 1, f"there is no {FILE} here: a single task is a plain source"),)
        case Nothing(why) | Away(why):
            return (Fault(name_of(root), 1, 1, why),)
        case None:
            return ()


def _sooner(one: int, other: int) -> int:
    return min(one or other, other or one)


class _Set:
    """One set, expanded under one id, without the sets in it. What came of its entries stands under their ids."""

    def __init__(self, visit: _Visit, look: Looked, dev: bool, rules: Rules, before: _Set | None) -> None:
        self.visit = visit
        self.above = tuple([layer.mark for layer in visit.above])
        self.leaves: dict[str, Leaf] = {}
        self.faults: dict[str, tuple[Fault, ...]] = {}
        self.inner: dict[str, _Visit] = {}
        self.repos: dict[str, tuple[Repo, int]] = {}
        self.asked: dict[str, tuple[At, Seen | None]] = {}
        self._look = look
        self._dev = dev
        self._rules = rules
        self._before = before.leaves if before is not None else {}
        self._file = visit.seen.parsed.file
        self._folder = posixpath.dirname(visit.seen.at.path)
        entries = visit.seen.parsed.entries
        if before is not None and before.stands(visit, look):
            touched = before.touched | self.touched
            self._take_over(before, {self._id(key, entry) for key in touched if (entry := entries.get(key)) is not None})
            entries = {key: entry for key in touched if (entry := entries.get(key)) is not None}
        for key, entry in entries.items():
            self._entry(key, entry)
        del self._look, self._before  # theirs was the moment
        self.places = frozenset([at for at, _ in self.asked.values()])
        self.wanted = frozenset([at for at, seen in self.asked.values() if seen is None])

    @property
    def touched(self) -> set[str]:
        """The keys that patches from above reach."""
        return {key for layer in self.visit.above for key in layer.children}

    def _take_over(self, before: _Set, but: set[str]) -> None:
        self.leaves = {id: kept for id, kept in before.leaves.items() if id not in but}
        self.faults = {id: kept for id, kept in before.faults.items() if id not in but}
        self.inner = {id: kept for id, kept in before.inner.items() if id not in but}
        self.repos = {id: kept for id, kept in before.repos.items() if id not in but}
        self.asked = {id: kept for id, kept in before.asked.items() if id not in but}

    def holds(self, visit: _Visit, look: Looked) -> bool:
        """Would it come out the same now?"""
        above = visit.above is self.visit.above or self.above == tuple([layer.mark for layer in visit.above])
        return above and self.stands(visit, look)

    def stands(self, visit: _Visit, look: Looked) -> bool:
        """Would it, if nothing but the patches from above was different?"""
        if visit.seen.parsed is not self.visit.seen.parsed or visit.chain != self.visit.chain:
            return False
        for at, seen in self.asked.values():
            now = look(at)
            if now is not seen and now != seen:
                return False
        return True

    def _id(self, key: str, entry: Entry) -> str:
        if entry.faults and not is_segment(key):
            key = _bad_segment(key)
        return f"{self.visit.id}/{key}"

    def _entry(self, key: str, entry: Entry) -> None:
        above = [layer.children[key] for layer in self.visit.above if key in layer.children]
        if not _enabled(above, entry):
            return
        id = self._id(key, entry)
        if entry.faults:
            self.faults[id] = entry.faults
        elif entry.inline is not None:
            self._leaf(id, At(self.visit.seen.at.tree, self._folder), key, entry, above, entry.place)
        elif entry.ref is not None:
            self._ref(id, entry, entry.dev_ref if self._dev and entry.dev_ref is not None else entry.ref, above)

    def _ref(self, id: str, entry: Entry, ref: Ref, above: list[Layer]) -> None:
        target = self._target(id, ref)
        if target is None:
            return
        seen = self._look(target)
        self.asked[id] = target, seen
        match seen:
            case SetAt():
                self._inner(id, ref, seen, [*above, entry.overrides] if entry.overrides is not None else above)
            case TaskAt(at):
                self._leaf(id, at, "", entry, above, ref.path_at)
            case Nothing(why) | Away(why):
                self._fault(id, ref.path_at, f"{_written(ref)}: {why}")
            case None:
                pass

    def _target(self, id: str, ref: Ref) -> At | None:
        """Where a ref leads; None with its fault noted."""
        if ref.url:
            repo = repo_of_ref(ref, self._rules, own=self.visit.seen.at.tree == OWN)
            if isinstance(repo, str):
                self._fault(id, ref.auth_at, repo)
                return None
            tree, path = repo.key, posixpath.normpath(ref.path.lstrip("/") or ".")
        else:
            tree, path = self.visit.seen.at.tree, posixpath.normpath(posixpath.join(self._folder, ref.path))
        if path == ".." or path.startswith(("../", "/")):
            where = "the repository" if tree else "the root of the source"
            self._fault(id, ref.path_at, f"{_written(ref)} leads outside {where}: nothing there may be named")
            return None
        if ref.url:
            assert isinstance(repo, Repo)
            self.repos[id] = repo, ref.poll_interval
        return At(tree, "" if path == "." else path)

    def _inner(self, id: str, ref: Ref, seen: SetAt, patches: list[Layer]) -> None:
        """An entry that refers to a set: it is expanded in its turn."""
        chain = self.visit.chain
        here = At(place_of_repo(self.repos[id][0]) if ref.url else chain[-1].tree, seen.at.path)
        if here in chain:
            self._fault(id, ref.path_at, f"{_written(ref)} is a cycle: this set is part of the one it refers to")
        elif id.count("/") + 1 >= MAX_SEGMENTS:  # what it holds would have one more
            self._fault(id, ref.path_at, f"{_written(ref)} leads too deep: sets are nested in at most {MAX_SEGMENTS - 1} others")
        elif seen.parsed.faults:
            self.faults[id] = seen.parsed.faults
        else:
            wrong = [fault for layer in patches for fault in _wrong_for_a_set(layer, seen.parsed)]
            if wrong:
                self.faults[id] = tuple(wrong)
            else:
                above = tuple([layer for layer in patches if layer.children])
                self.inner[id] = _Visit(id, seen, above, (*chain, here))

    def _leaf(self, id: str, at: At, key: str, entry: Entry, above: list[Layer], place: Place) -> None:
        layers = _layers(self.visit.seen.parsed.defaults, above, entry.overrides)
        wrong = [_fault_at(layer, _ONLY_FOR_SETS, "entries") for layer in layers if layer.patch.entries is not None]
        if wrong:
            self.faults[id] = tuple(wrong)
            return
        leaf = Leaf(id, at, key, entry.inline, tuple([layer for layer in layers if layer.changes_a_task]), self._file, place)
        before = self._before.get(id)
        self.leaves[id] = before if before is not None and before.mark == leaf.mark else leaf

    def _fault(self, id: str, place: Place, message: str) -> None:
        self.faults[id] = (Fault(self._file, *place, message),)


def _layers(defaults: Layer | None, above: list[Layer], own: Layer | None) -> list[Layer]:
    """The lowest first."""
    lowest = [defaults] if defaults is not None else []
    return [*lowest, *above, own] if own is not None else [*lowest, *above]


def _enabled(above: list[Layer], entry: Entry) -> bool:
    """The outermost that says anything has the word."""
    for layer in above:
        if layer.patch.enabled is not None:
            return layer.patch.enabled
    return entry.enabled is not False


def _bad_segment(key: str) -> str:
    """With a slash it must not be taken for the entry of another set."""
    return shown(key).replace("/", "%2F")


def _written(ref: Ref) -> str:
    return f"{shown(ref.path or '.')} of {shown(ref.url)}" if ref.url else shown(ref.path)


_ONLY_FOR_SETS = "'entries' has no meaning here: the ref leads to a task, not to a TaskSet"
_FOR_SETS = frozenset({"enabled", "entries"})


def _wrong_for_a_set(layer: Layer, parsed: ParsedSet) -> Iterable[Fault]:
    """What a patch may not say of a set: fields of tasks, and entries that the set does not have."""
    for name in Overrides.__struct_fields__:
        if name not in _FOR_SETS and getattr(layer.patch, name) is not None:
            yield _fault_at(layer, f"'{name}' has no meaning for a TaskSet: name the task it is for under entries", name)
    for key in layer.patch.entries or ():
        if key not in parsed.entries:
            near = difflib.get_close_matches(key, parsed.entries, 1)
            advice = f", did you mean '{near[0]}'?" if near else f"; there are {_some(parsed.entries)}"
            yield _fault_at(layer, f"the TaskSet has no entry '{shown(key)}'{advice}", "entries", key)


def _fault_at(layer: Layer, message: str, *path: str) -> Fault:
    return Fault(layer.file, *(place_of(layer.node, path) or TOP), message)


def _some(keys: Iterable[str]) -> str:
    listed = [shown(key) for key in keys]
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "") if listed else "none"
