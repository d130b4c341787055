"""Runs from the queue to their result: a real store, real workers, real task processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.waiting import wait_for

from dicode.messages.commands import Cancel, Enqueue, Enqueued, Found, Get, Write, Written
from dicode.messages.kinds import ENDED, Run, RunTrigger, Task
from dicode.messages.task import EnvGrant, Param, Permissions, Retry, TaskSpec, Trigger
from dicode.process.blobs import Bundles
from dicode.process.clock import mono
from dicode.process.mirror import put
from dicode.process.settings import Settings
from dicode.process.tasklog import LOG_MAX, Record, read_log, run_log
from dicode.spec.runs import run_id
from dicode.wire.blocking import BlockingWire
from dicode.wire.frames import StoreAway, decode_body, endpoints

pytestmark = pytest.mark.process
HOST = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8", "HOST_SECRET": "canary"}


class Installation:
    """A data folder with a store, and as many workers as a test starts."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(folder / "data", None)
        self.settings.make()
        self.output = folder / "output.txt"
        self.roles: list[subprocess.Popen[bytes]] = []
        self.wire = BlockingWire(*endpoints(self.settings.data_dir))
        self._count = 0

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        with open(self.output, "ab") as output:
            role = subprocess.Popen(
                [sys.executable, "-P", "-m", "dicode", *words],
                env={**HOST, **PASSED_ON, "DICODE_DATA_DIR": str(self.settings.data_dir)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
            )
        self.roles.append(role)
        return role

    def start_worker(self, *words: str) -> subprocess.Popen[bytes]:
        """A worker's keeper, once its worker is ready."""
        keeper = self.start("worker", *words)
        name = f"worker-{sum('worker' in role.args for role in self.roles)}"  # type: ignore[operator]
        wait_for(lambda: (worker := self.get("Worker", name)) is not None and worker.state == "ready", f"{name} is ready")
        return keeper

    def stop(self, role: subprocess.Popen[bytes]) -> int:
        role.terminate()
        return role.wait(10)

    def close(self) -> None:
        for role in reversed(self.roles):
            if role.poll() is None:
                self.stop(role)
        self.wire.close()
        left = processes_of(self.settings.data_dir)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"left behind: {left}"

    def get(self, kind: str, key: str) -> Any:
        try:
            found = self.wire.ask(Get(what=kind, key=key), Found)
        except StoreAway:
            return None
        return decode_body(kind, found.body) if found.rev else None

    def store_pid(self) -> int:
        """Of the store itself, not of its keeper."""
        keeper = next(role.pid for role in self.roles if "store" in role.args)  # type: ignore[operator]
        return int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()[0])

    def task(self, id: str, files: dict[str, str | bytes], **spec: Any) -> str:
        """Register a task as the reconciler would. Gives its digest."""
        trigger = spec.pop("trigger", Trigger(manual=True))
        wanted = TaskSpec(name=id, trigger=trigger, **spec)
        digest = bundle(self.settings, wanted, files)
        names = {"task.py": "python", "task.sh": "shell", "task": "shell", "task.ts": "deno", "task.js": "deno"}
        runtime = wanted.runtime or next(names[name] for name in files if name in names)
        task = Task(id=id, source="tests", digest=digest, process=digest, spec=wanted, runtime=runtime, generation=1)  # type: ignore[arg-type]
        self.wire.ask(Write(ops=(put(task, id),)), Written)
        return digest

    def enqueue(self, task: str, **fields: Any) -> str:
        self._count += 1
        key = f"{task}-{self._count}"
        run = Run(id=run_id(task, "manual", key), task=task, unique=key, trigger=RunTrigger("manual", key), **fields)
        return self.wire.ask(Enqueue(run=run), Enqueued).run

    def ended(self, run: str, within: float = 30.0) -> Run:
        def end() -> Run | None:
            found = self.get("Run", run)
            return found if found is not None and found.status in ENDED else None

        return wait_for(end, f"run {run} has ended", within)  # type: ignore[no-any-return]

    def run(self, task: str, **fields: Any) -> Run:
        return self.ended(self.enqueue(task, **fields))

    def log(self, run: Run) -> list[Record]:
        return list(read_log(run_log(self.settings.logs, run.id, run.attempt)))

    def printed(self, run: Run, stream: str = "o") -> list[str]:
        return [record.text for record in self.log(run) if record.stream == stream]


