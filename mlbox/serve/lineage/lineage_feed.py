"""Tells an OpenLineage collector what ran: follows the event logs, and puts what they say into the outbox, which is sent.

What was told is remembered with what was put into the outbox, in one write; so after a crash nothing is told twice and nothing is
left out. It begins with what happens once it is switched on, and not with the past.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from mlbox.errors import NotFound
from mlbox.events import EventBus
from mlbox.loop import Loop
from mlbox.records import Delivery, Event, Job
from mlbox.serve.alerts.notifier import Post
from mlbox.serve.lineage import openlineage as ol
from mlbox.settings import secret_in
from mlbox.store.asking import asking
from mlbox.store.datasets.datasets import Datasets
from mlbox.store.db import Database, Tx
from mlbox.store.features.features import FeatureStore
from mlbox.store.jobs.crons import Crons
from mlbox.store.jobs.jobs import Jobs
from mlbox.store.outbox import Message, Outbox, post
from mlbox.store.registry.gate_runs import GateRuns
from mlbox.store.registry.registry import Registry

ADDRESS = "openlineage:collector"
AGAIN_SECONDS = 60.0
AT_ONCE = 200
STORES = ("jobs", "datasets", "features", "registry")
TOLD_BY = (
    "job.",
    "promotion.",
    "dataset.created",
    "dataset.failed",
    "view.materialized",
    "view.computed",
    "view.failed",
)


class Said(NamedTuple):
    """A run event, and once for what it is said."""

    cause: str
    event: dict[str, Any]


class LineageFeed:
    """Follows the stores of `STORES`. `told` is called when there is something to send."""

    def __init__(
        self,
        databases: Mapping[str, Database],
        jobs: Jobs,
        datasets: Datasets,
        features: FeatureStore,
        registry: Registry,
        bus: EventBus,
        *,
        collector: str,
        key_file: str,
        place: ol.Place,
        told: Callable[[], None],
    ) -> None:
        self._databases = {name: databases[name] for name in STORES}
        self._db = databases["jobs"]
        self._jobs = jobs
        self._datasets = datasets
        self._features = features
        self._registry = registry
        self._crons = Crons(self._db)
        self._gate_runs = GateRuns(databases["registry"])
        self._collector = collector
        self._key_file = key_file
        self._place = place
        self._told = told
        if collector:
            from mlbox.outgoing import check_url  # imported late: a box without a collector needs no HTTP client

            check_url(collector)
        self._loop = Loop(
            self._follow, name="mlbox-openlineage", failed="The collector could not be told", again=AGAIN_SECONDS
        )
        self._loop.wake_on(bus, TOLD_BY)

    def start(self) -> None:
        """Begin where a former server left off."""
        self.begin()
        if self._collector:
            self._loop.start()

    def begin(self) -> None:
        """Know from where on to tell; without a collector forget it."""
        if not self._collector:
            self._db.write(lambda tx: tx.run("DELETE FROM lineage_cursor").rowcount)
            return
        for name, database in self._databases.items():
            self._db.write(functools.partial(_begin, store=name, last=database.last_event()))

    def close(self) -> None:
        """Stop; what was not told is by the next server."""
        self._loop.close()

    def request(self, message: Message) -> Post:
        """A message of the outbox as the collector takes it."""
        headers = {"Content-Type": "application/json", "X-Mlbox-Delivery": message.id}
        key = secret_in(self._key_file, "openlineage_key_file")
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return Post(self._collector, msgspec.json.encode(message.body["event"]), headers)

    def deliveries(self, *, limit: int = 100) -> list[Delivery]:
        """What was told, newest first, and what became of it."""
        return Outbox(self._db).of(ADDRESS, limit=limit)

    def _follow(self) -> float:
        while not self._loop.stopping and self.follow():
            self._told()
        return AGAIN_SECONDS

    def follow(self) -> bool:
        """Put some of what happened since into the outbox; whether there was anything."""
        with asking(None):
            return any(self._tell(name) for name in self._databases)

    def _tell(self, store: str) -> bool:
        """Tell some of what happened in one store; whether there was anything."""
        row = self._db.one("SELECT seq FROM lineage_cursor WHERE store = ?", (store,))
        events = self._databases[store].events_after(row["seq"] if row else 0, limit=AT_ONCE)
        if not events:
            return False
        said = [one for _, event in events for one in self._said(event)]

        def write(tx: Tx) -> None:
            for one in said:
                job = one.event["job"]["name"]
                body = {"text": f"{one.event['eventType']} {job}", "event": one.event}
                post(tx, ADDRESS, ADDRESS, body, cause=one.cause)
            tx.run("UPDATE lineage_cursor SET seq = ? WHERE store = ?", (events[-1][0], store))

        self._db.write(write)
        return True

    # -- what an event says -------------------------------------------------------------------------------------------------

    def _said(self, event: Event) -> list[Said]:
        noun, _, rest = event.subject.partition(":")
        try:
            if noun == "job":
                return self._of_job(event, self._jobs.get(rest))
            if event.type.startswith("promotion."):
                return self._of_promotion(event, rest)
            if event.type == "dataset.created":
                return self._of_dataset(event, rest)
            if event.type == "dataset.failed":
                return self._pair(event, f"dataset {rest}", [], [ol.named(self._place, "dataset", rest)])
            if event.type == "view.materialized":
                return [one for ref in event.data.get("views", ()) for one in self._of_view(event, ref)]
            if event.type in ("view.computed", "view.failed"):
                return self._of_view(event, rest)
        except NotFound:  # it was removed since
            return []
        return []

    def _of_job(self, event: Event, job: Job) -> list[Said]:
        state = event.type.removeprefix("job.")
        if state != "running" and state not in ol.ENDS:
            return []
        run, named = ol.run_of(job), ol.job_of(self._place, job)
        inputs = self._inputs(job.spec.datasets)
        facets = {**ol.nominal(job), **self._cause_of(job)}
        start = ol.event("START", event.at, run, named, run_facets=facets, inputs=inputs)
        said = [Said(f"lineage start {run}", start)]  # once for a run, whichever attempt began it
        kind = next((kind for name, kind in ol.ENDS.items() if name == state), None)
        if kind is not None:
            failed = ol.error(str(event.data.get("reason", ""))) if kind == "FAIL" else {}
            made = [ol.model(self._place, version) for version in self._made(job)] if kind == "COMPLETE" else []
            end = ol.event(kind, event.at, run, named, run_facets={**facets, **failed}, inputs=inputs, outputs=made)
            said.append(Said(f"lineage end {run}", end))
        return said

    def _cause_of(self, job: Job) -> ol.Facets:
        """What began a job: the promotion whose gate it is, or a cron. Its tags say where to look, and are not believed."""
        model = job.spec.tags.get("mlbox.model", "").rpartition("/")[0]
        if model and (gate := self._gate_runs.of_job(job.id)):
            return ol.parent(self._place, ol.run_id(gate.promotion_id), f"promotion {model}")
        name = job.spec.tags.get("mlbox.cron")
        if name and (firing := self._crons.firing_of(name, job.id)):
            return ol.parent(self._place, ol.run_id(firing), f"cron {name}")
        return {}

    def _of_promotion(self, event: Event, ref: str) -> list[Said]:
        """A promotion is a run: its START is said once, with its end where it was not."""
        kind = ol.PROMOTIONS.get(event.type.removeprefix("promotion."))
        if kind is None:
            return []
        model, _, number = ref.rpartition("/")
        run, job = ol.run_id(event.data["promotion"]), ol.making(self._place, f"promotion {model}")
        inputs = [ol.model(self._place, self._registry.version(model, int(number)))]
        said = [Said(f"lineage start {run}", ol.event("START", event.at, run, job, inputs=inputs))]
        if kind != "START":
            failed = ol.error(str(event.data.get("reason", ""))) if kind == "FAIL" else {}
            said.append(
                Said(f"lineage end {run}", ol.event(kind, event.at, run, job, run_facets=failed, inputs=inputs))
            )
        return said

    def _made(self, job: Job) -> list[Any]:
        return self._registry.select_versions("model_version.job_id = ?", [job.id], "model_version.id", 20)

    def _inputs(self, refs: Sequence[str]) -> list[dict[str, Any]]:
        found = []
        for ref in refs:
            try:
                found.append(ol.dataset(self._place, self._datasets.version(ref)))
            except NotFound:
                found.append(ol.named(self._place, "dataset", ref))
        return found

    def _of_dataset(self, event: Event, ref: str) -> list[Said]:
        version = self._datasets.version(ref)
        outputs = [ol.dataset(self._place, version, made=True)]
        inputs = ol.inputs_of_dataset(self._place, version)
        return self._pair(event, f"dataset {version.name}", inputs, outputs, version.job_id)

    def _of_view(self, event: Event, ref: str) -> list[Said]:
        view = self._features.view(ref)
        inputs = [ol.named(self._place, "source", name) for name in view.sources]
        rows = event.data.get("views", {}).get(ref, event.data.get("rows"))
        return self._pair(event, f"view {view.ref}", inputs, [ol.view(self._place, view, rows)])

    def _parent(self, job_id: str | None) -> ol.Facets:
        try:
            return ol.parent_of(self._place, self._jobs.get(job_id)) if job_id else {}
        except NotFound:
            return {}

    def _pair(
        self,
        event: Event,
        what: str,
        inputs: list[dict[str, Any]],
        outputs: list[dict[str, Any]],
        by_job: str | None = None,
    ) -> list[Said]:
        """Start and end of what the log tells once it is over."""
        run, job = ol.run_id(f"{event.id} {what}"), ol.making(self._place, what)
        facets = self._parent(by_job or event.data.get("job"))
        failed = event.type.endswith(".failed")
        more = ol.error(str(event.data.get("error", ""))) if failed else {}
        start = ol.event("START", event.at, run, job, run_facets=facets, inputs=inputs)
        end = ol.event(
            "FAIL" if failed else "COMPLETE",
            event.at,
            run,
            job,
            run_facets={**facets, **more},
            inputs=inputs,
            outputs=outputs,
        )
        return [Said(f"lineage start {run}", start), Said(f"lineage end {run}", end)]


def _begin(tx: Tx, store: str, last: int) -> None:
    tx.run("INSERT OR IGNORE INTO lineage_cursor VALUES (?,?)", (store, last))
