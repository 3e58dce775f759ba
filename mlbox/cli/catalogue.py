"""`mlbox feature search|lineage|profile`: find a feature, see where it comes from and goes to, and how it is spread."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.records import FeatureHit, FeatureLineage, ViewProfile

COLUMNS = ("ref", "dtype", "entity", "unit", "owner", "team", "description")
View = Annotated[str, typer.Argument(metavar="VIEW", help="NAME, or NAME@vN for one version.")]


def search(
    words: Annotated[list[str] | None, typer.Argument(help="What the feature is about; without words, all.")] = None,
    entity: Annotated[str, typer.Option(help="Its join keys, with commas between them.")] = "",
    tag: Annotated[str, typer.Option(help="A tag's key, value, or KEY=VALUE.")] = "",
    owner: Annotated[str, typer.Option(help="Who owns it.")] = "",
    team: Annotated[str, typer.Option(help="Whose namespace it is in.")] = "",
    dtype: Annotated[str, typer.Option(help="Its type, such as FP64.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    output: OutputOption = Output.table,
) -> None:
    """Find features by words, best first; typing mistakes are forgiven."""
    query = {"q": " ".join(words or ()), "entity": entity, "tag": tag, "owner": owner, "team": team, "dtype": dtype}
    with connect() as client:
        pages = client.pages("/api/v1/features/search", FeatureHit, key="cursor", limit=min(limit, 1000), **query)
        show(list(islice(pages, limit)), COLUMNS, output)


def lineage(view: View, output: OutputOption = Output.table) -> None:
    """Show what a view comes from and what uses it, sources first."""
    with connect() as client:
        found = client.get(f"/api/v1/features/views/{view}/lineage", FeatureLineage)
    if output is Output.json:
        show_one(found, output)
        return
    users: dict[str, list[str]] = {}
    for origin, user in found.edges:
        users.setdefault(user, []).append(origin.partition(":")[2])
    rows: list[dict[str, Any]] = [
        {"kind": node.kind, "name": node.name, "from": ", ".join(users.get(node.id, ())), "features": node.features}
        for node in found.nodes
    ]
    order = ("source", "view", "transform", "service", "dataset", "model", "endpoint")
    rows.sort(key=lambda row: order.index(row["kind"]))
    show(rows, ("kind", "name", "from", "features"), output)
    if found.cut:
        note("There is more than is shown.")


def profile(
    view: View,
    refresh: Annotated[bool, typer.Option("--refresh", help="Compute the view's rows anew first.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Show how a view's values are spread, now and at each training."""
    with connect(timeout_seconds=600) as client:
        found = client.get(f"/api/v1/features/views/{view}/profile", ViewProfile, refresh=str(refresh).lower())
    if output is Output.json:
        show_one(found, output)
        return
    if not found.built:
        note(f"The rows of {found.ref} were not computed yet: materialize it, or give --refresh.")
    spread = [("now", one) for one in found.features]
    spread += [(one.dataset, one.distribution) for one in found.trainings]
    rows: list[dict[str, Any]] = [
        {
            "feature": one.feature,
            "at": at,
            "rows": one.rows,
            "nulls": one.null_share,
            "min": one.min,
            "q25": one.quantiles.get("q25"),
            "median": one.quantiles.get("q50"),
            "q75": one.quantiles.get("q75"),
            "max": one.max,
            "mean": one.mean,
            "top": [text for text, _ in one.top[:3]],
        }
        for at, one in spread
    ]
    columns = ("feature", "at", "rows", "nulls", "min", "q25", "median", "q75", "max", "mean", "top")
    rows.sort(key=lambda row: str(row["feature"]))
    show(rows, columns, output)


def register(app: typer.Typer) -> None:
    """Add the commands to `mlbox feature`."""
    app.command(epilog="Example: mlbox feature search spend last week --entity user_id --owner ada")(search)
    app.command(epilog="Example: mlbox feature lineage weather@v1")(lineage)
    app.command(epilog="Example: mlbox feature profile weather@v1")(profile)
