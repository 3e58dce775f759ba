"""A server that is killed at any moment loses no job, runs none twice, and is followed by one that finds what runs."""

from __future__ import annotations

import multiprocessing
import random
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from mlbox.clock import SystemClock
from mlbox.events import EventBus
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.jobs.jobs import Jobs
from mlbox.store.jobs.states import ENDED
from tests.faults.scheduling import run

JOBS = 4
"""That each round submits."""


def scheduler(folder: Path, jobs: int) -> BaseProcess:
    """A scheduler that is at work, forked from a process that has loaded all that it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.scheduling"])
    ready = context.Event()
    process = context.Process(target=run, args=(folder, jobs, 1.0, ready))
    process.start()
    assert ready.wait(60)
    return process


@pytest.mark.parametrize(
    "rounds", [pytest.param(6, id="few"), pytest.param(200, marks=pytest.mark.slow, id="two hundred")]
)
def test_no_job_is_lost_and_none_runs_twice(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(7)
    for _ in range(rounds):
        server = scheduler(tmp_path, JOBS)
        server.join(chance.uniform(0, 0.7))
        server.kill()
        server.join()
    last = scheduler(tmp_path, 0)
    last.join(300)
    assert last.exitcode == 0

    taken = (tmp_path / "taken").read_text().split()
    ran = Counter((tmp_path / "ran").read_text().splitlines())
    database = Database(tmp_path / "jobs.sqlite", migrations.jobs, SystemClock(), EventBus())
    jobs = Jobs(database).in_states(ENDED)
    database.close()
    assert len(taken) >= rounds
    assert set(taken) <= {job.id for job in jobs}, "what was acknowledged is there"
    assert {(job.state, len(job.attempts)) for job in jobs} == {("succeeded", 1)}, (
        "each was found again, and none is lost"
    )
    assert ran == Counter(f"{job.id} 1" for job in jobs), "each ran, and once"
