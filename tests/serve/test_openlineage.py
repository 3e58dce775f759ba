"""What an OpenLineage collector is told: read with OpenLineage's own client classes, by a real HTTP server that records."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openlineage.client import event_v2, facet_v2
from openlineage.client.serde import Serde

from mlbox.errors import InvalidInput, MlboxError
from mlbox.ids import new_id
from mlbox.outgoing import Outgoing
from mlbox.records import CronSpec, GateResult, Job, JobSpec
from mlbox.serve.alerts.courier import Courier, Mail
from mlbox.serve.lineage import openlineage as ol
from mlbox.serve.lineage.lineage_feed import ADDRESS, LineageFeed
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.jobs.crons import Crons
from mlbox.store.jobs.jobs import End, Grant, Jobs
from mlbox.store.outbox import Outbox
from mlbox.store.registry.gate_runs import GateRuns
from mlbox.store.registry.promotions import Promotions
from mlbox.store.registry.registry import NewVersion
from tests.serve.openlineage_schema import faults
from tests.serve.test_courier import Receiver
from tests.serve.test_outcomes import House
from tests.store.test_datasets import SPEC

PUBLISHED: dict[str, type] = {
    "schema": facet_v2.schema_dataset.SchemaDatasetFacet,
    "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,
    "dataSource": facet_v2.datasource_dataset.DatasourceDatasetFacet,
    "outputStatistics": facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
    "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet,
    "nominalTime": facet_v2.nominal_time_run.NominalTimeRunFacet,
    "parent": facet_v2.parent_run.ParentRunFacet,
    "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet,
    "sourceCodeLocation": facet_v2.source_code_location_job.SourceCodeLocationJobFacet,
    "jobType": facet_v2.job_type_job.JobTypeJobFacet,
    "ownership": facet_v2.ownership_job.OwnershipJobFacet,
}
NESTED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "schema": lambda given: {
        "fields": [facet_v2.schema_dataset.SchemaDatasetFacetFields(**one) for one in given["fields"]]
    },
    "parent": lambda given: {
        "run": facet_v2.parent_run.Run(**given["run"]),
        "job": facet_v2.parent_run.Job(**given["job"]),
    },
    "ownership": lambda given: {"owners": [facet_v2.ownership_job.Owner(**one) for one in given["owners"]]},
}


def facets(given: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Facets as the published classes; a field that they do not know, or one that is missing, is a TypeError."""
    made = {}
    for key, fields in given.items():
        own = {name: value for name, value in fields.items() if not name.startswith("_")}
        built = PUBLISHED[key](**{**own, **NESTED.get(key, lambda _: {})(own)}, producer=fields["_producer"])
        assert built._schemaURL == fields["_schemaURL"]
        made[key] = built
    return made


def bare(value: Any) -> Any:
    """Without what is empty: the classes write empty lists of what was not said."""
    if isinstance(value, dict):
        return {key: bare(one) for key, one in value.items() if one not in ({}, [])}
    return [bare(one) for one in value] if isinstance(value, list) else value


def read(event: dict[str, Any]) -> event_v2.RunEvent:
    """An event as OpenLineage's client has it, which is the same when it writes it; the schema has nothing against it either."""
    assert faults(event) == []

    def dataset(kind: type, given: dict[str, Any]) -> Any:
        more = {"outputFacets": facets(given["outputFacets"])} if "outputFacets" in given else {}
        return kind(given["namespace"], given["name"], facets=facets(given["facets"]), **more)

    built = event_v2.RunEvent(
        eventTime=event["eventTime"],
        eventType=event_v2.RunState[event["eventType"]],
        producer=event["producer"],
        run=event_v2.Run(event["run"]["runId"], facets(event["run"]["facets"])),
        job=event_v2.Job(event["job"]["namespace"], event["job"]["name"], facets(event["job"]["facets"])),
        inputs=[dataset(event_v2.InputDataset, one) for one in event["inputs"]],
        outputs=[dataset(event_v2.OutputDataset, one) for one in event["outputs"]],
    )
    assert built.schemaURL == event["schemaURL"]
    assert bare(Serde.to_dict(built)) == bare(event)
    return built


