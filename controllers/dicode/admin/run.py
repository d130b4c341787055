"""run, replay, cancel, logs: start executions, end them, and see what they print."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from dicode.admin import show
from dicode.admin.ask import talking, token, who_asks
from dicode.admin.errors import Failed, Usage
from dicode.admin.nouns import unknown
from dicode.admin.place import Place
from dicode.messages.commands import Cancel, Enqueue, Enqueued, Found, Refused
from dicode.messages.kinds import ENDED, Run, RunTrigger, Task
from dicode.process.clock import wall_ms
from dicode.process.tasklog import Record, daemon_log, parse_record, read_log, run_log
from dicode.spec.runs import run_id
from dicode.wire.blocking import BlockingWire
from dicode.wire.frames import StoreAway

EXIT = {"succeeded": 0, "timed_out": 124, "cancelled": 130}  # every other end is 1
LOOK = 0.03  # seconds between two looks at a growing log
INPUT_MAX = 5 * 1024 * 1024  # bytes; as much as a webhook may bring

TaskId = Annotated[str, typer.Argument(metavar="ID", help="a task's id")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="a run's id, or how it begins")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="print the run's id and go")]


def run(
    ctx: typer.Context,
    task_id: TaskId,
    param: Annotated[list[str] | None, typer.Option("--param", "-p", metavar="NAME=VALUE", help="a param; may be repeated")] = None,
    input: Annotated[str | None, typer.Option(metavar="FILE|-", help="what the task gets as input: JSON, or text")] = None,
    no_wait: NoWait = False,
) -> int:
    """Run a task now and follow its log; exit 0 succeeded, 1 failed, 124 timed out, 130 cancelled. Example: dicode run hello -p name=Ada"""
    place = Place.of(ctx)
    with talking(place.settings, "Run") as wire:
        task = place.task(task_id)
        params = checked(task, params_of(param or []))
        who = who_asks()
        key = f"{who}:{token()}"
        order = Run(
            id=run_id(task_id, "manual", key),
            task=task_id,
            unique=f"manual:{task_id}:{key}",
            trigger=RunTrigger(type="manual", key=who),
            params=params or None,
            cause=key.partition(":")[2],
        )
        return start(place, wire, with_input(order, read_input(input), place.settings.inputs), wait=not no_wait)


def replay(
    ctx: typer.Context,
    run: RunId,
    same_code: Annotated[bool, typer.Option("--same-code", help="with the digest it ran with, not with today's")] = False,
    no_wait: NoWait = False,
) -> int:
    """Run a task again with the params and input of an earlier run. Example: dicode replay 3f9a --same-code"""
    place = Place.of(ctx)
    with talking(place.settings, "Run") as wire:
        old = find_run(place, run)
        key = token()
        order = Run(
            id=run_id(old.task, "replay", key),
            task=old.task,
            unique=f"replay:{old.task}:{key}",
            trigger=RunTrigger(type="replay", key=who_asks(), parent=old.id),
            params=old.params,
            input=old.input,
            input_blob=old.input_blob,
            cause=key,
        )
        if same_code:
            order = replace(
                order,
                digest=old.digest,
                set_dir=old.set_dir,
                runtime=old.runtime,
                overlap=old.overlap,
                concurrency=old.concurrency,
                labels=old.labels,
                attempts=old.attempts,
                backoff=old.backoff,
                multiplier=old.multiplier,
                backoff_max=old.backoff_max,
            )
        return start(place, wire, order, wait=not no_wait)


def cancel(ctx: typer.Context, run: RunId) -> None:
    """End a run: at once while it waits, else by stopping its processes. Example: dicode cancel 3f9a"""
    place = Place.of(ctx)
    with talking(place.settings, "Run") as wire:
        found = find_run(place, run)
        if found.status in ENDED:
            raise Failed(f"run {found.id} has ended already: {found.status}")
        wire.ask(Cancel(run=found.id, who=who_asks()), Found)
        print(f"run/{found.id} {'cancelled' if found.status == 'queued' else 'is being cancelled'}")


def logs(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="ID|RUN", help="a task (its last run, or its daemon) or a run")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on as it is written")] = False,
    since: Annotated[str | None, typer.Option(metavar="DURATION", help="only the last 10m, 2h, …")] = None,
    previous: Annotated[bool, typer.Option("--previous", help="the attempt, run or daemon log before")] = False,
) -> None:
    """Print what a run or a daemon has printed. Example: dicode logs heartbeat -f --since 5m"""
    place = Place.of(ctx)
    since_ms = _since(since)
    task = place.store.get(Task, target)
    if task is not None and task.spec is not None and task.spec.trigger.type == "daemon":
        path = daemon_log(place.settings.logs, target)
        for record in read_log(Path(f"{path}.1"), since_ms) if previous else _tail(path, since_ms, follow):
            say(record)
        return
    run = _run_meant(place, target, task, previous=previous)
    if run is None:
        raise Usage(f"{target} has no {'earlier ' if previous else ''}run yet: dicode run {target}")
    if not follow:
        for record in read_log(run_log(place.settings.logs, run.id, run.attempt), since_ms):
            say(record)
        return
    for record in Following(place, run, since_ms).records():
        say(record)


# --- starting and following ---------------------------------------------------------------------------------------


def start(place: Place, wire: BlockingWire, order: Run, *, wait: bool) -> int:
    """Put the run on the queue and follow it; gives the exit code. Raises Failed when it is not accepted."""
    answer = wire.ask_any(Enqueue(run=order))
    if isinstance(answer, Refused):
        raise Failed(answer.message)
    if not isinstance(answer, Enqueued):
        raise Failed(f"the store answered {type(answer).__name__} to a new run")
    if not wait:
        print(answer.run)
        return 0
    tell(f"run {answer.run} of {order.task}")
    run = place.store.get(Run, answer.run) or replace(order, id=answer.run)
    following = Following(place, run, None, wire)
    cancelling = False
    while True:
        try:
            for record in following.records():
                say_apart(record)
            return _ended(following.run)
        except KeyboardInterrupt:
            if cancelling:
                return 130
            cancelling = True
            tell("cancelling; once more Ctrl-C leaves at once")
            try:
                wire.ask(Cancel(run=run.id, who=who_asks()), Found)
            except StoreAway:
                tell(f"the store is away: dicode cancel {run.id}")
                return 130


class Following:
    """The records of a run's log as they come, attempt after attempt, until the run has ended."""

    def __init__(self, place: Place, run: Run, since_ms: int | None, wire: BlockingWire | None = None) -> None:
        self.run = run
        self._place = place
        self._wire = wire
        self._since = since_ms
        self._attempt = 1 if wire is not None else run.attempt
        self._tail = Tail(run_log(place.settings.logs, run.id, self._attempt))

    def records(self) -> Iterator[Record]:
        while True:
            self.run = self._place.store.get(Run, self.run.id) or self.run
            over = self.run.status in ENDED
            yield from self._fresh()
            if self.run.attempt > self._attempt:
                self._attempt += 1
                self._tail = Tail(run_log(self._place.settings.logs, self.run.id, self._attempt))
                wait = show.until(self.run.due, wall_ms()) if self.run.status == "queued" else ""
                tell(f"attempt {self._attempt} of {self.run.attempts}" + (f" in {wait}" if wait not in ("", "due") else ""))
            elif over:
                return
            else:
                self._wait()

    def _fresh(self) -> Iterator[Record]:
        for record in self._tail.fresh():
            if self._since is None or record.at >= self._since:
                yield record

    def _wait(self) -> None:
        if self._wire is not None:
            self._wire.hear(LOOK)
        else:
            pause(LOOK)


