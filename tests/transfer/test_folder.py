"""A folder of an export reads back as it was written, and a changed byte anywhere in it is found."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbox.errors import InvalidInput
from mlbox.transfer.folder import SUMS, Folder, Writer
from mlbox.transfer.items import (
    ExperimentItem,
    File,
    LoggedModelItem,
    ModelItem,
    Point,
    RunItem,
    Source,
    Sum,
    VersionItem,
)

BLOB = bytes(range(256)) * 20


def digest_of_all(source: Source) -> str:
    """One hash of everything that a source has, files included: two sources of the same things have the same."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        digest.update(msgspec.json.encode(value))

    for experiment in source.experiments():
        add(experiment)
        for run in source.runs(experiment):
            add(run)
            for key in run.metrics:
                total = Sum()
                for point in source.points(run, key):
                    total.add(key, point)
                add((key, total.count, str(total)))
            _add_files(source, run, digest)
        for model in source.logged_models(experiment):
            add(model)
            _add_files(source, model, digest)
    for registered in source.models():
        add(registered)
    return digest.hexdigest()


def _add_files(source: Source, owner: RunItem | LoggedModelItem, digest: Any) -> None:
    for file in source.files(owner):
        digest.update(msgspec.json.encode((file.path, file.size)))
        for piece in source.read(owner, file):
            digest.update(piece)


class Small:
    """A source with one of everything."""

    name = "http://there"

    def experiments(self) -> Iterator[ExperimentItem]:
        yield ExperimentItem(id="1", name="delay/v 2", tags={"a": "b"})

    def runs(self, experiment: ExperimentItem) -> Iterator[RunItem]:
        yield RunItem(id="a" * 32, experiment=experiment.name, metrics=("loss", "odd"), params={"lr": "1"})

    def points(self, run: RunItem, key: str) -> Iterator[Point]:
        yield from [(0, 1, "0.5"), (1, 2, "nan" if key == "odd" else "0.25")]

    def logged_models(self, experiment: ExperimentItem) -> Iterator[LoggedModelItem]:
        yield LoggedModelItem(id="m-" + "b" * 32, experiment=experiment.name, name="m")

    def files(self, owner: RunItem | LoggedModelItem) -> list[File]:
        return [File("d/w.bin", len(BLOB)), File("empty", 0)]

    def read(self, owner: RunItem | LoggedModelItem, file: File) -> Iterator[bytes]:
        yield BLOB if file.size else b""

    def models(self) -> Iterator[ModelItem]:
        yield ModelItem(name="churn", versions=(VersionItem(version=1, source="runs:/x/model"),))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "out"
    Writer(folder).write(Small())
    return folder


def test_what_was_written_is_read(export: Path) -> None:
    folder, small = Folder(export), Small()
    assert digest_of_all(folder) == digest_of_all(small)
    (run,) = folder.runs(next(folder.experiments()))
    assert [file.sha256 for file in folder.files(run)] == [
        hashlib.sha256(content).hexdigest() for content in (BLOB, b"")
    ]
    assert b"".join(folder.read(run, folder.files(run)[0])) == BLOB
    assert list(folder.points(run, "odd")) == [(0, 1, "0.5"), (1, 2, "nan")]


def test_an_export_goes_on_where_it_was_and_takes_no_other_folder(export: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(export, copy)
    (copy / SUMS).unlink()
    with pytest.raises(InvalidInput, match="no whole export"):
        Folder(copy)
    Writer(copy).write(Small())
    assert digest_of_all(Folder(copy)) == digest_of_all(Small())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidInput, match="is no export"):
        Writer(tmp_path / "other")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_changed_is_found(
    export: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    copy = tmp_path_factory.mktemp("broken") / "out"
    shutil.copytree(export, copy)
    path = data.draw(st.sampled_from(sorted(path for path in copy.rglob("*") if path.is_file())))
    content = path.read_bytes()
    how = data.draw(st.sampled_from(["flip", "cut", "gone", "more", "odd path"]))
    if how == "flip" and content:
        at = data.draw(st.integers(0, len(content) - 1))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif how == "cut" and content:
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    elif how == "more":
        path.write_bytes(content + b"x")
    elif how == "odd path":
        sums = copy / SUMS
        sums.write_text(sums.read_text() + f"{'0' * 64}  ../../etc/passwd\n")
    else:
        path.unlink()
    try:
        found = digest_of_all(Folder(copy))
    except InvalidInput:
        return
    assert found == digest_of_all(Small())  # such as a line of SHA256SUMS that lost its last line break
