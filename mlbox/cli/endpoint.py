"""`mlbox endpoint`: what serves, and predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, read_pairs, show, show_one
from mlbox.client import Client
from mlbox.errors import InvalidInput, NotFound, suggest
from mlbox.records import Endpoint, FeatureView, ModelVersion

app = typer.Typer(no_args_is_help=True, help="What serves, and predictions.")
COLUMNS = (
    "model",
    "champion",
    "candidate",
    "state",
    "percent",
    "standing",
    "champion_predictions",
    "candidate_predictions",
)
Model = Annotated[str, typer.Argument(help="The model's name.")]
_BOOLEANS = {"true": True, "false": False}
_READ: Mapping[str, Callable[[str], Any]] = {"INT64": int, "FP64": float, "BOOL": lambda text: _BOOLEANS[text.lower()]}


@app.command("ls", epilog="Example: mlbox endpoint ls")
def ls(output: OutputOption = Output.table) -> None:
    """List what serves and how the candidates stand."""
    with connect() as client:
        show(client.get("/api/v1/endpoints", list[Endpoint]), COLUMNS, output)


@app.command("show", epilog="Example: mlbox endpoint show flight-delay")
def show_endpoint(model: Model, output: OutputOption = Output.table) -> None:
    """Show one model's champion and candidate, with their traffic."""
    with connect() as client:
        show_one(_endpoint(client, model), output)


@app.command(
    epilog="Example: mlbox endpoint predict flight-delay -e carrier=UA -e origin=EWR -e dest=IAH -e tailnum=N14228"
)
def predict(
    model: Model,
    entity: Annotated[
        list[str], typer.Option("--entity", "-e", help="KEY=VALUE of the entity; may be given again.")
    ] = [],  # noqa: B006 - typer makes a list of its own for each call
    feature: Annotated[
        list[str], typer.Option("--feature", "-f", help="NAME=NUMBER, instead of a look-up; empty where missing.")
    ] = [],  # noqa: B006
    key: Annotated[str | None, typer.Option(help="What decides which version answers; by default the entity.")] = None,
    version: Annotated[int | None, typer.Option(help="Ask this version, in Staging or Production.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Ask for one prediction, by the entity's ids or by features."""
    if not entity and not feature:
        raise InvalidInput(
            "There is nothing to predict from.", hint="Give -e KEY=VALUE, or -f NAME=NUMBER.", field="entity"
        )
    with connect() as client:
        body: dict[str, Any] = {"version": version, "keys": [key] if key else []}
        if entity:
            body["entities"] = [_ids(client, model, version, read_pairs(entity, name="entity"))]
        if feature:
            body["features"] = [_numbers(read_pairs(feature, name="feature"))]
        found = client.post(f"/api/v1/models/{model}/predict", list[dict[str, Any]], body)
        show(found, ("score", "version", "role", "id"), output)


@app.command("log", epilog="Example: mlbox endpoint log flight-delay -o jsonl")
def log(
    model: Model,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 30,
    after: Annotated[str | None, typer.Option(help="Only those before the prediction with this id.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """List a model's last predictions, newest first."""
    with connect() as client:
        # Not as records: a score that is no finite number is null in JSON.
        found = client.get("/api/v1/predictions", list[dict[str, Any]], model=model, limit=limit, after=after)
        show(found, ("domain_at", "version", "role", "score", "entity", "latency_ms"), output)


def _endpoint(client: Client, model: str) -> Endpoint:
    found = {one.model: one for one in client.get("/api/v1/endpoints", list[Endpoint])}
    if model not in found:
        hint = suggest(model, found, otherwise="`mlbox endpoint ls` lists what does.")
        raise NotFound(f"Nothing serves under the name {model!r}.", hint=hint)
    return found[model]


def _ids(client: Client, model: str, version: int | None, pairs: Mapping[str, str]) -> dict[str, Any]:
    """Ids in the types that the model's views declare: 0042 is a number in one and a text in another."""
    number = version or _endpoint(client, model).champion
    found = client.get(f"/api/v1/models/{model}/versions/{number}", ModelVersion)
    views = dict.fromkeys(feature.partition(":")[0] for feature in found.features)
    keys = [key for ref in views for key in client.get(f"/api/v1/features/views/{ref}", FeatureView).join_keys]
    types = {key.name: key.dtype for key in keys}
    _check_names(pairs, types)
    return {name: _read(name, text, types[name]) for name, text in pairs.items()}


def _check_names(pairs: Mapping[str, str], known: Mapping[str, str]) -> None:
    odd = [name for name in pairs if name not in known]
    if odd:
        raise InvalidInput(
            f"{odd[0]!r} is no join key of the model's views.", hint=f"They are {_listed(known)}.", field="entity"
        )


def _listed(names: Mapping[str, str] | Sequence[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _read(name: str, text: str, dtype: str) -> Any:
    try:
        return _READ.get(dtype, str)(text)
    except (ValueError, KeyError) as err:
        raise InvalidInput(
            f"{name} is {text!r}, and {dtype} is wanted.", hint="Write it as the view declares it.", field="entity"
        ) from err


def _numbers(pairs: Mapping[str, str]) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {}
    for name, text in pairs.items():
        try:
            numbers[name] = float(text) if text else None
        except ValueError:
            numbers[name] = math.nan
        if not math.isfinite(numbers[name] or 0):
            raise InvalidInput(
                f"{name} is {text!r}, and a finite number is wanted.",
                hint=f"Write -f {name}= where it is missing.",
                field="feature",
            )
    return numbers
