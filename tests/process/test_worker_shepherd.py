"""One attempt of a run, from its job to its outcome: a real zygote, real shepherds, real tasks; no store."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.support.waiting import until

from dicode.process.clock import mono
from dicode.process.tasklog import LOG_MAX, Record, read_log
from dicode.runtime.command import PYTHON_ENTRY
from dicode.sdk.server import RESULT_MAX
from dicode.worker.job import Job, Outcome, Stop, result_in, socket_in
from dicode.worker.nursery import Herd, Nursery

pytestmark = pytest.mark.process
ESCAPE = """
import os, sys                # a double fork, a session of its own, and nothing of the environment left
os.setsid()
if os.fork():
    os._exit(0)
os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], {})
"""


class Barn:
    """Runs jobs in `folder`, one after another or at once."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.folder = folder
        self.nursery = nursery
        self._count = 0

    def job(self, *, python: str = "", shell: str = "", argv: tuple[str, ...] = (), **fields: Any) -> Job:
        self._count += 1
        place = self.folder / str(self._count)
        (place / "task").mkdir(parents=True)
        script = place / "task" / ("task.py" if python else "task.sh")
        script.write_text(python or shell)
        argv = argv or (("/bin/sh", str(script)) if shell else (sys.executable, "-P", "-B", "-u", str(PYTHON_ENTRY), str(script)))
        env = {
            "PATH": os.environ["PATH"],
            "DICODE_RUN_ID": f"run-{self._count}",
            "DICODE_TASK_ID": "t/x",
            "DICODE_TOKEN": "right",
        }
        return Job(
            run=f"run-{self._count}", task="t/x", argv=argv, cwd=str(place / "task"), env=env | fields.pop("env", {}), folder="",
            log=str(place / "log"), kv=str(self.folder / "t~x.kv"), token="right", params=fields.pop("params", {}),
            script=str(script) if python and fields.pop("warm", True) else "", **fields,
        )  # fmt: skip

    async def begin(self, job: Job) -> Herd:
        """The folder of the shepherd is known now: put it into the job."""
        spare = await self.nursery.spare()
        env = job.env | {"DICODE_SOCKET": socket_in(spare.folder), "DICODE_RESULT": result_in(spare.folder)}
        self.begun = replace(job, folder=spare.folder, env=env)
        return await self.nursery.begin(spare, self.begun)

    async def outcome(self, job: Job) -> Outcome:
        return await asyncio.wait_for((await self.begin(job)).outcome(), 30)


def records(job: Job) -> list[Record]:
    return list(read_log(Path(job.log)))


def printed(job: Job, stream: str = "o") -> list[str]:
    return [record.text for record in records(job) if record.stream == stream]


