"""Where things are on this machine: data folder, config file, and what lies where below them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

CONFIG_NAME = "dicode.yaml"


@dataclass(frozen=True)
class Settings:
    """Paths of one installation. `config` is None when no dicode.yaml was found: then only `up PATH` gives sources."""

    data_dir: Path
    config: Path | None
    up_paths: tuple[Path, ...] = ()  # of `dicode up PATH`, absolute
    environ: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def run(self) -> Path:
        """Locks, sockets, addresses. 0700."""
        return self.data_dir / "run"

    @property
    def database(self) -> Path:
        return self.data_dir / "dicode.db"

    @property
    def backups(self) -> Path:
        """Copies of the database, made by the store every few minutes."""
        return self.data_dir / "backups"

    @property
    def bundles(self) -> Path:
        """`<digest>.tar`, immutable."""
        return self.data_dir / "bundles"

    @property
    def trees(self) -> Path:
        """Bundles unpacked for running, by digest, read-only."""
        return self.data_dir / "trees"

    @property
    def logs(self) -> Path:
        """Run and daemon logs."""
        return self.data_dir / "logs"

    @property
    def exports(self) -> Path:
        """Folders of commits as tasks see them through TASK_SET_DIR, by tree id, read-only; made when the first is needed."""
        return self.data_dir / "exports"

    @property
    def state(self) -> Path:
        """DICODE_STATE_DIR of each task."""
        return self.data_dir / "state"

    @property
    def inputs(self) -> Path:
        """Inputs of runs that are too big for a frame, by SHA-256."""
        return self.data_dir / "inputs"

    def make(self) -> None:
        """Make the folders. Raises OSError when the place is not writable."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(self.data_dir.iterdir()):
            (self.data_dir / ".gitignore").write_text("*\n")  # for git, and for `dicode render` of a folder we lie in
        for folder in (self.run, self.bundles, self.trees, self.logs, self.state, self.inputs):
            folder.mkdir(mode=0o700, exist_ok=True)


def find_config(explicit: str | None, environ: dict[str, str], cwd: Path) -> Path | None:
    """The config file, by the order of SPEC 2: -c, DICODE_CONFIG, ./dicode.yaml, ~/.config/dicode/dicode.yaml.

    Raises FileNotFoundError when one was named and is not there.
    """
    named = explicit or environ.get("DICODE_CONFIG")
    if named:
        path = (cwd / named).absolute()
        if not path.is_file():
            raise FileNotFoundError(f"{named}: no such file; `dicode init` writes one, `dicode up PATH` needs none")
        return path
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".config")
    for path in (cwd / CONFIG_NAME, home / "dicode" / CONFIG_NAME):
        if path.is_file():
            return path.absolute()
    return None


def load(explicit: str | None = None) -> Settings:
    """Settings of this process from -c, the environment and dicode.yaml.

    Raises FileNotFoundError, and spec.config.BadConfig when the file cannot be read and DICODE_DATA_DIR does not say where data lives.
    """
    environ = dict(os.environ)  # noqa: TID251  # the one place that reads it
    config = find_config(explicit, environ, Path.cwd())
    up_paths = tuple(Path(p) for p in environ.get("DICODE_UP_PATHS", "").split(os.pathsep) if p)
    if environ.get("DICODE_DATA_DIR"):
        data_dir = Path(environ["DICODE_DATA_DIR"]).expanduser().absolute()
    elif config is not None:
        from dicode.spec.config import data_dir_of  # YAML costs 20 ms: only whoever needs it

        written = data_dir_of(config.read_bytes(), str(config))
        data_dir = (config.parent / Path(written).expanduser()).absolute() if written else default_data_dir()
    else:
        data_dir = default_data_dir()
    return Settings(data_dir, config, up_paths, environ)


def default_data_dir() -> Path:
    import platformdirs  # 5 ms, and rarely needed

    return Path(platformdirs.user_data_dir("dicode", appauthor=False))
