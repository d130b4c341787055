"""What the trigger-engine remembers besides its mirror: the hooks it serves, by path. Rebuilt from the Tasks at every start."""

from __future__ import annotations

from typing import NamedTuple

from dicode.trigger.decide import Hook


class Found(NamedTuple):
    """The hook for a request path, and what of the path lies below it ("" for nothing)."""

    hook: Hook
    below: str


class Hooks:
    """The table of served hooks. A task has at most one."""

    def __init__(self) -> None:
        self._by_path: dict[str, Hook] = {}
        self._by_task: dict[str, Hook] = {}

    def __len__(self) -> int:
        return len(self._by_path)

    def serve(self, hook: Hook) -> None:
        """From now on; a hook this task had under another path is gone at the same moment."""
        self.drop(hook.task)
        self._by_path[hook.path] = self._by_task[hook.task] = hook

    def drop(self, task: str) -> None:
        old = self._by_task.pop(task, None)
        if old is not None and self._by_path.get(old.path) is old:
            del self._by_path[old.path]

    def find(self, path: str) -> Found | None:
        """The hook whose path is `path` or the nearest folder above it."""
        at = path
        while at:
            hook = self._by_path.get(at)
            if hook is not None:
                return Found(hook, path[len(at) :].strip("/"))
            at = at.rpartition("/")[0]
        return None
