"""Traces of jobs for the replay: a CSV, or a synthetic load of the same shape."""

from __future__ import annotations

import csv
import math
import random
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_SIZES = {1: 0.932, 2: 0.022, 4: 0.023, 8: 0.020, 16: 0.002, 32: 0.001}
_SECONDS = {1: (1100, 2.0), 2: (600, 2.6), 4: (17_000, 1.75), 8: (23_000, 1.85), 16: (50_000, 1.35), 32: (14_000, 1.2)}
"""By GPUs, median and spread (standard deviation of the logarithm) of run times: the shape of Microsoft's Philly trace."""
_TEAMS = 14


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a trace: seconds from its beginning, seconds of work."""

    at: float
    seconds: float
    gpus: int
    team: str


def read(path: Path) -> list[Job]:
    """A CSV with submit_time, duration_s, gpus, team."""
    with path.open(newline="") as file:
        rows = [
            Job(
                datetime.fromisoformat(row["submit_time"]).timestamp(),
                max(1.0, float(row["duration_s"])),
                int(row["gpus"]),
                row["team"],
            )
            for row in csv.DictReader(file)
        ]
    return sorted(rows, key=lambda job: job.at)


def synthetic(count: int, seed: int = 7) -> list[Job]:
    """Mostly short jobs on one GPU, a few long ones on many that are most of the work; in bursts, by day, by unlike teams."""
    rng = random.Random(seed)
    now, jobs = 0.0, []
    while len(jobs) < count:
        team = f"team-{min(int(rng.expovariate(0.45)), _TEAMS - 1)}"
        gpus = rng.choices(list(_SIZES), list(_SIZES.values()))[0]
        middle, spread = _SECONDS[gpus]
        for _ in range(1 + int(rng.expovariate(0.7))):  # a sweep, or the same again with a correction
            seconds = min(max(10.0, rng.lognormvariate(math.log(middle), spread)), 50 * 86_400)
            jobs.append(Job(now, seconds, gpus, team))
            now += rng.expovariate(1 / 20)
        day = 1.0 + 0.8 * math.sin(now / 86_400 * 2 * math.pi)
        now += rng.expovariate(max(0.2, day) / 240)
    return jobs[:count]


def scaled(trace: list[Job], count: int, gpus: int, load: float) -> list[Job]:
    """Jobs taken evenly from the whole trace that fit the box, their gaps stretched so that they ask for `load` of its GPUs."""
    fitting = [job for job in trace if job.gpus <= gpus]
    step = max(1, len(fitting) // count)
    taken = fitting[::step][:count]
    work = sum(job.seconds * job.gpus for job in taken)
    begin = taken[0].at
    factor = work / (gpus * load) / (taken[-1].at - begin)
    return [Job((job.at - begin) * factor, job.seconds, job.gpus, job.team) for job in taken]
