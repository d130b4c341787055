"""A role that does as it is told, for tests of the keeper: `toy <role> WORD…`. What it sees it prints, one line each.

`ready`: says so · `crash`, `refuse`: ends like that · `stuck`: beats once, then blocks · `deaf`: does not stop when asked ·
`pipe`: keeps the read end of a pipe, and writes one line into it each start · `orphan`: leaves a process behind that ends
with code 7 once there is a file `release` · `daemon`: leaves one with DICODE_DAEMON_ID for ever · `brood`: 500 that end at once ·
`files`: keeps a thousand · `chatty`: beats 3,000 times at once, half a second later
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading

from dicode.process import role
from dicode.process.keeper import EX_CONFIG
from dicode.process.settings import Settings


def main(argv: list[str], settings: Settings) -> int:
    os.chdir(settings.data_dir.parent)
    return role.run(sys.argv[1], argv, settings, _main)


async def _main(context: role.Context) -> None:
    keeper, words = context.keeper, context.argv
    _say(context, f"start {keeper.starts} kept {','.join(sorted(keeper.kept))}")
    for pid, code in keeper.exits:
        _say(context, f"was told of {pid}: {code}")
    context.on_exit = lambda pid, code: _say(context, f"is told of {pid}: {code}")
    if "crash" in words:
        raise RuntimeError("it broke\nin two lines")
    if "refuse" in words:
        raise role.Refused("the moon is wrong", EX_CONFIG)
    if "pipe" in words:
        _pipe(context)
    if "files" in words:
        _files(context)
    if "brood" in words:
        subprocess.run(["/bin/sh", "-c", "i=0; while [ $i -lt 500 ]; do (exit 3 &); i=$((i+1)); done"], stdin=subprocess.DEVNULL)
    if "orphan" in words and keeper.starts == 0:
        _orphan(context, "while ! [ -e release ]; do sleep 0.05; done; exit 7")
    if "daemon" in words and keeper.starts == 0:
        _orphan(context, "while :; do sleep 1; done", DICODE_DAEMON_ID="toy")
    if "ready" in words:
        keeper.ready()
        _say(context, "is ready")
    if "stuck" in words and keeper.starts == 0:
        await asyncio.sleep(0)  # the first beat
        threading.Event().wait()
    if "chatty" in words:
        await asyncio.sleep(0.5)  # the test stops the keeper meanwhile, or a little later: both are tried
        for _ in range(3000):
            keeper.beat()
        _say(context, "has beaten 3000 times")
    await context.stopping.wait()
    _say(context, "is asked to stop")
    if "deaf" in words:
        await asyncio.Event().wait()


def _pipe(context: role.Context) -> None:
    keeper = context.keeper
    if "pipe" not in keeper.kept:
        reader, writer = os.pipe()
        keeper.keep("pipe", reader)
        keeper.keep("pipe-in", writer)
    os.write(keeper.kept["pipe-in"], f"start {keeper.starts}\n".encode())
    if keeper.starts:
        _say(context, f"pipe holds {os.read(keeper.kept['pipe'], 4096)!r}")


def _files(context: role.Context) -> None:
    keeper = context.keeper
    _say(context, f"kept {len(keeper.kept)} files")
    if keeper.starts == 0:
        with open(os.devnull) as file:
            for number in range(1000):
                keeper.keep(f"file:{number}", file.fileno())


def _orphan(context: role.Context, script: str, **environ: str) -> None:
    """Its parent ends at once."""
    shell = f"({script}) </dev/null >/dev/null 2>&1 & echo $!"
    done = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, env={**context.settings.environ, **environ})
    _say(context, f"orphan {done.stdout.strip()}")


def _say(context: role.Context, text: str) -> None:
    context.log.say(f"{context.name} {os.getpid()} {text}")


if __name__ == "__main__":
    sys.exit(role.start(sys.argv[1], "tests.support.toy", sys.argv[2:]))
