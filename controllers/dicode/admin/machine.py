"""top, doctor, version, completion: the machine underneath."""

from __future__ import annotations

import platform
import shutil
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

from dicode.admin import show
from dicode.admin.errors import Failed, Usage
from dicode.admin.nouns import unknown
from dicode.admin.place import Place
from dicode.messages.kinds import Config, Daemon, Source, Task
from dicode.process.logs import clean

MIN_WATCHES = 8192  # inotify watches below which a large source falls back to looking
ROLES = ("store", "source-controller", "reconciler", "trigger-engine", "supervisor")
SHELLS = ("bash", "zsh", "fish")


class Figures(msgspec.Struct, frozen=True):
    """What the supervisor measures of one daemon's processes. `cpu` in percent of one core, `memory` in bytes."""

    cpu: float | None = None
    memory: int | None = None
    fds: int | None = None
    children: int | None = None


class Check(NamedTuple):
    """One thing doctor looked at. `state`: `ok`, `note` (works, with a limit), `bad`."""

    state: str
    what: str
    told: str


def top(ctx: typer.Context) -> None:
    """Show cpu, memory, open files and child processes of the daemons. Example: dicode top"""
    from dicode.admin.ask import order, outcome, talking

    place = Place.of(ctx)
    with talking(place.settings) as wire:
        daemons = place.store.all(Daemon)
        asked = {task: order(wire, "daemon.figures", task) for task, daemon in daemons.items() if daemon.pid}
        figures: dict[str, Figures] = {}
        for task, request in asked.items():
            with suppress(Failed):  # it has ended meanwhile: a row without figures
                figures[task] = msgspec.json.decode(outcome(wire, request), type=Figures)
    if not daemons:
        print("no daemons", file=sys.stderr)
        return
    rows = [figures_row(figures.get(task, Figures()), daemon) for task, daemon in sorted(daemons.items())]
    print(show.table(["TASK", "STATE", "PID", "CPU", "MEMORY", "FILES", "CHILDREN"], rows))


def figures_row(figures: Figures, daemon: Daemon) -> list[str]:
    return [
        daemon.task,
        daemon.state,
        str(daemon.pid) if daemon.pid else "",
        "" if figures.cpu is None else f"{figures.cpu:.1f}%",
        "" if figures.memory is None else f"{figures.memory / 1024**2:.1f}M",
        "" if figures.fds is None else str(figures.fds),
        "" if figures.children is None else str(figures.children),
    ]


def doctor(ctx: typer.Context) -> int:
    """Look at what dicode needs here, what runs, and what does not work; exit 1 if something is broken. Example: dicode doctor"""
    place = Place.of(ctx)
    checks = [*_platform(), *_folders(place), *_store(place), *_programs(place), *_roles(place), *_addresses(place)]
    for check in checks:
        print(f"{check.state.ljust(4)}  {check.what.ljust(17)}  {clean(check.told)}")
    return 1 if any(check.state == "bad" for check in checks) else 0


def version() -> None:
    """Print the version of dicode. Example: dicode version"""
    print(f"dicode {_version('dicode')}")


def completion(shell: Annotated[str, typer.Argument(metavar="|".join(SHELLS), help="which shell")]) -> None:
    """Print a completion script for your shell. Example: source <(dicode completion bash)"""
    from dicode.admin import completions

    if shell not in SHELLS:
        raise Usage(unknown("shell", shell, SHELLS))
    print(completions.script(shell), end="")


# --- what doctor looks at -----------------------------------------------------------------------------------------


def _platform() -> list[Check]:
    python = f"Python {platform.python_version()}, dicode {_version('dicode')}"
    if sys.platform != "linux":
        return [Check("note", "platform", f"{sys.platform}, {python}: daemons are not adopted after a crash, files are polled")]
    return [Check("ok", "platform", f"Linux {platform.release()}, {python}"), _inotify()]


def _inotify() -> Check:
    try:
        limits = {name: int(Path(f"/proc/sys/fs/inotify/{name}").read_text()) for name in ("max_user_watches", "max_user_instances")}
    except (OSError, ValueError):
        return Check("note", "inotify", "its limits cannot be read here")
    told = ", ".join(f"{name} {value:,}" for name, value in limits.items())
    if limits["max_user_watches"] < MIN_WATCHES:
        return Check("note", "inotify", f"{told}: large sources are polled; sysctl fs.inotify.max_user_watches=524288")
    return Check("ok", "inotify", told)


