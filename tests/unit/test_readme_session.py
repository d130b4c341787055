"""The session in the README is one that a reader can have: its hashes are those of examples/."""

from __future__ import annotations

import re
from pathlib import Path

from dicode.admin.rendering import resolve
from dicode.spec.resolve import Resolved

HOME = Path(__file__).parents[2]
ROW = re.compile(r"^([a-z-]+) +(?:cron|daemon|webhook|manual)\b.* ([0-9a-f]{6}) +Synced", re.MULTILINE)


def test_the_hashes_of_the_listing_are_those_of_the_examples() -> None:
    rendered = resolve(HOME / "examples", None, name="examples", dev=False).tasks
    digests = {id: task.digest[:6] for id, task in rendered.items() if isinstance(task, Resolved)}
    assert dict(ROW.findall((HOME / "README.md").read_text())) == digests