PASSED_ON = {name: value for name, value in os.environ.items() if name.startswith(("COV", "SSL_", "UV_"))}


def bundle(settings: Settings, spec: TaskSpec, files: dict[str, str | bytes]) -> str:
    """The bundle of a task with these files; `task` and names ending in `!` are executable."""
    spec_json = msgspec.json.encode(spec, order="deterministic")
    entries = sorted(
        (name.rstrip("!"), "x" if name == "task" or name.endswith("!") else "-", text.encode() if isinstance(text, str) else text)
        for name, text in files.items()
    )
    lines = [f"{kind} {hashlib.sha256(text).hexdigest()} {len(text)} {name}\n" for name, kind, text in entries]
    manifest = f"dicode-digest/1\nspec {hashlib.sha256(spec_json).hexdigest()}\n{''.join(lines)}".encode()
    digest = hashlib.sha256(manifest).hexdigest()
    Bundles(settings.bundles, settings.trees).put(digest, manifest, spec_json, entries)
    return digest


def processes_of(data_dir: Path) -> list[int]:
    """Processes that stand in a tree of this installation, or were started as part of it."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                here = os.readlink(f"/proc/{name}/cwd")
                environ = Path(f"/proc/{name}/environ").read_bytes()
                zombie = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            if not zombie and (here.startswith(str(data_dir)) or str(data_dir).encode() in environ):
                found.append(int(name))
    return found


def program_of(pid: int) -> str:
    """Its name; "" when it has ended since it was found."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A store and one worker, shared by the tests that harm neither."""
    installation = Installation(tmp_path_factory.mktemp("worker"))
    try:
        installation.start("store")
        installation.start_worker()
        yield installation
    finally:
        print(installation.output.read_text())
        installation.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Installation]:
    """A store alone, for a test that kills and starts workers."""
    installation = Installation(tmp_path)
    try:
        installation.start("store")
        yield installation
    finally:
        print(installation.output.read_text())
        installation.close()


# --- python


def test_main_is_given_what_it_asks_for_and_its_return_value_is_the_result(here: Installation) -> None:
    script = "def main(params, input, log):\n    log.info('hello', params['who'])\n    return {'got': input, 'n': params['n']}\n"
    here.task("py/main", {"task.py": script}, params=(Param(name="who"), Param(name="n", type="number", default="4")))
    run = here.run("py/main", params={"who": "ada"}, input='{"x": [1]}')
    assert (run.status, run.exit_code, run.error) == ("succeeded", 0, "")
    assert run.result is not None and json.loads(run.result.value) == {"got": {"x": [1]}, "n": 4}
    assert here.printed(run) == ["hello ada"]


def test_a_failing_task_leaves_its_traceback_and_an_event(here: Installation) -> None:
    here.task("py/fails", {"task.py": "def main():\n    return 1 / 0\n"})
    run = here.run("py/fails")
    assert (run.status, run.exit_code, run.error) == ("failed", 1, "exit code 1")
    assert here.printed(run, "e")[-1] == "ZeroDivisionError: division by zero"


def test_a_run_is_of_the_digest_it_was_queued_with(here: Installation) -> None:
    old = here.task("py/pinned", {"task.py": "result = 'old'"})
    here.task("py/pinned", {"task.py": "result = 'new'"})
    assert here.run("py/pinned").result.value == '"new"'  # type: ignore[union-attr]
    pinned = here.run("py/pinned", digest=old, runtime="python")
    assert (pinned.digest, pinned.result.value) == (old, '"old"')  # type: ignore[union-attr]


# --- shell


