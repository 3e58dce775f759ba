"""The scheduling policy over a trace of real jobs: completion times beside strict FIFO's on the same jobs, in the same run.

`python -m bench.scheduler_replay TRACE` (or the variable MLBOX_TRACE) reads a CSV of submit_time, duration_s, gpus, team; without
it a synthetic load of the same shape is generated. `decide` is the one that the server calls, and is never told a run time.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.harness import Report, median
from bench.plots import bars, shares
from bench.replay import CHECKPOINT_SECONDS, GRACE_SECONDS, RESTART_SECONDS, Outcome, clairvoyant, fifo, greedy, replay
from bench.trace import Job, read, scaled, synthetic
from mlbox.scheduler.policy import Box, Device, Need, Queue, Rules, Running, State, Usage, Waiting, decide

LOADS = (0.85, 1.0)
QUANTUM_SECONDS = 1800.0


def main(arguments: list[str] | None = None) -> int:
    """Replay and print."""
    chosen = _options(arguments)
    if chosen.setup:
        return 0
    trace = read(chosen.trace) if chosen.trace else synthetic(40_000)
    sizes = {8: 1000, 64: 2000} if chosen.quick else {8: 1000, 16: 1500, 32: 2000, 64: 2000}
    report = Report(
        "scheduler replay",
        conditions={
            "trace": f"{len(trace):,} jobs of {chosen.trace.name if chosen.trace else 'a synthetic load'}",
            "slices": f"{', '.join(f'{count:,} jobs on {size} GPUs' for size, count in sizes.items())}; evenly over the whole"
            " trace, none larger than the box; gaps stretched to the load",
            "a preemption costs": f"{GRACE_SECONDS:g} s to stop, what came after the last checkpoint (one in"
            f" {CHECKPOINT_SECONDS:g} s of work), {RESTART_SECONDS:g} s to go on",
        },
    )
    times = {}
    for size, count in sizes.items():
        for load in LOADS:
            jobs = scaled(trace, count, size, load)
            times[size, load] = _compare(report, jobs, size, f"{size} GPUs, load {load:g}", half=not chosen.quick)
    for load in LOADS:  # where no job is wide, FIFO wastes nothing: what is left to gain is less, and that is told
        size, count = min(sizes.items())
        narrow = [job for job in trace if job.gpus <= size // 4]
        _tell_narrow(
            report, scaled(narrow, count, size, load), size, f"{size} GPUs, load {load:g}, jobs of at most {size // 4}"
        )
    if chosen.plots:
        _plot(chosen.plots, times)
    _decisions(report, repeats=5 if chosen.quick else 15)
    return report.finish()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    named = os.environ.get("MLBOX_TRACE")
    parser.add_argument("trace", nargs="?", type=Path, default=Path(named) if named else None)
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw scheduling-*.svg there")
    parser.add_argument("--quick", action="store_true", help="8 and 64 GPUs only")
    parser.add_argument("--setup", action="store_true", help="nothing to install")
    return parser.parse_args(sys.argv[1:] if arguments is None else arguments)


def _compare(report: Report, jobs: list[Job], size: int, name: str, *, half: bool) -> dict[str, Outcome]:
    """One size and load; how it went by policy."""
    base = _tell_peers(report, jobs, size, name)
    default = replay(jobs, size)
    report.at_least(f"{name}: default, mean", base.mean / default.mean, 1.25, "times better")
    report.at_most(f"{name}: default, p99", default.p99 / base.p99, 1.0, "of FIFO's")
    if half:
        less = replay(jobs, size, checkpointing=0.5)
        report.tell(f"{name}: default, half of the jobs checkpoint, mean", base.mean / less.mean, "times better")
        report.tell(f"{name}: default, half of the jobs checkpoint, p99", less.p99 / base.p99, "of FIFO's")
    sliced = replay(jobs, size, quantum=QUANTUM_SECONDS)
    report.at_least(f"{name}: time-sliced, mean", base.mean / sliced.mean, 2.3, "times better")
    report.at_most(f"{name}: time-sliced, p99", sliced.p99 / base.p99, 1.4, "of FIFO's")
    _tell_costs(report, name, "default", default)
    _tell_costs(report, name, "time-sliced", sliced)
    return {"strict FIFO": base, "default": default, "time-sliced": sliced}


def _tell_narrow(report: Report, jobs: list[Job], size: int, name: str) -> None:
    base = _tell_peers(report, jobs, size, name)
    for policy, outcome in {
        "default": replay(jobs, size),
        "time-sliced": replay(jobs, size, quantum=QUANTUM_SECONDS),
    }.items():
        report.tell(f"{name}: {policy}, mean", base.mean / outcome.mean, "times better")
        report.tell(f"{name}: {policy}, p99", outcome.p99 / base.p99, "of FIFO's")


def _tell_peers(report: Report, jobs: list[Job], size: int, name: str) -> Outcome:
    """Strict FIFO, and what others make of it."""
    base = fifo(jobs, size)
    report.tell(f"{name}: FIFO, mean", base.mean / 3600, "h")
    report.tell(f"{name}: whatever fits next, mean", base.mean / greedy(jobs, size).mean, "times better")
    report.tell(f"{name}: clairvoyant SRTF, mean", base.mean / clairvoyant(jobs, size).mean, "times better")
    return base


def _tell_costs(report: Report, name: str, policy: str, outcome: Outcome) -> None:
    report.tell(f"{name}: {policy}, preemptions", outcome.preemptions / len(outcome.seconds), "a job")
    report.tell(f"{name}: {policy}, work done twice or spent on going on", outcome.lost * 100, "%")


def _plot(folder: Path, times: dict[tuple[int, float], dict[str, Outcome]]) -> None:
    """Completion times on the smallest box at full load, and the gain over FIFO at each size and load."""
    size, load = min(times)[0], max(LOADS)
    found = times[size, load]
    title = f"Jobs that are through after a time ({size} GPUs, load {load:g})"
    shares(folder / "scheduling-times.svg", title, {name: outcome.seconds for name, outcome in found.items()})
    gains = {
        f"{size}, {load:g}": {
            name: of["strict FIFO"].mean / outcome.mean for name, outcome in of.items() if name != "strict FIFO"
        }
        for (size, load), of in times.items()
    }
    bars(folder / "scheduling-gains.svg", "Mean completion time, times better than strict FIFO (GPUs, load)", gains)


# -- one decision -----------------------------------------------------------------------------------------------------


def _decisions(report: Report, repeats: int) -> None:
    """A decision with 10,000 queued jobs, in the cases that cost most."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    cases = {"all 64 GPUs busy": _queue(now, busy=True), "all 64 GPUs free": _queue(now, busy=False)}
    cases["every job asks something else"] = _queue(now, busy=True, distinct=True)
    cases["every job asks something else past a wide one"] = _queue(now, busy=True, distinct=True, wide=True)
    cases["all take turns"] = _queue(now, busy=True, quantum=QUANTUM_SECONDS)
    for name, state in cases.items():
        spent = sorted(_cpu(lambda state=state: decide(state, now)) for _ in range(repeats))
        report.at_most(f"a decision with 10,000 queued jobs, {name}", median(spent) * 1000, 50, "ms")
    gc.collect()
    tracemalloc.start()
    state = _queue(now, busy=True)
    decide(state, now)
    report.at_most("memory of 10,000 queued jobs and a decision", tracemalloc.get_traced_memory()[1] / 2**20, 50, "MB")
    tracemalloc.stop()


