"""Processes of others: known again, waited for, and ended with everything that came of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import processes
from tests.support.waiting import wait_for

from dicode.process.child import Child, adopt, identify, is_alive, kill_tree, look, spawn

pytestmark = pytest.mark.process
PATH = os.environ["PATH"]
PYTHON = sys.executable


class Place:
    """A folder of its own, and a mark that everything started here carries."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"DICODE_RUN_ID={secrets.token_hex(8)}"

    def spawn(self, *argv: str, **options: object) -> Child:
        name, _, value = self.mark.partition("=")
        return spawn(argv, env={"PATH": PATH, name: value}, cwd=self.folder, **options)  # type: ignore[arg-type]

    def shell(self, script: str) -> Child:
        """Started, and past the line that says `ready`."""
        child = self.spawn("/bin/sh", "-c", script)
        wait_for((self.folder / "ready").exists, "the script is ready")
        return child

    def left(self) -> list[int]:
        return [process.pid for process in processes.left_behind("", self.folder)]


@pytest.fixture
def place(data_dir: Path) -> Iterator[Place]:
    place = Place(data_dir)
    yield place
    left = place.left()
    for pid in left:
        processes.kill(pid)
    assert not left


def end(child: Child | None, place: Place, grace: float = 0.3) -> bool:
    return asyncio.run(kill_tree(child, place.mark, grace=grace))


FAMILIES = {
    "one that obeys": "touch ready; exec sleep 100",
    "a child": "sleep 100 & touch ready; wait",
    "a double fork": "(sleep 100 & sleep 100 &) ; touch ready; sleep 100",
    "an orphan whose parent has ended": "(sleep 100 &) ; touch ready; exit 0",
    "a session of its own": "setsid sleep 100 & touch ready; wait",
    "a session of its own, its parents gone": "(setsid sleep 100 &) ; touch ready; exit 0",
    "nohup": "nohup sleep 100 >/dev/null 2>&1 & touch ready; wait",
    "one that ignores SIGTERM": "trap '' TERM; touch ready; while :; do sleep 1; done",
    "one that is stopped": "touch ready; kill -STOP $$; sleep 100",
    "an emptied environment": "env -i /bin/sleep 100 & touch ready; wait",
    "an emptied environment in a session of its own": "env -i /usr/bin/setsid /bin/sleep 100 & sleep 0.2; touch ready; wait",
    "another program, exec'd over and over": "touch ready; exec sh -c 'exec sh -c \"exec sleep 100\"'",
    "threads": f"exec {PYTHON} -c \"import threading,pathlib,time; threading.Thread(target=time.sleep,args=(100,)).start(); pathlib.Path('ready').touch(); time.sleep(100)\"",
    "one that forks while it is killed": "touch ready; trap 'sleep 100 & sleep 100 &' TERM; while :; do sleep 0.05 & wait; done",
    "vfork": f"exec {PYTHON} -c \"import subprocess,pathlib; p=subprocess.Popen(['sleep','100']); pathlib.Path('ready').touch(); p.wait()\"",
}


@pytest.mark.parametrize("shape", FAMILIES)
def test_nothing_is_left_of(place: Place, shape: str) -> None:
    child = place.shell(FAMILIES[shape])
    assert end(child, place)
    assert child.ended()
    child.close()
    assert place.left() == []


def test_the_grace_is_for_those_who_use_it(place: Place) -> None:
    child = place.shell("trap 'touch goodbye; exit 3' TERM; touch ready; while :; do sleep 0.02; done")
    began = time.monotonic()
    assert end(child, place, grace=20)
    assert time.monotonic() - began < 10
    assert (place.folder / "goodbye").exists()
    assert child.exit_code == 3
    child.close()


def test_strays_of_a_program_that_nobody_holds_are_found_by_their_mark(place: Place) -> None:
    child = place.shell("(setsid sleep 100 &) ; touch ready; exit 0")
    asyncio.run(child.wait())
    child.close()
    assert place.left()
    assert end(None, place)


def test_neighbours_are_spared(place: Place) -> None:
    ours = place.spawn("sleep", "100")
    other = spawn(["sleep", "100"], env={"PATH": PATH, "DICODE_RUN_ID": "another"}, cwd=place.folder)
    assert end(ours, place)
    assert is_alive(other.identity)
    assert asyncio.run(kill_tree(other, "DICODE_RUN_ID=another", grace=1))
    for child in (ours, other):
        child.close()


