"""The commands by which a policy judges a version: each a job, begun once, found again after a restart.

A job that runs too long is ended by the command's own timeout, as the scheduler ends any job; one whose promotion ended in the
meantime is stopped. What it printed last is kept with the promotion's evidence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from mlbox.errors import InvalidInput, MlboxError, NotFound
from mlbox.events import EventBus
from mlbox.ids import new_id
from mlbox.records import (
    CommandGate,
    CommandRun,
    Event,
    GateCommand,
    Job,
    JobSpec,
    Principal,
    Promotion,
    PromotionPolicy,
)
from mlbox.store.artifacts import Artifacts
from mlbox.store.registry.gate_runs import GateRun, GateRuns
from mlbox.store.registry.policies import check_policy

WRAPPER = ("python", "-P", "-m", "mlbox.sdk.gate_job")
"""It lays the version's files and the requests down, and becomes the command."""
LOG_BYTES = 64 * 1024
ENDS = frozenset(f"job.{state}" for state in ("succeeded", "failed", "stopped", "timed_out", "lost"))
UNDER_WAY = frozenset(
    f"promotion.{what}" for what in ("proposed", "waiting_traffic", "testing", "integration", "command")
)


class Jobs(Protocol):
    """What a box can do with jobs."""

    def submit(self, user: str, spec: JobSpec, *, job_id: str) -> Job:
        """Queue one in a user's name; raises MlboxError where it is refused."""

    def check(self, spec: JobSpec, principal: Principal) -> None:
        """Raise as `submit` does, and queue nothing."""

    def find(self, job_id: str) -> Job:
        """One by its id; raises NotFound."""

    def tail(self, job_id: str, most: int) -> str:
        """The end of what it printed."""

    def stop(self, job_id: str, reason: str) -> None:
        """End it; raises Conflict where it has ended."""

    def team_of(self, model: str) -> str:
        """The team that owns a model."""


class GateJobs:
    """Runs commands, and tells `ended` of a promotion whose command has ended, or that has no more use for it."""

    def __init__(self, runs: GateRuns, jobs: Jobs, artifacts: Artifacts, bus: EventBus) -> None:
        self._runs = runs
        self._jobs = jobs
        self._artifacts = artifacts
        self._awaited: dict[str, str] = {}
        """Promotions by the job that they wait for."""
        self.ended: Callable[[str], object] = lambda promotion_id: None
        self.close = bus.subscribe(self._on_event, ["job.", "promotion."])

    def check(self, policy: PromotionPolicy, model: str, principal: Principal) -> None:
        """Raise InvalidInput, naming the field, for a policy that is none, and for a command that this box can never run."""
        check_policy(policy)
        for gate, command in commands_of(policy).items():
            try:
                if command.code:
                    self._artifacts.path(command.code)
                self._jobs.check(_spec(gate, command, model, 0, self._jobs.team_of(model)), principal)
            except (InvalidInput, NotFound) as err:
                hint = err.hint or "Send the code first: `mlbox model policy MODEL --set FILE` does."
                raise InvalidInput(f"The {gate} command cannot run: {err.message}", hint=hint, field=gate) from err

    def run(self, promotion: Promotion, gate: CommandGate, command: GateCommand) -> CommandRun | None:
        """What came of a promotion's command; None while it runs, and it is begun where it was not."""
        run = self._runs.find(promotion.id, gate)
        try:
            job = self._job(run) or self._submit(promotion, gate, command, run)
        except MlboxError as err:
            return CommandRun(gate=gate, command=command.command, code=command.code, state="failed", reason=err.message)
        if job.ended_at is None:
            self._awaited[job.id] = promotion.id
            job = self._jobs.find(job.id)  # which may have ended before anyone waited for it
        if job.ended_at is None:
            return None
        self._awaited.pop(job.id, None)
        return self._outcome(gate, command, job)

    def code_of(self, job_id: str) -> str | None:
        """The SHA-256 of the code that a job was sent; None for a job that was sent none, or is gone."""
        try:
            return self._jobs.find(job_id).spec.snapshot
        except NotFound:
            return None

    def drop(self, promotion_id: str) -> None:
        """Stop what still runs for a promotion that has ended."""
        for job_id, awaiting in list(self._awaited.items()):
            if awaiting == promotion_id:
                self._awaited.pop(job_id, None)
                with contextlib.suppress(MlboxError):  # it has ended by itself
                    self._jobs.stop(job_id, "its promotion has ended")

    def _job(self, run: GateRun | None) -> Job | None:
        try:
            return self._jobs.find(run.job_id) if run is not None else None
        except NotFound:
            return None

    def _submit(self, promotion: Promotion, gate: CommandGate, command: GateCommand, run: GateRun | None) -> Job:
        """Queue a command in the name of who proposed the version, under the id that a former server noted for it, if any."""
        job_id = run.job_id if run is not None else new_id()
        if run is None:
            self._runs.begin(promotion, gate, job_id)
        self._awaited[job_id] = promotion.id
        spec = _spec(gate, command, promotion.model, promotion.version, self._jobs.team_of(promotion.model))
        return self._jobs.submit(promotion.requested_by, spec, job_id=job_id)

    def _outcome(self, gate: CommandGate, command: GateCommand, job: Job) -> CommandRun:
        run = self._runs.of_job(job.id)
        last = job.attempts[-1] if job.attempts else None
        took = (last.ended_at - last.started_at).total_seconds() if last and last.ended_at else None
        return CommandRun(
            gate=gate,
            command=command.command,
            code=command.code,
            job=job.id,
            state=job.state,
            exit_code=job.exit_code,
            seconds=took,
            reason=job.reason,
            log=self._jobs.tail(job.id, LOG_BYTES),
            requests=run.requests if run else 0,
            requests_from=run.requests_from if run else "",
        )

    def _on_event(self, event: Event) -> None:
        if event.type in ENDS:
            awaiting = self._awaited.get(event.subject.removeprefix("job:"))
            if awaiting is not None:
                self.ended(awaiting)
        elif event.type.startswith("promotion.") and event.type not in UNDER_WAY:
            named = event.data.get("promotion")
            if named in self._awaited.values():
                self.ended(str(named))


def commands_of(policy: PromotionPolicy) -> dict[CommandGate, GateCommand]:
    """The commands that a policy registers."""
    found: dict[CommandGate, GateCommand | None] = {"test": policy.test, "integration": policy.integration}
    return {gate: command for gate, command in found.items() if command is not None}


def _spec(gate: CommandGate, command: GateCommand, model: str, version: int, team: str) -> JobSpec:
    return JobSpec(
        command=(*WRAPPER, *command.command),
        name=f"{gate}-{model}-v{version}",
        team=team,
        snapshot=command.code or None,
        gpus=command.gpus,
        cpus=command.cpus,
        memory_gb=command.memory_gb,
        timeout_seconds=command.timeout_seconds,
        retries=0,
        tags={"mlbox.gate": gate, "mlbox.model": f"{model}/{version}"},
    )
