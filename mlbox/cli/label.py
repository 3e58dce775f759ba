"""`mlbox label`: label sets, labels, and which of them counts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, counted, note, read_pairs, show, show_one
from mlbox.cli.source import read_column, read_rows, typed
from mlbox.clock import parse_time
from mlbox.errors import InvalidInput
from mlbox.records import (
    FILE_FORMATS,
    Agreement,
    HeldLabel,
    LabelItem,
    Labelled,
    LabelPolicy,
    LabelSet,
    LabelSource,
    SourceCounts,
    SourceKind,
)

app = typer.Typer(no_args_is_help=True, help="Labels: outcomes that come late, twice and in conflict.")
ROWS_AT_ONCE = 10_000
Source = Annotated[
    str | None, typer.Option(help="Which of the set's sources they come from; may be left out if there is one.")
]
Pairs = Annotated[list[str], typer.Argument(metavar="COLUMN=VALUE")]


@app.command("ls", epilog="Example: mlbox label ls")
def ls(output: OutputOption = Output.table) -> None:
    """List label sets."""
    with connect() as client:
        found = client.get("/api/v1/labels", list[LabelSet])
        show(found, ("name", "keys", "value", "policy", "rows", "description"), output)


@app.command("show", epilog="Example: mlbox label show arrived_late")
def show_set(name: Annotated[str, typer.Argument()], output: OutputOption = Output.table) -> None:
    """Show a label set, how many outcomes are known, and how many are tied."""
    with connect() as client:
        show_one(client.get(f"/api/v1/labels/{name}", dict[str, Any]), output)


@app.command(epilog="Example: mlbox label create churned -k who:STRING --value churned:BOOL --source crm")
def create(
    name: str,
    key: Annotated[list[str], typer.Option("--key", "-k", help="NAME:TYPE of a join key, once for each.")],
    value: Annotated[str, typer.Option(help="NAME:TYPE of what is said: BOOL, INT64, FP64 or STRING.")],
    class_: Annotated[list[str] | None, typer.Option("--class", help="One that a value may be, once for each.")] = None,
    minimum: Annotated[float | None, typer.Option(help="The least value of a number.")] = None,
    maximum: Annotated[float | None, typer.Option(help="The greatest value of a number.")] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="NAME[:KIND[:WEIGHT]], the most trusted first; feedback, annotation, delayed or suggestion."),
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE:COLUMN=POINTER",
            help="Where the body of a source's webhook has a column, as a JSON pointer.",
        ),
    ] = None,
    each: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE=POINTER", help="The list of events in the body of a source's webhook."),
    ] = None,
    policy: Annotated[str, typer.Option(help="latest, priority, majority or weighted: which claim counts.")] = "latest",
    entities: Annotated[str, typer.Option(help="A source that says which entities there are.")] = "",
    horizon_days: Annotated[
        float | None, typer.Option(help="How far after a prediction its event may be, where it does not say which.")
    ] = None,
    description: str = "",
    output: OutputOption = Output.table,
) -> None:
    """Declare a label set, or change its sources, policy, classes or range."""
    column = read_column(value)
    wanted = LabelSet(
        name=name,
        keys=tuple(read_column(one) for one in key),
        value=column,
        classes=tuple(typed("class", one, column.dtype) for one in class_ or ()),
        minimum=minimum,
        maximum=maximum,
        sources=_with_fields([_source(one) for one in source or ()], field or [], each or []),
        policy=_one_of(policy, get_args(LabelPolicy), "policy"),
        entities=entities,
        horizon_seconds=horizon_days * 86_400 if horizon_days is not None else None,
        description=description,
    )
    with connect() as client:
        show_one(client.post("/api/v1/labels", LabelSet, wanted), output)


@app.command(epilog="Example: mlbox label append churned july.parquet --source crm")
def append(
    name: str,
    file: Path,
    source: Source = None,
    backfill: Annotated[
        bool, typer.Option(help="Believe known_at: history that is brought along, by an admin.")
    ] = False,
    format: Annotated[str | None, typer.Option(help="parquet, csv or arrow; by default from the file's name.")] = None,
) -> None:
    """Add a file's labels: keys, event_time, the value; and known_at, id, annotator, ground_truth where they are there."""
    chosen = format or FILE_FORMATS.get(file.suffix.lower())
    if chosen is None:
        raise InvalidInput(f"The name {file.name} does not say its format.", hint="Give --format.", field="format")
    query = {"format": chosen, "source": source, **({"backfill": "true"} if backfill else {})}
    with connect(timeout_seconds=600) as client:
        _tell(name, client.upload("POST", f"/api/v1/labels/{name}/rows", file, Labelled, **query))


