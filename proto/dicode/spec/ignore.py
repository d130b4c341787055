"""Which files of a folder do not belong to a task: a built-in list, .gitignore and .dicodeignore files, `ignore:`.

The rules are those of git: the last pattern that matches decides, `!` takes a file back, and what lies in an ignored
folder is not looked at, so nothing can take it back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

#: Files that hold patterns, in the order in which they are read.
IGNORE_FILES = (".gitignore", ".dicodeignore")
MAX_RULES = 2_000  # of one ignore file; what stands behind has no effect
MAX_DEEP = 4  # `/**/` in one pattern; with more it matches nothing

_NAMES = frozenset({".git", ".hg", ".svn", "__pycache__", "node_modules", ".venv", ".mypy_cache", ".pytest_cache", ".DS_Store", "4913"})
_SUSPECT_ENDS = ("c", "~", "#")
_PATTERNS = re.compile(r".*\.pyc|.*\.sw.|.*~|\.#.*|#.*#", re.DOTALL)


class Rule(NamedTuple):
    """One line of an ignore file. `regex` matches whole paths relative to the folder of that file, or names if not `anchored`."""

    regex: re.Pattern[str]
    anchored: bool
    folders_only: bool
    takes_back: bool


class _Level(NamedTuple):
    rules: tuple[Rule, ...]  # the last one first: it decides
    prefix: str  # of this folder relative to the folder the rules stand in: "" or `a/b/`


class Ignores:
    """What is ignored in one folder. `below` gives the same for a folder in it."""

    __slots__ = ("_levels", "_own")

    def __init__(self, levels: tuple[_Level, ...] = (), own: _Level | None = None) -> None:
        """`levels`: the innermost first. `own`: the task's `ignore:`, which has the last word."""
        self._levels = levels
        self._own = own

    def with_file(self, text: str) -> Ignores:
        """With the patterns of an ignore file that stands in this folder."""
        rules = parse(text)
        return Ignores((_Level(rules, ""), *self._levels), self._own) if rules else self

    def with_patterns(self, patterns: Iterable[str]) -> Ignores:
        """With the `ignore:` of the task whose folder this is."""
        rules = parse("\n".join(patterns))
        return Ignores(self._levels, _Level(rules, "")) if rules else self

    def below(self, name: str) -> Ignores:
        """For the folder `name` in this one, before its own ignore files."""
        if not self._levels and self._own is None:
            return self
        levels = tuple(_Level(level.rules, f"{level.prefix}{name}/") for level in self._levels)
        own = self._own and _Level(self._own.rules, f"{self._own.prefix}{name}/")
        return Ignores(levels, own)

    def ignored(self, name: str, is_folder: bool) -> bool:
        """Does the entry `name` of this folder not belong?"""
        if self._own is not None:
            verdict = _verdict(self._own, name, is_folder)
            if verdict is not None:
                return verdict
        for level in self._levels:
            verdict = _verdict(level, name, is_folder)
            if verdict is not None:
                return verdict
        return is_noise(name)


def is_noise(name: str) -> bool:
    """Is it on the built-in list: version control, caches, what editors leave behind?"""
    if name in _NAMES:
        return True
    if name[-1:] in _SUSPECT_ENDS or name[-4:-1] == ".sw" or name[:2] == ".#":
        return _PATTERNS.fullmatch(name) is not None
    return False


def _verdict(level: _Level, name: str, is_folder: bool) -> bool | None:
    for rule in level.rules:
        if rule.folders_only and not is_folder:
            continue
        if rule.regex.fullmatch(level.prefix + name if rule.anchored else name):
            return not rule.takes_back
    return None


@lru_cache(maxsize=256)
def parse(text: str) -> tuple[Rule, ...]:
    """The rules of an ignore file, the last one first. Lines that cannot match anything are left out, as git does."""
    rules = [rule for line in text.removeprefix("\ufeff").split("\n") if (rule := _rule(line.removesuffix("\r"))) is not None]
    return tuple(reversed(rules[:MAX_RULES]))