def test_a_shell_task_by_shebang_by_sh_and_as_an_executable(here: Installation) -> None:
    here.task("sh/bang", {"task.sh": "#!/usr/bin/env python3\nprint('python')\n"})
    here.task("sh/plain", {"task.sh": "cat; echo \" $DICODE_PARAM_TWO_WORDS\"; echo '[1, 2]' > $DICODE_RESULT\n"}, params=(Param(name="two-words"),))
    here.task("sh/exec", {"task": "#!/bin/sh\nhelper=$(./helper.sh)\necho $helper; exit 3\n", "helper.sh!": "#!/bin/sh\necho helped"})
    assert here.printed(here.run("sh/bang")) == ["python"]
    plain = here.run("sh/plain", params={"two-words": "x y"}, input='{"a": 1}')
    assert here.printed(plain) == ['{"a": 1} x y']
    assert plain.result is not None and json.loads(plain.result.value) == [1, 2]
    executable = here.run("sh/exec")
    assert (executable.status, executable.exit_code, here.printed(executable)) == ("failed", 3, ["helped"])


# --- deno


def test_a_deno_task_gets_its_context_and_only_what_is_granted(here: Installation) -> None:
    script = """
    export default async function main({ params, input, output, kv, env, dicode }) {
      console.log("hello " + params.get("who"));
      console.error("to stderr");
      await kv.set("n", 1 + ((await kv.get("n")) ?? 0));
      await output.text("answer", { n: await kv.get("n"), input, id: dicode.task_id });
      const denied = await Deno.readTextFile("/etc/hostname").then(() => "read", (e) => e.name);
      const refused = await dicode.run_task("x").catch((e) => e.message);
      await output.html("<p>" + refused + "</p>", [params.all(), input, env.get("GIVEN"), denied, await kv.list()]);
      return "not used";
    }
    """
    grants = Permissions(env=(EnvGrant(name="GIVEN", value="yes"),))
    here.task("deno/full", {"task.ts": script}, params=(Param(name="who", default="you"),), permissions=grants)
    run = here.run("deno/full", input='{"x": 1}')
    assert run.status == "succeeded", here.log(run)
    assert run.result is not None
    assert json.loads(run.result.value) == [{"who": "you"}, {"x": 1}, "yes", "NotCapable", ["n"]]
    assert run.result.content == b"<p>dicode.run_task is not built in this release</p>"
    assert run.result.content_type == "text/html; charset=utf-8"
    assert (here.printed(run), here.printed(run, "e")) == (["hello you"], ["to stderr"])


def test_a_deno_task_without_net_still_reaches_dicode_and_nothing_else(here: Installation) -> None:
    script = """
    import { x } from "./helper.js";
    export default async () => [x, await fetch("http://127.0.0.1:8765").catch((e) => e.name)];
    """
    here.task("deno/closed", {"task.js": script, "helper.js": "export const x = 5;"}, permissions=Permissions(net=()))
    run = here.run("deno/closed")
    assert run.result is not None and json.loads(run.result.value) == [5, "NotCapable"], here.log(run)


def test_a_deno_task_that_throws_fails(here: Installation) -> None:
    here.task("deno/throws", {"task.js": "export default () => { throw new Error('no luck'); }"})
    run = here.run("deno/throws")
    assert (run.status, run.exit_code) == ("failed", 1)
    assert "no luck" in "\n".join(here.printed(run, "e"))


# --- PEP 723


def test_dependencies_are_installed_once_and_only_for_the_task_that_names_them(here: Installation) -> None:
    block = '# /// script\n# dependencies = ["six==1.17.0"]\n# ///\n'
    script = (
        f"{block}import six, sys\ndef main(params, kv):\n    kv.set('n', 1)\n    return [six.__version__, params['p'], 'msgspec' in sys.modules]\n"
    )
    here.task("py/deps", {"task.py": script}, params=(Param(name="p", default="d"),))
    first, second = here.enqueue("py/deps"), here.enqueue("py/deps")
    runs = [here.ended(first, 120), here.ended(second, 120)]
    for run in runs:
        assert run.status == "succeeded", here.log(run)
        assert run.result is not None and json.loads(run.result.value) == ["1.17.0", "d", False]
    third = here.run("py/deps")
    assert not here.printed(third, "s")  # nothing was built for it
    here.task("py/without", {"task.py": "import importlib.util\nresult = importlib.util.find_spec('six') is None"})
    assert here.run("py/without").result.value == "true"  # type: ignore[union-attr]