def test_a_process_is_known_by_more_than_its_number(place: Place) -> None:
    child = place.spawn("sleep", "100")
    known = child.identity
    assert is_alive(known) and known == identify(known.pid)
    for stranger in (known._replace(start_time=known.start_time - 1), known._replace(boot_id="another")):
        assert not is_alive(stranger)
        with pytest.raises(ProcessLookupError):
            adopt(stranger)
    assert end(child, place)
    assert not is_alive(known)
    with pytest.raises(ProcessLookupError):
        adopt(known)
    child.close()


def test_a_zombie_does_not_live(place: Place) -> None:
    child = place.spawn("true")
    wait_for(lambda: (seen := look(child.pid)) is not None and seen.dead)
    assert not is_alive(child.identity)
    assert child.ended() and child.exit_code == 0
    child.close()


def test_an_adopted_process_is_waited_for_and_signalled(place: Place) -> None:
    program = subprocess.Popen(["sleep", "100"], cwd=place.folder)
    adopted = adopt(identify(program.pid))
    assert not adopted.ended() and adopted.signal(signal.SIGTERM)

    assert asyncio.run(adopted.wait()) is None  # how, only its parent knows
    assert program.wait() == -signal.SIGTERM
    assert not adopted.signal(signal.SIGTERM)
    adopted.close()


def test_the_end_is_seen_although_a_child_holds_the_pipe(place: Place) -> None:
    reader, writer = os.pipe()
    child = place.spawn("/bin/sh", "-c", "sleep 100 & exit 5", stdout_fd=writer)
    os.close(writer)
    began = time.monotonic()
    assert asyncio.run(child.wait()) == 5
    assert time.monotonic() - began < 5
    assert end(child, place)
    child.close()
    os.close(reader)


def test_several_may_wait_for_one_process(place: Place) -> None:
    async def all_wait() -> list[int | None]:
        child = place.spawn("sh", "-c", "exit 9")
        try:
            return await asyncio.gather(child.wait(), child.wait(), child.wait())
        finally:
            child.close()

    assert asyncio.run(all_wait()) == [9, 9, 9]


def test_a_child_has_exactly_the_files_and_the_environment_it_was_given(place: Place) -> None:
    reader, writer = os.pipe()
    stray_reader, stray_writer = os.pipe()
    os.set_inheritable(stray_reader, True)
    child = place.spawn("/bin/sh", "-c", "ls /proc/$$/fd; env -0 | tr '\\0' ' '; ulimit -n", stdout_fd=writer, pass_fds=(stray_writer,))
    os.close(writer)
    with os.fdopen(reader) as output:
        said = output.read().split()
    asyncio.run(child.wait())
    child.close()
    assert set(itertools.takewhile(str.isdigit, said)) == {"0", "1", "2", str(stray_writer)}
    assert {word.partition("=")[0] for word in said if "=" in word} <= {"PATH", "DICODE_RUN_ID", "PWD", "SHLVL", "_", "OLDPWD"}
    for fd in (stray_reader, stray_writer):
        os.close(fd)


def test_a_child_expects_the_usual_number_of_files_and_goes_first_when_memory_ends(place: Place) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        child = place.spawn("sleep", "100")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(child.pid, resource.RLIMIT_NOFILE)[0] == 1024
    assert Path(f"/proc/{child.pid}/oom_score_adj").read_text() == "500\n"
    assert end(child, place)
    child.close()


def test_what_cannot_be_started_says_why(place: Place) -> None:
    with pytest.raises(FileNotFoundError):
        place.spawn("no-such-program")
    (place.folder / "plain").write_text("text")
    with pytest.raises(PermissionError):
        place.spawn(str(place.folder / "plain"))


def test_a_child_that_is_to_live_on_is_let_go_of_in_silence(place: Place) -> None:
    child = place.spawn("sleep", "100")
    known = child.identity
    child.close()
    del child
    assert is_alive(known)
    again = adopt(known)
    assert end(again, place)
    again.close()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(known.pid, 0)
