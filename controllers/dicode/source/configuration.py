"""dicode.yaml as it is applied: the last good one, whatever stands in the file now."""

from __future__ import annotations

import os
from pathlib import Path
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
    """What should be written as Config, and what to tell people."""

    config: Config
    lines: tuple[str, ...] = ()


class Configuration:
    """`config` is the last good one."""

    def __init__(self, settings: Settings) -> None:
        self.config = Config()
        self._file = settings.config
        self._home = settings.environ.get("HOME", "/")
        self._shown = shown(str(settings.config), os.path.realpath(os.getcwd()))
        self._seen: bytes | str | None = None  # what was looked at last, or why it could not be
        self._good = False
        self._found: list[Condition] = []
        self._at_start: dict[str, str | None] = {}

    def read(self, present: Config | None) -> ReadConfig:
        """Look at the file. `present`: what is written. Blocks. Raises NoConfig when there is nothing good to begin with."""
        if self._file is None:
            return ReadConfig(Config())
        data = self._data(self._file)
        if data == self._seen:
            return ReadConfig(self._with(present))
        first, self._seen = not self._good, data
        why = self._refused(data, self._file)
        if why:
            self._keep(present, why)
            self._found = [Condition("Valid", False, "BadConfig", why)]
            lines: tuple[str, ...] = (f"dicode.yaml kept as it was: {why}",)
        else:
            late = tuple(f"{self._shown}: {each.message}" for each in self._found if each.type == "RestartNeeded")
            lines = () if first else (f"{self._shown} applied", *late)
        return ReadConfig(self._with(present), lines)

    def _data(self, path: Path) -> bytes | str:
        try:
            with path.open("rb") as file:
                return file.read(MAX_CONFIG)
        except OSError as error:
            return f"{self._shown}: {error.strerror}"

    def _refused(self, data: bytes | str, path: Path) -> str:
        """Apply it, or say why not."""
        if isinstance(data, str):
            return data
        if self._good and not data.strip() and self.config.sources:
            return f"{self._shown}:1:1: the file is empty"  # what a crash leaves of a save; who wants no sources writes `sources: []`
        parsed = parse_config(data, self._shown, base_dir=str(path.parent), home=self._home)
        if parsed.config is None:
            return str(parsed.faults[0])
        self.config, self._good = msgspec.structs.replace(parsed.config, file=str(path)), True
        late = self._late(data)
        self._found = [Condition("RestartNeeded", True, "Changed", f"{' and '.join(late)} changed: restart dicode to apply it")] if late else []
        if parsed.not_built:
            self._found.append(Condition("NotImplemented", True, "NotInThisRelease", ", ".join(parsed.not_built)))
        return ""

    def _keep(self, present: Config | None, why: str) -> None:
        """The last good one stays: ours, or after a restart the one that is written."""
        if not self._good and present is not None and present.file == str(self._file):
            self.config, self._good = present, True
        if not self._good:
            raise NoConfig(why)

    def _with(self, present: Config | None) -> Config:
        conditions = carried(present.conditions if present else (), self._found, 0, wall_ms())
        return msgspec.structs.replace(self.config, conditions=conditions)

    def _late(self, data: bytes) -> list[str]:
        """What changed since the start and is not applied live."""
        root = yaml.read(data, self._shown, yaml.CONFIG).root
        items = root.items if isinstance(root, yaml.Mapping) else {}
        written = {key: node.text if isinstance(node := items.get(key), yaml.Scalar) else None for key in RESTART}
        self._at_start = self._at_start or dict(written)
        return [key for key in RESTART if written[key] != self._at_start[key]]
