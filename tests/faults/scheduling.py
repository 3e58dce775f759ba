"""A scheduler in a process of its own, for whoever kills it: it submits short jobs while it lives, and notes which it took."""

from __future__ import annotations

import os
import random
import time
from multiprocessing.synchronize import Event
from pathlib import Path

from mlbox.store.jobs.states import ACTIVE, WAITING
from tests.scheduler.test_scheduler import House

SCRIPT = 'echo "$MLBOX_JOB_ID $MLBOX_ATTEMPT" >> {ran}; sleep {seconds:.2f}'


def run(folder: Path, jobs: int, seconds: float, ready: Event) -> None:
    """Schedule what is there, and what comes; ends when nothing is left."""
    house = House(folder)
    house.scheduler.start()
    taken = os.open(folder / "taken", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    ready.set()
    for _ in range(jobs):
        script = SCRIPT.format(ran=folder / "ran", seconds=random.uniform(0, seconds))
        job = house.shell(script, cpus=0.5, memory_gb=0.1, gpus=0, retries=0)
        os.write(taken, f"{job.id}\n".encode())
    while any(house.scheduler.counts()[state] for state in (*WAITING, *ACTIVE)):
        time.sleep(0.05)
    house.close()
