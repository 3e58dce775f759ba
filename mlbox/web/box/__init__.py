"""The box: every core object of one server, opened in order and closed in reverse.

This is the composition root. Rooms that must not know each other meet here, through protocols that are injected. Its
layers, each over the one before: foundation, data, serving, scheduling.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from mlbox.errors import Unavailable
from mlbox.records import Backup, Event
from mlbox.serve.alerts.webhooks import Deliverer
from mlbox.settings import Settings
from mlbox.store.access.adoption import Adoption
from mlbox.store.registry.webhooks import Webhooks
from mlbox.store.retention import Retention
from mlbox.store.search import Search
from mlbox.web.box.backups import open_backups
from mlbox.web.box.scheduling import Scheduling


class Box(Scheduling):
    """All of mlbox but HTTP. Use `close` when done."""

    def __init__(self, settings: Settings, *, url: str) -> None:
        super().__init__(settings, url=url)
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            self._open_accounts(opening)
            self._open_tracking(opening)
            self._open_features(opening)
            self._open_datasets(opening)
            self._open_serving(opening)
            self._open_scheduler(opening)
            self._open_view_jobs()
            self._open_gates(opening)
            self.models.give_room(self._room_for_models)
            with contextlib.suppress(Unavailable):
                self.models.warm()
            self.fast_path = Counter[str](fast=0, app=0)
            self.http_requests = Counter[str]()
            """By the first digit of their status."""
            self.pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="mlbox-call")
            opening.callback(self.pool.shutdown, cancel_futures=True)
            self._open_retention(opening)
            self._open_webhooks(opening)
            self.backups = open_backups(self.data_dir.root, settings.backup_dir, self.offline, self.clock)
            self.search = Search(self._databases)
            self.adoption = Adoption(self._databases)
            self.access.bootstrap(self.data_dir.root)
            if settings.standby == "off":
                self._begin()
            self._stack = opening.pop_all()

    def _begin(self) -> None:
        """Take up what the box does by itself: run jobs, judge and check models, remove what is old, tell people and programs."""
        self.rollouts.start()
        self.monitor.start()
        self.retention.start()
        self.scheduler.start()
        with contextlib.suppress(Unavailable):  # /readyz says that the registry is down
            self.promoter.resume()
            self.replays.resume()
        self.sampler.start()
        self.sweeper.start()
        self.disk_guard.start()
        self.divergence.start(self.jobs)
        self.crons.start()
        self.courier.start()
        with contextlib.suppress(Unavailable):
            self.lineage.start()
        self.notifier.start()
        self.refresher.beside.append(self.view_jobs.look)
        self.refresher.start()
        self.deliverer.start()

    def _open_retention(self, opening: contextlib.ExitStack) -> None:
        self.retention = Retention(
            self._databases,
            self.artifacts,
            self.tracker,
            self.curation,
            self.datasets,
            self.clock,
            days=self.settings.deleted_days,
            every_hours=self.settings.collect_hours,
            aging=lambda dry_run: self.keeping.expire(dry_run=dry_run),
        )
        opening.callback(self.retention.close)

    def _open_webhooks(self, opening: contextlib.ExitStack) -> None:
        self.webhooks = Webhooks(self._databases["registry"], self.secrets)
        self.deliverer = Deliverer(self.webhooks, self._outgoing, self._account, self.clock, self.bus)
        opening.callback(self.deliverer.close)

    def back_up(self, *, actor: str) -> Backup:
        """Copy all that is kept, and note it in the audit log."""
        made = self.backups.make()
        self._databases["access"].write(
            lambda tx: tx.emit("box.backed_up", f"backup:{made.name}", actor, size=made.size)
        )
        return made

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
        shown: list[Event] = []
        while True:
            found = [
                event
                for database in self._databases.values()
                for event in database.events(subject=subject, actor=actor, type=type, limit=limit, before=before)
            ]
            newest = sorted(found, key=lambda event: event.id, reverse=True)[:limit]
            shown += self.visible_events(newest)
            if len(newest) < limit or len(shown) >= limit:
                return shown[:limit]
            before = newest[-1].id

    def store_paths(self) -> dict[str, Path]:
        """Where each SQLite store lies."""
        return {name: database.path for name, database in self._databases.items()}

    def visible_events(self, events: Sequence[Event]) -> list[Event]:
        """Those events that are of nothing private to others than whoever asks."""
        ids: dict[str, set[str]] = {"run": set(), "job": set()}
        for event in events:
            noun, _, rest = event.subject.partition(":")
            ids.get(noun, set()).add(rest)
            ids["job"].add(str(event.data.get("job")))
        seen = {"run": self.tracker.visible_runs(ids["run"]), "job": self.scheduler.visible_jobs(ids["job"])}
        return [event for event in events if self._is_visible(event, seen)]

    def _is_visible(self, event: Event, seen: Mapping[str, set[str]]) -> bool:
        noun, _, rest = event.subject.partition(":")
        if event.data.get("job") is not None and event.data["job"] not in seen["job"]:
            return False
        if noun in seen:
            return rest in seen[noun]
        if noun == "alert":
            return self.teams.visible("model", event.data.get("labels", {}).get("model"))
        if noun in ("secret", "cron"):
            return self.teams.visible("team", event.data.get("team", ""))
        # An experiment's name may have any character, and stands there alone.
        return self.teams.visible(noun, rest if noun == "experiment" else re.split("[@/]", rest, maxsplit=1)[0])

    def advance(self, to: datetime, *, actor: str) -> datetime:
        """Move domain time forward, and say so."""
        self.clock.advance(to)
        self.access.note("clock.advanced", "clock:domain", actor, to=to)
        return self.clock.now()

    def close(self) -> None:
        """Close everything, last opened first."""
        self._stack.close()