def standing_in(folder: Path) -> list[int]:
    """Processes whose working directory is below `folder`."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.readlink(f"/proc/{name}/cwd").startswith(str(folder)):
                found.append(int(name))
        except OSError:
            continue
    return found


def in_barn(tmp_path: Path, story: Callable[[Barn], Awaitable[None]]) -> None:
    """Tell the story with a zygote of its own; at its end nothing of it may be left."""

    @asynccontextmanager
    async def barn() -> AsyncIterator[Barn]:
        nursery = Nursery(str(tmp_path), tmp_path / "runs", {"PATH": os.environ["PATH"]})
        (tmp_path / "runs").mkdir()
        nursery.start()
        try:
            yield Barn(tmp_path, nursery)
        finally:
            nursery.close()

    async def tell() -> None:
        async with barn() as place:
            await story(place)
        await until(lambda: not standing_in(tmp_path), "all processes are gone", 5)

    asyncio.run(tell())


@pytest.mark.parametrize("warm", [True, False])
def test_a_python_task_gets_params_and_input_and_gives_json_back(tmp_path: Path, warm: bool) -> None:
    async def story(barn: Barn) -> None:
        script = "async def main(params, input):\n    print('hi')\n    return [params.get('a'), input]\n"
        job = barn.job(python=script, warm=warm, params={"a": 1}, input='{"é": 2}')
        outcome = await barn.outcome(job)
        assert (outcome.status, outcome.exit_code, outcome.error) == ("succeeded", 0, ""), records(job)
        assert json.loads(outcome.value) == [1, {"é": 2}]
        assert printed(job) == ["hi"]
        await until(lambda: not Path(barn.begun.folder).exists(), "its folder is gone")

    in_barn(tmp_path, story)


@pytest.mark.parametrize(
    ("script", "value"),
    [
        ("result = {'n': 1}", {"n": 1}),
        ("print('just a script')", None),
        ("def main():\n    return 'a'\nif __name__ == '__main__':\n    result = main() + 'b'", "ab"),
        ("def main(*, dicode, **rest):\n    return [dicode.task_id, dicode.run_id.split('-')[0], sorted(rest) != []]", ["t/x", "run", True]),
        ("from dicode.sdk import params, kv\ndef main():\n    kv.set('k', params.all())\n    return kv.get('k')", {"p": "q"}),
        ("import asyncio\nasync def main(kv):\n    await kv.set_async('a', 1)\n    return await kv.list_async()", ["a"]),
        ("output.html('<b>x</b>', data={'d': 1})\ndef main():\n    return 'not this'", {"d": 1}),
        ("import helper\nresult = [helper.X, __name__, __file__.endswith('task.py'), helper.__name__]", [7, "__main__", True, "helper"]),
    ],
)
def test_every_form_of_a_python_task(tmp_path: Path, script: str, value: Any) -> None:
    async def story(barn: Barn) -> None:
        for warm in (True, False):
            job = barn.job(python=script, warm=warm, params={"p": "q"})
            (Path(job.cwd) / "helper.py").write_text("X = 7\n")
            outcome = await barn.outcome(job)
            assert outcome.status == "succeeded", records(job)
            assert (json.loads(outcome.value) if outcome.value else None) == value
            assert sorted(os.listdir(job.cwd)) == ["helper.py", "task.py"]  # no bytecode is left in a bundle
            Path(job.kv).unlink(missing_ok=True)

    in_barn(tmp_path, story)


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("raise ValueError('no such thing')", 1, "ValueError: no such thing"),
        ("def main(unknown):\n    pass", 1, "main() asks for 'unknown'; it may ask for params"),
        ("def main():\n    return {1, 2}", 1, "the result cannot be JSON"),
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit('words')", 1, "words"),
        ("def (", 1, "SyntaxError"),
        ("dicode.run_task('x')", 1, "dicode.run_task is not built in this release"),
    ],
)
def test_what_goes_wrong_in_python_is_told_without_our_frames(tmp_path: Path, script: str, code: int, words: str) -> None:
    async def story(barn: Barn) -> None:
        for warm in (True, False):
            job = barn.job(python=script, warm=warm)
            outcome = await barn.outcome(job)
            assert (outcome.status, outcome.exit_code, outcome.error) == ("failed", code, f"exit code {code}")
            told = "\n".join(printed(job, "e"))
            assert words in told
            assert "dicode/sdk/entry.py" not in told and "shepherd" not in told

    in_barn(tmp_path, story)


def test_a_shell_task_gets_input_on_stdin_and_answers_in_a_file(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        job = barn.job(shell='cat; echo; echo oops >&2; echo "{\\"p\\": 1}" > "$DICODE_RESULT"', input='{"a":1}', stdin_is_input=True)
        outcome = await barn.outcome(job)
        assert (outcome.status, json.loads(outcome.value)) == ("succeeded", {"p": 1})
        assert (printed(job, "o"), printed(job, "e")) == (['{"a":1}'], ["oops"])

    in_barn(tmp_path, story)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo nonsense > $DICODE_RESULT", "the file $DICODE_RESULT holds no JSON"),
        (f"head -c {RESULT_MAX + 1} /dev/zero | tr '\\0' 1 > $DICODE_RESULT", f"has more than {RESULT_MAX} bytes"),
        ("exit 3", "exit code 3"),
        ("kill -SEGV $$", "killed by SIGSEGV"),
    ],
)
def test_how_a_shell_task_fails(tmp_path: Path, script: str, error: str) -> None:
    async def story(barn: Barn) -> None:
        job = barn.job(shell=script)
        outcome = await barn.outcome(job)
        assert outcome.status == "failed" and error in outcome.error
        assert error in printed(job, "s")[-1]

    in_barn(tmp_path, story)


def test_a_result_of_the_greatest_size_fits(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        for extra, status in ((-1, "succeeded"), (0, "succeeded"), (1, "failed")):
            job = barn.job(shell=f"(printf '\"'; head -c {RESULT_MAX + extra - 2} /dev/zero | tr '\\0' 1; printf '\"') > $DICODE_RESULT")
            assert (await barn.outcome(job)).status == status

    in_barn(tmp_path, story)


def test_the_environment_and_the_file_descriptors_are_exactly_those_of_the_job(tmp_path: Path) -> None:
    listing = "import os, json\nfds = sorted(int(f) for f in os.listdir('/proc/self/fd'))\nresult = [dict(os.environ), fds[:3], len(fds)]"

    async def story(barn: Barn) -> None:
        for warm in (True, False):
            job = barn.job(python=listing, warm=warm, env={"GRANTED": "1"})
            outcome = await barn.outcome(job)
            environ, fds, count = json.loads(outcome.value)
            environ.pop("LC_CTYPE", None)  # a fresh python sets it for itself where there is no LANG
            assert environ == barn.begun.env
            assert (fds, count) == ([0, 1, 2], 4)  # and the listing's own
        shell = barn.job(shell="ls /proc/self/fd")
        await barn.outcome(shell)
        assert printed(shell) == ["0", "1", "2", "3"]

    in_barn(tmp_path, story)


def test_a_timeout_kills_the_whole_tree_double_forks_included(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        script = f"import os, sys, time\npid = os.fork()\nif not pid:\n    exec({ESCAPE!r})\nprint('up', flush=True)\ntime.sleep(600)"
        for warm in (True, False):
            job = barn.job(python=script, warm=warm, timeout=1500)
            began = mono()
            outcome = await barn.outcome(job)
            assert (outcome.status, outcome.exit_code, outcome.error) == ("timed_out", 124, "timed out after 1.5 s")
            assert mono() - began < 4
            assert printed(job) == ["up"]
            assert not standing_in(Path(job.cwd))

    in_barn(tmp_path, story)


def test_a_stubborn_tree_dies(tmp_path: Path) -> None:
    shapes = [
        "trap '' TERM; sleep 600",
        "nohup sleep 600 & sleep 600 & wait",
        "setsid sleep 600; sleep 600",
        "(setsid sh -c 'sleep 600 & sleep 600' &) ; sleep 600",
        "kill -STOP $$",
        "env -i setsid sh -c 'exec sleep 600' & sleep 600",
    ]

    async def story(barn: Barn) -> None:
        jobs = [barn.job(shell=shape, timeout=700) for shape in shapes]
        outcomes = await asyncio.gather(*(barn.outcome(job) for job in jobs))
        assert {outcome.status for outcome in outcomes} == {"timed_out"}
        assert not standing_in(tmp_path)

    in_barn(tmp_path, story)


def test_a_child_in_the_background_neither_delays_the_end_nor_outlives_it(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        job = barn.job(shell="sleep 600 & echo done")
        began = mono()
        outcome = await barn.outcome(job)
        assert outcome.status == "succeeded"
        assert mono() - began < 2
        assert printed(job) == ["done"]
        assert not standing_in(Path(job.cwd))

    in_barn(tmp_path, story)


def test_a_cancelled_run_may_say_goodbye_and_a_deaf_one_is_killed(tmp_path: Path) -> None:
    polite = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    deaf = "trap '' TERM; echo up; while :; do sleep 0.05; done"

    async def story(barn: Barn) -> None:
        for script, words in ((polite, ["up", "bye"]), (deaf, ["up"])):
            job = barn.job(shell=script)
            herd = await barn.begin(job)
            await until(lambda: printed(job), "it is up")  # noqa: B023
            herd.stop(Stop("cancelled", "cancelled", 0.5))
            outcome = await asyncio.wait_for(herd.outcome(), 10)
            assert (outcome.status, outcome.exit_code) == ("cancelled", None)
            assert printed(job) == words

    in_barn(tmp_path, story)


def test_what_is_printed_beyond_the_cap_is_dropped_and_the_run_goes_on(tmp_path: Path) -> None:
    line = b"x" * 99 + b"\n"

    async def story(barn: Barn) -> None:
        for bytes_more, truncated in ((-1, False), (0, False), (1, True), (40_000_000, True)):
            size = LOG_MAX + bytes_more
            script = f"import os\nline = {line!r} * 600\nleft = {size}\nwhile left:\n    left -= os.write(1, line[:left])\nresult = 'done'"
            job = barn.job(python=script, timeout=20_000)
            outcome = await barn.outcome(job)
            assert outcome.value == '"done"'
            texts = [len(record.text) + 1 for record in records(job) if record.stream == "o"]
            assert LOG_MAX - 1 <= sum(texts) <= LOG_MAX + 1
            assert printed(job, "s") == (["truncated"] if truncated else [])
            assert Path(job.log).stat().st_size < 2 * LOG_MAX

    in_barn(tmp_path, story)


def test_long_lines_and_bytes_that_are_no_text_are_kept_as_lines(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        script = "import os\nos.write(1, b'a' * 200_000 + b'\\n' + b'\\xff\\xfe\\x00 \\xc3\\xa9\\n' + b'50%\\r100%\\r\\n' + b'no newline')"
        job = barn.job(python=script)
        await barn.outcome(job)
        lines = printed(job)
        assert [len(line) for line in lines[:4]] == [65536, 65536, 65536, 200_000 - 3 * 65536]
        assert lines[4:] == ["��\0 é", "50%\\r100%", "no newline"]

    in_barn(tmp_path, story)


def test_a_worker_that_dies_takes_its_runs_with_it(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        job = barn.job(python=f"import os\nprint('up', flush=True)\nif not os.fork():\n    exec({ESCAPE!r})\nimport time\ntime.sleep(600)")
        herd = await barn.begin(job)
        await until(lambda: printed(job), "it is up")
        herd._writer.close()  # what the kernel does for a worker that is killed
        await until(lambda: not standing_in(Path(job.cwd)), "the tree is gone", 3)

    in_barn(tmp_path, story)


def test_a_dead_zygote_is_replaced_and_its_runs_go_on(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        first = barn.job(shell="echo up; read line < go; echo on")
        os.mkfifo(Path(first.cwd) / "go")
        herd = await barn.begin(first)
        await until(lambda: printed(first), "it is up")
        zygote = barn.nursery._process
        assert zygote is not None
        zygote.kill()
        zygote.wait()
        second = await barn.outcome(barn.job(python="result = 2"))
        assert second.value == "2"
        await asyncio.to_thread((Path(first.cwd) / "go").write_text, "\n")
        assert (await asyncio.wait_for(herd.outcome(), 10)).status == "succeeded"
        assert printed(first) == ["up", "on"]

    in_barn(tmp_path, story)


def test_a_killed_shepherd_is_a_lost_run_and_its_task_dies_with_it(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        job = barn.job(python="import os, time\nprint(os.getppid(), flush=True)\ntime.sleep(600)")
        herd = await barn.begin(job)
        (shepherd,) = await until(lambda: printed(job), "it is up")
        os.kill(int(shepherd), signal.SIGKILL)
        outcome = await asyncio.wait_for(herd.outcome(), 5)
        assert (outcome.status, outcome.error) == ("lost", "its shepherd process was killed")
        await until(lambda: not standing_in(Path(job.cwd)), "the task is gone", 3)

    in_barn(tmp_path, story)


def test_a_program_that_is_not_there_is_said_by_name(tmp_path: Path) -> None:
    async def story(barn: Barn) -> None:
        job = barn.job(shell="x", argv=("/no/such/program",))
        outcome = await barn.outcome(job)
        assert (outcome.status, outcome.exit_code) == ("failed", 127)
        assert "/no/such/program" in printed(job, "e")[0]

    in_barn(tmp_path, story)


def test_a_socket_answers_only_who_has_the_token(tmp_path: Path) -> None:
    script = """
import os, socket, struct, json
def talk(*messages):
    peer = socket.socket(socket.AF_UNIX); peer.connect(os.environ['DICODE_SOCKET'])
    for message in messages:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        peer.sendall(struct.pack('<I', len(body)) + body)
        head = peer.recv(4)
        if not head: return 'hung up'
        answer = json.loads(peer.recv(struct.unpack('<I', head)[0]))
    return answer
token = {'token': os.environ['DICODE_TOKEN']}
result = [
    talk({'token': 'wrong'}), talk({'method': 'params'}), talk(b'no json'), talk(token), talk(token, {'id': 7, 'method': 'params'}),
    talk(token, {'id': 8, 'method': 'nothing'}),
]
"""

    async def story(barn: Barn) -> None:
        outcome = await barn.outcome(barn.job(python=script, params={"p": 1}))
        hello = {"proto": 1, "task_id": "t/x", "run_id": "run-1"}
        answers = [{"id": 7, "result": {"p": 1}}, {"id": 8, "error": "there is no 'nothing'"}]
        assert json.loads(outcome.value) == ["hung up", "hung up", "hung up", hello, *answers]

    in_barn(tmp_path, story)