def test_a_dependency_that_cannot_be_installed_fails_the_run_with_uvs_words(here: Installation) -> None:
    here.task("py/nodeps", {"task.py": '# /// script\n# dependencies = ["six==0.0.0.1"]\n# ///\nimport six\n'})
    run = here.ended(here.enqueue("py/nodeps"), 120)
    assert run.status == "failed" and run.error.startswith("DependenciesFailed:")
    assert "six==0.0.0.1" in "\n".join(here.printed(run, "e"))


# --- what a task may see


def test_the_environment_of_a_task_is_built_from_nothing(here: Installation) -> None:
    grants = Permissions(
        env=(EnvGrant(name="HOST_SECRET"), EnvGrant(name="RENAMED", from_="env:HOST_SECRET"), EnvGrant(name="DIR", value="${TASK_DIR}"))
    )
    show = "import os\ndef main():\n    return [dict(os.environ), os.getcwd(), os.access(os.environ['DICODE_STATE_DIR'], os.W_OK)]\n"
    here.task("env/none", {"task.py": show})
    here.task("env/some", {"task.py": show}, permissions=grants, params=(Param(name="a", default="1"),))
    environ, cwd, _ = json.loads(here.run("env/none").result.value)  # type: ignore[union-attr]
    own = {"DICODE_RUN_ID", "DICODE_ATTEMPT", "DICODE_TASK_ID", "DICODE_SOCKET", "DICODE_TOKEN", "DICODE_RESULT", "DICODE_STATE_DIR", "DICODE_WORKER"}
    assert set(environ) == {"PATH", "LANG", "HOME"} | own
    assert cwd.startswith(str(here.settings.trees))
    environ, cwd, writable = json.loads(here.run("env/some").result.value)  # type: ignore[union-attr]
    assert set(environ) == {"PATH", "LANG", "HOME", "HOST_SECRET", "RENAMED", "DIR", "DICODE_PARAM_A"} | own
    assert (environ["RENAMED"], environ["DIR"], environ["DICODE_PARAM_A"], writable) == ("canary", cwd, "1", True)


def test_a_missing_secret_fails_the_run_before_it_starts_and_names_the_key(here: Installation) -> None:
    here.task("env/secret", {"task.py": "print('started')"}, permissions=Permissions(env=(EnvGrant(name="TOKEN", secret="slack/token"),)))
    run = here.run("env/secret")
    assert (run.status, run.exit_code) == ("failed", None)
    assert run.error == "MissingEnv: secret 'slack/token' for TOKEN is not set"
    assert [record.text for record in here.log(run)] == [run.error]


@pytest.mark.parametrize(
    ("files", "spec", "params", "error"),
    [
        ({"task.py": "pass"}, {}, {"x": "1"}, "BadParams: param 'x' is not declared"),
        ({"task.yaml": "x"}, {"runtime": "shell"}, {}, "NoScript: a shell task needs task.sh or task beside task.yaml"),
        ({"readme": "x"}, {"runtime": "docker"}, {}, "NotImplemented: runtime 'docker'"),
        ({"task.py": "# /// script\n# dependencies = 3\n# ///\n"}, {}, {}, "BadDependencies:"),
    ],
)
def test_what_cannot_be_started_says_why(here: Installation, files: dict[str, str], spec: dict[str, Any], params: dict[str, str], error: str) -> None:
    here.task("bad/start", files, **spec)
    run = here.run("bad/start", params=params)
    assert run.status == "failed" and run.error.startswith(error)


# --- the queue


def test_a_timeout_is_the_tasks_own(here: Installation) -> None:
    here.task("slow", {"task.sh": "echo up; sleep 600"}, timeout=400)
    run = here.run("slow")
    assert (run.status, run.exit_code, run.error) == ("timed_out", 124, "timed out after 0.4 s")


def test_a_cancelled_run_ends_within_its_grace(here: Installation) -> None:
    here.task("patient", {"task.sh": "echo up; exec sleep 600"})
    run = here.enqueue("patient")
    wait_for(lambda: list(read_log(run_log(here.settings.logs, run, 1))), "it is up")
    here.wire.ask(Cancel(run=run, who="me"), Found)
    began = mono()
    assert here.ended(run).status == "cancelled"
    assert mono() - began < 1.5  # told by the change, not by the next renewal


