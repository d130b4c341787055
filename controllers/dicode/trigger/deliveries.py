"""Deliveries are kept for 72 hours: the records are for people, the queue's unique keys live as long."""

from __future__ import annotations

import asyncio

from dicode.messages.commands import Delete, List, Listing, Write, Written
from dicode.messages.kinds import Delivery
from dicode.process.clock import wall_ms
from dicode.process.logs import Log
from dicode.process.role import explain
from dicode.wire.client import Wire
from dicode.wire.frames import BadMessage, StoreAway, StoreFailed, decode_body

KEPT = 72 * 3_600_000  # ms; SPEC 7
EVERY = 3_600.0  # seconds
BATCH = 200  # deletes in one write


async def forget_old(wire: Wire, log: Log) -> None:
    """Each hour, page by page, until cancelled."""
    while True:
        await asyncio.sleep(EVERY)
        try:
            await _forget(wire, wall_ms() - KEPT)
        except (StoreAway, StoreFailed) as error:
            log.debug(f"old deliveries stay for another hour: {explain(error)}")


async def _forget(wire: Wire, before: int) -> None:
    after, more = 0, True
    while more:
        listing = await wire.ask(List(what="Delivery", after=after), Listing)
        old = [change.key for change in listing.changes if change.body is not None and _at(change.body) < before]
        for start in range(0, len(old), BATCH):
            await wire.ask(Write(ops=tuple(Delete("Delivery", key) for key in old[start : start + BATCH])), Written)
        more = listing.more and bool(old)  # the oldest come first: a page without old ones is the last that matters
        after = listing.changes[-1].rev if listing.changes else 0


def _at(body: bytes) -> int:
    try:
        delivery = decode_body("Delivery", body)
    except BadMessage:
        return 0
    return delivery.at if isinstance(delivery, Delivery) else 0
