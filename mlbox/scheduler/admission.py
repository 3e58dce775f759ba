"""Who may submit which job: what is asked before a job is queued, whether a person submits it or a cron in that person's name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import msgspec

from mlbox.errors import NotAuthorised, NotFound
from mlbox.outcomes import each
from mlbox.records import DatasetVersion, Job, JobPlan, JobSpec, Principal, Rerun
from mlbox.scheduler.divergence import check_rules
from mlbox.scheduler.scheduler import Scheduler, default_experiment
from mlbox.store.access.secrets import Secrets
from mlbox.store.access.teams import Teams
from mlbox.store.asking import asking
from mlbox.store.jobs.notices import check_notify
from mlbox.store.jobs.sharing import Sharing

RERUN_OF = "mlbox.rerun_of"
"""The tag that names the job which another one repeats."""


class Admission:
    """The way into the queue. `account` gives a user's principal, or None for one who may not sign in."""

    def __init__(
        self,
        scheduler: Scheduler,
        sharing: Sharing,
        teams: Teams,
        secrets: Secrets,
        datasets: Callable[[str], DatasetVersion],
        account: Callable[[str], Principal | None],
    ) -> None:
        self._scheduler = scheduler
        self._sharing = sharing
        self._teams = teams
        self._secrets = secrets
        self._datasets = datasets
        self._account = account

    def submit(self, spec: JobSpec, *, principal: Principal, job_id: str | None = None) -> Job:
        """Queue a job; raises NotAuthorised, NotFound for a dataset or secret, InvalidInput for what can never run."""
        return self._scheduler.submit(self.resolve(spec, principal), user=principal.name, job_id=job_id)

    def submit_each(self, asked: Sequence[tuple[JobSpec, Principal]]) -> list[Job | Exception]:
        """Queue the jobs of many who ask at the same time, those of each together: each job, or why it is not queued."""
        jobs: list[Job | Exception] = []
        for principal, group in itertools.groupby(asked, key=lambda one: one[1]):
            with asking(principal):
                specs = each(lambda one: self.resolve(*one), group)
                jobs += self._scheduler.submit_each(specs, user=principal.name)
        return jobs

    def submit_as(self, user: str, spec: JobSpec, *, job_id: str) -> Job:
        """As `submit`, in a user's name; raises NotAuthorised where the user may not sign in any more."""
        principal = self._account(user)
        if principal is None:
            raise NotAuthorised(f"{user} may not sign in any more.", hint="Let somebody else own this.")
        with asking(principal):
            return self.submit(spec, principal=principal, job_id=job_id)

    def rerun(self, job: Job, *, principal: Principal, name: str | None = None) -> Rerun:
        """Queue a job again as a new one: the same code, command, data, environment and seed; raises as `submit` does."""
        given = job.spec.name if name is None else name
        spec = msgspec.structs.replace(job.spec, name=given, tags={**job.spec.tags, RERUN_OF: job.id})
        differs = self._scheduler.differences(job)
        return Rerun(job=self.submit(spec, principal=principal), differs=tuple(differs))

    def plan(self, spec: JobSpec, *, principal: Principal) -> JobPlan:
        """What would come of submitting a job now; raises as `submit` does."""
        return self._scheduler.plan(self.resolve(spec, principal), user=principal.name)

    def check(self, spec: JobSpec, principal: Principal) -> None:
        """Raise as `submit` does, without submitting anything."""
        self._scheduler.check(self.resolve(spec, principal))

    def resolve(self, spec: JobSpec, principal: Principal) -> JobSpec:
        """What a job asks for with each name made definite, and allowed; raises as `submit` does."""
        self._teams.require(principal, "job.submit", team=spec.team)
        self._teams.require_known(spec.team)
        self._sharing.check_queue(spec.queue, spec.team, self._teams.team_of(f"{spec.queue}."))
        self._teams.require(principal, "run.create", name=spec.experiment or default_experiment(spec.team))
        check_rules(spec.rules)
        check_notify(spec.notify)
        datasets = tuple(self._dataset(ref) for ref in spec.datasets)
        return msgspec.structs.replace(spec, datasets=datasets, secrets=self._use_secrets(spec, principal))

    def _dataset(self, ref: str) -> str:
        try:
            return self._datasets(ref).ref
        except NotFound as err:
            err.field = "datasets"  # of the job, whatever the store calls it
            raise

    def _use_secrets(self, spec: JobSpec, principal: Principal) -> dict[str, str]:
        """By variable, as TEAM/NAME; raises unless whoever submits is a member of the secret's team."""
        if not spec.secrets:
            return {}
        found = self._secrets.resolve(spec.secrets, team=spec.team, env=spec.env)
        for team in {reference.partition("/")[0] for reference in found.values()}:
            self._teams.require(principal, "secret.use", team=team)
        return found