def _folders(place: Place) -> list[Check]:
    settings = place.settings
    checks = [
        Check("ok", "config", str(settings.config))
        if settings.config
        else Check("note", "config", "no dicode.yaml: `dicode up PATH` or `dicode init`")
    ]
    if not settings.data_dir.exists():
        return [*checks, Check("note", "data", f"{settings.data_dir}: nothing ever ran here")]
    mode = settings.run.stat().st_mode & 0o777 if settings.run.exists() else 0o700
    if mode & 0o077:
        return [*checks, Check("bad", "run folder", f"{settings.run} is open to others ({mode:o}): chmod 700 {settings.run}")]
    free = shutil.disk_usage(settings.data_dir).free
    return [*checks, Check("ok" if free > 1 << 28 else "bad", "data", f"{settings.data_dir}, {free / 1024**3:.1f} GiB free")]


def _store(place: Place) -> list[Check]:
    from dicode.store.read import Unreadable

    sqlite = Check("ok", "sqlite", _version("apsw").rpartition(".")[0])
    try:
        told = f"{len(place.store.all(Source))} sources, {len(place.store.all(Task))} tasks"
    except Unreadable as error:
        return [sqlite, Check("bad", "store", str(error))]
    if not place.settings.database.exists():
        return [sqlite, Check("note", "store", "no database yet")]
    config = place.store.get(Config, "dicode.yaml")
    wrong = [Check("bad", "config", condition.message or condition.reason) for condition in show.troubles(config.conditions if config else ())]
    return [sqlite, *wrong, Check("ok", "store", f"{told}, {place.settings.database.stat().st_size / 1024**2:.1f} MiB")]


def _programs(place: Place) -> list[Check]:
    cures = {"uv": "python tasks with dependencies do not run: pip install uv", "deno": "deno tasks do not run: pip install 'dicode[deno]'"}
    path = place.settings.environ.get("PATH")
    return [*(_program(name, cure, path) for name, cure in cures.items()), *_ssh(place, path)]


def _ssh(place: Place, path: str | None) -> list[Check]:
    """Git itself is not needed here; repositories that are reached by ssh need ssh."""
    found = shutil.which("ssh", path=path)
    if found:
        return [Check("ok", "ssh", f"{found}, for git sources by ssh; git itself is not needed")]
    from dicode.store.read import Unreadable

    needing: list[str] = []
    with suppress(Unreadable):  # told already
        needing = sorted(name for name, source in place.store.all(Source).items() if is_ssh(source.spec.url))
    if needing:
        return [Check("bad", "ssh", f"not found, and needed by {', '.join(needing)}: install openssh-client, or use https with token_env")]
    return [Check("note", "ssh", "not found; git sources by ssh cannot be fetched, those by https can")]


def is_ssh(url: str) -> bool:
    """`ssh://…` or `user@host:path`."""
    host, colon, _ = url.partition(":")
    return url.startswith("ssh://") or ("://" not in url and bool(colon) and "@" in host and "/" not in host)


def _program(name: str, cure: str, path: str | None) -> Check:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name, path=path)
    return Check("ok", name, found) if found else Check("note", name, f"not found; {cure}")


def _roles(place: Place) -> list[Check]:
    running = {lock.stem: holder for lock in sorted(place.settings.run.glob("*.lock")) if (holder := holder_of(lock))}
    if not running:
        return [Check("note", "roles", "nothing is running here: dicode up")]
    checks = [Check("ok", name, f"running, keeper pid {pid}") for name, pid in running.items()]
    missing = [role for role in ROLES if role not in running]
    missing += [] if any(name.startswith("worker-") for name in running) else ["worker"]
    return [*checks, *(Check("bad", role, f"not running: dicode {role}") for role in missing)]


def holder_of(lock: Path) -> int:
    """The pid of the dicode process that holds a role's lock; 0 when none does. The lock is not tried: that could stop a role from starting."""
    try:
        pid = int(lock.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return 0
    return pid if b"dicode" in command else 0


def _addresses(place: Place) -> list[Check]:
    try:
        hooks = (place.settings.run / "hooks.addr").read_text().strip()
    except OSError:
        return []
    return [Check("ok", "hooks", hooks)]


def _version(package: str) -> str:
    try:
        return version_of(package)
    except PackageNotFoundError:
        return "?"
