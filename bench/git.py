"""Git: from a push webhook to the registered task, what polls cost, two hundred repositories, ten thousand tasks in nested sets.

Beside it stands what git itself takes for the same commit, from the same server: `git fetch` into a bare clone, and fetch and checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psutil
from bench.place import Place, up
from bench.remote import Remote, remote
from bench.table import Budget, Figure, Finding, Row, figure
from tests.support.git_remote import ENVIRON, Repository
from tests.support.git_system import SECRET, SECRET_ENV, push
from tests.support.processes import descendants, proportional_memory
from tests.support.system import System

from dicode.messages.kinds import Task

YAML = "kind: Task\nname: Task {number}\nruntime: shell\ntrigger: {{manual: true}}\n"
SCRIPT = "#!/bin/sh\necho {text}\n"
FOLDERS, FILES = 400, 5  # task folders of the repository that is pushed to, and files in each
LIKE_FETCH = 1.5  # times a bare git fetch, at most
POLL_CPU = 20.0  # ms of processor time for a poll without news
SHARE = 15.0  # % of a core for REPOSITORIES, each polled every POLL seconds
REPOSITORIES, POLL = 200, 30
OVERRIDE = 100.0  # ms from the change of an override to the registration
SETS, IN_EACH = 100, 100
REST = 3.0  # seconds after ready, until the first start's work is done


def run(quick: bool) -> Iterator[Finding]:
    with TemporaryDirectory(prefix="dcb-", dir="/tmp") as name, remote(Path(name)) as host:
        one = yield from _pushes(Path(name), host, 5 if quick else 30)
        yield from _polls(host, 4.0 if quick else 20.0)
        yield from _many(Path(name), host, *((20, 15.0) if quick else (REPOSITORIES, 60.0)))
        yield Row(f"mirror of {FOLDERS * FILES:,} files after all pushes: on disk", Figure(one.disk), "MB")
    yield from _nested(*((10, 100, 3) if quick else (SETS, IN_EACH, 20)))


class Held(NamedTuple):
    """What is held for one repository: of memory by controller and fetcher, on disk by the mirrors. MB."""

    memory: float
    disk: float


# ── a push ──


def _pushes(folder: Path, host: Remote, pushes: int) -> Iterator[Finding]:
    """Gives back what one repository takes."""
    repository = Repository(folder, "tasks")
    repository.commit({path: text for number in range(FOLDERS) for path, text in _task(number).items()})
    url = f"{host.url}/tasks"
    clones = {name: folder / name for name in ("fetched", "checked out")}
    _git(folder, "clone", "-q", "--bare", url, str(clones["fetched"]))
    _git(folder, "clone", "-q", url, str(clones["checked out"]))
    ways: dict[str, Callable[[], object]] = {
        "git fetch": lambda: _git(clones["fetched"], "fetch", "-q", url, "+refs/heads/main:refs/heads/main"),
        "git fetch + checkout": lambda: _fetch_and_checkout(clones["checked out"]),
    }
    taken: dict[str, list[float]] = {name: [] for name in (*ways, "ours")}
    with up(prepare=partial(_write_sources, urls=[url], every="1h"), **{SECRET_ENV: SECRET}) as place:
        yield Row(f"clone and first reading: `dicode up` → ready, {FOLDERS * FILES:,} files, {FOLDERS} tasks", Figure(place.seconds), "s")
        place.subscribe(Task)
        place.calm(0.3)
        for number in range(-3, pushes):  # the first ones warm up
            id = f"t{number * 7919 % FOLDERS}"
            commit = repository.commit({f"{id}/task.sh": SCRIPT.format(text=f"push {number}")})
            figures = {"ours": _live(place, id, commit), **{name: _timed(way) for name, way in ways.items()}}
            for name, each in figures.items():
                if number >= 0:
                    taken[name].append(each)
        held = _held(place)
    peers = tuple((name, figure(taken[name])) for name in ways)
    least = peers[0][1].p50
    yield Row(f"push webhook → registered, {FOLDERS * FILES:,} files, one changed", figure(taken["ours"]), "ms", Budget(LIKE_FETCH * least), peers)
    yield Row("  of a bare git fetch of the same commit, by the p50", Figure(figure(taken["ours"]).p50 / least), "×", Budget(LIKE_FETCH))
    return held


def _task(number: int) -> dict[str, str]:
    more = {f"t{number}/part{part}.txt": f"part {part} of task {number}\n" * 20 for part in range(FILES - 2)}
    return {f"t{number}/task.yaml": YAML.format(number=number), f"t{number}/task.sh": SCRIPT.format(text="first"), **more}


def _live(place: Place, id: str, commit: str) -> float:
    """ms from the webhook to the Task of this commit."""
    began = time.perf_counter()
    assert push(place.system, "s0")
    place.heard(Task, lambda task: task.id == id and task.revision == commit)
    taken = time.perf_counter() - began
    place.calm()
    return taken * 1000


def _timed(way: Callable[[], object]) -> float:
    began = time.perf_counter()
    way()
    return (time.perf_counter() - began) * 1000


def _fetch_and_checkout(clone: Path) -> None:
    _git(clone, "fetch", "-q", "origin")
    _git(clone, "reset", "-q", "--hard", "origin/main")


def _git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, env=ENVIRON, check=True, stdin=subprocess.DEVNULL, timeout=60)


def _write_sources(system: System, urls: list[str], every: str) -> None:
    lines = "".join(
        f"  - {{name: s{number}, type: git, url: '{url}', poll_interval: {every}, webhook_secret_env: {SECRET_ENV}}}\n"
        for number, url in enumerate(urls)
    )
    system.write_config(f"sources:\n{lines}")


# ── polls ──


def _polls(host: Remote, seconds: float) -> Iterator[Finding]:
    """One repository, polled every second."""
    with up(prepare=partial(_write_sources, urls=[f"{host.url}/tasks"], every="1s")) as place:
        time.sleep(REST)
        asked, worked = host.asked(), _worked(place)
        time.sleep(seconds)
        polls, cpu = host.asked() - asked, _worked(place) - worked
    yield Row(
        f"poll without news: processor time of controller, fetcher and child, over {polls} polls", Figure(cpu / polls * 1000), "ms", Budget(POLL_CPU)
    )


def _many(folder: Path, host: Remote, count: int, seconds: float) -> Iterator[Finding]:
    first = Repository(folder, "r0")
    first.commit(_task(0))
    urls = [f"{host.url}/r{number}" for number in range(count)]
    for number in range(1, count):
        shutil.copytree(first.bare, folder / f"r{number}")
    with up(prepare=partial(_write_sources, urls=urls[:1], every=f"{POLL}s")) as place:
        time.sleep(REST)
        one = _held(place)
    with up(prepare=partial(_write_sources, urls=urls, every=f"{POLL}s")) as place:
        yield Row(f"clone and first reading: `dicode up` → ready, {count} repositories", Figure(place.seconds), "s")
        time.sleep(REST)
        asked, worked, began = host.asked(), _worked(place), time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - began
        share, polls = (_worked(place) - worked) / passed * 100, host.asked() - asked
        held = _held(place)
    yield Row(f"{count} repositories polled every {POLL} s: of one core, over {seconds:g} s ({polls} polls)", Figure(share), "%", Budget(SHARE))
    yield Row(f"{count} repositories: memory (PSS) of controller and fetcher", Figure(held.memory), "MB")
    yield Row("  for each repository more", Figure(max(0.0, held.memory - one.memory) / (count - 1) * 1000), "kB")
    yield Row("  on disk for each, of one task", Figure(held.disk / count * 1000), "kB")


def _those(place: Place) -> list[psutil.Process]:
    """The source-controller and all below it."""
    pid = place.system.pid(place.keeper, "source-controller")
    return [psutil.Process(pid), *descendants(pid)]


def _worked(place: Place) -> float:
    """Seconds of processor time they have used, ended children too."""
    return sum(sum(process.cpu_times()[:4]) for process in _those(place))


def _held(place: Place) -> Held:
    files = [path for path in (place.system.data / "mirrors").rglob("*") if path.is_file()]
    disk = sum(path.stat().st_blocks * 512 for path in files)
    memory = sum(proportional_memory(process.pid) for process in _those(place))
    return Held(memory / 1024, disk / 1e6)


# ── nested sets ──


def _nested(sets: int, in_each: int, saves: int) -> Iterator[Finding]:
    tasks = sets * in_each
    with up(prepare=partial(_write_sets, sets=sets, in_each=in_each)) as place:
        yield Row(f"`dicode up` → ready, {tasks:,} tasks in {sets} nested sets", Figure(place.seconds), "s")
        place.subscribe(Task)
        place.calm(1.0)
        for name, write in (("of the root", partial(_write_root, sets=sets)), ("of a nested set", partial(_write_inner, in_each=in_each))):
            taken = [_override(place, write, number, sets) for number in range(-3, saves)][3:]
            yield Row(f"an override {name} changed → registered, {tasks:,} tasks", figure(taken), "ms", Budget(OVERRIDE))


def _override(place: Place, write: Callable[..., str], number: int, sets: int) -> float:
    """ms from the save to the Task."""
    which, value = number % sets, f"value {number} {time.monotonic_ns()}"
    began = time.perf_counter()
    id = write(place.system.tasks, which=which, value=value)
    place.heard(Task, lambda task: task.id == id and task.spec is not None and task.spec.description == value)
    taken = time.perf_counter() - began
    place.calm(0.1)
    return taken * 1000


def _write_sets(system: System, sets: int, in_each: int) -> None:
    for number in range(sets):
        for inner in range(in_each):
            system.write_task(f"s{number}/t{inner}", YAML.format(number=inner), task_sh=SCRIPT.format(text="first"))
        _write_inner(system.tasks, in_each=in_each, which=number)
    _write_root(system.tasks, sets=sets)


def _write_root(tasks: Path, *, sets: int, which: int = 0, value: str = "first") -> str:
    """The root set, which says something about t0 of one set in it; the id of that task."""
    entries = "".join(f"    s{number}: {{ref: {{path: ./s{number}}}{_said(which, number, value)}}}\n" for number in range(sets))
    _replace(tasks / "taskset.yaml", f"kind: TaskSet\nspec:\n  entries:\n{entries}")
    return f"tasks/s{which}/t0"


def _said(which: int, number: int, value: str) -> str:
    return f", overrides: {{entries: {{t0: {{description: {value}}}}}}}" if number == which else ""


def _write_inner(tasks: Path, *, in_each: int, which: int = 0, value: str = "first") -> str:
    """A nested set, which says something about its t1; the id of that task."""
    entries = "".join(
        f"    t{inner}: {{ref: {{path: ./t{inner}}}{f', overrides: {{description: {value}}}' if inner == 1 else ''}}}\n" for inner in range(in_each)
    )
    _replace(tasks / f"s{which}" / "taskset.yaml", f"kind: TaskSet\nspec:\n  entries:\n{entries}")
    return f"tasks/s{which}/t1"


def _replace(file: Path, text: str) -> None:
    fresh = file.with_name(f".{file.name}.new~")
    fresh.write_text(text)
    os.replace(fresh, file)
