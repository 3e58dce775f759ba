"""`mlbox model bench` measures a version in a process of its own, and keeps the figures with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mlbox.errors import InvalidInput, NotFound
from mlbox.records import Bench
from mlbox.store.registry.registry import NewVersion
from mlbox.web.box import Box
from tests.models import linear
from tests.web.site import Site, open_box


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    opened = open_box(Path(tmp_path_factory.mktemp("box")) / "data")
    digest, size = opened.artifacts.put([linear([1.0, 2.0]).SerializeToString()])
    new = NewVersion(model="score", artifact=digest, size=size, trained_by="ann", submitted_by="ann")
    opened.registry.register(new)
    opened.registry.register(msgspec.structs.replace(new, format="other", artifact=None, unservable="it is a pickle."))
    yield opened
    opened.close()


def test_figures_by_rows_and_concurrency_are_kept_and_told(box: Box) -> None:
    site = Site(box)
    assert site.get("/api/v1/models/score/versions/1/bench").status_code == 404
    sizes = {"rows": [1, 4], "concurrency": [1, 2]}
    found = box.benches.run("score", 1, actor="ann", **sizes)
    assert [(f.rows, f.concurrency) for f in found.figures] == [(1, 1), (1, 2), (4, 1), (4, 2)]
    assert all(0 < figure.p50_ms <= figure.p95_ms and figure.requests >= 20 for figure in found.figures)
    assert found.provider == "CPUExecutionProvider"
    assert msgspec.json.decode(site.get("/api/v1/models/score/versions/1/bench").content, type=Bench) == found
    assert [event.data["kind"] for event in box.events(type="model.measured")] == ["bench"]
    assert box.models.loaded() == []


def test_what_cannot_be_measured_is_said(box: Box) -> None:
    with pytest.raises(InvalidInput, match="cannot be served: it is a pickle"):
        box.benches.run("score", 2, actor="ann")
    with pytest.raises(NotFound):
        box.benches.run("score", 9, actor="ann")
    with pytest.raises(InvalidInput, match="rows is 0"):
        box.benches.run("score", 1, actor="ann", rows=[0])
    with pytest.raises(InvalidInput, match="More than 25"):
        box.benches.run("score", 1, actor="ann", rows=range(1, 10), concurrency=[1, 2, 3])