def test_a_failed_run_is_tried_again_as_its_spec_says(here: Installation) -> None:
    script = "n=$(cat $DICODE_STATE_DIR/n 2>/dev/null || echo 0); echo $((n+1)) > $DICODE_STATE_DIR/n; echo try $DICODE_ATTEMPT; [ $n -ge 2 ]"
    here.task("again", {"task.sh": script}, retry=Retry(attempts=3, backoff=50))
    run = here.run("again")
    assert (run.status, run.attempt) == ("succeeded", 3)
    assert here.printed(run) == ["try 3"]


def test_a_big_input_travels_as_a_file(here: Installation) -> None:
    text = json.dumps("x" * 3_000_000)
    blob = hashlib.sha256(text.encode()).hexdigest()
    (here.settings.inputs / blob).write_text(text)
    here.task("big", {"task.py": "def main(input):\n    return len(input)"})
    assert here.run("big", input_blob=blob).result.value == "3000000"  # type: ignore[union-attr]


def test_a_run_whose_worker_is_killed_is_lost_and_tried_again_once(own: Installation) -> None:
    own.start_worker()
    own.task("victim", {"task.sh": "echo up $DICODE_ATTEMPT; [ $DICODE_ATTEMPT = 2 ] || exec sleep 600"}, retry=Retry(attempts=1, backoff=0))
    own.task("plain", {"task.sh": "echo up; exec sleep 600"})
    runs = [own.enqueue("victim"), own.enqueue("plain")]
    for run in runs:
        wait_for(lambda: list(read_log(run_log(own.settings.logs, run, 1))), "it is up")  # noqa: B023
    os.kill(own.get("Worker", "worker-1").pid, signal.SIGKILL)
    wait_for(
        lambda: "sleep" not in map(program_of, processes_of(own.settings.data_dir)),
        "its tasks are dead",
        3,
    )
    victim, plain = own.ended(runs[0], 12), own.ended(runs[1], 12)
    assert (victim.status, victim.attempt, own.printed(victim)) == ("succeeded", 2, ["up 2"])
    assert plain.status == "lost" and "was not heard of any more" in plain.error


def test_the_late_result_of_a_worker_that_slept_past_its_lease_is_refused(own: Installation) -> None:
    own.start_worker()
    script = "echo up $DICODE_ATTEMPT; [ $DICODE_ATTEMPT = 2 ] || { read line < $DICODE_STATE_DIR/go; echo late; }"
    own.task("sleepy", {"task.sh": script}, retry=Retry(attempts=1, backoff=0))
    (own.settings.state / "sleepy").mkdir()
    os.mkfifo(own.settings.state / "sleepy" / "go")
    run = own.enqueue("sleepy")
    first = run_log(own.settings.logs, run, 1)
    wait_for(lambda: list(read_log(first)), "it is up")
    worker = own.get("Worker", "worker-1").pid
    os.kill(worker, signal.SIGSTOP)
    try:
        (own.settings.state / "sleepy" / "go").write_text("\n")
        wait_for(lambda: "late" in [record.text for record in read_log(first)], "the first attempt is done")
        wait_for(lambda: own.get("Run", run).status == "queued", "its lease has ended", 12)
    finally:
        os.kill(worker, signal.SIGCONT)
    ended = own.ended(run)
    assert (ended.status, ended.attempt, own.printed(ended)) == ("succeeded", 2, ["up 2"])
    assert "its result is refused, the lease was lost" in own.output.read_text()


def test_a_worker_told_to_stop_ends_its_runs_in_time_and_says_so(own: Installation) -> None:
    keeper = own.start_worker()
    own.task("endless", {"task.sh": "trap '' TERM; echo up; while :; do sleep 0.1; done"})
    own.task("brief", {"task.sh": "echo up; sleep 1; echo done"})
    endless, brief = own.enqueue("endless"), own.enqueue("brief")
    for run in (endless, brief):
        wait_for(lambda: list(read_log(run_log(own.settings.logs, run, 1))), "it is up")  # noqa: B023
    began = mono()
    assert own.stop(keeper) == 0
    assert mono() - began < 4.5
    assert own.ended(brief).status == "succeeded"
    interrupted = own.ended(endless)
    assert (interrupted.status, interrupted.error) == ("lost", "interrupted: its worker was told to stop")
    assert own.get("Worker", "worker-1").state == "gone"


