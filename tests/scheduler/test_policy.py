"""The policy: pure, so every rule is checked over many boxes and queues."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from mlbox.scheduler.policy import RANKS, Need, Resources, Waiting, decide, place

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BOX = Resources(gpus={0: 1.0, 1: 1.0}, cpus=8, memory_gb=32)

needs = st.builds(
    Need,
    gpus=st.sampled_from([0, 0.25, 0.5, 1, 2]),
    cpus=st.integers(0, 8),
    memory_gb=st.integers(0, 32),
)
queues = st.lists(st.tuples(st.sampled_from(sorted(RANKS)), needs, st.sampled_from([None, -1, 1])), max_size=12).map(
    lambda rows: [
        Waiting(f"j{n}", priority, need, None if wait is None else NOW + timedelta(seconds=wait))
        for n, (priority, need, wait) in enumerate(rows)
    ]
)


def started(queue: list[Waiting], free: Resources = BOX) -> list[str]:
    return [start.job_id for start in decide(queue, free, NOW)]


def job(name: str, priority: str = "normal", *, gpus: float = 0, cpus: float = 1, memory: float = 1) -> Waiting:
    return Waiting(name, priority, Need(gpus, cpus, memory))  # type: ignore[arg-type]


@given(queues)
def test_nothing_is_ever_given_twice(queue: list[Waiting]) -> None:
    by_id = {job.id: job for job in queue}
    free = BOX
    for start in decide(queue, BOX, NOW):
        need = by_id[start.job_id].need
        assert len(start.gpus) == (0 if need.gpus == 0 else max(1, round(need.gpus)))
        free = free.without(need, start.gpus)
    assert min(free.cpus, free.memory_gb, *free.gpus.values()) >= -1e-9


@given(queues)
def test_the_first_in_line_starts_if_it_fits_at_all(queue: list[Waiting]) -> None:
    ready = [job for job in queue if job.not_before is None or job.not_before <= NOW]
    line = sorted(ready, key=lambda job: -RANKS[job.priority])
    if line and place(line[0].need, BOX) is not None:
        assert line[0].id in started(queue)


@given(queues)
def test_what_starts_out_of_turn_takes_nothing_that_the_waiting_need(queue: list[Waiting]) -> None:
    """Without those that overtook it, a job that waits would still not fit."""
    chosen = set(started(queue))
    ready = [job for job in queue if job.not_before is None or job.not_before <= NOW]
    line = sorted(ready, key=lambda job: -RANKS[job.priority])
    for place_in_line, waiting in enumerate(line):
        if waiting.id in chosen:
            continue
        free = BOX
        for start in decide(queue, BOX, NOW):
            if any(ahead.id == start.job_id for ahead in line[:place_in_line]):
                free = free.without(next(j.need for j in line if j.id == start.job_id), start.gpus)
        overtook = [job for job in line[place_in_line + 1 :] if job.id in chosen]
        assert place(waiting.need, free) is None or not overtook


@given(queues)
def test_nothing_starts_before_its_time(queue: list[Waiting]) -> None:
    early = {job.id for job in queue if job.not_before is not None and job.not_before > NOW}
    assert not early & set(started(queue))


def test_urgent_goes_first_and_equals_in_the_order_of_submission() -> None:
    queue = [job("a"), job("b", "low"), job("c", "urgent"), job("d", "high"), job("e")]
    assert started(queue) == ["c", "d", "a", "e", "b"]


def test_a_small_job_does_not_push_a_large_one_back() -> None:
    busy = Resources(gpus={}, cpus=3, memory_gb=32)
    assert started([job("large", cpus=4), job("small", cpus=1)], busy) == []


def test_a_job_without_gpus_passes_one_that_waits_for_a_gpu() -> None:
    busy = Resources(gpus={0: 0.5}, cpus=8, memory_gb=32)
    assert started([job("training", gpus=1), job("report"), job("part", gpus=0.5)], busy) == ["report"]


def test_parts_share_a_gpu_and_leave_the_others_whole() -> None:
    queue = [job("a", gpus=0.5), job("b", gpus=0.5), job("c", gpus=1)]
    assert [start.gpus for start in decide(queue, BOX, NOW)] == [(0,), (0,), (1,)]
