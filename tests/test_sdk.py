"""The SDK against a real server: what a training script does."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mlbox
from mlbox import context
from mlbox.client import Client
from mlbox.errors import InvalidInput, MlboxError, NotAuthenticated, NotFound, Unavailable
from mlbox.records import Column, DataFile, DatasetVersion, Run
from mlbox.sdk.datasets import Dataset
from mlbox.sdk.export import Exported
from tests.conftest import Server
from tests.models import linear
from tests.web.served import Site


@pytest.fixture
def box(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mlbox.Box]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with mlbox.connect(server.url, server.token) as made:
        yield made


@pytest.fixture(autouse=True)
def spool(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLBOX_SPOOL", str(tmp_path_factory.mktemp("spool")))
    monkeypatch.setenv("MLBOX_RECORD", "0")


def test_the_public_names_are_few_sorted_and_all_there() -> None:
    assert mlbox.__all__ == sorted(mlbox.__all__)
    assert len(mlbox.__all__) <= 10
    assert all(getattr(mlbox, name) for name in mlbox.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mlbox.nothing  # type: ignore[attr-defined]


def test_importing_it_loads_nothing() -> None:
    heavy = "{'httpx', 'msgspec', 'numpy', 'pyarrow', 'litestar', 'typer'}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, mlbox; print({heavy} & set(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"


def test_a_run_is_logged_and_ends_as_its_block_does(box: mlbox.Box) -> None:
    with box.run("delay", name="first", params={"lr": 0.1, "layers": [1, 2]}) as run:
        for step in range(1200):
            run.log(step=step, loss=1 / (step + 1))
        run.log(odd=float("nan"))
        run.log_tags({"kind": "test"})
    found = box.client.get(f"/api/v1/runs/{run.id}", Run)
    assert (found.status, found.params, found.tags) == (
        "FINISHED",
        {"lr": "0.1", "layers": "[1, 2]"},
        {"kind": "test"},
    )
    assert len(box.client.get(f"/api/v1/runs/{run.id}/metrics/loss", list[dict], limit=10_000)) == 1200
    with pytest.raises(ZeroDivisionError), box.run("delay") as failing:
        1 / 0  # noqa: B018
    assert box.client.get(f"/api/v1/runs/{failing.id}", Run).status == "FAILED"


def test_no_point_is_lost_while_the_server_restarts(make_server: Callable[..., Server]) -> None:
    server = make_server()
    port = server.url.rsplit(":", 1)[1]
    with mlbox.connect(server.url, server.token) as box:
        run = box.run("delay")
        run.log(step=1, loss=1.0)
        run.flush()
        server.stop(signal.SIGKILL)
        run.log(step=2, loss=0.5)
        flushed = threading.Thread(target=run.flush)
        flushed.start()
        again = make_server("--port", port, data_dir=server.data_dir)
        flushed.join(60)
        run.end()
        points = again.http.get(f"/api/v1/runs/{run.id}/metrics/loss").json()
    assert [p["step"] for p in points] == [1, 2]


def test_no_point_is_lost_when_the_box_stays_away_for_longer(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlbox.sdk.runs.RETRY_SECONDS", 0)
    server = make_server()
    port = server.url.rsplit(":", 1)[1]
    with mlbox.connect(server.url, server.token) as box:
        run = box.run("delay")
        server.stop(signal.SIGKILL)
        run.log(step=1, loss=1.0)
        with pytest.raises(Unavailable):
            run.flush()
        run.log(step=2, loss=0.5)
        run.end()
        again = make_server("--port", port, data_dir=server.data_dir)
        run.log(step=3, loss=0.4)  # late, and sent at once with what waited
        points = again.http.get(f"/api/v1/runs/{run.id}/metrics/loss").json()
    assert run.record is not None
    assert ([p["step"] for p in points], run.record.status) == ([1, 2, 3], "FINISHED")


def test_a_script_that_dies_leaves_a_failed_run_with_all_it_logged(server: Server) -> None:
    script = "import mlbox\nrun = mlbox.run('delay')\nprint(run.id)\nrun.log(step=1, loss=0.5)\n1 / 0\n"
    env = {**os.environ, "MLBOX_URL": server.url, "MLBOX_TOKEN": server.token}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    run = server.http.get(f"/api/v1/runs/{done.stdout.strip()}").json()
    assert (run["status"], run["metrics"]["loss"]["value"]) == ("FAILED", 0.5), done.stderr


def test_numpy_numbers_are_numbers_and_a_bad_point_is_refused_where_it_is_logged(box: mlbox.Box) -> None:
    with box.run("delay") as run:
        run.log(step=np.int64(3), loss=np.float32(0.5))  # type: ignore[arg-type]
        for metrics, step in (({"": 1.0}, 0), ({"m" * 257: 1.0}, 0), ({"m": 1.0}, 2**63)):
            with pytest.raises(InvalidInput):
                run.log_metrics(metrics, step=step)
        for odd in ("high", None, [1.0, 2.0], 10**400):
            with pytest.raises(InvalidInput, match="and should be a number"):
                run.log(loss=odd)  # type: ignore[arg-type]
    assert box.client.get(f"/api/v1/runs/{run.id}", Run).metrics["loss"].step == 3


def test_what_a_notebook_shows_is_a_table_without_markup_of_others(box: mlbox.Box) -> None:
    run = box.run("delay", name="<b>first</b>")
    for shown in (run, run.record):
        assert "&lt;b&gt;first" in shown._repr_html_()
    assert repr(run) == f"ActiveRun({run.id}, RUNNING)"
    run.end()
    assert repr(run) == f"ActiveRun({run.id}, FINISHED)"


def test_a_stored_token_goes_to_no_other_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("MLBOX_URL", "MLBOX_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    context.save("http://mine:8265", "stored")
    assert context.resolve() == context.resolve("http://mine:8265/") == ("http://mine:8265", "stored")
    with pytest.raises(NotAuthenticated, match="No token for http://other:1"):
        mlbox.connect("http://other:1")
    monkeypatch.setenv("MLBOX_URL", "http://job:1")
    monkeypatch.setenv("MLBOX_TOKEN", "of-the-job")
    assert context.resolve() == ("http://job:1", "of-the-job")
    assert context.resolve("http://mine:8265") == ("http://mine:8265", "stored")
    assert context.resolve("http://other:1", "given") == ("http://other:1", "given")
    with pytest.raises(NotAuthenticated):
        context.resolve("http://other:1")
    monkeypatch.delenv("MLBOX_URL")
    assert context.resolve("http://other:1") == ("http://other:1", "of-the-job")


def test_an_artifact_goes_up_from_a_file_or_from_bytes(box: mlbox.Box, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with box.run("delay") as run:
        assert run.log_artifact(tmp_path / "notes.txt").path == "notes.txt"
        assert run.log_artifact(b"x" * 10, "deep/er.bin").size == 10
        assert run.log_artifact(b"x", "a b?c=1#d.txt").path == "a b?c=1#d.txt"
    with pytest.raises(ValueError, match="as_="):
        run.log_artifact(b"x")


def test_a_job_runs_the_code_of_a_folder_and_adopts_its_run(box: mlbox.Box, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "train.py").write_text(
        "import mlbox\nwith mlbox.run(params={'lr': 1}) as run:\n    run.log(step=1, loss=0.5)\nprint(run.id)\n"
    )
    job = box.wait(box.submit("python train.py", workdir=code, experiment="delay", name="t", memory_gb=1))
    assert job.state == "succeeded", box.client.request("GET", f"/api/v1/jobs/{job.id}/logs").decode()
    run = box.client.get(f"/api/v1/runs/{job.run_id}", Run)
    assert (run.status, run.params["lr"], run.metrics["loss"].value) == ("FINISHED", "1", 0.5)
    assert box.client.request("GET", f"/api/v1/jobs/{job.id}/logs").decode().strip() == run.id


def test_the_server_names_its_errors_to_the_caller(box: mlbox.Box) -> None:
    with pytest.raises(NotFound, match="no dataset 'nothing'"):
        box.dataset("nothing")
    with pytest.raises(NotFound, match="no view"):
        box.features(["nope:x"], [{"a": 1}])
    with pytest.raises(MlboxError):
        box.predict("nothing", entities=[{"a": 1}])


def test_without_a_box_it_says_how_to_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("MLBOX_URL", "MLBOX_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotAuthenticated, match="mlbox login"):
        mlbox.connect()


# -- data and models ----------------------------------------------------------------------------------------------------------


def test_a_dataset_is_read_and_an_onnx_file_of_ones_own_registered_with_its_sample(
    box: mlbox.Box, server: Server, tmp_path: Path
) -> None:
    Site(server)
    data = box.dataset("sales")
    matrix = data.matrix()
    assert (matrix.X.dtype, matrix.X.shape, matrix.features) == (np.float32, (60, 1), ("spend@v1:amount",))
    assert set(matrix.y) == {0, 1}
    assert [column.name for column in data.columns][-2:] == ["spend@v1:amount", "good"]
    assert "sales@v1" in data._repr_html_()
    (tmp_path / "m.onnx").write_bytes(linear([1.0]).SerializeToString())
    np.savez(tmp_path / "s.npz", inputs=matrix.X, outputs=1 / (1 + np.exp(-matrix.X[:, 0].astype(np.float64))))
    with box.run("e", dataset="sales@v1") as run:
        bare = run.register("own", tmp_path / "m.onnx")
        whole = run.register("own", tmp_path / "m.onnx", sample=tmp_path / "s.npz", metrics={"auc": 0.5})
    assert (bare.sample, whole.version, whole.metrics) == (None, 2, {"auc": 0.5})
    assert whole.sample is not None


def test_a_frame_becomes_a_version_whatever_made_it(box: mlbox.Box) -> None:
    import pandas as pd
    import polars as pl

    rows = {"who": [f"c{n % 7}" for n in range(100)], "x": [n / 4 for n in range(100)]}
    how = {
        "split": {"train": 0.6, "test": 0.4},
        "split_keys": ["who"],
        "description": "made here",
        "tags": {"tier": "gold"},
    }
    made = box.create_dataset("framed", pd.DataFrame(rows), **how)
    assert (made.info.ref, made.info.rows, made.splits) == ("framed@v1", 100, ("train", "test"))
    assert (made.info.description, made.info.tags) == ("made here", {"tier": "gold"})
    assert len(made.info.git_commit or "") in (0, 40), "the commit of the folder, where it is in git"
    for same in (pl.DataFrame(rows), pa.table(rows), pa.table(rows).to_reader(max_chunksize=9)):
        assert box.create_dataset("framed", same, **how).info == made.info
    parts = [made.to_pandas(split=part) for part in made.splits]
    assert sorted(pd.concat(parts)["x"]) == rows["x"]
    assert not set(parts[0]["who"]) & set(parts[1]["who"])
    later = box.create_dataset("framed", pa.table({"x": [1.0]}), parents=["framed@v1"])
    assert later.info.parents == ("framed@v1",)


def test_a_definition_becomes_a_version_from_python_too(box: mlbox.Box, server: Server) -> None:
    Site(server)
    spine = "SELECT who, moment AS event_time FROM sales"
    made = box.create_dataset(
        "again", spine=spine, features=["spend:amount"], split={"early": "2026-01-01T00:30Z", "late": None}
    )
    assert made.info.query == spine
    assert made.features == ("spend@v1:amount",)
    with pytest.raises(InvalidInput, match="Rows and a definition"):
        box.create_dataset("again", pa.table({"x": [1.0]}), spine=spine)
    with pytest.raises(InvalidInput, match="A list is no table"):
        box.create_dataset("again", [1.0])
    with pytest.raises(InvalidInput, match="share for each part"):
        box.create_dataset("again", pa.table({"x": [1.0]}), split={"train": 0.8, "test": 0.2})


def kept(folder: Path, table: pa.Table, dtypes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> DatasetVersion:
    """A dataset version whose one file lies in the cache already."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    content = io.BytesIO()
    pq.write_table(table, content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    path = folder / "mlbox" / digest[:2] / f"{digest}.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.getvalue())
    return DatasetVersion(
        id="1",
        name="d",
        version=1,
        hash=digest,
        files=(DataFile(path="0.parquet", sha256=digest, size=len(content.getvalue()), rows=table.num_rows),),
        columns=tuple(Column(name=name, dtype=dtype) for name, dtype in dtypes.items()),  # type: ignore[arg-type]
        rows=table.num_rows,
        query="",
        label_set="l",
        created_by="ann",
        created_at=datetime.now(UTC),
    )


def test_a_matrix_rounds_to_float32_as_serving_does_and_missing_is_nan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"v@v1:n": pa.array([2**24 + 1, None], pa.int64()), "v@v1:b": [True, None], "y": [1.0, 0.0]})
    version = kept(tmp_path, table, {"v@v1:n": "INT64", "v@v1:b": "BOOL", "y": "FP64"}, monkeypatch)
    with Client("http://localhost:1", "") as nowhere:
        matrix = Dataset(nowhere, version).matrix()
    assert matrix.X[0].tolist() == [2**24, 1.0]
    assert np.isnan(matrix.X[1]).all()


