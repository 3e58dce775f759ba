"""What the scheduler costs: from a submission to the command, jobs a second, memory of what runs and waits, and giving way.

A real server, asked over HTTP. The raw limit, measured in turn with the jobs on the same cores: the same command, started by
threads of one Python process that keep of each what must be kept of any job: its output in a file, and how it ended in another,
on disk before the next begins. What bare processes cost, of which nothing is kept, is told beside it.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil

from bench.harness import Report, median, options
from bench.load import each, post
from bench.startup import is_ready, memory_mb, serving
from mlbox.records import Job
from mlbox.scheduler.policy import Box, Device, Need, Running, State, Waiting, decide
from mlbox.store.datadir import write_atomic

TRIVIAL = ["true"]
LITTLE = {"cpus": 0.001, "memory_gb": 0.001, "gpus": 0}
CPUS = 4
GRACE_SECONDS = 1.0
FOLDER = "/var/tmp"
"""Beside few other files, as in an installation: jobs are confined to what lies beside the data directory, name by name."""
WAIT_SECONDS = 120.0
FOLDER_US, FOLDER_SECONDS = 100.0, 420.0
"""On ext4 without a journal a folder takes up to milliseconds to make, for minutes after many files beside it were removed, as by
other benchmarks: then the file system is what would be measured."""
RAW_THREADS = 8
"""So many that waiting for the disk holds up none of the cores."""
CPU = {
    "bare": "CPU of a bare process and its start",
    "raw": "CPU of a process, its output and its end on disk",
    "server": "CPU of a trivial job: the server",
    "zygote": "CPU of a trivial job: to fork its shim",
    "attempts": "CPU of a trivial job: its shim and the command",
}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    single, many, rounds, running, queued = (50, 200, 2, 10, 2_000) if chosen.quick else (200, 500, 7, 20, 10_000)
    sizes = {"single jobs": f"{single}", "jobs at once": f"{many}", "running": f"{running}", "queued": f"{queued:,}"}
    report = Report("scheduler", conditions=sizes)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        flags = ["--cpus", str(CPUS), "--access-log", "off", "--job-retries", "0"]
        with serving(Path(folder), *flags) as (process, url, _):
            wait(lambda: is_ready(url))
            box = Client(url, Path(folder) / "data", process.pid)
            try:
                _latency(report, box, single)
                _rate(report, box, many, rounds, patience=30 if chosen.quick else FOLDER_SECONDS)
                _running(report, box, running)
                _giving_way(report, box)
                _queue(report, box, queued)
            finally:
                left = box.shims()
        for shim in left:  # they outlive the server, and are not to outlive this
            os.kill(shim, signal.SIGTERM)
        wait(lambda: not any(map(psutil.pid_exists, left)))
    _decision(report, queued)
    return report.finish()


class Client:
    """A server, asked."""

    def __init__(self, url: str, data: Path, pid: int) -> None:
        self.url, self.data, self.pid = url, data, pid
        self.token = (data / "admin-token").read_text().strip()
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {self.token}"}, timeout=60)

    def submit(self, *command: str, **spec: Any) -> str:
        """A job's id."""
        answer = self.http.post("/api/v1/jobs", json={"command": command, **LITTLE, **spec})
        answer.raise_for_status()
        found: str = answer.json()["id"]
        return found

    def job(self, job_id: str) -> Job:
        """As it is now."""
        return msgspec.json.decode(self.http.get(f"/api/v1/jobs/{job_id}").content, type=Job)

    def until(self, job_id: str, *states: str, seconds: float = WAIT_SECONDS) -> float:
        """Wait for a state; when it was there."""
        wait(lambda: self.job(job_id).state in states, seconds)
        return time.time()

    def log(self, job_id: str) -> str:
        """What it printed."""
        return self.http.get(f"/api/v1/jobs/{job_id}/logs").text

    def shims(self) -> list[int]:
        """The processes of what runs."""
        found = msgspec.json.decode(self.http.get("/api/v1/jobs?state=running").content, type=list[Job])
        return [job.attempts[-1].pid for job in found if job.attempts[-1].pid]

    def cpu(self) -> dict[str, float]:
        """CPU seconds of the server; of the zygote; and of the attempts that ended."""
        own, forks = psutil.Process(self.pid).cpu_times(), self.zygote().cpu_times()
        return {
            "server": own.user + own.system,
            "zygote": forks.user + forks.system,
            "attempts": forks.children_user + forks.children_system,
        }

    def zygote(self) -> psutil.Process:
        """The parent of all shims."""
        return next(child for child in psutil.Process(self.pid).children() if child.name() == "mlbox-zygote")

    def last_end(self, jobs: int) -> float:
        """When the last of so many that were submitted last had ended."""
        found = msgspec.json.decode(self.http.get(f"/api/v1/jobs?limit={jobs}").content, type=list[Job])
        ends = [job.ended_at.timestamp() for job in found if job.state == "succeeded" and job.ended_at]
        assert len(ends) == jobs, f"{jobs - len(ends)} of {jobs} jobs have not ended well"
        return max(ends)

    def empty(self) -> bool:
        """Whether nothing waits or runs; asked so that the answer costs the server little."""
        return not self.http.get("/api/v1/jobs?open=true&limit=1").json()


