"""One box, as Python sees it; and the same functions on the default box."""

from __future__ import annotations

import functools
import io
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self, Unpack
from urllib.parse import quote

import msgspec

from mlbox import context
from mlbox.client import BYTES, Client
from mlbox.errors import InvalidInput, TimedOut, Unavailable
from mlbox.ids import new_id
from mlbox.records import (
    DEFAULT_EXPERIMENT,
    BusinessSeries,
    Cron,
    CronSpec,
    CronTrigger,
    Job,
    JobPlan,
    JobSpec,
    Labelled,
    LivePerformance,
    OnlineRow,
    PostedNumbers,
    Pushed,
    Replay,
    Rerun,
    Run,
    html_table,
)
from mlbox.sdk import dataset_create, replays
from mlbox.sdk.dataset_create import AboutDataset
from mlbox.sdk.datasets import Dataset, find
from mlbox.sdk.environment import BOX, inputs, pack_inputs
from mlbox.sdk.options import JobOptions, folders, spec_of
from mlbox.sdk.runs import ActiveRun, patiently
from mlbox.sdk.snapshot import git_commit, pack, survey
from mlbox.sdk.surroundings import diff

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_SECONDS = 600
"""How long an answer of many rows may take."""
RUN_ID, JOB_ID = "MLBOX_RUN_ID", "MLBOX_JOB_ID"


