"""From a save to the registered task: for small and big sources, for each way programs save.

Measured from just before the bytes are written to the moment the Task with the new digest is heard from the store; the 10 ms for which a
file must stand still (`settle`) are in it. Of a tool (`sed -i`, rsync) the time counts from the change of the file, not from the start of the tool.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.place import SCRIPT, Place, up, write_tasks
from bench.table import Budget, Figure, Finding, Note, Row, figure

from dicode.messages.kinds import Task

BUDGET = Budget(p50=20, p99=60)
GROWTH = 1.3  # times the smallest source, at most
SAVES = 30

Way = Callable[[Path, str], Callable[[], float]]  # begins to save this text into this file; asked afterwards, says by the wall clock when it was


def run(quick: bool) -> Iterator[Finding]:
    sizes, saves = ((10, 1_000), 5) if quick else ((10, 1_000, 10_000), SAVES)
    ways = {name: way for name, way in WAYS.items() if name != "rsync" or shutil.which("rsync")}
    yield from (Note(f"save → registered by {name}: skipped, it is not installed (apt-get install {name})") for name in WAYS.keys() - ways.keys())
    smallest: dict[str, Figure] = {}
    for size in sizes:
        for name, got in _of_size(size, saves, ways):
            first = smallest.setdefault(name, got)
            if size <= 1_000:
                yield Row(f"save → registered, {size:,} tasks, {name}", got, budget=BUDGET)
                continue
            yield Row(f"save → registered, {size:,} tasks, {name}", got)
            yield Row(f"  of the p50 with {sizes[0]} tasks", Figure(got.p50 / first.p50), "×", Budget(GROWTH))


def _of_size(size: int, saves: int, ways: dict[str, Way]) -> Iterator[tuple[str, Figure]]:
    with up(prepare=partial(write_tasks, count=size)) as place:
        place.subscribe(Task)
        place.calm(0.3)
        for number in range(3):
            _one(place, plain, f"t{number}", f"warm {number}")
        for name, way in ways.items():
            yield name, figure([_one(place, way, f"t{number * 7919 % size}", f"{name} {number}") for number in range(saves)])


def _one(place: Place, way: Way, id: str, text: str) -> float:
    """ms from the save to the Task."""
    file = place.system.tasks / id / "task.sh"
    task = place.system.reader().get(Task, id)
    assert task is not None
    when = way(file, SCRIPT.format(text=text))
    heard = saved = 0.0
    while heard <= saved:  # else a tool's temporary files were read: it was not done yet
        task = _next(place, task)
        heard = time.time()
        saved = when()
    place.calm()
    return (heard - saved) * 1000


def _next(place: Place, task: Task) -> Task:
    """The same task, when it has another digest."""
    return place.heard(Task, lambda heard: heard.id == task.id and heard.digest != task.digest)


def plain(file: Path, text: str) -> Callable[[], float]:
    began = time.time()
    file.write_text(text)
    return lambda: began


def rename(file: Path, text: str) -> Callable[[], float]:
    """As an editor does it."""
    fresh = file.with_name(f".{file.name}.swp")
    began = time.time()
    fresh.write_text(text)
    fresh.chmod(0o755)
    os.replace(fresh, file)
    return lambda: began


def sed(file: Path, text: str) -> Callable[[], float]:
    return _tool(file, "sed", "-i", f"s/^echo .*/{text.splitlines()[-1]}/", str(file))


def rsync(file: Path, text: str) -> Callable[[], float]:
    """From a folder beside the source."""
    theirs = file.parents[2] / "theirs.sh"
    theirs.write_text(text)
    theirs.chmod(0o755)
    return _tool(file, "rsync", "--ignore-times", "--perms", str(theirs), str(file))


def _tool(file: Path, *argv: str) -> Callable[[], float]:
    """When the file came to its place, by the kernel's clock of a tick: up to 4 ms early, which counts against us."""
    process = subprocess.Popen(argv)

    def when() -> float:
        assert process.wait() == 0, f"{argv[0]} failed"
        return file.stat().st_ctime_ns / 1e9

    return when


WAYS: dict[str, Way] = {"plain save": plain, "atomic rename": rename, "sed -i": sed, "rsync": rsync}