class Plant(House):
    """A house with jobs, a feed and a courier."""

    receiver: Receiver

    def more(self, folder: Path) -> None:
        super().more(folder)
        self.folder = folder
        self.dbs.append(Database(folder / "jobs.sqlite", migrations.jobs, self.clock, self.bus))
        self.jobs = Jobs(self.dbs[-1])

    def connect(self, collector: str, key_file: str = "") -> None:
        by_name = {database.name: database for database in self.dbs}
        self.feed = LineageFeed(
            by_name,
            self.jobs,
            self.datasets,
            self.features,
            self.registry,
            self.bus,
            collector=collector,
            key_file=key_file,
            place=ol.Place("lab", "https://box.lab.example"),
            told=lambda: None,
        )
        self.courier = Courier(
            [Outbox(by_name["jobs"])],
            lambda: Outgoing(["127.0.0.1"]),
            Mail(""),
            self.clock,
            self.bus,
            told_by=(),
            posts={ADDRESS: lambda message: self.feed.request(message)},
        )
        self.feed.begin()

    def tell(self) -> None:
        while self.feed.follow():
            pass
        while self.courier.deliver():
            pass

    def run(self, state: Any = None, reason: str = "", job_id: str = "", **spec: Any) -> Job:
        """A job that runs, and ends as is said."""
        job = Job(
            id=job_id or new_id(),
            user="ann",
            spec=JobSpec(command=("true",), name="train", team="lab", **spec),
            state="queued",
            created_at=self.clock.real(),
            run_id=uuid.uuid4().hex,
        )
        self.jobs.add(job)
        self.jobs.begin_attempts({job.id: Grant()})
        self.jobs.started({job.id: 1})
        if state:
            self.end(job, state, reason)
        return job

    def end(self, job: Job, state: Any, reason: str = "") -> None:
        self.jobs.end_attempts({job.id: End(state, exit_code=0, reason=reason)})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    built = Receiver()
    yield built
    built.close()


@pytest.fixture
def plant(tmp_path: Path, receiver: Receiver) -> Iterator[Plant]:
    built = Plant(tmp_path)
    built.connect(receiver.url)
    yield built
    built.feed.close()
    built.courier.close()
    built.close()


def told(receiver: Receiver) -> list[tuple[str, str]]:
    return [(event["eventType"], event["job"]["name"]) for event in receiver.got]


def test_a_job_is_told_with_its_code_data_and_what_it_made(plant: Plant, receiver: Receiver) -> None:
    plant.fill(until=8)
    data = plant.datasets.create(SPEC, actor="ann")
    plant.tell()
    receiver.got.clear()
    job = plant.run(
        datasets=(data.ref, "gone@v9"),
        git_commit="c" * 40,
        workdir="nn",
        tags={ol.GIT_URL: "https://git.lab.example/nn"},
    )
    plant.registry.register(NewVersion(model="churn", job_id=job.id, trained_by="ann", submitted_by="ann"))
    plant.end(job, "succeeded")
    plant.tell()
    start, end = [read(event) for event in receiver.got]
    assert (start.eventType, end.eventType) == (event_v2.RunState.START, event_v2.RunState.COMPLETE)
    assert job.run_id is not None
    assert start.run.runId == end.run.runId == str(uuid.UUID(job.run_id))
    assert (end.job.namespace, end.job.name) == ("lab", "train")
    code = end.job.facets["sourceCodeLocation"]
    assert (code.type, code.url, code.version, code.path) == ("git", "https://git.lab.example/nn", "c" * 40, "nn")
    assert [one.name for one in end.inputs] == ["dataset/churn", "dataset/gone"]
    assert end.inputs[0].facets["version"].datasetVersion == "1"
    assert [one.name for one in end.inputs[0].facets["schema"].fields] == [column.name for column in data.columns]
    assert end.inputs[0].facets["dataSource"].uri == "https://box.lab.example"
    assert [one.name for one in end.outputs] == ["model/churn"]
    assert end.run.facets["nominalTime"].nominalStartTime == plant.jobs.get(job.id).created_at.isoformat()


@pytest.mark.parametrize("repository", ["git@git.lab.example:nn.git", "nn", "https://git.lab.example/n n", ""])
def test_code_that_no_address_leads_to_is_found_by_its_job(plant: Plant, receiver: Receiver, repository: str) -> None:
    job = plant.run("succeeded", git_commit="c" * 40, tags={ol.GIT_URL: repository})
    plant.tell()
    code = read(receiver.got[0]).job.facets["sourceCodeLocation"]
    assert code.url == f"https://box.lab.example/jobs/{job.id}"


