"""What was deleted comes back while it is kept, and then its bytes are freed; what anything names stays."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from mlbox.errors import Conflict, NotFound, Refused
from mlbox.records import Column, DatasetInput, Event, GateResult, Metric, RunArtifact
from mlbox.settings import Settings
from mlbox.store.bin import KINDS
from mlbox.store.datasets import build as dataset_build
from mlbox.store.datasets import files as dataset_files
from mlbox.store.datasets.datasets import DatasetFrom, DatasetSpec
from mlbox.store.registry.registry import NewVersion
from mlbox.web.box import Box

DAY = timedelta(days=1)
NOW = timedelta(0)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    opened = Box(Settings(data_dir=str(tmp_path / "data"), gpus="none", collect_hours=0), url="http://localhost")
    yield opened
    opened.close()


def run_with(box: Box, *contents: bytes, experiment: str = "e") -> str:
    run = box.tracker.start_run(experiment=experiment, user="ann").id
    for number, content in enumerate(contents):
        digest, size = box.artifacts.put([content])
        box.tracker.add_artifact(run, f"{number}.bin", digest, size)
    box.tracker.log(
        run, metrics=[Metric(key="m", value=1.0, step=s, at=box.clock.real()) for s in range(50)], tags={"a": "b"}
    )
    return run


def is_kept(box: Box, content: bytes) -> bool:
    digest, _ = box.artifacts.put([b"x"])
    import hashlib

    try:
        box.artifacts.path(hashlib.sha256(content).hexdigest())
    except NotFound:
        return False
    return bool(digest)


def version_of(box: Box, run: str, content: bytes) -> int:
    digest, size = box.artifacts.put([content])
    new = NewVersion(
        model="churn",
        format="other",
        run_id=run,
        experiment="e",
        size=size,
        trained_by="ann",
        submitted_by="ann",
        files=(RunArtifact(path="model.bin", sha256=digest, size=size),),
    )
    return box.registry.register(new).version


def test_a_deleted_run_is_listed_comes_back_and_goes_only_after_its_time(box: Box) -> None:
    run = run_with(box, b"weights")
    box.tracker.delete(run, actor="ann")
    (found,) = box.retention.deleted()
    assert (found.id, found.owner, found.deleted_by) == (f"run:{run}", "e", "ann")
    assert found.goes_at - found.deleted_at == timedelta(days=30)
    done = box.retention.collect(grace=NOW, actor="root")
    assert (done.runs, done.files) == (0, 0)
    assert is_kept(box, b"weights")
    box.retention.restore(found.id, actor="bob")
    assert box.tracker.run(run).deleted_at is None
    assert box.retention.deleted() == []


def test_what_is_removed_frees_its_bytes_and_nothing_else(box: Box) -> None:
    gone, kept = run_with(box, b"g" * 9000, b"shared"), run_with(box, b"kept", b"shared")
    loose = box.artifacts.put([b"never named"])[0]
    box.tracker.delete(gone, actor="ann")
    before = box.retention.collect(older_than=NOW, grace=NOW, dry_run=True, actor="root")
    assert (before.runs, before.files, before.dry_run) == (1, 2, True)
    assert is_kept(box, b"g" * 9000)
    done = box.retention.collect(older_than=NOW, grace=NOW, actor="root")
    assert (done.runs, done.files) == (1, 3)  # with what `is_kept` put there
    assert done.bytes >= 9000
    with pytest.raises(NotFound):
        box.tracker.run(gone)
    with pytest.raises(NotFound):
        box.artifacts.path(loose)
    assert not is_kept(box, b"g" * 9000)
    assert is_kept(box, b"shared")
    assert is_kept(box, b"kept")
    assert len(box.tracker.history(kept, "m")) == 50
    assert box.tracker.select("SELECT count(*) FROM point", ())[0][0] == 50
    assert [event.type for event in box.events(type="box.collected")] == ["box.collected"]
    again = box.retention.collect(older_than=NOW, grace=timedelta(hours=1), actor="root")
    assert (again.runs, again.files) == (0, 0)


def test_a_dataset_version_comes_back_whole_or_not_at_all(box: Box) -> None:
    made = [
        box.datasets.keep_rows("d", pa.table({"n": [number]}), DatasetFrom(), actor="ann").ref for number in range(2)
    ]
    for ref in made:
        box.datasets.delete(ref, actor="ann")
    last, first = box.retention.deleted()
    assert (first.name, first.owner, first.deleted_by, first.id.partition(":")[0]) == ("d@v1", "d", "ann", "dataset")
    box.retention.restore(first.id, actor="bob")
    assert all(not file.error for file in box.datasets.verify("d@v1"))
    assert box.retention.collect(older_than=NOW, grace=NOW, dry_run=True, actor="root").datasets == 1
    done = box.retention.collect(older_than=NOW, grace=NOW, actor="root")
    assert (done.datasets, done.files) == (1, 1)
    assert box.retention.deleted() == []
    with pytest.raises(NotFound):
        box.retention.restore(last.id, actor="bob")
    with pytest.raises(NotFound, match="removed for good"):
        box.datasets.restore("d@v2", within=timedelta(days=30), actor="bob")
    assert all(not file.error for file in box.datasets.verify("d@v1"))


def promoted(box: Box, model: str, **named: str) -> None:
    new = NewVersion(model=model, format="other", trained_by="ann", submitted_by="ann", **named)
    gate = GateResult(gate="size", passed=True, required="x", measured="x", at=box.clock.real())
    proposed = box.promotions.propose(box.registry.register(new), actor="ann")
    box.promotions.decide(box.promotions.record_gates(proposed.id, [gate]).id, approver="bea", decision="approve")


@pytest.mark.parametrize("by", ["name", "run", "input"])
def test_a_dataset_version_stays_while_a_model_in_production_came_from_it(box: Box, by: str) -> None:
    ref = box.datasets.keep_rows("d", pa.table({"n": [1]}), DatasetFrom(), actor="ann").ref
    run = box.tracker.start_run(experiment="e", user="ann", datasets=[ref] if by == "run" else []).id
    if by == "input":
        box.tracker.add_inputs(run, [DatasetInput(name=ref, digest="0")])
    promoted(box, "churn", **({"dataset": ref} if by == "name" else {"run_id": run}))
    with pytest.raises(Refused, match="churn/1 in Production"):
        box.datasets.delete(ref, actor="ann")
    box.retention.collect(older_than=NOW, grace=NOW, actor="root")
    assert all(not file.error for file in box.datasets.verify(ref))

    box.registry.archive("churn", 1, actor="bea")
    box.datasets.delete(ref, actor="ann")
    assert box.retention.collect(older_than=NOW, grace=NOW, actor="root").datasets == 1


def test_what_a_dataset_goes_on_from_is_kept_of_its_last_version(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_files, "DAY_ROWS", 4)
    monkeypatch.setattr(dataset_build, "RESUME_ROWS", 1)
    columns = (Column(name="who", dtype="STRING"), Column(name="moment", dtype="TIMESTAMP"))
    box.features.add_source("visits", columns, "moment", None, actor="ann")
    facts = []
    for days in (range(1, 5), range(5, 7)):
        moments = [datetime(2026, 1, day, n, tzinfo=UTC) for day in days for n in range(6)]
        box.features.append("visits", pa.table({"who": ["a"] * len(moments), "moment": moments}), actor="ann")
        made = box.datasets.create(
            DatasetSpec(name="daily", spine="SELECT who, moment AS event_time FROM visits"), actor="ann"
        )
        assert made.basis is not None
        assert made.basis.resume is not None
        facts.append(made.basis.resume.facts)
    assert box.retention.collect(older_than=NOW, grace=NOW, actor="root").files == 1
    assert box.artifacts.path(facts[1]).exists()
    with pytest.raises(NotFound):
        box.artifacts.path(facts[0])
    assert all(not file.error for ref in ("daily@v1", "daily@v2") for file in box.datasets.verify(ref))


def test_a_file_that_came_into_use_a_moment_ago_stays(box: Box) -> None:
    digest, _ = box.artifacts.put([b"about to be named"])
    assert box.retention.collect(older_than=NOW, actor="root").files == 0
    assert box.artifacts.path(digest).exists()


def test_a_run_that_a_version_was_made_by_stays_as_long_as_the_version(box: Box) -> None:
    run = run_with(box, b"weights")
    number = version_of(box, run, b"model")
    box.tracker.delete(run, actor="ann")
    assert box.retention.collect(older_than=NOW, grace=NOW, actor="root").runs == 0
    assert is_kept(box, b"weights")
    box.curation.delete_version("churn", number, actor="ann")
    done = box.retention.collect(older_than=NOW, grace=NOW, actor="root")
    assert (done.runs, done.versions) == (1, 1)
    assert not is_kept(box, b"model")
    assert "version" not in {item.id.partition(":")[0] for item in box.retention.deleted()}


def test_models_and_versions_come_back_with_their_files(box: Box) -> None:
    run = run_with(box, b"weights")
    first, second = version_of(box, run, b"one"), version_of(box, run, b"two")
    box.curation.delete_version("churn", second, actor="ann")
    (version,) = box.retention.deleted()
    assert version.name == f"churn/{second}"
    box.curation.delete("churn", actor="bob")
    (model,) = (item for item in box.retention.deleted() if item.id.startswith("model:"))
    assert (model.name, model.deleted_by) == ("churn", "bob")
    box.retention.collect(grace=NOW, actor="root")
    box.retention.restore(model.id, actor="ann")
    assert [v.version for v in box.registry.versions("churn")] == [first]
    box.retention.restore(version.id, actor="ann")
    assert [v.version for v in box.registry.versions("churn")] == [second, first]
    assert is_kept(box, b"two")
    box.curation.delete("churn", actor="bob")
    box.registry.create_model("churn", actor="ann")
    (model,) = box.retention.deleted()
    with pytest.raises(Conflict, match="another model"):
        box.retention.restore(model.id, actor="ann")
    box.retention.collect(older_than=NOW, grace=NOW, actor="root")
    assert box.retention.deleted() == []
    with pytest.raises(NotFound):
        box.retention.restore(model.id, actor="ann")


def test_an_experiment_goes_with_its_runs_and_its_name_is_free(box: Box) -> None:
    run_with(box, b"weights", experiment="old")
    own = box.experiments.by_name("old").id
    box.experiments.delete(own, actor="ann")
    assert {item.id.partition(":")[0] for item in box.retention.deleted()} == {"experiment", "run"}
    done = box.retention.collect(older_than=NOW, grace=NOW, actor="root")
    assert (done.experiments, done.runs) == (1, 1)
    assert box.tracker.experiment("old", actor="ann").id != own


def test_the_list_is_read_page_by_page(box: Box) -> None:
    runs = [run_with(box) for _ in range(5)]
    for run in runs[:3]:
        box.tracker.delete(run, actor="ann")
    version_of(box, runs[4], b"m")
    box.curation.delete("churn", actor="ann")
    box.experiments.delete(box.experiments.by_name("e").id, actor="ann")
    whole = [item.id for item in box.retention.deleted()]
    assert len(whole) == 7
    paged: list[str] = []
    place = None
    while page := box.retention.deleted(limit=2, after=place):
        paged += [item.id for item in page]
        place = page[-1].place
    assert paged == whole
    assert {item.partition(":")[0] for item in whole} <= set(KINDS)


def test_logged_models_come_back_and_go(box: Box) -> None:
    run = run_with(box)
    digest, size = box.artifacts.put([b"logged"])
    model = box.logged_models.create(experiment_id=box.experiments.by_name("e").id, name="m", run_id=run, user="ann").id
    box.logged_models.add_file(model, "model.pkl", digest, size)
    box.logged_models.delete(model, actor="ann")
    (item,) = box.retention.deleted()
    box.retention.restore(item.id, actor="ann")
    assert box.logged_models.get(model).id == model
    box.logged_models.delete(model, actor="ann")
    done = box.retention.collect(older_than=NOW, grace=NOW, actor="root")
    assert (done.logged_models, done.files) == (1, 1)


def test_what_is_restored_while_a_collection_runs_stays_with_what_it_needs(box: Box) -> None:
    """Everything that is removed is asked for again by the write that removes it; restored in between, it is left alone."""
    run = run_with(box, b"weights")
    number = version_of(box, run, b"model")
    box.curation.delete_version("churn", number, actor="ann")
    box.tracker.delete(run, actor="ann")
    digest, size = box.artifacts.put([b"logged"])
    own = box.experiments.by_name("e").id
    model = box.logged_models.create(experiment_id=own, name="m", user="ann").id
    box.logged_models.add_file(model, "model.pkl", digest, size)
    box.logged_models.delete(model, actor="ann")
    gone = run_with(box, b"gone")
    box.tracker.delete(gone, actor="ann")
    items = {item.id.partition(":")[0]: item.id for item in box.retention.deleted()}

    def restore_at_the_first_removal(event: Event) -> None:
        """Told by the writer before whoever waits for it goes on, so this write is the next one."""
        if event.type == "experiment.run_removed" and event.data["run"] == gone:
            sql = "UPDATE logged_model SET deleted_us = NULL WHERE id = ?"
            box._databases["tracking"].submit(lambda tx: tx.run(sql, (model,)))

    box.retention.restore(items["version"], actor="bob")
    with box.bus.listening(restore_at_the_first_removal):
        box.retention.collect(older_than=NOW, grace=NOW, actor="root")
    assert box.logged_models.get(model).id == model
    assert box.artifacts.path(digest).exists()
    assert box.tracker.run(run).id == run
    assert is_kept(box, b"model")