def _cpu(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def _queue(
    now: datetime, *, busy: bool, distinct: bool = False, wide: bool = False, quantum: float | None = None
) -> State:
    devices = tuple(Device(f"GPU-{number}", number, 80) for number in range(64))
    waiting = tuple(
        Waiting(
            id=f"job-{number:05}",
            need=Need(
                64 if wide and not number else (1, 1, 2, 8, 0.5)[number % 5], 4, 16 + number / 1e4 if distinct else 16
            ),
            submitted_at=now - timedelta(seconds=(10_000 - number) * 10, days=9 if wide and not number else 0),
            priority=("normal", "normal", "low", "high", "urgent")[number % 7 % 5],
            team=f"team-{number % 12}",
            queue=("default", "experiments", "production-retraining")[number % 3],
            attained=float(number % 40 * 900),
            checkpoints=number % 2 == 0 or quantum is not None,
        )
        for number in range(10_000)
    )
    running = tuple(
        Running(
            id=f"running-{number}",
            need=Need(1, 4, 16),
            started_at=now - timedelta(seconds=60 * number),
            devices=(f"GPU-{number}",),
            priority="urgent" if number % 4 else "normal",
            team=f"team-{number % 12}",
            checkpoints=True,
        )
        for number in range(32 if wide else 64 if busy else 0)
    )
    names = ("default", "experiments", "production-retraining")
    queues = {name: Queue(name, weight=1.0 + at, quantum_seconds=quantum) for at, name in enumerate(names)}
    usage = Usage(now, {f"team-{number}": 1e5 * number for number in range(12)})
    return State(
        Box(devices, 256, 2048), waiting, running, queues, teams=usage, queued=replace(usage, seconds={}), rules=Rules()
    )


if __name__ == "__main__":
    sys.exit(main())