@app.command(epilog="Example: mlbox label add churned who=c7 event_time=2026-01-02T10:00Z churned=true --source staff")
def add(
    name: str,
    row: Annotated[list[str] | None, typer.Argument(metavar="COLUMN=VALUE", help="One label.")] = None,
    file: Annotated[Path | None, typer.Option(help="Labels as JSON, one a line; - for standard input.")] = None,
    source: Source = None,
) -> None:
    """Add one label, or those of a JSON-lines file."""
    if (row is None) == (file is None):
        raise InvalidInput("There are no labels.", hint="Give COLUMN=VALUE of one, or --file.", field="labels")
    with connect(timeout_seconds=600) as client:
        labels = client.get(f"/api/v1/labels/{name}", LabelSet)
        rows = read_rows(file) if file is not None else [_row(row or [], labels)]
        total = Labelled(rows=0)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            body = {"labels": rows[start : start + ROWS_AT_ONCE], "source": source}
            total += client.post(f"/api/v1/labels/{name}/feedback", Labelled, body)
    _tell(name, total)


@app.command("import-label-studio", epilog="Example: mlbox label import-label-studio kind export.json --source staff")
def import_label_studio(name: str, file: Path, source: Source = None) -> None:
    """Add the annotations of Label Studio's JSON export: cancelled ones dropped, ground truth first, annotators kept."""
    with connect(timeout_seconds=600) as client:
        _tell(name, client.upload("POST", f"/api/v1/labels/{name}/label-studio", file, Labelled, source=source))


@app.command(epilog="Example: mlbox label publish churned --source churn_outcomes")
def publish(
    name: str,
    source: Annotated[str, typer.Option(help="The source that is made for it; by default NAME_resolved.")] = "",
    output: OutputOption = Output.table,
) -> None:
    """Have what counts written to a source, so that feature views read it as it was knowable at every moment."""
    with connect(timeout_seconds=600) as client:
        body = {"source": source or f"{name}_resolved"}
        show_one(client.post(f"/api/v1/labels/{name}/publish", LabelSet, body), output)


@app.command(epilog="Example: mlbox label held churned")
def held(name: str, output: OutputOption = Output.table) -> None:
    """Show labels that were held back, with the reasons."""
    with connect() as client:
        found: list[HeldLabel] = []
        while page := client.get(
            f"/api/v1/labels/{name}/held", list[HeldLabel], limit=1000, after=found[-1].id if found else 0
        ):
            found += page
        show(found, ("id", "source", "number", "reasons", "row", "by", "at"), output)


@app.command(epilog="""Example: mlbox label resubmit churned --correct '{"17": {"who": "c7"}}'""")
def resubmit(
    name: str,
    row: Annotated[list[int] | None, typer.Argument(metavar="ID", help="Held labels; by default all.")] = None,
    correct: Annotated[str, typer.Option(help="Corrections by id, as JSON.")] = "",
) -> None:
    """Send held labels again, as they are or with corrections."""
    try:
        corrections = msgspec.json.decode(correct, type=dict[int, dict[str, Any]], strict=False) if correct else {}
    except msgspec.MsgspecError as err:
        raise InvalidInput(f"--correct is no such JSON: {err}.", hint='{"17": {"who": "c7"}}', field="correct") from err
    body = {"ids": row or (list(corrections) if corrections else None), "corrections": corrections}
    with connect(timeout_seconds=600) as client:
        _tell(name, client.post(f"/api/v1/labels/{name}/held/resubmit", Labelled, body))


@app.command(epilog="Example: mlbox label discard churned 17 18")
def discard(name: str, row: Annotated[list[int], typer.Argument(metavar="ID")]) -> None:
    """Forget held labels."""
    with connect() as client:
        gone = client.post(f"/api/v1/labels/{name}/held/discard", dict[str, int], {"ids": row})
    note(f"{counted(gone['rows'], 'held label')} of {name} discarded.")


