"""What a source would say if it were read from elsewhere: the answer to `source.plan`. The same functions, and nothing is written."""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from dicode.git.trees import Tree, TreeGone
from dicode.messages.fault import Fault
from dicode.messages.kinds import ConfigSource, Credential, DesiredTask, Source
from dicode.process.clock import mono
from dicode.source.composed import root_of
from dicode.source.dev import BRANCH, at_home, missing_place
from dicode.source.ground import Ground
from dicode.source.intake import told_folder
from dicode.source.local import LocalTree
from dicode.source.reading import MAX_FAULTS, shown
from dicode.source.remotes import NEVER, OWN
from dicode.source.requests import Refusal
from dicode.source.resolving import resolved
from dicode.source.sets import NOBODY, Book, Piece, pieces_found, pieces_of
from dicode.source.survey import Survey, in_portions
from dicode.source.tools import Tools, deaf
from dicode.spec.access import repo_of_source, rules_of
from dicode.spec.config import default_name
from dicode.spec.expand import SetAt
from dicode.spec.names import is_branch, is_commit, speakable
from dicode.spec.plan import Error, Offer, Offered, offer_of
from dicode.spec.resolve import Resolved
from dicode.spec.trees import At, Repo

FETCH_WITHIN = 60.0  # seconds; what a repository may take (SPEC 9)
MAX_ANSWER = 512 * 1024  # bytes of JSON in a message; more lies in a file


@dataclass
class Planner:
    """One plan. `owner`: who follows repositories for it; `news` is set when something came of one. `host`: the names of our environment."""

    source: Source
    credentials: tuple[Credential, ...]
    tools: Tools
    owner: str
    host: Collection[str]
    news: asyncio.Event = field(default_factory=asyncio.Event)
    _followed: dict[Repo, int] = field(default_factory=dict)  # and the round that is waited for

    async def offer(self, args: Mapping[str, Any], written: Mapping[str, DesiredTask]) -> Offer:
        """`written`: the tasks of the source by id. Raises Refusal."""
        quiet = replace(self.tools, watcher=None)
        spec = await quiet.on_disk(wanted_spec, self.source, args)
        try:
            return await self._offer(spec, quiet, written, args)
        except TreeGone as gone:
            raise Refusal(f"source {self.source.name}: {gone}") from None
        finally:
            if self._followed:
                self.tools.repositories().follow(self.owner, {})

    async def _offer(self, spec: ConfigSource, tools: Tools, written: Mapping[str, DesiredTask], args: Mapping[str, Any]) -> Offer:
        pushed = bool(args.get("branch") or args.get("ref"))  # what is there to stay: no dev_ref applies
        survey = Survey(spec.name, root_of(spec), bool(self.source.dev) and not pushed, rules_of(spec, self.credentials), tools)
        revision = ""
        if spec.type == "git":
            revision = await self._fetch(survey, OWN, repo_of_source(spec, self.credentials), fresh=bool(args))
            await survey.look([survey.root])
            composed = isinstance(survey.documents.seen[survey.root], SetAt)
        else:
            composed = await tools.on_disk(_stand_on, survey, Ground(spec, tools), tools)
        pieces, errors = await (self._composed(survey) if composed else self._plain(survey))
        found = sorted([each async for each in self._resolved(survey, pieces)], key=_id)
        return offer_of(found, written, [Error.of(id, self._told(fault)) for id, fault in errors], revision, self.host)

    async def _composed(self, survey: Survey) -> tuple[dict[str, Piece], list[tuple[str, Fault]]]:
        while True:
            expansion = await survey.expand()
            for tree, repo in expansion.repos.items():
                if tree not in survey.trees and tree not in survey.away:
                    with contextlib.suppress(TreeGone):
                        await self._fetch(survey, tree, repo, fresh=False)
            open_places = survey.open()
            if not open_places and all(at.tree in survey.trees for at in expansion.wanted):
                break
            for some in in_portions(open_places):
                await survey.look(some)
        return pieces_of(expansion, {}), [(id, fault) for id, faults in survey.faults().items() for fault in faults[:MAX_FAULTS]]

    async def _plain(self, survey: Survey) -> tuple[dict[str, Piece], list[tuple[str, Fault]]]:
        tree = survey.trees[OWN]
        found = await tree.find(survey.root.path)
        errors = [("", Fault(tree.shown(path), 1, 1, why)) for path, why in found.unreadable]
        return pieces_found(OWN, found.tasks), errors

    async def _resolved(self, survey: Survey, pieces: Mapping[str, Piece]) -> Any:
        book = Book()
        book.adopt(pieces, {}, None, NOBODY)
        for key in list(book.due):
            tree = survey.trees[key[1]]
            places = {book.want(place, due): place for place, due in book.take(key, len(pieces)).items()}
            async for reads in tree.read(list(places)):
                for read in reads:
                    for id in sorted(book.users(places[read.want])):
                        yield await asyncio.to_thread(self._offered, survey, tree, pieces[id], read)

    def _offered(self, survey: Survey, tree: Tree, piece: Piece, read: Any) -> Offered:
        repo = survey.expansion.repos.get(piece.place.tree) if survey.expansion is not None and piece.place.tree else None
        dir = speakable(told_folder(tree, repo, self.source.name, piece.place.path))
        if read.folder is None:
            return Offered(piece.id, dir=dir, faults=(Fault(tree.shown(piece.place.path), 1, 1, "the task is gone since it was found"),))
        found = resolved(piece, read)
        if not isinstance(found, Resolved):
            return Offered(piece.id, dir=dir, faults=tuple(map(self._told, survey.shown(found[:MAX_FAULTS]))))
        return Offered(piece.id, found.digest, found.process, found.spec, found.runtime, dir, set_dir=self._set_dir(survey))

    def _set_dir(self, survey: Survey) -> str:
        if survey.expansion is None:
            return ""
        root = getattr(survey.documents.seen.get(survey.root), "at", survey.root)
        return speakable(told_folder(survey.trees[OWN], None, self.source.name, posixpath.dirname(root.path)))

    def _told(self, fault: Fault) -> Fault:
        return Fault(speakable(shown(fault.file, self.tools.working_dir)), fault.line, fault.column, speakable(fault.message))

    async def _fetch(self, survey: Survey, tree: str, repo: Repo, *, fresh: bool) -> str:
        """Have the commit of a repository: the one that is known, or a fresh one. Gives its id. Raises TreeGone."""
        repositories = self.tools.repositories()
        known = repositories.state(repo)
        self._followed[repo] = NEVER
        repositories.follow(self.owner, self._followed)
        number = repositories.sync(repo) if fresh or known.commit is None else 0
        until = mono() + FETCH_WITHIN
        while (state := repositories.state(repo)).rounds < number:
            self.news.clear()
            try:
                await asyncio.wait_for(self.news.wait(), until - mono())
            except TimeoutError:
                break
        if state.commit is None or (fresh and state.problem is not None):
            reason, message = state.problem or ("Slow", f"no answer within {FETCH_WITHIN:g} s")
            survey.away[tree] = message
            raise TreeGone(reason, message)
        survey.trees[tree] = repositories.tree(repo, state.commit, self.source.name if tree == OWN else default_name(repo.url))
        return state.commit.id


