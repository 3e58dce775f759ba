"""Training that is of no use any more: rules on the metrics that runs of jobs log, and what follows.

A `Judge` is pure: fed with points in the order in which they come, it says once, in words, that its rule is broken. `Divergence`
keeps the judges of all running jobs. It is called where points are written, so that nothing is read back, and acts on a thread of
its own.
"""

from __future__ import annotations

import functools
import logging
import math
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mlbox.errors import InvalidInput, MlboxError
from mlbox.records import DivergenceRule, Event, Job, Metric
from mlbox.store.jobs.jobs import Jobs
from mlbox.store.jobs.states import ACTIVE, ENDED

DEFAULT = (DivergenceRule(kind="nonfinite"),)
MOST_RULES = 20
SYSTEM = "system/"
"""What the box itself measures is no sign of how training goes."""
_log = logging.getLogger(__name__)


def check_rules(rules: Iterable[DivergenceRule] | None) -> None:
    """Raise InvalidInput for a rule that makes no sense."""
    given = tuple(rules or ())
    if len(given) > MOST_RULES:
        raise InvalidInput(f"{len(given)} rules are too many.", hint=f"{MOST_RULES} at most.", field="rules")
    for rule in given:
        if rule.kind != "nonfinite" and not rule.metric:
            raise InvalidInput(f"A rule {rule.kind!r} names no metric.", hint="Give `metric`.", field="rules")
        if rule.kind == "no_better" and rule.steps < 1:
            raise InvalidInput(
                f"A rule `no_better` needs steps, and has {rule.steps}.", hint="1 or more.", field="rules"
            )
        if not math.isfinite(rule.bound):
            raise InvalidInput("A bound is no finite number.", hint="Give a number.", field="rules")


class Judge:
    """One rule about one run."""

    def __init__(self, rule: DivergenceRule) -> None:
        self.rule = rule
        self.broken = False
        self._best: float | None = None
        self._best_step = 0

    def feed(self, point: Metric) -> str | None:
        """Take a point; the first time that the rule is broken, in words."""
        rule = self.rule
        if self.broken or (point.key != rule.metric if rule.metric else point.key.startswith(SYSTEM)):
            return None
        value = math.nan if point.value is None else point.value
        wrong = {"nonfinite": _nonfinite, "above": self._above, "no_better": self._no_better}[rule.kind](
            value, point.step
        )
        self.broken = wrong is not None
        return f"{point.key} is {wrong}" if wrong else None

    def _above(self, value: float, step: int) -> str | None:
        if not value > self.rule.bound:  # NaN is another rule's
            return None
        return f"{value:g} at step {step}, above {self.rule.bound:g}"

    def _no_better(self, value: float, step: int) -> str | None:
        signed = value if self.rule.higher_is_better else -value
        if self._best is None or signed > self._best:
            if not math.isnan(signed):
                self._best, self._best_step = signed, step
            return None
        behind = step - self._best_step
        if behind < self.rule.steps:
            return None
        best = self._best if self.rule.higher_is_better else -self._best
        return f"no better than {best:g} since step {self._best_step}, for {behind} steps"


def _nonfinite(value: float, step: int) -> str | None:
    return None if math.isfinite(value) else f"{value} at step {step}"


class Found(NamedTuple):
    """A rule that a job's run broke."""

    job_id: str
    number: int
    """Which of the job's rules."""
    rule: DivergenceRule
    words: str


class _Watched(NamedTuple):
    job_id: str
    judges: tuple[Judge, ...]


class Divergence:
    """The judges of all running jobs. `act` is called off the writer's thread, once for each rule that a run breaks.

    `history` gives a run's points of a metric so far: what judges are fed with first, also by the next server.
    """

    def __init__(self, act: Callable[[Found], object], history: Callable[[str, str], Iterable[Metric]]) -> None:
        self._act = act
        self._history = history
        self._jobs: Jobs | None = None
        self._runs: dict[str, _Watched] = {}
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="mlbox-divergence", daemon=True)

    def start(self, jobs: Jobs) -> None:
        """Begin, with the jobs that run."""
        self._jobs = jobs
        self._work.put(self._watch_all)
        self._thread.start()

    def _watch_all(self) -> None:
        assert self._jobs is not None
        for job in self._jobs.in_states(ACTIVE):
            self.watch(job)

    def close(self) -> None:
        """Act on what was found, and stop."""
        self._work.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def on_event(self, event: Event) -> None:
        """Follow jobs as they begin and end."""
        kind, _, state = event.type.partition(".")
        if kind == "job" and (state in ENDED or state == "running"):
            self._work.put(functools.partial(self._follow, event.subject.removeprefix("job:"), state))

    def _follow(self, job_id: str, state: str) -> None:
        if state == "running" and self._jobs is not None:
            self.watch(self._jobs.get(job_id))
        else:
            self._runs = {run: watched for run, watched in self._runs.items() if watched.job_id != job_id}

    def watch(self, job: Job) -> None:
        """Judge a job's run from now on: once for a run, with what it logged so far."""
        rules = DEFAULT if job.spec.rules is None else job.spec.rules
        if job.run_id is None or not rules or job.run_id in self._runs:
            return
        watched = _Watched(job.id, tuple(map(Judge, rules)))
        self._runs = {**self._runs, job.run_id: watched}
        for metric in sorted({rule.metric for rule in rules if rule.metric}):
            self._judge(watched, list(self._history(job.run_id, metric)))

    def points(self, run_id: str, metrics: Sequence[Metric]) -> None:
        """Take points that a run logged; called where they are written, and costs nothing for what nobody watches."""
        watched = self._runs.get(run_id)
        if watched is not None:
            self._judge(watched, metrics)

    def _judge(self, watched: _Watched, metrics: Sequence[Metric]) -> None:
        for number, judge in enumerate(watched.judges):
            for point in metrics:
                words = judge.feed(point)
                if words is not None:
                    found = Found(watched.job_id, number, judge.rule, words)
                    self._work.put(functools.partial(self._act, found))

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except MlboxError as err:  # the job may have ended in the meantime
                _log.warning("A rule of divergence could not be followed: %s", err)
            except Exception:
                _log.exception("A rule of divergence could not be followed.")
