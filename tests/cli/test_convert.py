"""Models of several named inputs become ONNX that answers as they do; `mlbox model convert` does it from files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlbox
from mlbox.cli import main
from mlbox.errors import InvalidInput
from mlbox.records import ServingConfig
from mlbox.sdk.export import Exported
from mlbox.serve.inference.check import bench_onnx, compare_onnx, inspect_onnx
from mlbox.serve.inference.check_sample import compared
from mlbox.serve.inference.runtime import CPU, Session
from mlbox.serve.inference.warmup import warm

COLUMNS = {
    "age": np.array([20, 35, 50, 65] * 10),
    "income": np.array([1.5, 2.5, np.pi, 0.25] * 10),
    "city": np.array(["Ulm", "Bonn", "Köln", "Ulm"] * 10, object),
}


def pipeline(unknown: str = "ignore", *more: Any) -> Any:
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    prepare = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["age", "income"]),
            ("texts", OneHotEncoder(handle_unknown=unknown), ["city", *more]),
        ]
    )
    model = Pipeline([("prepare", prepare), ("model", LogisticRegression())])
    return model.fit(pd.DataFrame(COLUMNS), np.array(["no", "yes", "yes", "no"] * 10))


def session_of(exported: Exported) -> Session:
    return Session(exported.onnx, providers=CPU)


def difference(exported: Exported, folder: Path) -> float:
    path = folder / "sample.npz"
    path.write_bytes(exported.sample())
    found: float = compared(session_of(exported), path)["difference"]
    return found


def test_a_pipeline_of_numbers_and_texts_keeps_its_columns(tmp_path: Path) -> None:
    exported = mlbox.export_onnx(pipeline(), COLUMNS)
    session = session_of(exported)
    assert [(spec.name, spec.dtype) for spec in session.inputs] == [
        ("age", "INT64"),
        ("income", "FP32"),
        ("city", "BYTES"),
    ]
    assert [spec.name for spec in session.outputs] == ["label", "probabilities"]
    assert session.batched
    assert difference(exported, tmp_path) < 1e-5
    assert "inputs age, income, city" in repr(exported)


@pytest.mark.parametrize("more", [(), ("age",)])
def test_a_pipeline_that_takes_no_category_but_its_own_is_tried_with_these(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    """As scikit-learn's `OneHotEncoder()` is by default."""
    path, sample = tmp_path / "model.onnx", tmp_path / "sample.npz"
    exported = mlbox.export_onnx(pipeline("error", *more), COLUMNS)
    path.write_bytes(exported.onnx)
    sample.write_bytes(exported.sample())
    found = inspect_onnx(path)
    assert found.joins
    assert {(name, value) for name, _, value in found.known} == {("city", "Bonn"), *((name, 20) for name in more)}
    assert compare_onnx(path, sample).difference == pytest.approx(0, abs=1e-5)
    session = session_of(exported)
    assert warm(session, session.inputs, known=found.known) is not None
    assert warm(session, session.inputs) is None, "zeros and the text 0 are refused"
    _, (figure,) = bench_onnx(path, config=ServingConfig(), rows=[2], concurrency=[1], seconds=0.01)
    assert figure.p50_ms > 0


def test_words_are_counted_alike_on_a_box_without_a_language(tmp_path: Path) -> None:
    """With no locale but those that are always there, as in a container."""
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    columns = {
        "words": np.array(["From Bonn to Ulm", "FROM BONN", "to ulm", "Ulm"] * 10, object),
        "age": COLUMNS["age"].astype(np.float64),
    }
    prepare = ColumnTransformer([("words", TfidfVectorizer(), "words"), ("age", "passthrough", ["age"])])
    model = make_pipeline(prepare, LogisticRegression()).fit(pd.DataFrame(columns), np.array([0, 1, 1, 0] * 10))
    path, sample = tmp_path / "model.onnx", tmp_path / "sample.npz"
    exported = mlbox.export_onnx(model, columns)
    path.write_bytes(exported.onnx)
    sample.write_bytes(exported.sample())
    assert compare_onnx(path, sample).difference == pytest.approx(0, abs=1e-5)


