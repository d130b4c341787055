"""`python -P main.py task.py`: run one python task in a fresh interpreter, which may be any with nothing of ours installed."""

import importlib.machinery
import importlib.util
import os
import sys


def _make_importable(folder):  # type: ignore[no-untyped-def]  # runs under interpreters that know none of our types
    """`dicode.sdk` from this folder, and nothing else of where it lies: that may be a whole site-packages."""
    package = importlib.machinery.ModuleSpec("dicode", None, is_package=True)
    package.submodule_search_locations = []
    sys.modules["dicode"] = importlib.util.module_from_spec(package)
    found = importlib.util.spec_from_file_location("dicode.sdk", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder])
    assert found is not None and found.loader is not None
    sdk = importlib.util.module_from_spec(found)
    sys.modules["dicode.sdk"] = sdk
    vars(sys.modules["dicode"])["sdk"] = sdk
    found.loader.exec_module(sdk)


if __name__ == "__main__":
    _make_importable(os.path.dirname(os.path.abspath(__file__)))  # type: ignore[no-untyped-call]
    from dicode.sdk.entry import run_task

    sys.exit(run_task(os.path.abspath(sys.argv[1])))
