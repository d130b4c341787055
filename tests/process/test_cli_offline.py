"""The CLI where nothing runs: listings answer, changes are refused, what is typed wrong gets one line and exit 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.system import BIN, DICODE

from dicode.admin.nouns import NOUNS

pytestmark = pytest.mark.process
BUDGET = 0.150  # seconds; `dicode get tasks` whole, DESIGN 11


def dicode(folder: Path, *words: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run([DICODE, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=30, input=input)


@pytest.mark.parametrize("kind", [noun.plural for noun in NOUNS])
def test_every_listing_answers_where_nothing_ever_ran(tmp_path: Path, kind: str) -> None:
    assert dicode(tmp_path, "get", kind).returncode == 0
    listed = dicode(tmp_path, "get", kind, "-o", "json")
    assert (listed.returncode, json.loads(listed.stdout)) == (0, [])
    assert dicode(tmp_path, "get", kind, "-o", "name").stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        ["run", "x"],
        ["cancel", "x"],
        ["replay", "x"],
        ["suspend", "x"],
        ["resume", "x"],
        ["restart", "x"],
        ["top"],
        ["source", "add", "x", "."],
        ["source", "remove", "x"],
        ["source", "sync", "x"],
        ["source", "confirm", "x"],
    ],
    ids=" ".join,
)
def test_what_must_change_something_says_that_nothing_runs(tmp_path: Path, words: list[str]) -> None:
    done = dicode(tmp_path, *words)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "dicode: nothing is running here: dicode up\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gte", "tasks"], "no command 'gte', did you mean 'get'?"),
        (["get", "taks"], "no kind 'taks', did you mean 'tasks'?"),
        (["get", "tasks", "-o", "jsn"], "did you mean 'json'?"),
        (["get", "tasks", "--status", "helthy"], "no status 'helthy', did you mean 'Healthy'?"),
        (["get", "routes", "--status", "ok"], "routes have no status to choose by"),
        (["get", "tasks", "nope"], "no task 'nope'"),
        (["get"], "missing argument 'KIND'"),
        (["get", "tasks", "--wdie"], "--wdie"),
        (["describe", "worker", "x"], "no kind to describe 'worker'"),
        (["logs", "nope"], "no task or run 'nope'"),
        (["source"], "missing command"),
        (["secret", "set", "x"], "no command 'secret'"),
        (["get", "tasks", "-c", "nope.yaml"], "nope.yaml: no such file"),
        (["completion", "tcsh"], "no shell 'tcsh'; there is bash, fish, zsh"),
        (["init", "a b"], "cannot be a task's id"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_typed_wrong_gets_one_line_and_exit_2(tmp_path: Path, words: list[str], said: str) -> None:
    done = dicode(tmp_path, *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("dicode: ") and done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_broken_config_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "dicode.yaml").write_text("data_dir: .dicode\ndata_dir: .other\n")
    done = dicode(tmp_path, "get", "tasks")
    assert done.returncode == 2
    assert "dicode.yaml:2:" in done.stderr and "Traceback" not in done.stderr


def test_a_file_that_is_no_database_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "dicode.yaml").write_text("data_dir: .dicode\n")
    (tmp_path / ".dicode").mkdir()
    (tmp_path / ".dicode/dicode.db").write_text("hello, I am no database at all\n" * 50)
    done = dicode(tmp_path, "get", "tasks")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "dicode.db" in done.stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    program = subprocess.Popen([DICODE, "schema"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None and program.stderr is not None
    program.stdout.close()
    assert b"Traceback" not in program.stderr.read() and program.wait(10) in (0, 141)
    program.stderr.close()


@pytest.mark.parametrize("runtime", ["python", "shell", "deno"])
def test_init_writes_a_task_that_validates(tmp_path: Path, runtime: str) -> None:
    done = dicode(tmp_path, "init", "my-task", "--runtime", runtime)
    assert done.returncode == 0, done.stderr
    assert "dicode run my-task" in done.stdout
    assert dicode(tmp_path, "validate").returncode == 0
    assert dicode(tmp_path, "render", ".", "-o", "name").stdout.split() == ["my-task"]
    assert dicode(tmp_path, "init", "my-task").returncode == 1


def test_doctor_says_what_it_found(tmp_path: Path) -> None:
    done = dicode(tmp_path, "doctor")
    assert done.returncode == 0
    for what in ("sqlite", "uv", "deno", "nothing is running here: dicode up"):
        assert what in done.stdout


def test_help_is_there_for_everything(tmp_path: Path) -> None:
    page = dicode(tmp_path, "--help")
    assert page.returncode == 0 and "dicode up" in page.stdout
    assert "Example: dicode get tasks" in " ".join(dicode(tmp_path, "get", "--help").stdout.split())
    assert dicode(tmp_path, "version").stdout.startswith("dicode ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_understood_by_its_shell(tmp_path: Path, shell: str) -> None:
    script = dicode(tmp_path, "completion", shell).stdout
    assert script
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True, timeout=10).returncode == 0


def test_get_tasks_imports_nothing_it_does_not_need(tmp_path: Path) -> None:
    code = "import sys\nfrom dicode.admin.entry import main\nsys.argv = ['dicode', 'get', 'tasks']\nmain()\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env={"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=30)
    heavy = {"zmq", "asyncio", "yaml", "pydantic", "rich", "croniter", "psutil", "dulwich", "uvicorn"}
    assert not heavy & set(loaded.stdout.split()), loaded.stderr


def test_get_tasks_is_quick(tmp_path: Path) -> None:
    """The best of five: what it costs, not what else this machine was doing. Other tests may run on both cores."""
    took = []
    for _ in range(5):
        begun = time.monotonic()
        assert dicode(tmp_path, "get", "tasks").returncode == 0
        took.append(time.monotonic() - begun)
    assert min(took) <= BUDGET * (2 if os.getloadavg()[0] > 2 else 1)
