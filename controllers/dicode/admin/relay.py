"""relay serve: the public end of `relay:`. Needs no dicode.yaml, no data folder and nothing that runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from dicode.admin.errors import Failed, Usage
from dicode.process.logs import Log

EXAMPLE = "Example: dicode relay serve --listen 0.0.0.0:8090 --tokens tokens.txt"

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, help=f"Forward hooks to machines behind NAT. {EXAMPLE}"
)


@app.callback()
def relay() -> None:
    """There is only `serve` by now; with a callback it stays a word of its own."""


@app.command()
def serve(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="where homes and git hosts reach it; behind a proxy with a certificate, 127.0.0.1:8090")
    ],
    tokens: Annotated[str, typer.Option(metavar="FILE", help="lines of `name token`, one for each home; read again when it changes")],
) -> None:
    """Let homes connect, and forward /NAME/hooks/… to the home of that name. Example: dicode relay serve --listen 0.0.0.0:8090 --tokens tokens.txt"""
    from dicode.process.http import parse_address
    from dicode.relay.serve import serve as be_the_relay
    from dicode.relay.tokens import BadTokens

    try:
        address = parse_address(listen)
    except ValueError as error:
        raise Usage(f"--listen: {error}") from None
    log = Log("relay", as_json=os.environ.get("DICODE_LOG_FORMAT") == "json")  # noqa: TID251  # there are no settings where there is no data folder
    try:
        asyncio.run(be_the_relay(address, Path(tokens), log))
    except BadTokens as error:
        raise Usage(str(error)) from None
    except OSError as error:
        raise Failed(f"--listen {listen}: {error.strerror}") from None
