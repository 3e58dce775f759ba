"""`mlbox model compare`: two versions on the same rows."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show, show_one
from mlbox.cli.refs import split
from mlbox.errors import InvalidInput
from mlbox.records import CompareSpec, Comparison

COLUMNS = (
    "segment",
    "rows",
    "outcome",
    "first",
    "second",
    "difference",
    "low",
    "high",
    "p_value",
    "rows_to_decide",
    "note",
)
Ref = Annotated[str, typer.Argument(metavar="MODEL/VERSION")]
Names = Annotated[list[str], typer.Option(help="A column; may be given again.")]


def register(app: typer.Typer) -> None:
    """Add the command to `mlbox model`."""
    app.command(
        epilog="Example: mlbox model compare flight-delay/2 flight-delay/3 --dataset flights-test@v1 --label late"
    )(compare)


def compare(
    first: Ref,
    second: Ref,
    dataset: Annotated[str, typer.Option(help="NAME@vN: rows that neither was trained on.")],
    label: Annotated[str, typer.Option(help="The column with the truth.")],
    metric: Annotated[
        str, typer.Option(help="auc, accuracy, precision, recall, f1, log_loss, brier, mae, mse or rmse.")
    ] = "auc",
    margin: Annotated[float, typer.Option(help="How much worse is no worse.")] = 0.0,
    entity: Names = [],  # noqa: B006 - typer makes a list of its own for each call
    segment: Names = [],  # noqa: B006
    output: OutputOption = Output.table,
) -> None:
    """Say how much better the second version is than the first, how sure that is, and how many rows would decide."""
    (model, one), (other, two) = split(first), split(second)
    if model != other:
        raise InvalidInput(f"{first} and {second} are of two models.", hint="Compare versions of one.", field="second")
    given = {
        "dataset": dataset,
        "label": label,
        "metric": metric,
        "margin": margin,
        "entity": entity,
        "segments": segment,
    }
    try:
        spec = msgspec.convert(given, type=CompareSpec)
    except msgspec.ValidationError as err:
        raise InvalidInput(f"{metric!r} is not compared.", hint="See --help for the metrics.", field="metric") from err
    with connect(timeout_seconds=600) as client:
        body = {"first": one, "second": two, "spec": spec}
        found = client.post(f"/api/v1/models/{model}/compare", Comparison, body)
    if output is not Output.table:
        show_one(found, output)
        return
    show(found.found, COLUMNS, output)
    for note in (found.words, *found.notes):
        typer.echo(note, err=True)
