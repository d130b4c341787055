"""How long a save takes to become a DesiredTask, and a registered Task: `python bench/save.py [--tasks 10,1000] [--saves 100]`.

A real store, source-controller and reconciler; one file of one task is replaced at a time, as an editor does it. Both times are measured
from before the save, by the wall clock of one process that hears the store's changes; `settle` (10 ms) is in them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.system import System  # the path comes first
from tests.support.waiting import wait_for

from dicode.messages.commands import Ping, Pong
from dicode.messages.kinds import DesiredTask, Source, Task
from dicode.wire.blocking import BlockingWire
from dicode.wire.frames import StoreAway, endpoints

YAML = "name: Task {number}\ntrigger: {{manual: true}}\nparams:\n  channel: '#ops'\ntimeout: 30s\n"
SCRIPT = "#!/bin/sh\necho {text}\n"
ROLES = ("store", "reconciler", "source-controller")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="10,1000", help="sizes of the source, by comma")
    parser.add_argument("--saves", type=int, default=100)
    args = parser.parse_args()
    print(f"{'tasks':>7} {'cold':>8} {'':4} {'save → desired p50':>18} {'p99':>8} {'→ registered p50':>17} {'p99':>8}   (ms)")
    for tasks in map(int, args.tasks.split(",")):
        cold, desired, registered = measure(tasks, args.saves)
        print(f"{tasks:>7} {cold:>7.2f}s {'':4} {p(desired, 50):>18.1f} {p(desired, 99):>8.1f} {p(registered, 50):>17.1f} {p(registered, 99):>8.1f}")


def p(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] * 1000


def measure(tasks: int, saves: int) -> tuple[float, list[float], list[float]]:
    """(seconds until all are registered, seconds of each save to DesiredTask, to Task)."""
    system = System()
    try:
        for number in range(tasks):
            system.write_task(f"t{number}", YAML.format(number=number), task_sh=SCRIPT.format(text="first"))
        system.start("store")
        wire = BlockingWire(*endpoints(system.data))
        wait_for(lambda: answers(wire), "the store answers")
        wire.subscribe(["DesiredTask", "Task"])
        wait_for(lambda: wire.hear(1) is not None, "the subscription took")
        began = time.time()
        for role in ROLES[1:]:
            system.start(role)
        cold = all_registered(wire, tasks) - began
        system.object(Source, "tasks", lambda source: source.status == "ok", 120)
        taken = [one_save(system, wire, number * 7919 % tasks, number) for number in range(saves)]
        wire.close()
        return cold, [each[0] for each in taken], [each[1] for each in taken]
    finally:
        system.close()


def answers(wire: BlockingWire) -> bool:
    try:
        return bool(wire.ask(Ping(), Pong, 0.5))
    except StoreAway:
        return False


def all_registered(wire: BlockingWire, tasks: int) -> float:
    """When so many different tasks have been heard of."""
    known: set[str] = set()
    while len(known) < tasks:
        change = wire.hear(60)
        assert change is not None, f"only {len(known)} tasks were registered"
        if change.heads is None and change.header.kind == Task.__name__:
            known.add(change.header.key)
    return time.time()


def one_save(system: System, wire: BlockingWire, task: int, number: int) -> tuple[float, float]:
    folder = system.tasks / f"t{task}"
    fresh = folder / ".task.sh.new~"
    began = time.time()
    fresh.write_text(SCRIPT.format(text=f"{number} {os.urandom(8).hex()}"))
    fresh.chmod(0o755)
    fresh.replace(folder / "task.sh")
    desired = heard(wire, DesiredTask.__name__, f"tasks/t{task}") - began
    registered = heard(wire, Task.__name__, f"t{task}") - began
    while wire.hear(0.02) is not None:
        pass  # what else follows belongs to this save
    return desired, registered


def heard(wire: BlockingWire, kind: str, key: str) -> float:
    """When this object's next change is heard."""
    until = time.time() + 20
    while time.time() < until:
        change = wire.hear(1.0)
        if change is not None and change.heads is None and (change.header.kind, change.header.key) == (kind, key):
            return time.time()
    raise AssertionError(f"{kind} {key} did not change")


if __name__ == "__main__":
    main()
