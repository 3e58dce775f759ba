"""OpenLineage run events, version 2-0-2 of its specification (https://openlineage.io/spec): what ran, from what, to what.

A job of mlbox is a job, and its run has mlbox's own run id. A dataset that is built, and a feature view that is brought over, are
jobs named after what they make; a promotion is a job `promotion MODEL`, whose run is the parent of what its gates run. A cron is
the parent of what it submits. Datasets are what mlbox names: sources, views, dataset versions, label sets, model versions.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from mlbox import __version__
from mlbox.records import Column, DatasetVersion, FeatureView, Job, JobState, ModelVersion

SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
PRODUCER = f"urn:mlbox:{__version__}"
_FACETS = {
    "schema": ("1-2-0", "SchemaDatasetFacet"),
    "version": ("1-0-1", "DatasetVersionDatasetFacet"),
    "dataSource": ("1-0-1", "DatasourceDatasetFacet"),
    "outputStatistics": ("1-0-2", "OutputStatisticsOutputDatasetFacet"),
    "errorMessage": ("1-0-1", "ErrorMessageRunFacet"),
    "nominalTime": ("1-0-1", "NominalTimeRunFacet"),
    "parent": ("1-1-0", "ParentRunFacet"),
    "processing_engine": ("1-1-1", "ProcessingEngineRunFacet"),
    "sourceCodeLocation": ("1-1-0", "SourceCodeLocationJobFacet"),
    "jobType": ("2-0-3", "JobTypeJobFacet"),
    "ownership": ("1-0-1", "OwnershipJobFacet"),
}
"""By key of a facet, the version of its schema and its name."""
EventType = Literal["START", "COMPLETE", "FAIL", "ABORT"]
ENDS: dict[JobState, EventType] = {
    "succeeded": "COMPLETE",
    "failed": "FAIL",
    "timed_out": "FAIL",
    "lost": "FAIL",
    "stopped": "ABORT",
}
PROMOTIONS: dict[str, EventType] = {
    "proposed": "START",
    "completed": "COMPLETE",
    "rejected": "FAIL",
    "rolled_back": "FAIL",
    "withdrawn": "ABORT",
    "expired": "ABORT",
}
"""What of a promotion is an event, by how its own events end."""
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[!#-;=?-\[\]_a-z~]+")
"""An address as a facet of the specification takes it; `git@host:path` is none."""
GIT_URL = "mlflow.source.git.repoURL"
"""The tag of a job that says where its code is kept."""
Facets = dict[str, dict[str, Any]]


class Place(NamedTuple):
    """Whose names these are."""

    namespace: str
    url: str
    """Where people reach the server."""


def facet(key: str, **fields: Any) -> dict[str, Any]:
    """A facet with what it must say of itself; fields that are None are left out."""
    version, name = _FACETS[key]
    given = {name: value for name, value in fields.items() if value is not None}
    schema = f"https://openlineage.io/spec/facets/{version}/{name}.json#/$defs/{name}"
    return {"_producer": PRODUCER, "_schemaURL": schema, **given}


def event(
    kind: EventType,
    at: datetime,
    run: str,
    job: dict[str, Any],
    *,
    run_facets: Facets | None = None,
    inputs: Sequence[dict[str, Any]] = (),
    outputs: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """One run event."""
    engine = facet("processing_engine", version=__version__, name="mlbox")
    return {
        "eventType": kind,
        "eventTime": at.isoformat(),
        "run": {"runId": run, "facets": {"processing_engine": engine, **(run_facets or {})}},
        "job": job,
        "inputs": list(inputs),
        "outputs": list(outputs),
        "producer": PRODUCER,
        "schemaURL": SPEC,
    }


def run_id(text: str) -> str:
    """A run's UUID: mlbox's ids are UUIDs without their hyphens; anything else gets one that is always the same."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"mlbox:{text}"))


def error(reason: str) -> Facets:
    """Why a run failed."""
    message = reason or "no reason is known"
    return {"errorMessage": facet("errorMessage", message=message, programmingLanguage="python")}


def parent(place: Place, run: str, name: str) -> Facets:
    """That it was begun by a run of the job of this name."""
    return {"parent": facet("parent", run={"runId": run}, job={"namespace": place.namespace, "name": name})}