def wait(condition: Callable[[], bool], seconds: float = WAIT_SECONDS, every: float = 0.01) -> None:
    """Poll; raises TimeoutError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(every)


def _latency(report: Report, box: Client, jobs: int) -> None:
    """From before the request to the first thing that the command does: say what time it is."""
    seconds = []
    for _ in range(jobs):
        before = time.time()
        job_id = box.submit("date", "+%s.%N")
        box.until(job_id, "succeeded")
        seconds.append(float(box.log(job_id)) - before)
    seconds.sort()
    report.at_most("submit to running, p50", median(seconds) * 1000, 50, "ms")
    report.at_most("submit to running, p99", seconds[int(len(seconds) * 0.99)] * 1000, 250, "ms")


def _rate(report: Report, box: Client, jobs: int, rounds: int, *, patience: float) -> None:
    """Trivial jobs from the first submission to the last one's end, beside as many processes without mlbox, in turn."""
    report.tell("to make a folder, at first", _until_folders_are_made_soon(box, patience), "µs")
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:  # to remove files makes ext4 slower at making others: later
        _rates(report, box, jobs, [Path(folder) / str(number) for number in range(rounds)])


def _until_folders_are_made_soon(box: Client, patience: float) -> float:
    """Wait until a folder beside those of jobs is made as soon as one is anywhere; in µs, also where that does not come."""
    beside, end = box.data / "jobs", time.monotonic() + patience
    while True:
        took = _folder_us(beside)
        if took <= FOLDER_US or time.monotonic() > end:
            return took
        time.sleep(10)


def _folder_us(beside: Path) -> float:
    """CPU of making one, of some that stay: to remove them would do what is waited for."""
    probe = Path(tempfile.mkdtemp(prefix=".probe-", dir=beside))
    began = time.process_time()
    for number in range(50):
        (probe / str(number)).mkdir()
    return (time.process_time() - began) / 50 * 1e6


def _rates(report: Report, box: Client, jobs: int, rounds: list[Path]) -> None:
    rates: dict[str, list[float]] = {"bare": [], "raw": [], "ours": []}
    spent: list[dict[str, float]] = []
    for folder in rounds:
        used = {}
        for what, run in (("bare", _bare), ("raw", _recorded)):
            start, before = time.perf_counter(), time.process_time() + _of_children()
            run(jobs, folder)
            rates[what].append(jobs / (time.perf_counter() - start))
            used[what] = time.process_time() + _of_children() - before
        cpu = box.cpu()
        start = time.time()
        each(box.url, box.token, [post("/api/v1/jobs", {"command": TRIVIAL, **LITTLE})] * jobs)
        wait(box.empty, every=0.05)  # whoever asks more often takes what is measured
        rates["ours"].append(jobs / (box.last_end(jobs) - start))
        wait(lambda: not box.zygote().children())  # until then nobody knows what they used
        spent.append(used | {what: seconds - cpu[what] for what, seconds in box.cpu().items()})
    for what, name in CPU.items():
        report.tell(name, median([each[what] for each in spent]) / jobs * 1000, "ms")
    report.tell("bare processes a second", median(rates["bare"]), "/s")
    report.tell("processes a second, output and end on disk (raw limit)", median(rates["raw"]), "/s")
    report.at_least("trivial jobs a second", median(rates["ours"]), 100, "/s")
    report.at_least("of the raw rate", _of(rates["ours"], rates["raw"]), 0.5, "times")
    report.tell("of the rate of bare processes", _of(rates["ours"], rates["bare"]), "times")


