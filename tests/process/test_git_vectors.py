"""What a source was made of, commit by commit: whoever has the vector of a resolution can make the same tasks from it; one push moves all it concerns."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.chaos.load import SOAK
from tests.support.git_remote import Repository, Server, serving
from tests.support.git_system import SECRET, SECRET_ENV, at_commit, git_source, push, sync
from tests.support.system import System

from dicode.admin import rendering
from dicode.messages.kinds import DesiredTask, Resolution, Source
from dicode.spec.resolve import Resolved

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="inotify, /proc")]
TASK = "apiVersion: dicode/v1\nkind: Task\nname: X\nruntime: shell\ntrigger: {manual: true}\n"
STEPS = 40 if SOAK else 14
Files = dict[str, str]


@pytest.fixture
def remote(system: System) -> Iterator[Server]:
    with serving(system.home / "remote") as server:
        yield server


def root_of(timeout: int, broken: bool, lib: str, tool: str) -> str:
    """A set over a folder of its own, a set and a task elsewhere; `lib` and `tool` are how the refs lead there."""
    return f"""\
kind: TaskSet
spec:
  defaults: {{env: [REGION=eu]}}
  entries:
    own: {{ref: {{path: own}}}}
    lib: {{ref: {{{lib}}}, overrides: {{entries: {{b: {{timeout: {timeout}s}}}}}}}}
    tool: {{ref: {{{tool}}}, overrides: {{{"timeuot" if broken else "timeout"}: {timeout + 1}s}}}}
