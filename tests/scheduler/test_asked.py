"""What a job asks for, and what it gets where it did not say."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.errors import InvalidInput
from mlbox.records import JobSpec
from mlbox.scheduler.asked import check, need, settle
from mlbox.scheduler.policy import Box, Device, State, impossible

COMMAND = ("true",)
BIG = Box(devices=(Device("a", 0, 80.0),), cpus=64.0, memory_gb=503.7)


def asked(box: Box, **spec: object) -> tuple[float | None, float | None, float | None]:
    found = settle(JobSpec(command=COMMAND, **spec), box)  # type: ignore[arg-type]
    return found.gpus, found.cpus, found.memory_gb


def test_who_does_not_say_gets_a_gpu_32_gb_and_a_cpu_per_4_gb() -> None:
    assert asked(BIG) == (1, 8, 32)
    assert asked(BIG, memory_gb=10) == (1, 3, 10)
    assert asked(BIG, memory_gb=1, gpus=0) == (0, 1, 1)
    assert asked(BIG, cpus=2, gpus=0.5) == (0.5, 2, 32)
    assert asked(BIG, gpu_memory_gb=20) == (0, 8, 32)


def test_and_no_more_than_the_box_has() -> None:
    assert asked(Box(cpus=2.0, memory_gb=23.47)) == (0, 2, 23.4)


@given(
    box=st.builds(
        Box,
        devices=st.lists(st.just(Device("a", 0)), max_size=1).map(tuple),
        cpus=st.floats(0.5, 512),
        memory_gb=st.floats(0.5, 4096),
    ),
    share=st.sampled_from([{}, {"gpus": 0.0}, {"memory_gb": 0.5}, {"cpus": 0.5}]),
)
def test_what_is_filled_in_can_always_run(box: Box, share: dict[str, float]) -> None:
    spec = settle(JobSpec(command=COMMAND, **share), box)  # type: ignore[arg-type]
    assert impossible(need(spec), State(box)) is None
    assert msgspec.structs.asdict(spec) | share == msgspec.structs.asdict(spec)
    assert settle(spec, box) == spec


def test_a_seed_is_drawn_once() -> None:
    seeds = {settle(JobSpec(command=COMMAND), BIG).seed for _ in range(5)}
    assert len(seeds) > 1
    assert settle(JobSpec(command=COMMAND, seed=7), BIG).seed == 7


def test_words_behind_the_program_may_be_empty() -> None:
    check(JobSpec(command=("python", "train.py", "--note", "")))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"command": ("",)}, "command"),
        ({"command": ("echo", "a\0b")}, "command"),
        ({"env": {"A": "\0"}}, "env"),
        ({"gpus": -1}, "gpus"),
        ({"gpus": 2.5}, "gpus"),
        ({"cpus": float("nan")}, "cpus"),
        ({"memory_gb": float("inf")}, "memory_gb"),
        ({"memory_gb": 0}, "memory_gb"),
        ({"gpu_memory_gb": -1}, "gpu_memory_gb"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": 4e11}, "timeout_seconds"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds"),
        ({"grace_seconds": -1}, "grace_seconds"),
        ({"grace_seconds": 1e12}, "grace_seconds"),
        ({"retries": 101}, "retries"),
        ({"retry_exit_codes": (1, 256)}, "retry_exit_codes"),
        ({"procs": 0}, "procs"),
        ({"seed": -1}, "seed"),
        ({"workdir": "../up"}, "workdir"),
        ({"name": "two words"}, "name"),
        ({"name": "a" * 32}, "name"),
        ({"env": {"A-B": "1"}}, "env"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_field(spec: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(JobSpec(**{"command": COMMAND, **spec}))  # type: ignore[arg-type]
    assert caught.value.field == field
    assert caught.value.hint
