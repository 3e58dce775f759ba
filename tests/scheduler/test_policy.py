"""The policy's rules over many boxes and queues: it is pure, so each is a property."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import chain, combinations

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mlbox.scheduler.policy import (
    Box,
    Capacity,
    Explainer,
    Need,
    Quota,
    Running,
    State,
    decide,
    explain,
    impossible,
    waiting_for,
)
from tests.scheduler.policy_world import (
    NOW,
    QUEUES,
    TEAMS,
    after,
    boxes,
    busy,
    check,
    contended,
    job,
    needs,
    quotas,
    states,
)

cheap = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@cheap
@given(states() | contended())
def test_never_more_than_there_is_nor_than_a_quota_or_limit_allows(state: State) -> None:
    check(state, decide(state, NOW), NOW)


@cheap
@given(states() | contended(), st.randoms(use_true_random=False))
def test_the_same_state_gives_the_same_decision_in_whatever_order_it_comes(state: State, rng: random.Random) -> None:
    shuffled = replace(
        state,
        waiting=tuple(rng.sample(state.waiting, len(state.waiting))),
        running=tuple(rng.sample(state.running, len(state.running))),
        quotas=tuple(rng.sample(state.quotas, len(state.quotas))),
    )
    assert decide(shuffled, NOW) == decide(state, NOW)


@cheap
@given(contended())
def test_nothing_is_stopped_in_vain(state: State) -> None:
    """Once those that were stopped have gone, whoever they were stopped for starts."""
    decision = decide(state, NOW)
    started = {start.job_id for start in (*decision.starts, *decide(after(state, decision), NOW).starts)}
    assert {stop.for_job for stop in decision.preemptions} <= started


@cheap
@given(contended())
def test_nobody_is_stopped_whose_place_is_not_needed(state: State) -> None:
    """With any one of the victims still there, the job that they are stopped for would not fit."""
    state = replace(state, waiting=state.waiting[:1])
    decision = decide(state, NOW)
    left = after(state, decision).running
    for victim in state.running:
        if victim.id in {stop.job_id for stop in decision.preemptions}:
            assert Capacity(state.box, [*left, victim]).place(state.waiting[0].need) is None


@cheap
@given(states())
def test_the_head_is_never_delayed_by_what_starts_past_it(state: State) -> None:
    """Whichever of the running jobs end first: without those that passed it, the head would start no sooner."""
    assume(state.waiting)
    head, *others = (replace(one, limit_seconds=None, not_before=None, queue="default") for one in state.waiting)
    running = tuple(replace(one, expected_end=None, stopping=False, stop_by=None) for one in state.running)
    waiting = (replace(head, promised=True), *others)
    decision = decide(replace(state, waiting=waiting, running=running, quotas=()), NOW)
    assume(head.id not in {start.job_id for start in decision.starts} | {stop.for_job for stop in decision.preemptions})
    passed = {start.job_id: start.devices for start in decision.starts if head.id not in start.yields_to}
    for ended in chain.from_iterable(combinations(running, count) for count in range(len(running) + 1)):
        free = Capacity(state.box, [one for one in running if one not in ended])
        if free.place(head.need) is None:
            continue
        for one in others:
            if one.id in passed:
                free.take(one.need, passed[one.id])
        assert free.place(head.need) is not None


@cheap
@given(states())
def test_what_starts_past_the_head_by_its_time_limit_does_not_move_the_time_promised_to_it(state: State) -> None:
    assume(state.waiting)
    head, *others = (replace(one, not_before=None, queue="default") for one in state.waiting)
    running = tuple(replace(one, yields_to=(), preemptible=False) for one in state.running)
    state = replace(state, waiting=(replace(head, promised=True), *others), running=running, quotas=())
    decision = decide(state, NOW)
    assume(head.id not in {start.job_id for start in decision.starts})
    before = _fits_at(state, head.need, [])
    kept = [start for start in decision.starts if head.id not in start.yields_to]
    limits = {one.id: one for one in others}
    more = [
        busy(
            start.job_id,
            limits[start.job_id].need,
            *start.devices,
            expected_end=None
            if (limit := limits[start.job_id].limit_seconds) is None
            else NOW + timedelta(seconds=limit),
        )
        for start in kept
    ]
    assert before is None or (then := _fits_at(state, head.need, more)) is not None
    assert before is None or then <= before


def _fits_at(state: State, need: Need, more: list[Running]) -> datetime | None:
    """When a job fits if every job runs to its limit, and for ever without one."""
    running = [*state.running, *more]
    ends = [one.stop_by if one.stopping else one.expected_end for one in running]
    for moment in sorted({NOW, *(end for end in ends if end is not None)}):
        left = [one for one, end in zip(running, ends, strict=True) if end is None or end > moment]
        if Capacity(state.box, left).place(need) is not None:
            return moment
    return None


@cheap
@given(states() | contended())
def test_a_second_look_at_the_same_moment_changes_nothing(state: State) -> None:
    """What was started and stopped is all that there was to do."""
    decision = decide(state, NOW)
    stopping = {stop.job_id for stop in decision.preemptions}
    later = after(state, decision, stopped=False)
    later = replace(
        later,
        running=tuple(
            replace(one, stopping=True, stop_by=NOW + timedelta(seconds=8)) if one.id in stopping else one
            for one in later.running
        ),
    )
    again = decide(later, NOW)
    assert not {start.job_id for start in again.starts} & {start.job_id for start in decision.starts}
    assert not {stop.for_job for stop in again.preemptions} & {stop.for_job for stop in decision.preemptions}


@cheap
@given(states() | contended())
def test_explanations_agree_with_the_decision(state: State) -> None:
    decision = decide(state, NOW)
    starts = {start.job_id for start in decision.starts}
    told_all = Explainer(state, NOW)
    assert told_all.decision == decision
    due = {one.id for one in state.waiting if one.not_before is None or one.not_before <= NOW}
    assert {one.id for one in told_all.first} == due - starts
    for one in state.waiting:
        told = told_all.explain(one.id)
        assert told == explain(state, one.id, NOW)
        assert (not told.reasons) == (one.id in starts)
        assert told.words
        kinds = {reason.kind for reason in told.reasons}
        assert ("time" in kinds) == (one.not_before is not None and one.not_before > NOW)
        if one.id in {stop.for_job for stop in decision.preemptions} - starts:
            assert kinds == {"room"}
        for reason in told.reasons:
            if reason.kind in ("gpus", "gpu_memory", "cpus", "memory"):
                assert reason.free < reason.asked or reason.kind == "gpus"


@cheap
@given(states())
def test_who_waits_for_a_running_job_would_gain_by_its_end(state: State) -> None:
    for one in state.running:
        names = waiting_for(state, one.id, NOW)
        starts = {start.job_id for start in decide(state, NOW).starts}
        assert not starts & set(names)
        if one.need == Need():
            queue = QUEUES[one.queue]
            assert not names or queue.max_running is not None


@cheap
@given(boxes, needs, st.sampled_from(TEAMS), st.sampled_from(sorted(QUEUES)), st.booleans(), quotas)
def test_what_is_impossible_never_starts_and_what_is_possible_starts_on_the_empty_box(
    box: Box, need: Need, team: str, queue: str, checkpoints: bool, caps: tuple[Quota, ...]
) -> None:
    free = replace(box, devices=tuple(replace(device, taken=False) for device in box.devices))
    state = State(free, queues=QUEUES, quotas=caps)
    reason = impossible(need, state, team=team, queue=queue, checkpoints=checkpoints)
    one = job("it", need, team=team, queue=queue, checkpoints=checkpoints)
    started = decide(replace(state, waiting=(one,)), NOW).starts
    if reason is None:
        assert started
    elif reason.kind != "turns":
        assert not started
