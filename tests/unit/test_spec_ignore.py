"""What is ignored is what git would ignore."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from dicode.spec.ignore import Ignores, is_noise


@pytest.mark.parametrize(
    "name",
    [".git", ".hg", ".svn", "__pycache__", "node_modules", ".venv", ".mypy_cache", ".pytest_cache", ".DS_Store", "4913",
     "x.pyc", "task.py.swp", ".task.py.swp", ".task.py.swo", "task.py~", ".#task.py", "#task.py#"],
)  # fmt: skip
def test_noise_is_ignored_without_being_asked(name: str) -> None:
    assert is_noise(name)


@pytest.mark.parametrize("name", ["task.py", "git", ".gitignore", ".env", "x.swift", "x.py", "c", "#", "a#b", "4914", ".swap.txt"])
def test_what_is_no_noise_counts(name: str) -> None:
    assert not is_noise(name)


def test_a_pattern_takes_a_file_back_even_from_the_built_in_list() -> None:
    rules = Ignores().with_file("*.log\n!keep.log\n!x.pyc\n")
    assert rules.ignored("a.log", False)
    assert not rules.ignored("keep.log", False)
    assert not rules.ignored("x.pyc", False)
    assert rules.ignored("y.pyc", False)


def test_the_file_nearer_to_the_entry_decides_and_ignore_of_the_task_has_the_last_word() -> None:
    rules = Ignores().with_file("*.log\nsub/x.txt\n").below("sub").with_file("!a.log\n")
    assert not rules.ignored("a.log", False)
    assert rules.ignored("b.log", False)
    assert rules.ignored("x.txt", False)
    assert rules.with_patterns(["a.log"]).ignored("a.log", False)
    assert rules.with_patterns(["/in/b"]).below("in").ignored("b", False)


def test_folders_only() -> None:
    rules = Ignores().with_file("build/\n")
    assert rules.ignored("build", True)
    assert not rules.ignored("build", False)


@pytest.mark.parametrize(
    "pattern", ["*a" * 400 + "b", "**/*a*a*a*/**/*b*/**/*c/**/x", "a/" * 4 + "*a" * 300 + "/b", "/**/a" * 30, "[" * 500, "[a-" * 100]
)
def test_no_pattern_of_a_stranger_makes_matching_slow(pattern: str) -> None:
    begun = time.perf_counter()
    rules = Ignores().with_file(pattern)
    for _ in range(16):
        rules = rules.below("a" * 200)
    for _ in range(100):
        rules.ignored("a" * 250, False)
    assert time.perf_counter() - begun < 1.0


_ATOMS = ["a", "b", "ab", "*", "**", "?", "[ab]", "[!a]", "[a-c]", "/", "/", "/", "!", "\\", "x.log", "*.log", "foo", "[", "]", "[[:alpha:]]", "#", " ", ".", "[]a]", "[^b]", "\\a", "[a-", "\\*", "[b-a]"]  # fmt: skip
_NAMES = ["a", "b", "ab", "abc", "foo", "x.log", "a b", "#x", "!a", "c", "]", "[", "*", "a\\", ".a"]


@pytest.mark.parametrize("seed", range(20))
def test_random_ignore_files_mean_what_they_mean_to_git(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for _ in range(60):
        path = tmp_path.joinpath(*(rng.choice(_NAMES) for _ in range(rng.randint(1, 4))))
        if not any(above.is_file() for above in path.parents) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for folder in (tmp_path, tmp_path / "a", tmp_path / "foo"):
        if folder.is_dir():
            lines = ["".join(rng.choice(_ATOMS) for _ in range(rng.randint(1, 5))) for _ in range(rng.randint(1, 5))]
            (folder / ".gitignore").write_text("\n".join(lines) + "\n")
    listing = subprocess.run(
        ["git", "-C", str(tmp_path), "-c", "core.excludesFile=/dev/null", "ls-files", "-oz", "--exclude-standard"], capture_output=True, check=True
    )
    theirs = {path for path in listing.stdout.decode().split("\0") if path and not path.endswith(".gitignore")}
    assert set(_kept(tmp_path, "", Ignores())) == theirs


def _kept(root: Path, path: str, rules: Ignores) -> list[str]:
    own = root / path / ".gitignore"
    rules = rules.with_file(own.read_text()) if own.exists() else rules
    kept = []
    for entry in (root / path).iterdir():
        below = f"{path}{entry.name}"
        if entry.name == ".gitignore" or rules.ignored(entry.name, entry.is_dir()):
            continue
        kept += _kept(root, f"{below}/", rules.below(entry.name)) if entry.is_dir() else [below]
    return kept
