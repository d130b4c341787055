"""The tokens file of a relay: which homes may connect, and by which token each. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from dicode.spec.names import is_segment

SIZE_MAX = 1 << 20  # bytes
SHORT = 16  # characters; a shorter token can be guessed


class BadTokens(Exception):
    """The file cannot be used; the text names file and line and says what would be right."""


class Tokens:
    """Digests by name. Comparing tells nothing by the time it takes."""

    def __init__(self, digests: Mapping[str, bytes], notes: tuple[str, ...] = ()) -> None:
        self._digests = dict(digests)
        self.notes = notes  # what is worth telling, though it works

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, name: str) -> bool:
        return name in self._digests

    def admit(self, name: str, token: bytes) -> bool:
        """Whether this token opens the place of that name."""
        expected = self._digests.get(name, b"\0" * 32)
        return hmac.compare_digest(expected, hashlib.sha256(token).digest()) and name in self._digests

    def same(self, name: str, other: Tokens) -> bool:
        """Whether `name` has the same token there."""
        return self._digests.get(name) == other._digests.get(name)


def parse(data: bytes, file: str) -> Tokens:
    """Lines of `name token`; blank ones and those that begin with # say nothing. Raises BadTokens."""
    if len(data) > SIZE_MAX:
        raise BadTokens(f"{file}: more than {SIZE_MAX >> 20} MiB")
    digests: dict[str, bytes] = {}
    first: dict[str, int] = {}
    notes: list[str] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        name, token = _entry(words, f"{file}:{number}")
        if name in digests:
            raise BadTokens(f"{file}:{number}: '{name}' has a token in line {first[name]} already: keep one")
        if len(token) < SHORT:
            notes.append(f"{file}:{number}: the token of '{name}' can be guessed: take `openssl rand -hex 32`")
        digests[name], first[name] = hashlib.sha256(token).digest(), number
    if not digests:
        raise BadTokens(f"{file}: no line says `name token`: nobody could connect")
    return Tokens(digests, tuple(notes))


def _entry(words: list[bytes], place: str) -> tuple[str, bytes]:
    """The two words of a line. The message never shows what may be a token."""
    if len(words) != 2:
        raise BadTokens(f"{place}: a line is `name token`, two words, not {len(words)}")
    name = words[0].decode("ascii", "replace")
    if not is_segment(name):
        raise BadTokens(f"{place}: the first word must be a home's name: 1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit")
    if not words[1].isascii() or not words[1].decode().isprintable():
        raise BadTokens(f"{place}: the token of '{name}' must be printable ASCII, such as `openssl rand -hex 32` gives")
    return name, words[1]
