"""Columns of the table of runs: what one is called in an address, and what stands in its cells."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from markupsafe import Markup

from mlbox.errors import InvalidInput
from mlbox.records import Run
from mlbox.store.tracking.run_groups import Aspect, Summary
from mlbox.store.tracking.run_orders import named_value
from mlbox.store.tracking.run_words import quoted_name
from mlbox.web.pages import form

MOST = 60
"""Columns of one table."""
COMMON = 4
"""Metrics that are shown unless somebody chose: those that most of the runs have."""
ATTRIBUTES = {
    "status": "State",
    "user_id": "User",
    "experiment_name": "Experiment",
    "dataset": "Dataset",
    "duration": "Took",
    "start_time": "Began",
    "end_time": "Ended",
    "git_commit": "Commit",
    "job_id": "Job",
    "run_id": "Id",
}
Of = Literal["last", "best", "min", "max"]
ASPECTS: tuple[Of, ...] = ("last", "best", "min", "max")
_LESS = {
    *("loss", "error", "err", "rmse", "mse", "mae", "mape", "smape", "rmsle", "nll", "logloss", "deviance", "brier"),
    *(
        "perplexity",
        "ppl",
        "wer",
        "cer",
        "fid",
        "ece",
        "regret",
        "cost",
        "time",
        "seconds",
        "ms",
        "latency",
        "fpr",
        "fnr",
    ),
}
_PARTS = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])")
_PLURALS = {"metric": "metrics", "param": "params", "tag": "tags", "attribute": "attributes"}


def less_is_better(metric: str) -> bool:
    """Whether a metric's name says that less of it is better, as that of a loss or an error does."""
    return any(part.lower() in _LESS for part in _PARTS.split(metric))


class Column(NamedTuple):
    """A metric (its last, best, least or greatest value), a parameter, a tag or an attribute of runs."""

    entity: str
    key: str
    of: Of = "last"

    @property
    def id(self) -> str:
        """What it is called in an address."""
        prefix = f"{self.of}:" if self.of != "last" else ""
        return f"{prefix}{self.plain}"

    @property
    def plain(self) -> str:
        """What its value is called in a filter."""
        return f"{_PLURALS[self.entity]}.{quoted_name(self.key)}"

    @property
    def label(self) -> str:
        """What it is called on a page."""
        if self.entity == "attribute":
            return ATTRIBUTES.get(self.key, self.key)
        return self.key if self.of == "last" else f"{self.key} ({self.of})"

    @property
    def is_number(self) -> bool:
        """True where its cells are read as numbers."""
        return self.entity in ("metric", "param") or self.key == "duration"

    @property
    def extreme(self) -> Literal["last", "min", "max"]:
        """Which value of a metric it is, where the best is one of the others."""
        if self.of == "best":
            return "min" if less_is_better(self.key) else "max"
        return self.of

    @property
    def aspect(self) -> Aspect:
        """A metric as groups know it."""
        return Aspect(self.key, self.extreme)

    def order(self, *, ascending: bool) -> str:
        """How runs are ordered by it."""
        prefix = "num:" if self.entity in ("param", "tag") else f"{self.extreme}:" if self.extreme != "last" else ""
        return f"{prefix}{self.plain} {'ASC' if ascending else 'DESC'}"

    @property
    def rises_first(self) -> bool:
        """Whether the first wish is its least value: of a text, and of a metric of which less is better."""
        if self.entity == "metric":
            return self.of == "min" or (self.of != "max" and less_is_better(self.key))
        return self.key not in ("start_time", "end_time", "duration")


def column(text: str, field: str = "column") -> Column:
    """The column that is called so; raises InvalidInput."""
    head, colon, rest = text.partition(":")
    of: Of = next((one for one in ASPECTS if colon and one == head), "last")
    name = rest if colon and head in ASPECTS else text
    try:
        entity, key = named_value(name)
    except InvalidInput as err:
        raise _no_column(text, field) from err
    if (entity == "attribute" and key not in ATTRIBUTES) or (of != "last" and entity != "metric"):
        raise _no_column(text, field)
    return Column(entity, key, of)


def _no_column(text: str, field: str) -> InvalidInput:
    return InvalidInput(
        f"{text[:80]!r} is no column of runs.",
        hint="For example: metrics.auc, max:metrics.auc, params.lr, tags.team, attributes.user_id",
        field=field,
    )


def columns(texts: Sequence[str]) -> list[Column]:
    """The columns of these names, each once; raises InvalidInput."""
    found = list(dict.fromkeys(column(text) for text in texts if text))
    if len(found) > MOST:
        raise InvalidInput(f"{len(found)} columns were chosen.", hint=f"Choose {MOST} at most.", field="column")
    return found


def common(runs: Sequence[Run]) -> list[Column]:
    """What is shown unless somebody chose: the metrics that most of the runs have, between state and time."""
    counts = Counter(key for run in runs for key in run.metrics if not key.startswith("system/"))
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:COMMON]
    metrics = [Column("metric", key) for key, _ in sorted(most)]
    rest = [Column("attribute", key) for key in ("dataset", "duration", "start_time")]
    return [Column("attribute", "status"), *metrics, *rest]


class Cell(NamedTuple):
    """What stands in a cell: its kind says how it looks."""

    kind: Literal["badge", "time", "link", "text", "number", "none"]
    text: str = ""
    raw: Markup = Markup("")
    href: str = ""
    at: datetime | None = None
    under: str = ""
    css: str = ""


NONE = Cell("none")


def cell(one: Column, run: Run, experiment: str, now: datetime) -> Cell:
    """A run's value in a column."""
    if one.entity == "metric":
        return _metric(one, run)
    if one.entity == "param":
        return Cell("text", run.params[one.key]) if one.key in run.params else NONE
    if one.entity == "tag":
        return Cell("text", run.tags[one.key]) if one.key in run.tags else NONE
    return _attribute(one.key, run, experiment, now)


def _metric(one: Column, run: Run) -> Cell:
    value = run.metrics[one.key].value if one.key in run.metrics else None
    if one.extreme != "last":
        ends = run.extremes.get(one.key)
        value = None if ends is None else ends[one.extreme == "max"]
    return NONE if value is None else Cell("number", form.number(value), form.raw(value))


def _attribute(key: str, run: Run, experiment: str, now: datetime) -> Cell:
    if key == "status":
        return Cell("badge", run.status)
    if key in ("start_time", "end_time"):
        at = run.started_at if key == "start_time" else run.ended_at
        return Cell("time", at=at) if at else NONE
    if key == "duration":
        if run.status == "SCHEDULED":
            return NONE
        took = (run.ended_at or now) - run.started_at
        return Cell("number", form.span(took), form.raw(took, "s"))
    if key == "git_commit":
        return Cell("text", run.git_commit[:10]) if run.git_commit else NONE
    if key == "dataset":
        return Cell("link", run.dataset, href=f"/datasets/{run.dataset}") if run.dataset else NONE
    if key == "job_id":
        return Cell("link", run.job_id[-8:], href=f"/jobs/{run.job_id}") if run.job_id else NONE
    return Cell("text", {"user_id": run.user, "experiment_name": experiment, "run_id": run.id}[key])


def summary(one: Column, found: Summary) -> Cell:
    """What a metric comes to in a group: its best value, and the mean under it."""
    best = found.low if less_is_better(one.key) else found.high
    if best is None:
        return NONE
    return Cell("number", form.number(best), form.raw(best), under=f"mean {form.number(found.mean)}")
