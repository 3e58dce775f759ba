"""The registry, the way to Production, the model server, and what watches it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
import psutil

from mlbox.errors import NotFound, Unavailable
from mlbox.serve.alerts.failing import FAILING, Failing
from mlbox.serve.alerts.notifier import Notifier
from mlbox.serve.features.landing import Landing
from mlbox.serve.features.refresh import Refresher
from mlbox.serve.inference.benching import Benches
from mlbox.serve.inference.devices import Devices
from mlbox.serve.inference.quarantine import Quarantine
from mlbox.serve.inference.server import ModelServer
from mlbox.serve.inference.workers import Workers
from mlbox.serve.monitoring.business import Business
from mlbox.serve.monitoring.concept import CONCEPT, Concept
from mlbox.serve.monitoring.health import Health
from mlbox.serve.monitoring.keeping import Keeping
from mlbox.serve.monitoring.monitor import Monitor
from mlbox.serve.monitoring.outcomes import Outcomes
from mlbox.serve.monitoring.performance import Performance
from mlbox.serve.monitoring.reference import load_reference
from mlbox.serve.monitoring.report import Reports
from mlbox.serve.monitoring.skew import SKEW, Skew
from mlbox.serve.monitoring.spans import Spans
from mlbox.serve.predictions.log import PredictionLog
from mlbox.serve.promotion.comparison import Comparer
from mlbox.serve.promotion.fairness import FairnessJudge
from mlbox.serve.promotion.frozen_rows import FrozenRows
from mlbox.serve.promotion.governance import Governor
from mlbox.serve.promotion.logged import Logged
from mlbox.serve.promotion.promotion import Promoter
from mlbox.serve.promotion.replay import Requests
from mlbox.serve.promotion.replayer import Replayer
from mlbox.serve.promotion.replays import Replays
from mlbox.serve.promotion.stages import Stages
from mlbox.serve.registration.belongings import ByName
from mlbox.serve.registration.registration import Registrar
from mlbox.serve.registration.sources import Addresses, SourceRegistrar
from mlbox.serve.rollout.late_labels import LateLabels
from mlbox.serve.rollout.rollout import Rollouts
from mlbox.store import migrations
from mlbox.store.access.roles import ACTIONS, at_least
from mlbox.store.asking import who
from mlbox.store.keyfile import FOLDER, KeyFile
from mlbox.store.monitoring.prediction_rows import PredictionRows
from mlbox.store.monitoring.rule_book import RuleBook
from mlbox.store.monitoring.silences import Silences
from mlbox.store.monitoring.sure_time import SureTime
from mlbox.store.outbox import Outbox
from mlbox.store.registry.assessments import Assessments
from mlbox.store.registry.cards import Cards
from mlbox.store.registry.curation import Curation
from mlbox.store.registry.former_names import strays
from mlbox.store.registry.gate_runs import GateRuns
from mlbox.store.registry.history import History
from mlbox.store.registry.measurements import Measurements
from mlbox.store.registry.model_search import ModelSearch
from mlbox.store.registry.promotions import Promotions
from mlbox.store.registry.quarantines import Quarantines
from mlbox.store.registry.registry import Registry
from mlbox.store.registry.reinstate import Reinstatement
from mlbox.store.registry.replays import Replays as KeptReplays
from mlbox.store.registry.rollout_log import RolloutLog
from mlbox.store.registry.serving import ServingConfigs
from mlbox.web.box.data import Data

if TYPE_CHECKING:
    import numpy as np


class Serving(Data):
    """Models, from their registration to their predictions and alerts."""

    def _open_serving(self, opening: contextlib.ExitStack) -> None:
        db = self._open(opening, "registry", migrations.registry)
        self.registry = Registry(db)
        self.datasets.used_by = lambda ref: self.registry.in_use_of(ref, self.tracker.ids_reading(ref))
        self.promotions, self.assessments = Promotions(db, self.registry), Assessments(db)
        self.promotions.may_approve = self._may_approve
        self.reinstatement = Reinstatement(db, self.registry, self.promotions)
        self.serving = ServingConfigs(db, self.registry)
        self.benches = Benches(self.registry, self.serving, Measurements(db), self.artifacts, self.clock)
        self.registrar = Registrar(self.registry, self.tracker, self.datasets, self.features, self.artifacts)
        self.cards = Cards(db, self.registry)
        self._open_promoter(opening)
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
            remembered=self.settings.drift_window,
        )
        opening.callback(self.predictions.close)
        self.outcomes = Outcomes(self.offline, self.labels, self.predictions)
        self.performance = Performance(
            self.outcomes,
            self.offline,
            self.registry,
            self.datasets,
            self.labels,
            self.clock,
            reference=self._reference,
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
        self.rollouts.labels_of = LateLabels(self.performance, self.outcomes, self.labels, self.offline).of
        self.quarantines = Quarantines(db, self.registry)
        self.workers = Workers(self.settings.workers)
        opening.callback(self.workers.close)
        self.governor = Governor(
            self.registry,
            self.promotions,
            self.history,
            self.cards,
            self.assessments,
            self.rollout_log,
            self.rollouts,
            self.tracker,
        )
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
            devices=Devices.of(self.settings.infer_gpus, tensorrt=self.settings.tensorrt == "on"),
            most_loaded=self.settings.max_models,
            workers=self.workers if self.settings.workers else None,
            arena=self._arena(),
            quarantine=Quarantine(self.quarantines, self.workers, self.clock),
        )
        self.models.targets.check_staging = self._check_staging
        opening.callback(self.models.close)
        self._open_monitoring(opening)
        self.requests = Requests(
            self.registry, self.predictions, self.datasets, self.artifacts, self.models.sample.feeds
        )
        self.gate_runs = GateRuns(db)
        self._open_replays(opening)

    def _arena(self) -> int:
        """Bytes that the runs of models may take beside the models themselves: as much as these, or half of the box's memory."""
        settings = self.settings
        half = (settings.memory_gb * 2**30 or psutil.virtual_memory().total) / 2
        return int(settings.models_memory_gb * 2**30 or half)

    def _open_replays(self, opening: contextlib.ExitStack) -> None:
        self.replays = Replays(
            self.registry,
            KeptReplays(self._databases["registry"]),
            Logged(self.registry, self.predictions, self.features),
            self.models.sample,
            self.requests,
            Replayer(self.registry, self.artifacts),
            self.clock,
        )
        opening.callback(self.replays.close)
        self.promoter.replays = self.replays
        self.rollouts.beside.append(self.promoter.look_for_traffic)

    def _reference(self, model: str) -> Mapping[str, np.ndarray]:
        """The training values of the version in Production; none where there is no such version or it has none."""
        try:
            return load_reference(self.artifacts, self.registry.serving(model))
        except NotFound:
            return {}

    def _open_promoter(self, opening: contextlib.ExitStack) -> None:
        rows = FrozenRows(self.registry, self.datasets, self.artifacts)
        self.comparer, self.fairness = Comparer(self.registry, rows), FairnessJudge(rows)
        self.promoter = Promoter(
            self.registry,
            self.promotions,
            self.tracker,
            self.datasets,
            self.artifacts,
            self.clock,
            self.comparer,
            self.fairness,
            self.cards,
            self.serving,
        )
        opening.callback(self.promoter.close)

    def _may_approve(self, user: str, model: str) -> bool:
        principal = self._account(user)
        if principal is None:
            return False
        held = self.teams.role_in(principal, self.teams.team_of(model))
        return at_least(held, ACTIONS["model.approve"].role)

    def _check_staging(self, model: str) -> None:
        principal = who()
        if (
            principal is not None
            and principal.job_id is not None
            and self.gate_runs.of_job(principal.job_id) is not None
        ):
            principal = msgspec.structs.replace(
                principal, job_id=None
            )  # which version it may ask, its path was asked for
        if principal is not None:
            self.teams.require(principal, "model.rehearse", name=model)

    def _open_monitoring(self, opening: contextlib.ExitStack) -> None:
        db = self._open(opening, "monitoring", migrations.monitoring)
        rules = self.rules = RuleBook(db, self.settings.alert_rules)
        self.monitor = Monitor(
            db,
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
        self.business = Business(
            self._databases["monitoring"], self.registry, self.history, self.predictions, self.clock
        )
        self._open_keeping(opening)
        self.concept = Concept(
            self._databases["monitoring"],
            self.registry,
            self.monitor,
            self.performance,
            self.outcomes,
            self.offline,
            self.labels,
            rules=rules,
        )
        self.health = Health(
            self.registry,
            self.monitor,
            self.skew,
            self.performance,
            self.concept,
            self.features,
            self.predictions,
            self.clock,
            self.bus,
        )
        opening.callback(self.health.close)
        self.health.start()
        self.monitor.beside += [self.skew.check, self.concept.check, self.health.keep]
        self.monitor.names_beside = (SKEW, CONCEPT, FAILING)
        self.failing = Failing(self._databases["monitoring"], self.predictions, rules=rules)
        opening.callback(self.failing.close)
        self.failing.start()
        self.spans = Spans(
            self.registry, self.monitor, self.predictions, self.clock, minimum=self.settings.drift_minimum
        )
        self.reports = Reports(
            self.health,
            self.monitor,
            self.spans,
            self.performance,
            self.concept,
            self.skew,
            self.business,
            self.clock,
        )
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
        self.silences, self.alert_outbox = Silences(db), Outbox(db)
        address = self.settings.public_url.rstrip("/") or self.url
        self.notifier = Notifier(db, rules, self.clock, self.bus, url=address, refresh=rules.refresh)
        opening.callback(self.notifier.close)

    def _open_keeping(self, opening: contextlib.ExitStack) -> None:
        clear = self.settings.erasure_audit == "clear"
        self.keeping = Keeping(
            self.predictions,
            PredictionRows(self._databases["monitoring"], self.clock),
            self.registry,
            self.outcomes,
            self.business,
            self.skew,
            SureTime(self._databases["monitoring"], self.clock, self.rules),
            days=self.settings.prediction_days,
            key_file=None if clear else KeyFile(self.data_dir.root / FOLDER / "erasure.key", marked=True),
        )
        opening.callback(self.keeping.close)
        db = self._databases["monitoring"]
        belongings = ByName(db, self.predictions, self.outcomes, self.keeping, rules=self.rules)
        self.registry.belongings = belongings
        with contextlib.suppress(Unavailable):  # /readyz says that the registry is down
            belongings.settle(strays(self._databases["registry"]))
        self.keeping.start()