def test_the_schema_finds_what_is_wrong(plant: Plant, receiver: Receiver) -> None:
    plant.run("succeeded")
    plant.tell()
    event = receiver.got[0]
    for change in (
        {"eventTime": "yesterday"},
        {"eventType": "DONE"},
        {"producer": "mlbox"},
        {"run": {"runId": "17"}},
        {"job": {"name": "train"}},
        {"inputs": [{"namespace": "lab", "name": "x", "facets": {"version": {"datasetVersion": 1}}}]},
    ):
        assert faults({**event, **change}) != [], change


def test_a_job_of_a_cron_names_the_firing_that_began_it(plant: Plant, receiver: Receiver) -> None:
    crons = Crons(plant.dbs[-1])
    now = plant.clock.real()
    crons.add(CronSpec(name="nightly", schedule="0 3 * * *", job=JobSpec(command=("true",))), owner="ann", now=now)
    crons.fire("nightly", actor="ann", now=now)
    (due,) = crons.due()
    tags = {"mlbox.cron": "nightly"}
    plant.end(plant.run(job_id=due.job_id, tags=tags), "succeeded")
    crons.settle(due, "submitted")
    plant.end(plant.run(tags=tags), "succeeded")  # one that only says so, such as a copy that somebody submitted
    plant.tell()
    *own, copied_start, copied_end = [read(event).run.facets for event in receiver.got]
    assert {(one["parent"].job.name, one["parent"].run.runId) for one in own} == {("cron nightly", ol.run_id(due.id))}
    assert len(own) == 2
    assert "parent" not in {**copied_start, **copied_end}


@pytest.mark.parametrize(("ends", "kind"), [("withdrawn", "ABORT"), ("rejected", "FAIL")])
def test_a_promotion_is_a_run_and_the_parent_of_its_gates(
    plant: Plant, receiver: Receiver, ends: str, kind: str
) -> None:
    version = plant.registry.register(NewVersion(model="churn", trained_by="ann", submitted_by="ann"))
    registry = next(one for one in plant.dbs if one.name == "registry")
    promotions = Promotions(registry, plant.registry)
    promotion = promotions.propose(version, actor="ann")
    job_id = new_id()
    GateRuns(registry).begin(promotion, "test", job_id)
    plant.end(
        plant.run(job_id=job_id, tags={"mlbox.model": "churn/1", "mlbox.gate": "test"}), "failed", "exit status 3"
    )
    if ends == "withdrawn":
        promotions.withdraw(promotion.id, actor="ann")
    else:
        failed = GateResult(gate="test", passed=False, required="", measured="", at=plant.clock.real())
        promotions.record_gates(promotion.id, [failed])
    plant.tell()
    by_job: dict[str, list[event_v2.RunEvent]] = {}
    for event in map(read, receiver.got):
        by_job.setdefault(event.job.name, []).append(event)
    start, end = by_job["promotion churn"]
    assert (start.eventType.name, end.eventType.name) == ("START", kind)
    assert ([one.name for one in end.inputs], end.inputs[0].facets["version"].datasetVersion) == (["model/churn"], "1")
    assert ("errorMessage" in end.run.facets) == (kind == "FAIL")
    for gate in by_job["train"]:
        assert gate.run.facets["parent"].job.name == "promotion churn"
        assert gate.run.facets["parent"].run.runId == start.run.runId == ol.run_id(promotion.id)


@pytest.mark.parametrize(
    ("state", "kind"), [("failed", "FAIL"), ("timed_out", "FAIL"), ("lost", "FAIL"), ("stopped", "ABORT")]
)
def test_each_end_of_a_job_has_its_event(plant: Plant, receiver: Receiver, state: str, kind: str) -> None:
    job = plant.run()
    if state == "stopped":
        plant.jobs.ask_to_stop(job.id, actor="ann")
    plant.end(job, state, "exit status 3")
    plant.tell()
    assert told(receiver) == [("START", "train"), (kind, "train")]
    found = read(receiver.got[-1]).run.facets
    assert ("errorMessage" in found) == (kind == "FAIL")
    if kind == "FAIL":
        assert found["errorMessage"].message == "exit status 3"


