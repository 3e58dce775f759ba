"""Logged requests, asked again of a version offline: what is asked for, what came of it, and what a policy makes of that."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from mlbox.records.base import Record
from mlbox.records.shadow import ShadowFigures

ReplayState = Literal["waiting", "running", "done", "too_few", "failed"]
"""In the queue, under way, compared, fewer requests than are compared, or broken off; of the last two `reason` says why."""


class ReplayRule(Record, frozen=True, kw_only=True):
    """What a policy asks of a version's answers to logged requests, before it has any traffic."""

    last: int = 1000
    """How many requests, the newest; 0 asks none."""
    window_days: float | None = None
    """Of how many days of domain time; None for any age."""
    min_rows: int = 100
    """Of fewer requests nothing is said."""
    too_few: Literal["skip", "wait"] = "skip"
    """What follows then: the gate says so and lets the version by, or the promotion waits for the traffic."""
    max_failed: float = 0.0
    """Share of requests on which it may fail, or answer null or what is not finite where the champion does not."""
    max_disagreement: float | None = None
    """Share of requests on which it may decide otherwise than the champion, at 0.5."""
    max_difference: float | None = None
    """How far apart the scores of both may be, in the mean."""


class ReplaySpec(Record, frozen=True, kw_only=True):
    """Which logged requests a version is asked again, and beside whom."""

    against: int | None = None
    """Another version of the model; None for the one in Production."""
    last: int = 10_000
    """How many, the newest."""
    window_seconds: float | None = None
    """Of domain time, up to now; None for any age."""


class Replay(Record, frozen=True, kw_only=True):
    """What a version answered to logged requests, beside what was answered to them."""

    id: str = ""
    model: str
    version: int
    spec: ReplaySpec
    state: ReplayState
    reason: str = ""
    by: str = ""
    at: datetime
    done_at: datetime | None = None
    against: int | None = None
    """The version that it is compared with; None where the model had none in Production."""
    logged: int = 0
    """Requests of which its answer is the one that was logged; of the others it was asked again, too."""
    source: str = ""
    """Where the requests are from, in words."""
    since: datetime | None = None
    """Domain time of the oldest request."""
    until: datetime | None = None
    """Of the newest."""
    rows: int = 0
    """Requests that were found."""
    replayed: int = 0
    """Requests that were asked again: fewer where the time ran out."""
    failed: int = 0
    """Requests on which the version failed."""
    invalid: int = 0
    """Requests that it answered with null or what is not finite, and the other version did not."""
    error: str = ""
    """What the first failure said."""
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    """Of the version's time for a request, offline."""
    reproduced_share: float | None = None
    """Of the logged answers: those that the other version gives again, asked offline."""
    alike: int | None = None
    """Requests that both versions answered with the very same outputs; None of what is asked by features, and without another."""
    computed: tuple[str, ...] = ()
    """Features that the log does not have: they are those of the history, as known at each request's moment."""
    figures: tuple[ShadowFigures, ...] = ()
    """As of a shadow: on all requests, then by segment. None where there is nothing to compare with."""

    @property
    def ref(self) -> str:
        """`model/N`."""
        return f"{self.model}/{self.version}"

    @property
    def broken_share(self) -> float:
        """Of the requests that were asked again: those that failed, or were not answered validly."""
        return (self.failed + self.invalid) / self.replayed if self.replayed else 0.0

    @property
    def words(self) -> str:
        """As one would say it."""
        if not self.replayed:
            return self.reason
        words = [f"{self.replayed:,} of {self.rows:,} requests, from {self.source}"]
        if self.figures and self.figures[0].rows:
            words.append(self.figures[0].words)
        if self.alike is not None:
            words.append(f"the very same outputs on {self.alike:,}")
        words.append(f"{self.failed:,} failed, {self.invalid:,} invalid")
        return "; ".join([*words, *([self.error] if self.error else []), *([self.reason] if self.reason else [])])
