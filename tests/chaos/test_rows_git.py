"""Rows 3, 20, 21 and 24 of the fault matrix (RELIABILITY 3.1) where tasks come out of git: the cache, the server, the fetcher and the branch break.

What must hold in each: nothing is removed, no daemon is touched, the last good commit is served, other sources are on time, and
when the fault is over the newest commit is live.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.chaos import bad_git, validators
from tests.chaos.load import EDITED, HOOK, SOAK, Load, daemon_script, daemon_yaml, seeded
from tests.support import git_remote, processes
from tests.support.git_remote import Repository, Server, Trick, git, serving
from tests.support.git_system import SECRET, SECRET_ENV, at_commit, conditions, generations, git_source, push, registered_again, source_shown
from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.kinds import Daemon, Source, Task

pytestmark = [pytest.mark.process, pytest.mark.timeout(900 if SOAK else 120)]
SLACK = 1 if SOAK else 5  # times the bound of the matrix
POLL = 1  # seconds
MANUAL = "name: x\nruntime: shell\ntrigger: {manual: true}\n"
WATCHED = "infra-daemon"


def times(soak: int, ci: int = 3) -> int:
    return soak if SOAK else ci


class Place:
    """The load of the other rows, beside two git sources: `infra`, to which things happen, and `other`, which is to notice nothing."""

    def __init__(self, system: System, server: Server) -> None:
        self.system = system
        self.server = server
        self.infra, self.other = Repository(server.folder, "infra"), Repository(server.folder, "other")
        self.saves = 0
        self.infra.commit(
            {
                f"{WATCHED}/task.yaml": daemon_yaml(WATCHED),
                f"{WATCHED}/task.sh": daemon_script(),
                "infra-edited/task.yaml": MANUAL,
                "infra-edited/task.sh": "echo 0\n",
                **{f"infra-{number}/task.yaml": MANUAL for number in range(8)},
                **{f"infra-{number}/task.sh": f"echo {number}\n" for number in range(8)},
            }
        )
        self.other.commit({"other-edited/task.yaml": MANUAL, "other-edited/task.sh": "echo 0\n"})
        sources = "".join(git_source(name, f"{server.url}/{name}", every=f"{POLL}s") for name in ("infra", "other"))
        self.load = Load(system, sources)
        self.folders = [str(repository.work) for repository in (self.infra, self.other)]

    def up(self) -> None:
        self.keeper = self.system.up(**{SECRET_ENV: SECRET})
        self.steady = self.load.settled()
        self.pid = self.daemon()
        self.settled(30)
        self.before = generations(self.system)

    def daemon(self) -> int:
        return self.system.object(Daemon, WATCHED, lambda daemon: daemon.state == "running" and daemon.pid).pid

    def commit(self, repository: Repository, weight: int = 0, *, amend: bool = False) -> str:
        """A change of the one task that is edited there. `weight`: bytes that no git can make smaller."""
        self.saves += 1
        name = repository.bare.name
        files: dict[str, str | bytes] = {f"{name}-edited/task.sh": f"echo {self.saves}\n"}
        if weight:
            files[f"{name}-edited/noise"] = os.urandom(weight)
        return repository.commit(files, f"save {self.saves}", amend=amend)

    def settled(self, within: float) -> None:
        validators.converged(self.system, within, *self.folders)

    def other_is_on_time(self) -> None:
        commit = self.commit(self.other)
        push(self.system, "other")
        at_commit(self.system, "other", commit)

    def nothing_was_lost(self) -> None:
        """Nobody edited the others, so nobody touched them; no daemon noticed."""
        assert self.load.steady() == self.steady and self.daemon() == self.pid
        touched = registered_again(self.system, self.before) & self.before.keys()
        assert touched <= {"infra-edited", "other-edited", HOOK, EDITED}
        assert self.keeper.poll() is None

    def healed(self, within: float) -> None:
        """A commit that is made now is live."""
        commit = self.commit(self.infra)
        push(self.system, "infra")
        at_commit(self.system, "infra", commit, within)
        self.system.object(Task, "infra-edited", lambda task: task.revision == commit and task.sync == "Synced", within)
        shown = source_shown(self.system, "infra", lambda source: source["status"] == "ok")
        assert not conditions(shown), shown
        self.nothing_was_lost()


@pytest.fixture
def place(system: System) -> Iterator[Place]:
    with serving(system.home / "remote") as server:
        yield Place(system, server)


def fetcher(place: Place) -> psutil.Process:
    """The one that forks for each fetch."""

    def there() -> psutil.Process | None:
        below = processes.descendants(place.system.pid(place.keeper, "source-controller"))
        mine = [process for process in below if "dicode.git.fetcher" in process.cmdline()]
        return next((process for process in mine if process.ppid() not in {each.pid for each in mine}), None)

    return wait_for(there, "the fetcher runs")


# ── row 3 ──


def test_row_3_the_source_controller_killed_between_forced_pushes_ends_at_the_last_of_them(place: Place) -> None:
    """Killed while it asks, while it fetches, when it has fetched, when it has written what it read."""
    place.up()
    moments = [
        lambda: len(place.server.hits),
        lambda: place.server.hits.count("fetch"),
        lambda: {file.name for mirror in mirrors(place) for file in mirror.rglob("*.pack")},
        lambda: set(os.listdir(place.system.data / "bundles")),
    ]
    dice = seeded("row 3, git")
    dice.shuffle(moments)
    with place.load.running():
        for number in range(times(12, len(moments))):
            moment = moments[number % len(moments)]
            before = moment()
            commit = place.commit(place.infra, 2_000_000, amend=number > 0)
            push(place.system, "infra")
            wait_for(lambda moment=moment, before=before: moment() != before, "the moment has come")  # type: ignore[misc]  # bound now
            children = processes.descendants(place.system.pid(place.keeper, "source-controller"))
            pid = place.system.kill(place.keeper, "source-controller")
            wait_for(lambda children=children: not any(processes.lives(child.pid) for child in children), "its children go with it")  # type: ignore[misc]  # bound now
            place.system.replaced(place.keeper, "source-controller", pid)
    at_commit(place.system, "infra", commit, 5 * SLACK)
    validators.all_hold(place.system, place.load.client.accepted, 5 * SLACK, *place.folders)
    assert place.load.steady() == place.steady and place.daemon() == place.pid
    for mirror in mirrors(place):
        git(mirror, "fsck", "--full", "--connectivity-only")


# ── row 20 ──


def mirrors(place: Place) -> list[Path]:
    return [folder for folder in (place.system.data / "mirrors").iterdir() if (folder / "objects").is_dir()]


def packs(mirror: Path, suffix: str) -> list[Path]:
    found = sorted(mirror.rglob(f"*.{suffix}"))
    assert found, f"no *.{suffix} in {mirror}"
    return found


def cut_index(mirror: Path) -> None:
    for file in packs(mirror, "idx"):
        file.chmod(0o600)
        os.truncate(file, file.stat().st_size // 2)


def flip_bits(mirror: Path) -> None:
    for file in packs(mirror, "pack"):
        file.chmod(0o600)
        content = bytearray(file.read_bytes())
        for at in range(12, len(content) - 20, 16):
            content[at] ^= 0x10
        file.write_bytes(content)


def lose_packs(mirror: Path) -> None:
    for file in packs(mirror, "pack"):
        file.unlink()


def empty_refs(mirror: Path) -> None:
    kept = [file for file in (mirror / "refs").rglob("*") if file.is_file()]
    for file in [*kept, *mirror.glob("packed-refs")]:
        file.write_bytes(b"")


def leave_locks(mirror: Path) -> None:
    """As a process does that dies holding them."""
    for name in (
        "HEAD.lock",
        "config.lock",
        "packed-refs.lock",
        *(f"{file.relative_to(mirror)}.lock" for file in (mirror / "refs").rglob("*") if file.is_file()),
    ):
        (mirror / name).touch()


def throw_away(mirror: Path) -> None:
    shutil.rmtree(mirror)


HARMLESS = (empty_refs, leave_locks, throw_away)  # to the objects
CORRUPTIONS: tuple[Callable[[Path], None], ...] = (cut_index, flip_bits, lose_packs, empty_refs, leave_locks, throw_away)


def old_files_in_a_new_place(place: Place, name: str) -> None:
    """A task whose files were fetched before the damage: to read it, the cache must be whole."""
    commit = place.infra.commit({f"{name}/task.yaml": MANUAL, f"{name}/task.sh": "echo 3\n"}, "the files of infra-3 once more")
    push(place.system, "infra")
    at_commit(place.system, "infra", commit, (POLL + 5) * SLACK)
    place.settled((POLL + 5) * SLACK)


def is_whole(mirror: Path) -> bool:
    return subprocess.run(["git", "fsck", "--full"], cwd=mirror, env=git_remote.ENVIRON, capture_output=True).returncode == 0


def test_row_20_a_damaged_cache_is_made_anew_and_nobody_notices(place: Place) -> None:
    place.up()
    for corrupt in CORRUPTIONS:
        for mirror in mirrors(place):
            corrupt(mirror)
            assert corrupt in HARMLESS or not is_whole(mirror), corrupt.__name__
        place.other_is_on_time()
        old_files_in_a_new_place(place, corrupt.__name__)
        place.healed((POLL + 5) * SLACK)
        print(f"{corrupt.__name__}: healed")


def test_row_20_a_cache_damaged_while_everything_was_down_is_made_anew_at_the_start(place: Place) -> None:
    place.up()
    place.system.stop(place.keeper)
    for mirror, corrupt in zip(mirrors(place), (flip_bits, lose_packs), strict=True):
        corrupt(mirror)
    place.keeper = place.system.up(**{SECRET_ENV: SECRET})
    place.steady, place.pid = place.load.settled(), place.daemon()
    place.settled((POLL + 5) * SLACK)
    old_files_in_a_new_place(place, "one-more")
    place.healed((POLL + 5) * SLACK)
    for mirror in mirrors(place):
        assert is_whole(mirror)


# ── row 21 ──


def faults(released: threading.Event) -> dict[str, Trick]:
    """What the server does instead of its work."""
    return {
        "refuses": git_remote.reset,
        "hangs": bad_git.stuck(released),
        "drips": bad_git.stuck(released, bad_git.DRIP_HEAD, b"x"),
        "says 500": git_remote.status(500),
        "asks for a token": git_remote.status(401),
        "truncates": git_remote.truncate,
        "leads inside": git_remote.status(302, Location="http://169.254.169.254/latest/meta-data/"),
        "hangs in the middle": in_the_pack(bad_git.stuck(released)),
    }


def in_the_pack(trick: Trick) -> Trick:
    """Only where a pack is asked for."""
    return lambda handler: b"command=fetch" in handler.body and trick(handler)


def test_row_21_whatever_the_server_does_the_last_good_stays_and_others_are_on_time(place: Place) -> None:
    """Soaked, a remote that hangs is given up after its minute; else it breaks off when the others have been on time."""
    place.up()
    released = threading.Event()
    with place.load.running():
        for name, trick in faults(released).items():
            released.clear()
            good = place.system.object(Source, "infra").revision
            place.server.tricks[:] = [bad_git.only("infra", trick)]
            place.commit(place.infra)
            push(place.system, "infra")
            place.other_is_on_time()
            if not SOAK:
                released.set()
            shown = source_shown(place.system, "infra", lambda source: conditions(source), 65 * SLACK)
            assert (shown["status"], shown["revision"]) == ("stale", good), (name, shown)
            place.nothing_was_lost()
            released.set()
            place.server.tricks.clear()
            place.healed((POLL + 5) * SLACK)
            print(f"{name}: healed")
    validators.all_hold(place.system, place.load.client.accepted, (POLL + 5) * SLACK, *place.folders)


def test_row_21_a_remote_that_dies_in_the_middle_of_a_fetch_and_comes_back_is_caught_up_with(place: Place) -> None:
    """No webhook: the poll finds it. Meanwhile everything is started anew once, without the remote."""
    place.up()
    good = place.system.object(Source, "infra").revision
    place.server.tricks[:] = [in_the_pack(git_remote.truncate)]
    commit = place.commit(place.infra, 3_000_000)
    source_shown(place.system, "infra", lambda source: source["status"] == "stale")
    place.server.tricks[:] = [git_remote.reset]
    place.system.stop(place.keeper)
    place.keeper = place.system.up(**{SECRET_ENV: SECRET})
    shown = source_shown(place.system, "infra", lambda source: source["status"] == "stale")
    assert shown["revision"] == good
    place.system.hears("ready: ")
    assert registered_again(place.system, place.before) == set()
    place.steady, place.pid = place.load.settled(), place.daemon()
    place.server.tricks.clear()
    at_commit(place.system, "infra", commit, (POLL + 65) * SLACK)
    place.settled((POLL + 5) * SLACK)
    place.healed((POLL + 5) * SLACK)


def test_row_21_a_fetcher_that_is_killed_costs_a_try_and_nothing_else(place: Place) -> None:
    place.up()
    dice = seeded("row 21, fetcher")
    roles = place.system.pids(place.keeper)
    for _ in range(times(20)):
        dead = fetcher(place)
        if dice.random() < 0.7:  # in the middle of a fetch
            hits = len(place.server.hits)
            place.commit(place.infra, 1_000_000)
            push(place.system, "infra")
            wait_for(lambda hits=hits: len(place.server.hits) > hits, "it has begun")  # type: ignore[misc]  # bound now
        processes.kill(dead.pid)
        place.other_is_on_time()
        place.healed((POLL + 5) * SLACK)
        assert fetcher(place).pid != dead.pid
    assert place.system.pids(place.keeper) == roles


# ── row 24 ──


def test_row_24_a_commit_that_empties_the_source_removes_nothing_until_it_is_confirmed(place: Place) -> None:
    place.up()
    everything = set(place.system.objects(Task))
    mine = {id for id, task in place.system.objects(Task).items() if task.source == "infra"}
    git(place.infra.work, "rm", "-rqf", ".")
    commit = place.infra.commit({"README.md": "moved elsewhere\n"}, "nothing is left")
    push(place.system, "infra")
    shown = source_shown(place.system, "infra", lambda source: source["status"] == "held")
    assert conditions(shown)
    place.other_is_on_time()
    assert set(place.system.objects(Task)) == everything
    place.nothing_was_lost()
    epoch = place.system.object(Source, "infra").epoch
    pid = place.system.kill(place.keeper, "source-controller")
    place.system.replaced(place.keeper, "source-controller", pid)
    again = place.system.object(Source, "infra", lambda source: source.status == "held" and source.epoch != epoch)
    assert again.revision == commit
    assert set(place.system.objects(Task)) == everything and place.daemon()
    done = place.system.run("source", "confirm", "infra")
    assert done.returncode == 0 and "nothing is held" not in done.stdout, done
    wait_for(lambda: set(place.system.objects(Task)) == everything - mine, "they are gone")
    wait_for(lambda: WATCHED not in place.system.objects(Daemon), "its daemon is gone, too")
    place.other_is_on_time()


def test_row_24_a_commit_that_takes_most_away_and_the_next_that_brings_it_back_cost_nothing(place: Place) -> None:
    place.up()
    everything = set(place.system.objects(Task))
    git(place.infra.work, "rm", "-rqf", ".")
    place.infra.commit({"README.md": "by mistake\n"}, "a mistake")
    push(place.system, "infra")
    source_shown(place.system, "infra", lambda source: source["status"] == "held")
    git(place.infra.work, "revert", "--no-edit", "HEAD")
    place.healed((POLL + 5) * SLACK)
    assert set(place.system.objects(Task)) == everything
