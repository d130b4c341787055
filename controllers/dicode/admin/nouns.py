"""What a person may type after `get`: the kinds by name, and what to say to a word that is none. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from dicode.messages.kinds import Daemon, Delivery, Event, Kind, Route, Run, Schedule, Source, Task, Worker


class Noun(NamedTuple):
    """One kind as people name it. `statuses` are what `--status` may ask for."""

    kind: type[Kind]
    plural: str
    singular: str
    short: str
    statuses: tuple[str, ...] = ()


NOUNS: tuple[Noun, ...] = (
    Noun(Source, "sources", "source", "src", ("pending", "ok", "stale", "unavailable", "held")),
    Noun(
        Task,
        "tasks",
        "task",
        "t",
        ("Healthy", "Progressing", "Degraded", "Suspended", "Missing", "Unknown", "Synced", "OutOfSync"),
    ),
    Noun(Run, "runs", "run", "r", ("queued", "running", "succeeded", "failed", "timed_out", "cancelled", "lost", "skipped")),
    Noun(Daemon, "daemons", "daemon", "d", ("starting", "running", "stopping", "stopped", "backoff", "crash_loop", "failed", "exited")),
    Noun(Schedule, "schedules", "schedule", "sched"),
    Noun(Route, "routes", "route", "rt"),
    Noun(Worker, "workers", "worker", "w", ("ready", "draining", "gone")),
    Noun(Delivery, "deliveries", "delivery", "del"),
    Noun(Event, "events", "event", "ev", ("Normal", "Warning")),
)


def noun_of(word: str) -> Noun | None:
    """The kind named by its plural, singular or short form, whatever the case."""
    wanted = word.lower()
    return next((noun for noun in NOUNS if wanted in (noun.plural, noun.singular, noun.short)), None)


def status_of(noun: Noun, word: str) -> str | None:
    """The status as we write it, or None when this kind has no such status."""
    return next((status for status in noun.statuses if status.lower() == word.lower()), None)


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """`no task 'slak', did you mean 'slack'?`; without a near name it tells where the names are listed."""
    names = list(known)
    near = nearest(word, names)
    if near:
        return f"no {what} {word!r}, did you mean {near!r}?"
    if names and len(names) <= 12:
        return f"no {what} {word!r}; there is {', '.join(sorted(names))}"
    return f"no {what} {word!r}" + ("" if names else ": there is none yet")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name most like `word`, also when only the last part of an id was typed."""
    import difflib  # 3 ms, and only for whoever mistyped

    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return near[0]
    tails = {name.rsplit("/", 1)[-1]: name for name in names}
    by_tail = difflib.get_close_matches(word.rsplit("/", 1)[-1], tails, n=1, cutoff=0.7)
    return tails[by_tail[0]] if by_tail else None