@pytest.mark.parametrize("dtype", ["STRING", "TIMESTAMP"])
def test_a_feature_that_is_no_number_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    values = ["a"] if dtype == "STRING" else [datetime.now(UTC)]
    version = kept(tmp_path, pa.table({"v@v1:x": values, "y": [1.0]}), {"v@v1:x": dtype, "y": "FP64"}, monkeypatch)
    with Client("http://localhost:1", "") as nowhere, pytest.raises(InvalidInput, match=f"is a {dtype}") as caught:
        Dataset(nowhere, version).matrix()
    assert caught.value.field == "v@v1:x"


# -- export -------------------------------------------------------------------------------------------------------------------


def scores_of(exported: Exported) -> np.ndarray:
    from mlbox.serve.inference.runtime import Session

    return Session(exported.onnx).score(exported.inputs)


def rows(count: int = 64) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    values[::7, 1] = np.nan
    return values


def test_gradient_boosting_exports_with_missing_values() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    x = rows(400)
    model = HistGradientBoostingClassifier(max_iter=5).fit(x, np.nan_to_num(x).sum(axis=1) > 0)
    exported = mlbox.export_onnx(model, x)
    assert scores_of(exported) == pytest.approx(model.predict_proba(x)[:, 1], abs=1e-5)
    assert exported.outputs == pytest.approx(model.predict_proba(x)[:, 1])


def test_a_regressor_exports_its_prediction() -> None:
    from sklearn.linear_model import LinearRegression

    x = np.nan_to_num(rows())
    model = LinearRegression().fit(x, x.sum(axis=1))
    assert scores_of(mlbox.export_onnx(model, x)) == pytest.approx(model.predict(x), abs=1e-4)


@pytest.mark.slow
def test_a_torch_module_exports_for_any_number_of_rows() -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1), torch.nn.Sigmoid())
    exported = mlbox.export_onnx(model, np.nan_to_num(rows()))
    assert scores_of(exported) == pytest.approx(exported.outputs, abs=1e-5)
    assert len(exported.outputs) == 64
    assert model.training, "the caller goes on training"


def test_what_cannot_be_exported_says_why() -> None:
    with pytest.raises(InvalidInput, match="neither"):
        mlbox.export_onnx(object(), rows())
    with pytest.raises(InvalidInput, match=r"\[N, F\]"):
        mlbox.export_onnx(object(), np.zeros(3))