def test_a_frame_is_its_columns() -> None:
    import pandas as pd

    exported = mlbox.export_onnx(pipeline(), pd.DataFrame(COLUMNS))
    assert [spec.name for spec in session_of(exported).inputs] == list(COLUMNS)


@pytest.mark.slow
def test_a_module_of_two_arguments_and_two_results_keeps_their_names(tmp_path: Path) -> None:
    import torch

    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
            hidden = self.layer(left)
            return {"sum": hidden + right, "mean": hidden.mean(dim=1)}

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    arrays = {"left": rng.normal(size=(5, 3)).astype(np.float32), "right": rng.normal(size=(5, 2)).astype(np.float32)}
    exported = mlbox.export_onnx(Two(), arrays)
    session = session_of(exported)
    assert [spec.name for spec in session.inputs] == ["left", "right"]
    assert {spec.name for spec in session.outputs} == {"sum", "mean"}
    assert session.batched
    assert difference(exported, tmp_path) < 1e-5


def test_what_is_no_sample_is_said() -> None:
    with pytest.raises(InvalidInput, match="other numbers of rows"):
        mlbox.export_onnx(pipeline(), {"age": np.zeros(3), "city": np.zeros(4)})
    with pytest.raises(InvalidInput, match="several values in a row"):
        mlbox.export_onnx(pipeline(), {"age": np.zeros((3, 2))})
    with pytest.raises(InvalidInput, match="neither a torch module"):
        mlbox.export_onnx(object(), {"age": np.zeros(3)})


def test_convert_writes_the_model_its_sample_and_how_far_they_are_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import joblib
    import pyarrow as pa
    import pyarrow.parquet as pq

    joblib.dump(pipeline(), tmp_path / "churn.joblib")
    pq.write_table(pa.table(COLUMNS), tmp_path / "rows.parquet")
    sample = str(tmp_path / "rows.parquet")
    assert main.run(["model", "convert", str(tmp_path / "churn.joblib"), "--sample", sample, "-o", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert 0 <= report["largest_difference"] < 1e-5
    assert report["rows"] == 40
    assert Session(tmp_path / "churn.onnx", providers=CPU).inputs[2].name == "city"
    with np.load(io.BytesIO((tmp_path / "churn.sample.npz").read_bytes())) as arrays:
        assert set(arrays.files) == {f"input/{name}" for name in COLUMNS} | {"output/label", "output/probabilities"}


def test_convert_writes_where_it_is_told_from_any_folder_and_says_what_sample_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import joblib
    import pyarrow as pa
    import pyarrow.parquet as pq
    from sklearn.linear_model import LogisticRegression

    monkeypatch.chdir(tmp_path)
    rows = np.arange(20.0).reshape(10, 2)
    joblib.dump(LogisticRegression().fit(rows, rows[:, 0] > 9), "churn.joblib")
    np.save("rows.npy", rows)
    pq.write_table(pa.table({"a": rows[:, 0], "b": rows[:, 1]}), "rows.parquet")
    convert = ["model", "convert", "churn.joblib", "--to", "other.onnx", "--sample"]
    assert main.run([*convert, "rows.npy"]) == 0
    assert "other.sample.npz" in capsys.readouterr().out
    assert main.run([*convert, "rows.parquet"]) == 2
    assert "trained on rows of numbers, as .npy, give it such a sample" in capsys.readouterr().err
    assert main.run([*convert, "none.npy"]) == 2
    assert "none.npy cannot be read: No such file or directory. " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("model.h5", b"", "is none of"), ("model.joblib", b"no pickle", "cannot be read")],
)
def test_what_cannot_be_converted_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "rows.npy", np.zeros((2, 2)))
    assert main.run(["model", "convert", str(tmp_path / name), "--sample", str(tmp_path / "rows.npy")]) == 2
    assert words in capsys.readouterr().err
