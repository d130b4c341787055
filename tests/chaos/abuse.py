"""Inputs nobody should write and somebody will: parts A (task.yaml) and B (cron) of the abuse list, RELIABILITY 4.5, as task folders.

Each is wrong in itself, so its task must say so with file and line. What dicode accepts on purpose (an emoji in a name,
`A` beside `a`) is not here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

Make = Callable[[Path], None]  # fills the folder of one task
GOOD = "name: x\nruntime: shell\ntrigger: {manual: true}\n"
LAUGHS = "a: &a [ha, ha]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}, *{before}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "base: &base {a: 1}\n" + "".join(f"m{number}: {{<<: *base}}\n" for number in range(500))


def yaml(text: str | bytes) -> Make:
    """This task.yaml, beside a script."""

    def make(folder: Path) -> None:
        (folder / "task.sh").write_text("true\n")
        (folder / "task.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())

    return make


def field(more: str) -> Make:
    """A good task.yaml and this line."""
    return yaml(GOOD + more + "\n")


def cron(expression: str, more: str = "") -> Make:
    return yaml(f"name: x\nruntime: shell\ntrigger: {{cron: {expression}{more}}}\n")


def special(make_yaml: Callable[[Path], object]) -> Make:
    """task.yaml is no file."""

    def make(folder: Path) -> None:
        (folder / "task.sh").write_text("true\n")
        make_yaml(folder / "task.yaml")

    return make


def script(make_script: Callable[[Path], object]) -> Make:
    """A good task.yaml and a script that is none."""

    def make(folder: Path) -> None:
        make_script(folder / "task.sh")
        (folder / "task.yaml").write_text(GOOD)

    return make


def bound(path: Path) -> None:
    """A socket; its own path may be too long to bind to."""
    with socket.socket(socket.AF_UNIX) as listener:
        short = path.parents[2] / "sock"
        listener.bind(str(short))
        short.rename(path)


TASKS: dict[str, Make] = {
    "a01-empty": yaml(""),
    "a02-dashes": yaml("---\n"),
    "a03-two-documents": yaml(GOOD + "---\n" + GOOD),
    "a04-list": yaml("- a\n- b\n"),
    "a05-nul": yaml(GOOD.encode() + b"\0"),
    "a06-utf16": yaml(GOOD.encode("utf-16")),
    "a07-no-utf8": yaml(GOOD.encode() + b"description: \xff\xfe\n"),
    "a08-tabs": yaml("name: x\ntrigger:\n\tmanual: true\n"),
    "a09-one-too-many": yaml(GOOD + "#" * (65_537 - len(GOOD))),
    "a11-laughs": yaml(LAUGHS + GOOD),
    "a12-merges": yaml(MERGES + GOOD),
    "a13-cycle": yaml("name: &a [*a]\n"),
    "a16-twice": field("name: y"),
    "a17-unknown": field("scedule: daily"),
    "a18-enabled": field("enabled: no"),
    "a19-time": cron("12:30:00"),
    "a20-int": field("timeout: " + "9" * 5000),
    "a20-hex": field("concurrency: 0x" + "f" * 60_000),
    "a21-nan": field("timeout: .nan"),
    "a21-inf": field("timeout: .inf"),
    "a21-minus": field("timeout: -1"),
    "a21-huge": field("timeout: 1e999"),
    "a21-words": field("timeout: 5 minutes"),
    "a21-iso": field("timeout: PT5M"),
    "a22-python": field('description: !!python/object/apply:os.system ["touch /tmp/dicode-was-here"]'),
    "a24-bidi": yaml('name: "a\u202eb"\ntrigger: {manual: true}\n'),
    "a24-no-name": yaml("runtime: shell\ntrigger: {manual: true}\n"),
    "a25-folder": special(Path.mkdir),
    "a25-fifo": special(os.mkfifo),
    "a25-socket": special(bound),
    "a25-zero": special(lambda path: path.symlink_to("/dev/zero")),
    "a25-shadow": special(lambda path: path.symlink_to("/etc/shadow")),
    "a25-dangling": special(lambda path: path.symlink_to("nowhere")),
    "a26-missing": script(lambda path: None),
    "a26-folder": script(Path.mkdir),
    "a26-outside": script(lambda path: path.symlink_to("/bin/sh")),
    "a26-above": script(lambda path: path.symlink_to("../../x.sh")),
    "a26-fifo": script(os.mkfifo),
    "a27-equals": field("permissions: {env: [{name: 'A=B', value: x}]}"),
    "a27-nul": field('permissions: {env: [{name: "A\\0B", value: x}]}'),
    "b29-sixty": cron('"60 * * * *"'),
    "b30-never": cron('"0 0 30 2 *"'),
    "b31-six": cron('"* * * * * *"'),
    "b31-seven": cron('"* * * * * * *"'),
    "b32-random": cron('"R R * * *"'),
    "b32-hashed": cron('"H H * * *"'),
    "b33-long": cron('"' + ",".join(str(number % 60) for number in range(5000)) + ' * * * *"'),
    "b34-zero": cron('"*/0 * * * *"'),
    "b34-huge": cron('"*/99999999999 * * * *"'),
    "b35-mars": cron('"0 0 * * *"', ", timezone: Mars/Base"),
    "b35-passwd": cron('"0 0 * * *"', ", timezone: ../../etc/passwd"),
    "b36-digits": cron('"٠ ٠ * * *"'),
    "b36-nbsp": cron('"0\u00a00 * * *"'),
}

BOMBS: dict[str, Make] = {
    "a10-ten-megabytes": yaml(b"a" * 10_000_000),
    "a14-brackets": yaml("[" * 50_000),
    "a15-braces": yaml("{a: " * 16_000),
    "a15-more-braces": yaml("{a: " * 100_000),
    "a20-hex-megabytes": field("concurrency: 0x" + "f" * 2_000_000),
}


def write_all(tasks: Path, count: int) -> list[str]:
    """`count` bad tasks, over and over the list, and the bombs; gives their ids."""
    kinds = list(TASKS.items())
    wanted = {f"{kinds[n % len(kinds)][0]}-{n // len(kinds)}": kinds[n % len(kinds)][1] for n in range(count)} | BOMBS
    for id, make in wanted.items():
        folder = tasks / id
        folder.mkdir()
        make(folder)
    return list(wanted)
