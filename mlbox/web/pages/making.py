"""The forms that data begins with: a source, definitions of features, a dataset version, a label set."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from litestar import Response, get
from litestar.params import QueryParameter

from mlbox.definition_text import MOST_CHARACTERS
from mlbox.records import Definitions, DType, LabelPolicy, LabelSet, Record, SourceKind, TransformSpec, ViewSpec
from mlbox.transfer.definition_file import to_toml
from mlbox.web.box import Box
from mlbox.web.pages.view import View, part

From = Annotated[str | None, QueryParameter(name="from")]
"""What a form is filled with: the name is a word of Python's."""
MOST = 200
"""Names that a field offers."""
VALUES = ("BOOL", "INT64", "FP64", "STRING")
"""What a label can be."""
BLANK = """\
[[views]]
name = "recent_spend"
join_keys = [{ name = "customer", dtype = "STRING" }]
features = [{ name = "spend_7d", dtype = "FP64", unit = "€", description = "Of the last seven days." }]
sources = ["purchases"]
ttl = "30d"
sql = '''
SELECT customer, bought AS event_time,
  sum(amount) OVER (PARTITION BY customer ORDER BY bought RANGE INTERVAL 7 DAY PRECEDING) AS spend_7d
FROM purchases'''
"""


def _spec(kind: type[Record], found: Any) -> Any:
    return kind(**{name: getattr(found, name) for name in kind.__struct_fields__})


def _definition(box: Box, ref: str) -> Definitions:
    """A view or transform as it is, to be changed."""
    if box.features.is_transform(ref):
        return Definitions(transforms=(_spec(TransformSpec, box.features.transform(ref)),))
    return Definitions(views=(_spec(ViewSpec, box.features.view(ref)),))


def _features(view: View, from_: str | None) -> dict[str, Any]:
    view.section = "/features"
    return {
        "ref": from_,
        "text": to_toml(_definition(view.box, from_)) if from_ else BLANK,
        "most": MOST_CHARACTERS,
    }


@get("/new/features", include_in_schema=False, action="view.apply")
async def new_features(view: View, from_: From = None) -> Response[bytes]:
    """Definitions in TOML, planned before they are applied; those of a view or transform where one is named."""
    return await view.page("new_features.html", lambda: _features(view, from_))


def _source(view: View) -> dict[str, Any]:
    view.section = "/features"
    return {"dtypes": get_args(DType)}


@get("/new/source", include_in_schema=False, action="source.create")
async def new_source(view: View) -> Response[bytes]:
    """A source's columns and times."""
    return await view.page("new_source.html", lambda: _source(view))


def _dataset(view: View) -> dict[str, Any]:
    view.section, box = "/datasets", view.box
    return {
        "sets": part(lambda: [one.name for one in box.labels.sets()]).value or [],
        "services": part(lambda: [one.ref for one in box.features.services(limit=MOST)]).value or [],
        "features": part(
            lambda: [f"{v.ref}:{f.name}" for v in box.features.views(limit=MOST) for f in v.features]
        ).value
        or [],
        "known": part(lambda: [one.ref for one in box.datasets.versions(limit=MOST)]).value or [],
    }


# A job's token may make a dataset, and sees no form that tells what else there is.
@get("/new/dataset", include_in_schema=False, action="view.apply")
async def new_dataset(view: View) -> Response[bytes]:
    """A dataset version, from a file or from features and labels."""
    return await view.page("new_dataset.html", lambda: _dataset(view))


def _labels(view: View, from_: str | None) -> dict[str, Any]:
    view.section, box = "/labels", view.box
    found: LabelSet | None = box.labels.declared(from_) if from_ else None
    return {
        "found": found,
        "dtypes": VALUES,
        "policies": get_args(LabelPolicy),
        "kinds": get_args(SourceKind),
        "sources": part(lambda: [one.name for one in box.features.sources(limit=MOST)]).value or [],
    }


@get("/new/labels", include_in_schema=False, action="label.create")
async def new_labels(view: View, from_: From = None) -> Response[bytes]:
    """A label set, or another declaration of one that is named."""
    return await view.page("new_labels.html", lambda: _labels(view, from_))


handlers: list[Any] = [new_features, new_source, new_dataset, new_labels]
