"""Pub/sub only hurries: with every publication dropped the system comes to the same end, by heartbeats and by asking again."""

from __future__ import annotations

import http.client
import json

import pytest
from tests.support import processes
from tests.support.system import System
from tests.support.waiting import wait_for

from dicode.messages.kinds import Daemon, Route, Run, Schedule, Task

pytestmark = pytest.mark.process
SOON = 10.0  # seconds; the promise is 2, on a machine that has nothing else to do
DAEMON = "name: daemon\nruntime: shell\ntrigger: {daemon: true, stop_grace: 1s, min_ready: 0}\n"
MANUAL = "name: manual\nruntime: shell\ntrigger: {manual: true}\n"
CRON = 'name: cron\nruntime: shell\ntrigger: {cron: "@every 1s"}\n'
HOOK = "name: hook\nruntime: shell\ntrigger: {webhook: /hooks/hook}\n"


def test_the_system_converges_without_a_single_publication(system: System) -> None:
    system.up(DICODE_TEST_DROP_HINTS="1")
    system.write_task("daemon", DAEMON, task_sh="exec sleep 1000\n")
    system.write_task("manual", MANUAL, task_sh="echo ran\n")
    system.write_task("cron", CRON, task_sh="true\n")
    system.write_task("hook", HOOK, task_sh="echo '{\"ok\": true}' > $DICODE_RESULT\n")
    for id in ("daemon", "manual", "cron", "hook"):
        synced(system, id)

    before = system.object(Daemon, "daemon", lambda daemon: daemon.state == "running", SOON)
    system.write_task("daemon", DAEMON, task_sh="exec sleep 1001\n")
    after = system.object(Daemon, "daemon", lambda daemon: daemon.state == "running" and daemon.digest != before.digest, SOON)
    assert processes.lives(after.pid) and not processes.lives(before.pid)
    synced(system, "daemon")

    done = system.run("run", "manual")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    wait_for(lambda: any(run.task == "cron" and run.status == "succeeded" for run in system.objects(Run).values()), "the schedule fires", SOON)
    assert post(system, "/hooks/hook") == {"ok": True}

    (system.tasks / "cron" / "task.yaml").unlink()
    wait_for(lambda: system.reader().get(Task, "cron") is None, "cron is unregistered", 2 * SOON)
    wait_for(lambda: system.reader().get(Schedule, "cron") is None, "and its schedule is gone", SOON)


def synced(system: System, id: str) -> Task:
    return system.object(Task, id, lambda task: task.sync == "Synced" and task.digest, SOON)


def post(system: System, path: str) -> object:
    """The result of the run, waited for."""
    host, port = system.object(Route, "hook", lambda route: route.url).url.removeprefix("http://").partition("/")[0].rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=SOON)
    try:
        connection.request("POST", path)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        return json.loads(answer.read())
    finally:
        connection.close()