def test_a_job_that_never_ran_has_a_start_too_and_an_attempt_more_has_none(plant: Plant, receiver: Receiver) -> None:
    job = plant.run()
    plant.jobs.end_attempts({job.id: End("failed", exit_code=1, reason="x", retry_at=plant.clock.real())})
    plant.jobs.begin_attempts({job.id: Grant()})
    plant.jobs.started({job.id: 1})
    plant.end(job, "succeeded")
    waiting = Job(id=new_id(), user="ann", spec=JobSpec(command=("x",)), state="queued", created_at=plant.clock.real())
    plant.jobs.add(waiting)
    plant.jobs.ask_to_stop(waiting.id, actor="ann")
    plant.tell()
    assert told(receiver) == [("START", "train"), ("COMPLETE", "train"), ("START", waiting.id), ("ABORT", waiting.id)]
    for event in receiver.got:
        read(event)
    plant.jobs.queue_again(job.id, actor="ann", run_id=uuid.uuid4().hex)
    plant.jobs.begin_attempts({job.id: Grant()})
    plant.jobs.started({job.id: 1})
    plant.tell()
    assert told(receiver)[4:] == [("START", "train")], "whoever retries a job by hand begins another run of it"


def test_what_the_box_makes_itself_is_told_too(plant: Plant, receiver: Receiver) -> None:
    plant.fill(until=8)
    plant.features.materialize(actor="ann")
    job = plant.run()
    data = plant.datasets.create(SPEC, actor="ann", job_id=job.id)
    with pytest.raises(MlboxError):
        plant.datasets.create(msgspec.structs.replace(SPEC, spine="SELECT nothing FROM nowhere"), actor="ann")
    plant.tell()
    found = {(event["eventType"], event["job"]["name"]): read(event) for event in receiver.got}
    assert set(found) == {
        ("START", "train"),
        *((kind, "view spend@v1") for kind in ("START", "COMPLETE")),
        *((kind, "dataset churn") for kind in ("START", "COMPLETE", "FAIL")),
    }
    view = found["COMPLETE", "view spend@v1"]
    assert ({one.name for one in view.inputs}, view.outputs[0].name) == ({"source/sales"}, "view/spend")
    assert view.outputs[0].outputFacets["outputStatistics"].rowCount == 2
    built = found["COMPLETE", "dataset churn"]
    assert [one.name for one in built.inputs] == ["view/spend", "labels/left"]
    assert built.outputs[0].facets["version"].datasetVersion == str(data.version)
    assert built.outputs[0].outputFacets["outputStatistics"].rowCount == data.rows
    assert built.run.facets["parent"].run.runId == ol.run_of(job)
    assert found["FAIL", "dataset churn"].run.facets["errorMessage"].message


def test_it_goes_on_after_a_restart_and_begins_with_what_is_new(
    plant: Plant, receiver: Receiver, tmp_path: Path
) -> None:
    plant.run("succeeded")
    plant.tell()
    plant.run("failed", "x")
    key = tmp_path / "key"
    key.write_text("a-secret-key\n")
    key.chmod(0o600)
    plant.connect(receiver.url, str(key))
    plant.tell()
    assert told(receiver) == [("START", "train"), ("COMPLETE", "train"), ("START", "train"), ("FAIL", "train")]
    (last, *_) = plant.feed.deliveries()
    assert (last.state, last.text, last.address) == ("delivered", "FAIL train", ADDRESS)
    plant.connect("")
    plant.run("succeeded")
    plant.connect(receiver.url)
    plant.tell()
    assert len(receiver.got) == 4, "what happened while it was off is not told"


def test_the_key_goes_with_each_event(plant: Plant, receiver: Receiver, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("a-secret-key\n")
    key.chmod(0o600)
    plant.connect(receiver.url, str(key))
    plant.run()
    plant.feed.follow()
    (message,) = Outbox(plant.dbs[-1]).due(2**62)
    post = plant.feed.request(message)
    assert (post.url, post.headers["Authorization"]) == (receiver.url, "Bearer a-secret-key")
    assert b"a-secret-key" not in post.body


def test_an_address_that_is_none_is_refused(plant: Plant) -> None:
    with pytest.raises(InvalidInput, match="not an http or https URL"):
        plant.connect("ftp://lab.example/lineage")


def test_a_collector_inside_is_not_asked_unless_the_operator_allows_it(plant: Plant, receiver: Receiver) -> None:
    plant.courier = Courier(
        [Outbox(plant.dbs[-1])],
        lambda: Outgoing(),
        Mail(""),
        plant.clock,
        plant.bus,
        told_by=(),
        posts={ADDRESS: lambda message: plant.feed.request(message)},
    )
    plant.run()
    plant.tell()
    assert receiver.got == []
    assert "not a public address" in plant.feed.deliveries()[0].status
