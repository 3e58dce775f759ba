"""What a person has to write anew, begun for them: text that goes into a definition file as comments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from mlbox.records import Column, TransformInput, TransformSpec, ViewSpec
from mlbox.transfer import feast_registry as feast
from mlbox.transfer.definition_file import part_toml
from mlbox.transfer.feast_sources import TYPES, type_name


class Draft(NamedTuple):
    """A heading, a definition to complete, and what Feast had."""

    title: str
    definition: str = ""
    before: str = ""

    @property
    def text(self) -> str:
        """All of it."""
        parts = (f"{self.title}\n", self.definition, f"In Feast:\n{self.before}" if self.before else "")
        return "".join(part if part.endswith("\n") else f"{part}\n" for part in parts if part)


def keyless(spec: ViewSpec) -> Draft:
    """A view without an entity, with a key that is the same in every row."""
    sql = spec.sql.replace("SELECT\n", "SELECT\n  'all' AS scope,\n", 1)
    keyed = msgspec.structs.replace(spec, join_keys=(Column(name="scope", dtype="STRING"),), sql=sql)
    return Draft(
        f"{spec.name} has no entity in Feast. With a key that is the same in every row it works here: ask with scope=all.",
        part_toml("views", keyed),
    )


def by_hand(view: feast.AnyViewSpec) -> Draft:
    """A view that computes: what it does, in Feast's words."""
    lines = [
        f"{one.function}({one.column}) over {one.time_window.seconds if one.time_window else 0} s"
        for one in view.aggregations
    ]
    return Draft(
        f"{view.name} computes in Feast. Write it as SQL with window functions, or as a job that pushes what it computed.",
        before="\n".join([*lines, _code(view.feature_transformation, view.user_defined_function)]),
    )


def of_transform(view: feast.OnDemandFeatureViewSpec, views: Mapping[str, ViewSpec]) -> Draft:
    """An on-demand view as a transform whose function is to be written."""
    sources = sorted(view.sources, key=lambda entry: entry.key)  # a map: Feast writes it in any order
    inputs = {one.name: one for entry in sources for one in _inputs(entry.value, views)}
    outputs = tuple(
        Column(name=one.name, dtype=TYPES[one.value_type], description=one.description)
        for one in view.features
        if one.value_type in TYPES
    )
    lost = [f"{one.name} {type_name(one.value_type)}" for one in view.features if one.value_type not in TYPES]
    answer = ", ".join(f'"{one.name}": ...' for one in outputs)
    spec = TransformSpec(
        name=view.name,
        inputs=tuple(inputs.values()),
        outputs=outputs,
        code=f"def {view.name}({', '.join(inputs)}):\n    return {{{answer}}}\n",
    )
    without = f" Without {', '.join(lost)}." if lost else ""
    return Draft(
        f"{view.name} is an on-demand view in Feast. Write its function in the subset that transforms take.{without}",
        part_toml("transforms", spec),
        _code(view.feature_transformation, view.user_defined_function),
    )


def _inputs(source: feast.OnDemandSource, views: Mapping[str, ViewSpec]) -> list[TransformInput]:
    if source.request_data_source is not None and source.request_data_source.request_data_options is not None:
        return [
            TransformInput(name=one.name, dtype=TYPES.get(one.value_type, "STRING"))
            for one in source.request_data_source.request_data_options.schema
        ]
    if source.feature_view_projection is not None:
        name, columns = source.feature_view_projection.feature_view_name, source.feature_view_projection.feature_columns
    elif source.feature_view is not None:
        name, columns = source.feature_view.spec.name, source.feature_view.spec.features
    else:
        return []
    known = {one.name for one in views[name].features} if name in views else {one.name for one in columns}
    return [TransformInput(name=one.name, feature=f"{name}:{one.name}") for one in columns if one.name in known]


def _code(transformation: feast.FeatureTransformationV2 | None, function: feast.UserDefinedFunction | None) -> str:
    """A function's text as Feast kept it."""
    newer = transformation.user_defined_function if transformation is not None else None
    return next(
        (one.body_text for one in (newer, function) if one is not None and one.body_text), "(its text is not kept)"
    )