"""


class Written(NamedTuple):
    """What stands in the repositories: the files of each branch, and of the set what it is made from."""

    timeout: int
    broken: bool
    own: Files
    lib: Files
    tool: Files


BEGINNING = Written(
    5,
    False,
    {"own/task.yaml": TASK, "own/task.sh": "echo 0\n"},
    {
        "sub/taskset.yaml": "kind: TaskSet\nspec: {entries: {a: {ref: {path: ../a}}, b: {ref: {path: ../b}}}}\n",
        **{f"{name}/task.{kind}": text for name in "ab" for kind, text in (("yaml", TASK), ("sh", "echo 0\n"))},
    },
    {"tool/task.yaml": TASK, "tool/task.sh": "echo 0\n"},
)
MOVES = ("own", "own", "a", "b", "tool", "timeout", "break", "noise", "a and own", "timeout and tool")


def moved(written: Written, move: str, number: int) -> Written:
    for each in move.split(" and "):
        match each:
            case "own":
                written = written._replace(own=written.own | {"own/task.sh": f"echo {number}\n"})
            case "a" | "b":
                written = written._replace(lib=written.lib | {f"{each}/task.sh": f"echo {number}\n"})
            case "tool":
                written = written._replace(tool=written.tool | {"tool/task.sh": f"echo {number}\n"})
            case "timeout":
                written = written._replace(timeout=written.timeout + 1)
            case "break":
                written = written._replace(broken=not written.broken)
            case "noise":
                written = written._replace(lib=written.lib | {"README.md": f"{number}\n"})
    return written


class Two:
    """A source over `infra`, and over `lib` at two branches; every commit that was made, with what stood there then."""

    def __init__(self, remote: Server) -> None:
        self.infra, self.lib = Repository(remote.folder, "infra"), Repository(remote.folder, "lib")
        self.url = f"{remote.url}/lib"
        self.names = {"": "infra", f"{self.url}#branch=main": "lib", f"{self.url}#branch=tools": "tool"}
        self.heads: dict[str, str] = {}
        self.known: dict[str, dict[str, Written]] = {name: {} for name in self.names.values()}
        self.written: Written | None = None

    def commit(self, written: Written, *, amend: bool = False) -> None:
        """Whatever is different now."""
        before, self.written = self.written, written
        if before is None or (before.timeout, before.broken, before.own) != (written.timeout, written.broken, written.own):
            refs = f"url: '{self.url}', path: sub, poll_interval: 0", f"url: '{self.url}', branch: tools, path: tool, poll_interval: 0"
            files = {"taskset.yaml": root_of(written.timeout, written.broken, *refs), **written.own}
            self._made("infra", self.infra.commit(files, amend=amend and before is not None), written)
        if before is None or before.lib != written.lib:
            self._made("lib", self.lib.commit(written.lib, branch="main", amend=amend and before is not None), written)
        if before is None or before.tool != written.tool:
            self._made("tool", self.lib.commit(written.tool, branch="tools"), written)

    def _made(self, name: str, commit: str, written: Written) -> None:
        self.heads[name] = commit
        self.known[name][commit] = written

    def made_of(self, vector: Mapping[str, str]) -> Written:
        """What stood in all of them, by nothing but the vector."""
        at = {self.names[key]: self.known[self.names[key]][commit] for key, commit in vector.items()}
        return at["infra"]._replace(lib=at["lib"].lib, tool=at["tool"].tool if "tool" in at else {})

    def vector(self) -> dict[str, str]:
        """As it should be now. An entry that is wrong leads nowhere."""
        assert self.written is not None
        return {key: self.heads[name] for key, name in self.names.items() if name != "tool" or not self.written.broken}


def composed(written: Written, folder: Path) -> dict[str, str]:
    """Task id → digest when all of it lies in one folder; "" for what is wrong."""
    root = root_of(written.timeout, written.broken, "path: lib/sub", "path: tools/tool")
    lib = {f"lib/{path}": text for path, text in written.lib.items()}
    for path, text in {"taskset.yaml": root, **written.own, **lib, **{f"tools/{path}": text for path, text in written.tool.items()}}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    found = rendering.resolve(folder, folder, name="infra").tasks
    return {id: each.digest if isinstance(each, Resolved) else "" for id, each in found.items()}


@pytest.mark.parametrize("seed", range(10) if SOAK else (5,))  # of the first ten it has the most of everything
def test_the_vector_of_a_resolution_says_exactly_which_tasks_there_were(system: System, remote: Server, tmp_path: Path, seed: int) -> None:
    """Random pushes to one or both, also rewritten history and broken entries: after each the newest vector names every head, and what it names,

    put into one folder, are the very digests that are desired; an entry that is wrong has the last good one; nothing else was written.
    """
    dice, two, said = random.Random(seed), Two(remote), dict[str, str]()
    system.write_config("sources:\n" + git_source("infra", f"{remote.url}/infra"))
    two.commit(BEGINNING)
    system.start("store")
    system.start("source-controller")
    at_commit(system, "infra", two.heads["infra"])
    for number in range(STEPS + 1):
        before = revs(system)
        if number:
            assert two.written is not None
            move = dice.choice(MOVES)
            two.commit(moved(two.written, move, number), amend=dice.random() < 0.3)
            sync(system, "infra")
            print(number, move)
        source = system.object(Source, "infra")
        newest = source.resolutions[0]
        assert newest.revisions == two.vector() and source.revision == two.heads["infra"]
        expected = composed(two.made_of(newest.revisions), tmp_path / f"{number}")
        tasks = {task.id: task for task in system.objects(DesiredTask).values()}
        assert {id: task.digest for id, task in tasks.items()} == {id: digest or said[id] for id, digest in expected.items()}
        assert {id for id, task in tasks.items() if task.faults} == {id for id, digest in expected.items() if not digest}
        if number:
            different = {id for id, task in tasks.items() if task.digest != said[id]}
            assert different <= {id for id, rev in revs(system).items() if before[id] != rev} <= different | {"infra/tool"}
        said = {id: task.digest for id, task in tasks.items()}
    _are_a_history(system.object(Source, "infra").resolutions, two)


def _are_a_history(resolutions: tuple[Resolution, ...], two: Two) -> None:
    """The newest first, each at its time, and every repository only ever went on."""
    assert len(resolutions) == min(20, len({tuple(sorted(each.revisions.items())) for each in resolutions}))
    assert [each.at for each in resolutions] == sorted((each.at for each in resolutions), reverse=True)
    for key, name in two.names.items():
        order = list(two.known[name])
        places = [order.index(each.revisions[key]) for each in resolutions if key in each.revisions]
        assert places == sorted(places, reverse=True), name


def revs(system: System) -> dict[str, int]:
    reader = system.reader()
    return {task.id: reader.rev(DesiredTask, key) for key, task in system.objects(DesiredTask).items()}


def test_one_push_brings_every_source_of_that_url_to_its_commit(system: System, remote: Server) -> None:
    """Another branch, a part of it, and a set elsewhere that draws from it: none of them has a hook of its own or is polled."""
    shared, elsewhere = Repository(remote.folder, "shared"), Repository(remote.folder, "elsewhere")
    url = f"{remote.url}/shared"
    shared.commit({"group/a/task.yaml": TASK, "group/a/task.sh": "echo 0\n", "b/task.yaml": TASK, "b/task.sh": "echo 0\n"})
    shared.commit({"b/task.sh": "echo staging\n"}, branch="staging")
    entries = "".join(
        f"    {key}: {{ref: {{url: '{url}', {ref}, poll_interval: 0}}}}\n" for key, ref in (("a", "path: group/a"), ("b", "branch: staging, path: b"))
    )
    elsewhere.commit({"taskset.yaml": f"kind: TaskSet\nspec:\n  entries:\n{entries}"})
    quiet = "poll_interval: 1h"
    system.write_config(
        "sources:\n"
        + git_source("infra", url)
        + f"  - {{name: staging, type: git, url: '{url}', branch: staging, path: b/.., {quiet}}}\n"
        + f"  - {{name: part, type: git, url: '{url}', path: group, {quiet}}}\n"
        + git_source("far", f"{remote.url}/elsewhere")
    )
    system.up(**{SECRET_ENV: SECRET})
    for name in ("infra", "staging", "part", "far"):
        system.object(Source, name, lambda source: source.status == "ok")
    assert {task.source for task in system.objects(DesiredTask).values() if task.id == "a"} == {"part"}, "of a part the ids begin there"

    commit = shared.commit({"group/a/task.sh": "echo 1\n"}, branch="main")
    assert push(system, "infra")
    for key in ("infra/group/a", "part/a", "far/far/a"):
        system.object(DesiredTask, key, lambda task: task.revision == commit)
    commit = shared.commit({"b/task.sh": "echo 2\n"}, branch="staging")
    assert push(system, "infra", "staging"), "it has no hook, but somebody of this URL follows it"
    at_commit(system, "staging", commit)
    commit = shared.commit({"b/task.sh": "echo 3\n"}, branch="staging")
    assert push(system, "far", "staging"), "a repository that only a set draws from calls the hook of the set"
    system.object(DesiredTask, "far/far/b", lambda task: task.revision == commit)
