"""Replays that people ask for: one at a time, in a thread of its own, off the serving loop."""

from __future__ import annotations

import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from msgspec.structs import replace

from mlbox.clock import Clock
from mlbox.errors import InvalidInput, MlboxError, TooMany
from mlbox.records import ModelVersion, Promotion, Replay, ReplayRule, ReplaySpec
from mlbox.serve.inference.tensor_sample import TensorRows, TensorSample
from mlbox.serve.promotion.logged import Logged, Rows
from mlbox.serve.promotion.replay import Requests
from mlbox.serve.promotion.replayer import Replayer
from mlbox.serve.rollout.verdict import span
from mlbox.store.registry.policies import MOST_DAYS, MOST_REPLAYED
from mlbox.store.registry.registry import Registry
from mlbox.store.registry.replays import Replays as Kept

MOST_WAITING = 20
DAY = 86_400
_log = logging.getLogger(__name__)


class Replays:
    """Replays on demand, and those that a policy asks for."""

    def __init__(
        self,
        registry: Registry,
        kept: Kept,
        logged: Logged,
        tensors: TensorSample,
        requests: Requests,
        replayer: Replayer,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._kept = kept
        self._logged = logged
        self._tensors = tensors
        self._requests = requests
        self._replayer = replayer
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mlbox-replay")
        self._stopping = False

    # -- on demand ------------------------------------------------------------------------------------------------------

    def ask(self, model: str, number: int, spec: ReplaySpec, *, actor: str) -> Replay:
        """Put a replay into the queue; raises NotFound, InvalidInput naming the field, and TooMany."""
        version = self._registry.version(model, number)
        self._replayer.check(version)
        _check(spec)
        if spec.against is not None:
            against = self._registry.version(model, spec.against)
            self._replayer.check(against)
            _check_alike(version, against)
        if len(self._kept.open()) >= MOST_WAITING:
            raise TooMany(f"{MOST_WAITING} replays wait already.", hint="Ask again when some are done.")
        asked = Replay(
            model=model,
            version=number,
            spec=spec,
            state="waiting",
            by=actor,
            at=self._clock.real(),
            against=spec.against,
        )
        asked = self._kept.add(version, asked)
        self._offer(asked)
        return asked

    def of(self, model: str, number: int) -> list[Replay]:
        """A version's, newest first."""
        return self._kept.of(self._registry.version(model, number))

    def get(self, model: str, number: int, replay_id: str) -> Replay:
        """One of a version's."""
        return self._kept.get(self._registry.version(model, number), replay_id)

    def resume(self) -> None:
        """Begin anew what a former server was asked and did not end."""
        for asked in self._kept.open():
            self._offer(asked)

    def _offer(self, asked: Replay) -> None:
        with contextlib.suppress(RuntimeError):  # the server ends, and the next one goes on
            self._pool.submit(self._run, asked)

    def _run(self, asked: Replay) -> None:
        try:
            begun = self._kept.begin(asked)
            if begun.state != "running":
                return
            found = self._replayed(begun)
            if self._stopping:
                self._kept.put_back(asked)
            else:
                self._kept.end(replace(found, done_at=self._clock.real()))
        except MlboxError as err:
            _log.warning("The replay %s could not be kept: %s", asked.id, err)

    def _replayed(self, begun: Replay) -> Replay:
        try:
            version = self._registry.version(begun.model, begun.version)
            against = self._against(version, begun.spec.against)
            segments = self._registry.policies.of(begun.model).told_segments
            return self.replay(begun, version, against, segments=segments)
        except MlboxError as err:
            return replace(begun, state="failed", reason=err.message)
        except Exception as err:
            _log.exception("The replay of %s broke.", begun.ref)
            return replace(begun, state="failed", reason=f"it broke: {err}")

    def _against(self, version: ModelVersion, number: int | None) -> ModelVersion | None:
        if number is not None:
            return self._registry.version(version.model, number)
        found = self._registry.by_stage(version.model, "Production")
        return found if found is not None and found.servable else None

    def replay(
        self,
        begun: Replay,
        version: ModelVersion,
        against: ModelVersion | None,
        *,
        segments: tuple[str, ...] = (),
        least: int = 1,
    ) -> Replay:
        """A replay that has begun with what came of it; raises InvalidInput for requests that the versions do not take."""
        self._replayer.check(version)
        if against is not None and begun.spec.against is None and takes(against) != takes(version):
            against = None  # nobody asked for this one, and no request is for both
        window, last = begun.spec.window_seconds, begun.spec.last
        since = None if window is None else self._since(window)
        rows: Rows | TensorRows = (
            self._logged.of([version, *([against] if against else [])], last=last, since=since)
            if version.features
            else self._tensors.of(version.model, last=last, since=since)
        )
        if rows.total < least:
            of = f" of the last {span(window)}" if window is not None else ""
            there = "are logged" if version.features else "are there"
            words = f"{rows.total:,} requests of {version.model}{of} {there}, and {least:,} or more are asked again"
            told = words if version.features else f"{words}: {rows.note}"
            return replace(begun, state="too_few", reason=told, rows=rows.total, source=rows.source)
        return self._replayer.run(begun, rows, version, against, segments=segments)

    def _since(self, seconds: float) -> datetime:
        return self._clock.now() - timedelta(seconds=seconds)

    # -- for a policy ---------------------------------------------------------------------------------------------------

    def missing(self, promotion: Promotion) -> str:
        """What a promotion waits for, in words: traffic, where its policy waits for it. A first version waits for none."""
        rule = promotion.policy.replay
        if not rule.last or rule.too_few != "wait" or promotion.champion is None:
            return ""
        version = self._registry.version(promotion.model, promotion.version)
        if not version.servable or not version.features:
            return ""
        since = self._since(rule.window_days * DAY) if rule.window_days is not None else None
        there = self._logged.count(promotion.model, most=rule.min_rows, since=since)
        if there >= rule.min_rows:
            return ""
        return f"{there:,} of {rule.min_rows:,} requests are logged to be replayed"

    def judge(self, promotion: Promotion, version: ModelVersion) -> Replay | None:
        """What a promotion's version answers to logged requests; of a first one, or with too few, to what there is else."""
        rule = promotion.policy.replay
        if not rule.last:
            return None
        champion = self._registry.version(promotion.model, promotion.champion) if promotion.champion else None
        begun = _begun(promotion, rule, self._clock.real())
        segments = promotion.policy.told_segments
        found = self.replay(begun, version, champion, segments=segments, least=rule.min_rows)
        if found.state == "too_few" and champion is None:
            found = self._on_others(promotion, version, found)
        return replace(found, done_at=self._clock.real())

    def _on_others(self, promotion: Promotion, version: ModelVersion, found: Replay) -> Replay:
        """A first version is asked what is the nearest to traffic: that it answers is what can be seen of it."""
        for columns, source in self._requests.recorded(promotion, version):
            rows = Rows({name: values[-promotion.policy.replay.last :] for name, values in columns.items()}, source)
            if rows.total:
                return self._replayer.run(found, rows, version, None)
        return found

    def stop(self) -> None:
        """End what runs, for whomever: the next server begins it anew."""
        self._stopping = True
        self._replayer.stop()

    def close(self) -> None:
        """End what runs and drop what waits."""
        self.stop()
        self._pool.shutdown(cancel_futures=True)


def _begun(promotion: Promotion, rule: ReplayRule, at: datetime) -> Replay:
    window = rule.window_days * DAY if rule.window_days is not None else None
    return Replay(
        model=promotion.model,
        version=promotion.version,
        spec=ReplaySpec(against=promotion.champion, last=rule.last, window_seconds=window),
        state="running",
        by=promotion.requested_by,
        at=at,
        against=promotion.champion,
    )


def takes(version: ModelVersion) -> str:
    """What a version is asked by."""
    return "features" if version.features else "tensors"


def _check_alike(version: ModelVersion, against: ModelVersion) -> None:
    if takes(version) != takes(against):
        raise InvalidInput(
            f"{version.ref} takes {takes(version)}, and {against.ref} takes {takes(against)}.",
            hint="Compare versions that take the same requests.",
            field="against",
        )


def _check(spec: ReplaySpec) -> None:
    if not 1 <= spec.last <= MOST_REPLAYED:
        raise InvalidInput(
            f"The last {spec.last:,} requests are none, or too many.", hint=f"1 to {MOST_REPLAYED:,}.", field="last"
        )
    if spec.window_seconds is not None and not 0 < spec.window_seconds <= MOST_DAYS * DAY:
        raise InvalidInput(
            f"A window of {spec.window_seconds:g} s is none, or too long.",
            hint=f"More than 0 s, up to {MOST_DAYS:,} days.",
            field="window_seconds",
        )
