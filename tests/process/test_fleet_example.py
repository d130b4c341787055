"""examples/fleet as its README and docs/tasksets.md tell of it: a TaskSet over two repositories, really created and pushed to over HTTP."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.support.git_remote import ENVIRON, Repository, Server, git, serving
from tests.support.git_system import SECRET, SECRET_ENV, all_synced, at_commit, generations, git_source, push, registered_again, source_shown, sync
from tests.support.system import REPOSITORY, System
from tests.support.waiting import wait_for

from dicode.messages.kinds import Daemon, Event, Source, Task

pytestmark = pytest.mark.process
FLEET = REPOSITORY / "examples" / "fleet"
BEACON = {
    "beacon/task.yaml": "apiVersion: dicode/v1\nkind: Task\nname: Beacon\nruntime: shell\ntrigger: {daemon: true, stop_grace: 1s, min_ready: 0}\n",
    "beacon/task.sh": "exec sleep 100000\n",
}
IDS = {"fleet/certificate", "fleet/uptime", "fleet/beacon", "fleet/billing/nightly-report"}
REPORT = "fleet/billing/nightly-report"
PATIENT = 120.0  # seconds; the daemon's deadline has nothing to do with what is proved here


class Fleet(NamedTuple):
    """The example over two repositories; `platform` has a daemon more."""

    system: System
    server: Server
    platform: Repository
    apps: Repository

    def set_file(self) -> str:
        return (self.platform.work / "taskset.yaml").read_text()

    def override(self, old: str, new: str, message: str = "another override") -> str:
        """Push the set of platform with this part of it replaced; the commit."""
        before = self.set_file()
        assert old in before, before
        return self.platform.commit({"taskset.yaml": before.replace(old, new)}, message)

    def settled(self) -> dict[str, Task]:
        return all_synced(self.system, IDS)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    system = System()
    try:
        remote = system.home / "remote"
        with serving(remote) as server:
            platform, apps = Repository(remote, "platform"), Repository(remote, "apps")
            publish(platform, FLEET / "platform", {**BEACON, "taskset.yaml": with_beacon(server.url)})
            publish(apps, FLEET / "apps")
            system.write_config("sources:\n" + git_source("fleet", f"{server.url}/platform"))
            keeper = system.up(**{SECRET_ENV: SECRET})
            fleet = Fleet(system, server, platform, apps)
            fleet.settled()
            yield fleet
            assert keeper.poll() is None, f"it ended with {keeper.returncode} in the middle:\n{system.said()}"
    finally:
        system.close()


def publish(repository: Repository, folder: Path, more: dict[str, str] | None = None) -> None:
    shutil.copytree(folder, repository.work, dirs_exist_ok=True)
    repository.commit(more or {}, "as in the example")


def with_beacon(url: str) -> str:
    text = (FLEET / "platform" / "taskset.yaml").read_text()
    assert "https://git.example.org/acme/apps" in text
    return text.replace("https://git.example.org/acme", url) + "    beacon: {ref: {path: ./beacon}}\n"


def rendered(fleet: Fleet, folder: Path) -> dict[str, str]:
    """Task id → digest, when the same files lie in one folder on this disk."""
    shutil.copytree(fleet.platform.work, folder, ignore=shutil.ignore_patterns(".git"))
    shutil.copytree(fleet.apps.work / "billing", folder / "billing")
    set_file = folder / "taskset.yaml"
    whole = set_file.read_text()
    here = re.sub(r"url: .*\n *branch: .*\n *path: billing", "path: ./billing", whole)
    assert here != whole
    set_file.write_text(here)
    done = fleet.system.run("render", str(folder), "--source-name", "fleet", "-o", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    return {each["id"]: each["digest"] for each in json.loads(done.stdout)}


def test_its_tasks_are_those_of_both_repositories_with_the_digests_the_same_files_have_in_a_folder(fleet: Fleet, tmp_path: Path) -> None:
    tasks = fleet.settled()
    assert {id: task.digest for id, task in tasks.items()} == rendered(fleet, tmp_path / "one")
    heads = [git(repository.work, "rev-parse", "HEAD") for repository in (fleet.platform, fleet.apps)]
    assert tasks[REPORT].revision == heads[1] and tasks["fleet/uptime"].revision == heads[0]
    source = fleet.system.object(Source, "fleet")
    assert source.resolutions[0].revisions == {"": heads[0], f"{fleet.server.url}/apps#branch=main": heads[1]}
    described = fleet.system.run("describe", "source", "fleet").stdout
    assert heads[0][:7] in described and heads[1][:7] in described and "Ada Lovelace" in described


def test_overrides_defaults_and_inline_entries_hold(fleet: Fleet) -> None:
    tasks = fleet.settled()
    specs = {id: task.spec for id, task in tasks.items() if task.spec is not None}
    assert specs[REPORT].trigger.cron == "30 5 * * 1-5"
    assert {param.name: param.default for param in specs["fleet/certificate"].params or ()}["host"] == "git.example.org"
    assert (specs["fleet/uptime"].timeout, specs[REPORT].timeout) == (120_000, None), "the defaults of a set end at the sets below it"
    said = fleet.system.run("run", "fleet/uptime")
    assert said.returncode == 0 and said.stdout.startswith("eu-west: "), said.stdout + said.stderr
    report = fleet.system.run("run", REPORT)
    assert (report.returncode, report.stdout) == (0, "report in EUR for eu-west\n"), report.stderr


def test_what_is_disabled_stays_so_when_its_files_change(fleet: Fleet) -> None:
    fleet.settled()
    before = generations(fleet.system)
    commit = fleet.apps.commit({"billing/cleanup/task.sh": "#!/bin/sh\necho changed\n"})
    sync(fleet.system, "fleet")
    assert commit in fleet.system.object(Source, "fleet").resolutions[0].revisions.values()
    assert registered_again(fleet.system, before) == set()
    assert fleet.system.run("get", "tasks", "fleet/billing/cleanup").returncode == 2


def test_a_push_to_apps_registers_only_the_task_it_changed(fleet: Fleet) -> None:
    fleet.settled()
    before = generations(fleet.system)
    fleet.apps.commit({"billing/nightly-report/task.py": "def main():\n    print('a new report')\n"})
    assert push(fleet.system, "fleet")
    fleet.system.object(Task, REPORT, lambda task: task.generation > before[REPORT])
    fleet.settled()
    assert registered_again(fleet.system, before) == {REPORT}
    assert fleet.system.run("run", REPORT).stdout == "a new report\n"


def test_a_push_to_platform_reloads_exactly_the_tasks_whose_override_it_changes(fleet: Fleet) -> None:
    fleet.settled()
    before = generations(fleet.system)
    commit = fleet.override('"30 5 * * 1-5"', '"45 5 * * 1-5"')
    assert push(fleet.system, "fleet")
    at_commit(fleet.system, "fleet", commit)
    again = fleet.system.object(Task, REPORT, lambda task: task.generation > before[REPORT])
    assert again.spec is not None and again.spec.trigger.cron == "45 5 * * 1-5"
    fleet.settled()
    assert registered_again(fleet.system, before) == {REPORT}

    before = generations(fleet.system)
    commit = fleet.override("# The root of the fleet", "# The very root of the fleet")
    assert push(fleet.system, "fleet")
    at_commit(fleet.system, "fleet", commit)
    assert registered_again(fleet.system, before) == set()

    commit = fleet.override("env: [REGION=eu-west]\n  entries", "env: [REGION=eu-north]\n  entries")
    assert push(fleet.system, "fleet")
    at_commit(fleet.system, "fleet", commit)
    touched = {"fleet/certificate", "fleet/uptime", "fleet/beacon"}  # its own tasks, not those of the set below
    wait_for(lambda: registered_again(fleet.system, before) == touched, "all tasks of the set")
    fleet.settled()
    assert registered_again(fleet.system, before) == touched
    assert fleet.system.run("run", "fleet/uptime").stdout.startswith("eu-north: ")


def daemon_pid(fleet: Fleet) -> int:
    return fleet.system.object(Daemon, "fleet/beacon", lambda daemon: daemon.state == "running" and daemon.pid).pid


def test_dev_mode_on_a_working_copy_and_back_moves_only_what_differs_and_no_daemon(fleet: Fleet, tmp_path: Path) -> None:
    fleet.settled()
    system, copy = fleet.system, tmp_path / "platform"
    pid, before = daemon_pid(fleet), generations(system)
    git(tmp_path, "clone", "-q", str(fleet.platform.bare), str(copy))

    assert system.run("source", "dev", "fleet", "--local-path", str(copy), deadline=PATIENT).returncode == 0
    assert source_shown(system, "fleet", lambda source: source["status"] == "ok")["dev"] == str(copy)
    fleet.settled()
    assert registered_again(system, before) == set()

    (copy / "uptime.sh").write_text("#!/bin/sh\necho from the working copy\n")
    system.object(Task, "fleet/uptime", lambda task: task.generation > before["fleet/uptime"])
    fleet.settled()
    assert system.run("run", "fleet/uptime").stdout == "from the working copy\n"
    assert registered_again(system, before) == {"fleet/uptime"}

    assert system.run("source", "dev", "fleet", "--disable", deadline=PATIENT).returncode == 0
    assert source_shown(system, "fleet", lambda source: source["status"] == "ok")["dev"] is None
    system.object(Task, "fleet/uptime", lambda task: task.generation > before["fleet/uptime"] + 1)
    fleet.settled()
    assert registered_again(system, before) == {"fleet/uptime"}
    assert daemon_pid(fleet) == pid


def test_plan_says_what_a_branch_would_change_and_merging_it_does_exactly_that(fleet: Fleet, tmp_path: Path) -> None:
    """One of each kind: added, removed, updated, restarted, another next fire, an entry that leads nowhere."""
    system = fleet.system
    was = fleet.settled()
    before, pid, text = generations(system), daemon_pid(fleet), fleet.set_file()
    certificate = "    certificate:\n      ref: {path: ./probes/certificate}\n      overrides:\n        params: {host: git.example.org}\n"
    assert certificate in text and '{cron: "0 * * * *"}' in text
    merged = text.replace(certificate, "").replace('{cron: "0 * * * *"}', '{cron: "30 4 1 1 *"}')
    changed = {
        "taskset.yaml": merged + "    extra: {ref: {path: ./extra}}\n    lost: {ref: {path: ./nowhere}}\n",
        "extra/task.yaml": "apiVersion: dicode/v1\nkind: Task\nname: Extra\nruntime: shell\ntrigger: {manual: true}\n",
        "extra/task.sh": "echo extra\n",
        "beacon/task.sh": "exec sleep 200000\n",
    }
    commit = fleet.platform.commit(changed, "to be merged", branch="topic")
    plan = planned(fleet, "fleet", "--ref", "topic")
    assert {each["id"] for each in plan["updated"]} == {"fleet/uptime", "fleet/beacon"}
    assert (plan["added"], plan["removed"], plan["restarted"], plan["collisions"]) == (["fleet/extra"], ["fleet/certificate"], ["fleet/beacon"], [])
    assert [each["id"] for each in plan["errors"]] == ["fleet/lost"], plan["errors"]
    assert registered_again(system, before) == set() and daemon_pid(fleet) == pid, "a plan changes nothing"

    copy = tmp_path / "platform"
    git(tmp_path, "clone", "-q", "-b", "topic", str(fleet.platform.bare), str(copy))
    same = planned(fleet, str(copy), "--source", "fleet")
    parts = ("added", "removed", "updated", "restarted", "next")
    assert {part: same[part] for part in parts} == {part: plan[part] for part in parts}, "a working copy of it says the same"

    git(fleet.platform.work, "checkout", "-q", "main")
    git(fleet.platform.work, "merge", "-q", "--ff-only", "topic")
    git(fleet.platform.work, "push", "-q", "origin", "main")
    assert push(system, "fleet")
    system.object(Source, "fleet", lambda source: source.revision == commit)
    wait_for(lambda: system.objects(Task).keys() == {*IDS, "fleet/extra", "fleet/lost"} - {"fleet/certificate"}, "added and removed")
    system.object(Daemon, "fleet/beacon", lambda daemon: daemon.state == "running" and daemon.pid != pid)
    now = {id: system.object(Task, id, lambda task: task.sync == "Synced") for id in sorted(IDS - {"fleet/certificate"})}
    assert {each["id"]: (each["from"], each["to"]) for each in plan["updated"]} == {
        id: (was[id].digest, task.digest) for id, task in now.items() if task.digest != was[id].digest
    }
    assert registered_again(system, before) == {"fleet/certificate", "fleet/uptime", "fleet/beacon", "fleet/extra", "fleet/lost"}
    assert plan["next"]["fleet/uptime"]["after"][0] == system.get("schedules", "fleet/uptime")["next"]
    assert not system.object(Task, "fleet/lost").digest
    again = planned(fleet, "fleet", "--ref", "topic", code=1)  # nothing would change, and one entry is still wrong
    assert not [part for part in ("added", "removed", "updated", "restarted") if again[part]]

    back = fleet.platform.commit({"taskset.yaml": text, "extra/task.yaml": None, "extra/task.sh": None})  # for the other tests
    assert push(system, "fleet")
    at_commit(system, "fleet", back)
    fleet.settled()


def planned(fleet: Fleet, *words: str, code: int = 3) -> dict[str, Any]:
    done = fleet.system.run("plan", *words, "-o", "json", deadline=PATIENT)
    assert done.returncode == code, done.stdout + done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def test_without_a_webhook_it_is_live_at_the_next_poll(system: System) -> None:
    remote = system.home / "remote"
    with serving(remote) as server:
        platform, apps = Repository(remote, "platform"), Repository(remote, "apps")
        publish(
            platform,
            FLEET / "platform",
            {"taskset.yaml": with_beacon(server.url).replace("path: billing", "path: billing\n        poll_interval: 1s"), **BEACON},
        )
        publish(apps, FLEET / "apps")
        system.write_config(f"sources:\n  - {{name: fleet, type: git, url: '{server.url}/platform', poll_interval: 1s}}\n")
        system.up()
        all_synced(system, IDS)
        before = generations(system)
        apps.commit({"billing/nightly-report/task.py": "def main():\n    print('polled')\n"})
        system.object(Task, REPORT, lambda task: task.generation > before[REPORT])
        commit = platform.commit({"uptime.sh": "#!/bin/sh\necho polled\n"})
        at_commit(system, "fleet", commit)
        wait_for(lambda: registered_again(system, before) == {REPORT, "fleet/uptime"}, "both are registered, and nothing else")
        assert not [event for event in system.objects(Event).values() if event.type == "Warning"]


def test_a_ref_to_another_inner_host_is_refused_until_credentials_name_it(system: System) -> None:
    here, there = system.home / "here", system.home / "there"
    with serving(here) as server, serving(there, token="t0ken") as other:
        platform, apps = Repository(here, "platform"), Repository(there, "apps")
        publish(platform, FLEET / "platform", {**BEACON, "taskset.yaml": with_beacon(other.url)})
        publish(apps, FLEET / "apps")
        sources = "sources:\n" + git_source("fleet", f"{server.url}/platform")
        system.write_config(sources)
        system.up(**{SECRET_ENV: SECRET, "APPS_TOKEN": "t0ken"})
        tasks = wait_for(lambda: found if len(found := system.objects(Task)) == 4 else None, "four tasks, one of them refused")
        assert not tasks["fleet/billing"].digest and {id for id, task in tasks.items() if task.digest} == IDS - {REPORT}
        assert other.hits == [], "nobody went there"
        shown = json.dumps(system.get("tasks", "fleet/billing")["conditions"])
        assert "private network" in shown, shown
        system.write_config(f"{sources}credentials: [{{match: '{other.url}/', token_env: APPS_TOKEN}}]\n")
        all_synced(system, IDS)
        assert other.hits


def test_the_readme_of_the_example_works_word_for_word(system: System) -> None:
    lines = commands_of((FLEET / "README.md").read_text())
    assert lines[-1] == "dicode up" and "cp -r PATH-OF-DICODE/examples/fleet" in lines[0]
    script = "\n".join(lines[:-1]).replace("PATH-OF-DICODE", str(REPOSITORY))
    done = subprocess.run(["bash", "-euc", script], cwd=system.home, env=ENVIRON, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    folder = system.home / "fleet"
    config = folder / "dicode.yaml"
    config.write_text(config.read_text() + 'hooks: {listen: "127.0.0.1:0"}\n')
    system.data = folder / ".dicode"
    environ = {"DICODE_CONFIG": str(config)}
    system.start_program(["dicode", "up"], folder, **environ)
    ids = IDS - {"fleet/beacon"}
    wait_for(lambda: system.objects(Task), "its store is there")
    all_synced(system, ids)

    before = generations(system)
    (folder / "apps/billing/nightly-report/task.py").write_text("def main():\n    print('committed')\n")
    git(folder / "apps", "commit", "-qam", "a change")
    assert system.run("source", "sync", "fleet", **environ).returncode == 0  # `apps` is polled as a ref is, every 30 s
    system.object(Task, REPORT, lambda task: task.generation > before[REPORT])
    (folder / "platform/uptime.sh").write_text("#!/bin/sh\necho committed\n")
    git(folder / "platform", "commit", "-qam", "a change")
    system.object(Task, "fleet/uptime", lambda task: task.generation > before["fleet/uptime"])
    all_synced(system, ids)
    assert registered_again(system, before) == {REPORT, "fleet/uptime"}

    before = generations(system)
    said = system.run("source", "dev", "fleet", "--local-path", str(folder / "platform"), **environ)
    assert said.returncode == 0, said.stderr
    (folder / "platform/uptime.sh").write_text("#!/bin/sh\necho saved\n")
    system.object(Task, "fleet/uptime", lambda task: task.generation > before["fleet/uptime"])
    said = system.run("source", "dev", "fleet", "--disable", **environ)
    assert said.returncode == 0, said.stderr
    system.object(Task, "fleet/uptime", lambda task: task.generation > before["fleet/uptime"] + 1)
    all_synced(system, ids)
    assert registered_again(system, before) == {"fleet/uptime"}


def commands_of(text: str) -> list[str]:
    """The lines of the one code block."""
    (block,) = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    return str(block).splitlines()
