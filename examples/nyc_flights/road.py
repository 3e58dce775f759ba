"""The road of one model, step by step, over a running server: from raw facts to a drift alert.

Each step is a method that does its part over the public API and returns what it found; `demo` prints the steps, and the
end-to-end test asserts them.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc

import mlbox
from examples.nyc_flights import definitions
from examples.nyc_flights.flights import Flights
from mlbox.client import Client
from mlbox.errors import Refused, TimedOut
from mlbox.records import (
    Alert,
    DatasetVersion,
    DriftResult,
    Endpoint,
    Guard,
    Job,
    LivePerformance,
    ModelVersion,
    OnlineRow,
    Promotion,
    PromotionPolicy,
    RampStep,
    RolloutDecision,
    SkewResult,
)

T = TypeVar("T")
MODEL = "flight-delay"
NEW_YORK = ZoneInfo("America/New_York")
JOBS = Path(__file__).with_name("jobs")
START = datetime(2013, 1, 1, tzinfo=UTC)
TRAINED_UNTIL = datetime(2013, 7, 1, tzinfo=UTC)
SUMMER_ENDS = datetime(2013, 9, 1, tzinfo=UTC)
END = datetime(2013, 12, 31, tzinfo=UTC)
DAY = timedelta(days=1)
FIRST_HOUR, HOURS, STRIDE = 10, 16, 5
"""Traffic is asked for once a day, another hour each day: from 10 to 25 h UTC, 5 in the morning to 8 in the evening there."""

CARD = {
    "intended_use": "To warn passengers who leave New York that their flight may be late.",
    "limitations": "Flights of one year out of three airports; weather that is forecast is not among its features.",
}
DEMO_POLICY = PromotionPolicy(
    label="demo: holds of days of 2013, shares of a demo's traffic",
    metric="auc",
    minimum=0.6,
    margin=0.05,
    shadow_seconds=2 * 86_400,
    shadow_min_predictions=20,
    steps=(
        RampStep(percent=5, hold_seconds=14 * 86_400, min_predictions=5),
        RampStep(percent=25, hold_seconds=14 * 86_400, min_predictions=20),
        RampStep(percent=100, hold_seconds=0),
    ),
    guards=(Guard(kind="errors", stop=1), Guard(kind="invalid", stop=1), Guard(kind="latency", stop=100)),
)
WATCHFUL_POLICY = msgspec.structs.replace(
    DEMO_POLICY,
    steps=(RampStep(percent=50, hold_seconds=14 * 86_400, min_predictions=20), RampStep(percent=100, hold_seconds=0)),
    guards=(*DEMO_POLICY.guards, Guard(kind="scores", stop=0.1)),
)
"""It looks at the distribution of the scores, too, and shares so that there are soon enough of them."""
COMPARED_SCORES = 350
"""On each side; 300 are compared at first."""


class Road:
    """One walk along it. `ada` trains, `grace` approves, the admin keeps the clock."""

    def __init__(self, url: str, admin_token: str, flights: Flights) -> None:
        self.url = url
        self.flights = flights
        self.admin = Client(url, admin_token)
        self.ada = mlbox.connect(url, self._member("ada"))
        self.grace = mlbox.connect(url, self._member("grace"))
        self.now = START
        self.served = 0
        self.labels = _labels(flights.flights.slice(0, 0))
        """Of all flights that land; the server is told of each once it did."""

    def _member(self, name: str) -> str:
        """A user who may approve, and a token of theirs."""
        self.admin.post("/api/v1/users", dict, {"name": name, "role": "approver"})
        token: str = self.admin.post("/api/v1/tokens", dict, {"user": name, "name": "demo"})["secret"]
        return token

    def close(self) -> None:
        """Close the connections."""
        for client in (self.admin, self.ada, self.grace):
            client.close()

    # -- data -------------------------------------------------------------------------------------------------------

    def define(self) -> list[str]:
        """Sources, views, the service and the label set; the references of all features."""
        wanted = {"sources": definitions.SOURCES, "views": definitions.VIEWS, "services": [definitions.SERVICE]}
        planned = self.ada.client.post("/api/v1/features/plan", dict, wanted)
        self.ada.client.post("/api/v1/features/apply", dict, {"definitions": wanted, "base": planned["base"]})
        self.ada.client.post("/api/v1/labels", dict, definitions.LABEL)
        service = self.ada.client.get(f"/api/v1/features/services/{definitions.SERVICE['name']}", dict)
        features: list[str] = service["features"]
        return features

    def load(self) -> dict[str, int]:
        """Bring all facts of the year with the times at which they became known; rows by source.

        Loading the whole year at once is what a replay is: until domain time gets there, the server knows of a flight's
        landing no more than anyone did.
        """
        landed = self.flights.flights.filter(self.flights.flights.column("landed").is_valid())
        self.labels = _labels(landed)
        self._append("/api/v1/sources/planes/rows", self.flights.planes)
        self._append("/api/v1/sources/weather/rows", self.flights.weather)
        self._append("/api/v1/sources/flights/rows", landed)
        return {
            "planes": self.flights.planes.num_rows,
            "weather": self.flights.weather.num_rows,
            "flights": landed.num_rows,
            "labels": self.labels.num_rows,
        }

    def push_weather(self, origin: str, temp: float) -> float:
        """A station reports another temperature, now; the one that is known online right after it."""
        names = [column["name"] for column in definitions.VIEWS[0]["features"]]
        (before,) = self.ada.features([f"weather:{name}" for name in names], [{"origin": origin}])
        row = dict(zip(names, before.values.values(), strict=True))
        hour = self.now.replace(minute=0, second=0, microsecond=0)
        self.ada.push("weather", [{**row, "origin": origin, "hour": hour, "temp": temp}])
        (found,) = self.ada.features(["weather:temp"], [{"origin": origin}])
        (value,) = found.values.values()
        return float(value or 0)

    def labels_known(self) -> int:
        """How many flights' outcomes are known at domain time."""
        known: int = self.admin.get("/api/v1/labels/arrived_late", dict)["known"]
        return known

    def advance(self, to: datetime) -> None:
        """Move the server's domain time."""
        before, self.now = self.now, to
        self.admin.post("/api/v1/clock", dict, {"to": to})
        self._report_landings(before, to)

    def _report_landings(self, after: datetime, until: datetime) -> None:
        """The airlines' operations say which flights landed late: a delayed source, which tells as it gets to know."""
        known = self.labels.column("known_at").cast(pa.timestamp("us", "UTC"))
        first, last = (pa.scalar(moment, known.type) for moment in (after, until))
        news = self.labels.filter(pc.and_(pc.greater(known, first), pc.less_equal(known, last)))
        if news.num_rows:
            self._append("/api/v1/labels/arrived_late/rows", news, source="operations")

    def materialize(self) -> int:
        """Bring the online store up to domain time; rows written."""
        written: int = self.ada.client.post("/api/v1/features/materialize", dict, {})["rows"]
        return written

    def build_dataset(self) -> DatasetVersion:
        """January to June: features as they were at scheduled departure, labels as known by July."""
        return self.ada.client.post("/api/v1/datasets", DatasetVersion, definitions.DATASET)

    def _append(self, path: str, table: pa.Table, **query: str) -> None:
        sink = io.BytesIO()
        with ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        self.ada.client.send("POST", path, content=sink.getvalue(), query={"format": "arrow", **query})

    # -- training ---------------------------------------------------------------------------------------------------

    def submit(self, script: str, dataset: DatasetVersion, *numbers: float) -> Job:
        """Ada submits one training script, with its numbers."""
        return self.ada.submit(
            ["python", script, dataset.ref, *map(str, numbers)],
            name=script.removesuffix(".py"),
            workdir=JOBS,
            datasets=[dataset.ref],
            experiment=MODEL,
            cpus=1,
            memory_gb=4,
        )

    def sign_in_link(self) -> str:
        """A new one-time link for the admin: that which the server printed at its start may be too old by now."""
        return str(self.admin.post("/api/v1/users/admin/link", dict)["url"])

    def wait_for_job(self, job: Job) -> Job:
        """Wait until a job ends."""
        return wait_for(lambda: self._ended(job.id), f"job {job.id}", seconds=600)

    def _ended(self, job_id: str) -> Job | None:
        job = self.admin.get(f"/api/v1/jobs/{job_id}", Job)
        return job if job.ended_at else None

    def log_of(self, job: Job) -> str:
        """What a job printed."""
        return self.admin.request("GET", f"/api/v1/jobs/{job.id}/logs").decode()

    def versions(self) -> list[ModelVersion]:
        """The model's versions, the best first."""
        versions = self.admin.get(f"/api/v1/models/{MODEL}/versions", list[ModelVersion])
        return sorted(versions, key=lambda version: -version.metrics["auc"])

    # -- promotion --------------------------------------------------------------------------------------------------

    def set_policy(self, policy: PromotionPolicy = DEMO_POLICY) -> PromotionPolicy:
        """A demo's policy, labelled as one."""
        return self.admin.put(f"/api/v1/models/{MODEL}/policy", PromotionPolicy, policy)

    def propose(self, version: ModelVersion) -> Promotion:
        """Ada proposes a version, whose card says what it is for; the promotion once its gates were measured."""
        self.ada.client.post(f"/api/v1/models/{MODEL}/card", dict, CARD)
        path = f"/api/v1/models/{MODEL}/versions/{version.version}/promote"
        begun = self.ada.client.post(path, Promotion)
        return self.reach(begun, "shadow", "waiting_approval", "rejected")

    def reach(self, promotion: Promotion, *states: str) -> Promotion:
        """Wait until a promotion is in one of these states."""

        def there() -> Promotion | None:
            found = self.admin.get(f"/api/v1/promotions/{promotion.id}", Promotion)
            return found if found.state in states else None

        return wait_for(there, f"the promotion of {MODEL}/{promotion.version} to be {' or '.join(states)}")

    def last_decision(self, promotion: Promotion) -> RolloutDecision:
        """What was decided last about a candidate's traffic, and from what."""
        return self.admin.get(f"/api/v1/promotions/{promotion.id}/decisions", list[RolloutDecision])[-1]

    def approve_own(self, promotion: Promotion) -> str:
        """Ada, who trained it, tries to approve it: the words of the refusal."""
        try:
            self._approve(self.ada, promotion, "mine, and it is good")
        except Refused as err:
            return str(err)
        raise AssertionError("The trainer's own approval went through.")

    def approve(self, promotion: Promotion) -> Promotion:
        """Grace, who did not train it, approves."""
        return self._approve(self.grace, promotion, "gates and shadow look right")

    def _approve(self, box: mlbox.Box, promotion: Promotion, comment: str) -> Promotion:
        return box.client.post(f"/api/v1/promotions/{promotion.id}/approve", Promotion, {"comment": comment})

    # -- serving ----------------------------------------------------------------------------------------------------

    def predict_by_ids(self, flight: dict[str, Any]) -> float:
        """One prediction over the Open Inference Protocol: the ids go in, and the server looks the features up."""
        ids = [
            {"name": name, "datatype": "BYTES", "shape": [1], "data": [value]} for name, value in entity(flight).items()
        ]
        return self._infer(ids, flight)

    def predict_by_features(self, flight: dict[str, Any]) -> float:
        """The same prediction from the features themselves, as one tensor; a missing value is null."""
        (version,) = [v for v in self.versions() if v.version == self.endpoint().champion]
        found = self.ada.client.post(
            "/api/v1/features/online", list[OnlineRow], {"features": version.features, "entities": [entity(flight)]}
        )
        row = [found[0].values[feature] for feature in version.features]
        tensor = {"name": version.inputs[0].name, "datatype": "FP32", "shape": [1, len(row)], "data": row}
        return self._infer([tensor], flight)

    def _infer(self, inputs: list[dict[str, Any]], flight: dict[str, Any]) -> float:
        body = {"inputs": inputs, "parameters": {"key": key(flight)}, "outputs": [{"name": "score"}]}
        answer = self.ada.client.post(f"/v2/models/{MODEL}/infer", dict, body)
        score: float = answer["outputs"][0]["data"][0]
        return score

    def serve_next_hour(self) -> int:
        """Ask for every flight that leaves within the hour, by its ids; how many there were."""
        leaving = self.flights.departing(self.now, self.now + timedelta(hours=1)).to_pylist()
        if leaving:
            self.ada.predict(MODEL, entities=[asked(f) for f in leaving], keys=[key(f) for f in leaving])
            self.served += len(leaving)
        return len(leaving)

    def serve_until_compared(self) -> int:
        """Ask for every flight of the days ahead until the candidate's scores can be compared; how many were asked for."""
        before, day = self.served, self.now
        while (found := self.endpoint()).candidate and day < END:
            if min(found.candidate_predictions, found.champion_predictions) >= COMPARED_SCORES:
                break
            leaving = self.flights.departing(day, day + DAY).to_pylist()
            for some in (leaving[at : at + 100] for at in range(0, len(leaving), 100)):
                self.ada.predict(MODEL, entities=[asked(f) for f in some], keys=[key(f) for f in some])
            self.served, day = self.served + len(leaving), day + DAY
        return self.served - before

    def replay(self, until: datetime, *, every: timedelta = DAY, seen: Callable[[datetime], None] | None = None) -> int:
        """Live until a day: once a day refresh the online store and serve the flights of the next hour."""
        before = self.served
        while self.now + every <= until:
            day = hour_of_traffic(self.now + every)
            self.advance(day)
            self.materialize()
            self.serve_next_hour()
            if seen is not None:
                seen(day)
        return self.served - before

    def endpoint(self) -> Endpoint:
        """What serves now."""
        (found,) = self.admin.get("/api/v1/endpoints", list[Endpoint])
        return found

    # -- monitoring -------------------------------------------------------------------------------------------------

    def check_drift(self) -> list[DriftResult]:
        """Compare the served features of the past weeks with the training reference; the largest statistic first."""
        found = self.admin.post(f"/api/v1/monitoring/{MODEL}/check", list[DriftResult])
        return sorted(found, key=lambda result: -(result.statistic or 0))

    def check_skew(self) -> list[SkewResult]:
        """Compare served values with what the history says of the same moments; the least equal first."""
        found = self.admin.post(f"/api/v1/monitoring/{MODEL}/skew", list[SkewResult])
        return sorted(found, key=lambda result: 1 if result.share is None else result.share)

    def live_performance(self, **query: Any) -> list[LivePerformance]:
        """How the version that serves does by the outcomes that are known so far, in the roles that users met it in."""
        champion = self.endpoint().champion
        found = self.admin.get(f"/api/v1/monitoring/{MODEL}/performance", list[LivePerformance], **query)
        return [one for one in found if one.version == champion and one.role != "shadow"]

    def alerts(self) -> list[Alert]:
        """Alerts that fire."""
        return self.admin.get("/api/v1/alerts", list[Alert], state="firing")

    def metrics(self) -> str:
        """What Prometheus would read."""
        return self.admin.request("GET", "/metrics").decode()


