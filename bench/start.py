"""From a trigger to the task code's first line: from just before the enqueue to the clock read in the first line of the task."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from sys import executable
from time import time_ns

from bench.place import Place, up
from bench.table import Budget, Finding, Note, Row, figure
from tests.support.system import System

from dicode.messages.commands import Enqueue, Enqueued
from dicode.messages.kinds import ENDED, Run, RunTrigger
from dicode.spec.runs import run_id

BUDGET = Budget(p50=6)
SCRIPTS = {
    "python": ("task_py", "import time; result = time.time()\n"),
    "shell": ("task_sh", "#!/bin/bash\nLC_ALL=C; echo $EPOCHREALTIME > $DICODE_RESULT\n"),
    "deno": ("task_js", "const at = Date.now() / 1000; export default () => at;\n"),
}


def run(quick: bool) -> Iterator[Finding]:
    runs = 10 if quick else 100
    runtimes = [name for name in SCRIPTS if name != "deno" or _has_deno()]
    if "deno" not in runtimes:
        yield Note("first line of a deno task: skipped, deno is not installed (pip install 'dicode[deno]')")
    with up(prepare=_write) as place:
        place.subscribe(Run)
        for runtime in runtimes:
            for number in range(5):
                _one(place, runtime, f"warm {number}")
            taken = [_one(place, runtime, f"run {number}") for number in range(runs)]
            yield Row(f"trigger → first line, {runtime}, warm", figure(taken), budget=BUDGET if runtime == "python" else Budget())


def _has_deno() -> bool:
    return bool(shutil.which("deno")) or (Path(executable).parent / "deno").exists()


def _write(system: System) -> None:
    for runtime, (file, text) in SCRIPTS.items():
        if runtime != "deno" or _has_deno():
            system.write_task(runtime, f"name: {runtime}\nruntime: {runtime}\ntrigger: {{manual: true}}\n", **{file: text})


def _one(place: Place, task: str, key: str) -> float:
    """ms to the first line of one run, which has ended and after which nothing more follows."""
    run = Run(id=run_id(task, "manual", key), task=task, unique=f"{task}:{key}", trigger=RunTrigger("manual", key))
    began = time_ns() / 1e9
    place.wire.ask(Enqueue(run=run), Enqueued)
    ended = place.heard(Run, lambda heard: heard.id == run.id and heard.status in ENDED)
    assert ended.status == "succeeded" and ended.result is not None, f"{task}: {ended.status}: {ended.error}"
    place.calm(0.01)
    return (float(ended.result.value) - began) * 1000
