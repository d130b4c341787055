"""The contract's own cases, black box, through the real command."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
CLI = [sys.executable, "-m", "dicode"]


def _checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conformance_check", HERE / "check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _cases() -> list[Any]:
    found = [case for file in sorted(HERE.glob("*.yaml")) for case in yaml.safe_load_all(file.read_text())]
    return [pytest.param(case, id=case["name"]) for case in found]


@pytest.mark.process
@pytest.mark.parametrize("case", _cases())
def test_the_contract_holds(case: dict[str, Any]) -> None:
    assert _checker().check(CLI, case) == []
