"""The store role: wiring only."""

from __future__ import annotations

from dicode.process import role
from dicode.process.settings import Settings
from dicode.store.engine import Corrupt
from dicode.store.loop import Loop, put_away

EX_SOFTWARE = 70  # the file was damaged or taken away under us: the keeper starts us anew


def main(argv: list[str], settings: Settings) -> int:
    """Live as the store until told to stop. Gives the exit code. Raises Refused, and what nobody foresaw."""
    context = role.begin("store", argv, settings)
    try:
        return 0 if Loop(context).live() else EX_SOFTWARE
    except role.Refused as refusal:
        context.keeper.refused(str(refusal))
        raise
    except Corrupt as damage:
        put_away(context, damage)
        return EX_SOFTWARE
