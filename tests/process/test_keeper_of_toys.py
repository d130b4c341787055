"""What a keeper promises to any role, tried with roles that do as they are told."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from tests.support import processes
from tests.support.system import REPOSITORY, System
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process
Program = subprocess.Popen[bytes]


def keep(system: System, *roles: str, pass_fds: tuple[int, ...] = (), **environ: str) -> Program:
    return system.start_program(
        [sys.executable, "-m", "tests.support.toy.keep", *roles], PYTHONPATH=str(REPOSITORY), DICODE_DATA_DIR=str(system.data), **environ
    )


def said_by(system: System, role: str, text: str) -> list[int]:
    """The pids of the roles that have said this, in the order they did."""
    return [int(pid) for pid in re.findall(rf"{role} (\d+) {text}", system.said())]


def heard(system: System, role: str, text: str, times: int = 1) -> int:
    """The pid of the role that said this for the n-th time."""
    return wait_for(lambda: said_by(system, role, text)[times - 1 : times], f"{role}: {text} ({times})")[0]


def test_a_killed_role_is_back_and_its_neighbours_and_keeper_notice_nothing(system: System) -> None:
    keeper = keep(system, "store:ready", "reconciler:ready", "worker:ready")
    store, reconciler = heard(system, "store", "is ready"), heard(system, "reconciler", "is ready")
    for time_ in range(2, 5):
        os.kill(heard(system, "reconciler", "is ready", time_ - 1), signal.SIGKILL)
        assert heard(system, "reconciler", "is ready", time_) != reconciler
    assert keeper.poll() is None
    assert said_by(system, "store", "is ready") == [store]
    assert "reconciler ended (killed by SIGKILL): it is started again" in system.said()


def test_what_a_role_keeps_outlives_it(system: System) -> None:
    keep(system, "supervisor:pipe,ready")
    os.kill(heard(system, "supervisor", "is ready"), signal.SIGKILL)
    heard(system, "supervisor", "is ready", 2)
    assert r"start 1 kept lock:supervisor,pipe,pipe-in" in system.said()
    assert r"pipe holds b'start 0\nstart 1\n'" in system.said()


def test_a_role_hears_how_its_orphans_ended_while_it_lives_and_after_it_was_replaced(system: System) -> None:
    keep(system, "supervisor:orphan,ready")
    supervisor = heard(system, "supervisor", "is ready")
    orphan = int(wait_for(lambda: re.findall(r"orphan (\d+)", system.said()))[0])
    (system.home / "release").touch()
    system.hears(f"is told of {orphan}: 7")
    os.kill(supervisor, signal.SIGKILL)
    system.hears(f"was told of {orphan}: 7")


def test_a_stuck_role_is_replaced_and_leaves_a_trace_of_what_it_did(system: System) -> None:
    keep(system, "reconciler:ready,stuck", DICODE_WATCHDOG="2")
    heard(system, "reconciler", "is ready", 2)
    assert re.search(r"reconciler has not answered for 2 s: it is replaced", system.said())
    assert "ended (killed by SIGABRT)" in system.said()
    assert "in _main" in (system.data / "run" / "reconciler.stack").read_text()
    assert "Traceback" not in system.said() and "in _main" not in system.said()


def test_a_stopped_role_is_replaced(system: System) -> None:
    keep(system, "store:ready", DICODE_WATCHDOG="2")
    os.kill(heard(system, "store", "is ready"), signal.SIGSTOP)
    heard(system, "store", "is ready", 2)
    assert "ended (killed by SIGKILL)" in system.said()


def test_a_keeper_that_was_stopped_itself_judges_nobody(system: System) -> None:
    keeper = keep(system, "store:ready", "reconciler:ready", DICODE_WATCHDOG="1.5")
    pids = [heard(system, role, "is ready") for role in ("store", "reconciler")]
    for pid in (keeper.pid, *pids):
        os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + 3.0  # longer than the watchdog waits
    wait_for(lambda: time.monotonic() > until)
    for pid in (keeper.pid, *pids):
        os.kill(pid, signal.SIGCONT)
    os.kill(pids[0], signal.SIGKILL)  # something that it must notice: then it has looked
    heard(system, "store", "is ready", 2)
    assert "has not answered" not in system.said()
    assert processes.lives(pids[1])


def test_a_crash_is_told_in_one_line_without_a_trace_and_starts_come_slower_and_slower(system: System) -> None:
    keep(system, "reconciler:crash")
    said = system.hears("again in 0.8 s")
    assert "reconciler ended (RuntimeError: it broke\\x0ain two lines): it is started again\n" in said
    assert "again in 0.2 s" in said and "again in 0.4 s" in said
    assert "Traceback" not in said


def test_debug_shows_the_trace(system: System) -> None:
    keep(system, "reconciler:crash", DICODE_DEBUG="1")
    system.hears("Traceback")


def test_one_role_that_cannot_start_ends_all_with_its_code_and_one_line(system: System) -> None:
    keeper = keep(system, "store:ready", "trigger-engine:refuse", "reconciler:ready")
    assert keeper.wait(20) == 78
    assert [line for line in system.said().splitlines() if line.startswith("dicode:")] == ["dicode: the moon is wrong"]
    assert "Traceback" not in system.said()


def test_the_store_goes_last(system: System) -> None:
    keeper = keep(system, "store:ready", "reconciler:ready", "worker:ready,deaf", DICODE_STOP_TIMEOUT="1")
    for role in ("store", "reconciler", "worker-1"):
        heard(system, role, "is ready")
    assert system.stop(keeper) == 0
    orders = re.findall(r"(store|reconciler|worker-1) \d+ is asked to stop", system.said())
    assert len(orders) == 3 and orders[-1] == "store"


def test_a_role_that_does_not_stop_is_killed_in_time(system: System) -> None:
    keeper = keep(system, "store:ready,deaf", "reconciler:ready,deaf")
    for role in ("store", "reconciler"):
        heard(system, role, "is ready")
    began = time.monotonic()
    assert system.stop(keeper) == 0
    assert 3.9 < time.monotonic() - began < 5.0 + 1.0
    system.nothing_left()


def test_a_second_ctrl_c_changes_nothing(system: System) -> None:
    keeper = keep(system, "store:ready", "reconciler:ready,deaf", DICODE_STOP_TIMEOUT="1")
    for role in ("store", "reconciler"):
        heard(system, role, "is ready")
    os.killpg(keeper.pid, signal.SIGINT)
    heard(system, "reconciler", "is asked to stop")
    os.killpg(keeper.pid, signal.SIGINT)
    os.killpg(keeper.pid, signal.SIGTERM)
    assert keeper.wait(10) == 0
    heard(system, "store", "is asked to stop")


def test_roles_stop_when_their_keeper_is_killed_even_the_deaf(system: System) -> None:
    keeper = keep(system, "store:ready", "reconciler:ready,deaf", DICODE_STOP_TIMEOUT="1")
    for role in ("store", "reconciler"):
        heard(system, role, "is ready")
    keeper.kill()
    keeper.wait(5)
    system.nothing_left()


def test_whoever_starts_after_a_killed_keeper_waits_for_its_roles_to_go(system: System) -> None:
    keeper = keep(system, "store:ready,deaf", DICODE_STOP_TIMEOUT="1.5")
    heard(system, "store", "is ready")
    keeper.kill()
    keeper.wait(5)
    again = keep(system, "store:ready")
    heard(system, "store", "is ready", 2)
    assert again.poll() is None
    assert system.holds("store") == again.pid


def test_a_second_one_is_refused_and_names_the_first_and_its_other_roles_never_begin(system: System) -> None:
    first = keep(system, "store:ready", "reconciler:ready")
    for role in ("store", "reconciler"):
        heard(system, role, "is ready")
    second = keep(system, "store:ready", "reconciler:ready", "worker:ready")
    assert second.wait(20) == 75
    assert f"dicode: store already runs here: pid {first.pid} ({system.data})" in system.said()
    assert not said_by(system, "worker-1", "start") and len(said_by(system, "reconciler", "start")) == 1
    assert first.poll() is None


def test_workers_take_the_first_free_name_and_keep_it(system: System) -> None:
    keep(system, "worker:ready", "worker:ready")
    first, second = heard(system, "worker-1", "is ready"), heard(system, "worker-2", "is ready")
    os.kill(first, signal.SIGKILL)
    assert heard(system, "worker-1", "is ready", 2) not in (first, second)


def test_nothing_is_inherited_but_the_link(system: System) -> None:
    reader, writer = os.pipe()
    stray = os.fstat(reader).st_ino
    keep(system, "reconciler:ready", pass_fds=(reader,))
    role = heard(system, "reconciler", "is ready")
    inodes = {os.stat(f"/proc/{role}/fd/{fd}").st_ino for fd in os.listdir(f"/proc/{role}/fd")}
    assert stray not in inodes
    assert os.readlink(f"/proc/{role}/fd/0") == "/dev/null"
    os.close(reader)
    os.close(writer)


def test_what_a_dead_role_left_running_goes_with_the_keeper(system: System) -> None:
    keeper = keep(system, "worker:orphan,daemon,ready")
    os.kill(heard(system, "worker-1", "is ready"), signal.SIGKILL)
    heard(system, "worker-1", "is ready", 2)
    assert len(system.left()) >= 4
    assert system.stop(keeper) == 0
    system.nothing_left(1.0)


def test_daemons_that_are_to_stay_stay_and_nothing_else(system: System) -> None:
    keeper = keep(system, "supervisor:orphan,daemon,ready,--keep-daemons")
    heard(system, "supervisor", "is ready")
    assert system.stop(keeper) == 0
    (daemon,) = [process for process in system.left() if process.environ().get("DICODE_DAEMON_ID") and "done" in process.cmdline()[-1]]
    assert not [process for process in system.left() if "release" in process.cmdline()[-1]]
    for process in system.left():
        process.kill()
    daemon.wait(5)


def test_systemd_is_told_when_all_are_ready(system: System) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(system.home / "notify"))
        ear.settimeout(20)
        keeper = keep(system, "store:ready", "reconciler:ready", NOTIFY_SOCKET=str(system.home / "notify"))
        assert ear.recv(100) == b"READY=1"
        system.stop(keeper)
        assert ear.recv(100) == b"STOPPING=1"


def test_more_files_than_a_link_holds_at_once_are_handed_over(system: System) -> None:
    keep(system, "supervisor:files,ready")
    os.kill(heard(system, "supervisor", "is ready"), signal.SIGKILL)
    heard(system, "supervisor", "is ready", 2)
    assert "kept 1001 files" in system.said()


def test_many_orphans_are_reaped_and_told(system: System) -> None:
    keeper = keep(system, "supervisor:brood,ready")
    heard(system, "supervisor", "is ready")
    wait_for(lambda: system.said().count("is told of") >= 500, "500 orphans")
    assert not [child for child in psutil.Process(keeper.pid).children() if child.status() == psutil.STATUS_ZOMBIE]


def test_a_stopped_keeper_does_not_stop_its_roles(system: System) -> None:
    keeper = keep(system, "supervisor:chatty,ready")
    heard(system, "supervisor", "is ready")
    os.kill(keeper.pid, signal.SIGSTOP)
    heard(system, "supervisor", "has beaten 3000 times")
    os.kill(keeper.pid, signal.SIGCONT)
    assert system.stop(keeper) == 0
