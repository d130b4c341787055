"""dicode.yaml as it is applied: the last good one, whatever stands in the file now."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicode.messages.kinds import Config
from dicode.process.settings import Settings
from dicode.source.configuration import Configuration, NoConfig

GOOD = "data_dir: d\nsources:\n  - {name: tasks, path: ./tasks}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "dicode.yaml"
    path.write_text(GOOD)
    return path


def at_start(file: Path, present: Config | None = None) -> tuple[Configuration, Config]:
    configuration = Configuration(Settings(file.parent, file))
    read = configuration.read(present)
    return configuration, read.config


def types(config: Config) -> list[str]:
    return [condition.type for condition in config.conditions]


def test_a_good_file_is_applied_with_its_paths_made_absolute(file: Path) -> None:
    _, config = at_start(file)
    assert [source.path for source in config.sources] == [str(file.parent / "tasks")]
    assert config.file == str(file) and config.conditions == ()


def test_what_says_the_same_as_before_is_quiet(file: Path) -> None:
    configuration, config = at_start(file)
    again = configuration.read(config)
    assert again == (config, ())


@pytest.mark.parametrize("broken", ["sources: [", "sorces: []\n", "", "  \n", None])
def test_a_broken_edit_keeps_the_last_good_config_and_says_where(file: Path, broken: str | None) -> None:
    configuration, config = at_start(file)
    file.unlink() if broken is None else file.write_text(broken)
    after = configuration.read(config)
    assert after.config.sources == config.sources and types(after.config) == ["Valid"]
    assert len(after.lines) == 1 and after.lines[0].startswith(f"dicode.yaml kept as it was: {file}:")
    assert configuration.read(after.config) == (after.config, ())
    file.write_text(GOOD)
    assert configuration.read(after.config).config == config


def test_without_a_good_one_there_is_nothing_to_begin_with(file: Path) -> None:
    file.write_text("sources:\n  - {nmae: x, path: y}\n")
    with pytest.raises(NoConfig, match=r"dicode.yaml:2:\d+: .*nmae"):
        at_start(file)


def test_after_a_restart_the_one_that_is_written_counts_as_the_last_good(file: Path) -> None:
    _, before = at_start(file)
    file.write_text("sources: [")
    configuration, config = at_start(file, before)
    assert config.sources == before.sources == configuration.config.sources and types(config) == ["Valid"]
    with pytest.raises(NoConfig):
        at_start(file, Config(file="/another/dicode.yaml"))


def test_what_only_a_restart_applies_says_so_and_the_rest_is_applied(file: Path) -> None:
    configuration, config = at_start(file)
    file.write_text(GOOD.replace("data_dir: d", "data_dir: e") + "hooks: {listen: '127.0.0.1:9999'}\n")
    after = configuration.read(config)
    assert after.config.hooks_listen == "127.0.0.1:9999" and types(after.config) == ["RestartNeeded"]
    assert after.lines[-1].endswith("data_dir changed: restart dicode to apply it")
    file.write_text(GOOD)
    assert types(configuration.read(after.config).config) == []


def test_what_is_not_built_yet_is_a_condition(file: Path) -> None:
    file.write_text(GOOD + "store: postgresql://dicode@db/dicode\n")
    _, config = at_start(file)
    assert types(config) == ["NotImplemented"]


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    assert Configuration(Settings(tmp_path, None)).read(None).config == Config()
