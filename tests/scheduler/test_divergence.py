"""Training that is of no use any more is noticed once, in words, and where it is asked for it is ended."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.errors import InvalidInput
from mlbox.records import DivergenceRule, JobSpec, Metric, Principal
from mlbox.scheduler.divergence import Judge, check_rules
from tests.conftest import wait_for
from tests.web.site import open_box

AT = datetime(2026, 1, 1, tzinfo=UTC)
ANN = Principal(name="ann", role="member")


def point(value: float | None, step: int = 0, key: str = "loss") -> Metric:
    return Metric(key=key, value=value, step=step, at=AT)


def words(rule: DivergenceRule, values: Sequence[float | None]) -> list[tuple[int, str]]:
    judge = Judge(rule)
    return [(step, told) for step, value in enumerate(values) if (told := judge.feed(point(value, step)))]


def test_each_rule_speaks_once_and_in_words() -> None:
    nan = [1.0, math.nan, math.inf]
    assert words(DivergenceRule(kind="nonfinite"), nan) == [(1, "loss is nan at step 1")]
    assert words(DivergenceRule(kind="nonfinite"), [1.0, None]) == [(1, "loss is nan at step 1")]
    above = DivergenceRule(kind="above", metric="loss", bound=2.0)
    assert words(above, [2.0, math.nan, 3.5, 9.0]) == [(2, "loss is 3.5 at step 2, above 2")]
    worse = DivergenceRule(kind="no_better", metric="loss", steps=2)
    assert words(worse, [3.0, 2.0, 2.5, 2.0, 1.0]) == [(3, "loss is no better than 2 since step 1, for 2 steps")]
    accuracy = DivergenceRule(kind="no_better", metric="loss", steps=2, higher_is_better=True)
    assert words(accuracy, [0.5, 0.6, 0.7, math.nan, 0.9]) == []


def test_other_metrics_and_the_boxs_own_say_nothing() -> None:
    assert Judge(DivergenceRule(kind="nonfinite", metric="loss")).feed(point(math.nan, key="auc")) is None
    assert Judge(DivergenceRule(kind="nonfinite")).feed(point(math.nan, key="system/gpu_0_power_watts")) is None


@given(st.lists(st.floats(-10, 10), max_size=30), st.integers(1, 6))
def test_no_better_is_what_a_plain_loop_finds(values: list[float], steps: int) -> None:
    expected = [
        step
        for step in range(len(values))
        if step >= 1 and step - values.index(min(values[: step + 1])) >= steps  # the first of the best counts
    ]
    found = words(DivergenceRule(kind="no_better", metric="loss", steps=steps), values)
    assert [step for step, _ in found] == expected[:1]


@pytest.mark.parametrize(
    "rule",
    [
        DivergenceRule(kind="above"),
        DivergenceRule(kind="no_better", metric="loss"),
        DivergenceRule(kind="above", metric="loss", bound=math.nan),
    ],
)
def test_rules_that_make_no_sense_are_refused(rule: DivergenceRule) -> None:
    with pytest.raises(InvalidInput):
        check_rules([rule])
    with pytest.raises(InvalidInput):
        check_rules([DivergenceRule(kind="nonfinite")] * 21)


def test_a_job_that_diverges_is_ended_and_one_without_rules_is_not(tmp_path: Path) -> None:
    box = open_box(tmp_path / "data")
    try:
        box.access.create_user("ann", "member", actor="admin")
        sleep = (sys.executable, "-c", "import time; time.sleep(300)")
        released = tmp_path / "released"
        until_released = ("sh", "-c", f"until [ -e {released} ]; do sleep 0.05; done")
        stops = DivergenceRule(kind="nonfinite", action="stop")
        specs = {
            "stops": JobSpec(command=sleep, name="stops", cpus=0.1, memory_gb=0.1, rules=(stops,)),
            "says": JobSpec(command=until_released, name="says", cpus=0.1, memory_gb=0.1),
            "silent": JobSpec(command=sleep, name="silent", cpus=0.1, memory_gb=0.1, rules=()),
        }
        jobs = {name: box.admission.submit(spec, principal=ANN) for name, spec in specs.items()}
        for job in jobs.values():
            wait_for(lambda job=job: box.scheduler.job(job.id).state == "running", what=f"{job.spec.name} to run")
        for job in jobs.values():
            assert job.run_id is not None
            box.tracker.log(job.run_id, metrics=[point(0.5, 1), point(math.nan, 2)])
        ended = wait_for(lambda: (j := box.scheduler.job(jobs["stops"].id)).ended_at and j, what="the end")
        assert (ended.state, ended.stop_cause) == ("stopped", "diverged")
        assert ended.reason == "stopped, because it diverges: loss is nan at step 2"
        told = wait_for(lambda: box.scheduler.job(jobs["says"].id).reason, what="the reason")
        assert told == "diverges: loss is nan at step 2"
        assert box.scheduler.job(jobs["says"].id).state == "running"
        assert box.scheduler.job(jobs["silent"].id).reason == ""
        released.touch()
        ended = wait_for(lambda: (j := box.scheduler.job(jobs["says"].id)).ended_at and j, what="the end")
        assert ended.reason == "exit status 0; diverges: loss is nan at step 2"
        box.scheduler.stop(jobs["silent"].id, actor="ann")
        wait_for(lambda: box.scheduler.job(jobs["silent"].id).ended_at, what="the end")
    finally:
        box.close()


def test_the_next_server_goes_on_from_what_was_logged(tmp_path: Path) -> None:
    """A metric that stopped getting better under one server is found by the next, and is told once."""
    rule = DivergenceRule(kind="no_better", metric="loss", steps=3)
    box = open_box(tmp_path / "data")
    try:
        box.access.create_user("ann", "member", actor="admin")
        spec = JobSpec(command=("sleep", "300"), cpus=0.1, memory_gb=0.1, rules=(rule,))
        job = box.admission.submit(spec, principal=ANN)
        wait_for(lambda: box.scheduler.job(job.id).state == "running", what="it to run")
        assert job.run_id is not None
        box.tracker.log(job.run_id, metrics=[point(1.0, 1), point(2.0, 2)])
    finally:
        box.close()
    for _ in range(2):
        box = open_box(tmp_path / "data")
        try:
            box.tracker.log(job.run_id, metrics=[point(2.0, 4)])
            wait_for(lambda box=box: "no better than 1" in box.scheduler.job(job.id).reason, what="the rule")
            events = box.events(subject=f"job:{job.id}", type="job.diverged", limit=10)
        finally:
            box.close()
    box = open_box(tmp_path / "data")
    box.scheduler.stop(job.id, actor="ann")
    wait_for(lambda: box.scheduler.job(job.id).ended_at, what="the end")
    box.close()
    assert len(events) == 1
