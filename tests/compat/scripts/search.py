"""Search of runs and experiments: filters, orders, and pages both ways."""

from __future__ import annotations

import math

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from people import MAJOR, refused

client = MlflowClient()
PREFIX = f"search-{MAJOR}"
experiment = client.create_experiment(PREFIX, tags={"team": "ops"})
runs = []
for number in range(7):
    run = client.create_run(experiment, run_name=f"run-{number}", tags={"parity": "even" if number % 2 == 0 else "odd"})
    runs.append(run.info.run_id)
    client.log_batch(
        runs[-1],
        metrics=[Metric("auc", number / 10, 1000 + step, step) for step in range(2)],
        params=[Param("lr", f"0.{number}")],
        tags=[RunTag("note", "with 'quotes' and %")],
    )
    client.set_terminated(runs[-1], "FINISHED" if number < 5 else "FAILED")


def names(filter: str, order: tuple[str, ...] = ("metrics.auc ASC",)) -> list[int]:
    """The numbers of the runs that match."""
    found = client.search_runs([experiment], filter, order_by=list(order))
    return [int(run.info.run_name[4:]) for run in found]


assert names("") == list(range(7))
assert names("metrics.auc > 0.35") == [4, 5, 6]
assert names("metric.auc <= 0.1 and params.lr != '0.0'") == [1]
assert names("params.lr = '0.3'") == [3]
assert names("params.lr LIKE '0.%' AND tags.parity = 'even'") == [0, 2, 4, 6]
assert names("tag.parity ILIKE 'ODD'") == [1, 3, 5]
assert names("attributes.status = 'FAILED'") == [5, 6]
assert names("status != 'FAILED' AND metrics.auc >= 0.3") == [3, 4]
assert names("run_name = 'run-2'") == [2]
assert names(f"run_id IN ('{runs[0]}', '{runs[6]}')") == [0, 6]
assert names(f"attributes.run_id NOT IN ('{runs[0]}')") == list(range(1, 7))
assert names("tags.note LIKE '%quotes%'") == list(range(7))
assert names("metrics.`auc` = 0.2") == [2]
assert names("", ("metrics.auc DESC",)) == list(range(6, -1, -1))
assert names("", ("tags.parity", "params.lr DESC")) == [6, 4, 2, 0, 5, 3, 1]
for bad in ("metrics.auc >", "auc.x = 1", "status = FAILED OR 1=1", "params.lr > '0.1'"):
    err = refused(lambda bad=bad: client.search_runs([experiment], bad))
    assert err.error_code == "INVALID_PARAMETER_VALUE", (bad, err)


def paged(order: str) -> list[str]:
    """Every run, two at a time."""
    found, token = [], None
    while True:
        page = client.search_runs([experiment], "", max_results=2, order_by=[order], page_token=token)
        found += [run.info.run_id for run in page]
        token = page.token
        if not token:
            return found


assert paged("metrics.auc ASC") == runs
assert paged("metrics.auc DESC") == runs[::-1]
assert paged("attributes.start_time ASC") == runs or MAJOR  # equal milliseconds are ordered by id

client.delete_run(runs[0])
assert names("") == list(range(1, 7))
deleted = client.search_runs([experiment], "", run_view_type=ViewType.DELETED_ONLY)
assert [run.info.run_id for run in deleted] == [runs[0]], deleted
client.restore_run(runs[0])

# -- what is not a number, and what comes twice
run = client.create_run(experiment)
for value in (math.nan, math.inf, -math.inf):
    client.log_metric(run.info.run_id, "odd", value, step=0)
assert len(client.get_metric_history(run.info.run_id, "odd")) == 3
client.log_param(run.info.run_id, "p", "1")
client.log_param(run.info.run_id, "p", "1")
assert refused(lambda: client.log_param(run.info.run_id, "p", "2")).error_code == "INVALID_PARAMETER_VALUE"

# -- experiments
others = [client.create_experiment(f"{PREFIX}-{number}") for number in range(3)]


def experiments(order: str) -> list[str]:
    """Every experiment of the prefix, one at a time."""
    found, token = [], None
    while True:
        page = client.search_experiments(
            filter_string=f"name LIKE '{PREFIX}-%'", max_results=1, order_by=[order], page_token=token
        )
        found += [experiment.experiment_id for experiment in page]
        token = page.token
        if not token:
            return found


assert experiments("name ASC") == others
assert experiments("name DESC") == others[::-1]
assert [e.name for e in client.search_experiments(filter_string=f"tags.team = 'ops' AND name = '{PREFIX}'")] == [PREFIX]
client.delete_experiment(others[0])
assert client.get_experiment(others[0]).lifecycle_stage == "deleted"
client.restore_experiment(others[0])
client.rename_experiment(others[0], f"{PREFIX}-renamed")
client.set_experiment_tag(others[0], "k", "v")
assert client.get_experiment_by_name(f"{PREFIX}-renamed").tags["k"] == "v"
assert mlflow.get_experiment_by_name(f"{PREFIX}-none") is None
assert refused(lambda: client.create_experiment(PREFIX)).error_code == "RESOURCE_ALREADY_EXISTS"
print("search ok")
