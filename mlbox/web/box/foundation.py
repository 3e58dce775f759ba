"""What all rooms stand on: the data directory, its SQLite files, the clocks, and who is who."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from mlbox.errors import NotFound, StartupError
from mlbox.events import EventBus
from mlbox.records import Principal, limit_names
from mlbox.settings import Origin, Settings
from mlbox.store import migrations
from mlbox.store.access.access import Access
from mlbox.store.access.identities import Identities
from mlbox.store.access.passwords import Passwords
from mlbox.store.access.teams import Teams
from mlbox.store.datadir import DataDir
from mlbox.store.db import Database, DownDatabase, Privacy, Shared
from mlbox.web.door import Door
from mlbox.web.sign_on import open_sign_on

if TYPE_CHECKING:
    from sqlite_utils.migrations import Migrations

    from mlbox.outgoing import Outgoing

_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class Foundation:
    """The stores of one data directory, and its accounts."""

    pool: ThreadPoolExecutor
    """Where blocking calls run."""

    def __init__(self, settings: Settings, *, url: str) -> None:
        if settings.outgoing_allow:  # else whoever waits for a message hears hours later that it says nothing
            from mlbox.outgoing import Allowed

            Allowed(settings.outgoing_allow)
        self.settings = settings
        limit_names(settings.max_name)
        self.url = url
        """Where jobs reach this server."""
        self.origins: tuple[Origin, ...] = ()
        """Where each setting came from, where the server was told."""
        self.stopping = asyncio.Event()
        """Set when the server begins to stop: long-lived streams end on it."""
        self._databases: dict[str, Database] = {}
        self._privacy: Privacy = Shared()
        self._stores: dict[str, Callable[[], None]] = {}

    def _open_accounts(self, opening: contextlib.ExitStack) -> None:
        settings = self.settings
        self.data_dir = DataDir(Path(settings.data_dir), replay_clock=settings.replay_clock)
        opening.callback(self.data_dir.close)
        self.clock = self.data_dir.clock()
        self.bus = EventBus()
        access = self._open(opening, "access", migrations.access)
        self._privacy = self.teams = Teams(access)
        self.access = Access(
            access,
            self.clock,
            session_life=timedelta(hours=settings.session_hours),
            session_most=timedelta(days=settings.session_days),
            passwords=Passwords(shortest=settings.password_min),
            bus=self.bus,
        )
        opening.callback(self.access.close)
        self.door = Door(self.access, self.clock, settings, self.call)
        self.identities = Identities(access, self.access, self.teams)
        self.sign_on = open_sign_on(settings, self.identities, self.clock)

    def _open(self, opening: contextlib.ExitStack, name: str, schema: Migrations) -> Database:
        path = self.data_dir.root / f"{name}.sqlite"
        try:
            database = Database(path, schema, self.clock, self.bus, privacy=self._privacy)
        except sqlite3.Error as err:
            if name == "access":  # without it nobody could be let in
                raise StartupError(
                    f"The store {path} cannot be opened: {err}.",
                    hint="Check its owner and mode, or restore it from a backup.",
                ) from err
            _log.error("The store %s cannot be opened, and what needs it is down: %s", path, err)
            database = DownDatabase(path, str(err))
        opening.callback(database.close)
        self._databases[name] = database
        return database

    def _account(self, name: str) -> Principal | None:
        try:
            account = self.access.user(name)
        except NotFound:
            return None
        return Principal(name=name, role=account.role) if account.disabled_at is None else None

    def _outgoing(self) -> Outgoing:
        from mlbox.outgoing import Outgoing  # imported late: a box without webhooks needs no HTTP client

        return Outgoing(self.settings.outgoing_allow, ca_file=self.settings.outgoing_ca)

    async def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call on the bounded pool, off the event loop."""
        work = functools.partial(contextvars.copy_context().run, fn, *args, **kwargs)  # with it goes who asks
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    def checks(self) -> dict[str, Callable[[], None]]:
        """A real query per store, by name; each raises when its store is down."""
        return {name: database.check for name, database in self._databases.items()} | self._stores
