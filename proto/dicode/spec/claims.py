"""Who claims which id, and who wants which webhook path: indexes over DesiredTask objects, rebuilt from them at every start. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from dicode.messages.kinds import DesiredTask, Task

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
        """With one claim to an id another may begin or cease to count, and with it the path that one wants."""
        paths = {wanted_path(each) for each in (claim, *self.of(claim.id))}
        return {claim.id, *(rival.id for path in paths for rival in self.rivals(path))}

    def of(self, id: str) -> list[DesiredTask]:
        """Every claim to this id."""
        return list(self._by_id.get(id, {}).values())

    def rivals(self, path: str) -> list[DesiredTask]:
        """Every claim that wants this webhook path."""
        return list(self._by_path.get(path, {}).values())


Rivals = list[tuple[DesiredTask, bool]]  # who wants a webhook path, and whether it is served there now


def path_rivals(desired: DesiredTask, claims: Claims, registered: Callable[[str], Task | None]) -> Rivals:
    """Every claim that counts and wants the webhook path of `desired`, its own among them; none when it wants no path."""
    path = wanted_path(desired)
    found: Rivals = []
    for rival in claims.rivals(path) if path else ():
        present = registered(rival.id)
        if keeper_of(claims.of(rival.id), present) is rival:
            found.append((rival, serves(present, path)))
    return found


def keeper_of(claims: Iterable[DesiredTask], present: Task | None) -> DesiredTask:
    """Which claim to one id counts. `claims` is not empty."""
    claims = list(claims)
    if present is not None:
        for claim in claims:
            if claim.source == present.source:
                return claim
    return min(claims, key=lambda claim: (claim.order, claim.source))


def serves(task: Task | None, path: str) -> bool:
    """Is this task registered with this webhook path now?"""
    return task is not None and task.spec is not None and task.spec.trigger.webhook == path


def wanted_path(desired: DesiredTask) -> str:
    return (desired.spec.trigger.webhook or "") if desired.spec else ""


def _remove(index: Index, name: str, key: str) -> None:
    held = index.get(name)
    if held is not None:
        held.pop(key, None)
        if not held:
            del index[name]
