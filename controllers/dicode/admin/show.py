"""How objects look: the JSON shapes of SPEC 6 and the rows of the tables. Pure; `now` is an argument, times are ms."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from dicode.messages.kinds import (
    Commit,
    Condition,
    ConfigSource,
    Daemon,
    Delivery,
    Event,
    History,
    Kind,
    Resolution,
    Route,
    Run,
    Schedule,
    Source,
    Task,
    Worker,
)
from dicode.messages.task import Trigger
from dicode.process.clock import rfc3339
from dicode.process.logs import clean
from dicode.spec.names import is_commit

HASH = 6  # hex digits of a digest that people see
GAP = "   "  # between two columns
NO_TROUBLE = frozenset({"Ready", "NetOpen"})  # true while all is well, or a remark; the other types say that something is not


# --- JSON ---------------------------------------------------------------------------------------------------------


def shape(key: str, value: Kind) -> dict[str, Any]:
    """The object as `-o json` prints it. What does not exist is null."""
    match value:
        case Task():
            return {
                "id": value.id,
                "source": value.source,
                "digest": value.digest or None,
                "process": value.process or None,
                "generation": value.generation,
                "sync": value.sync,
                "health": value.health,
                "suspended": value.suspended,
                "revision": value.revision or None,
                "conditions": [condition_shape(condition) for condition in value.conditions],
            }
        case Run():
            return {
                "id": value.id,
                "task": value.task,
                "status": value.status,
                "digest": value.digest or None,
                "attempt": value.attempt,
                "trigger": value.trigger.type,
                "created": when(value.created),
                "started": when(value.started),
                "finished": when(value.finished),
                "exit_code": value.exit_code,
                "result": result_of(value),
                "error": value.error or None,
            }
        case Source():
            return {
                "name": value.name,
                "type": value.type,
                "revision": value.revision or None,
                "dev": value.dev or None,
                "status": value.status,
                "conditions": [condition_shape(condition) for condition in value.conditions],
                "suspended": value.suspended,
                "tasks": value.tasks,
                "path": value.spec.path or None,
                "url": public_url(value.spec.url) or None,
                "ref": ref_text(value.spec) or None,
                "commit": commit_shape(value.commit),
                "synced": when(value.synced_at),
                "resolutions": [resolution_shape(resolution) for resolution in value.resolutions],
            }
        case Daemon():
            return {
                "task": value.task,
                "pid": value.pid or None,
                "digest": value.digest or None,
                "process": value.process or None,
                "state": value.state,
                "restarts": value.restarts,
            }
        case Schedule():
            return {"task": value.task, "next": when(value.next)}
        case Route():
            return {"task": value.task, "path": value.path, "url": value.url}
        case Worker():
            return {
                "name": value.name,
                "state": value.state,
                "pid": value.pid or None,
                "host": value.host,
                "slots": value.slots,
                "busy": value.busy,
                "labels": list(value.labels),
                "runtimes": list(value.runtimes),
                "started": when(value.started),
            }
        case Delivery():
            return {
                "id": value.id,
                "task": value.task,
                "run": value.run or None,
                "at": when(value.at),
                "remote": value.remote,
                "event": value.event or None,
                "bytes": value.bytes,
            }
        case Event():
            return {
                "id": key,
                "object": value.object,
                "type": value.type,
                "reason": value.reason,
                "message": value.message,
                "at": when(value.at),
                "role": value.role,
                "cause": value.cause or None,
            }
        case History():
            return {"task": value.task, "revisions": [revision_shape(value, place) for place in range(len(value.revisions))]}
    raise TypeError(f"{type(value).__name__} is not shown")


def commit_shape(commit: Commit | None) -> dict[str, Any] | None:
    if commit is None:
        return None
    return {"id": commit.id, "author": commit.author or None, "at": when(commit.at), "subject": commit.subject or None}


def resolution_shape(resolution: Resolution) -> dict[str, Any]:
    return {"at": when(resolution.at), "revisions": {public_url(repository): commit for repository, commit in resolution.revisions.items()}}


def condition_shape(condition: Condition) -> dict[str, Any]:
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "since": when(condition.since),
    }


def revision_shape(history: History, place: int) -> dict[str, Any]:
    revision = history.revisions[place]
    return {
        "digest": revision.digest,
        "process": revision.process,
        "generation": revision.generation,
        "at": when(revision.at),
        "source": revision.source,
        "revision": revision.revision or None,
        "who": revision.who or None,
    }


def result_of(run: Run) -> Any:
    """The JSON value the task gave back; the text itself where it is no JSON; None where there is none."""
    if run.result is None or not run.result.value:
        return None
    try:
        return json.loads(run.result.value)
    except ValueError:
        return run.result.value


def when(ms: int) -> str | None:
    """RFC 3339 UTC with milliseconds; None for 0, which stands for never."""
    return rfc3339(ms) if ms else None


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def as_json_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- tables -------------------------------------------------------------------------------------------------------

_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^/\s]*@")
#: Each kind's columns, in the order of `cells`; those marked + only with -o wide.
COLUMNS: Mapping[type[Kind], tuple[str, ...]] = {
    Source: ("NAME", "TYPE", "STATUS", "TASKS", "REVISION", "DEV", "READ", "FROM+", "PLACE+", "REF+", "SYNCED+", "CONDITION"),
    Task: ("ID", "TRIGGER", "HASH", "SYNC", "HEALTH", "AGE", "SOURCE+", "GENERATION+", "REVISION+", "RUNTIME+", "CONDITION"),
    Run: ("ID", "TASK", "STATUS", "TRIGGER", "AGE", "TOOK", "HASH", "ATTEMPT+", "WORKER+", "EXIT+", "ERROR+"),
    Daemon: ("TASK", "STATE", "PID", "RESTARTS", "HASH", "AGE", "PROCESS+", "LAST EXIT+"),
    Schedule: ("TASK", "NEXT", "IN", "LAST+", "EXPRESSION+"),
    Route: ("TASK", "METHODS", "PATH", "URL"),
    Worker: ("NAME", "STATE", "PID", "BUSY", "AGE", "LABELS+", "RUNTIMES+"),
    Delivery: ("ID", "TASK", "RUN", "AGE", "EVENT+", "BYTES+", "REMOTE+"),
    Event: ("AGE", "TYPE", "REASON", "OBJECT", "ROLE+", "CAUSE+", "MESSAGE"),
}


def header(kind: type[Kind], wide: bool) -> list[str]:
    return [name.rstrip("+") for name in COLUMNS[kind] if wide or not name.endswith("+")]


def row(value: Kind, now: int, wide: bool) -> list[str]:
    """One line of the kind's table, cell by cell, as `header` names them."""
    return [cell for cell, name in zip(cells(value, now), COLUMNS[type(value)], strict=True) if wide or not name.endswith("+")]


