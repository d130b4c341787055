"""describe: all of one object, for a reader."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from dicode.admin import show
from dicode.admin.errors import Usage
from dicode.admin.nouns import NOUNS, noun_of, unknown
from dicode.admin.place import Place
from dicode.messages.kinds import Commit, Daemon, DesiredTask, Event, Kind, Resolution, Route, Run, Schedule, Source, Task
from dicode.process.clock import wall_ms
from dicode.process.logs import clean
from dicode.spec import duration

EVENTS_SHOWN = 10
RUNS_SHOWN = 5
DESCRIBED = (Task, Source, Run, Daemon)
Section = tuple[str, str]  # (title, text); without a text it is left out


def describe(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="task, source, run or daemon")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="its name")],
) -> None:
    """Show all of one object, with its conditions and what happened to it lately. Example: dicode describe task backup"""
    noun = noun_of(kind)
    if noun is None or noun.kind not in DESCRIBED:
        raise Usage(unknown("kind to describe", kind, [noun.singular for noun in NOUNS if noun.kind in DESCRIBED]))
    place = Place.of(ctx)
    if noun.kind is Run:
        from dicode.admin.run import find_run

        value: Kind | None = find_run(place, name)
    else:
        value = place.store.get(noun.kind, name)
    if value is None:
        raise Usage(unknown(noun.singular, name, place.store.all(noun.kind)))
    now = wall_ms()
    head, sections = told(place, value, now)
    about = f"{noun.singular}/{name}" if noun.kind is not Daemon else f"task/{name}"
    sections.append(("Events", show.events_table(last_events(place, about), now)))
    print(show.fields(head))
    for title, text in sections:
        if text:
            print(f"\n{title}:\n{text}")


def last_events(place: Place, about: str) -> list[Event]:
    found = [(key, event) for key, event in place.store.all(Event).items() if event.object == about]
    return [event for _, event in sorted(found)[-EVENTS_SHOWN:]]


def told(place: Place, value: Kind, now: int) -> tuple[list[tuple[str, str]], list[Section]]:
    """The fields at the top and the sections below them."""
    match value:
        case Task():
            return task_told(place, value, now)
        case Source():
            return source_told(place, value, now)
        case Run():
            return run_told(value, now)
        case Daemon():
            return daemon_told(place, value, now)
    raise TypeError(f"{type(value).__name__} is not described")


def task_told(place: Place, task: Task, now: int) -> tuple[list[tuple[str, str]], list[Section]]:
    spec = task.spec
    schedule = place.store.get(Schedule, task.id)
    route = place.store.get(Route, task.id)
    daemon = place.store.get(Daemon, task.id)
    head = [
        ("Task", task.id),
        ("Name", spec.name if spec else ""),
        ("Description", (spec.description or "") if spec else ""),
        ("Source", task.source),
        ("Revision", revision_told(place, task)),
        ("Folder", task.dir),
        ("Set folder", task.set_dir),
        ("Digest", task.digest),
        ("Process", task.process),
        ("Generation", str(task.generation)),
        ("Registered", moment(task.registered_at, now)),
        ("Sync", task.sync),
        ("Health", task.health),
        ("Suspended", "yes" if task.suspended else ""),
        ("Pinned", task.pinned),
        ("Trigger", show.trigger_text(spec.trigger) if spec else ""),
        ("Runtime", task.runtime or ""),
        ("Timeout", duration.text(spec.timeout) if spec and spec.timeout is not None else ""),
        ("Overlap", (spec.overlap or "") if spec else ""),
        ("Next fire", moment(schedule.next, now) if schedule and not schedule.suspended else ""),
        ("URL", route.url if route else ""),
        ("Daemon", daemon_line(daemon, now) if daemon else ""),
        ("Last operation", f"{task.operation.verb} {moment(task.operation.at, now)} {task.operation.message}".strip() if task.operation else ""),
    ]
    params = (
        [[p.name, p.type or "string", p.default or "", "yes" if p.required else "", p.description or ""] for p in (spec.params or ())] if spec else []
    )
    conditions = (
        *task.conditions,
        *(schedule.conditions if schedule else ()),
        *(route.conditions if route else ()),
        *(daemon.conditions if daemon else ()),
    )
    return head, [
        ("Params", show.indented(show.table(["NAME", "TYPE", "DEFAULT", "REQUIRED", "DESCRIPTION"], params)) if params else ""),
        ("Permissions", show.indented(permissions_text(task))),
        ("Conditions", show.conditions_table(conditions, now)),
        ("Faults", show.indented("\n".join(clean(text) for text in faults_of(place, task)))),
        ("Last runs", runs_table(place, task.id, now)),
    ]


def permissions_text(task: Task) -> str:
    permissions = task.spec.permissions if task.spec else None
    if permissions is None:
        return ""
    granted = msgspec.to_builtins(permissions)
    return show.fields((name, show.as_json_line(value)) for name, value in granted.items())


def faults_of(place: Place, task: Task) -> list[str]:
    desired = place.store.get(DesiredTask, f"{task.source}/{task.id}")
    return [str(fault) for fault in desired.faults] if desired else []


def runs_table(place: Place, task: str, now: int) -> str:
    runs = sorted((run for run in place.store.all(Run).values() if run.task == task), key=lambda run: run.created)[-RUNS_SHOWN:]
    return show.indented(show.table(show.header(Run, False), [show.row(run, now, False) for run in runs])) if runs else ""


def revision_told(place: Place, task: Task) -> str:
    """The commit, and where the source is at it still, who made it when."""
    source = place.store.get(Source, task.source)
    commit = source.commit if source else None
    return " ".join(filter(None, (task.revision, f"({commit_line(commit)})" if commit and commit.id == task.revision else "")))


def commit_line(commit: Commit) -> str:
    """`Fix the digest, Ada <ada@example.org>, 2026-11-23 10:05:00 CET`."""
    return ", ".join(filter(None, (commit.subject, commit.author, show.local(commit.at))))


def source_told(place: Place, source: Source, now: int) -> tuple[list[tuple[str, str]], list[Section]]:
    is_git, commit = source.type == "git", source.commit or Commit("")
    head = [
        ("Source", source.name),
        ("Type", source.type),
        ("Path", source.spec.path),
        ("URL", show.public_url(source.spec.url)),
        ("Ref", show.ref_text(source.spec)),
        ("From", {"file": "dicode.yaml", "store": "dicode source add", "up": "dicode up PATH"}[source.origin]),
        ("Status", source.status),
        ("Suspended", "yes, frozen at its revision" if source.suspended else ""),
        ("Dev", dev_told(source)),
        ("Revision", source.revision),
        ("Author", commit.author),
        ("Committed", moment(commit.at, now)),
        ("Subject", commit.subject),
        ("Tasks", str(source.tasks)),
        ("Read", moment(source.read_at, now)),
        ("Synced", moment(source.synced_at, now)),
        ("Poll", duration.text(source.spec.poll_interval) if is_git else ""),
        ("Push hook", push_hook(place, source)),
        ("Settle", "" if is_git else duration.text(source.spec.settle)),
        ("Rescan", "" if is_git else duration.text(source.spec.rescan)),
    ]
    return head, [
        ("Repositories", repositories_table(source)),
        ("Was made of", resolutions_table(source, now)),
        ("Conditions", show.conditions_table(source.conditions, now)),
    ]


def dev_told(source: Source) -> str:
    """What it is read from in dev mode, and the way back."""
    if not source.dev:
        return ""
    return f"{source.dev.replace('branch:', 'branch ', 1)} (back: dicode source dev {source.name} --disable)"


def push_hook(place: Place, source: Source) -> str:
    """Where the git host tells of pushes; "" where that is not enabled."""
    if not source.spec.webhook_secret_env:
        return ""
    try:
        base = (place.settings.run / "hooks.addr").read_text().strip()
    except OSError:
        base = ""
    return f"{base}/hooks/git/{source.name} (secret in {source.spec.webhook_secret_env})"


def repositories_table(source: Source) -> str:
    """Which commit of which repository the TaskSet is made of now; `` for one repository alone."""
    revisions = source.resolutions[0].revisions if source.resolutions else {}
    if not set(revisions) - {""}:
        return ""
    rows = [[show.public_url(repository) or "its own", show.short_revision(commit)] for repository, commit in sorted(revisions.items())]
    return show.indented(show.table(["REPOSITORY", "COMMIT"], rows))


def resolutions_table(source: Source, now: int) -> str:
    """What it was made of since when, newest first: what was live at 14:03 is the first row that is not younger."""
    if not any(resolution.revisions for resolution in source.resolutions):
        return ""
    rows = [
        [show.local(resolution.at), show.age(resolution.at, now), revisions_line(resolution, after.revisions if after else {})]
        for resolution, after in zip(source.resolutions, (*source.resolutions[1:], None), strict=True)
    ]
    return show.indented(show.table(["SINCE", "AGE", "COMMITS"], rows))


def revisions_line(resolution: Resolution, before: dict[str, str]) -> str:
    """`abc1234, lib.git#branch=main def5678`: what was new then; of the oldest, everything. Without a commit of its own, dev mode reads a working copy."""
    told = {repository: commit for repository, commit in sorted(resolution.revisions.items()) if before.get(repository) != commit}
    gone = sorted(set(before) - set(resolution.revisions))
    named = [f"{show.public_url(repository)} {show.short_revision(commit)}".strip() for repository, commit in told.items()]
    return ", ".join([*named, *(f"without {show.public_url(repository)}" if repository else "a working copy" for repository in gone)])


def run_told(run: Run, now: int) -> tuple[list[tuple[str, str]], list[Section]]:
    fired: str = run.trigger.type
    if run.trigger.type == "cron" and run.trigger.key.isdigit():
        fired += f" of {show.local(int(run.trigger.key))}"
    elif run.trigger.key:
        fired += f" by {run.trigger.key}"
    head = [
        ("Run", run.id),
        ("Task", run.task),
        ("Status", run.status),
        ("Trigger", fired),
        ("Parent", run.trigger.parent),
        ("Digest", run.digest),
        ("Runtime", run.runtime or ""),
        ("Attempt", f"{run.attempt} of {run.attempts}"),
        ("Worker", run.worker),
        ("Created", moment(run.created, now)),
        ("Due", moment(run.due, now) if run.due > run.created else ""),
        ("Started", moment(run.started, now)),
        ("Finished", moment(run.finished, now)),
        ("Took", show.took(run, now)),
        ("Exit code", "" if run.exit_code is None else str(run.exit_code)),
        ("Error", run.error),
        ("Params", show.as_json_line(run.params) if run.params else ""),
        ("Input", run.input if len(run.input) <= 500 else run.input[:500] + "…"),
        ("Result", run.result.value if run.result else ""),
        ("Log", f"dicode logs {run.id}" if run.started else ""),
    ]
    return head, []


def daemon_told(place: Place, daemon: Daemon, now: int) -> tuple[list[tuple[str, str]], list[Section]]:
    task = place.store.get(Task, daemon.task)
    head = [
        ("Daemon", daemon.task),
        ("State", daemon.state),
        ("Since", moment(daemon.since, now)),
        ("Pid", str(daemon.pid) if daemon.pid else ""),
        ("Restarts", str(daemon.restarts)),
        ("Retry", moment(daemon.retry_at, now)),
        ("Last exit", daemon.exit),
        ("Digest", daemon.digest),
        ("Process", daemon.process),
        ("Registered", task.digest if task and task.digest != daemon.digest else ""),
        ("Log", f"dicode logs {daemon.task}"),
    ]
    return head, [("Conditions", show.conditions_table(daemon.conditions, now))]


def daemon_line(daemon: Daemon, now: int) -> str:
    pid = f" as pid {daemon.pid}" if daemon.pid else ""
    return f"{daemon.state}{pid} for {show.age(daemon.since, now) or '0s'}, {daemon.restarts} restarts" + (
        f", last {daemon.exit}" if daemon.exit else ""
    )


def moment(ms: int, now: int) -> str:
    """`2026-11-23 10:05:00 CET (in 4m10s)`; `` for never."""
    if not ms:
        return ""
    return f"{show.local(ms)} ({f'in {show.until(ms, now)}' if ms > now else f'{show.age(ms, now)} ago'})"
