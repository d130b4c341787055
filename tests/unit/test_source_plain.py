"""One plain source, a step at a time: what happens between two of its steps is not lost, and not believed too soon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from dicode.messages.commands import Append, Delete, Put
from dicode.messages.kinds import ConfigSource, DesiredTask, Kind, Source
from dicode.process.blobs import Bundles
from dicode.source.plain import PlainSource
from dicode.source.rounds import Rounds
from dicode.source.state import Touched
from dicode.source.tools import Tools
from dicode.source.writing import Op, Pen
from dicode.wire.frames import decode_body

YAML = "name: X\nruntime: shell\ntrigger: {manual: true}\n"


class Store:
    """What a source needs of a mirror. `before_write`: something that happens while a write is on its way."""

    def __init__(self) -> None:
        self.tables: dict[tuple[str, str], Kind] = {}
        self.before_write: Callable[[], None] = lambda: None

    def get(self, kind: type[Kind], key: str) -> Kind | None:
        return self.tables.get((kind.__name__, key))

    def rev(self, kind: type[Kind], key: str) -> int:
        return 0

    async def write(self, *ops: Op) -> None:
        self.before_write()
        for op in ops:
            if isinstance(op, Put):
                self.tables[op.kind, op.key] = decode_body(op.kind, op.body)
            elif isinstance(op, Delete):
                del self.tables[op.kind, op.key]
            assert not isinstance(op, Append) or op.kind == "Event"


class Desk:
    """A source over `root` that is stepped by hand."""

    def __init__(self, root: Path, home: Path, disk: ThreadPoolExecutor) -> None:
        spec = ConfigSource(name="tasks", path=str(root))
        self.store = Store()
        self.store.tables["Source", "tasks"] = Source(name="tasks", spec=spec)
        for folder in ("bundles", "trees"):
            (home / folder).mkdir()
        watcher = SimpleNamespace(limited=False, watch=lambda *_: None, forget=lambda *_: None, forget_all=lambda *_: None)
        log = SimpleNamespace(say=lambda *_, **__: None)
        tools = Tools(self.store, Bundles(home / "bundles", home / "trees"), log, disk, watcher, str(home), str(home), None)  # type: ignore[arg-type]
        self.ids: set[str] = set()
        self.pen = Pen("tasks", tools, self.ids)
        self.rounds = Rounds(spec.rescan / 1000)
        self.source = PlainSource(spec, tools, self.pen, self.rounds, lambda: None)

    async def until(self, fact: Callable[[], object]) -> None:
        for _ in range(500):
            if fact():
                return
            await asyncio.sleep(min(await self.source.step(), 0.02))
            self.ids |= {key.partition("/")[2] for kind, key in self.store.tables if kind == "DesiredTask"}
        raise AssertionError("it does not become so")

    def task(self, id: str) -> DesiredTask:
        return cast(DesiredTask, self.store.tables["DesiredTask", f"tasks/{id}"])

    @property
    def status(self) -> str:
        return cast(Source, self.store.tables["Source", "tasks"]).status


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path.resolve() / "tasks"
    for id in ("a", "b", "c"):
        (root / id).mkdir(parents=True)
        (root / id / "task.yaml").write_text(YAML + "include: [../lib]\n" * (id == "a"))
        (root / id / "task.sh").write_text("echo 1\n")
    (root / "lib").mkdir()
    (root / "lib" / "part.sh").write_text("echo 1\n")
    return root


@pytest.fixture
def desk(root: Path, tmp_path: Path) -> Iterator[Desk]:
    (tmp_path / "data").mkdir()
    with ThreadPoolExecutor(1) as disk:
        yield Desk(root, tmp_path / "data", disk)


@pytest.mark.parametrize("include", ["../lib", "../lib/part.sh"])
def test_an_include_that_is_saved_while_its_first_reading_is_being_written_is_read_again(desk: Desk, root: Path, include: str) -> None:
    (root / "a" / "task.yaml").write_text(f"{YAML}include: [{include}]\n")

    def save() -> None:
        desk.store.before_write = lambda: None
        (root / "lib" / "part.sh").write_text("echo another\n")
        desk.source.touched([Touched(str(root / "lib"), "part.sh", 0.0)])

    async def story() -> None:
        desk.store.before_write = save
        await desk.until(lambda: "a" in desk.ids)
        first, rounds = desk.task("a").digest, desk.rounds.begun
        await desk.until(lambda: desk.task("a").digest != first)
        assert desk.rounds.begun == rounds, "no round was needed for it"

    asyncio.run(story())


def test_a_root_that_another_folder_took_the_place_of_during_a_round_is_not_believed(desk: Desk, root: Path) -> None:
    """What is mounted there is gone: an empty folder stands in its place, of which a complete reading says nothing."""

    async def story() -> None:
        await desk.until(lambda: desk.status == "ok")
        round = desk.source.look_again()
        await desk.until(lambda: desk.rounds.begun == round)
        root.rename(root.with_name("away"))
        root.mkdir()
        await desk.until(lambda: desk.rounds.done == round)
        assert desk.pen.confirm() == 0, "nobody can be asked to lose what nobody knows to be missing"
        root.rmdir()
        root.with_name("away").rename(root)
        await desk.until(lambda: desk.rounds.done > round)
        assert desk.status == "ok" and desk.ids == {"a", "b", "c"}

    asyncio.run(story())
