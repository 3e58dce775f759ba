"""The box: every core object of one server, opened in order and closed in reverse.

This is the composition root. Rooms that must not know each other meet here, through protocols that are injected.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from mlbox.errors import StartupError
from mlbox.events import EventBus
from mlbox.records import Event
from mlbox.scheduler.gpus import inventory
from mlbox.scheduler.scheduler import Scheduler
from mlbox.serve.monitor import Monitor
from mlbox.serve.predlog import PredictionLog
from mlbox.serve.promotion import Promoter
from mlbox.serve.registration import Registrar
from mlbox.serve.rollout import Rollouts
from mlbox.serve.server import ModelServer
from mlbox.settings import Settings
from mlbox.store import migrations
from mlbox.store.access import Access
from mlbox.store.artifacts import Artifacts
from mlbox.store.datadir import DataDir
from mlbox.store.datasets import Datasets
from mlbox.store.db import Database
from mlbox.store.features import FeatureStore
from mlbox.store.ingest import Uploads
from mlbox.store.jobs import Jobs
from mlbox.store.labels import Labels
from mlbox.store.offline import Offline
from mlbox.store.online import Online
from mlbox.store.promotions import Promotions
from mlbox.store.registry import Registry
from mlbox.store.tracking import Tracker

if TYPE_CHECKING:
    from sqlite_utils.migrations import Migrations

P = ParamSpec("P")
T = TypeVar("T")


class Box:
    """All of mlbox but HTTP. Use `close` when done."""

    def __init__(self, settings: Settings, *, url: str) -> None:
        self.settings = settings
        self.url = url
        """Where jobs reach this server."""
        self._stack = contextlib.ExitStack()
        self.stopping = asyncio.Event()
        """Set when the server begins to stop: long-lived streams end on it."""
        with contextlib.ExitStack() as opening:
            self.data_dir = DataDir(Path(settings.data_dir), replay_clock=settings.replay_clock)
            opening.callback(self.data_dir.close)
            self.clock = self.data_dir.clock()
            self.bus = EventBus()
            self._databases: dict[str, Database] = {}
            self._stores: dict[str, Callable[[], None]] = {}
            self.access = Access(
                self._open(opening, "access", migrations.access),
                self.clock,
                session_life=timedelta(hours=settings.session_hours),
            )
            self._open_tracking(opening)
            self._open_features(opening)
            self._open_datasets(opening)
            self._open_serving(opening)
            self._open_scheduler(opening)
            self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="mlbox-call")
            opening.callback(self._pool.shutdown, cancel_futures=True)
            self.access.bootstrap(self.data_dir.root)
            self.scheduler.start()
            self._stack = opening.pop_all()

    def _open_tracking(self, opening: contextlib.ExitStack) -> None:
        self.artifacts = Artifacts(self.data_dir.root / "artifacts")
        self._stores["artifacts"] = self.artifacts.check
        self.tracker = Tracker(self._open(opening, "tracking", migrations.tracking), self.artifacts, self.clock)

    def _open_datasets(self, opening: contextlib.ExitStack) -> None:
        db = self._open(opening, "datasets", migrations.datasets)
        self.labels = Labels(db, self.offline, self.clock)
        self.datasets = Datasets(db, self.offline, self.features, self.labels, self.artifacts, self.clock)

    def _open_serving(self, opening: contextlib.ExitStack) -> None:
        db = self._open(opening, "registry", migrations.registry)
        self.registry = Registry(db)
        self.promotions = Promotions(db, self.registry)
        self.registrar = Registrar(self.registry, self.tracker, self.datasets, self.features, self.artifacts)
        self.promoter = Promoter(
            self.registry, self.promotions, self.tracker, self.datasets, self.artifacts, self.clock
        )
        opening.callback(self.promoter.close)
        self.predictions = PredictionLog(
            self.data_dir.root / "predictions",
            queue_limit=self.settings.log_queue,
            flush_seconds=self.settings.log_flush,
        )
        opening.callback(self.predictions.close)
        self._stores["predictions"] = self.predictions.check
        self.rollouts = Rollouts(
            self.registry, self.promotions, self.predictions, self.clock, self.bus, self.settings.rollout_seconds
        )
        opening.callback(self.rollouts.close)
        self.models = ModelServer(
            self.registry,
            self.artifacts,
            self.features,
            self.rollouts,
            self.predictions,
            self.clock,
            bus=self.bus,
            threads=self.settings.infer_threads,
            most_loaded=self.settings.max_models,
        )
        opening.callback(self.models.close)
        self.models.warm()
        self._open_monitoring(opening)
        self.promoter.resume()
        self.rollouts.start()

    def _open_scheduler(self, opening: contextlib.ExitStack) -> None:
        settings = self.settings
        self.scheduler = Scheduler(
            Jobs(self._open(opening, "jobs", migrations.jobs)),
            self.tracker,
            self.access,
            self.artifacts,
            self.clock,
            inventory(settings.gpus),
            self.data_dir.root.resolve() / "jobs",
            url=self.url,
            cpus=settings.cpus,
            memory_gb=settings.memory_gb,
            retries=settings.job_retries,
            grace_seconds=settings.job_grace,
        )
        opening.callback(self.scheduler.close)

    def _open_monitoring(self, opening: contextlib.ExitStack) -> None:
        self.monitor = Monitor(
            self._open(opening, "monitoring", migrations.monitoring),
            self.registry,
            self.artifacts,
            self.predictions,
            self.clock,
            window=self.settings.drift_window,
            window_days=self.settings.drift_days,
            minimum=self.settings.drift_minimum,
            every=self.settings.drift_seconds,
        )
        opening.callback(self.monitor.close)
        self.monitor.start()

    def _open_features(self, opening: contextlib.ExitStack) -> None:
        root, settings = self.data_dir.root, self.settings
        self.offline = Offline(
            root / "offline.duckdb",
            memory=settings.duckdb_memory,
            temp=settings.duckdb_temp,
            seconds=settings.query_seconds,
        )
        opening.callback(self.offline.close)
        self.online = Online(root / "online")
        opening.callback(self.online.close)
        self._stores |= {"offline": self.offline.check, "online": self.online.check}
        self.uploads = Uploads(
            root / "uploads",
            most_bytes=settings.max_upload,
            seconds=settings.upload_seconds,
            memory_mb=settings.upload_memory_mb,
        )
        self.features = FeatureStore(
            self._open(opening, "features", migrations.features),
            self.offline,
            self.online,
            self.clock,
            max_sql=settings.max_sql,
        )

    def _open(self, opening: contextlib.ExitStack, name: str, schema: Migrations) -> Database:
        path = self.data_dir.root / f"{name}.sqlite"
        try:
            database = Database(path, schema, self.clock, self.bus)
        except sqlite3.Error as err:
            raise StartupError(
                f"The store {path} cannot be opened: {err}.",
                hint="Check its owner and mode, or restore it from a backup.",
            ) from err
        opening.callback(database.close)
        self._databases[name] = database
        return database

    def events(
        self,
        *,
        subject: str | None = None,
        actor: str | None = None,
        type: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[Event]:
        """The audit log: the events of all stores in one list, newest first."""
        found = [
            event
            for database in self._databases.values()
            for event in database.events(subject=subject, actor=actor, type=type, limit=limit, before=before)
        ]
        return sorted(found, key=lambda event: event.id, reverse=True)[:limit]

    def advance(self, to: datetime, *, actor: str) -> datetime:
        """Move domain time forward, and say so."""
        self.clock.advance(to)
        self.access.note("clock.advanced", "clock:domain", actor, to=to)
        return self.clock.now()

    async def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call on the bounded pool, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(fn, *args, **kwargs))

    def checks(self) -> dict[str, Callable[[], None]]:
        """A real query per store, by name; each raises when its store is down."""
        return {name: database.check for name, database in self._databases.items()} | self._stores

    def close(self) -> None:
        """Close everything, last opened first."""
        self._stack.close()