def _id(offered: Offered) -> str:
    return offered.id


def wanted_spec(source: Source, args: Mapping[str, Any]) -> ConfigSource:
    """From where to read it: `local_path`, `branch`, `ref` (a branch, tag or commit), or as it is. Looks at the disk. Raises Refusal."""
    path, branch, ref = args.get("local_path"), args.get("branch"), args.get("ref")
    if [bool(path), bool(branch), bool(ref)].count(True) > 1:
        raise Refusal("say one of a path, a branch and a ref")
    if path:
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
            raise Refusal(f"the local path must be absolute, not {path!r}")
        why = missing_place(source.spec, posixpath.normpath(path))
        if why:
            raise Refusal(why)
        return at_home(source.spec, posixpath.normpath(path))
    if not branch and not ref:
        return at_home(source.spec, source.dev)
    if source.type != "git":
        raise Refusal(f"source {source.name} is a folder and has no branches: plan a path")
    name = branch or ref
    if not isinstance(name, str) or not is_branch(name):
        raise Refusal(f"{name!r} cannot be a branch, a tag or a commit")
    if branch or not is_commit(name):
        return at_home(source.spec, f"{BRANCH}{name}")
    return msgspec.structs.replace(source.spec, branch="", ref={"commit": name})


def _stand_on(survey: Survey, ground: Ground, tools: Tools) -> bool:
    """On the disk thread: is what stands there a TaskSet? Raises TreeGone when nothing does."""
    found = ground.find()
    if found.root is None:
        raise TreeGone(*(found.problem or ("NotFound", "it is not there")))
    below = posixpath.relpath(found.entry, found.root.reach)
    survey.root = At(OWN, "" if below == "." else below)
    survey.trees[OWN] = LocalTree(found.root, tools, deaf)
    return found.composed


def answer_of(offer: Offer, write: Callable[[bytes], str]) -> str:
    """The message that answers the request. `write` puts what is too big for one into a file and gives its absolute path."""
    said = msgspec.json.encode(offer)
    if len(said) > MAX_ANSWER:
        said = msgspec.json.encode(Offer(held=offer.held, revision=offer.revision, file=write(said)))
    return said.decode()


def by_id(tasks: Iterable[tuple[str, DesiredTask]], source: str) -> dict[str, DesiredTask]:
    """Of all that are written the tasks of one source."""
    return {task.id: task for _, task in tasks if task.source == source}