def parent_of(place: Place, job: Job) -> Facets:
    """That a job of mlbox did it."""
    return parent(place, run_of(job), job_name(job))


# -- jobs -------------------------------------------------------------------------------------------------------------------


def job_name(job: Job) -> str:
    """By which runs of the same job are one: its name, else its id."""
    return job.spec.name or job.id


def run_of(job: Job) -> str:
    """The run of a job: another after somebody retried it by hand."""
    return run_id(job.run_id or job.id)


def job_of(place: Place, job: Job) -> dict[str, Any]:
    """A job with where its code is and whose it is."""
    spec = job.spec
    owners = [{"name": f"user:{job.user}", "type": "OWNER"}, {"name": f"team:{spec.team}", "type": "TEAM"}]
    facets: Facets = {
        "jobType": facet("jobType", processingType="BATCH", integration="MLBOX", jobType="JOB"),
        "ownership": facet("ownership", owners=owners),
    }
    if spec.git_commit:
        repository = spec.tags.get(GIT_URL)
        facets["sourceCodeLocation"] = facet(
            "sourceCodeLocation",
            type="git",
            url=repository if _URI.fullmatch(repository or "") else f"{place.url}/jobs/{job.id}",
            repoUrl=repository,
            path=spec.workdir or None,
            version=spec.git_commit,
        )
    return {"namespace": place.namespace, "name": job_name(job), "facets": facets}


def nominal(job: Job) -> Facets:
    """When a job was to run: as it was submitted."""
    return {"nominalTime": facet("nominalTime", nominalStartTime=job.created_at.isoformat())}


def making(place: Place, what: str) -> dict[str, Any]:
    """The job that makes something of the box's own: `dataset churn`, `view spend@v1`."""
    kind = facet("jobType", processingType="BATCH", integration="MLBOX", jobType=what.partition(" ")[0].upper())
    return {"namespace": place.namespace, "name": what, "facets": {"jobType": kind}}


# -- datasets ---------------------------------------------------------------------------------------------------------------


def named(place: Place, kind: str, ref: str, columns: Sequence[Column] = ()) -> dict[str, Any]:
    """A dataset by what it is and its name; `@vN` or `/N` after it is its version."""
    name, _, version = ref.replace("/", "@v").partition("@v")
    facets: Facets = {"dataSource": facet("dataSource", name=place.namespace, uri=place.url)}
    if version:
        facets["version"] = facet("version", datasetVersion=version)
    if columns:
        fields = [
            {"name": one.name, "type": one.dtype, **({"description": one.description} if one.description else {})}
            for one in columns
        ]
        facets["schema"] = facet("schema", fields=fields)
    return {"namespace": place.namespace, "name": f"{kind}/{name}", "facets": facets}


def dataset(place: Place, version: DatasetVersion, *, made: bool = False) -> dict[str, Any]:
    """A dataset version; with how much there is of it where it was just made."""
    found = named(place, "dataset", version.ref, version.columns)
    if made:
        size = sum(file.size for file in version.files)
        count = facet("outputStatistics", rowCount=version.rows, size=size, fileCount=len(version.files))
        found["outputFacets"] = {"outputStatistics": count}
    return found


def inputs_of_dataset(place: Place, version: DatasetVersion) -> list[dict[str, Any]]:
    """What a dataset version was made from."""
    labels = [version.label_set] if version.label_set else []
    return [
        *(named(place, "view", ref) for ref in version.views),
        *(named(place, "labels", name) for name in labels),
        *(named(place, "dataset", ref) for ref in version.parents),
    ]


def view(place: Place, found: FeatureView, rows: int | None = None) -> dict[str, Any]:
    """A view version; with how many rows were brought over."""
    given = named(place, "view", found.ref, (*found.join_keys, *found.features))
    if rows is not None:
        given["outputFacets"] = {"outputStatistics": facet("outputStatistics", rowCount=rows)}
    return given


def model(place: Place, version: ModelVersion) -> dict[str, Any]:
    """A model version, as what a job made."""
    return named(place, "model", version.ref)