def hour_of_traffic(moment: datetime) -> datetime:
    """When traffic is asked for on the day of a moment: all hours get their turn, as the model saw all hours."""
    day = moment.astimezone(NEW_YORK).date()
    hour = FIRST_HOUR + (day.toordinal() * STRIDE) % HOURS
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=hour)


def entity(flight: dict[str, Any]) -> dict[str, Any]:
    """The ids by which the server looks a flight's features up."""
    return {name: flight[name] for name in ("carrier", "origin", "dest", "tailnum")}


def asked(flight: dict[str, Any]) -> dict[str, Any]:
    """The same, and which flight it is and when it leaves: so its outcome, once it is known, meets the prediction."""
    return {**entity(flight), "flight": flight["flight"], "event_time": flight["departs"].isoformat()}


def key(flight: dict[str, Any]) -> str:
    """What decides whether a flight meets the canary: the same flight, the same version."""
    return f"{flight['carrier']}{flight['flight']}-{flight['departs']:%Y%m%dT%H%M}"


def _labels(landed: pa.Table) -> pa.Table:
    columns = {name: landed.column(name) for name in ("carrier", "flight", "origin", "late")}
    table = pa.table({**columns, "event_time": landed.column("departs"), "known_at": landed.column("landed")})
    return table.filter(table.column("late").is_valid())


def wait_for(condition: Callable[[], T | None], what: str, *, seconds: float = 60) -> T:
    """Ask until there is an answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found is not None:
            return found
        time.sleep(0.1)
    raise TimedOut(f"Waited {seconds:.0f} s in vain for {what}.")
