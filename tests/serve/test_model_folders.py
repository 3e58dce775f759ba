"""Weights in other files: of the model's own folder and no other, wherever a path in the model may lead."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mlbox.errors import InvalidInput
from mlbox.records import RunArtifact
from mlbox.serve.inference.check import inspect_onnx
from mlbox.serve.inference.runtime import CPU, Session
from mlbox.serve.registration.registration import Registration
from mlbox.store.artifacts import Artifacts
from mlbox.store.registry.model_folders import MAIN, ModelFolders, beside, own_files
from tests.models import linear
from tests.web.site import open_box

WEIGHTS = (1.0, -2.0)


def external(folder: Path, location: str = "weights.bin") -> tuple[bytes, bytes]:
    """A model and the file in which it keeps its weights."""
    path = folder / "external.onnx"
    onnx.save_model(linear(WEIGHTS), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load_model(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    return model.SerializeToString(), (folder / "weights.bin").read_bytes()


def kept(artifacts: Artifacts, path: str, content: bytes) -> RunArtifact:
    digest, size = artifacts.put([content])
    return RunArtifact(path=path, sha256=digest, size=size)


def test_a_model_is_loaded_with_the_weights_in_its_own_folder(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    model, weights = external(tmp_path)
    main, file = kept(artifacts, MAIN, model), kept(artifacts, "weights.bin", weights)
    folders = ModelFolders(artifacts)
    path = folders.of(main.sha256, [file])
    assert folders.of(main.sha256, [file]) == path
    assert own_files(path) == {MAIN, "weights.bin"}
    found = inspect_onnx(path)
    assert (found.external, found.size) == (("weights.bin",), len(model) + len(weights))
    rows = np.array([[1, 2], [3, 4]], np.float32)
    whole = Session(linear(WEIGHTS).SerializeToString(), providers=CPU)
    assert Session(path, providers=CPU).score(rows).tolist() == whole.score(rows).tolist()
    alone = folders.of(main.sha256, [])
    with pytest.raises(InvalidInput, match=r"in other files \('weights\.bin'\), which are not in its folder"):
        inspect_onnx(alone)
    folders.clear()
    assert not path.exists()
    assert artifacts.read(file.sha256) == weights


@pytest.mark.slow
def test_a_model_of_more_than_two_gibibytes_is_checked_and_run(tmp_path: Path) -> None:
    """Past what one protobuf message holds, so its weights are beside it: 2.1 GiB of zeros, and a seven at the end."""
    count = 9 << 26
    weights = helper.make_tensor("w", TensorProto.FLOAT, [0], [])
    weights.ClearField("dims")
    weights.dims.append(count)
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", str(4 * count))):
        weights.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "at"], ["weight"])],
        "large",
        [helper.make_tensor_value_info("at", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("weight", TensorProto.FLOAT, ["N"])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    artifacts = Artifacts(tmp_path / "artifacts")
    zeros, seven = bytes(1 << 22), np.array([7], np.float32).tobytes()
    chunks = (*itertools.repeat(zeros, 4 * count // len(zeros) - 1), zeros[:-4] + seven)
    digest, size = artifacts.put(chunks)
    assert size == 4 * count > 1 << 31
    file = RunArtifact(path="weights.bin", sha256=digest, size=size)
    path = ModelFolders(artifacts).of(kept(artifacts, MAIN, model.SerializeToString()).sha256, [file])
    found = inspect_onnx(path)
    assert (found.external, found.size > size) == (("weights.bin",), True)
    session = Session(path, providers=CPU)
    assert session.run({"at": np.array([0, count - 1])})[0].tolist() == [0.0, 7.0]


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/passwd", "./weights.bin", "a/../weights.bin", "", "weights.bin\0", "other.bin"]
)
def test_a_path_that_leads_elsewhere_or_here_by_a_detour_is_refused(tmp_path: Path, location: str) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    model, weights = external(tmp_path, location)
    path = ModelFolders(artifacts).of(kept(artifacts, MAIN, model).sha256, [kept(artifacts, "weights.bin", weights)])
    with pytest.raises(InvalidInput, match="which are not in its folder") as caught:
        inspect_onnx(path)
    assert caught.value.field == "artifact"


def test_what_lies_beside_a_model_is_found_by_its_path_from_there() -> None:
    paths = ["model/m.onnx", "model/w.bin", "model/deep/x", "model2/y", "w.bin", "model/../z", "model/model.onnx"]
    files = [RunArtifact(path=path, sha256=path, size=1) for path in paths]
    assert [(file.path, file.sha256) for file in beside("model/m.onnx", files)] == [
        ("w.bin", "model/w.bin"),
        ("deep/x", "model/deep/x"),
    ]
    assert [file.path for file in beside("w.bin", files[4:])] == ["model/model.onnx"]


def test_a_version_keeps_the_files_of_its_weights_and_no_others(tmp_path: Path) -> None:
    box = open_box(tmp_path / "data")
    try:
        model, weights = external(tmp_path)
        run = box.tracker.start_run(experiment="e", user="ann")
        for path, content in (("m/a.onnx", model), ("m/weights.bin", weights), ("m/notes.txt", b"x"), ("big", b"y")):
            digest, size = box.artifacts.put([content])
            box.tracker.add_artifact(run.id, path, digest, size)
        version = box.registrar.register("heavy", Registration(run_id=run.id, artifact="m/a.onnx"), actor="ann")
        assert [file.path for file in box.registry.files("heavy", 1)] == ["m/a.onnx", "m/weights.bin"]
        assert version.size == len(model) + len(weights)
        box.models.load(version)
        assert [one.ref for one in box.models.loaded()] == ["heavy/1"]
    finally:
        box.close()
