"""The command `dicode`: decides who it is before anything heavy is imported.

`dicode <role>` and `dicode up` are keepers (6 MB); started by one, `dicode <role>` is the role itself; all else is the CLI.
"""

from __future__ import annotations

import os
import sys

from dicode.process.keeper import KEEPER_FD, ROLES

EX_USAGE = 2
_DOES = {
    "up": "start every process here and restart any that dies; Ctrl-C stops them all",
    "store": "keep the truth and publish what changes",
    "source-controller": "read files and git: what should be",
    "reconciler": "admit tasks into the registry",
    "trigger-engine": "fire tasks: schedules, webhooks, chains",
    "supervisor": "keep the daemons among the tasks running",
    "worker": "execute runs; start as many as you like",
}
_OPTIONS = {
    "-c": ("-c, --config FILE", "use this dicode.yaml (else DICODE_CONFIG, ./dicode.yaml, ~/.config/dicode/dicode.yaml)"),
    "--log-format": ("--log-format text|json", "how log lines look; default text"),
    "--debug": ("--debug", "say more, and show stack traces"),
    "--workers": ("--workers N", "how many workers; default 1"),
    "--keep-daemons": ("--keep-daemons", "leave daemons running when told to stop; the next start takes them over"),
    "--labels": ("--labels a,b", "claim runs that ask for these labels too"),
}
_ALIASES = {"--config": "-c"}
_COMMON = ("-c", "--log-format", "--debug")
_FLAGS = ("--debug", "--keep-daemons")
_OWN = {"up": ("--workers",), "supervisor": ("--keep-daemons",), "worker": ("--labels",)}


class Usage(Exception):
    """The command line is wrong; the text says how."""


def main() -> int:
    """Gives the exit code."""
    environ = dict(os.environ)  # noqa: TID251  # before settings may be imported
    word, argv = _word_first(sys.argv[1:])
    if word in ROLES and KEEPER_FD in environ:
        from dicode.process.role import start

        return start(word, ROLES[word], argv)
    if word in ROLES or word == "up":
        return _keep(word, argv, environ)
    from dicode.admin.cli import main as people

    return people()


def _word_first(argv: list[str]) -> tuple[str, list[str]]:
    """The command and the rest, also of `dicode -c FILE up`."""
    at = 0
    while at < len(argv) and argv[at] in ("-c", "--config", "--log-format", "--debug"):
        at += 1 if argv[at] in _FLAGS else 2
    return (argv[at], argv[:at] + argv[at + 1 :]) if at < len(argv) else ("", argv)


def _keep(word: str, argv: list[str], environ: dict[str, str]) -> int:
    from dicode.process import keeper
    from dicode.process.logs import complain

    try:
        options, paths = parse(word, argv)
        if "--help" in options:
            print(help_of(word))
            return 0
        environ = environ | environment(options, paths, environ)
        wards = [keeper.Ward(role, args) for role, args in roles(word, options)]
    except Usage as error:
        complain(f"{error}; see `dicode {word} --help`")
        return EX_USAGE
    return keeper.keep(wards, environ)


def parse(word: str, argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options by their first name, and the words that are none. Raises Usage. No argparse: it would be a sixth of our memory."""
    options: dict[str, str] = {}
    paths: list[str] = []
    left = iter(argv)
    for item in left:
        name, equals, value = item.partition("=") if item.startswith("--") else (item[:2], item[2:], item[2:])
        name = _ALIASES.get(name, name)
        if item in ("-h", "--help"):
            options["--help"] = ""
        elif item == "--":
            paths.extend(left)
        elif not item.startswith("-") or item == "-":
            paths.append(item)
        elif name not in (*_COMMON, *_OWN.get(word, ())):
            raise Usage(f"unknown option {item.partition('=')[0]}")
        elif name in _FLAGS:
            if equals:
                raise Usage(f"{name} takes no value")
            options[name] = ""
        else:
            given = value if equals else next(left, None)
            if given is None:
                raise Usage(f"{name} needs a value")
            options[name] = given
    if paths and word != "up" and "--help" not in options:
        raise Usage(f"`dicode {word}` takes no {paths[0]!r}")
    return options, paths


def environment(options: dict[str, str], paths: list[str], environ: dict[str, str]) -> dict[str, str]:
    """What the roles are told by their environment. Raises Usage when a file or folder is not there."""
    told: dict[str, str] = {}
    if "-c" in options:
        told["DICODE_CONFIG"] = os.path.abspath(options["-c"])
    elif environ.get("DICODE_CONFIG"):
        told["DICODE_CONFIG"] = os.path.abspath(environ["DICODE_CONFIG"])
    if "DICODE_CONFIG" in told and not os.path.isfile(told["DICODE_CONFIG"]):
        raise Usage(f"{options.get('-c') or environ['DICODE_CONFIG']}: no such file; `dicode init` writes one, `dicode up PATH` needs none")
    for path in paths:
        if not os.path.exists(path):
            raise Usage(f"{path}: no such folder")
        if os.pathsep in path:
            raise Usage(f"{path}: a path here may not contain {os.pathsep!r}; name it in dicode.yaml")
        if not os.path.abspath(path).isprintable():
            _check_telling(path)
    if paths:
        told["DICODE_UP_PATHS"] = os.pathsep.join(os.path.abspath(path) for path in paths)
    if "--log-format" in options:
        if options["--log-format"] not in ("text", "json"):
            raise Usage(f"--log-format is text or json, not {options['--log-format']!r}")
        told["DICODE_LOG_FORMAT"] = options["--log-format"]
    if "--debug" in options:
        told["DICODE_DEBUG"] = "1"
    for name in ("DICODE_STOP_TIMEOUT", "DICODE_WATCHDOG"):
        if not environ.get(name, "1").replace(".", "", 1).isdecimal():
            raise Usage(f"{name} is a number of seconds, not {environ[name]!r}")
    return told


def _check_telling(path: str) -> None:
    """Raises Usage for one that no message could name."""
    from dicode.spec.names import NOT_TELLABLE, is_tellable, speakable  # a keeper needs it for strange names only

    if not is_tellable(os.path.abspath(path)):
        raise Usage(f"{speakable(path)}: {NOT_TELLABLE}")


def roles(word: str, options: dict[str, str]) -> list[tuple[str, list[str]]]:
    """The roles to keep, with their own arguments. Raises Usage."""
    if word != "up":
        own = [item for name in _OWN.get(word, ()) if name in options for item in ((name,) if name in _FLAGS else (name, options[name]))]
        return [(word, own)]
    count = options.get("--workers", "1")
    if not count.isascii() or not count.isdigit() or int(count) > 256:
        raise Usage(f"--workers is a number from 0 to 256, not {count!r}")
    return [(role, []) for role in ROLES for _ in range(int(count) if role == "worker" else 1)]


def help_of(word: str) -> str:
    names = (*_OWN.get(word, ()), *_COMMON)
    shown = [*(_OPTIONS[name] for name in names), ("-h, --help", "show this")]
    width = max(len(name) for name, _ in shown)
    lines = [f"usage: dicode {word}{' [PATH]...' if word == 'up' else ''} [options]", "", f"{_DOES[word][0].upper()}{_DOES[word][1:]}.", ""]
    if word == "up":
        lines += ["Each PATH becomes a source for this run and needs no dicode.yaml.", ""]
    return "\n".join([*lines, *(f"  {name:<{width}}  {text}" for name, text in shown)])