class Tail:
    """A file that grows: gives its new whole lines at each call, also after it was rotated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._rest = b""

    def fresh(self) -> Iterator[Record]:
        if self._fd < 0 and not self._open():
            return
        yield from self._read()
        if self._moved():
            yield from self._read()
            os.close(self._fd)
            self._fd, self._rest = -1, b""

    def _open(self) -> bool:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        return True

    def _read(self) -> Iterator[Record]:
        while data := os.read(self._fd, 1 << 16):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                record = parse_record(line + b"\n")
                if record is not None:
                    yield record

    def _moved(self) -> bool:
        try:
            return os.stat(self._path).st_ino != os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return True


def _tail(path: Path, since_ms: int | None, follow: bool) -> Iterator[Record]:
    """A daemon's log; with `follow` without end."""
    if not follow:
        yield from read_log(path, since_ms)
        return
    tail = Tail(path)
    while True:
        for record in tail.fresh():
            if since_ms is None or record.at >= since_ms:
                yield record
        pause(LOOK)


def pause(seconds: float) -> None:
    """Nothing tells when a log grows, so it is looked at again: a tenth of a millisecond of work each time."""
    import select

    select.select([], [], [], seconds)


def _ended(run: Run) -> int:
    took = show.took(run, wall_ms())
    tell(f"run {run.id} {run.status}{f' in {took}' if took else ''}{f': {run.error}' if run.error else ''}")
    if run.status == "succeeded" and run.result is not None and run.result.value:
        tell(f"result {run.result.value if len(run.result.value) <= 2000 else run.result.value[:2000] + '…'}")
    return EXIT.get(run.status, 1)


