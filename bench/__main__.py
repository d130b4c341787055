"""`python -m bench [NAME…] [--quick] [--record]`: the budgets of the design, measured with real processes, beside other programs.

A full run takes some minutes and wants a quiet machine; `--record` puts its table on top of bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import commands, daemon, git, hooks, idle, save, scale, start, store
from bench.table import Finding, Note, table

BENCHES: dict[str, Callable[[bool], Iterator[Finding]]] = {
    "save": save.run,
    "daemon": daemon.run,
    "commands": commands.run,
    "start": start.run,
    "store": store.run,
    "hooks": hooks.run,
    "scale": scale.run,
    "idle": idle.run,
    "git": git.run,
}
HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
LEGEND = "`ratio`: how many times better we are than the peer, by the medians, measured in the same run. `n`: samples; of few of them p99 is near the worst."
TITLE = f"# Results\n\nWritten by `python -m bench --record`, newest first. {LEGEND}\n"
BUSY = 0.3  # of the cores: with more load than this before we begin, figures say little


def main() -> int:
    """Gives the exit code: 1 when a bench broke. A budget that was not kept is said in the table: other machines are not to blame."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(BENCHES)}")
    parser.add_argument("--quick", action="store_true", help="few samples: to see that it works")
    parser.add_argument("--record", action="store_true", help=f"put the table on top of {RESULTS.relative_to(HERE.parent)}")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in BENCHES]
    if unknown:
        parser.error(f"no bench {unknown[0]!r}; there are {', '.join(BENCHES)}")
    if args.quick and args.record:
        parser.error("--record wants a full run, without --quick")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C does: what was started is stopped
    machine = _machine()
    findings: list[Finding] = []
    broken = [name for name in args.names or BENCHES if not _measure(name, args.quick, findings)]
    shown = table(findings)
    print(f"{machine}\n{LEGEND}\n\n{shown}")
    if args.record:
        _record(machine, shown)
    return 1 if broken else 0


def _measure(name: str, quick: bool, findings: list[Finding]) -> bool:
    """Adds what this bench finds; False when it broke, which becomes a note."""
    print(f"{name} …", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        for finding in BENCHES[name](quick):
            findings.append(finding)
    except Exception as error:
        print(" broke", file=sys.stderr)
        traceback.print_exc()
        findings.append(Note(f"{name}: broke: {str(error).splitlines()[0] if str(error) else type(error).__name__}"))
        return False
    print(f" {time.monotonic() - began:.0f} s", file=sys.stderr)
    return True


def _machine() -> str:
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0]
    now = datetime.datetime.now().astimezone()
    parts = [
        f"{cores} cores ({_processor()})",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        f"commit {_commit()}",
        f"load {load:.2f} before" + (": NOT A QUIET MACHINE" if load > BUSY * cores else ""),
    ]
    return f"{now:%Y-%m-%d %H:%M %Z} · {' · '.join(parts)}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    """Of the work tree, with `+` when it holds more than that."""
    done = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=HERE, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _record(machine: str, shown: str) -> None:
    older = RESULTS.read_text().removeprefix(TITLE) if RESULTS.exists() else ""
    fresh = RESULTS.with_suffix(".new")
    fresh.write_text(f"{TITLE}\n## {machine}\n\n{shown}\n{older}")
    fresh.replace(RESULTS)


if __name__ == "__main__":
    sys.exit(main())