def _of(some: list[float], others: list[float]) -> float:
    return median([a / b for a, b in zip(some, others, strict=True)])


def _bare(jobs: int, nowhere: Path) -> None:
    for _ in range(jobs):
        subprocess.run(TRIVIAL, check=True)


def _recorded(jobs: int, root: Path) -> None:
    """Each in a folder of its own, and its end as mlbox keeps it: whole and on disk, or not there."""

    def run(folder: Path) -> None:
        folder.mkdir(parents=True)
        with (folder / "log").open("wb") as log:
            code = subprocess.run(TRIVIAL, stdout=log, stderr=log, check=False).returncode
        write_atomic(folder / "status", str(code).encode())

    with ThreadPoolExecutor(RAW_THREADS) as threads:
        list(threads.map(run, [root / str(number) for number in range(jobs)]))


def _of_children() -> float:
    """CPU seconds of the processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _running(report: Report, box: Client, jobs: int) -> None:
    """What a running job costs beside its own command: its shim, and its share of the server's growth."""
    before = memory_mb(box.pid)[0]
    ids = [box.submit("sleep", "600") for _ in range(jobs)]
    for job_id in ids:
        box.until(job_id, "running")
    grown = max(0.0, memory_mb(box.pid)[0] - before) / jobs
    shims = [memory_mb(box.job(job_id).attempts[0].pid or 0)[1] for job_id in ids]
    report.at_most("memory of a running job", max(shims) + grown, 15, "MB")
    for job_id in ids:
        box.http.post(f"/api/v1/jobs/{job_id}/stop").raise_for_status()
    wait(box.empty)


def _giving_way(report: Report, box: Client) -> None:
    """An urgent job, on a box that a lower one fills: until it runs, and until the lower one runs again."""
    names = ("urgent job running after the grace", "the victim running again")
    script = "trap '' TERM; while :; do sleep 0.05; done"
    low = box.submit("sh", "-c", script, cpus=CPUS, priority="low", checkpoints=True, grace_seconds=GRACE_SECONDS)
    box.until(low, "running")
    start = time.time()
    urgent = box.submit("sleep", "1", cpus=CPUS, priority="urgent")
    try:
        ran = box.until(urgent, "running", seconds=20)
    except TimeoutError:
        for name in names:
            report.skip(name, "the urgent job did not start within 20 s")
    else:
        report.at_most(names[0], ran - start - GRACE_SECONDS, 0.5, "s")
        freed = box.until(urgent, "succeeded")
        report.at_most(names[1], box.until(low, "running") - freed, 1, "s")
    for job_id in (low, urgent):
        box.http.post(f"/api/v1/jobs/{job_id}/stop")
    wait(box.empty)


def _queue(report: Report, box: Client, jobs: int) -> None:
    """A long queue behind a job that holds everything."""
    blocker = box.submit("sleep", "3600", cpus=CPUS)
    box.until(blocker, "running")
    before = memory_mb(box.pid)[0]
    start = time.perf_counter()
    each(box.url, box.token, [post("/api/v1/jobs", {"command": TRIVIAL, **LITTLE, "cpus": CPUS})] * jobs)
    report.tell("submissions a second into a queue", jobs / (time.perf_counter() - start), "/s")
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        box.http.get("/api/v1/queue").raise_for_status()
        seconds.append(time.perf_counter() - start)
    report.tell(f"the first page of {jobs:,} queued jobs, with reasons", median(seconds) * 1000, "ms")
    report.at_most(f"memory of {jobs:,} queued jobs", memory_mb(box.pid)[0] - before, 50, "MB")


def _decision(report: Report, jobs: int) -> None:
    """What to start, out of a long queue."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    devices = tuple(Device(f"gpu{at}", at) for at in range(8))
    waiting = tuple(
        Waiting(f"{at:06}", Need(1 + at % 4, 1, 1), now - timedelta(seconds=at), team=f"team{at % 5}")
        for at in range(jobs)
    )
    running = tuple(
        Running(f"r{at}", Need(1, 1, 1), now - timedelta(hours=1), devices=(f"gpu{at}",)) for at in range(7)
    )
    state = State(Box(devices, 64, 256), waiting, running)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        decide(state, now)
        seconds.append(time.perf_counter() - start)
    report.at_most(f"decision over {jobs:,} queued jobs", median(seconds) * 1000, 50, "ms")


if __name__ == "__main__":
    raise SystemExit(main())
