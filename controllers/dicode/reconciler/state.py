"""What the reconciler remembers besides its mirror: who claims which id, and who wants which webhook path.

Both are indexes over DesiredTask objects and are rebuilt from them at every start.
"""

from __future__ import annotations

from collections import defaultdict

from dicode.messages.kinds import DesiredTask

Index = defaultdict[str, dict[str, DesiredTask]]  # id or path → DesiredTask key → claim


class Claims:
    """Index over the DesiredTasks, kept current one key at a time."""

    def __init__(self) -> None:
        self._known: dict[str, DesiredTask] = {}
        self._by_id: Index = defaultdict(dict)
        self._by_path: Index = defaultdict(dict)

    def take(self, key: str, desired: DesiredTask | None) -> set[str]:
        """Note that the object at `key` is now `desired` (None: gone); gives the ids to look at again."""
        touched: set[str] = set()
        before = self._known.pop(key, None)
        if before is not None:
            touched |= self._neighbours(before)
            _remove(self._by_id, before.id, key)
            _remove(self._by_path, wanted_path(before), key)
        if desired is not None:
            self._known[key] = desired
            self._by_id[desired.id][key] = desired
            if wanted_path(desired):
                self._by_path[wanted_path(desired)][key] = desired
            touched |= self._neighbours(desired)
        return touched

    def _neighbours(self, claim: DesiredTask) -> set[str]:
        return {claim.id, *(rival.id for rival in self.rivals(wanted_path(claim)))}

    def of(self, id: str) -> list[DesiredTask]:
        """Every claim to this id."""
        return list(self._by_id.get(id, {}).values())

    def rivals(self, path: str) -> list[DesiredTask]:
        """Every claim that wants this webhook path."""
        return list(self._by_path.get(path, {}).values())


def wanted_path(desired: DesiredTask) -> str:
    return (desired.spec.trigger.webhook or "") if desired.spec else ""


def _remove(index: Index, name: str, key: str) -> None:
    held = index.get(name)
    if held is not None:
        held.pop(key, None)
        if not held:
            del index[name]