def test_workers_share_the_queue_without_doubles(own: Installation) -> None:
    own.start_worker()
    own.start_worker()
    own.task("count", {"task.sh": 'echo "$DICODE_RUN_ID $DICODE_WORKER" >> $DICODE_STATE_DIR/all'})
    runs = [own.enqueue("count") for _ in range(60)]
    assert {own.ended(run, 60).status for run in runs} == {"succeeded"}
    lines = (own.settings.state / "count" / "all").read_text().splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(runs)
    assert {line.rpartition("#")[2] for line in lines} == {"worker-1", "worker-2"}


def test_only_a_worker_with_the_label_claims(own: Installation) -> None:
    own.start_worker()
    own.task("gpu", {"task.sh": "echo $DICODE_WORKER"}, run_on=("gpu",))
    run = own.enqueue("gpu")
    own.start_worker("--labels", "gpu,big")
    assert own.printed(own.ended(run))[0].endswith("#worker-2")


def test_runs_go_on_while_the_store_is_away(own: Installation) -> None:
    own.start_worker()
    own.task("steady", {"task.sh": "echo up; read line < $DICODE_STATE_DIR/go; echo on"})
    (own.settings.state / "steady").mkdir()
    os.mkfifo(own.settings.state / "steady" / "go")
    run = own.enqueue("steady")
    wait_for(lambda: list(read_log(run_log(own.settings.logs, run, 1))), "it is up")
    os.kill(own.store_pid(), signal.SIGKILL)
    (own.settings.state / "steady" / "go").write_text("\n")
    assert own.ended(run).status == "succeeded"


def test_what_runs_is_what_was_hashed_while_a_writer_changes_the_source(own: Installation) -> None:
    """Runs come from the bundle; whatever happens to the working copy, its bytes are those of the digest (H1)."""
    own.start_worker()
    source = own.output.parent / "source"
    source.mkdir()
    show = "import hashlib, pathlib\nhere = pathlib.Path(__file__).parent\nresult = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in here.iterdir()}\n"
    stop = threading.Event()

    def write() -> None:
        count = 0
        while not stop.wait(0.005):
            count += 1
            (source / "helper.py").write_text(f"N = {count}\n" * 200)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        runs = {}
        for _ in range(25):
            files: dict[str, str | bytes] = {
                "task.py": show,
                "helper.py": (source / "helper.py").read_bytes() if (source / "helper.py").exists() else b"",
            }
            own.task("exact", files)
            runs[own.enqueue("exact")] = {
                name: hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest() for name, text in files.items()
            }
        for run, hashes in runs.items():
            assert json.loads(own.ended(run).result.value) == hashes  # type: ignore[union-attr]
    finally:
        stop.set()
        writer.join()


def test_a_tampered_tree_is_made_again_and_a_tampered_bundle_is_refused(here: Installation) -> None:
    digest = here.task("tampered", {"task.py": "result = 'good'"})
    assert here.run("tampered").status == "succeeded"
    script = next(here.settings.trees.glob(f"{digest}/**/task.py"))
    script.chmod(0o644)
    script.write_text("result = 'evil'")
    assert here.run("tampered").result.value == '"good"'  # type: ignore[union-attr]
    other = here.task("tampered", {"task.py": "result = 'fair'"})
    tar = here.settings.bundles / f"{other}.tar"
    tar.write_bytes(tar.read_bytes().replace(b"fair", b"evil"))
    run = here.run("tampered")
    assert run.status == "failed" and "is not what was hashed" in run.error


def test_output_is_capped_and_the_run_goes_on(here: Installation) -> None:
    here.task("loud", {"task.py": "import os\nfor _ in range(400):\n    os.write(1, b'x' * 99_999 + b'\\n')\nresult = 'done'"})
    run = here.run("loud")
    assert run.status == "succeeded"
    assert sum(map(len, here.printed(run))) <= LOG_MAX
    assert here.printed(run, "s") == ["truncated"]
