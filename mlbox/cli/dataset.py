"""`mlbox dataset`: dataset versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mlbox.cli import dataset_dvc
from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, counted, note, read_pairs, show, show_one
from mlbox.clock import parse_time
from mlbox.errors import InvalidInput, Unavailable
from mlbox.records import FILE_FORMATS, Column, DatasetDiff, DatasetVersion, VerifiedFile

app = typer.Typer(no_args_is_help=True, help="Dataset versions.")
dataset_dvc.register(app)
Split = Annotated[
    list[str] | None,
    typer.Option(help="A part as NAME=SHARE or NAME=MOMENT, once for each; the last part in time is just NAME."),
]
SplitKey = Annotated[
    list[str] | None, typer.Option(help="A key of the entity that shares are given out by, once for each.")
]
Parent = Annotated[list[str] | None, typer.Option(help="A version that it is made from, once for each.")]
Tag = Annotated[list[str] | None, typer.Option(help="KEY=VALUE, once for each.")]
STATISTICS = ("name", "dtype", "unit", "nulls", "min", "mean", "max", "top")
Ref = Annotated[str, typer.Argument(metavar="NAME[@vN]", help="A version, or the latest of a name.")]


@app.command(epilog="Example: mlbox dataset create flights --features before_departure --labels arrived_late")
def create(
    name: str,
    spine: Annotated[
        str, typer.Option(help="One SELECT of entities and event_time, or @FILE with it; by default what is labelled.")
    ] = "",
    features: Annotated[list[str] | None, typer.Option(help="A service or VIEW:FEATURE, once for each.")] = None,
    labels: Annotated[str | None, typer.Option(help="A label set.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="The first moment, such as 2013-01-08T00:00Z.")] = None,
    to: Annotated[str | None, typer.Option(help="The moment before which the last row is.")] = None,
    as_of: Annotated[str | None, typer.Option(help="Nothing that became known later is in it; by default now.")] = None,
    split: Split = None,
    split_key: SplitKey = None,
    parent: Parent = None,
    tag: Tag = None,
    description: str = "",
    output: OutputOption = Output.table,
) -> None:
    """Build a version from a spine, features and labels; the same data again is the same version."""
    from mlbox.sdk import dataset_create

    body = {
        **_about(split, split_key, parent, tag, description),
        "spine": _text(spine),
        "features": features or [],
        "label_set": labels,
        "event_from": from_ and parse_time(from_, field="from"),
        "event_to": to and parse_time(to, field="to"),
        "as_of": as_of and parse_time(as_of, field="as_of"),
    }
    with connect() as client:
        _tell(dataset_create.from_definition(client, name, body), output)


@app.command(
    epilog="Example: mlbox dataset upload prices prices.parquet --split train=0.8 --split test=0.2 --split-key shop"
)
def upload(
    name: str,
    file: Path,
    split: Split = None,
    split_key: SplitKey = None,
    parent: Parent = None,
    tag: Tag = None,
    description: str = "",
    format: Annotated[str | None, typer.Option(help="parquet, csv or arrow; by default from the file's name.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Keep a file's rows as a version, in their order."""
    from mlbox.sdk import dataset_create

    chosen = format or FILE_FORMATS.get(file.suffix.lower())
    if chosen is None:
        raise InvalidInput(f"The name {file.name} does not say its format.", hint="Give --format.", field="format")
    if not file.is_file():
        raise InvalidInput(f"{file} cannot be read.", hint="Give another file.", field="file")
    about = _about(split, split_key, parent, tag, description)
    with connect() as client, file.open("rb") as content:
        _tell(dataset_create.from_file(client, name, content, chosen, about), output)


def _about(
    split: list[str] | None, keys: list[str] | None, parents: list[str] | None, tags: list[str] | None, description: str
) -> dict[str, Any]:
    """What is said of a version besides its rows."""
    from mlbox.sdk import dataset_create

    named = [part.partition("=") for part in split or []]
    parts = {name: value for name, _, value in named}
    if len(parts) < len(named):
        raise InvalidInput("A part of the split is named twice.", hint="Give each a name of its own.", field="split")
    return dataset_create.about(
        split=parts,
        split_keys=keys or (),
        parents=parents or (),
        description=description,
        tags=read_pairs(tags or (), name="tag"),
    )


