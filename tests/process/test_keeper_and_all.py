"""The whole system under `dicode up` and under a Procfile manager: who comes back, who is refused, what is left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from tests.support import processes
from tests.support.system import REPOSITORY, STOPS_WITHIN, System
from tests.support.waiting import wait_for

from dicode.process.keeper import ROLES

pytestmark = pytest.mark.process
HERE = [role for role in ROLES if f"{role}: exec dicode {role}" in (REPOSITORY / "Procfile").read_text()]


def keepers(honcho: subprocess.Popen[bytes]) -> dict[str, int]:
    """Role → its keeper, of those that honcho has started: it forks for each line, and `exec` replaces the shell."""
    found = {}
    for process in processes.descendants(honcho.pid):
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if len(words) > 2 and words[1].endswith("/dicode"):
                found[words[2]] = process.pid
    return found


def start_honcho(system: System, *words: str) -> subprocess.Popen[bytes]:
    """honcho, when every role has its lock."""
    honcho = system.honcho(*words)

    def all_locked() -> bool:
        if honcho.poll() is not None:
            pytest.fail(f"honcho ended with {honcho.returncode}")
        found = keepers(honcho)
        return len(found) == len(HERE) and all(system.holds("worker-1" if role == "worker" else role) == pid for role, pid in found.items())

    wait_for(all_locked, "all roles have their locks")
    return honcho


@pytest.mark.parametrize("role", HERE)
def test_each_role_is_back_under_up_and_the_others_are_untouched(system: System, role: str) -> None:
    up = system.up()
    before = system.pids(up)
    assert sorted(before) == sorted(HERE)
    pid = system.kill(up, role)
    system.replaced(up, role, pid)
    after = system.pids(up)
    assert {other: pids for other, pids in after.items() if other != role} == {other: pids for other, pids in before.items() if other != role}
    assert up.poll() is None
    assert system.stop(up) == 0


def test_each_role_is_back_under_its_own_keeper_and_honcho_notices_nothing(system: System) -> None:
    honcho = start_honcho(system)
    before = keepers(honcho)
    for role, keeper in before.items():
        (pid,) = wait_for(lambda: processes.role_pids(keeper).get(role))
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: [new for new in processes.role_pids(keeper).get(role, []) if new != pid], f"{role} is back")
    assert keepers(honcho) == before
    assert honcho.poll() is None


def test_honcho_stops_in_time_and_nothing_is_left(system: System) -> None:
    honcho = start_honcho(system)
    began = time.monotonic()
    honcho.send_signal(signal.SIGINT)
    honcho.wait(STOPS_WITHIN + 3)
    assert "sending SIGKILL" not in system.said()
    assert time.monotonic() - began < STOPS_WITHIN
    system.nothing_left(0.5)


def test_after_honcho_was_killed_a_second_one_is_refused_until_the_first_set_is_stopped(system: System) -> None:
    honcho = start_honcho(system)
    first = keepers(honcho)
    honcho.kill()
    honcho.wait(5)
    second = system.honcho()
    assert second.wait(20) == 75
    refused = re.search(r"(\S+) already runs here: pid (\d+)", system.said())  # whichever was first: then honcho stops them all
    assert refused is not None and first[refused[1]] == int(refused[2])
    for role, keeper in first.items():
        assert processes.lives(keeper), role
        os.kill(keeper, signal.SIGTERM)
    system.nothing_left()


def test_a_second_up_is_refused_at_once_and_names_the_first(system: System) -> None:
    up = system.up()
    before = system.pids(up)
    began = time.monotonic()
    refused = system.run("up")
    assert refused.returncode == 75
    assert time.monotonic() - began < 3.0
    assert refused.stderr == f"dicode: store already runs here: pid {up.pid} ({system.data})\n"
    assert system.pids(up) == before


@pytest.mark.parametrize("role", [role for role in HERE if role != "worker"])
def test_a_second_one_of_each_role_is_refused(system: System, role: str) -> None:
    up = system.up()
    refused = system.run(role)
    assert refused.returncode == 75
    assert refused.stderr == f"dicode: {role} already runs here: pid {up.pid} ({system.data})\n"


def test_ctrl_c_leaves_no_process(system: System) -> None:
    up = system.up("--workers", "2")
    assert len(system.pids(up)["worker"]) == 2
    os.killpg(up.pid, signal.SIGINT)
    assert up.wait(STOPS_WITHIN) == 0
    system.nothing_left(0.5)


def test_ctrl_c_while_everything_starts_leaves_no_process(system: System) -> None:
    up = system.start("up")
    wait_for(lambda: len(system.pids(up)) >= 3)
    os.killpg(up.pid, signal.SIGINT)
    assert up.wait(STOPS_WITHIN) == 0
    assert "Traceback" not in system.said()
    system.nothing_left(0.5)


def test_roles_go_when_up_is_killed_and_a_new_up_takes_over(system: System) -> None:
    up = system.up()
    up.kill()
    up.wait(5)
    again = system.up()
    for role in HERE:
        assert len(system.pids(again)[role]) == 1
    assert system.stop(again) == 0
    system.nothing_left()


def test_everything_killed_at_once_starts_again(system: System) -> None:
    up = system.up()
    for process in system.left():
        processes.kill(process.pid)
    up.wait(5)
    again = system.up()
    assert system.stop(again) == 0


@pytest.mark.parametrize("role", HERE)
def test_a_role_that_is_stopped_is_replaced(system: System, role: str) -> None:
    up = system.up(DICODE_WATCHDOG="3")
    pid = system.kill(up, role, signal.SIGSTOP)
    system.replaced(up, role, pid)
    system.hears(f"{'worker-1' if role == 'worker' else role} has not answered for 3 s: it is replaced")
    assert system.said().count("has not answered") == 1


def test_a_keeper_is_small(system: System) -> None:
    up = system.up()
    measured = processes.proportional_memory(up.pid)
    print(f"PSS of up: {measured} kB")
    assert measured <= 9_000


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("up", "--wrokers", "2"), "dicode: unknown option --wrokers; see `dicode up --help`\n"),
        (("up", "--workers", "many"), "dicode: --workers is a number from 0 to 256, not 'many'; see `dicode up --help`\n"),
        (("up", "nowhere"), "dicode: nowhere: no such folder; see `dicode up --help`\n"),
        (("worker", "--labels"), "dicode: --labels needs a value; see `dicode worker --help`\n"),
        (
            ("store", "-c", "nope.yaml"),
            "dicode: nope.yaml: no such file; `dicode init` writes one, `dicode up PATH` needs none; see `dicode store --help`\n",
        ),
        (("reconciler", "now"), "dicode: `dicode reconciler` takes no 'now'; see `dicode reconciler --help`\n"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(system: System, words: tuple[str, ...], line: str) -> None:
    done = system.run(*words)
    assert (done.returncode, done.stderr) == (2, line)


def test_a_place_that_cannot_be_written_is_one_line_and_exit_78(system: System) -> None:
    Path(system.home / "data").write_text("not a folder")
    done = system.run("up")
    assert done.returncode == 78
    assert done.stderr == f"dicode: {system.data}: File exists\n"


def test_a_config_that_cannot_be_read_is_one_line_with_its_place_and_exit_78(system: System) -> None:
    (system.home / "dicode.yaml").write_text("data_dir: [\n")
    done = system.run("up")
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1 and "dicode.yaml:" in done.stderr, done.stderr