def _rule(line: str) -> Rule | None:
    pattern = _without_trailing_spaces(line)
    if not pattern or pattern.startswith("#"):
        return None
    takes_back = pattern.startswith("!")
    if takes_back:
        pattern = pattern[1:]
    folders_only = pattern.endswith("/")
    if folders_only:
        pattern = pattern[:-1]
    anchored = "/" in pattern
    pattern = pattern.removeprefix("/")
    if not pattern or len(pattern) > 1000:
        return None
    translated = _translate(pattern)
    return None if translated is None else Rule(re.compile(translated, re.DOTALL), anchored, folders_only, takes_back)


def _without_trailing_spaces(line: str) -> str:
    kept = line.rstrip(" ")
    escapes = len(kept) - len(kept.rstrip("\\"))
    return kept + " " if escapes % 2 and len(kept) < len(line) else kept


def _translate(pattern: str) -> str | None:
    """A regular expression for one gitignore pattern; None when it can match nothing.

    The groups are atomic where a later `*` can make up for what an earlier one took, so that no pattern of a stranger
    makes matching slow.
    """
    pattern = re.sub(r"\\.|\*{3,}", lambda found: "**" if found[0].startswith("*") else found[0], pattern)
    out, at, deep = "", 0, 0
    if pattern.startswith("**/"):
        out, at, deep = "(?:.*/)?", 3, 1
    while at < len(pattern):
        if pattern[at:] == "/**":
            return out + "/.+"
        if pattern.startswith("/**/", at):
            while pattern.startswith("/**/", at):
                at += 3
            out, at, deep = out + "/(?:.*/)?", at + 1, deep + 1
        elif pattern[at] == "/":
            out, at = out + "/", at + 1
        else:
            stars = len(pattern[at:]) - len(pattern[at:].lstrip("*"))
            fixed = _translate_fixed(pattern, at + stars)
            if fixed is None:
                return None
            text, at = fixed
            if stars:
                text = f"(?>[^/]*?{text})" if pattern[at : at + 1] == "*" else f"[^/]*{text}"
            out += text
    return out if deep <= MAX_DEEP else None


def _translate_fixed(pattern: str, at: int) -> tuple[str, int] | None:
    """The expression for what stands at `at` up to the next `*` or `/`, and where that is."""
    out = ""
    while at < len(pattern) and pattern[at] not in "*/":
        step = _translate_one(pattern, at)
        if step is None:
            return None
        out, at = out + step[0], step[1]
    return out, at


def _translate_one(pattern: str, at: int) -> tuple[str, int] | None:
    """The expression for one character or set, and where the next thing begins."""
    char = pattern[at]
    if char == "?":
        return "[^/]", at + 1
    if char == "[":
        return _translate_set(pattern, at)
    if char == "\\":
        return None if at + 1 == len(pattern) else (re.escape(pattern[at + 1]), at + 2)
    return re.escape(char), at + 1


_CLASSES = {
    "alpha": "A-Za-z", "digit": "0-9", "alnum": "A-Za-z0-9", "upper": "A-Z", "lower": "a-z", "space": r" \t\n\r\f\v", "blank": r" \t",
    "xdigit": "0-9A-Fa-f", "punct": r"!-/:-@\[-`{-~", "cntrl": r"\x00-\x1f\x7f", "print": " -~", "graph": "!-~",
}  # fmt: skip


def _translate_set(pattern: str, at: int) -> tuple[str, int] | None:
    """`[a-z]`, `[!x]`, `[[:digit:]]`. None when it is not closed: then git matches nothing."""
    at += 1
    negated = pattern[at : at + 1] in ("!", "^")
    at += negated
    members, first = "", True
    while at < len(pattern) and (first or pattern[at] != "]"):
        first = False
        named = re.match(r"\[:([a-z]+):\]", pattern[at:])
        if named:
            if named[1] not in _CLASSES:
                return None
            members, at = members + _CLASSES[named[1]], at + named.end()
            continue
        low, at = _member(pattern, at)
        high = low
        if pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] not in ("]", ""):
            high, at = _member(pattern, at + 1)
        if low is None or high is None:
            return None
        members += f"{re.escape(low)}-{re.escape(high)}" if low < high else re.escape(low)  # `[b-a]` matches b, as in git
    if at >= len(pattern):
        return None
    return (f"(?!/)[^{members}]" if negated else f"(?!/)[{members}]"), at + 1


def _member(pattern: str, at: int) -> tuple[str | None, int]:
    if pattern[at] == "\\":
        at += 1
    return (pattern[at] if at < len(pattern) else None), at + 1
