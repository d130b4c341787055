"""dicode.yaml as it is applied: the last good one, whatever stands in the file now."""

from __future__ import annotations

import os
from typing import NamedTuple

import msgspec

from dicode.messages.kinds import Condition, Config
from dicode.process.clock import wall_ms
from dicode.process.settings import Settings
from dicode.source.reading import shown
from dicode.spec import yaml
from dicode.spec.condition import carried
from dicode.spec.config import parse_config

CONFIG_KEY = "dicode.yaml"
RESTART = ("data_dir", "store")  # what only a restart applies
MAX_CONFIG = 1024 * 1024 + 1  # bytes; one more than is allowed, so that it shows


class NoConfig(Exception):
    """There is no good dicode.yaml to begin with; the text names file, line and what would be right."""


class ReadConfig(NamedTuple):
    """What to write as Config, and what to tell people."""

    config: Config
    lines: tuple[str, ...] = ()


class Configuration:
    """`config` is the last good one."""

    def __init__(self, settings: Settings) -> None:
        self.config = Config()
        self._file = settings.config
        self._home = settings.environ.get("HOME", "/")
        self._shown = shown(str(settings.config), os.path.realpath(os.getcwd()))
        self._data: bytes | None = None  # what was looked at last
        self._good = False
        self._at_start: dict[str, str | None] = {}

    def read(self, present: Config | None) -> ReadConfig | None:
        """Look at the file; None when it says what it said before. `present`: what is written. Blocks. Raises NoConfig."""
        if self._file is None:
            again, self._good = self._good, True
            return None if again else ReadConfig(Config())
        try:
            with self._file.open("rb") as file:
                data = file.read(MAX_CONFIG)
        except OSError as error:
            return self._broken(present, b"", f"{self._shown}: {error.strerror}")
        if data == self._data:
            return None
        if self._good and not data.strip() and self.config.sources:
            return self._broken(present, data, f"{self._shown}:1:1: the file is empty")
        return self._parsed(present, data)

    def _parsed(self, present: Config | None, data: bytes) -> ReadConfig:
        assert self._file is not None
        parsed = parse_config(data, self._shown, base_dir=str(self._file.parent), home=self._home)
        if parsed.config is None:
            broken = self._broken(present, data, str(parsed.faults[0]))
            assert broken is not None, "these bytes were not seen before"
            return broken
        late = self._late(data)
        found = [Condition("RestartNeeded", True, "Changed", f"{' and '.join(late)} changed: restart dicode to apply it")] if late else []
        if parsed.not_built:
            found.append(Condition("NotImplemented", True, "NotInThisRelease", ", ".join(parsed.not_built)))
        lines = [f"{self._shown}: {condition.message}" for condition in found if condition.type == "RestartNeeded"]
        applied = f"{self._shown} applied" if self._good else ""
        self._data, self._good = data, True
        self.config = msgspec.structs.replace(parsed.config, file=str(self._file))
        return ReadConfig(self._with(present, found), tuple(filter(None, (applied, *lines))))

    def _broken(self, present: Config | None, data: bytes, why: str) -> ReadConfig | None:
        """The last good one stays: ours, or after a restart the one that is written."""
        if not self._good and present is not None and present.file == str(self._file):
            self.config, self._good = present, True
        if not self._good:
            raise NoConfig(why)
        if data == self._data:
            return None
        self._data = data
        return ReadConfig(self._with(present, [Condition("Valid", False, "BadConfig", why)]), (f"dicode.yaml kept as it was: {why}",))

    def _with(self, present: Config | None, found: list[Condition]) -> Config:
        conditions = carried(present.conditions if present else (), found, 0, wall_ms())
        return msgspec.structs.replace(self.config, conditions=conditions)

    def _late(self, data: bytes) -> list[str]:
        """What changed since the start and is not applied live."""
        root = yaml.read(data, self._shown, yaml.CONFIG).root
        items = root.items if isinstance(root, yaml.Mapping) else {}
        written = {key: node.text if isinstance(node := items.get(key), yaml.Scalar) else None for key in RESTART}
        self._at_start = self._at_start or dict(written)
        return [key for key in RESTART if written[key] != self._at_start[key]]
