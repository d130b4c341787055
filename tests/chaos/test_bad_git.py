"""Part E (55-76) of the abuse list against the running system: who serves nonsense hurts his own source alone, and everybody is told why.

Beside each stands a good repository: its pushes are live on time, its schedule fires, no role dies or swells, nothing is written outside of data_dir.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.chaos import bad_git
from tests.chaos.bad_git import TRAP, only, stuck
from tests.chaos.load import SOAK
from tests.support import git_remote
from tests.support.git_remote import Repository, Server, git, serving
from tests.support.git_system import (
    SECRET,
    SECRET_ENV,
    at_commit,
    conditions,
    generations,
    git_source,
    leaks,
    push,
    registered_again,
    source_shown,
    sync,
)
from tests.support.raw_repository import RawRepository
from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.kinds import Schedule, Source, Task
from dicode.process.clock import wall_ms

pytestmark = [pytest.mark.process, pytest.mark.timeout(300 if SOAK else 120)]
ON_TIME = 30.0  # seconds, for a push that takes half a second on a quiet machine
SHOWN = 60.0  # seconds until whatever is wrong is told
GROWTH = 64 << 20  # bytes the source-controller may grow by (G2)
CANARY = "CANARY-5f2c9d1e7a"
WORDS = ("THE-REMOTES-WORDS", "SECRET-METADATA-42")
TICK = 'name: tick\nruntime: shell\ntrigger: {cron: "@every 1s", catch_up: all}\n'


class Ground:
    """An installation, a good repository that is its neighbour, and an eye on everything that must stay as it is."""

    def __init__(self, system: System, server: Server) -> None:
        self.system = system
        self.server = server
        self.neighbour = Repository(server.folder, "neighbour")
        self.neighbour.commit({"tick/task.yaml": TICK, "tick/task.sh": "true\n", "edited/task.yaml": bad_git.GOOD, "edited/task.sh": "echo 0\n"})
        self.pushes = 0

    def up(self, *sources: str, more: str = "", **environ: str) -> None:
        """`dicode up` with the neighbour and these."""
        self.sources = "sources:\n" + git_source("neighbour", f"{self.server.url}/neighbour") + "".join(sources)
        self.system.write_config(self.sources + more)
        self.outside = self._outside()
        self.keeper = self.system.up(**{SECRET_ENV: SECRET, **environ})
        self.system.object(Schedule, "tick", lambda schedule: schedule.last)
        self.pids = self.system.pids(self.keeper)
        self.size = self._size()

    def url(self, name: str) -> str:
        return f"{self.server.url}/{name}"

    def neighbour_is_on_time(self) -> None:
        """What is pushed there is live, and its schedule fires."""
        self.pushes += 1
        commit = self.neighbour.commit({"edited/task.sh": f"echo {self.pushes}\n"})
        before = self.system.object(Task, "edited").generation
        assert push(self.system, "neighbour")
        at_commit(self.system, "neighbour", commit, ON_TIME)
        self.system.object(Task, "edited", lambda task: task.generation > before, ON_TIME)
        began = wall_ms()
        self.system.object(Schedule, "tick", lambda schedule: schedule.last >= began)

    def nothing_happened(self) -> None:
        """No role died or grew, nobody was sent anywhere, nothing was written where it does not belong."""
        assert self.system.pids(self.keeper) == self.pids
        assert self._size() < self.size + GROWTH
        assert self._outside() == self.outside
        assert not list(Path("/tmp").glob(f"*{TRAP}*"))
        assert not [path for path in self.system.data.rglob(f"*{TRAP}*") if "mirrors" not in path.parts]

    def _size(self) -> int:
        return int(psutil.Process(self.pids["source-controller"][0]).memory_info().rss)

    def _outside(self) -> set[str]:
        """Everything beside data_dir, but for what git and this test write."""
        mine = {self.system.data, self.server.folder, self.system.output}
        found = set()
        for folder, folders, names in os.walk(self.system.home):
            folders[:] = [name for name in folders if Path(folder, name) not in mine]
            found |= {str(Path(folder, name)) for name in (*names, *folders) if Path(folder, name) not in mine}
        return found


@pytest.fixture
def ground(system: System) -> Iterator[Ground]:
    with serving(system.home / "remote") as server:
        ground = Ground(system, server)
        yield ground
        assert ground.keeper.poll() is None


def refusal(shown: dict[str, Any]) -> str:
    """Why it is not ready; "" when it is."""
    ready = conditions(shown).get("Ready")
    return f"{ready['reason']}: {ready['message']}" if ready else ""


def test_crafted_trees_hurt_only_their_own_task(ground: Ground) -> None:
    system = ground.system
    made = bad_git.write_trees(RawRepository(ground.server.folder / "evil"))
    ground.up(git_source("evil", ground.url("evil")))
    for id in made.good:
        system.object(Task, id, lambda task: task.sync == "Synced" and task.digest, SHOWN)
    wait_for(lambda: system.objects(Task).keys() >= {*made.bad, *made.good}, "each bad task is there", SHOWN)
    tasks = {each["id"]: each for each in system.get("tasks")}
    untold = {id: refusal(tasks[id]) for id in made.bad if f"evil@{system.object(Source, 'evil').revision[:7]}:{id}" not in refusal(tasks[id])}
    assert not untold, untold
    assert not [id for id in made.bad if tasks[id]["digest"]]
    assert "\x1b" not in json.dumps(tasks, ensure_ascii=False)
    for id in made.good:
        done = system.run("run", id)
        assert (done.returncode, done.stdout) == (0, "I am well\n"), done.stderr
    assert "submodule" in refusal(tasks["e76-submodule"]) and "LFS" in refusal(tasks["e76-lfs"])
    ground.neighbour_is_on_time()
    ground.nothing_happened()


def test_crafted_repositories_and_servers_hurt_only_their_own_source(ground: Ground) -> None:
    """None of them was ever good; each says why, and has no tasks or one that says why."""
    system, server = ground.system, ground.server
    for name, make in bad_git.REPOSITORIES.items():
        make(server.folder / name)
    tricks = {
        "e70-endless-refs": git_remote.endless_refs,
        "e71-reset": git_remote.reset,
        "e71-500": git_remote.status(500),
        "e71-401": git_remote.status(401),
        "e71-404": git_remote.status(404),
        "e71-truncated": git_remote.truncate,
    }
    Repository(server.folder, "e71-truncated").commit({"a/task.yaml": bad_git.GOOD, "a/task.sh": "true\n"})
    server.tricks += [only(name, trick) for name, trick in tricks.items()]
    names = [*bad_git.REPOSITORIES, *tricks]
    ground.up(*(git_source(name, ground.url(name)) for name in names))
    ground.neighbour_is_on_time()
    for name in names:
        shown = source_shown(system, name, lambda source: source["status"] != "pending", SHOWN)
        told = conditions(shown) or {each["id"]: refusal(each) for each in system.get("tasks", "--source", name) if refusal(each)}
        assert told, shown
        assert not any(word in json.dumps(shown) for word in WORDS)
    ground.neighbour_is_on_time()
    for word in WORDS:
        assert word not in system.said()
    ground.nothing_happened()


def test_remotes_that_never_end_keep_nobody_waiting(ground: Ground) -> None:
    """More of them than there are syncs at the same time. Soaked, each is told after its minute; here they break off at last."""
    system = ground.system
    released = threading.Event()
    tricks = [stuck(released), stuck(released, bad_git.DRIP_HEAD, b"x")]
    names = [f"e71-stuck-{number}" for number in range(10)]
    with serving(system.home / "remote" / "stuck") as server:
        server.tricks += [only(name, tricks[number % 2]) for number, name in enumerate(names)]
        ground.up()
        system.write_config(ground.sources + "".join(git_source(name, f"{server.url}/{name}") for name in names))
        wait_for(lambda: len(server.hits) >= 4, "they are stuck")
        for _ in range(3):
            ground.neighbour_is_on_time()
        if not SOAK:
            released.set()
        for name in names:
            shown = source_shown(system, name, lambda source: conditions(source), 4 * SHOWN)
            assert shown["status"] == "unavailable", shown
            if SOAK:
                assert "TimedOut" in json.dumps(shown)
        ground.neighbour_is_on_time()
        released.set()
    ground.nothing_happened()


def test_a_redirect_inward_is_followed_by_nobody(ground: Ground) -> None:
    system, server = ground.system, ground.server
    with serving(system.home / "remote" / "inner") as inner:
        inner.tricks.append(lambda handler: not handler.answer(200, b"SECRET-METADATA-42\n"))  # type: ignore[func-returns-value]
        places = {
            "e72-inner": f"{inner.url}/x/info/refs?service=git-upload-pack",
            "e72-metadata": "http://169.254.169.254/latest/meta-data/",
            "e72-file": "file:///etc/passwd",
        }
        server.tricks += [
            only(name, git_remote.status(code, Location=there)) for (name, there), code in zip(places.items(), (302, 307, 301), strict=True)
        ]
        ground.up(*(git_source(name, ground.url(name), auth="{token_env: CANARY_TOKEN}") for name in places), CANARY_TOKEN=CANARY)
        for name in places:
            shown = source_shown(system, name, lambda source: conditions(source), SHOWN)
            assert "Redirected" in json.dumps(shown) and shown["status"] == "unavailable"
        assert inner.hits == []
    ground.neighbour_is_on_time()
    assert leaks(system, [*WORDS, CANARY, b64encode(f"git:{CANARY}".encode()).decode()]) == []
    ground.nothing_happened()


def test_what_is_no_url_starts_nothing(ground: Ground) -> None:
    system, server = ground.system, ground.server
    entries = "".join(f"    e{number}: {{ref: {{url: {json.dumps(url)}}}}}\n" for number, url in enumerate(bad_git.URLS_IN_A_REPOSITORY))
    good = "    good: {ref: {path: ./good}}\n"
    set_file = f"apiVersion: dicode/v1\nkind: TaskSet\nmetadata: {{name: urls}}\nspec:\n  entries:\n{good}{entries}"
    urls = Repository(server.folder, "urls")
    urls.commit({"taskset.yaml": set_file, "good/task.yaml": "kind: Task\n" + bad_git.GOOD, "good/task.sh": bad_git.WELL})
    ground.up(git_source("urls", ground.url("urls")))
    system.object(Task, "urls/good", lambda task: task.sync == "Synced" and task.digest, SHOWN)
    for number, url in enumerate(bad_git.URLS_IN_A_REPOSITORY):
        task = system.object(Task, f"urls/e{number}", lambda task: task.conditions, SHOWN)
        assert refusal(system.get("tasks", task.id)), url
    for number, url in enumerate(bad_git.URLS):
        name = f"bad-{number}"
        done = system.run("source", "add", name, "--", url)
        if done.returncode == 0:
            shown = source_shown(system, name, lambda source: conditions(source))
            assert shown["status"] == "unavailable" and "BadUrl" in json.dumps(shown), shown
        else:
            assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, (url, done.returncode, done.stderr)
    ground.neighbour_is_on_time()
    ground.nothing_happened()


def test_history_that_is_rewritten_all_the_time_is_followed_to_its_end(ground: Ground) -> None:
    system = ground.system
    restless = Repository(ground.server.folder, "restless")
    files = {"a/task.yaml": bad_git.GOOD, "a/task.sh": "echo 0\n", "b/task.yaml": bad_git.GOOD, "b/task.sh": "true\n"}
    restless.commit(files)
    ground.up(git_source("restless", ground.url("restless"), every="1s"))
    system.object(Task, "b", lambda task: task.digest)
    before = generations(system)
    for number in range(30 if SOAK else 8):
        commit = restless.commit({"a/task.sh": f"echo {number}\n"}, amend=True)
        if number % 3 == 0:
            push(system, "restless")
    at_commit(system, "restless", commit, SHOWN)
    done = wait_for(lambda: found if (found := system.run("run", "a")).stdout == f"{number}\n" else None, "the last of them runs", ON_TIME)
    assert done.returncode == 0
    assert registered_again(system, before) <= {"a"}
    ground.neighbour_is_on_time()
    ground.nothing_happened()


def test_a_branch_that_goes_and_a_repository_that_is_emptied_remove_nothing(ground: Ground) -> None:
    system = ground.system
    fickle = Repository(ground.server.folder, "fickle")
    first = fickle.commit({"a/task.yaml": bad_git.GOOD, "a/task.sh": bad_git.WELL})
    ground.up(git_source("fickle", ground.url("fickle")))
    system.object(Task, "a", lambda task: task.sync == "Synced" and task.digest)
    at_commit(system, "fickle", first)
    before = generations(system)
    for way in ("deleted", "renamed", "emptied"):
        if way == "deleted":
            fickle.delete("refs/heads/main")
        elif way == "renamed":
            git(fickle.bare, "branch", "-m", "main", "trunk")
            git(fickle.bare, "symbolic-ref", "HEAD", "refs/heads/nowhere")
        else:
            fickle.empty()
        done = system.run("source", "sync", "fickle", "--wait")
        assert done.returncode == 1 and "'main'" in done.stderr, done.stderr
        shown = source_shown(system, "fickle", lambda source: conditions(source))
        assert (shown["status"], shown["revision"]) == ("stale", first) and "RefNotFound" in json.dumps(shown)
        assert system.run("run", "a").stdout == "I am well\n"
        assert registered_again(system, before) == set()
        first = fickle.commit({}, f"{way}, and back")
        sync(system, "fickle")
        at_commit(system, "fickle", first)
        assert not conditions(system.get("sources", "fickle"))
    ground.neighbour_is_on_time()
    ground.nothing_happened()


def test_no_canary_leaks(system: System) -> None:
    """Tokens that are right, wrong, or stand in a URL or a ref; a webhook's secret; a host that answers what it was told."""
    forms = [CANARY, b64encode(f"git:{CANARY}".encode()).decode(), b64encode(f"x-access-token:{CANARY}".encode()).decode()]
    echo = CANARY + "-said-by-the-remote"
    with serving(system.home / "remote", token=CANARY) as server, serving(system.home / "other") as babbler:
        babbler.tricks.append(lambda handler: not handler.answer(500, f"{echo} {handler.headers}".encode(), **{"X-Said": echo}))  # type: ignore[func-returns-value]
        private = Repository(server.folder, "private")
        private.commit({"a/task.yaml": "kind: Task\n" + bad_git.GOOD, "a/task.sh": bad_git.WELL})
        refs = {
            "good": f"{{url: '{server.url}/private', path: a, auth: {{token_env: RIGHT_TOKEN}}}}",
            "user": f"{{url: 'http://git:{CANARY}@host/private'}}",
            "query": f"{{url: 'https://host/private?token={CANARY}'}}",
            "bare": f"{{url: '{server.url}/private', auth: {CANARY}}}",
            "echo": f"{{url: '{babbler.url}/private', auth: {{token_env: RIGHT_TOKEN}}}}",
        }
        entries = "".join(f"    {key}: {{ref: {ref}}}\n" for key, ref in refs.items())
        Repository(server.folder, "sets").commit({"taskset.yaml": f"kind: TaskSet\nspec:\n  entries:\n{entries}"})
        auth = "{token_env: RIGHT_TOKEN}"
        system.write_config(
            f"credentials: [{{match: '{babbler.url}/', token_env: WRONG_TOKEN}}]\nsources:\n"
            + git_source("sets", f"{server.url}/sets", auth=auth, allowed_token_envs="[RIGHT_TOKEN]")
            + git_source("private", f"{server.url}/private", auth=auth)
            + git_source("refused", f"{server.url}/private", auth="{token_env: WRONG_TOKEN}", path="a")
            + git_source("babbler", f"{babbler.url}/private", auth=auth)
        )
        system.up(**{SECRET_ENV: CANARY + "-of-pushes", "RIGHT_TOKEN": CANARY, "WRONG_TOKEN": CANARY + "-wrong"})
        system.object(Task, "a", lambda task: task.digest)
        system.object(Task, "sets/good", lambda task: task.digest, SHOWN)
        for key in refs.keys() - {"good"}:
            system.object(Task, f"sets/{key}", lambda task: task.conditions and not task.digest, SHOWN)
        for name in ("refused", "babbler"):
            source_shown(system, name, lambda source: conditions(source), SHOWN)
        host = server.url.removeprefix("http://")
        for url in (f"http://git:{CANARY}@{host}/private", f"http://{CANARY}{'x' * 30}@{host}/private", f"http://{host}/private?token={CANARY}"):
            done = system.run("source", "add", "in-the-url", url)
            assert done.returncode == 2 and CANARY not in done.stderr + done.stdout, done
        with contextlib.suppress(AssertionError):
            system.write_config(f"sources:\n  - {{name: in-the-url, type: git, url: 'http://git:{CANARY}@{host}/private'}}\n")
            wait_for(lambda: "dicode.yaml:" in system.said() or "in-the-url" in system.objects(Source), "the config is read", 10)
        shown = [system.run("get", what, "-o", "json").stdout for what in ("sources", "tasks", "events", "routes")]
        shown += [system.run("describe", kind.__name__.lower(), name).stdout for kind in (Source, Task) for name in system.objects(kind)]
        assert not [text for text in shown if CANARY in text]
        assert leaks(system, [*forms, echo]) == []
        assert not any(CANARY in header for seen in babbler.seen for name, header in seen.items() if name != "Authorization")
