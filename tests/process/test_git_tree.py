"""Commits as trees, through the real fetcher: what is found, read and exported, what is not read again, and what damage does."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support.git_remote import Repository, git
from tests.support.raw_repository import RawRepository
from tests.support.waiting import until

from dicode.git.committed import GitTree, Memory, Readers
from dicode.git.exports import remove_exports
from dicode.git.repositories import GitRepositories
from dicode.git.session import Children
from dicode.git.trees import TreeGone
from dicode.process.tree import read_wanted
from dicode.spec.folder import FolderFile
from dicode.spec.trees import CommitInfo, FolderRead, NothingSeen, Repo, SetSeen, TaskFound, TaskSeen, Want

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="pidfds, /proc")]

YAML = "name: T\ntrigger: {manual: true}\n"
HOUR = 3_600_000  # ms: no timer is the reason for anything


def lived(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))  # type: ignore[arg-type]

    return run


class Desk:
    """A fetcher, and trees of the mirrors in a folder."""

    def __init__(self, folder: Path, idle: float) -> None:
        environ = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_") or name == "PATH"}
        self.children = Children({**environ, "DICODE_TEST_MARK": "tree"})
        self.readers = Readers(self.children, idle)
        self.exports = folder / "exports"

    def tree(self, mirror: Path, tree: str, memory: Memory | None = None) -> GitTree:
        return GitTree(self.readers, str(mirror), CommitInfo("1234567" + "0" * 33, tree), "infra", str(self.exports), memory or Memory())

    def at_work(self) -> list[int]:
        """The children of the fetcher."""
        return [child.pid for child in psutil.Process(self.children.pid).children()] if self.children.pid else []


@asynccontextmanager
async def desk(folder: Path, idle: float = 60.0) -> AsyncIterator[Desk]:
    one = Desk(folder, idle)
    try:
        yield one
    finally:
        await one.readers.close()
        await one.children.close()


async def all_of(tree: GitTree, wants: list[Want]) -> dict[str, FolderRead]:
    return {read.want.path: read async for some in tree.read(wants) for read in some}


def again(reads: dict[str, FolderRead]) -> list[Want]:
    return [Want(read.want.path, fingerprint=read.fingerprint, includes=read.includes) for read in reads.values()]


@lived
async def test_a_commit_that_was_fetched_is_found_looked_at_read_and_exported(data_dir: Path) -> None:
    remote = Repository(data_dir / "remote")
    remote.commit(
        {
            "tasks/a/task.yaml": YAML,
            "tasks/a/task.py": "print()\n",
            "tasks/g/b/task.yaml": f"{YAML}include: [../../../lib]\n",
            "lib/c.py": "",
            "set/taskset.yaml": "kind: TaskSet\n",
            "set/k.py": "",
            ".gitignore": "*.log\n",
        }
    )
    repo = Repo(str(remote.bare), trusted=True)
    repositories = GitRepositories(str(data_dir), dict(os.environ), None, lambda owner: None, spread=False)
    running = asyncio.create_task(repositories.run())
    try:
        repositories.follow("infra", {repo: HOUR})
        await until(lambda: repositories.state(repo).rounds)
        state = repositories.state(repo)
        assert state.commit is not None, state
        tree = repositories.tree(repo, state.commit, "infra")
        assert tree.shown("tasks/a") == f"infra@{state.commit.id[:7]}:tasks/a"
        assert await tree.look(["set", "tasks/a", "tasks/a/task.yaml", "nowhere"]) == {
            "set": SetSeen("set/taskset.yaml", b"kind: TaskSet\n"),
            "tasks/a": TaskSeen("tasks/a"),
            "tasks/a/task.yaml": TaskSeen("tasks/a"),
            "nowhere": NothingSeen("there is no such file or folder"),
        }
        finding = await tree.find("tasks")
        assert finding.unreadable == ()
        assert finding.tasks == (TaskFound("a", "tasks/a"), TaskFound("g/b", "tasks/g/b"))
        wants = [Want("tasks/a"), Want("tasks/g/b"), Want("set", "k"), Want("gone")]
        for read in [read async for some in tree.read(wants) for read in some]:
            assert read.missing == (read.want.path == "gone")
            if read.folder is not None:
                assert read.folder.dir == tree.shown(read.want.path)
                assert sorted(read.folder.files) == sorted(read_wanted(remote.work, read.want).files)
        exported = Path(await tree.export("set"))
        assert exported.parent == data_dir / "exports"
        assert sorted(os.listdir(exported)) == ["k.py", "taskset.yaml"]
        with pytest.raises(TreeGone) as told:
            await tree.find("nowhere")
        assert (told.value.reason, str(told.value)) == ("NotFound", "nowhere: No such file or directory")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        remove_exports(str(data_dir / "exports"), (), 2**40)


@lived
async def test_one_changed_file_of_two_thousand_is_one_folder_read_again(tmp_path: Path) -> None:
    bare = RawRepository(tmp_path / "bare")
    files: dict[str, str | bytes] = {"lib/c.py": ""}
    for number in range(1000):
        files |= {f"g{number % 7}/t{number}/task.yaml": YAML, f"g{number % 7}/t{number}/task.py": f"{number}\n"}
    memory = Memory()
    async with desk(tmp_path) as one:
        before = one.tree(bare.folder, bare.files(files).hex(), memory)
        finding = await before.find("")
        assert len(finding.tasks) == 1000
        reads = await all_of(before, [Want(task.path) for task in finding.tasks])
        assert all(read.folder is not None and not read.folder.faults for read in reads.values())
        files |= {"g3/t3/task.py": "another\n", "new/task.yaml": YAML}
        del files["g4/t4/task.yaml"]
        after = one.tree(bare.folder, bare.files(files).hex(), memory)
        shutil.rmtree(bare.folder / "objects" / bare.blob("5\n").hex()[:2])  # of another task: nobody may look at it
        found = await after.find("")
        assert {task.path for task in found.tasks} ^ {task.path for task in finding.tasks} == {"new", "g4/t4"}
        assert [task.path for task in found.tasks] == sorted((task.path for task in found.tasks), key=lambda path: path.split("/"))
        changed = await all_of(after, [*again(reads), Want("new")])
        assert {path for path, read in changed.items() if read.folder is not None} == {"g3/t3", "new"}
        assert [path for path, read in changed.items() if read.missing] == ["g4/t4"]
        assert changed["g3/t3"].folder is not None
        assert FolderFile("task.py", "-", b"another\n") in changed["g3/t3"].folder.files


@lived
async def test_the_questions_of_one_update_share_a_child_which_goes_when_nobody_asks(tmp_path: Path) -> None:
    bare = RawRepository(tmp_path / "bare")
    async with desk(tmp_path) as one:
        tree = one.tree(bare.folder, bare.files({"a/task.yaml": YAML}).hex())
        await tree.look(["a"])
        (child,) = one.at_work()
        await tree.find("")
        assert (await all_of(tree, [Want("a")]))["a"].folder is not None
        assert one.at_work() == [child]
    async with desk(tmp_path, idle=0.0) as one:
        tree = one.tree(bare.folder, bare.files({"a/task.yaml": YAML}).hex())
        await tree.look(["a"])
        await until(lambda: not one.at_work())
        assert (await tree.look(["a"])) == {"a": TaskSeen("a")}


@lived
async def test_who_reads_may_ask_something_else_meanwhile_and_stop_before_the_end(tmp_path: Path) -> None:
    bare = RawRepository(tmp_path / "bare")
    files: dict[str, str | bytes] = {}
    for number in range(40):
        files |= {f"t{number}/task.yaml": YAML, f"t{number}/data": bytes([number]) * 1024**2}
    async with desk(tmp_path) as one:
        tree = one.tree(bare.folder, bare.files(files).hex())
        wants = [Want(task.path) for task in (await tree.find("")).tasks]
        seen = 0
        async for some in tree.read(wants):
            seen += len(some)
            assert sum(len(file.content) for read in some if read.folder is not None for file in read.folder.files) < 3 * 1024**2
            assert await tree.look([some[0].want.path]) == {some[0].want.path: TaskSeen(some[0].want.path)}
        assert seen == 40
        async for _ in tree.read(wants):
            break
        await until(lambda: len(one.at_work()) == 1)  # the one that answered to the end


@lived
async def test_names_that_are_not_utf8_travel_there_and_back(tmp_path: Path) -> None:
    bare = RawRepository(tmp_path / "bare")
    root = bare.tree([("40000", b"\xff", bare.files({"t/task.yaml": YAML}))])
    async with desk(tmp_path) as one:
        tree = one.tree(bare.folder, root.hex())
        (found,) = (await tree.find("")).tasks
        assert found.path == "\udcff/t"
        read = (await all_of(tree, [Want(found.path)]))[found.path]
        assert read.folder is not None
        assert sorted(file.path for file in read.folder.files) == ["task.yaml"]


@lived
async def test_damage_is_told_and_what_is_missing_from_another_copy_too_is_the_fault_of_its_task(tmp_path: Path) -> None:
    origin = RawRepository(tmp_path / "origin")
    bad = origin.tree([("100644", "task.yaml", origin.blob(YAML)), ("100644", "gone", b"\x07" * 20)])
    root = origin.tree([("40000", "bad", bad), ("40000", "good", origin.files({"task.yaml": YAML}))]).hex()
    mirror = tmp_path / "mirror"
    shutil.copytree(origin.folder, mirror)
    told: list[str] = []
    memory = Memory()
    async with desk(tmp_path) as one:
        one.children.on_damage = told.append
        tree = one.tree(mirror, root, memory)
        for _ in range(2):
            with pytest.raises(TreeGone) as gone:
                await all_of(tree, [Want("good"), Want("bad")])
            assert gone.value.reason == "CacheCorrupt"
        assert told == [str(mirror)] * 2
        shutil.copytree(origin.folder, tmp_path / "again")
        mirror.rename(tmp_path / "old")
        (tmp_path / "again").rename(mirror)
        reads = await all_of(tree, [Want("good"), Want("bad")])
        assert reads["good"].folder is not None and reads["good"].folder.faults == ()
        assert reads["bad"].folder is not None
        assert [str(fault) for fault in reads["bad"].folder.faults] == [
            "infra@1234567:bad/gone:1:1: gone: object 0707070 is missing: run git fsck there"
        ]


@lived
async def test_a_pack_that_was_cut_off_is_damage_and_a_sound_mirror_in_its_place_is_read_at_once(tmp_path: Path) -> None:
    remote = Repository(tmp_path / "remote")
    commit = remote.commit({"t/task.yaml": YAML, "t/data": os.urandom(100_000)})
    git(remote.bare, "gc", "-q")
    tree_id = git(remote.bare, "rev-parse", f"{commit}^{{tree}}")
    mirror = tmp_path / "mirror"
    shutil.copytree(remote.bare, mirror)
    (pack,) = (mirror / "objects/pack").glob("*.pack")
    pack.chmod(0o600)
    os.truncate(pack, 50_000)
    async with desk(tmp_path) as one:
        tree = one.tree(mirror, tree_id)
        with pytest.raises(TreeGone) as gone:
            await all_of(tree, [Want("t")])
        assert gone.value.reason == "CacheCorrupt"
        shutil.rmtree(mirror)
        shutil.copytree(remote.bare, mirror)
        assert (await all_of(tree, [Want("t")]))["t"].folder is not None


@lived
async def test_a_reader_that_is_killed_is_told_and_the_next_question_has_another(tmp_path: Path) -> None:
    bare = RawRepository(tmp_path / "bare")
    async with desk(tmp_path) as one:
        tree = one.tree(bare.folder, bare.files({"a/task.yaml": YAML}).hex())
        await tree.look(["a"])
        (child,) = one.at_work()
        psutil.Process(child).kill()
        with pytest.raises(TreeGone) as gone:
            await tree.look(["a"])
        assert gone.value.reason == "Killed"
        assert await tree.look(["a"]) == {"a": TaskSeen("a")}
