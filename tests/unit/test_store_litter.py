"""Sweeping beside the database: what is named by anything stays, what is young stays, the rest goes."""

from __future__ import annotations

import os
import shutil
import time
from hashlib import sha256
from pathlib import Path

import pytest

from dicode.messages.commands import Put
from dicode.messages.kinds import Config, Daemon, DesiredTask, History, Kind, Revision, Run, RunTrigger, Task, kind_of
from dicode.messages.task import TaskSpec, Trigger
from dicode.process.blobs import Bundles
from dicode.process.inputs import store_input
from dicode.process.settings import Settings
from dicode.runtime.dependencies import is_built, needs_of, remove_unused
from dicode.store.engine import Moment
from dicode.store.litter import GRACE, sweep
from dicode.store.sqlite import Sqlite
from dicode.wire.frames import encode

NOW = 2_000_000_000.0
OLD = NOW - GRACE - 1


def bundle(settings: Settings, text: str, name: str = "task.sh") -> str:
    """An old bundle, unpacked as well."""
    spec, content = b'{"name":"T","trigger":{"manual":true}}', text.encode()
    lines = f"dicode-digest/1\nspec {sha256(spec).hexdigest()}\n- {sha256(content).hexdigest()} {len(content)} {name}\n"
    digest = sha256(lines.encode()).hexdigest()
    bundles = Bundles(settings.bundles, settings.trees)
    bundles.put(digest, lines.encode(), spec, [(name, "-", content)])
    bundles.unpack(digest)
    os.utime(settings.bundles / f"{digest}.tar", (OLD, OLD))
    return digest


def file(path: Path, at: float = OLD) -> Path:
    path.write_text("x")
    os.utime(path, (at, at))
    return path


def store(settings: Settings, *objects: tuple[str, Kind], runs: tuple[Run, ...] = ()) -> None:
    at = Moment(int(NOW * 1000), 0)
    engine = Sqlite(settings.database, at)
    engine.begin()
    for key, value in objects:
        engine.objects.write((Put(kind_of(value), key, encode(value)),), at)
    for run in runs:
        engine.queue.enqueue(run, at)
    engine.commit()
    engine.close()


def test_what_anything_names_stays_and_the_rest_goes(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "data", None)
    settings.make()
    names = ("desired", "task", "daemon", "history", "queued", "nobody")
    digest = {name: bundle(settings, name) for name in names}
    queued = Run(id="r1", task="t", digest=digest["queued"], runtime="shell", trigger=RunTrigger("manual"), input_blob="i1")
    store(
        settings,
        ("s/t", DesiredTask(id="t", source="s", digest=digest["desired"])),
        ("t", Task(id="t", source="s", digest=digest["task"], spec=TaskSpec(name="T", trigger=Trigger(manual=True)))),
        ("t", Daemon(task="t", bundle=digest["daemon"])),
        ("t", History(task="t", revisions=(Revision(digest["history"], "", 0, "s"),))),
        runs=(queued,),
    )
    kept = [file(settings.logs / "r1.1.log"), file(settings.inputs / "i1"), file(settings.logs / "r9.1.log", NOW)]
    gone = [file(settings.logs / "r0.2.log"), file(settings.inputs / "i0")]
    assert sweep(settings, NOW) == 3
    assert Bundles(settings.bundles, settings.trees).digests() == {digest[name] for name in names if name != "nobody"}
    assert not (settings.trees / digest["nobody"]).exists()
    assert all(path.exists() for path in kept) and not any(path.exists() for path in gone)


def test_a_bundle_that_is_stored_again_is_young_again(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "data", None)
    settings.make()
    digest = bundle(settings, "same")
    store(settings)
    path = settings.bundles / f"{digest}.tar"
    os.utime(path, (1.0, 1.0))
    Bundles(settings.bundles, settings.trees).put(digest, b"", b"", [])
    assert path.stat().st_mtime > 1.0
    assert sweep(settings, path.stat().st_mtime + 1) == 0


def test_an_input_that_is_sent_again_is_young_again(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "data", None)
    settings.make()
    store(settings)
    name = store_input(settings.inputs, b"big")
    os.utime(settings.inputs / name, (1.0, 1.0))
    assert store_input(settings.inputs, b"big") == name
    assert sweep(settings, (settings.inputs / name).stat().st_mtime + 1) == 0
    assert (settings.inputs / name).read_bytes() == b"big"


def test_an_export_stays_while_a_task_or_a_daemon_was_started_with_it(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "data", None)
    settings.make()
    made = {name: settings.exports / (name * 40) for name in "abcd"}
    for path in made.values():
        path.mkdir(parents=True)
        os.utime(path, (OLD, OLD))
    os.utime(made["d"], (NOW, NOW))  # young: it may be named next
    store(
        settings,
        ("t", Task(id="t", source="s", set_dir=str(made["a"]))),
        ("d", Daemon(task="d", set_dir=str(made["b"]))),
    )
    sweep(settings, NOW)
    assert sorted(path.name[0] for path in settings.exports.iterdir()) == ["a", "b", "d"]


def test_logs_of_a_daemon_outlive_it_as_long_as_its_runs_would(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "data", None)
    settings.make()
    (settings.logs / "daemon").mkdir()
    store(settings, ("dicode.yaml", Config(retention_runs=5_000_000)), ("a/b", Task(id="a/b", source="s")))
    kept = [file(settings.logs / "daemon" / name) for name in ("a~b.log", "a~b.log.1", "young.log")]
    gone = [file(settings.logs / "daemon" / name, OLD - 5_000) for name in ("x.log", "x.log.1")]
    os.utime(kept[0], (1.0, 1.0))
    assert sweep(settings, NOW) == 2
    assert all(path.exists() for path in kept) and not any(path.exists() for path in gone)


def test_environments_nobody_has_asked_for_in_a_month_go_but_not_from_under_a_daemon(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "data", None)
    settings.make()
    script = "# /// script\n# dependencies = ['six']\n# ///\n"
    needs = needs_of(script.encode())
    assert needs is not None
    envs = settings.data_dir / "envs"
    for name in (needs.key, "asked", "unasked", ".half"):
        (envs / name / "bin").mkdir(parents=True)
        os.utime(envs / name, (1.0, 1.0))
    assert not is_built(envs, "asked")  # without an interpreter it is none, and it was asked for
    store(settings, ("d", Daemon(task="d", pid=1, bundle=bundle(settings, script, "task.py"))))
    assert sweep(settings, time.time()) == 2
    assert {path.name for path in envs.glob("*/")} == {needs.key, "asked"}


def test_an_environment_whose_removal_was_cut_short_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "key" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    os.utime(tmp_path / "key", (1.0, 1.0))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        remove_unused(tmp_path, 2.0, lambda: ())
    assert not is_built(tmp_path, "key")
    assert remove_unused(tmp_path, time.time() + 1, lambda: ()) == 1 and not list(tmp_path.glob("*/"))