# --- saying -------------------------------------------------------------------------------------------------------


def say(record: Record) -> None:
    """For `logs`: all on stdout, our own words marked."""
    print(_shown(("-- " if record.stream == "s" else "") + record.text, sys.stdout.isatty()), flush=True)


def say_apart(record: Record) -> None:
    """For `run`: the task's stdout on ours, its stderr and our words on stderr."""
    if record.stream == "o":
        print(_shown(record.text, sys.stdout.isatty()), flush=True)
    elif record.stream == "e":
        print(_shown(record.text, sys.stderr.isatty()), file=sys.stderr, flush=True)
    else:
        tell(record.text)


def tell(text: str) -> None:
    print(f"dicode: {show.for_terminal(text)}", file=sys.stderr, flush=True)


def _shown(text: str, terminal: bool) -> str:
    """As it is into a file or a pipe; a terminal gets nothing it would obey."""
    return show.for_terminal(text) if terminal else text


# --- what was typed -----------------------------------------------------------------------------------------------


def params_of(written: list[str]) -> dict[str, str]:
    """`name=value` words as a dict. Raises Usage."""
    params: dict[str, str] = {}
    for word in written:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise Usage(f"-p {word!r}: write -p name=value")
        params[name] = value
    return params


def checked(task: Task, params: dict[str, str]) -> dict[str, str]:
    """The params, if this task can be run with them. Raises Usage for what the author of the command line must change."""
    if task.spec is None:
        return params
    if task.spec.trigger.type == "daemon":
        raise Usage(f"{task.id} is a daemon and is not run: dicode restart {task.id}")
    from dicode.spec.params import effective

    outcome = effective(task.spec, params)
    if not isinstance(outcome, dict):
        raise Usage("; ".join(str(fault) for fault in outcome))
    return params


def read_input(source: str | None) -> str:
    """The JSON text of `--input`: a file's or stdin's content; what is no JSON becomes a JSON string. Raises Usage."""
    if source is None:
        return ""
    try:
        data = sys.stdin.buffer.read(INPUT_MAX + 1) if source == "-" else Path(source).read_bytes()
        text = data.decode()
    except OSError as error:
        raise Usage(f"--input {source}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Usage(f"--input {source}: not UTF-8 text") from None
    if len(data) > INPUT_MAX:
        raise Usage(f"--input {source}: more than {INPUT_MAX >> 20} MiB; give the task a path instead")
    import json

    try:
        json.loads(text)
    except ValueError:
        return json.dumps(text, ensure_ascii=False)
    return text


def with_input(order: Run, text: str, inputs: Path) -> Run:
    """The run with this input; a big one lies in `inputs`, by its SHA-256, before the run is asked for."""
    from dicode.process.inputs import INLINE, store_input  # hashlib: only for who runs something

    content = text.encode()
    if len(content) <= INLINE:
        return replace(order, input=text)
    return replace(order, input_blob=store_input(inputs, content))


def _since(written: str | None) -> int | None:
    if written is None:
        return None
    from dicode.spec.duration import parse

    try:
        return wall_ms() - parse(written)
    except ValueError as error:
        raise Usage(f"--since: {error}") from None


def find_run(place: Place, written: str) -> Run:
    """The run with this id, or the only one whose id begins so. Raises Usage."""
    found = place.store.get(Run, written)
    if found is not None:
        return found
    runs = place.store.all(Run)
    begun = [run for id, run in runs.items() if len(written) >= 4 and id.startswith(written)]
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise Usage(f"{len(begun)} runs begin with {written!r}: type more of the id")
    raise Usage(f"no run {written!r}; `dicode get runs` lists them")


def _run_meant(place: Place, target: str, task: Task | None, *, previous: bool) -> Run | None:
    """The run `logs TARGET` is about; None when the task has none. Raises Usage for a name that is neither."""
    if task is None:
        try:
            run = find_run(place, target)
        except Usage:
            raise Usage(unknown("task or run", target, place.store.all(Task))) from None
        if not previous:
            return run
        return replace(run, attempt=run.attempt - 1) if run.attempt > 1 else None
    runs = sorted((run for run in place.store.all(Run).values() if run.task == target and run.started), key=lambda run: run.created)
    if previous and runs and runs[-1].attempt > 1:
        return replace(runs[-1], attempt=runs[-1].attempt - 1)
    place_from_end = 2 if previous else 1
    return runs[-place_from_end] if len(runs) >= place_from_end else None
