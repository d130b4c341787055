"""What task code may use: `from dicode.sdk import params, input, output, log, env, kv, dicode`.

The same names are globals of every python task. Only the standard library is imported here: a task's interpreter may be
another one than ours, with nothing of ours installed.
"""

from __future__ import annotations

from dicode.sdk.names import NAMES

__all__ = ["dicode", "env", "input", "kv", "log", "mcp", "output", "params"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return NAMES.value(name)
    raise AttributeError(f"dicode.sdk has no {name!r}; it has {', '.join(__all__)}")
