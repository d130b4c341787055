"""Task logs: what a task prints comes back as the lines it printed, within the limits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicode.process.tasklog import LINE_MAX, LogWriter, Record, parse_record, read_log


def texts(path: Path, stream: str = "o") -> list[str]:
    return [record.text for record in read_log(path) if record.stream == stream]


@given(st.lists(st.binary(max_size=40)))
def test_any_bytes_in_any_pieces_are_the_lines_between_the_newlines(pieces: list[bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        log = LogWriter(path)
        for piece in pieces:
            log.write("o", piece)
        log.close()
        lines = b"".join(pieces).split(b"\n")
        if not lines[-1]:
            lines.pop()
        wanted = [(line[:-1] if line.endswith(b"\r") else line).decode(errors="replace").replace("\r", "\\r") for line in lines]
        assert texts(path) == wanted


def test_streams_do_not_mix_and_our_words_end_an_open_line(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "log")
    log.write("o", b"out ")
    log.write("e", b"err\n")
    log.write("o", b"put")
    log.say("two\nlines")
    log.close()
    assert [(record.stream, record.text) for record in read_log(tmp_path / "log")] == [("e", "err"), ("o", "out put"), ("s", "two\\nlines")]


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_a_line_is_split_at_its_greatest_length(tmp_path: Path, extra: int) -> None:
    log = LogWriter(tmp_path / "log")
    log.write("o", b"a" * (LINE_MAX + extra) + b"\n")
    log.close()
    assert [len(text) for text in texts(tmp_path / "log")] == [min(LINE_MAX, LINE_MAX + extra), *([1] if extra == 1 else [])]


def test_a_split_falls_between_characters(tmp_path: Path) -> None:
    text = "a" * (LINE_MAX - 1) + "é" * 10
    log = LogWriter(tmp_path / "log")
    log.write("o", text.encode() + b"\n")
    log.close()
    assert "".join(texts(tmp_path / "log")) == text


@pytest.mark.parametrize(("size", "kept", "truncated"), [(99, 99, False), (100, 100, False), (101, 100, True), (1000, 100, True)])
def test_beyond_the_cap_nothing_is_kept_and_that_is_said_once(tmp_path: Path, size: int, kept: int, truncated: bool) -> None:
    log = LogWriter(tmp_path / "log", cap=100)
    for _ in range(size):
        log.write("o", b"x")
    log.write("e", b"")
    log.say("exit code 1")
    log.close()
    assert len("".join(texts(tmp_path / "log"))) == kept
    assert texts(tmp_path / "log", "s") == ["truncated", "exit code 1"] if truncated else ["exit code 1"]


def test_a_daemons_log_turns_and_keeps_one_old_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for start in (0, 10):  # opened again by a supervisor that was restarted
        log = LogWriter(path, cap=60, rotate=True)
        for number in range(start, start + 10):
            log.write("o", f"line {number}\n".encode())
        log.close()
    kept = texts(Path(f"{path}.1")) + texts(path)
    assert kept == [f"line {number}" for number in range(20 - len(kept), 20)]
    assert 2 <= len(kept) <= 18


def test_a_daemons_log_that_somebody_removes_goes_on_in_a_new_file(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "daemon"
    folder.mkdir(parents=True)
    log = LogWriter(folder / "log", cap=60, rotate=True)
    (folder / "log").unlink()
    log.write("o", b"x" * 60 + b"\nafter\n")
    assert texts(folder / "log") == ["after"]
    shutil.rmtree(folder)
    log.write("o", b"x" * 60 + b"\nback\n")
    assert texts(folder / "log") == ["back"]
    shutil.rmtree(tmp_path / "logs")
    for _ in range(10):
        log.write("o", b"x" * 60 + b"\n")  # nowhere to go: what is printed is lost, and takes no room
    log.close()
    assert not (tmp_path / "logs").exists()


def test_a_record_of_which_the_disk_took_a_part_does_not_spoil_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogWriter(tmp_path / "log")
    with monkeypatch.context() as patched:
        whole = os.write
        patched.setattr(os, "write", lambda fd, data: whole(fd, data[: len(data) // 2]))
        log.write("o", b"cut off\n")
    log.write("o", b"whole\n")
    log.close()
    assert texts(tmp_path / "log")[-1] == "whole"


def test_a_log_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("safe")
    (tmp_path / "log").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError):
        LogWriter(tmp_path / "log")
    assert (tmp_path / "secret").read_text() == "safe"


def test_reading_skips_what_a_crash_cut_off_and_what_is_too_old(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"5\to\told\n7\te\tnew\tone\nnonsense\n9\tz\tx\n11\to\tcut")
    assert list(read_log(path, since_ms=6)) == [Record(7, "e", "new\tone")]
    assert list(read_log(tmp_path / "none")) == []


@given(st.binary())
def test_any_bytes_are_a_record_or_none(line: bytes) -> None:
    assert parse_record(line) is None or line.endswith(b"\n")
