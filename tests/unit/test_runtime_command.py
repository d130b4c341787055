"""From a task folder to a command line; from a script's PEP 723 block to what it needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dicode.messages.task import FsGrant, Permissions, Runtime, TaskSpec, Trigger
from dicode.runtime.command import DENO_SHIM, PYTHON_ENTRY, CannotStart, Launch, RuntimeMissing, find_script, plan
from dicode.runtime.dependencies import needs_of


def planned(folder: Path, runtime: Runtime, *, permissions: Permissions | None = None, **more: Any) -> Launch:
    spec = TaskSpec(name="t", trigger=Trigger(manual=True), permissions=permissions)
    places = {"state_dir": Path("/state"), "data_dir": Path("/data"), "host": {"PATH": "/usr/bin:/bin", "HOME": "/srv"}}
    return plan(spec, runtime, folder, **{**places, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("echo", ("/bin/sh", "{script}")),
        ("#!/usr/bin/env bash\n", ("/usr/bin/env", "bash", "{script}")),
        ("#! /bin/awk -f x\r\n", ("/bin/awk", "-f x", "{script}")),
        ("#!\n", ("/bin/sh", "{script}")),
    ],
)
def test_a_shell_task_runs_by_its_shebang(tmp_path: Path, text: str, argv: tuple[str, ...]) -> None:
    script = tmp_path / "task.sh"
    script.write_text(text)
    launch = planned(tmp_path, "shell")
    assert launch.argv == tuple(word.format(script=script) for word in argv)
    assert (launch.cwd, launch.stdin_is_input, launch.script) == (tmp_path, True, None)


def test_an_executable_task_must_be_executable(tmp_path: Path) -> None:
    program = tmp_path / "task"
    program.write_bytes(b"\x7fELF")
    with pytest.raises(CannotStart, match="NotExecutable: .*chmod"):
        planned(tmp_path, "shell")
    program.chmod(0o755)
    assert planned(tmp_path, "shell").argv == (str(program),)


def test_a_python_task_is_warm_unless_it_has_an_interpreter_of_its_own(tmp_path: Path) -> None:
    script = tmp_path / "task.py"
    script.touch()
    plain, own = planned(tmp_path, "python"), planned(tmp_path, "python", python=Path("/envs/x/bin/python"))
    assert (plain.argv[0], plain.script) == (sys.executable, script)
    assert own == Launch(("/envs/x/bin/python", "-P", "-B", "-u", str(PYTHON_ENTRY), str(script)), tmp_path, {})


def test_deno_is_granted_what_the_task_is_granted_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "task.mjs").touch()
    grants = Permissions(
        net=("api.example.org:443",), run=("*",), sys=("hostname",), fs=(FsGrant(path="/srv/a,b", permission="rw"), FsGrant(path="/etc"))
    )
    launch = planned(tmp_path, "deno", permissions=grants, variables={"A": "1", "B": "2"}, socket=Path("/run/s"))
    assert [word for word in launch.argv if word.startswith("--allow")] == [
        f"--allow-read={tmp_path},/state,/srv/a,,b,/etc,/run/s",
        "--allow-write=/state,/srv/a,,b,/run/s",
        "--allow-env=A,B,DICODE_PARAMS,DICODE_RUN_ID,DICODE_SOCKET,DICODE_TASK_ID,DICODE_TOKEN",
        "--allow-net=api.example.org:443,unix:/run/s",
        "--allow-run",
        "--allow-sys=hostname",
    ]
    assert "--no-prompt" in launch.argv and "--no-lock" in launch.argv
    assert launch.argv[-2:] == (str(DENO_SHIM), (tmp_path / "task.mjs").as_uri())


@pytest.mark.parametrize(("net", "flags"), [(None, ["--allow-net"]), (("*",), ["--allow-net"]), ((), [])])
def test_net_absent_is_everything_and_an_empty_list_nothing(tmp_path: Path, net: tuple[str, ...] | None, flags: list[str]) -> None:
    (tmp_path / "task.ts").touch()
    launch = planned(tmp_path, "deno", permissions=Permissions(net=net))
    assert [word for word in launch.argv if word.startswith("--allow-net")] == flags


def test_a_lock_file_is_obeyed(tmp_path: Path) -> None:
    for name in ("task.ts", "deno.lock"):
        (tmp_path / name).touch()
    assert {"--lock=deno.lock", "--frozen"} < set(planned(tmp_path, "deno").argv)


def test_a_missing_deno_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "task.ts").touch()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RuntimeMissing, match=r"RuntimeMissing: .*pip install 'dicode\[deno\]'"):
        planned(tmp_path, "deno", host={"PATH": "/nowhere"})


def test_what_cannot_be_started_says_why(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"NoScript: a python task needs task\.py"):
        planned(tmp_path, "python")
    with pytest.raises(CannotStart, match="NotImplemented: runtime 'podman'"):
        planned(tmp_path, "podman")


def test_a_block_names_its_dependencies_and_the_same_block_has_the_same_key() -> None:
    block = b'# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n#   "six",\n#\n#   "idna>3",\n# ]\n# ///\n'
    needs = needs_of(b"import os\n" + block + b"x = 1\n")
    assert needs is not None and (needs.dependencies, needs.python) == (("six", "idna>3"), ">=3.11")
    again, crlf, other = needs_of(block + b"y = 2\n"), needs_of(block.replace(b"\n", b"\r\n")), needs_of(block.replace(b"six", b"sox"))
    assert again is not None and crlf is not None and other is not None
    assert again.key == needs.key == crlf.key != other.key


@pytest.mark.parametrize(
    "script", [b"", b"# dependencies = ['six']\n", b"# /// script\n# dependencies = []\n# ///\n", b"# /// other\n# x = 1\n# ///\n"]
)
def test_a_script_without_needs(script: bytes) -> None:
    assert needs_of(script) is None


@pytest.mark.parametrize(
    "script",
    [
        b"# /// script\n# dependencies = 3\n# ///\n",
        b"# /// script\n# nonsense\n# ///\n",
        b"# /// script\n# x = 1\n# ///\n\n# /// script\n# x = 2\n# ///\n",
    ],
)
def test_a_wrong_block_is_said(script: bytes) -> None:
    with pytest.raises(CannotStart, match="BadDependencies"):
        needs_of(script)


@pytest.mark.parametrize(
    ("files", "runtime", "expected"),
    [
        (("k.py",), "python", "k.py"),
        (("k.py", "task.py"), "python", "k.py"),
        (("task.py",), "python", "task.py"),
        (("k.sh",), "shell", "k.sh"),
        (("task.yaml", "task.py", "k.py"), "python", "task.py"),
        (("task.yaml", "k.py"), "python", "k.py"),  # an inline task that includes a task.yaml
    ],
)
def test_the_script_of_an_inline_task_is_found_by_the_last_part_of_its_id(
    tmp_path: Path, files: tuple[str, ...], runtime: str, expected: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert find_script(runtime, tmp_path, "infra/k") == tmp_path / expected


def test_a_missing_script_is_said_with_the_names_it_could_have(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"needs k.py or task.py beside the TaskSet"):
        find_script("python", tmp_path, "infra/k")
    (tmp_path / "task.yaml").touch()
    with pytest.raises(CannotStart, match=r"needs task.py beside task.yaml"):
        find_script("python", tmp_path, "infra/k")


def test_an_inline_task_is_started_by_its_own_script(tmp_path: Path) -> None:
    (tmp_path / "k.py").touch()
    assert planned(tmp_path, "python", task_id="infra/k").script == tmp_path / "k.py"
