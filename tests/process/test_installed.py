"""Installed without a clone: what `pip install .` would install is whole, and in any folder `dicode init hello && dicode up .` works."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import psutil
import pytest
from tests.support.system import BIN, REPOSITORY, System

pytestmark = pytest.mark.process
TIERS = ("proto", "controllers", "workers")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--wheel", "--quiet", "--out-dir", str(folder), str(REPOSITORY))
    (built,) = folder.glob("*.whl")
    return built


def uv(*words: str) -> None:
    done = subprocess.run([str(BIN / "uv"), *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_it_holds_every_file_of_the_three_tiers_and_none_hides_the_others(wheel: Path) -> None:
    files = {
        path.relative_to(REPOSITORY / tier).as_posix()
        for tier in TIERS
        for path in (REPOSITORY / tier).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == files
    assert "dicode/__init__.py" not in held  # it would hide the other tiers
    assert "dicode/sdk/shim.ts" in held


def test_in_any_folder_a_first_task_is_made_and_runs(wheel: Path, system: System, tmp_path: Path) -> None:
    """Our own dependencies are lent to it: they need not be downloaded once more to be believed."""
    venv = tmp_path / "venv"
    uv("venv", "--quiet", "--python", sys.executable, str(venv))
    uv("pip", "install", "--quiet", "--no-deps", "--python", str(venv), str(wheel))
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")  # not the .pth of our editable install, which lies in there
    config = system.home / "dicode.yaml"
    config.unlink()
    system.data = system.home / ".dicode"

    made = subprocess.run(
        [venv / "bin" / "dicode", "init", "hello"], cwd=system.home, env=system.environ(), capture_output=True, text=True, timeout=60
    )
    assert made.returncode == 0, made.stderr
    config.write_text(config.read_text() + 'hooks: {listen: "127.0.0.1:0"}\n')  # 8080 may be taken here
    up = system.start_program([str(venv / "bin" / "dicode"), "up", "."])
    system.hears("ready: 1 task, hooks http://127.0.0.1:")
    roles = [psutil.Process(pid).cmdline()[0] for pids in system.pids(up).values() for pid in pids]
    assert roles and all(Path(python).is_relative_to(venv) for python in roles), roles
    run = subprocess.run([venv / "bin" / "dicode", "run", "hello"], cwd=system.home, env=system.environ(), capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "Hello, World!\n"), run.stderr
    assert system.stop(up) == 0
