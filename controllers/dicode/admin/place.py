"""Where a command works: the settings of its data folder, and the store's file, which is read whether or not anything runs."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import typer

from dicode.admin.errors import Usage
from dicode.admin.nouns import unknown
from dicode.messages.kinds import Task
from dicode.process import settings as process_settings
from dicode.process.settings import Settings

if TYPE_CHECKING:
    from dicode.store.read import Reader


class Place:
    """One installation, as the command line names it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def of(cls, ctx: typer.Context) -> Place:
        """The place this command line means. Raises Usage when its dicode.yaml is missing or cannot be read."""
        return cls.at(ctx.obj)

    @classmethod
    def at(cls, config: str | None) -> Place:
        try:
            return cls(process_settings.load(config))
        except FileNotFoundError as error:
            raise Usage(str(error)) from None
        except Exception as error:
            from dicode.spec.config import BadConfig  # 20 ms: loaded already when it is this

            if isinstance(error, BadConfig):
                raise Usage(str(error)) from None
            raise

    @cached_property
    def store(self) -> Reader:
        """The store's file, read-only. Empty where nothing ever ran."""
        from dicode.store.read import Reader

        return Reader(self.settings.database)

    def task(self, id: str) -> Task:
        """The registered task. Raises Usage, with the nearest name, when there is none."""
        found = self.store.get(Task, id)
        if found is None:
            raise Usage(unknown("task", id, self.store.all(Task)))
        return found
