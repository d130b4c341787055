"""What the source-controller does for all sources together: say once that the store refuses, and write when the remotes were last reached."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dicode.messages.commands import Put
from dicode.messages.kinds import ConfigSource, Source
from dicode.process.logs import Log
from dicode.process.settings import Settings
from dicode.source.controller import SYNCED, SourceController
from dicode.wire.client import Wire
from dicode.wire.frames import StoreAway, StoreFailed, decode_body


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def controller(tmp_path: Path, said: list[str]) -> SourceController:
    return SourceController(cast(Wire, None), Settings(tmp_path, None), cast(Log, SimpleNamespace(say=said.append)))


def test_a_refusal_is_said_once_for_each_source_until_a_write_was_taken(
    controller: SourceController, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full, away = StoreFailed("database or disk is full"), StoreAway("no answer")
    answers = {"jobs": [full, full, away, full, None, full], "infra": [full, full]}

    async def work_on(key: str) -> None:
        error = answers[key].pop(0)
        if error is not None:
            raise error

    monkeypatch.setattr(controller, "_work_on", work_on)
    for key in [key for key, those in answers.items() for _ in those]:
        asyncio.run(controller._work(key))
    words = "the store did not take it, and is asked again: database or disk is full"
    assert said == [f"source/jobs: {words}", f"source/jobs: {words}", f"source/infra: {words}"]


def test_when_the_remotes_were_reached_is_written_for_all_sources_at_once_and_nothing_else_of_them(
    controller: SourceController, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {
        name: Source(name=name, type="git", spec=ConfigSource(name=name), status="ok", tasks=3, synced_at=1_000)
        for name in ("polled", "pushed", "silent", "folder")
    }
    reached = {"polled": 31_000, "pushed": 62_000, "silent": 1_000, "folder": 0, "begun": 5_000}
    batches: list[tuple[Any, ...]] = []

    async def write(*ops: Any) -> None:
        batches.append(ops)

    mirror = SimpleNamespace(get=lambda kind, name: written.get(name), rev=lambda kind, name: 7, write=write)
    monkeypatch.setattr(controller, "mirror", mirror)
    monkeypatch.setattr(controller, "_sources", {name: SimpleNamespace(synced_at=at) for name, at in reached.items()})
    assert asyncio.run(controller._work(SYNCED)) == 60
    (ops,) = batches
    assert all(isinstance(op, Put) and op.expect == 7 for op in ops)
    told = [decode_body(op.kind, op.body) for op in ops]
    assert all(isinstance(each, Source) for each in told)
    assert [(each.name, each.synced_at, each.status, each.tasks) for each in cast(list[Source], told)] == [
        ("polled", 31_000, "ok", 3),
        ("pushed", 62_000, "ok", 3),
    ]
    assert said == []
