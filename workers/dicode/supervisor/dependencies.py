"""`python -m dicode.supervisor.dependencies SCRIPT ENVS`: build the environment a script asks for, in a process that can be killed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dicode.runtime.command import CannotStart
from dicode.runtime.dependencies import build, needs_of


def main(script: str, envs: str) -> int:
    """Gives the exit code; what went wrong is the last line on stderr."""
    try:
        needs = needs_of(Path(script).read_bytes())
        if needs is not None:
            build(needs, Path(envs), dict(os.environ))  # noqa: TID251  # the role's own, handed to us whole: uv needs its index and proxy
    except (CannotStart, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
