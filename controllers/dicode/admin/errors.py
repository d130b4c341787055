"""What ends a command early: each is one line on stderr and an exit code."""

from __future__ import annotations


class Stop(Exception):
    """Base: the text is for a person and says the way out."""

    code = 1


class Failed(Stop):
    """The thing asked for failed."""


class Usage(Stop):
    """What was typed is wrong: an unknown name, a bad value."""

    code = 2
