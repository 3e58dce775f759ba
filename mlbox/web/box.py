"""The box: every core object of one server, opened in order and closed in reverse.

This is the composition root. Rooms that must not know each other meet here, through protocols that are injected.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import ParamSpec, TypeVar

from sqlite_utils.migrations import Migrations

from mlbox.events import EventBus
from mlbox.settings import Settings
from mlbox.store import migrations
from mlbox.store.access import Access
from mlbox.store.datadir import DataDir
from mlbox.store.db import Database

P = ParamSpec("P")
T = TypeVar("T")


class Box:
    """All of mlbox but HTTP. Use `close` when done."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stack = contextlib.ExitStack()
        self.stopping = asyncio.Event()
        """Set when the server begins to stop: long-lived streams end on it."""
        with contextlib.ExitStack() as opening:
            self.data_dir = DataDir(Path(settings.data_dir), replay_clock=settings.replay_clock)
            opening.callback(self.data_dir.close)
            self.clock = self.data_dir.clock()
            self.bus = EventBus()
            self._databases: dict[str, Database] = {}
            self.access = Access(
                self._open(opening, "access", migrations.access),
                self.clock,
                session_life=timedelta(hours=settings.session_hours),
            )
            self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="mlbox-call")
            opening.callback(self._pool.shutdown, cancel_futures=True)
            self.access.bootstrap(self.data_dir.root)
            self._stack = opening.pop_all()

    def _open(self, opening: contextlib.ExitStack, name: str, schema: Migrations) -> Database:
        database = Database(self.data_dir.root / f"{name}.sqlite", schema, self.clock, self.bus)
        opening.callback(database.close)
        self._databases[name] = database
        return database

    async def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call on the bounded pool, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(fn, *args, **kwargs))

    def checks(self) -> dict[str, Callable[[], None]]:
        """A real query per store, by name; each raises when its store is down."""
        return {name: database.check for name, database in self._databases.items()}

    def close(self) -> None:
        """Close everything, last opened first."""
        self._stack.close()
