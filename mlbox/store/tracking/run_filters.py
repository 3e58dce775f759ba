"""What of runs a filter may name, and each of its clauses as SQL over `run` with bound values."""

from __future__ import annotations

from mlbox.store.tracking.filters import Bound, Clause, Grammar, comparison

ADDRESS = "'mlflow-artifacts:/' || run.experiment_id || '/' || run.id || '/artifacts'"
ENTITIES = {
    **dict.fromkeys(("metric", "metrics"), "metric"),
    **dict.fromkeys(("param", "params", "parameter", "parameters"), "param"),
    **dict.fromkeys(("tag", "tags"), "tag"),
    **dict.fromkeys(("attribute", "attributes", "attr", "run"), "attribute"),
    **dict.fromkeys(("dataset", "datasets"), "dataset"),
}
TABLES = {"metric": "series", "param": "param", "tag": "tag"}
"""Where the values are that a run has by name."""
COLUMNS = {
    "run_id": "run.id",
    "run_name": "run.name",
    "status": "run.status",
    "user_id": "run.user",
    "artifact_uri": ADDRESS,
    "start_time": "run.started_us / 1000",
    "end_time": "run.ended_us / 1000",
    "duration": "(run.ended_us - run.started_us) / 1000",
    "experiment_name": "(SELECT name FROM experiment WHERE experiment.id = run.experiment_id)",
    "dataset": "coalesce(run.dataset, '')",
    "git_commit": "coalesce(run.git_commit, '')",
    "job_id": "coalesce(run.job_id, '')",
}
OWN_TEXTS = frozenset({"experiment_name", "dataset", "git_commit", "job_id"})
"""Texts of a run that MLflow has no words for."""
RUNS = Grammar(
    entities=ENTITIES,
    texts=frozenset({"run_id", "run_name", "status", "user_id", "artifact_uri"}) | OWN_TEXTS,
    numbers=frozenset({"start_time", "end_time", "duration"}),
    lists=frozenset({"run_id"}),
    aliases={
        "created": "start_time",
        "Created": "start_time",
        **dict.fromkeys(("run name", "Run name", "Run Name"), "run_name"),
    },
    datasets=frozenset({"name", "digest", "context"}),
)
PARENT = "mlflow.parentRunId"


def compile_run(clause: Clause) -> Bound:
    """A clause about a run as SQL over `run`."""
    if clause.entity == "attribute":
        return comparison(COLUMNS[clause.key], clause.comparator, clause.value)
    if clause.entity == "dataset":
        column = (
            "json_extract(run_dataset.tags, '$.\"mlflow.data.context\"')"
            if clause.key == "context"
            else f"dataset.{clause.key}"
        )
        sql, values = comparison(column, clause.comparator, clause.value)
        joined = "run_dataset JOIN dataset ON dataset.id = run_dataset.dataset"
        return f"EXISTS (SELECT 1 FROM {joined} WHERE run_dataset.run_id = run.id AND {sql})", values
    return pair_condition(f"{TABLES[clause.entity]} WHERE run_id = run.id", clause)


def pair_condition(rows: str, clause: Clause) -> Bound:
    """A clause about a key and its value, which are a row of another table."""
    if clause.comparator == "IS NULL":
        return f"NOT EXISTS (SELECT 1 FROM {rows} AND key = ?)", [clause.key]
    if clause.comparator == "IS NOT NULL":
        return f"EXISTS (SELECT 1 FROM {rows} AND key = ?)", [clause.key]
    sql, values = comparison("value", clause.comparator, clause.value)
    return f"EXISTS (SELECT 1 FROM {rows} AND key = ? AND {sql})", [clause.key, *values]
