"""`mlbox model convert`: a trained model in a file as ONNX, with a report of how far the two are apart."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from mlbox.cli.output import Output, OutputOption, note, show_one
from mlbox.errors import InvalidInput, MlboxError, Unavailable, said
from mlbox.records import Record

PICKLES = (".pkl", ".pickle", ".joblib")
TORCH = (".pt", ".pth")


class Report(Record, frozen=True, kw_only=True):
    """What was made, and its parity with the source."""

    model: str
    sample: str
    bytes: int
    rows: int
    largest_difference: float | None
    """Absolute, over all answers; None where one is no finite number or another text."""
    output: str
    """In which it is."""


def register(app: typer.Typer) -> None:
    """Add the command to `mlbox model`."""
    app.command(epilog="Example: mlbox model convert churn.joblib --sample rows.parquet --to churn.onnx")(convert)


def convert(
    source: Annotated[
        Path, typer.Argument(help="A scikit-learn estimator (.joblib, .pkl) or a whole torch module (.pt).")
    ],
    sample: Annotated[
        Path, typer.Option(help="Real inputs: rows as .npy, arrays by name as .npz, or columns as .parquet or .csv.")
    ],
    to: Annotated[Path | None, typer.Option(help="The ONNX file; by default beside the source.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Convert a model on this machine. The file is unpickled, which runs what is in it: convert your own only."""
    target = to or source.with_suffix(".onnx")
    found = _sample(sample)
    model = _model(source)
    exported = _exported(model, found, source)
    beside = target.with_suffix(".sample.npz")
    target.write_bytes(exported.onnx)
    beside.write_bytes(exported.sample())
    compared = _checks().compare_onnx(target.absolute(), beside.absolute())  # by a process in a folder of its own
    report = Report(
        model=str(target),
        sample=str(beside),
        bytes=len(exported.onnx),
        rows=compared.rows,
        largest_difference=compared.difference,
        output=compared.output,
    )
    show_one(report, output)
    note(f"Register both: run.register(NAME, {str(target)!r}, sample={str(beside)!r})")


def _exported(model: Any, found: Any, source: Path) -> Any:
    export = _needed("mlbox.sdk.export").export_onnx
    try:
        return export(model, found)
    except (MlboxError, KeyboardInterrupt):
        raise
    except Exception as err:  # of every kind: the converters raise their own, and what the model raises
        shape = "rows of numbers, as .npy" if isinstance(found, dict) else "columns by name, as .parquet or .csv"
        raise InvalidInput(
            f"{source} cannot be converted with this sample: {said(err)}.",
            hint=f"Where the model was trained on {shape}, give it such a sample.",
            field="sample",
        ) from err


def _checks() -> Any:
    return _needed("mlbox.serve.inference.check")


def _needed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise Unavailable(
            f"{err.name} is not installed.", hint="pip install 'mlbox[server]' where models are converted."
        ) from err


def _model(path: Path) -> Any:
    if path.suffix not in (*PICKLES, *TORCH):
        raise InvalidInput(
            f"{path.name} is none of {', '.join((*PICKLES, *TORCH))}.",
            hint="Save the estimator with joblib.dump, the module with torch.save.",
            field="source",
        )
    try:
        if path.suffix in TORCH:
            return _needed("torch").load(path, map_location="cpu", weights_only=False)
        return _needed("joblib").load(path)
    except (Unavailable, KeyboardInterrupt):
        raise
    except Exception as err:  # of every kind: unpickling runs what is in the file
        raise InvalidInput(f"{path} cannot be read: {said(err)}.", hint="Save it again here.", field="source") from err


def _sample(path: Path) -> Any:
    read = {".npy": _arrays, ".npz": _arrays, ".parquet": _table, ".csv": _table}.get(path.suffix)
    if read is None:
        raise InvalidInput(
            f"{path.name} is no .npy, .npz, .parquet or .csv.", hint="Keep some real inputs so.", field="sample"
        )
    try:
        return read(path)
    except (OSError, ValueError) as err:
        hint = "Give a file of real inputs." if isinstance(err, OSError) else "Save it again."
        raise InvalidInput(f"{path} cannot be read: {said(err)}.", hint=hint, field="sample") from err


def _arrays(path: Path) -> Any:
    found = _needed("numpy").load(path, allow_pickle=False)
    return found if path.suffix == ".npy" else dict(found)


def _table(path: Path) -> Any:
    name = "pyarrow.parquet" if path.suffix == ".parquet" else "pyarrow.csv"
    table = _needed(name).read_table(path) if path.suffix == ".parquet" else _needed(name).read_csv(path)
    return {column: table[column].to_numpy() for column in table.column_names}
