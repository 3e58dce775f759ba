"""Who may do what to the run, the experiment or the logged model that a message of MLflow's names.

The paths of MLflow's REST name nothing, so the guard around every route cannot ask; each handler of this package asks here.
A job's token is for the job's own run, and for the logged models and the experiment of that run.
"""

from __future__ import annotations

import re

from mlbox.errors import InvalidInput, NotAuthorised, NotFound
from mlbox.records import Experiment, LoggedModel, Principal
from mlbox.web.box import Box
from mlbox.web.mlflow import wire

_RUN_ID = re.compile(r"[a-zA-Z0-9][\w\-]{0,255}")


def run(box: Box, principal: Principal, action: str, run_id: str) -> str:
    """A run's id, once whoever asks may do this to it; raises InvalidInput, NotFound or NotAuthorised."""
    if not run_id:
        raise missing("run_id")
    if not _RUN_ID.fullmatch(run_id):
        raise wire.invalid("run_id", run_id)
    try:
        name = box.tracker.experiment_of(run_id)
    except NotFound as err:
        raise NotFound(f"Run with id={run_id[:80]} not found", field="run_id") from err
    if action != "run.read":
        box.teams.require(principal, action, name=name)
    if principal.job_id is not None and run_id != _own_run(box, principal):
        raise _job_only("A job's token is for its own run.")
    return run_id


def experiment(box: Box, principal: Principal, experiment_id: str, action: str = "experiment.read") -> Experiment:
    """An experiment, once whoever asks may do this to it; raises InvalidInput, NotFound or NotAuthorised."""
    if not experiment_id:
        raise missing("experiment_id")
    return seen(box, principal, box.experiments.get(experiment_id), action)


def seen(box: Box, principal: Principal, found: Experiment, action: str = "experiment.read") -> Experiment:
    """This experiment, once whoever asks may do this to it; raises NotAuthorised."""
    if action != "experiment.read":
        box.teams.require(principal, action, name=found.name)
    if principal.job_id is not None:
        own = box.tracker.experiment_of(_own_run(box, principal))
        if found.name != own:
            raise _job_only(f"A job's token is for the experiment of its own run, {own!r}.")
    return found


def model(box: Box, principal: Principal, action: str, model_id: str) -> LoggedModel:
    """A logged model, once whoever asks may do this to it; raises NotFound or NotAuthorised."""
    found = box.logged_models.get(model_id)
    if action != "run.read":
        box.teams.require(principal, action, name=box.logged_models.experiment_of(model_id))
    if principal.job_id is not None and found.run_id != _own_run(box, principal):
        raise _job_only("A job's token is for the models that its own run logged.")
    return found


def no_job(principal: Principal) -> None:
    """Raise NotAuthorised for a job's token."""
    if principal.job_id is not None:
        raise _job_only("A job's token lists nothing but what its own run has.")


def missing(parameter: str) -> InvalidInput:
    """The error of a parameter that is not there."""
    return InvalidInput(
        f"Missing value for required parameter '{parameter}'.",
        hint="See the API docs for more information about request parameters.",
        field=parameter,
    )


def _own_run(box: Box, principal: Principal) -> str:
    assert principal.job_id is not None
    return box.scheduler.job(principal.job_id).run_id or ""


def _job_only(message: str) -> NotAuthorised:
    return NotAuthorised(message, hint="Use a user's token.")
