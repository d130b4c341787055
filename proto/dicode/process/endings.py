"""How people are told of the end of a process."""

from __future__ import annotations

import signal


def told_by(code: int) -> str:
    """An exit code (negative: a signal) in words: `exit code 3`, `killed by SIGSEGV`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
