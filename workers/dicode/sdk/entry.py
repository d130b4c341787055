"""Run a python task: its file as `__main__`, then its `main`, and hand the result back. Standard library only."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import sys
import traceback
from types import ModuleType, TracebackType
from typing import Any

from dicode.sdk.names import ALL, NAMES
from dicode.sdk.session import SdkError

_ABSENT = object()
_OURS = os.path.dirname(os.path.abspath(__file__))


def run_task(script: str) -> int:
    """The exit code of the task. What goes wrong is told on stderr, with the task's own frames only."""
    code = 0
    try:
        _give_back(_run(script))
    except SystemExit as error:
        code = _exit_code(error)
    except BaseException as error:  # whatever a task raises ends the task, and is its author's to read
        _tell(error)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 1
    return code


def _run(script: str) -> Any:
    """Run the file; the value of `main`, of the global `result`, or _ABSENT."""
    with open(script, "rb") as file:
        source = file.read()
    module = ModuleType("__main__")
    module.__file__ = script
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    sys.argv = [script]
    sys.path.insert(0, os.path.dirname(script))
    names = module.__dict__
    for name in ALL:
        names[name] = NAMES.value(name)
    tree = ast.parse(source, script)
    exec(compile(tree, script, "exec", dont_inherit=True), names)
    main = names.get("main")
    if callable(main) and getattr(main, "__module__", "__main__") == "__main__" and not _starts_itself(tree):
        value = main(**_arguments(main))
        return asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value
    return names.get("result", _ABSENT)


def _starts_itself(tree: ast.Module) -> bool:
    """Whether the file has the usual `if __name__ == "__main__":`; then it called its main already."""
    for node in tree.body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Compare) and isinstance(node.test.left, ast.Name):
            right = node.test.comparators[0]
            if node.test.left.id == "__name__" and isinstance(right, ast.Constant) and right.value == "__main__":
                return True
    return False


def _arguments(main: Any) -> dict[str, Any]:
    """What main asks for by name. Raises TypeError naming what cannot be given."""
    wanted: dict[str, Any] = {}
    for name, parameter in inspect.signature(main).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            wanted.update({each: NAMES.value(each) for each in ALL})
        elif name in ALL and parameter.kind is not parameter.POSITIONAL_ONLY:
            wanted[name] = NAMES.value(name)
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL:
            raise TypeError(f"main() asks for {name!r}; it may ask for {', '.join(ALL)}")
    return wanted


async def _awaited(value: Any) -> Any:
    return await value


def _give_back(value: Any) -> None:
    if value is _ABSENT or value is None or not os.environ.get("DICODE_SOCKET"):  # noqa: TID251  # a daemon: nobody waits for it
        return
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SdkError(f"the result cannot be JSON: {error}") from None
    NAMES.session().call("return", value=text)


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _tell(error: BaseException) -> None:
    """The traceback without our own frames, whose depth is of no use to the author."""
    shown = traceback.TracebackException(type(error), error, _users(error.__traceback__))
    print("".join(shown.format()), end="", file=sys.stderr)


def _users(frame: TracebackType | None) -> TracebackType | None:
    while frame is not None and os.path.dirname(os.path.abspath(frame.tb_frame.f_code.co_filename)) == _OURS:
        frame = frame.tb_next
    return frame