@app.command(epilog="Example: mlbox label review churned")
def review(name: str, limit: int = 20, output: OutputOption = Output.table) -> None:
    """Show items whose claims are tied; settle them with `mlbox label settle`, or on the page."""
    with connect() as client:
        found = client.get(f"/api/v1/labels/{name}/review", list[LabelItem], limit=limit)
        show(found, ("keys", "event_time", "claims"), output)


@app.command(epilog="Example: mlbox label settle churned true who=c7 event_time=2026-01-02T10:00Z")
def settle(name: str, value: str, item: Pairs, output: OutputOption = Output.table) -> None:
    """Decide what an item is: its keys and its event_time."""
    with connect() as client:
        labels = client.get(f"/api/v1/labels/{name}", LabelSet)
        keys = _row(item, labels)
        body = {
            "event_time": parse_time(keys.pop("event_time", ""), field="event_time"),
            "keys": keys,
            "value": typed("value", value, labels.value.dtype),
        }
        show_one(client.post(f"/api/v1/labels/{name}/review", LabelItem, body), output)


@app.command(epilog="Example: mlbox label counts churned --days 7")
def counts(name: str, days: int = 30, output: OutputOption = Output.table) -> None:
    """Show what arrived, per source and day, and how long after the events."""
    with connect() as client:
        found = client.get(f"/api/v1/labels/{name}/counts", list[SourceCounts], days=days)
        show(found, ("day", "source", "rows", "delay_seconds", "late_seconds"), output)


@app.command(epilog="Example: mlbox label agreement kind")
def agreement(name: str, output: OutputOption = Output.table) -> None:
    """Show how far those who label agree: Krippendorff's alpha, Fleiss' and Cohen's kappa, and who confuses what."""
    with connect(timeout_seconds=120) as client:
        show_one(client.get(f"/api/v1/labels/{name}/agreement", Agreement), output)


def _tell(name: str, done: Labelled) -> None:
    more = f", {done.duplicates:,} were there already" if done.duplicates else ""
    note(f"{counted(done.rows, 'label')} added to {name}{more}.")
    if done.quarantined:
        note(f"{counted(done.quarantined, 'label')} held back: `mlbox label held {name}` lists what waits.")


def _row(pairs: list[str], labels: LabelSet) -> dict[str, Any]:
    kinds = {column.name: column.dtype for column in (*labels.keys, labels.value)} | {"ground_truth": "BOOL"}
    return {
        column: typed(column, value, kinds.get(column, "STRING"))
        for column, value in read_pairs(pairs, name="COLUMN").items()
    }


def _source(text: str) -> LabelSource:
    name, _, more = text.partition(":")
    kind, _, weight = more.partition(":")
    try:
        return LabelSource(
            name=name,
            kind=_one_of(kind or "delayed", get_args(SourceKind), "source"),
            weight=float(weight) if weight else 1.0,
        )
    except ValueError as err:
        raise InvalidInput(f"{text!r} has a weight that is no number.", hint="NAME:KIND:2.5", field="source") from err


def _with_fields(sources: list[LabelSource], fields: list[str], each: list[str]) -> tuple[LabelSource, ...]:
    """Sources, with what their webhooks' bodies hold."""
    found = {one.name: one for one in sources}
    pointers = {tuple(name.partition(":")[::2]): at for name, at in read_pairs(fields, name="field").items()}
    lists = read_pairs(each, name="each")
    unknown = ({name for name, _ in pointers} | set(lists)) - set(found)
    if unknown:
        raise InvalidInput(f"{min(unknown)!r} is none of the sources.", hint="Name it by --source.", field="field")
    return tuple(
        msgspec.structs.replace(
            one,
            fields={column: at for (name, column), at in pointers.items() if name == one.name},
            each=lists.get(one.name, ""),
        )
        for one in sources
    )


def _one_of(text: str, known: tuple[Any, ...], field: str) -> Any:
    if text not in known:
        raise InvalidInput(f"{text!r} is no {field}.", hint=f"One of {', '.join(known)}.", field=field)
    return text
