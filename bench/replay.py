"""Simulated boxes: the policy of the server, and the peers that it is compared with."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count

from bench.trace import Job
from mlbox.scheduler.policy import (
    Box,
    Device,
    Need,
    Queue,
    Rules,
    Running,
    State,
    Usage,
    Waiting,
    charge,
    decide,
    holding,
)

CHECKPOINT_SECONDS = 600.0
RESTART_SECONDS = 60.0
GRACE_SECONDS = 10.0
_ORIGIN = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass
class Outcome:
    """How it went: seconds from submission to the end, by job."""

    seconds: list[float]
    preemptions: int = 0
    lost: float = 0.0
    """Of all work, the part that was done twice or spent on going on."""

    @property
    def mean(self) -> float:
        """Mean completion time."""
        return statistics.fmean(self.seconds)

    @property
    def p99(self) -> float:
        """Its 99th percentile."""
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


# -- peers ------------------------------------------------------------------------------------------------------------


def fifo(jobs: list[Job], gpus: int) -> Outcome:
    """Strictly in the order of submission: who does not fit holds up all behind."""
    free, now, running, done = gpus, 0.0, [], []
    for job in jobs:
        now = max(now, job.at)
        while running and (running[0][0] <= now or free < job.gpus):
            end, part = heapq.heappop(running)
            free, now = free + part, max(now, end)
        free -= job.gpus
        heapq.heappush(running, (now + job.seconds, job.gpus))
        done.append(now + job.seconds - job.at)
    return Outcome(done)


def greedy(jobs: list[Job], gpus: int) -> Outcome:
    """Whatever fits, in the order of submission, with no regard for who is passed."""
    free, next_, waiting, running = gpus, 0, list[int](), list[tuple[float, int]]()
    done = [0.0] * len(jobs)
    while next_ < len(jobs) or running:
        now = min(running[0][0] if running else float("inf"), jobs[next_].at if next_ < len(jobs) else float("inf"))
        while running and running[0][0] <= now:
            free += jobs[heapq.heappop(running)[1]].gpus
        while next_ < len(jobs) and jobs[next_].at <= now:
            waiting.append(next_)
            next_ += 1
        left = []
        for number in waiting:
            job = jobs[number]
            if job.gpus <= free:
                free -= job.gpus
                heapq.heappush(running, (now + job.seconds, number))
                done[number] = now + job.seconds - job.at
            else:
                left.append(number)
        waiting = left
    return Outcome(done)


def clairvoyant(jobs: list[Job], gpus: int) -> Outcome:
    """Shortest remaining time first, preempting for nothing: what no scheduler can know or do, as a bound."""
    left = [job.seconds for job in jobs]
    done = [0.0] * len(jobs)
    present: list[int] = []
    next_, now = 0, 0.0
    while next_ < len(jobs) or present:
        free, chosen = gpus, []
        for number in sorted(present, key=lambda number: left[number]):
            if jobs[number].gpus <= free:
                free -= jobs[number].gpus
                chosen.append(number)
        arrives = jobs[next_].at if next_ < len(jobs) else float("inf")
        ends = min((now + left[number] for number in chosen), default=float("inf"))
        until = min(arrives, ends)
        for number in chosen:
            left[number] -= until - now
        now = until
        for number in [number for number in chosen if left[number] <= 1e-6]:
            done[number] = now - jobs[number].at
            present.remove(number)
        while next_ < len(jobs) and jobs[next_].at <= now:
            present.append(next_)
            next_ += 1
    return Outcome(done)


# -- the policy -------------------------------------------------------------------------------------------------------


@dataclass
class _Attempt:
    began: float
    restart: float
    """Seconds until it does something new."""
    stops: float | None = None


class _Simulation:
    """A box on which the policy decides at every event."""

    def __init__(
        self, jobs: list[Job], gpus: int, queue: Queue, rules: Rules, checkpoints: Callable[[int], bool]
    ) -> None:
        self._jobs = jobs
        self._queue = queue
        self._rules = rules
        self._box = Box(tuple(Device(f"gpu-{at}", at) for at in range(gpus)), cpus=4.0 * gpus, memory_gb=32.0 * gpus)
        self._needs = {size: Need(size, cpus=size, memory_gb=size) for size in {job.gpus for job in jobs}}
        self._checkpoints = checkpoints
        self._left = [job.seconds for job in jobs]
        self._waiting: dict[str, Waiting] = {}
        self._running: dict[str, Running] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._promised: set[str] = set()
        self._again: set[str] = set()
        self._usage = Usage(_ORIGIN)
        self._held: dict[str, float] = {}
        self._events: list[tuple[float, int, str, str]] = []
        self._order = count()
        self._outcome = Outcome([0.0] * len(jobs))
        self._lost = 0.0

    def run(self) -> Outcome:
        """From the first submission to the last end."""
        for number, job in enumerate(self._jobs):
            self._at(job.at, "submit", str(number))
        while self._events:
            now = self._events[0][0]
            while self._events and self._events[0][0] <= now:
                _, _, what, name = heapq.heappop(self._events)
                self._happens(what, name, now)
            if not self._events or self._events[0][0] > now:
                self._decide(now)
        self._outcome.lost = self._lost / sum(job.seconds * job.gpus for job in self._jobs)
        return self._outcome

    def _at(self, when: float, what: str, name: str = "") -> None:
        heapq.heappush(self._events, (when, next(self._order), what, name))

    def _happens(self, what: str, name: str, now: float) -> None:
        if what == "submit":
            self._waiting[name] = self._queued(name)
        elif what == "stopped" and name in self._running:
            self._stopped(name, now)
        elif what.startswith("end ") and self._attempts.get(name) and what == f"end {self._attempts[name].began}":
            self._ended(name, now)
        elif what == "checkpoint" and name in self._running:
            self._running[name] = replace(self._running[name], progressed=True)

    def _queued(self, name: str) -> Waiting:
        job = self._jobs[int(name)]
        return Waiting(
            id=name,
            need=self._needs[job.gpus],
            submitted_at=_moment(job.at),
            team=job.team,
            queue=self._queue.name,
            checkpoints=self._checkpoints(int(name)),
        )

    def _decide(self, now: float) -> None:
        moment = _moment(now)
        running = tuple(self._with_checkpoint(job, now) for job in self._running.values())
        self._usage = charge(self._usage, self._held, moment, self._rules.half_life_seconds)
        waiting = tuple(
            replace(job, promised=True) if job.id in self._promised else job for job in self._waiting.values()
        )
        state = State(
            self._box, waiting, running, {self._queue.name: self._queue}, teams=self._usage, rules=self._rules
        )
        decision = decide(state, moment)
        for preemption in decision.preemptions:
            self._promised.add(preemption.for_job)
            self._attempts[preemption.job_id].stops = now
            stopping = self._running[preemption.job_id]
            self._running[preemption.job_id] = replace(
                stopping, stopping=True, stop_by=moment + timedelta(seconds=GRACE_SECONDS)
            )
            self._at(now + GRACE_SECONDS, "stopped", preemption.job_id)
        for start in decision.starts:
            self._start(start.job_id, start.devices, start.yields_to, now)
        self._held = holding(self._running.values(), self._box, "team")
        if decision.look_at is not None:
            self._at(max(now + 1.0, (decision.look_at - _ORIGIN).total_seconds()), "look")

    def _with_checkpoint(self, job: Running, now: float) -> Running:
        attempt = self._attempts[job.id]
        kept = self._kept(job.id, now)
        if not kept:
            return job
        return replace(job, checkpoint_at=_moment(attempt.began + attempt.restart + kept))

    def _kept(self, name: str, now: float) -> float:
        """The seconds of work that are safe."""
        attempt = self._attempts[name]
        done = max(0.0, (attempt.stops or now) - attempt.began - attempt.restart)
        return done // CHECKPOINT_SECONDS * CHECKPOINT_SECONDS if self._checkpoints(int(name)) else 0.0

    def _start(self, name: str, devices: tuple[str, ...], yields_to: tuple[str, ...], now: float) -> None:
        job = self._waiting.pop(name)
        self._promised.discard(name)
        restart = RESTART_SECONDS if name in self._again else 0.0
        self._attempts[name] = _Attempt(now, restart)
        self._running[name] = Running(
            id=name,
            need=job.need,
            started_at=_moment(now),
            devices=devices,
            team=job.team,
            queue=job.queue,
            attained=job.attained,
            grace_seconds=GRACE_SECONDS,
            checkpoints=job.checkpoints,
            progressed=name not in self._again,
            yields_to=yields_to,
        )
        if name in self._again and job.checkpoints:
            self._at(now + restart + CHECKPOINT_SECONDS, "checkpoint", name)
        self._at(now + restart + self._left[int(name)], f"end {now}", name)

    def _ended(self, name: str, now: float) -> None:
        del self._running[name], self._attempts[name]
        self._outcome.seconds[int(name)] = now - self._jobs[int(name)].at

    def _stopped(self, name: str, now: float) -> None:
        job = self._running.pop(name)
        kept = self._kept(name, now)
        attempt = self._attempts.pop(name)
        self._left[int(name)] -= kept
        self._lost += (now - attempt.began - kept) * job.need.gpus
        self._outcome.preemptions += 1
        self._again.add(name)
        attained = job.attained + (now - attempt.began) * job.need.gpus
        self._waiting[name] = replace(self._queued(name), attained=attained, front=True, queued_at=_moment(now))


def replay(
    jobs: list[Job], gpus: int, *, quantum: float | None = None, checkpointing: float = 1.0, rules: Rules | None = None
) -> Outcome:
    """The policy over a trace; a part of the jobs checkpoints, spread evenly."""
    queue = Queue("default", quantum_seconds=quantum)
    hundred = round(checkpointing * 100)
    return _Simulation(jobs, gpus, queue, rules or Rules(), lambda number: number * 37 % 100 < hundred).run()


def _moment(seconds: float) -> datetime:
    return _ORIGIN + timedelta(seconds=seconds)
