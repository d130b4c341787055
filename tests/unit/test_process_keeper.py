"""What the keeper decides without a process."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from dicode.admin.entry import Usage, environment, help_of, parse, roles
from dicode.process.endings import told_by
from dicode.process.keeper import BREATH, PAUSE_MAX, ROLES, pause
from dicode.process.logs import Log, clean
from dicode.process.role import explain


def test_a_role_that_was_ready_is_started_at_once() -> None:
    assert pause(0, lived=3600.0) == 0.0


def test_a_role_that_is_ready_and_dies_over_and_over_takes_breath() -> None:
    assert pause(0, lived=0.1) == pytest.approx(BREATH - 0.1)


def test_starts_that_never_became_ready_come_slower_and_slower() -> None:
    assert [pause(unready, 0.1) for unready in range(1, 8)] == pytest.approx([0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4])
    assert pause(9, 0.1) == pytest.approx(25.6)
    assert pause(10, 0.1) == pause(10_000, 0.1) == PAUSE_MAX


@pytest.mark.parametrize(("code", "words"), [(0, "exit code 0"), (75, "exit code 75"), (-9, "killed by SIGKILL"), (-63, "killed by signal 63")])
def test_an_exit_code_in_words(code: int, words: str) -> None:
    assert told_by(code) == words


def test_options_are_understood_in_each_of_their_forms() -> None:
    for argv in (["-c", "f", "--workers", "3", "p"], ["--config=f", "p", "--workers=3"], ["-cf", "--workers=3", "--", "p"]):
        assert parse("up", argv) == ({"-c": "f", "--workers": "3"}, ["p"])


@pytest.mark.parametrize(
    ("word", "argv", "text"),
    [
        ("up", ["--wat"], "unknown option --wat"),
        ("store", ["--workers", "2"], "unknown option --workers"),
        ("store", ["--debug=1"], "--debug takes no value"),
        ("worker", ["--labels"], "--labels needs a value"),
        ("store", ["here"], "`dicode store` takes no 'here'"),
    ],
)
def test_a_wrong_option_is_named(word: str, argv: list[str], text: str) -> None:
    with pytest.raises(Usage, match=f"^{text}$"):
        parse(word, argv)


def test_help_wins_over_whatever_else_was_written() -> None:
    assert "--help" in parse("store", ["here", "--help"])[0]


@pytest.mark.parametrize("word", ["up", *ROLES])
def test_every_help_names_its_options(word: str) -> None:
    text = help_of(word)
    assert text.startswith(f"usage: dicode {word}")
    assert "--config FILE" in text and "--debug" in text
    assert ("--keep-daemons" in text) == (word == "supervisor")


def test_up_starts_the_store_first_and_as_many_workers_as_asked() -> None:
    started = [role for role, _ in roles("up", {"--workers": "3"})]
    assert started[0] == "store"
    assert started.count("worker") == 3
    assert set(started) == set(ROLES)


@pytest.mark.parametrize("count", ["-1", "x", "", "1.5", "٣", "257"])
def test_a_number_of_workers_that_is_none_is_refused(count: str) -> None:
    with pytest.raises(Usage):
        roles("up", {"--workers": count})


def test_a_role_is_passed_its_own_options_and_no_other() -> None:
    assert roles("worker", {"--labels": "gpu,1", "--debug": ""}) == [("worker", ["--labels", "gpu,1"])]
    assert roles("supervisor", {"--keep-daemons": ""}) == [("supervisor", ["--keep-daemons"])]


def test_paths_become_absolute_for_the_roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "a").mkdir()
    told = environment({"-c": "mine.yaml", "--log-format": "json", "--debug": ""}, ["a", "."], {})
    assert told == {
        "DICODE_CONFIG": f"{tmp_path}/mine.yaml",
        "DICODE_UP_PATHS": f"{tmp_path}/a{os.pathsep}{tmp_path}",
        "DICODE_LOG_FORMAT": "json",
        "DICODE_DEBUG": "1",
    }


def test_what_is_not_there_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for options, paths, environ in (({"-c": "no"}, [], {}), ({}, ["no"], {}), ({}, [], {"DICODE_CONFIG": "no"}), ({"--log-format": "xml"}, [], {})):
        with pytest.raises(Usage):
            environment(options, paths, environ)


def test_a_group_of_errors_is_told_by_its_first() -> None:
    error = ExceptionGroup("several", [ExceptionGroup("inner", [KeyError("x")]), ValueError("y")])
    assert explain(error) == "KeyError: 'x'"
    assert explain(FileNotFoundError(2, "No such file or directory", "/a/b")) == "/a/b: No such file or directory"


def test_a_log_line_has_its_time_and_nothing_a_terminal_would_obey() -> None:
    reader, writer = os.pipe()
    Log("store", fd=writer).say("task/x: \x1b[31mred\nnext \u202e line")
    line = os.read(reader, 4096).decode()
    assert line.startswith("[") and line[9:] == "] task/x: \\x1b[31mred\\x0anext \\u202e line\n"
    assert clean("← 14ms, größer") == "← 14ms, größer"
    os.close(reader)
    os.close(writer)


def test_a_log_line_as_json_has_its_fields() -> None:
    reader, writer = os.pipe()
    Log("store", as_json=True, fd=writer).say("hello\nyou", cause="c1")
    line = json.loads(os.read(reader, 4096))
    assert (line["role"], line["message"], line["cause"]) == ("store", "hello\nyou", "c1")
    assert line["time"].endswith("Z")
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_reader_that_stalls_costs_lines_and_never_time(as_json: bool) -> None:
    reader, writer = os.pipe()
    log = Log("store", as_json=as_json, fd=writer)
    signal.alarm(20)
    try:
        for number in range(3000):
            log.say(f"line {number} {'x' * 100}")
        dropped = log.dropped
        assert dropped > 1000
        held = os.read(reader, 1 << 20).decode().splitlines()
        assert len(held) == 3000 - dropped and held[-1].rstrip('"}').endswith("x" * 100)
        log.say("again")
        said = os.read(reader, 1 << 20).decode().splitlines()
        assert f"{dropped} log lines dropped" in said[0] and "again" in said[1] and log.dropped == 0
    finally:
        signal.alarm(0)
        os.close(reader)
        os.close(writer)


def test_a_line_longer_than_a_pipe_takes_in_one_piece_is_cut() -> None:
    reader, writer = os.pipe()
    Log("store", fd=writer).say("ö" * 5000)
    line = os.read(reader, 1 << 20)
    assert len(line) <= 4096 and line.endswith("ö…\n".encode())
    os.close(reader)
    os.close(writer)
