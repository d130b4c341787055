"""What `dicode init` writes: a task of each runtime that runs as it is. Pure but for looking at the path's text."""

from __future__ import annotations

from pathlib import Path

from dicode.spec.names import is_segment

RUNTIMES = ("python", "shell", "deno")

_TASK = """\
apiVersion: dicode/v1
kind: Task
name: {title}
description: Says hello. Replace me.
trigger:
  manual: true # or cron: "*/5 * * * *", webhook: /hooks/{name}, daemon: true
params:
  who: World
timeout: 60s
"""
_SCRIPTS = {
    "python": (
        "task.py",
        """\
def main():
    print(f"Hello, {params['who']}!")
    return {"greeted": params["who"]}
""",
    ),
    "shell": (
        "task.sh",
        """\
#!/bin/sh
set -eu
echo "Hello, $DICODE_PARAM_WHO!"
echo "{\\"greeted\\": \\"$DICODE_PARAM_WHO\\"}" > "$DICODE_RESULT"
""",
    ),
    "deno": (
        "task.ts",
        """\
export default async function main({ params }: { params: any }) {
  console.log(`Hello, ${params.get("who")}!`);
  return { greeted: params.get("who") };
}
""",
    ),
}
_CONFIG = """\
# What dicode watches. It is read again whenever it is saved.
data_dir: .dicode # database, bundles, logs; keep it out of git
sources:
  - name: tasks
    path: . # each folder with a task.yaml is a task; its id is the path
"""


def files(name: str, runtime: str) -> dict[str, str]:
    """File name → text of a new task called `name`."""
    script, text = _SCRIPTS[runtime]
    return {"task.yaml": _TASK.format(name=name, title=name.replace("-", " ").capitalize()), script: text}


def config() -> str:
    """A dicode.yaml that watches its own folder."""
    return _CONFIG


def bad_name(name: str) -> str:
    """Why this cannot be a task's id; "" when it can."""
    return "" if is_segment(name) else f"{name!r} cannot be a task's id: letters, digits, . _ - and first a letter or digit, at most 63"


def is_watched(folder: Path) -> bool:
    """Whether the dicode.yaml that `init` writes would find it: below the working directory."""
    return not folder.is_absolute() and ".." not in folder.parts
