"""What people type: commands, kinds, params, starters. Pure."""

from __future__ import annotations

import importlib
import inspect

import pytest
import typer

from dicode.admin import cli, completions, starters, trace
from dicode.admin.errors import Usage
from dicode.admin.nouns import NOUNS, noun_of, status_of, unknown
from dicode.admin.run import params_of
from dicode.spec.task import parse_task


@pytest.mark.parametrize("word", sorted(cli.COMMANDS))
def test_every_command_is_there_and_tells_what_it_does_with_an_example(word: str) -> None:
    command = cli.COMMANDS[word]
    target = getattr(importlib.import_module(f"dicode.admin.{command.module}"), command.name)
    functions = [each.callback for each in target.registered_commands] if isinstance(target, typer.Typer) else [target]
    for function in functions:
        told = inspect.getdoc(function) or ""
        assert "Example: dicode " in told or "(dicode " in told, told
        assert "\n" not in told
    assert f"  {word} " in cli.help_text()


@pytest.mark.parametrize(
    ("argv", "config", "debug", "rest"),
    [
        (["get", "tasks", "-c", "x.yaml"], "x.yaml", False, ["get", "tasks"]),
        (["-c", "x.yaml", "--debug", "get", "tasks"], "x.yaml", True, ["get", "tasks"]),
        (["--config=x.yaml", "get"], "x.yaml", False, ["get"]),
        (["run", "t", "--", "-c", "y"], None, False, ["run", "t", "--", "-c", "y"]),
    ],
)
def test_what_every_command_takes_may_stand_anywhere(argv: list[str], config: str | None, debug: bool, rest: list[str]) -> None:
    assert cli.split_common(argv) == (config, debug, rest)


def test_a_config_option_without_a_file_is_refused() -> None:
    with pytest.raises(Usage, match="-c needs a file"):
        cli.split_common(["get", "-c"])


def test_an_unknown_command_gets_a_suggestion() -> None:
    assert cli.no_command("lgos") == "no command 'lgos', did you mean 'logs'?"
    assert cli.no_command("worke") == "no command 'worke', did you mean 'worker'?"
    assert "dicode --help" in cli.no_command("xyzzy")


@pytest.mark.parametrize("noun", NOUNS, ids=[noun.plural for noun in NOUNS])
def test_a_kind_goes_by_three_names(noun: object) -> None:
    assert noun_of(noun.plural) is noun_of(noun.singular) is noun_of(noun.short.upper()) is noun  # type: ignore[attr-defined]


def test_no_name_means_two_kinds() -> None:
    words = [word for noun in NOUNS for word in (noun.plural, noun.singular, noun.short)]
    assert len(words) == len(set(words))


def test_states_are_found_whatever_the_case() -> None:
    noun = noun_of("tasks")
    assert noun is not None
    assert status_of(noun, "degraded") == "Degraded"
    assert status_of(noun, "broken") is None


@pytest.mark.parametrize(
    ("word", "known", "text"),
    [
        ("slak", ["slack", "other"], "no task 'slak', did you mean 'slack'?"),
        ("deploy", ["infra/backend/deploy", "x"], "no task 'deploy', did you mean 'infra/backend/deploy'?"),
        ("zzz", ["a", "b"], "no task 'zzz'; there is a, b"),
        ("zzz", [], "no task 'zzz': there is none yet"),
    ],
)
def test_an_unknown_name_is_told_with_the_way_out(word: str, known: list[str], text: str) -> None:
    assert unknown("task", word, known) == text


def test_params_are_name_and_value() -> None:
    assert params_of(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    for wrong in ("a", "=1"):
        with pytest.raises(Usage, match="name=value"):
            params_of([wrong])


@pytest.mark.parametrize("runtime", starters.RUNTIMES)
@pytest.mark.parametrize("name", ["hello", "my-task.2"])
def test_what_init_writes_is_a_task(runtime: str, name: str) -> None:
    parsed = parse_task(starters.files(name, runtime)["task.yaml"].encode(), "task.yaml")
    assert parsed.faults == ()
    assert parsed.spec is not None


@pytest.mark.parametrize("name", ["", ".hidden", "a b", "x" * 64, "-x"])
def test_init_refuses_names_that_cannot_be_ids(name: str) -> None:
    assert "cannot be a task's id" in starters.bad_name(name)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_has_every_word_and_no_mark_left(shell: str) -> None:
    script = completions.script(shell)
    assert "@" not in script.replace("@Q", "")
    for word in cli.COMMANDS:
        assert word in script


def test_changed_paths_are_marked() -> None:
    assert trace.changes({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"}) == ["~ b", "- c", "+ d"]
