"""Promotion: gather the evidence, let the gates judge it, write the results down.

Evidence takes seconds (the model is loaded, timed and scored in disposable processes), so it is gathered in a thread of its
own; a promotion that a crash left in `testing` is tested anew at the next start. A command that the policy registers is a job:
the thread does not wait for it, and is called again at its end, or by the server that finds it ended.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from mlbox.clock import Clock
from mlbox.errors import Conflict, MlboxError, NotFound, TimedOut
from mlbox.records import (
    BenchFigure,
    CommandRun,
    DatasetVersion,
    Fairness,
    GateResult,
    ModelVersion,
    Promotion,
    PromotionPolicy,
    Record,
    Replay,
    Run,
)
from mlbox.records import Comparison as WithChampion
from mlbox.serve.inference.check import Comparison, bench_onnx, compare_onnx, score_onnx
from mlbox.serve.monitoring.reference import load_reference
from mlbox.serve.promotion import gates
from mlbox.serve.promotion.comparison import Comparer
from mlbox.serve.promotion.fairness import FairnessJudge
from mlbox.serve.promotion.gate_jobs import GateJobs
from mlbox.serve.promotion.replays import Replays
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets.datasets import Datasets
from mlbox.store.registry.cards import Cards
from mlbox.store.registry.model_folders import ModelFolders
from mlbox.store.registry.promotions import Promotions
from mlbox.store.registry.registry import Registry
from mlbox.store.registry.serving import ServingConfigs
from mlbox.store.tracking.tracking import Tracker

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
LATENCY_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Promoter:
    """Starts promotions and tests them."""

    def __init__(
        self,
        registry: Registry,
        promotions: Promotions,
        tracker: Tracker,
        datasets: Datasets,
        artifacts: Artifacts,
        clock: Clock,
        comparer: Comparer,
        fairness: FairnessJudge,
        cards: Cards,
        configs: ServingConfigs,
    ) -> None:
        self._cards = cards
        self._configs = configs
        self._comparer = comparer
        self._fairness = fairness
        self._registry = registry
        self._promotions = promotions
        self._tracker = tracker
        self._datasets = datasets
        self._artifacts = artifacts
        self._folders = ModelFolders(artifacts)
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mlbox-gates")
        self._went_on = threading.Condition()
        self.commands: GateJobs | None = None
        """Runs the commands of policies; the box gives it once it has jobs, before `resume`."""
        self.replays: Replays | None = None
        """Asks versions what was asked; the box gives it once it has a log."""
        self._stopping = False

    def promote(self, model: str, number: int, *, actor: str) -> Promotion:
        """Propose a version and begin to test it; returns at once, with the promotion in `testing`."""
        promotion = self._promotions.propose(self._registry.version(model, number), actor=actor)
        self.go_on(promotion.id)
        return promotion

    def resume(self) -> None:
        """Go on with what a former server left: it is measured again, and its jobs are found again."""
        for promotion in self._promotions.open():
            if promotion.state in ("testing", "integration"):
                self.go_on(promotion.id)

    def look_for_traffic(self) -> None:
        """Go on with what waited for traffic that has come; to be called again and again."""
        for promotion in self._promotions.open():
            if promotion.state == "waiting_traffic" and not self._lacks_traffic(promotion):
                with contextlib.suppress(Conflict):  # withdrawn at this very moment
                    self._promotions.traffic_came(promotion.id)
                    self.go_on(promotion.id)

    def _lacks_traffic(self, promotion: Promotion) -> str:
        return "" if self.replays is None else self.replays.missing(promotion)

    def go_on(self, promotion_id: str) -> None:
        """Do what is next for a promotion, in the thread of the gates; to be called at the end of a command, too."""
        with contextlib.suppress(RuntimeError):  # the server ends, and the next one goes on
            self._pool.submit(self._step, promotion_id)

    def tested(self, promotion_id: str, seconds: float) -> Promotion:
        """A promotion once its gates were measured; raises TimedOut when that takes longer."""
        with self._went_on:
            if not self._went_on.wait_for(lambda: self._promotions.get(promotion_id).state != "testing", seconds):
                raise TimedOut(
                    f"The gates are still being measured after {seconds:g} s.", hint="Ask again: they go on."
                )
        return self._promotions.get(promotion_id)

    def _step(self, promotion_id: str) -> None:
        try:
            promotion = self._promotions.get(promotion_id)
            if promotion.state == "testing":
                promotion = self._judge(promotion)
            if promotion.state == "integration":
                promotion = self._integrate(promotion)
            if self.commands is not None and promotion.state not in ("testing", "integration"):
                self.commands.drop(promotion_id)
        except MlboxError as err:
            _log.warning("The gates of the promotion %s could not go on: %s", promotion_id, err)
        finally:
            with self._went_on:
                self._went_on.notify_all()

    def _judge(self, promotion: Promotion) -> Promotion:
        if lacks := self._lacks_traffic(promotion):
            return self._promotions.wait_for_traffic(promotion.id, lacks)
        command, run = promotion.policy.test, None
        if command is not None and self.commands is not None:
            run = self.commands.run(promotion, "test", command)
            if run is None:
                return promotion
        self._test(promotion, run)
        return self._promotions.get(promotion.id)

    def _integrate(self, promotion: Promotion) -> Promotion:
        command = promotion.policy.integration
        assert command is not None
        if self.commands is None:
            return promotion  # a box without jobs: the next one goes on
        run = self.commands.run(promotion, "integration", command)
        if run is None:
            return promotion
        passed, required, measured = gates.commanded(command, run, "")
        result = GateResult(
            gate="integration", passed=passed, required=required, measured=measured, at=self._clock.real()
        )
        return self._promotions.record_integration(promotion.id, result, run)

    def _test(self, promotion: Promotion, run: CommandRun | None) -> None:
        kept: dict[str, Record | None]
        try:
            version = self._registry.version(promotion.model, promotion.version)
            found = msgspec.structs.replace(self._evidence(promotion, version), test=run)
            results = gates.evaluate(found, self._clock.real())
            kept = {"comparison": found.comparison, "fairness": found.fairness, "replay": found.replay, "test": run}
        except Exception as err:
            _log.exception("The gates of %s/%s broke.", promotion.model, promotion.version)
            broken = f"the gates broke: {err}"
            kept = {}
            results = [
                GateResult(gate="gates", passed=False, required="to run", measured=broken, at=self._clock.real())
            ]
        if self._stopping:
            return  # what was cut off says nothing: it is measured anew
        try:
            self._promotions.record_gates(promotion.id, results, kept)
        except MlboxError as err:
            _log.warning("The gates of %s/%s were not recorded: %s", promotion.model, promotion.version, err)

    def results(self, promotion: Promotion) -> list[GateResult]:
        """What every gate says about a promotion's version now; nothing is written."""
        version = self._registry.version(promotion.model, promotion.version)
        return gates.evaluate(self._evidence(promotion, version), self._clock.real())

    def _evidence(self, promotion: Promotion, version: ModelVersion) -> gates.Evidence:
        problems: dict[str, str] = {}

        def attempt(gate: str, measure: Callable[[ModelVersion], T | None]) -> T | None:
            try:
                return measure(version)
            except MlboxError as err:
                problems[gate] = err.message
                return None

        return gates.Evidence(
            version=version,
            policy=promotion.policy,
            model=attempt("facts", lambda version: self._registry.model(version.model)),
            now=self._clock.real(),
            run=attempt("lineage", self._run),
            code=attempt("lineage", self._code),
            dataset=attempt("lineage", self._dataset),
            champion=self._registry.version(promotion.model, promotion.champion) if promotion.champion else None,
            comparison=attempt("comparison", lambda version: self._with_champion(promotion)),
            replay=attempt("replay", lambda version: self._replayed(promotion, version)) if version.servable else None,
            fairness=attempt("fairness", lambda version: self._groups(promotion, version))
            if version.servable
            else None,
            latency=attempt("latency", lambda version: self._latency(version, promotion.policy))
            if version.servable
            else None,
            card=attempt("card", lambda version: self._cards.of(version.model).parts),
            parity=attempt("parity", self._parity) if version.servable else None,
            scores=attempt("sanity", self._scores if version.features else self._answers) if version.servable else None,
            problems=problems,
        )

    def _code(self, version: ModelVersion) -> str | None:
        return self.commands.code_of(version.job_id) if self.commands is not None and version.job_id else None

    def _with_champion(self, promotion: Promotion) -> WithChampion | None:
        spec, champion = promotion.policy.compare, promotion.champion
        if spec is None or champion is None:
            return None
        return self._comparer.compare(promotion.model, champion, promotion.version, spec)

    def _replayed(self, promotion: Promotion, version: ModelVersion) -> Replay | None:
        if self.replays is None or not version.features:
            return None
        return self.replays.judge(promotion, version)

    def _groups(self, promotion: Promotion, version: ModelVersion) -> Fairness | None:
        spec = promotion.policy.fairness
        return None if spec is None else self._fairness.judge(version, spec)

    def _run(self, version: ModelVersion) -> Run | None:
        return self._tracker.run(version.run_id) if version.run_id else None

    def _dataset(self, version: ModelVersion) -> DatasetVersion | None:
        return self._datasets.version(version.dataset) if version.dataset else None

    def _latency(self, version: ModelVersion, policy: PromotionPolicy) -> BenchFigure | None:
        if version.artifact is None:
            return None
        config = self._configs.latest(version.model)
        rows, at_once = (policy.latency_rows,), (policy.latency_concurrency,)
        width = len(version.features)
        _, (figure,) = bench_onnx(
            self._file(version), config=config, rows=rows, concurrency=at_once, width=width, seconds=LATENCY_SECONDS
        )
        return figure

    def _parity(self, version: ModelVersion) -> float | None:
        if version.artifact is None or version.sample is None:
            return None
        found = self._compared(version, version.sample).difference
        return math.inf if found is None else found

    def _compared(self, version: ModelVersion, sample: str) -> Comparison:
        return compare_onnx(self._file(version), self._artifacts.path(sample), width=len(version.features))

    def _file(self, version: ModelVersion) -> Path:
        return self._folders.of_version(self._registry, version)

    def _answers(self, version: ModelVersion) -> tuple[float, float]:
        """Between which numbers a version's answers to its sample lie."""
        if version.sample is None:
            raise NotFound("no sample was registered", field="sample")
        found = self._compared(version, version.sample)
        return (math.nan if found.low is None else found.low), (math.nan if found.high is None else found.high)

    def _scores(self, version: ModelVersion) -> tuple[float, float] | None:
        if version.artifact is None or version.reference is None:
            return None
        scores = score_onnx(self._file(version), self._reference_rows(version))
        return float(scores.min()), float(scores.max())

    def _reference_rows(self, version: ModelVersion) -> np.ndarray:
        import numpy as np

        reference = load_reference(self._artifacts, version)
        return np.stack([reference[feature] for feature in version.features], axis=1).astype(np.float32)

    def close(self) -> None:
        """Drop what waits to be tested and end what is replayed; it is tested at the next start."""
        self._stopping = True
        if self.replays is not None:
            self.replays.stop()
        self._pool.shutdown(cancel_futures=True)
