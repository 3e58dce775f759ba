"""The box: every core object of one server, opened in order and closed in reverse.

This is the composition root. Rooms that must not know each other meet here, through protocols that are injected.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import math
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import psutil

from mlbox.errors import NotFound, StartupError, Unavailable
from mlbox.events import EventBus
from mlbox.records import DatasetInput, Event, Principal, limit_names
from mlbox.scheduler.admission import Admission
from mlbox.scheduler.crons import CronRunner
from mlbox.scheduler.divergence import Divergence, Found
from mlbox.scheduler.environments import Environments
from mlbox.scheduler.executors.local import Local
from mlbox.scheduler.gpus import inventory
from mlbox.scheduler.isolation import isolation
from mlbox.scheduler.launcher import Launcher
from mlbox.scheduler.policy import Rules
from mlbox.scheduler.sampler import Sampler
from mlbox.scheduler.scheduler import Scheduler
from mlbox.scheduler.sweeper import Sweeper
from mlbox.serve.benching import Benches
from mlbox.serve.comparison import Comparer
from mlbox.serve.courier import Courier, Mail
from mlbox.serve.landing import Landing
from mlbox.serve.monitor import Monitor
from mlbox.serve.notifier import Notifier
from mlbox.serve.outcomes import Outcomes
from mlbox.serve.performance import Performance
from mlbox.serve.predlog import PredictionLog
from mlbox.serve.promotion import Promoter
from mlbox.serve.refresh import Refresher
from mlbox.serve.registration import Registrar
from mlbox.serve.rollout import Rollouts
from mlbox.serve.server import ModelServer
from mlbox.serve.skew import Skew
from mlbox.serve.sources import Addresses, SourceRegistrar
from mlbox.serve.stages import Stages
from mlbox.serve.view_jobs import ViewJobs
from mlbox.serve.webhooks import Deliverer
from mlbox.settings import MIB, Settings, secret_in
from mlbox.store import alert_rules, migrations
from mlbox.store.access import Access
from mlbox.store.artifacts import Artifacts
from mlbox.store.asking import asking, who
from mlbox.store.crons import Crons
from mlbox.store.curation import Curation
from mlbox.store.datadir import DataDir
from mlbox.store.datasets import Datasets
from mlbox.store.db import Database, DownDatabase, Privacy, Shared
from mlbox.store.definitions import FeatureDefinitions
from mlbox.store.dvc import DvcObjects
from mlbox.store.dvc_versions import DvcVersions
from mlbox.store.feature_catalogue import FeatureCatalogue
from mlbox.store.feature_profile import Profiles
from mlbox.store.folders import Folders
from mlbox.store.functions import ViewRuns
from mlbox.store.history import History
from mlbox.store.identities import Identities
from mlbox.store.ingest import Uploads
from mlbox.store.jobs import Jobs
from mlbox.store.keyfile import FOLDER, KeyFile
from mlbox.store.label_history import LabelHistory
from mlbox.store.logged_models import LoggedModels
from mlbox.store.measurements import Measurements
from mlbox.store.model_folders import ModelFolders
from mlbox.store.model_search import ModelSearch
from mlbox.store.offline import Offline
from mlbox.store.online import Online
from mlbox.store.outbox import Outbox
from mlbox.store.passwords import Passwords
from mlbox.store.promotions import Promotions
from mlbox.store.quota import Quota
from mlbox.store.registry import Registry
from mlbox.store.reinstate import Reinstatement
from mlbox.store.remains import Cleaning
from mlbox.store.retention import Retention
from mlbox.store.roles import ACTIONS, at_least
from mlbox.store.rollout_log import RolloutLog
from mlbox.store.run_inputs import input_of
from mlbox.store.runsearch import RunSearch
from mlbox.store.secrets import Secrets
from mlbox.store.serving import ServingConfigs
from mlbox.store.sharing import Sharing
from mlbox.store.silences import Silences
from mlbox.store.teams import Teams
from mlbox.store.tracking import Tracker
from mlbox.store.webhooks import Webhooks
from mlbox.web.door import Door
from mlbox.web.sign_on import open_sign_on

if TYPE_CHECKING:
    from sqlite_utils.migrations import Migrations

    from mlbox.outgoing import Outgoing

GIB = 1024 * MIB
SPARE_BYTES = 256 * MIB
"""What loading a model leaves free of the machine's memory."""
_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class Box:
    """All of mlbox but HTTP. Use `close` when done."""

    def __init__(self, settings: Settings, *, url: str) -> None:
        self.settings = settings
        limit_names(settings.max_name)
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
            self._privacy: Privacy = Shared()
            self._stores: dict[str, Callable[[], None]] = {}
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
            self._open_tracking(opening)
            self._open_features(opening)
            self._open_datasets(opening)
            self._open_serving(opening)
            self._open_scheduler(opening)
            self._open_view_jobs()
            self.models.give_room(self._room_for_models)
            with contextlib.suppress(Unavailable):
                self.models.warm()
            self.fast_path = Counter[str](fast=0, app=0)
            self.pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="mlbox-call")
            opening.callback(self.pool.shutdown, cancel_futures=True)
            self._open_retention(opening)
            self._open_webhooks(opening)
            self.access.bootstrap(self.data_dir.root)
            self.scheduler.start()
            self.sampler.start()
            self.sweeper.start()
            self.divergence.start(self.jobs)
            self.crons.start()
            self.courier.start()
            self.notifier.start()
            self._stack = opening.pop_all()

    def _open_tracking(self, opening: contextlib.ExitStack) -> None:
        self.artifacts = Artifacts(self.data_dir.root / "artifacts")
        ModelFolders(self.artifacts).clear()
        self._stores["artifacts"] = self.artifacts.check
        db = self._open(opening, "tracking", migrations.tracking)
        self.tracker = Tracker(db, self.artifacts, self.clock)
        self.experiments = self.tracker.groups
        self.logged_models = LoggedModels(db)
        self.run_search = RunSearch(self.tracker, self.experiments)

    def _open_datasets(self, opening: contextlib.ExitStack) -> None:
        db = self._open(opening, "datasets", migrations.datasets)
        self.labels = LabelHistory(db, self.offline, self.clock, sources=self.features)
        self.features.check_open = self.labels.check_open
        self.datasets = Datasets(
            db,
            self.offline,
            self.features,
            self.labels,
            self.artifacts,
            self.clock,
            seconds=self.settings.build_seconds,
        )
        self.tracker.input_of = self._input_of
        self.dvc = DvcObjects(db, self.datasets, self.artifacts)
        self.dvc_versions = DvcVersions(
            self.dvc,
            self.datasets,
            self.artifacts,
            self.uploads,
            self.teams,
            self.clock,
            most_bytes=self.settings.max_upload,
        )
        self.catalogue = FeatureCatalogue(self._databases["features"], self.features, self.teams.team_of)
        self.profiles = Profiles(self.features, self.offline, self.datasets, self.artifacts)
        self.quota = Quota(
            self._databases["tracking"], db, self.teams.team_of, self.clock, allowed=self.settings.upload_quota
        )

    def _input_of(self, ref: str) -> DatasetInput | None:
        try:
            return input_of(self.datasets.version(ref), self.url)
        except NotFound:  # removed since it was named; what reads it says so
            return None

    def _open_serving(self, opening: contextlib.ExitStack) -> None:
        db = self._open(opening, "registry", migrations.registry)
        self.registry = Registry(db)
        self.datasets.used_by = lambda ref: self.registry.in_use_of(ref, self.tracker.ids_reading(ref))
        self.promotions = Promotions(db, self.registry)
        self.reinstatement = Reinstatement(db, self.registry, self.promotions)
        self.serving = ServingConfigs(db, self.registry)
        self.benches = Benches(self.registry, self.serving, Measurements(db), self.artifacts, self.clock)
        self.registrar = Registrar(self.registry, self.tracker, self.datasets, self.features, self.artifacts)
        self.comparer = Comparer(self.registry, self.datasets, self.artifacts)
        self.promoter = Promoter(
            self.registry, self.promotions, self.tracker, self.datasets, self.artifacts, self.clock, self.comparer
        )
        opening.callback(self.promoter.close)
        self.addresses = Addresses(self.logged_models)
        self.sources = SourceRegistrar(
            self.registry, self.registrar, self.tracker, self.addresses, self.datasets, self.artifacts
        )
        self.stages = Stages(self.registry, self.promotions, self.promoter)
        self.curation = Curation(db, self.registry)
        self.history = History(db, self.registry)
        self.model_search = ModelSearch(self.registry)
        self.predictions = PredictionLog(
            self.data_dir.root / "predictions",
            queue_limit=self.settings.log_queue,
            flush_seconds=self.settings.log_flush,
        )
        opening.callback(self.predictions.close)
        self.outcomes = Outcomes(self.offline, self.labels, self.predictions)
        self.performance = Performance(
            self.outcomes, self.offline, self.registry, self.datasets, self.labels, self.clock
        )
        self._stores["predictions"] = self.predictions.check
        self.rollout_log = RolloutLog(db, self.promotions)
        self.rollouts = Rollouts(
            self.registry,
            self.promotions,
            self.rollout_log,
            self.predictions,
            self.clock,
            self.bus,
            self.settings.rollout_seconds,
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
            configs=self.serving.latest,
            threads=self.settings.infer_threads,
            most_loaded=self.settings.max_models,
        )
        self.models.check_staging = self._check_staging
        opening.callback(self.models.close)
        self._open_monitoring(opening)
        with contextlib.suppress(Unavailable):  # /readyz says that the registry is down
            self.promoter.resume()
        self.rollouts.start()

    def _open_scheduler(self, opening: contextlib.ExitStack) -> None:
        settings = self.settings
        own = self.data_dir.root / FOLDER / "secret.key"
        key_file = KeyFile(Path(settings.secret_key_file or own), marked=not settings.secret_key_file)
        db = self._open(opening, "secrets", migrations.secrets)
        self.secrets = Secrets(db, key_file, self._may_use_secrets, self.bus)
        with contextlib.suppress(Unavailable):
            if lost := self.secrets.lost():
                _log.warning("The key of these secrets is not usable (%s): %s.", key_file.path, ", ".join(lost))
        self.isolation = isolation(
            settings.job_isolation,
            self.data_dir.root,
            settings.job_writable,
            keys=(settings.tls_key,) if settings.tls_key else (),
        )
        executor = Local(
            self.data_dir.root.resolve() / "jobs",
            inventory(settings.gpus),
            cpus=settings.cpus,
            memory_gb=settings.memory_gb,
            log_bytes=int(settings.job_log_mb * MIB),
            isolation=self.isolation,
            ledger=self.models,
        )
        self.environments = Environments(
            self.data_dir.root.resolve() / "environments",
            self.artifacts,
            isolation=self.isolation,
            seconds=settings.environment_seconds,
            days=settings.environment_days,
        )
        launcher = Launcher(
            self.access,
            self.artifacts,
            url=self.url,
            grace_seconds=settings.job_grace,
            secrets=self.secrets,
            datasets=self.datasets.version,
            environments=self.environments,
        )
        jobs = self._open(opening, "jobs", migrations.jobs)
        self.jobs, self.sharing = Jobs(jobs), Sharing(jobs)
        self.scheduler = Scheduler(
            self.jobs,
            self.tracker,
            self.access,
            self.artifacts,
            self.clock,
            executor,
            launcher,
            self.sharing,
            retries=settings.job_retries,
            rules=Rules(
                ageing_seconds=settings.ageing_hours * 3600, half_life_seconds=settings.fair_share_days * 86400
            ),
        )
        opening.callback(self.scheduler.close)
        opening.callback(self.environments.close)
        self.sampler = Sampler(
            executor,
            self.tracker,
            self.jobs,
            self.scheduler.active,
            self.clock,
            every=settings.sample_seconds,
            idle=timedelta(minutes=settings.gpu_idle_minutes),
        )
        opening.callback(self.sampler.close)
        cleaning = Cleaning(
            jobs,
            folders=timedelta(hours=settings.job_folder_hours),
            checkpoints=timedelta(days=settings.job_checkpoint_days),
        )
        self.sweeper = Sweeper(executor, cleaning, self.jobs.get, self.clock)
        opening.callback(self.sweeper.close)
        self.admission = Admission(
            self.scheduler, self.sharing, self.teams, self.secrets, self.datasets.version, self._account
        )
        self.crons = CronRunner(
            Crons(self._databases["jobs"]),
            self._databases,
            self.admission.submit_as,
            self.scheduler,
            self._sees,
            self.clock,
            self.bus,
        )
        opening.callback(self.crons.close)
        self.divergence = Divergence(self._diverged, self.tracker.points_of)
        opening.callback(self.divergence.close)
        opening.callback(self.bus.subscribe(self.divergence.on_event))
        self.tracker.observe = self.divergence.points
        self.outbox = Outbox(self._databases["jobs"])
        mail = Mail(
            settings.smtp_url, settings.smtp_from, secret_in(settings.smtp_password_file, "smtp_password_file") or ""
        )
        self.courier: Courier = Courier(
            [self.outbox, self.alert_outbox],
            self._outgoing,
            mail,
            self.clock,
            self.bus,
            told_by=("job.", "alert.notified"),
            channels=self.notifier,
        )
        opening.callback(self.courier.close)

    def _room_for_models(self, held: int) -> float:
        """Bytes that models may take: what running jobs leave of the memory that both share, if the machine has it free."""
        shared = self.settings.memory_gb * GIB or float(psutil.virtual_memory().total)
        free = float(psutil.virtual_memory().available) - SPARE_BYTES
        jobs: float = sum((job.spec.memory_gb or 0) * GIB for job in self.scheduler.active())
        most = self.settings.models_memory_gb * GIB or math.inf
        return min(most, shared - jobs, held + free)

    def _diverged(self, found: Found) -> None:
        self.jobs.diverged(found.job_id, found.number, found.words)
        if found.rule.action == "stop":
            reason = f"stopped, because it diverges: {found.words}"
            self.scheduler.stop(found.job_id, actor="mlbox", cause="diverged", reason=reason)

    def _sees(self, user: str, kind: str, name: str) -> bool:
        principal = self._account(user)
        if principal is None:
            return False
        with asking(principal):
            return self.teams.visible(kind, name)

    def _may_use_secrets(self, user: str, team: str) -> bool:
        account = self.access.user(user)
        held = self.teams.role_in(Principal(name=user, role=account.role), team)
        return account.disabled_at is None and at_least(held, ACTIONS["secret.use"].role)

    def _check_staging(self, model: str) -> None:
        principal = who()
        if principal is not None:
            self.teams.require(principal, "model.rehearse", name=model)

    def _open_monitoring(self, opening: contextlib.ExitStack) -> None:
        rules = alert_rules.load(self.settings.alert_rules)
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
            rules=rules,
        )
        opening.callback(self.monitor.close)
        self.skew = Skew(
            self._databases["monitoring"],
            self.registry,
            self.features,
            self.predictions,
            self.clock,
            sample=self.settings.skew_sample,
            limit=self.settings.skew_limit,
            rules=rules,
        )
        self.monitor.beside.append(self.skew.check)
        self.landing = Landing(self.features, self.uploads)
        self.refresher = Refresher(
            self.features,
            self.landing,
            self._databases["monitoring"],
            self.bus,
            every=self.settings.refresh_seconds,
            rules=rules,
        )
        opening.callback(self.refresher.close)
        self.refresher.start()
        self.monitor.start()
        db = self._databases["monitoring"]
        self.silences, self.alert_outbox = Silences(db), Outbox(db)
        self.notifier = Notifier(db, rules, self.clock, self.bus, url=self.url)
        opening.callback(self.notifier.close)

    def _open_view_jobs(self) -> None:
        self.view_runs = ViewRuns(self._databases["features"], self.features, self.clock)
        self.view_jobs = ViewJobs(self.features, self.view_runs, self.admission.submit_as, self.scheduler.job)
        self.refresher.beside.append(self.view_jobs.look)

    def _open_webhooks(self, opening: contextlib.ExitStack) -> None:
        self.webhooks = Webhooks(self._databases["registry"], self.secrets)
        self.deliverer = Deliverer(self.webhooks, self._outgoing, self._account, self.clock, self.bus)
        opening.callback(self.deliverer.close)
        self.deliverer.start()

    def _outgoing(self) -> Outgoing:
        from mlbox.outgoing import Outgoing  # imported late: a box without webhooks needs no HTTP client

        return Outgoing(self.settings.outgoing_allow, ca_file=self.settings.outgoing_ca)

    def _account(self, name: str) -> Principal | None:
        try:
            account = self.access.user(name)
        except NotFound:
            return None
        return Principal(name=name, role=account.role) if account.disabled_at is None else None

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
        )
        opening.callback(self.retention.close)
        self.retention.start()

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
        self.features = FeatureDefinitions(
            self._open(opening, "features", migrations.features),
            self.offline,
            self.online,
            self.clock,
            max_sql=settings.max_sql,
            folders=Folders.parse(settings.source_folders),
        )

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

    async def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call on the bounded pool, off the event loop."""
        work = functools.partial(contextvars.copy_context().run, fn, *args, **kwargs)  # with it goes who asks
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    def checks(self) -> dict[str, Callable[[], None]]:
        """A real query per store, by name; each raises when its store is down."""
        return {name: database.check for name, database in self._databases.items()} | self._stores

    def close(self) -> None:
        """Close everything, last opened first."""
        self._stack.close()
