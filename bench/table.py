"""What a bench gives back, and how it is shown. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

HEAD = ("what", "budget", "measured p50 / p99", "peer", "ratio", "verdict")
SMALLER_IS_BETTER = frozenset({"ms", "s", "MB", "%", "×"})


class Figure(NamedTuple):
    """One measured thing: its median and 99th percentile (of few samples: near the worst), or one number alone."""

    p50: float
    p99: float | None = None
    samples: int = 1


class Budget(NamedTuple):
    """What was promised, in the row's unit. Of rates (`/s`) the least, of all else the most."""

    p50: float | None = None
    p99: float | None = None


class Row(NamedTuple):
    """One line of the table. `peers`: name → the same figure of another program, measured here and now."""

    what: str
    figure: Figure
    unit: str = "ms"
    budget: Budget = Budget()
    peers: tuple[tuple[str, Figure], ...] = ()


class Note(NamedTuple):
    """Something under the table: what was left out and why."""

    text: str


Finding = Row | Note


def figure(samples: Sequence[float]) -> Figure:
    if len(samples) < 2:
        return Figure(samples[0])
    cuts = statistics.quantiles(samples, n=100, method="inclusive")
    return Figure(cuts[49], cuts[98], len(samples))


def kept(row: Row) -> bool | None:
    """Whether the budget was kept; None where there is none."""
    pairs = [(row.figure.p50, row.budget.p50), (row.figure.p99, row.budget.p99)]
    judged = [(got, limit) for got, limit in pairs if got is not None and limit is not None]
    if not judged:
        return None
    return all(got <= limit if row.unit in SMALLER_IS_BETTER else got >= limit for got, limit in judged)


def better(row: Row, peer: Figure) -> float:
    """How many times better we are than this peer, by the medians; below 1 we are worse."""
    ours, theirs = max(row.figure.p50, 1e-9), max(peer.p50, 1e-9)
    return theirs / ours if row.unit in SMALLER_IS_BETTER else ours / theirs


def table(findings: Iterable[Finding]) -> str:
    """Markdown that can also be read in a terminal; notes below it."""
    findings = list(findings)
    lines = [HEAD, *(_cells(row) for row in findings if isinstance(row, Row))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    shown = [_line(line, widths) for line in lines]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    notes = [f"- {note.text}" for note in findings if isinstance(note, Note)]
    return "\n".join([shown[0], rule, *shown[1:], *(["", *notes] if notes else [])])


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.what,
        _budget(row),
        _measured(row.figure, row.unit),
        " · ".join(f"{name} {_number(peer.p50)}" for name, peer in row.peers),
        " · ".join(f"{_number(better(row, peer))}×" for _, peer in row.peers),
        {True: "ok", False: "MISSED", None: ""}[kept(row)],
    )


def _budget(row: Row) -> str:
    sign = "≤" if row.unit in SMALLER_IS_BETTER else "≥"
    named = (("p50 ", row.budget.p50), ("p99 ", row.budget.p99)) if row.figure.p99 is not None else (("", row.budget.p50),)
    parts = [f"{name}{sign} {_number(limit)}" for name, limit in named if limit is not None]
    return f"{', '.join(parts)} {row.unit}" if parts else ""


def _measured(figure: Figure, unit: str) -> str:
    tail = "" if figure.p99 is None else f" / {_number(figure.p99)}"
    count = f" (n={figure.samples})" if figure.samples > 1 else ""
    return f"{_number(figure.p50)}{tail} {unit}{count}"


def _number(value: float) -> str:
    """Three digits say enough."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
