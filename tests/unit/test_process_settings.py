"""Which dicode.yaml is meant, and where data lives (SPEC 2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicode.process.settings import find_config, load


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    """A dicode.yaml in each place, the first to be looked at first."""
    found = [tmp_path / name for name in ("named.yaml", "told.yaml", "cwd/dicode.yaml", "home/.config/dicode/dicode.yaml")]
    for path in found:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"data_dir: ./data-of-{path.parent.name}\n")
    return found


def test_the_order_in_which_a_config_is_looked_for(places: list[Path], tmp_path: Path) -> None:
    named, told, here, home = places
    environ, cwd = {"HOME": str(tmp_path / "home")}, tmp_path / "cwd"
    assert find_config(str(named), environ | {"DICODE_CONFIG": str(told)}, cwd) == named
    assert find_config("../named.yaml", environ, cwd) == cwd / ".." / "named.yaml"  # paths on the command line: of the working directory
    assert find_config(None, environ | {"DICODE_CONFIG": str(told)}, cwd) == told
    assert find_config(None, environ, cwd) == here
    here.unlink()
    assert find_config(None, environ, cwd) == home
    assert find_config(None, environ | {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}, cwd) is None
    home.unlink()
    assert find_config(None, environ, cwd) is None


@pytest.mark.parametrize(("explicit", "environ"), [("nope.yaml", {}), (None, {"DICODE_CONFIG": "nope.yaml"})])
def test_one_that_was_named_and_is_not_there_is_never_passed_over(places: list[Path], explicit: str | None, environ: dict[str, str]) -> None:
    with pytest.raises(FileNotFoundError, match="nope.yaml: no such file"):
        find_config(explicit, environ, places[2].parent)


def test_where_data_lives(places: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DICODE_CONFIG", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DICODE_UP_PATHS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("DICODE_DATA_DIR", str(tmp_path / "wins"))
    assert load().data_dir == tmp_path / "wins"
    monkeypatch.delenv("DICODE_DATA_DIR")
    assert load().data_dir == tmp_path / "cwd" / "data-of-cwd"  # relative to the folder of the file
    assert load(str(places[0])).data_dir == tmp_path / f"data-of-{tmp_path.name}"
    places[2].write_text("data_dir: ~/mine\n")
    assert load().data_dir == tmp_path / "home" / "mine"
    places[2].write_text("sources: []\n")
    assert load().data_dir == tmp_path / "home" / ".local" / "share" / "dicode"
