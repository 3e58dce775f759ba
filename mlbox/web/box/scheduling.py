"""Jobs: where and when they run, what they may use, and who is told of them."""

from __future__ import annotations

import contextlib
import logging
import math
from datetime import timedelta
from pathlib import Path

import psutil

from mlbox.errors import Unavailable
from mlbox.records import Job, JobSpec, Principal
from mlbox.scheduler.admission import Admission
from mlbox.scheduler.crons import CronRunner
from mlbox.scheduler.disk import DiskGuard
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
from mlbox.serve.alerts.courier import Courier, Mail
from mlbox.serve.features.view_jobs import ViewJobs
from mlbox.serve.lineage.lineage_feed import ADDRESS, LineageFeed
from mlbox.serve.lineage.openlineage import Place
from mlbox.serve.promotion.gate_jobs import GateJobs
from mlbox.settings import MIB, secret_in
from mlbox.store import migrations
from mlbox.store.access.roles import ACTIONS, at_least
from mlbox.store.access.secrets import Secrets
from mlbox.store.asking import asking
from mlbox.store.features.functions import ViewRuns
from mlbox.store.jobs import notices as job_notices
from mlbox.store.jobs.crons import Crons
from mlbox.store.jobs.jobs import Jobs
from mlbox.store.jobs.remains import Cleaning
from mlbox.store.jobs.sharing import Sharing
from mlbox.store.jobs.timeline import Timeline
from mlbox.store.keyfile import FOLDER, KeyFile
from mlbox.store.outbox import Outbox
from mlbox.web.box.gates import JobsOfGates
from mlbox.web.box.gathered import Gathered
from mlbox.web.box.serving import Serving

GIB = 1024 * MIB
SPARE_BYTES = 256 * MIB
"""What loading a model leaves free of the machine's memory."""
_log = logging.getLogger(__name__)


class Scheduling(Serving):
    """The queue with all that its jobs need, crons, and messages to people."""

    def _open_scheduler(self, opening: contextlib.ExitStack) -> None:
        self._open_secrets(opening)
        executor = self._executor()
        self._open_jobs(opening, executor)
        self._open_upkeep(opening, executor)
        self._open_admission(opening)
        self._open_messages(opening)

    def _open_secrets(self, opening: contextlib.ExitStack) -> None:
        settings = self.settings
        own = self.data_dir.root / FOLDER / "secret.key"
        key_file = KeyFile(Path(settings.secret_key_file or own), marked=not settings.secret_key_file)
        db = self._open(opening, "secrets", migrations.secrets)
        self.secrets = Secrets(db, key_file, self._may_use_secrets, self.bus)
        with contextlib.suppress(Unavailable):
            if lost := self.secrets.lost():
                _log.warning("The key of these secrets is not usable (%s): %s.", key_file.path, ", ".join(lost))

    def _executor(self) -> Local:
        settings = self.settings
        self.isolation = isolation(
            settings.job_isolation,
            self.data_dir.root,
            settings.job_writable,
            keys=[path for path in (settings.tls_key, settings.backup_dir) if path],
        )
        executor = Local(
            self.data_dir.root.resolve() / "jobs",
            inventory(settings.gpus),
            cpus=settings.cpus,
            memory_gb=settings.memory_gb,
            log_bytes=int(settings.job_log_mb * MIB),
            disk_bytes=int(settings.job_disk_reserve_mb * MIB),
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
        return executor

    def _open_jobs(self, opening: contextlib.ExitStack, executor: Local) -> None:
        settings = self.settings
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
        self.jobs, self.sharing, self.timeline = Jobs(jobs), Sharing(jobs), Timeline(jobs)
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

    def _open_upkeep(self, opening: contextlib.ExitStack, executor: Local) -> None:
        settings = self.settings
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
            self._databases["jobs"],
            folders=timedelta(hours=settings.job_folder_hours),
            checkpoints=timedelta(days=settings.job_checkpoint_days),
            logs=timedelta(days=settings.job_log_days) if settings.job_log_days else None,
        )
        self.sweeper = Sweeper(executor, cleaning, self.jobs.get, self.clock)
        opening.callback(self.sweeper.close)
        self.disk_guard = DiskGuard(executor, cleaning, self.scheduler.active, self.clock)
        opening.callback(self.disk_guard.close)
        self.divergence = Divergence(self._diverged, self.tracker.points_of)
        opening.callback(self.divergence.close)
        opening.callback(self.bus.subscribe(self.divergence.on_event, ["job."]))
        self.tracker.observe = self.divergence.points

    def _open_admission(self, opening: contextlib.ExitStack) -> None:
        self.admission = Admission(
            self.scheduler, self.sharing, self.teams, self.secrets, self.datasets.version, self._account
        )
        self.submit: Gathered[tuple[JobSpec, Principal], Job] = Gathered(
            lambda asked: self.call(self.admission.submit_each, asked)
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

    def _open_messages(self, opening: contextlib.ExitStack) -> None:
        settings = self.settings
        self.outbox = Outbox(self._databases["jobs"], url=settings.public_url)
        self.promotion_outbox = Outbox(self._databases["registry"], url=settings.public_url)
        mail = Mail(
            settings.smtp_url, settings.smtp_from, secret_in(settings.smtp_password_file, "smtp_password_file") or ""
        )
        self.courier: Courier = Courier(
            [self.outbox, self.alert_outbox, self.promotion_outbox],
            self._outgoing,
            mail,
            self.clock,
            self.bus,
            told_by=(*(f"job.{what}" for what in job_notices.WORDS), "alert.notified", "promotion."),
            channels=self.notifier,
            allow=settings.outgoing_allow,
            posts={ADDRESS: lambda message: self.lineage.request(message)},
        )
        opening.callback(self.courier.close)
        self.lineage = LineageFeed(
            self._databases,
            self.jobs,
            self.datasets,
            self.features,
            self.registry,
            self.bus,
            collector=settings.openlineage_url,
            key_file=settings.openlineage_key_file,
            place=Place(settings.openlineage_namespace, self.url),
            told=self.courier.wake,
        )
        opening.callback(self.lineage.close)

    def _diverged(self, found: Found) -> None:
        self.scheduler.diverged(found.job_id, found.number, found.words)
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

    def _room_for_models(self, held: int) -> float:
        """Bytes that models may take: what running jobs leave of the memory that both share, if the machine has it free."""
        shared = self.settings.memory_gb * GIB or float(psutil.virtual_memory().total)
        free = float(psutil.virtual_memory().available) - SPARE_BYTES
        jobs: float = sum((job.spec.memory_gb or 0) * GIB for job in self.scheduler.active())
        most = self.settings.models_memory_gb * GIB or math.inf
        return min(most, shared - jobs, held + free)

    def _open_gates(self, opening: contextlib.ExitStack) -> None:
        jobs = JobsOfGates(self.admission, self.scheduler, self.teams.team_of)
        self.gate_jobs = GateJobs(self.gate_runs, jobs, self.artifacts, self.bus)
        opening.callback(self.gate_jobs.close)
        self.gate_jobs.ended = self.promoter.go_on
        self.promoter.commands = self.gate_jobs

    def _open_view_jobs(self) -> None:
        self.view_runs = ViewRuns(self._databases["features"], self.features, self.clock)
        self.view_jobs = ViewJobs(self.features, self.view_runs, self.admission.submit_as, self.scheduler.job)
