"""What differs between a job's last run and now."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mlbox.records import Attempt, Gpu, Job, JobSpec
from mlbox.scheduler.machine import differences, this_machine, with_gpus

NOTHING: set[str] = set()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
MACHINE = {"host": "box", "python": "3.12.1", "packages": "abc"}


def ran(ran_on: dict[str, str], **spec: str) -> Job:
    return Job(
        id="j",
        user="ann",
        spec=JobSpec(command=("true",), **{"git_commit": "c", **spec}),  # type: ignore[arg-type]
        state="succeeded",
        created_at=NOW,
        attempts=(Attempt(number=1, started_at=NOW, ran_on=ran_on),),
    )


@pytest.mark.parametrize(
    "gpu",
    [
        Gpu(uuid="GPU-1", index=0, name="NVIDIA H200"),
        Gpu(uuid="MIG-1", index=0, mig=1, name="NVIDIA H200 MIG 1g.18gb"),
        Gpu(uuid="VIRTUAL-0", index=0, name="A100", virtual=True),
    ],
    ids=["whole", "mig", "virtual"],
)
def test_nothing_differs_where_nothing_has_changed(gpu: Gpu) -> None:
    assert differences(ran(with_gpus(MACHINE, [gpu, gpu])), MACHINE, [gpu], NOTHING.__contains__) == []
    assert differences(ran(dict(this_machine())), this_machine(), [], NOTHING.__contains__) == []


def test_another_python_other_packages_and_a_gpu_that_is_gone_are_named() -> None:
    gpu = Gpu(uuid="GPU-1", index=0, name="NVIDIA H200")
    then = with_gpus({"host": "box", "python": "3.11.7", "packages": "xyz"}, [gpu])
    assert differences(ran(then), MACHINE, [], NOTHING.__contains__) == [
        "python was 3.11.7, and is 3.12.1",
        "packages was xyz, and is abc",
        "it ran on GPU 0 NVIDIA H200, of a kind that the box has no more",
    ]


def test_of_a_job_with_its_own_environment_the_boxs_packages_do_not_count() -> None:
    job = ran({**MACHINE, "packages": "xyz"}, environment="e")
    (said,) = differences(job, MACHINE, [], {"other"}.__contains__)
    assert said.startswith("its environment is built anew")
    assert differences(job, MACHINE, [], {"e"}.__contains__) == []


def test_what_never_ran_or_was_in_no_commit_says_so() -> None:
    job = Job(id="j", user="ann", spec=JobSpec(command=("true",)), state="stopped", created_at=NOW)
    assert differences(job, MACHINE, [], NOTHING.__contains__) == ["it never ran"]
    (said,) = differences(ran(MACHINE, git_commit=None), MACHINE, [], NOTHING.__contains__)  # type: ignore[arg-type]
    assert "in no git commit" in said
