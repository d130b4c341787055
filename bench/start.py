"""How long from a trigger to the task code's first line (DESIGN 11: python, warm, p50 ≤ 6 ms).

`python bench/start.py [runs]` starts a store and a worker in a folder of its own, enqueues one run after another, and prints
the time from just before the enqueue to the clock read in the first line of the task, and how much of it is the queue's:
from before the enqueue to the claim.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from dicode.messages.commands import Enqueue, Enqueued, Found, Get, Write, Written
from dicode.messages.kinds import ENDED, Run, RunTrigger, Task
from dicode.messages.task import Runtime, TaskSpec, Trigger
from dicode.process.blobs import Bundles
from dicode.process.mirror import put
from dicode.process.settings import Settings
from dicode.spec.runs import run_id
from dicode.wire.blocking import BlockingWire
from dicode.wire.frames import decode_body, endpoints

SCRIPTS: dict[str, tuple[Runtime, str, str]] = {
    "python, warm": ("python", "task.py", "import time; result = time.time_ns()"),
    "shell": ("shell", "task.sh", "date +%s%N > $DICODE_RESULT"),
    "deno": ("deno", "task.js", "const at = Date.now() * 1e6; export default () => at"),
}
DEADLINE = 30.0  # seconds for anything


def register(settings: Settings, wire: BlockingWire, runtime: Runtime, name: str, text: str) -> str:
    """A task with one file. Gives its id."""
    spec = TaskSpec(name="bench", trigger=Trigger(manual=True))
    spec_json = msgspec.json.encode(spec, order="deterministic")
    content = text.encode()
    lines = f"- {hashlib.sha256(content).hexdigest()} {len(content)} {name}\n"
    manifest = f"dicode-digest/1\nspec {hashlib.sha256(spec_json).hexdigest()}\n{lines}".encode()
    digest = hashlib.sha256(manifest).hexdigest()
    Bundles(settings.bundles, settings.trees).put(digest, manifest, spec_json, [(name, "-", content)])
    id = f"bench/{runtime}"
    wire.ask(Write(ops=(put(Task(id=id, source="bench", digest=digest, process=digest, spec=spec, runtime=runtime), id),)), Written)
    return id


def one(wire: BlockingWire, task: str, key: str) -> tuple[float, float]:
    """(ms to the first line, ms to the claim) of one run."""
    run = Run(id=run_id(task, "manual", key), task=task, unique=key, trigger=RunTrigger("manual", key))
    began = time.time_ns()
    wire.ask(Enqueue(run=run), Enqueued)
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        found = decode_body("Run", wire.ask(Get(what="Run", key=run.id), Found).body)
        assert isinstance(found, Run)
        if found.status in ENDED:
            assert found.result is not None, found.error
            return (int(found.result.value) - began) / 1e6, found.started - began / 1e6
        time.sleep(0.002)
    raise TimeoutError(task)


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(Path(folder) / "data", None)
        settings.make()
        environ = {**os.environ, "DICODE_DATA_DIR": str(settings.data_dir)}
        roles = [subprocess.Popen([sys.executable, "-P", "-m", "dicode", role], env=environ) for role in ("store", "worker")]
        wire = BlockingWire(*endpoints(settings.data_dir))
        try:
            for title, (runtime, name, text) in SCRIPTS.items():
                task = register(settings, wire, runtime, name, text)
                for number in range(5):
                    one(wire, task, f"{task}-first-{number}")
                times = sorted(one(wire, task, f"{task}-{number}") for number in range(runs))
                line, claim = [first for first, _ in times], [claimed for _, claimed in times]
                print(
                    f"{title:14} n={runs}  first line p50 {statistics.median(line):6.2f} ms  p99 {line[int(runs * 0.99)]:6.2f} ms"
                    f"   (claimed after {statistics.median(claim):.1f} ms)"
                )
        finally:
            wire.close()
            for role in reversed(roles):
                role.terminate()
                role.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