def cells(value: Kind, now: int) -> list[str]:
    match value:
        case Source():
            place = public_url(value.spec.url) or value.spec.path
            told = [value.name, value.type, _suspended(value.status, value.suspended), str(value.tasks), short_revision(value.revision)]
            told += [value.dev, age(value.read_at, now), value.origin, place, ref_text(value.spec), age(value.synced_at, now)]
            return [*told, trouble(value.conditions)]
        case Task():
            trigger = trigger_text(value.spec.trigger) if value.spec else ""
            told = [value.id, trigger, value.digest[:HASH], value.sync, value.health, age(value.registered_at, now)]
            more = [value.source, str(value.generation), short_revision(value.revision), value.runtime or ""]
            return [*told, *more, trouble(value.conditions)]
        case Run():
            told = [value.id, value.task, value.status, value.trigger.type, age(value.created, now), took(value, now), value.digest[:HASH]]
            exit_code = "" if value.exit_code is None else str(value.exit_code)
            return [*told, f"{value.attempt}/{value.attempts}", value.worker, exit_code, value.error]
        case Daemon():
            pid = str(value.pid) if value.pid else ""
            told = [value.task, value.state, pid, str(value.restarts), value.digest[:HASH], age(value.since, now)]
            return [*told, value.process[:HASH], value.exit]
        case Schedule():
            state = "suspended" if value.suspended else local(value.next)
            return [value.task, state, "" if value.suspended else until(value.next, now), local(value.last), value.expression]
        case Route():
            return [value.task, ",".join(value.methods), value.path, value.url]
        case Worker():
            busy = f"{value.busy}/{value.slots}"
            told = [value.name, value.state, str(value.pid) if value.pid else "", busy, age(value.started, now)]
            return [*told, ",".join(value.labels), ",".join(value.runtimes)]
        case Delivery():
            return [value.id, value.task, value.run, age(value.at, now), value.event, str(value.bytes), value.remote]
        case Event():
            return [age(value.at, now), value.type, value.reason, value.object, value.role, value.cause, value.message]
    raise TypeError(f"{type(value).__name__} has no table")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns, as kubectl prints them; empty cells show `-`. Nothing a terminal would obey gets through."""
    return aligned(head, rows)[0]


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]], at_least: Sequence[int] = ()) -> tuple[str, list[int]]:
    """The table, and how wide its columns came out: given back as `at_least`, later rows stand below the earlier ones."""
    lines = [list(head), *([clean(cell) or "-" for cell in cells_of] for cells_of in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths = [max(pair) for pair in zip(widths, at_least, strict=True)] if at_least else widths
    return "\n".join(GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines), widths


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Lines with aligned cells, two spaces between them; the rows may differ in length. Nothing a terminal would obey gets through."""
    lines = [[clean(cell) for cell in row] for row in rows]
    widths: dict[int, int] = {}
    for line in lines:
        for place, cell in enumerate(line):
            widths[place] = max(widths.get(place, 0), len(cell))
    return "\n".join("  ".join(cell.ljust(widths[place]) for place, cell in enumerate(line)).rstrip() for line in lines)


