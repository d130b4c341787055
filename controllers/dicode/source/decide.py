"""What the source-controller makes of what it saw. Pure: facts in, what should be written out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from dicode.messages.fault import Fault
from dicode.messages.kinds import Condition, ConfigSource, DesiredTask, Source
from dicode.source.state import Burst, Reading, Territory
from dicode.source.touched import Touched
from dicode.spec import condition
from dicode.spec.ignore import IGNORE_FILES, is_noise
from dicode.spec.names import is_segment
from dicode.spec.task import FILE

TWICE = 1.0  # seconds between two complete readings, both without a task, that remove it
HELD = 60.0  # seconds the same takes when too much would be lost at once
