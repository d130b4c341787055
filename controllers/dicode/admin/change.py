"""suspend, resume, restart: what a person asks of a task or a source."""

from __future__ import annotations

from typing import Annotated

import typer

from dicode.admin.ask import request, talking
from dicode.admin.errors import Usage
from dicode.admin.nouns import unknown
from dicode.admin.place import Place
from dicode.messages.kinds import Source, Task

TaskOrSource = Annotated[str, typer.Argument(metavar="ID|SOURCE", help="a task's id or a source's name")]
TaskId = Annotated[str, typer.Argument(metavar="ID", help="a task's id")]


def suspend(ctx: typer.Context, target: TaskOrSource) -> None:
    """Stop firing a task and stop its daemon, or freeze a source at its revision. Example: dicode suspend backup"""
    _ask(Place.of(ctx), "suspend", target, "suspended")


def resume(ctx: typer.Context, target: TaskOrSource) -> None:
    """Let a suspended task fire again, or a frozen source be read again. Example: dicode resume backup"""
    _ask(Place.of(ctx), "resume", target, "resumed")


def restart(ctx: typer.Context, target: TaskId) -> None:
    """Replace the process of a daemon by a new one. Example: dicode restart clock"""
    place = Place.of(ctx)
    with talking(place.settings) as wire:
        task = place.task(target)
        if task.spec is not None and task.spec.trigger.type != "daemon":
            raise Usage(f"{target} is no daemon: dicode run {target} starts a run of it")
        print(f"task/{target} {request(wire, 'task.restart', target) or 'restarted'}")


def _ask(place: Place, verb: str, target: str, done: str) -> None:
    with talking(place.settings) as wire:
        if place.store.get(Task, target) is not None:
            kind = "task"
        elif place.store.get(Source, target) is not None:
            kind = "source"
        else:
            raise Usage(unknown("task or source", target, [*place.store.all(Task), *place.store.all(Source)]))
        print(f"{kind}/{target} {request(wire, f'{kind}.{verb}', target) or done}")
