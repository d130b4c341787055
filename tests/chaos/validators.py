"""What must be true after every row, whatever was broken in it (RELIABILITY 3.2)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable

import apsw
import psutil
from tests.chaos.load import CRON_ALL, CRON_LAST, HOOK, Delivery
from tests.support import processes
from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.kinds import ENDED, Daemon, Event, Run, Schedule, Task
from dicode.process.blobs import Bundles
from dicode.process.clock import wall_ms

SLOT = 1_000  # ms between two slots of the cron tasks
FRESH = 4_000  # ms; a schedule that works has decided a slot so lately
HASHED = ("task.sh", "text", "task.yaml")  # in the order in which the tasks hash themselves


def converged(system: System, within: float, *folders: str) -> None:
    """V1: every task carries the digest that `render` finds in its folder, is Synced or says why not, and each daemon runs once.

    `folders`: of further sources, beside `tasks`; of a git source its work tree.
    """
    wanted = {id: digest for folder in ("tasks", *folders) for id, digest in _rendered(system, folder).items()}
    wait_for(lambda: _is_converged(system, wanted), "V1: desired is actual", within)


def _rendered(system: System, folder: str) -> dict[str, str]:
    """Task id → digest, by the offline command; "" for a task with an error."""
    done = system.run("render", folder, "-o", "json")
    assert done.returncode in (0, 1), done.stderr
    return {each["id"]: each.get("digest", "") for each in json.loads(done.stdout)}


def _is_converged(system: System, wanted: dict[str, str]) -> bool:
    tasks = system.objects(Task)
    assert tasks.keys() == wanted.keys()
    for id, digest in wanted.items():
        task = tasks[id]
        if not digest:
            assert refusal(task), f"{id} is broken and does not say so"
            continue
        assert task.digest == digest, f"{id} is at {task.digest[:6]} and should be at {digest[:6]}"
        assert task.sync == "Synced", f"{id} is {task.sync}: {task.conditions}"
        if task.spec is not None and task.spec.trigger.daemon:
            _runs_once(system, id)
    for schedule in system.objects(Schedule).values():
        assert schedule.last > wall_ms() - FRESH, f"{schedule.task} was last looked at {wall_ms() - schedule.last} ms ago"
    return True


def refusal(task: Task) -> str:
    """Why what its folder says was not taken; "" where it was."""
    return next((condition.message for condition in task.conditions if condition.type == "Ready" and not condition.status), "")


def _runs_once(system: System, id: str) -> None:
    daemon = system.objects(Daemon)[id]
    assert daemon.state == "running" and processes.lives(daemon.pid), daemon
    assert daemon_pids(system, id) == [daemon.pid]


def daemon_pids(system: System, id: str) -> list[int]:
    """Every process on this machine that is this daemon of this installation."""
    return [
        process.pid
        for process in processes.left_behind(system.mark, system.home)
        if (environ := _environ(process)).get("DICODE_TASK_ID") == id and "DICODE_DAEMON_ID" in environ
    ]


def _environ(process: psutil.Process) -> dict[str, str]:
    with contextlib.suppress(psutil.Error):
        return process.environ()
    return {}


def every_delivery_is_one_run(system: System, accepted: Iterable[Delivery]) -> None:
    """V2: whatever was answered 2xx is there, once, and ends."""
    told: dict[str, set[str]] = {}
    for delivery in accepted:
        told.setdefault(delivery.key, set()).add(delivery.run)
    assert told, "nothing was accepted"

    def all_ended() -> bool:
        runs = [run for run in system.objects(Run).values() if run.task == HOOK]
        by_key = Counter(run.trigger.key for run in runs)
        by_id = {run.id: run for run in runs}
        for key, ids in told.items():
            assert len(ids) == 1, f"V2: delivery {key} was told to be runs {ids}"
            assert by_key[key] == 1, f"V2: delivery {key} is {by_key[key]} runs"
            (id,) = ids
            assert by_id[id].trigger.key == key
            assert by_id[id].status in ENDED, f"V2: {by_id[id]}"
        return True

    wait_for(all_ended, "every accepted delivery has ended")


def every_slot_is_explained(system: System) -> None:
    """V3: no unique key twice; each slot of a cron task was fired once, or an event says that it was not."""
    cursors = {id: schedule.last for id, schedule in system.objects(Schedule).items()}  # before the runs: these come first
    runs = list(system.objects(Run).values())
    doubled = [key for key, count in Counter(run.unique for run in runs).items() if count > 1]
    assert not doubled, f"V3: twice: {doubled}"
    for id in (CRON_ALL, CRON_LAST):
        fired = sorted(int(run.trigger.key) for run in runs if run.task == id)
        assert fired and all(slot % SLOT == 0 for slot in fired), f"V3: {id} fired at {fired}"
        silent = set(range(fired[0], cursors[id] + 1, SLOT)).difference(fired)
        if id == CRON_ALL:
            assert not silent, f"V3: slots of {id} that were never fired: {sorted(silent)}"
        told = sum(_slots_told_of(event) for event in system.reader().events(limit=100_000, about=f"task/{id}"))
        assert len(silent) <= told, f"V3: {len(silent)} slots of {id} were not fired, events tell of {told}"


def _slots_told_of(event: Event) -> int:
    found = re.match(r"(?:at least )?(\d+) slots? (?:missed|skipped)", event.message)
    return int(found[1]) if found else int(event.reason == "NotFired")


def what_ran_is_what_was_hashed(system: System) -> int:
    """V4: the hash each run made of its own files is that of the bundle of its digest; gives how many runs said so."""
    bundles = Bundles(system.data / "bundles", system.data / "trees")
    expected: dict[str, str] = {}
    said = 0
    for run in system.objects(Run).values():
        if run.result is None or run.task not in (HOOK, CRON_ALL, CRON_LAST):
            continue
        if run.digest not in expected:
            files = bundles.files(run.digest)
            expected[run.digest] = hashlib.sha256(b"".join(files[name][1] for name in HASHED)).hexdigest()
        assert json.loads(run.result.value) == expected[run.digest], f"V4: {run.id} ran other bytes than {run.digest[:6]}"
        said += 1
    assert said, "no run said anything"
    return said


def no_process_of_an_ended_run(system: System) -> None:
    """V7: what a run started has gone with it."""

    def left() -> list[str]:
        found = {environ["DICODE_RUN_ID"] for process in psutil.process_iter() if "DICODE_RUN_ID" in (environ := _environ(process))}
        ended = {run.id for run in system.objects(Run).values() if run.status in ENDED}
        return sorted(found & ended)

    wait_for(lambda: not left(), "V7: no process of an ended run is left")


def store_is_sound(system: System) -> None:
    """V10: the database is whole, and every bundle is what its name says."""
    database = apsw.Connection(str(system.data / "dicode.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        assert database.execute("PRAGMA quick_check").fetchall() == [("ok",)], "V10"
    finally:
        database.close()
    bundles = Bundles(system.data / "bundles", system.data / "trees")
    for digest in bundles.digests():
        bundles.files(digest)
    assert not list((system.data / "bundles").glob("*.bad")), "V10: a bundle was broken"


def all_hold(system: System, accepted: Iterable[Delivery], within: float, *folders: str) -> None:
    """All of them. `within`: the seconds from now until desired is actual. `folders` as in `converged`."""
    converged(system, within, *folders)
    every_delivery_is_one_run(system, accepted)
    every_slot_is_explained(system)
    what_ran_is_what_was_hashed(system)
    no_process_of_an_ended_run(system)
    store_is_sound(system)
