"""Names: which may be parts of a task id, branches and commits of git, environment variables, and how to say the others."""

from __future__ import annotations

import re

MAX_SEGMENTS = 16
MAX_BRANCH = 250  # bytes: a ref is a file name on somebody's disk
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NO_BRANCH = re.compile(r"^[-/.]|\.\.|//|@\{|[\s\0-\x1f\x7f~^:?*\[\\]|/\.|\.lock(?:/|$)|[./]$|^@$")  # git-check-ref-format(1)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r"gh[a-z]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}")  # GitHub's could be names of variables
_UNSPEAKABLE = (
    {code: f"\\x{code:02x}" for code in (*range(32), 127)}
    | {code: f"\\u{code:04x}" for code in range(0x80, 0xA0)}
    | {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}  # what Python makes of a byte that is not UTF-8
)
NOT_TELLABLE = "a path of a source must be UTF-8 without control characters: give it a link with such a name"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_segment(text: str) -> bool:
    """May this stand between the slashes of an id, or name a source?"""
    return _SEGMENT.fullmatch(text) is not None


def check_id(id: str) -> str | None:
    """What is wrong with a task id; None when it is fine."""
    segments = id.split("/")
    if len(segments) > MAX_SEGMENTS:
        return f"the id has {len(segments)} segments, at most {MAX_SEGMENTS} are allowed: move the task further up"
    for segment in segments:
        if not is_segment(segment):
            return bad_segment(segment)
    return None


def bad_segment(text: str) -> str:
    """What to say of a text that is no segment."""
    short = text if len(text) <= 70 else text[:70] + "…"
    shown = short if short.isprintable() else ascii(short)[1:-1]
    return f"'{shown}' cannot be part of an id: use 1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit"


def speakable(name: str) -> str:
    """A name or a path as it can be written and told, whatever bytes it is made of: `a\\xff` for what is not UTF-8 or would control a terminal."""
    return name if name.isprintable() else name.translate(_UNSPEAKABLE).encode(errors="backslashreplace").decode()


def is_tellable(path: str) -> bool:
    """Can the path be told as it is, so that who hears it finds the same place?"""
    return speakable(path) == path


def is_branch(name: str) -> bool:
    """May a branch be called so?"""
    return bool(name) and len(name.encode(errors="replace")) <= MAX_BRANCH and _NO_BRANCH.search(name) is None


def is_commit(text: str) -> bool:
    """The whole id of a commit, in hex."""
    return _COMMIT.fullmatch(text) is not None


def bad_variable(text: str) -> str | None:
    """What to say of a text that names no environment variable for a secret; never repeats it: it may be the secret itself."""
    if _TOKEN.fullmatch(text):
        return (
            "must be the name of an environment variable: this is the secret itself; remove it, have it replaced, and name the variable that holds it"
        )
    return None if _VARIABLE.fullmatch(text) else "must be the name of an environment variable: letters, digits and underscores"