class Box:
    """A connection to one box. `client` speaks its whole API."""

    def __init__(self, url: str, token: str) -> None:
        self.client = Client(url, token)

    @property
    def url(self) -> str:
        """Where the box is."""
        return self.client.url

    def __repr__(self) -> str:
        return f"Box({self.url!r})"

    def _repr_html_(self) -> str:
        return html_table({"box": self.url})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    # -- training ---------------------------------------------------------------------------------------------------

    def run(
        self,
        experiment: str = DEFAULT_EXPERIMENT,
        *,
        name: str = "",
        params: Mapping[str, Any] = {},
        tags: Mapping[str, str] = {},
        dataset: str | None = None,
    ) -> ActiveRun:
        """A run to log to; use `with`. Inside a job it is the job's own run, and the experiment is the job's."""
        words = {key: str(value) for key, value in params.items()}
        adopted = os.environ.get(RUN_ID)
        if adopted and os.environ.get(JOB_ID):
            active = ActiveRun(self.client, adopted, record=self._told_of(adopted))
            active.log_params(words)
            active.log_tags(tags)
            return active
        body: dict[str, Any] = {
            "id": new_id(),
            "experiment": experiment,
            "name": name,
            "params": words,
            "tags": dict(tags),
            "dataset": dataset,
            "git_commit": git_commit(Path.cwd()),
        }
        return ActiveRun(self.client, body["id"], start=body)

    def _told_of(self, run_id: str) -> Run | None:
        """The run as the box knows it; None while the box does not answer."""
        try:
            return self.client.get(f"/api/v1/runs/{run_id}", Run)
        except (Unavailable, TimedOut):
            return None

    def submit(self, command: Sequence[str] | str, **options: Unpack[JobOptions]) -> Job:
        """Send the code in a folder to the box and have a command (words, or one line of them) run in it as a job.

        The options are those of `mlbox submit`, and `mlbox.sdk.options.JobOptions` says what each is: name, code, workdir, env,
        gpus, gpu_memory_gb, cpus, memory_gb, image, procs, environment, queue, priority, team, retries, retry_exit_codes,
        timeout_seconds, grace_seconds, checkpoints, hyperparameters, datasets, secrets, experiment, tags, notify, rules, seed.
        What the box would refuse it refuses before anything is sent.
        """
        return self.client.post("/api/v1/jobs", Job, self._sent(command, options))

    def cron(
        self,
        cron: str,
        command: Sequence[str] | str,
        *,
        schedule: str = "",
        timezone: str = "UTC",
        on: str = "",
        misfire: Literal["once", "skip"] = "once",
        misfire_seconds: int = 86_400,
        overlap: Literal["skip", "queue", "replace"] = "skip",
        **options: Unpack[JobOptions],
    ) -> Cron:
        """Have a job submitted again and again, with the code of now: by a schedule of five fields, or `on` something.

        `on` is `dataset:NAME`, for each new version, or `alert:MODEL`, when an alert of the model fires. The options are those of
        `submit`. Raises InvalidInput for a schedule that is none, or never comes.
        """
        kind, _, about = on.partition(":")
        if on and (kind not in ("dataset", "alert") or not about):
            raise InvalidInput(
                f"{on!r:.80} says nothing that happens.", hint="Write dataset:NAME or alert:MODEL.", field="on"
            )
        self.client.get("/api/v1/crons/preview", dict[str, Any], schedule=schedule or "0 0 * * *", timezone=timezone)
        spec = CronSpec(
            name=cron,
            job=self._sent(command, options),
            schedule=schedule,
            timezone=timezone,
            on=CronTrigger(kind=kind, name=about) if on else None,  # type: ignore[arg-type]  # looked at above
            misfire=misfire,
            misfire_seconds=misfire_seconds,
            overlap=overlap,
        )
        return self.client.post("/api/v1/crons", Cron, spec)

    def _sent(self, command: Sequence[str] | str, options: JobOptions) -> JobSpec:
        """What is asked for, once the box has the code; refused before anything is sent, if it is."""
        folder, below = folders(options)
        spec, code = spec_of(command, options), survey(folder)
        needed = inputs(str(options.get("environment", BOX)), folder)
        self._plan(spec)
        changes = diff(folder)
        return msgspec.structs.replace(
            spec,
            workdir=below,
            snapshot=self._send_code(pack(code)),
            environment=self._send_code(pack_inputs(needed)) if needed else "",
            git_commit=git_commit(folder),
            git_diff=self._send_code(io.BytesIO(changes)) if changes else None,
        )

    def rerun(self, job: Job | str, *, name: str | None = None) -> Rerun:
        """Submit a job (or one by its id or name) again as it was; the new one, and in words what is not as it was."""
        word = job if isinstance(job, str) else job.id
        return self.client.post(f"/api/v1/jobs/{quote(word, safe='')}/rerun", Rerun, {"name": name})

    def plan(self, command: Sequence[str] | str, **options: Unpack[JobOptions]) -> JobPlan:
        """Where and when a job would run that is submitted as `submit` says, or why it would wait; nothing is sent or queued."""
        folder, below = folders(options)
        survey(folder)
        inputs(str(options.get("environment", BOX)), folder)
        return self._plan(msgspec.structs.replace(spec_of(command, options), workdir=below))

    def _plan(self, spec: JobSpec) -> JobPlan:
        return self.client.post("/api/v1/job-plan", JobPlan, spec)

    def _send_code(self, packed: BinaryIO) -> str:
        with packed:
            sent = self.client.upload("POST", "/api/v1/snapshots", packed, dict[str, Any])
        return str(sent["sha256"])

    def wait(self, job: Job, *, seconds: float = 24 * 3600, every: float = 0.5) -> Job:
        """The job once it has ended, a restart of the box on the way or not; raises TimedOut."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = patiently(lambda: self.client.get(f"/api/v1/jobs/{job.id}", Job))
            if found.ended_at is not None:
                return found
            time.sleep(every)
        raise TimedOut(f"The job {job.id} has not ended after {seconds:g} s.", hint="Wait longer.")

    # -- data and models --------------------------------------------------------------------------------------------

    def dataset(self, ref: str) -> Dataset:
        """A dataset version (`NAME@vN`, or the latest of `NAME`); its files are mounted, or fetched when needed."""
        return find(self.client, ref)

    def create_dataset(
        self,
        name: str,
        rows: Any = None,
        *,
        spine: str = "",
        features: Sequence[str] = (),
        labels: str | None = None,
        event_from: datetime | None = None,
        event_to: datetime | None = None,
        as_of: datetime | None = None,
        **about: Unpack[AboutDataset],
    ) -> Dataset:
        """A new version, of `rows` in their order, or of a spine with features and labels as they were known.

        `rows` is a pandas or polars frame, an Arrow table, or a reader of one, which may be larger than memory. `spine` is one
        SELECT of entities and event_time; without it the rows are what is labelled. What became known after `as_of` is left out.
        Both take `split` (shares, with the entity's keys in `split_keys`, or moments), parents, description and tags; the
        commit that the current folder is at goes with them. The same again is the same version.
        """
        given = dataset_create.about(**about)
        if rows is not None:
            if spine or features or labels or event_from or event_to or as_of:
                raise InvalidInput("Rows and a definition were given.", hint="Leave one of them out.", field="rows")
            return Dataset(self.client, dataset_create.from_rows(self.client, name, rows, given))
        given |= {"spine": spine, "features": list(features), "label_set": labels}
        given |= {"event_from": event_from, "event_to": event_to, "as_of": as_of}
        return Dataset(self.client, dataset_create.from_definition(self.client, name, given))

    def features(self, features: Sequence[str], entities: Sequence[Mapping[str, Any]]) -> list[OnlineRow]:
        """The latest values of features (references, or a service) of entities."""
        body = {"features": list(features), "entities": [dict(entity) for entity in entities]}
        return self.client.post("/api/v1/features/online", list[OnlineRow], body)

    def historical(
        self,
        features: Sequence[str],
        rows: Any,
        *,
        event_time: str = "event_time",
        known: Literal["then", "latest"] = "then",
    ) -> pa.Table:
        """Rows (an Arrow table, a pandas frame, or dicts) with features as they were known at each row's time, in their order.

        `rows` has a column for each join key and the moments that are asked about. What was unknown or expired is null. With
        `known="latest"` counts what is known by now.
        """
        import pyarrow as pa

        if isinstance(rows, pa.Table):
            table = rows
        elif isinstance(rows, Sequence):
            table = pa.Table.from_pylist([dict(row) for row in rows])
        else:
            table = pa.Table.from_pandas(rows, preserve_index=False)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        query = {"feature": list(features), "event_time": event_time, "known": known, "format": "arrow"}
        answer = self.client.send(
            "POST",
            "/api/v1/features/historical",
            content=sink.getvalue().to_pybytes(),
            headers=BYTES,
            query=query,
            timeout_seconds=ROWS_SECONDS,
        )
        with pa.ipc.open_stream(answer) as reader:
            return reader.read_all()

    def push(
        self,
        source: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        to: Literal["online_and_offline", "online", "offline"] = "online_and_offline",
    ) -> Pushed:
        """Add rows to a source as known from now on, and online at once; how many went in and are online.

        Times are datetimes with a zone, or text as ISO 8601.
        """
        return self.client.post(f"/api/v1/sources/{quote(source, safe='')}/push", Pushed, {"rows": rows, "to": to})

    def label(self, label_set: str, rows: Sequence[Mapping[str, Any]], *, source: str | None = None) -> Labelled:
        """Say what came true: rows of the set's keys, `event_time` and the value; how many are new, known, and held back.

        A row may have `id`, `annotator`, `known_at` and `ground_truth`. Sent again it is nothing new.
        """
        body = {"labels": rows, "source": source}
        return self.client.post(f"/api/v1/labels/{quote(label_set, safe='')}/feedback", Labelled, body)

    def performance(
        self,
        model: str,
        *,
        labels: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        every: timedelta | None = None,
        segment: str | None = None,
    ) -> list[LivePerformance]:
        """How each version in each role does by the labels that are known so far, with coverage and maturity.

        `labels` is by default the label set of the data that the model learned from. Of predictions from `since` to before
        `until`, moments with a zone, in domain time; with `every`, of each span of that length by itself; with
        `segment`, a feature or a key, of each of its 20 most frequent values, or each tenth of its numbers.
        """
        query = {
            "labels": labels,
            "since": since.isoformat() if since else None,
            "until": until.isoformat() if until else None,
            "every_seconds": int(every.total_seconds()) if every else None,
            "segment": segment,
        }
        path = f"/api/v1/monitoring/{quote(model, safe='')}/performance"
        return self.client.get(path, list[LivePerformance], **query)

    def post_outcomes(self, model: str, outcomes: Sequence[Mapping[str, Any]]) -> PostedNumbers:
        """Say in numbers what came of a model's predictions; each is a series on its page, compared by version.

        Each has a name, a value, and `prediction_id`, or `at` (domain time, by default now) and `version`. Sent again, it
        replaces the former one.
        """
        return self.client.post("/api/v1/outcomes", PostedNumbers, {"model": model, "outcomes": list(outcomes)})

    def business(self, model: str, *, every: timedelta | None = None) -> list[BusinessSeries]:
        """What came of a model's predictions, a series for each number and version."""
        path = f"/api/v1/monitoring/{quote(model, safe='')}/business"
        query = {"every_seconds": int(every.total_seconds()) if every else None}
        return self.client.get(path, list[BusinessSeries], **query)

    def predict(
        self,
        model: str,
        *,
        entities: Sequence[Mapping[str, Any]] = (),
        features: Sequence[Mapping[str, Any]] = (),
        keys: Sequence[str] = (),
    ) -> list[float]:
        """Scores of rows, by their entities' ids or by features."""
        body = {"entities": list(entities), "features": list(features), "keys": list(keys)}
        found = self.client.post(f"/api/v1/models/{quote(model, safe='')}/predict", list[dict[str, Any]], body)
        return [row["score"] for row in found]

    def replay(
        self,
        ref: str,
        *,
        against: str | int = replays.CHAMPION,
        window: timedelta | None = None,
        last: int = 10_000,
        seconds: float = replays.SECONDS,
    ) -> Replay:
        """What a version, such as fraud@3, answers to logged requests, offline, beside the champion or another version.

        Of the last requests, in a window of domain time up to now. Waits for it; raises TimedOut where it takes longer.
        """
        span = window.total_seconds() if window is not None else None
        return replays.replay(self.client, ref, against=against, last=last, window_seconds=span, seconds=seconds)


def connect(url: str | None = None, token: str | None = None) -> Box:
    """A box by URL and token, or the one of the environment or the current context.

    A URL alone takes the token that is known for it; raises NotAuthenticated where none is.
    """
    return Box(*context.resolve(url, token))


@functools.cache
def _default_of(url: str, token: str) -> Box:
    return Box(url, token)


def _default() -> Box:
    return _default_of(*context.resolve())


@functools.wraps(Box.run, assigned=("__doc__", "__name__"))
def run(*args: Any, **kwargs: Any) -> ActiveRun:
    return _default().run(*args, **kwargs)


@functools.wraps(Box.submit, assigned=("__doc__", "__name__"))
def submit(*args: Any, **kwargs: Any) -> Job:
    return _default().submit(*args, **kwargs)


@functools.wraps(Box.dataset, assigned=("__doc__", "__name__"))
def dataset(ref: str) -> Dataset:
    return _default().dataset(ref)


@functools.wraps(Box.features, assigned=("__doc__", "__name__"))
def features(*args: Any, **kwargs: Any) -> list[OnlineRow]:
    return _default().features(*args, **kwargs)


@functools.wraps(Box.historical, assigned=("__doc__", "__name__"))
def historical(*args: Any, **kwargs: Any) -> pa.Table:
    return _default().historical(*args, **kwargs)


@functools.wraps(Box.push, assigned=("__doc__", "__name__"))
def push(*args: Any, **kwargs: Any) -> Pushed:
    return _default().push(*args, **kwargs)


@functools.wraps(Box.predict, assigned=("__doc__", "__name__"))
def predict(*args: Any, **kwargs: Any) -> list[float]:
    return _default().predict(*args, **kwargs)
