"""The pipes and the local records of daemons: what must survive a crash, on real pipes and files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dicode.messages.kinds import Daemon
from dicode.process.tasklog import read_log
from dicode.supervisor.output import Outputs, pipe, reopened
from dicode.supervisor.records import Records, StillHeld


def texts(path: Path) -> list[tuple[str, str]]:
    return [(record.stream, record.text) for record in read_log(path)]


def test_what_was_printed_while_nobody_read_is_in_the_log(tmp_path: Path) -> None:
    ours, theirs = pipe()
    os.write(theirs, b"before\n")
    outputs = Outputs()
    outputs.follow("l", tmp_path / "log", {"o": ours})
    os.write(theirs, b"after, without an end of line")
    os.close(theirs)
    outputs.finish("l", last="exit code 0").result(5)
    outputs.stop()
    assert texts(tmp_path / "log") == [("o", "before"), ("o", "after, without an end of line"), ("s", "exit code 0")]


def test_a_daemon_without_any_reader_gets_no_sigpipe_and_its_pipe_is_found_through_it(tmp_path: Path) -> None:
    ours, theirs = pipe()
    child = subprocess.Popen(["/bin/sh", "-c", "read go; echo one; echo two; read end"], stdin=subprocess.PIPE, stdout=theirs)
    os.close(theirs)
    os.close(ours)  # supervisor and keeper are gone
    assert child.stdin is not None
    child.stdin.write(b"go\n")
    child.stdin.flush()
    found = reopened(child.pid, 1)
    assert found is not None
    outputs = Outputs()
    outputs.follow("l", tmp_path / "log", {"o": found})
    child.communicate(b"end\n", timeout=5)
    assert child.returncode == 0, "it was not killed"
    outputs.finish("l").result(5)
    outputs.stop()
    assert texts(tmp_path / "log") == [("o", "one"), ("o", "two")]


def test_a_stdout_that_is_no_pipe_is_left_alone() -> None:
    child = subprocess.Popen(["/bin/sh", "-c", "read end"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert reopened(child.pid, 1) is None
    child.communicate(b"\n", timeout=5)


def test_a_log_that_cannot_be_opened_does_not_stop_the_daemon(tmp_path: Path) -> None:
    ours, theirs = pipe()
    outputs = Outputs()
    outputs.follow("l", tmp_path / "missing" / "too" / "log", {"o": ours})
    os.set_blocking(theirs, True)
    for _ in range(8):
        os.write(theirs, b"x" * 65_536)  # would block for ever if nobody read
    os.close(theirs)
    outputs.finish("l").result(5)
    outputs.stop()


def test_finishing_what_was_never_followed_is_done_at_once() -> None:
    outputs = Outputs()
    outputs.finish("unknown").result(5)
    outputs.stop()


def test_the_lock_is_held_by_whoever_inherited_it_and_by_nobody_after_him(tmp_path: Path) -> None:
    records = Records(tmp_path)
    lock = records.take("a/b")
    child = subprocess.Popen(["/bin/sh", "-c", "read end"], stdin=subprocess.PIPE, pass_fds=(lock,))
    os.close(lock)
    with pytest.raises(StillHeld):
        records.take("a/b")
    assert records.holders("a/b") == [child.pid]
    child.communicate(b"\n", timeout=5)
    os.close(records.take("a/b"))


def test_a_record_is_what_was_noted_last_until_it_is_cleared(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.note(Daemon(task="a/b", state="starting", launch="l1"))
    records.note(Daemon(task="a/b", state="running", launch="l1", pid=7))
    assert Records(tmp_path).noted() == [Daemon(task="a/b", state="running", launch="l1", pid=7)]
    records.clear("a/b")
    assert records.noted() == []


def test_a_record_cut_off_by_a_full_disk_is_passed_over(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.note(Daemon(task="good", pid=7))
    (tmp_path / "bad.json").write_bytes(b'{"kind": "Dae')
    assert [daemon.task for daemon in records.noted()] == ["good"]


def test_the_longest_id_has_a_record_too_and_none_of_another(tmp_path: Path) -> None:
    records = Records(tmp_path)
    longest = "/".join(["x" * 63] * 16)
    for task in (longest, longest[:-1] + "y"):
        records.note(Daemon(task=task, pid=7))
    assert {daemon.task for daemon in records.noted()} == {longest, longest[:-1] + "y"}
