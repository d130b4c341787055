"""P1: a number that has gone to somebody else is nobody we know: he is neither signalled nor adopted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import processes
from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.kinds import Daemon, Task

pytestmark = pytest.mark.process

#: In a process namespace of its own, where numbers can be given out at will.
GIVEN_AGAIN = """
import asyncio, os, signal, subprocess, time
from pathlib import Path
from dicode.process import child as of
env = {"PATH": os.environ["PATH"], "DICODE_RUN_ID": "x"}
child = of.spawn(["sleep", "100"], env=env, cwd=Path("/"))
hunted = of._Hunted(child.identity, b"DICODE_RUN_ID=x")
assert hunted.look()
os.kill(child.pid, signal.SIGKILL)
os.waitpid(child.pid, 0)
until = time.monotonic() + 0.03  # the kernel tells starts in hundredths of a second; no number comes again so soon
while time.monotonic() < until:
    pass
Path("/proc/sys/kernel/ns_last_pid").write_text(str(child.pid - 1))
bystander = subprocess.Popen(["sleep", "100"])
assert bystander.pid == child.pid, "the number was not given again"
assert not child.signal(signal.SIGKILL)
hunted.signal(signal.SIGKILL)
assert asyncio.run(of.kill_tree(None, "DICODE_RUN_ID=x", grace=0))
try:
    of.adopt(child.identity)
except ProcessLookupError:
    pass
else:
    raise AssertionError("adopted a stranger")
assert bystander.poll() is None, "the bystander was hit"
bystander.kill()
bystander.wait()
print("spared")
"""


def test_who_got_the_number_of_a_dead_process_is_spared() -> None:
    alone = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*alone, "sh", "-c", "echo 100 > /proc/sys/kernel/ns_last_pid"], capture_output=True).returncode:
        pytest.skip("this machine gives nobody a process namespace")
    done = subprocess.run([*alone, sys.executable, "-c", GIVEN_AGAIN], capture_output=True, text=True, timeout=60)
    assert done.stdout == "spared\n", done.stderr


DAEMON = "name: web\nruntime: shell\ntrigger: {daemon: true, stop_grace: 1s}\n"


def test_a_record_that_names_a_stranger_by_now_starts_a_new_process_and_leaves_him_alone(system: System) -> None:
    """The supervisor and its daemon died, and the daemon's number went to a bystander before anybody looked."""
    system.write_task("web", DAEMON, task_sh="exec sleep 1000\n")
    up = system.up()
    before = system.object(Daemon, "web", lambda daemon: daemon.state == "running")
    for pid in (up.pid, *(child.pid for child in processes.descendants(up.pid))):
        processes.kill(pid, signal.SIGSTOP)
    for pid in (*(child.pid for child in processes.descendants(up.pid)), before.pid, up.pid):
        processes.kill(pid)
    up.wait(5)
    wait_for(lambda: not processes.lives(before.pid), "the daemon is dead")
    bystander = subprocess.Popen(["sleep", "1000"], cwd="/", start_new_session=True)
    try:
        (record,) = (system.data / "run" / "daemons").glob("*.json")
        record.write_text(json.dumps(json.loads(record.read_text()) | {"pid": bystander.pid}))
        system.up()
        after = system.object(Daemon, "web", lambda daemon: daemon.state == "running" and daemon.launch != before.launch)
        assert after.pid not in (before.pid, bystander.pid)
        system.run("suspend", "web")
        system.object(Daemon, "web", lambda daemon: daemon.state == "stopped")
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_start_that_was_not_finished_is_ended_even_if_only_its_lock_tells_of_it(system: System) -> None:
    """As if the supervisor had died between the spawn and the record of it, and the process had emptied its environment since."""
    system.write_task("web", DAEMON, task_sh="exec sleep 1000\n")
    up = system.up()
    before = system.object(Daemon, "web", lambda daemon: daemon.state == "running")
    supervisor = system.pid(up, "supervisor")
    daemons: Path = system.data / "run" / "daemons"
    os.kill(up.pid, signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    os.kill(before.pid, signal.SIGKILL)
    (record,), (lock,) = daemons.glob("*.json"), daemons.glob("*.lock")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"pid": 0, "start_time": 0.0, "boot_id": ""}))
    taking = f'exec 9<"{lock}"; flock 9; echo taken; exec sleep 1000'
    stray = subprocess.Popen(["env", "-i", "sh", "-c", taking], stdout=subprocess.PIPE, cwd="/", start_new_session=True)
    assert stray.stdout is not None and stray.stdout.readline() == b"taken\n"
    assert system.run("suspend", "web").returncode == 0  # so that nobody needs the lock
    system.object(Task, "web", lambda task: task.suspended)
    try:
        os.kill(up.pid, signal.SIGCONT)
        assert stray.wait(20) == -signal.SIGKILL
        system.object(Daemon, "web", lambda daemon: daemon.state == "stopped")
    finally:
        stray.kill()
        stray.wait()
        stray.stdout.close()
