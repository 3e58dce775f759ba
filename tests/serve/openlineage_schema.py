"""What the JSON Schema of OpenLineage 2-0-2 and of its facets asks of a run event: what must be there, and of which kind."""

from __future__ import annotations

from typing import Any

import jsonschema_rs

TEXT: dict[str, Any] = {"type": "string"}
COUNT: dict[str, Any] = {"type": "integer"}
URI, TIME, UUID = ({"type": "string", "format": one} for one in ("uri", "date-time", "uuid"))


def fields(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def listed(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


BASE = fields({"_producer": URI, "_schemaURL": URI})


def facets(**known: dict[str, Any]) -> dict[str, Any]:
    """Each is a facet, and one that is known has its own fields as well."""
    both = {name: {"allOf": [BASE, one]} for name, one in known.items()}
    return {"type": "object", "properties": both, "additionalProperties": BASE}


NAMED = {"namespace": TEXT, "name": TEXT}
RUN = fields({"runId": UUID})
RUN_FACETS = facets(
    errorMessage=fields({"message": TEXT, "programmingLanguage": TEXT}, {"stackTrace": TEXT}),
    nominalTime=fields({"nominalStartTime": TIME}, {"nominalEndTime": TIME}),
    parent=fields({"run": RUN, "job": fields(NAMED)}, {"root": fields({"run": RUN, "job": fields(NAMED)})}),
    processing_engine=fields({"version": TEXT}, {"name": TEXT, "openlineageAdapterVersion": TEXT}),
)
JOB_FACETS = facets(
    jobType=fields({"processingType": TEXT, "integration": TEXT}, {"jobType": TEXT}),
    ownership=fields({}, {"owners": listed(fields({"name": TEXT}, {"type": TEXT}))}),
    sourceCodeLocation=fields(
        {"type": TEXT, "url": URI}, dict.fromkeys(("repoUrl", "path", "version", "tag", "branch"), TEXT)
    ),
)
DATASET_FACETS = facets(
    dataSource=fields({}, {"name": TEXT, "uri": URI}),
    schema=fields({}, {"fields": listed(fields({"name": TEXT}, {"type": TEXT, "description": TEXT}))}),
    version=fields({"datasetVersion": TEXT}),
)
OUTPUT_FACETS = facets(outputStatistics=fields({}, {"rowCount": COUNT, "size": COUNT, "fileCount": COUNT}))
DATASET = {"facets": DATASET_FACETS}
RUN_EVENT = fields(
    {
        "eventTime": TIME,
        "producer": URI,
        "schemaURL": URI,
        "run": fields({"runId": UUID}, {"facets": RUN_FACETS}),
        "job": fields(NAMED, {"facets": JOB_FACETS}),
    },
    {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "inputs": listed(fields(NAMED, DATASET)),
        "outputs": listed(fields(NAMED, {**DATASET, "outputFacets": OUTPUT_FACETS})),
    },
)
_VALIDATOR = jsonschema_rs.Draft202012Validator(RUN_EVENT, validate_formats=True)


def faults(event: dict[str, Any]) -> list[str]:
    """What the schema says against an event."""
    return [f"{'/'.join(map(str, one.instance_path))}: {one.message}" for one in _VALIDATOR.iter_errors(event)]