def _suspended(status: str, suspended: bool) -> str:
    return f"{status},suspended" if suspended else status


def troubles(conditions: Iterable[Condition]) -> list[Condition]:
    """The conditions that say something is not as it should be."""
    return [condition for condition in conditions if not (condition.status and condition.type in NO_TROUBLE)]


def trouble(conditions: Iterable[Condition]) -> str:
    """What is wrong, in a word each: the column that sends people to `describe`."""
    return ",".join(c.type if c.status else c.reason for c in troubles(conditions))


def short_revision(revision: str) -> str:
    """A commit by its first seven digits; anything else as it is."""
    return revision[:7] if is_commit(revision) else revision


def ref_text(spec: ConfigSource) -> str:
    """`main`, `tag v1.2`, `semver ~1.2`; "" for a folder."""
    kind, ref = next(iter((spec.ref or {}).items()), ("branch", spec.branch))
    return ref if kind == "branch" else f"{kind} {ref}"


def public_url(url: str) -> str:
    """The URL without a password somebody wrote into it."""
    return _PASSWORD.sub(r"\1***@", url)


def trigger_text(trigger: Trigger) -> str:
    """`cron */5 * * * *`, `webhook /hooks/x`, `chain x`, `daemon`, `manual`."""
    match trigger.type:
        case "cron":
            return f"cron {trigger.cron}"
        case "webhook":
            return f"webhook {trigger.webhook}"
        case "chain":
            return f"chain {trigger.chain.from_ if trigger.chain else ''}"
        case other:
            return other


# --- times --------------------------------------------------------------------------------------------------------


def span(ms: int) -> str:
    """A length of time in at most two units, as kubectl prints ages: `350ms`, `45s`, `3m20s`, `5h`, `2d4h`."""
    if ms < 1000:
        return f"{max(ms, 0)}ms"
    seconds = ms // 1000
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 3600:
        return _two(seconds // 60, "m", seconds % 60, "s") if seconds < 600 else f"{seconds // 60}m"
    if seconds < 86_400:
        return _two(seconds // 3600, "h", seconds % 3600 // 60, "m") if seconds < 36_000 else f"{seconds // 3600}h"
    return _two(seconds // 86_400, "d", seconds % 86_400 // 3600, "h") if seconds < 864_000 else f"{seconds // 86_400}d"


def _two(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big}{big_unit}{small}{small_unit}" if small else f"{big}{big_unit}"


def age(since: int, now: int) -> str:
    """How long ago; `` for never."""
    if not since:
        return ""
    return span(now - since) if now - since >= 1000 else "0s"


def until(then: int, now: int) -> str:
    """How long from now; `` for never, `due` for the past."""
    if not then:
        return ""
    return span(then - now) if then > now else "due"


def took(run: Run, now: int) -> str:
    """How long the run has been running; `` before it starts."""
    if not run.started:
        return ""
    return span((run.finished or now) - run.started)


def local(ms: int, zone: str | None = None) -> str:
    """`2026-11-23 10:05:00 CET`: the wall clock of this machine, or of `zone`. `` for never."""
    if not ms:
        return ""
    if zone:
        from zoneinfo import ZoneInfo

        return datetime.fromtimestamp(ms / 1000, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S %Z")
    return datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


# --- one object for a reader --------------------------------------------------------------------------------------


def fields(pairs: Iterable[tuple[str, str]]) -> str:
    """`Name:   value` lines, aligned; pairs without a value are left out."""
    shown = [(name + ":", clean(value)) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown)


def conditions_table(conditions: Iterable[Condition], now: int) -> str:
    """The conditions, indented; `` when there are none."""
    rows = [[c.type, str(c.status), c.reason, age(c.since, now), c.message] for c in conditions]
    return indented(table(["TYPE", "STATUS", "REASON", "AGE", "MESSAGE"], rows)) if rows else ""


def events_table(events: Iterable[Event], now: int) -> str:
    rows = [[age(event.at, now), event.type, event.reason, event.role, event.message] for event in events]
    return indented(table(["AGE", "TYPE", "REASON", "ROLE", "MESSAGE"], rows)) if rows else ""


def indented(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())


def for_terminal(text: str) -> str:
    """A line of a task's output, safe to show: tabs stay, everything a terminal would obey is escaped."""
    return "\t".join(clean(part) for part in text.split("\t"))
