"""Fixtures of all tests that start processes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.system import System, make_removable


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data folder with a short name (the name of a socket has 107 bytes), removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="dic", dir="/tmp"))
    yield folder
    make_removable(folder)
    shutil.rmtree(folder)


@pytest.fixture
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    """An installation of its own. When the test fails, what its processes printed is shown."""
    system = System()
    try:
        yield system
    finally:
        said = system.said()
        if said:
            request.node.add_report_section("teardown", "processes", said[-20_000:])
        system.close()
