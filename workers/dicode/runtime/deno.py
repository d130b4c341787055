"""What a deno task may do, as flags of deno: everything not granted is refused by deno itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from dicode.messages.task import Permissions

OURS = ("DICODE_PARAMS", "DICODE_RUN_ID", "DICODE_SOCKET", "DICODE_TASK_ID", "DICODE_TOKEN")  # what shim.ts asks for


def permission_flags(
    permissions: Permissions | None,
    task_dir: Path,
    state_dir: Path,
    variables: Mapping[str, str],
    socket: Path | None,
) -> tuple[str, ...]:
    """Flags for `deno run`. `net` absent is everything, all else absent is nothing; its own folder may be read, its state written."""
    granted = permissions or Permissions()
    read, write = [str(task_dir), str(state_dir)], [str(state_dir)]
    for grant in granted.fs or ():
        path, mode = grant.path, grant.permission or "r"
        if "r" in mode:
            read.append(path)
        if "w" in mode:
            write.append(path)
    if socket is not None:
        read.append(str(socket))
        write.append(str(socket))
    names = sorted({*variables, *OURS, *(grant.name for grant in granted.env or ())})  # a granted one that is not set reads as unset
    net = granted.net
    flags = [f"--allow-read={_joined(read)}", f"--allow-write={_joined(write)}", f"--allow-env={_joined(names)}"]
    if net is None or "*" in net:
        flags.append("--allow-net")
    elif net or socket is not None:
        flags.append(f"--allow-net={_joined([*net, *([f'unix:{socket}'] if socket is not None else [])])}")
    for name, items in (("run", granted.run), ("sys", granted.sys)):
        if items:
            flags.append(f"--allow-{name}" if "*" in items else f"--allow-{name}={_joined(items)}")
    return tuple(flags)


def _joined(items: Iterable[str]) -> str:
    return ",".join(item.replace(",", ",,") for item in items)  # deno's own escape of a comma