@app.command("ls", epilog="Example: mlbox dataset ls")
def ls(
    name: Annotated[str | None, typer.Option(help="Only versions of this dataset.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """List versions, newest first."""
    with connect() as client:
        found = client.get("/api/v1/datasets", list[DatasetVersion], name=name)
        show(found, ("name", "version", "rows", "views", "label_set", "created_by", "created_at"), output)


@app.command("show", epilog="Example: mlbox dataset show flights@v1")
def show_version(ref: Ref, output: OutputOption = Output.table) -> None:
    """Show what a version is made of."""
    with connect() as client:
        found = client.get(f"/api/v1/datasets/{ref}", DatasetVersion)
    if output is not Output.table:
        show_one(found, output)
        return
    show_one({name: getattr(found, name) for name in found.__struct_fields__ if name not in ("columns", "statistics")})
    print()
    show([_statistics(column, found) for column in found.columns], STATISTICS)


def _statistics(column: Column, version: DatasetVersion) -> dict[str, Any]:
    """What a table says of a column; the quantiles and the histogram are in the other formats."""
    known = version.statistics.get(column.name) or {}
    return {name: known.get(name, getattr(column, name, None)) for name in STATISTICS}


@app.command(epilog="Example: mlbox dataset pull flights@v1 --to data/")
def pull(ref: Ref, to: Annotated[Path, typer.Option(help="Folder to put the files into.")] = Path(".")) -> None:
    """Fetch a version's Parquet files."""
    to.mkdir(parents=True, exist_ok=True)
    with connect() as client:
        found = client.get(f"/api/v1/datasets/{ref}", DatasetVersion)
        for file in found.files:
            target = to / file.path  # of a split version in a folder of the part
            target.parent.mkdir(parents=True, exist_ok=True)
            client.download(f"/api/v1/datasets/{found.ref}/files/{file.path}", target)
            note(f"{target}: {counted(file.rows or 0, 'row')}")


@app.command(epilog="Example: mlbox dataset diff flights@v3 flights@v4")
def diff(
    before: Ref,
    after: Ref,
    key: Annotated[list[str] | None, typer.Option(help="A column that names a row, once for each.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show what two versions have different: columns, statistics, and rows by key, with examples."""
    with connect(timeout_seconds=600) as client:
        show_one(client.get(f"/api/v1/datasets/{before}/diff/{after}", DatasetDiff, key=key), output)


@app.command(epilog="Example: mlbox dataset verify flights@v1")
def verify(ref: Ref) -> None:
    """Have every file of a version read again: whether it is what it was."""
    with connect(timeout_seconds=600) as client:
        found = client.get(f"/api/v1/datasets/{ref}/verify", list[VerifiedFile])
    broken = [one for one in found if one.error]
    if broken:
        said = "; ".join(f"{one.path}: {one.error}" for one in broken[:5])
        raise Unavailable(
            f"{len(broken)} of {counted(len(found), 'file')} not what they were: {said}.", hint="Restore a backup."
        )
    note(f"{counted(len(found), 'file')} read again, and as before.")


@app.command(epilog="Example: mlbox dataset tag flights@v1 tier=gold --remove draft")
def tag(
    ref: Ref,
    pairs: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="A tag to take away, once for each.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Set tags of a version, or take them away."""
    tags: dict[str, Any] = {**read_pairs(pairs or [], name="KEY"), **dict.fromkeys(remove or [])}
    with connect() as client:
        _tell(client.post(f"/api/v1/datasets/{ref}/tags", DatasetVersion, {"tags": tags}), output)


@app.command(epilog="Example: mlbox dataset rm flights@v1")
def rm(ref: Ref) -> None:
    """Remove a version that no model in Staging or Production was trained on; for a while it can be taken back."""
    with connect() as client:
        client.delete(f"/api/v1/datasets/{ref}")
    note(f"{ref} is removed. Take it back with `mlbox dataset restore {ref}`.")


@app.command(epilog="Example: mlbox dataset restore flights@v1")
def restore(ref: Ref, output: OutputOption = Output.table) -> None:
    """Take the removal of a version back."""
    with connect() as client:
        _tell(client.post(f"/api/v1/datasets/{ref}/restore", DatasetVersion, {}), output)


def _tell(version: DatasetVersion, output: Output) -> None:
    if output is Output.table:
        size = f"{counted(version.rows, 'row')}, {counted(len(version.columns), 'column')}"
        note(f"{version.ref}: {size}, {version.hash[:12]}")
    else:
        show_one(version, output)


def _text(spine: str) -> str:
    if not spine.startswith("@"):
        return spine
    try:
        return Path(spine[1:]).read_text()
    except (OSError, UnicodeDecodeError) as err:
        raise InvalidInput(f"{spine[1:]} cannot be read.", hint="Give another file.", field="spine") from err
