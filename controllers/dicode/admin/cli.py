"""The CLI's entry: find the command, import only its module, turn whatever ends it into one line and an exit code.

A command is a function that gives its exit code (None: 0). `COMMANDS` says in which module it lives, so that
`dicode get tasks` pays for nothing but itself: each command is a typer app of its own, made when it is asked for.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from dicode.admin.errors import Stop, Usage
from dicode.process.logs import clean, complain


class Command(NamedTuple):
    """`dicode.admin.<module>`, attribute `name`: a function, or the typer app of a family of commands."""

    group: str
    module: str
    name: str
    line: str


SEE, DO, WRITE, MACHINE = "See what is", "Change what is", "Write tasks, nothing need run", "This machine"
COMMANDS: dict[str, Command] = {
    "get": Command(SEE, "get", "get", "list sources, tasks, runs, daemons, schedules, routes, workers, deliveries, events"),
    "describe": Command(SEE, "describe", "describe", "all of one task, source, run or daemon, with conditions and events"),
    "events": Command(SEE, "get", "events", "what happened; --watch prints the stream"),
    "logs": Command(SEE, "run", "logs", "what a run or a daemon printed; -f follows"),
    "next": Command(SEE, "trace", "next_fires", "the next fires of a cron task"),
    "history": Command(SEE, "trace", "history", "the digests a task has had, and where they came from"),
    "diff": Command(SEE, "trace", "diff", "what changed between two digests of a task"),
    "plan": Command(SEE, "plan", "plan", "what a working copy or a ref would change; exit 3 if anything"),
    "explain": Command(SEE, "trace", "explain", "which files made a task's digest; --manifest prints what is hashed"),
    "top": Command(SEE, "machine", "top", "cpu, memory and files of the daemons"),
    "run": Command(DO, "run", "run", "run a task now and follow its log"),
    "cancel": Command(DO, "run", "cancel", "end a run"),
    "replay": Command(DO, "run", "replay", "run again what a run was given"),
    "suspend": Command(DO, "change", "suspend", "no new runs of a task, its daemon stopped; or freeze a source"),
    "resume": Command(DO, "change", "resume", "undo suspend"),
    "restart": Command(DO, "change", "restart", "replace a daemon's process"),
    "source": Command(DO, "source", "app", "add, remove, list, sync, dev, confirm"),
    "init": Command(WRITE, "author", "init", "write a first task to start from"),
    "validate": Command(WRITE, "author", "validate", "check a task folder or a source; shows every fault"),
    "render": Command(WRITE, "author", "render", "what a folder resolves to: ids, digests, specs"),
    "schema": Command(WRITE, "author", "schema", "JSON Schema of task.yaml, for an editor"),
    "relay": Command(MACHINE, "relay", "app", "serve: be the public end for machines behind NAT"),
    "doctor": Command(MACHINE, "machine", "doctor", "what works here and what does not"),
    "version": Command(MACHINE, "machine", "version", "the version of dicode"),
    "completion": Command(MACHINE, "machine", "completion", "a completion script for bash, zsh or fish"),
}
ROLES = {
    "up": "start everything in this terminal; `dicode up PATH` needs no dicode.yaml",
    "ROLE": "one process, for a Procfile manager: store, source-controller, reconciler, trigger-engine, supervisor, worker",
}


class Common(NamedTuple):
    """What every command takes, wherever it stands on the line."""

    config: str | None
    debug: bool
    rest: list[str]


def split_common(argv: list[str]) -> Common:
    """Take `-c FILE` and `--debug` out of the line, up to a `--`. Raises Usage."""
    config: str | None = None
    debug = False
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in ("-c", "--config"):
            config = next(words, None)
            if config is None:
                raise Usage(f"{word} needs a file")
        elif word.startswith("--config="):
            config = word.removeprefix("--config=")
        elif word == "--debug":
            debug = True
        else:
            rest.append(word)
    return Common(config, debug, rest)


def main() -> int:
    """Run the command line of this process; gives its exit code."""
    try:
        return _run(split_common(sys.argv[1:]))
    except Stop as stop:
        complain(str(stop))
        return stop.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader of our stdout has gone: nothing more to say, not even at exit
        return 141
    except Exception as error:  # the one broad catch: a person gets a line, --debug gets the trace
        if "--debug" in sys.argv:
            raise
        complain(_explained(error))
        return 1


def _run(common: Common) -> int:
    if not common.rest or common.rest[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    word, *rest = common.rest
    if word in ("--version", "-V"):
        word = "version"
    command = COMMANDS.get(word)
    if command is None:
        raise Usage(no_command(word))
    module = importlib.import_module(f"dicode.admin.{command.module}")
    code = _invoke(word, getattr(module, command.name), rest, common.config)
    sys.stdout.flush()
    return code


def _invoke(word: str, target: object, argv: list[str], config: str | None) -> int:
    """Let typer parse `argv` for this command and call it; `config` reaches it as `ctx.obj`. Raises Usage for what typer refuses."""
    import typer

    if isinstance(target, typer.Typer):
        app = target
    else:
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command(word, no_args_is_help=False)(target)  # type: ignore[type-var]  # a function of some module
    command = typer.main.get_command(app)
    for each in (command, *getattr(command, "commands", {}).values()):
        take_words_as_they_are(each.get_params(typer.Context(each)))
    try:
        code = command.main(argv, prog_name=f"dicode {word}", standalone_mode=False, obj=config)
    except typer.TyperException as error:  # typer carries its own click: the base of all its exceptions
        raise Usage(f"{usage_line(error.format_message())} (dicode {word} --help)") from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit:
        raise BrokenPipeError from None  # the only thing for which typer exits by itself
    return int(code or 0)


class AsTyped:
    """What typer is to do with a word or a flag of the command line where no other type is wanted: nothing."""

    def coerce(self, value: object, **_: object) -> object:
        return value


def take_words_as_they_are(params: Iterable[Any]) -> None:
    """Keep typer from asking pydantic whether a text is a text: importing it is 60 ms, a third of `dicode get tasks`.

    It sets what typer's own `get_runtime_param` would keep on first use; where that has changed, it is only slow again.
    """
    for param in params:
        if param.type_descriptor.annotation in (str, bool) and not param.multiple and param.nargs == 1:
            param._runtime_param = AsTyped()


def _explained(error: Exception) -> str:
    """Errors of our own are sentences; others need their name."""
    text = " ".join(str(error).split())
    if type(error).__module__.startswith("dicode.") or isinstance(error, OSError):
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


def usage_line(text: str) -> str:
    """What typer says, the way we say things: on one line, small letter first, no full stop."""
    line = " ".join(clean(part.strip()) for part in text.splitlines()).strip().rstrip(".")
    return line[:1].lower() + line[1:]


def no_command(word: str) -> str:
    from dicode.admin.nouns import nearest

    near = nearest(word, [*COMMANDS, "up", "store", "source-controller", "reconciler", "trigger-engine", "supervisor", "worker"])
    return f"no command {word!r}, did you mean {near!r}?" if near else f"no command {word!r}; `dicode --help` lists them"


def help_text() -> str:
    """The page of `dicode --help`."""
    lines = ["dicode: folders of task.yaml + script, watched, fired and kept running.", "", "Run it", *_columns(ROLES)]
    for group in (SEE, DO, WRITE, MACHINE):
        lines += ["", group, *_columns({name: command.line for name, command in COMMANDS.items() if command.group == group})]
    lines += ["", "Every command takes -c FILE (the dicode.yaml), --debug and --help.", "First steps: dicode init hello && dicode up"]
    return "\n".join(lines)


def _columns(entries: dict[str, str]) -> list[str]:
    return [f"  {name:<10}  {line}" for name, line in entries.items()]
