"""A box with something of everything in it, and a browser's view of its app without a socket."""

from __future__ import annotations

import asyncio
import warnings
from dataclasses import dataclass
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import httpx
import numpy as np
import pyarrow as pa
from litestar.exceptions import LitestarDeprecationWarning

from mlbox.clock import parse_time
from mlbox.ids import new_id
from mlbox.records import (
    Column,
    CronSpec,
    Expectation,
    GateResult,
    JobSpec,
    LabelSet,
    LabelSource,
    Metric,
    ModelVersion,
    Prediction,
    Promotion,
    Replay,
    ReplaySpec,
    TransformInput,
    TransformSpec,
    ViewSpec,
)
from mlbox.serve.monitoring.reference import make_reference, store_reference
from mlbox.serve.predictions.batches import Given
from mlbox.serve.predictions.routing import Beside
from mlbox.serve.rollout.segments import Pairing
from mlbox.serve.rollout.shadow import figures_of
from mlbox.settings import Settings
from mlbox.store.datasets.datasets import DatasetSpec
from mlbox.store.registry.registry import NewVersion
from mlbox.web.app import create_app, create_router
from mlbox.web.auth import COOKIE
from mlbox.web.box import Box
from tests.conftest import wait_for
from tests.serve.batches import batches

START = parse_time("2026-01-01T00:00Z")
NASTY = "<script>alert(1)</script>&\"'" + "long-" * 40
"""A name for everything that takes free text."""
FEATURE = "spend@v1:amount"


def open_box(folder: Path, **settings: Any) -> Box:
    """A box in replay mode."""
    return Box(
        Settings(data_dir=str(folder), replay_clock=START.isoformat(), **{"gpus": "none", **settings}),
        url="http://localhost",
    )


def routes_of(box: Box) -> list[Any]:
    """Every route of the app."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        return list(create_router(box).routes)


def app_of(box: Box) -> Any:
    """The app over a box, made once: it has hundreds of routes."""
    if box not in _APPS:
        with warnings.catch_warnings():  # handlers leave it to litestar 2 to infer what they depend on
            warnings.simplefilter("ignore", LitestarDeprecationWarning)
            _APPS[box] = create_app(box)
    return _APPS[box]


_APPS: WeakKeyDictionary[Box, Any] = WeakKeyDictionary()


class Site:
    """The app as one signed-in person sees it."""

    def __init__(self, box: Box, user: str = "admin") -> None:
        self.box = box
        self.app = app_of(box)
        self.cookies: dict[str, str] = {}
        if user:
            self.cookies = {COOKIE: box.access.redeem_login(box.access.create_login(user))}

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request as a browser sends it."""
        headers = {"accept": "text/html", **options.pop("headers", {})}

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost", cookies=self.cookies
            ) as client:
                return await client.request(method, path, headers=headers, **options)

        return asyncio.run(ask())

    def get(self, path: str, **options: Any) -> httpx.Response:
        """One page."""
        return self.request("GET", path, **options)


class Page(HTMLParser):
    """What a test asks of a page's HTML."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.inline: list[str] = []
        self._inside = ""
        self._attributes: dict[str, str] = {}
        self.feed(answer.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        self._inside, self._attributes = tag, attributes
        if "style" in attributes or any(name.startswith("on") and name != "on" for name in attributes):
            self.inline.append(str((tag, attributes)))

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every element of a tag."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def links(self) -> list[str]:
        """Where the page leads to."""
        return [attributes["href"] for attributes in self.all("a") if "href" in attributes]


# -- something of everything --------------------------------------------------------------------------------------------


@dataclass
class Filled:
    """What `fill` made."""

    run: str
    other_run: str
    job: str
    cron: str
    own_cron: str
    """The admin's: its owner alone may change a cron."""
    waiting: Promotion
    prediction: str

    def pages(self) -> list[str]:
        """An address of every kind of page."""
        return [
            *("/", "/features", "/features/spend@v1", "/features/ratio@v1", "/sources/sales"),
            *(
                "/datasets",
                "/datasets/churn@v1",
                "/datasets/churn@v1/diff/churn@v1",
                "/labels",
                "/labels/left",
                "/labels/left/review",
            ),
            *("/jobs", "/jobs?state=succeeded", f"/jobs/{self.job}", "/crons", f"/crons/{self.cron}"),
            *("/new/features", "/new/features?from=spend@v1", "/new/features?from=ratio@v1", "/new/source"),
            *("/new/dataset", "/new/labels", "/new/labels?from=left"),
            *("/jobs/new", f"/jobs/new?from={self.job}", "/crons/new", f"/crons/new?from={self.job}"),
            *("/runs?group=params.lr&column=best:metrics.auc&pin=metrics.auc", "/runs/columns?experiment=churn"),
            *(
                f"/crons/{self.own_cron}/edit",
                f"/approvals/{self.waiting.id}",
                "/models/churn/2/card",
                "/models/churn/compare",
            ),
            *("/secrets", "/teams", "/deleted", "/admin/settings"),
            *("/runs", f"/runs/{self.run}", f"/runs/compare?run={self.run}&run={self.other_run}"),
            f"/runs/{self.run}/files/model/model%20%3C1%3E.onnx",
            f"/runs/compare/importance?run={self.run},{self.other_run}",
            f"/runs/compare/code?run={self.run},{self.other_run}",
            *("/models", "/models/churn", "/models/churn/1", "/models/churn/2", "/models/churn/policy", "/approvals"),
            *(
                "/endpoints",
                "/endpoints/churn",
                f"/predictions/{self.prediction}",
                "/monitoring",
                "/monitoring?state=firing",
                "/alerts",
            ),
            *(
                "/monitoring/churn",
                f"/monitoring/churn/{FEATURE}",
                "/audit",
                "/audit?actor=ada",
                "/audit?verify=true",
                "/admin",
                "/admin/adoption",
                "/account",
                "/api",
            ),
            *("/timeline", "/timeline?hours=1", "/search", "/search?q=churn", "/search?q=nothing+of+this+name"),
        ]


EMPTY_PAGES = [
    *("/", "/features", "/datasets", "/labels", "/jobs", "/crons", "/runs", "/models", "/approvals"),
    *(
        "/endpoints",
        "/monitoring",
        "/audit",
        "/admin",
        "/admin/adoption",
        "/account",
        "/api",
        "/search",
        "/timeline",
        "/runs/columns",
        "/jobs/new",
        "/crons/new",
        "/new/features",
        "/new/source",
        "/new/dataset",
        "/new/labels",
        "/secrets",
        "/teams",
        "/deleted",
        "/admin/settings",
    ),
]


def fill(box: Box, own: str = "") -> Filled:
    """Data, a job, runs, a model in Production with a candidate that waits, predictions that drift.

    Every name begins with `own`: a team's name and a dot, and whatever follows.
    """
    known = [user.name for user in box.access.users()]
    for name in {"ada", "grace"} - set(known):
        box.access.create_user(name, "approver", actor="admin")
    _data(box, own)
    run, other = _run(box, "first", own), _run(box, NASTY[:250], own)
    command = ("python", "-c", "print('hello <b>there</b>')")
    spec = JobSpec(command=command, name=f"{own}job", team=box.teams.team_of(own), experiment=f"{own}churn")
    job = box.scheduler.submit(spec, user="ada")
    wait_for(lambda: box.scheduler.job(job.id).ended_at, what="the job to end")
    cron = box.crons.add(CronSpec(name=f"{own}every-night", job=spec, schedule="0 3 * * *"), owner="ada")
    box.crons.fire(cron.id, actor="ada")
    mine = box.crons.add(CronSpec(name=f"{own}every-morning", job=spec, schedule="0 6 * * *"), owner="admin")
    waiting = _models(box, run, own)
    _predictions(box, own)
    box.monitor.check(f"{own}churn")
    return Filled(run, other, job.id, cron.id, mine.id, waiting, box.predictions.recent(f"{own}churn", 1)[0].id)


def _data(box: Box, own: str) -> None:
    who, times = Column(name="who", dtype="STRING"), [START + timedelta(hours=hour) for hour in range(200)]
    columns = (who, Column(name="moment", dtype="TIMESTAMP"), Column(name="amount", dtype="FP64", unit="€"))
    box.features.add_source(f"{own}sales", columns, "moment", None, actor="ada")
    rng = np.random.default_rng(0)
    people = [f"p{index % 20}" for index in range(200)]
    moments = pa.array(times, pa.timestamp("us", "UTC"))
    amounts = rng.normal(10, 3, 200).tolist()
    box.features.append(f"{own}sales", pa.table({"who": people, "moment": moments, "amount": amounts}), actor="ada")
    view = ViewSpec(
        name=f"{own}spend",
        join_keys=(who,),
        features=(Column(name="amount", dtype="FP64", description=NASTY),),
        sql=f'SELECT who, amount, moment AS event_time FROM "{own}sales"',
        sources=(f"{own}sales",),
        description=NASTY,
        ttl_seconds=7 * 86400,
    )
    box.features.apply_view(view, actor="ada")
    transform = TransformSpec(
        name=f"{own}ratio",
        inputs=(TransformInput(name="amount", feature=own + FEATURE), TransformInput(name="limit", dtype="FP64")),
        outputs=(Column(name="share", dtype="FP64", description=NASTY),),
        code="def ratio(amount, limit):\n    return amount / limit if limit > 0 else 0.0  # <b>" + NASTY,
        description=NASTY,
    )
    box.features.apply_transform(transform, actor="ada")
    expected = [Expectation(column="amount", min=-1000), Expectation(column="who", pattern="[a-z0-9]+", max_nulls=0)]
    box.features.expect(f"{own}sales", expected, actor="ada")
    held = {"who": [NASTY], "moment": moments[:1], "amount": [-5000.0]}
    box.features.append(f"{own}sales", pa.table(held), actor="ada")
    box.features.apply_service(f"{own}all", [own + FEATURE], actor="ada")
    sources = (LabelSource(name="crm"), LabelSource(name="people", kind="annotation"))
    left = LabelSet(
        name=f"{own}left",
        keys=(who,),
        value=Column(name="left", dtype="INT64"),
        classes=(0, 1),
        sources=sources,
        policy="majority",
        description=NASTY,
    )
    box.labels.apply(left, actor="ada")
    known = pa.array([moment + timedelta(hours=1) for moment in times], pa.timestamp("us", "UTC"))
    labels = {"who": people, "event_time": moments, "known_at": known, "left": [i % 2 for i in range(200)]}
    if box.clock.now() < START + timedelta(days=30):
        box.advance(START + timedelta(days=30), actor="admin")
    box.labels.append(f"{own}left", pa.table(labels), source="crm", backfill=True, actor="admin")
    said = [
        {"who": people[0], "event_time": times[0].isoformat(), "left": 1, "annotator": NASTY},
        {"who": people[0], "event_time": times[0].isoformat(), "left": 7, "annotator": NASTY},
    ]
    box.labels.append_rows(f"{own}left", said, source="people", actor="ada")
    spine = f'SELECT who, moment AS event_time FROM "{own}sales"'
    box.datasets.create(
        DatasetSpec(name=f"{own}churn", spine=spine, features=(own + FEATURE,), label_set=f"{own}left"), actor="ada"
    )


def _run(box: Box, name: str, own: str) -> str:
    run = box.tracker.start_run(
        experiment=f"{own}churn",
        user="ada",
        name=name,
        datasets=(f"{own}churn@v1",),
        params={"lr": "0.1", NASTY[:200]: NASTY},
    )
    now = box.clock.real()
    metrics = [
        Metric(key=key, value=1 / (step + 1), step=step, at=now) for key in ("auc", "loss") for step in range(900)
    ]
    for first in range(0, len(metrics), 1000):
        box.tracker.log(run.id, metrics=metrics[first : first + 1000], tags={"team": NASTY})
    sha256, size = box.artifacts.put([b"model"])
    box.tracker.add_artifact(run.id, "model/model <1>.onnx", sha256, size)
    box.tracker.end_run(run.id, "FINISHED")
    return run.id


def _version(box: Box, run: str, own: str) -> ModelVersion:
    table = pa.table({own + FEATURE: np.random.default_rng(1).normal(10, 3, 500)})
    return box.registry.register(
        NewVersion(
            model=f"{own}churn",
            run_id=run,
            dataset=f"{own}churn@v1",
            features=(own + FEATURE,),
            trained_by="ada",
            submitted_by="ada",
            metrics={"auc": 0.71},
            size=1234,
            reference=store_reference(box.artifacts, make_reference(table, [own + FEATURE])),
            description=NASTY,
        )
    )


def _models(box: Box, run: str, own: str) -> Promotion:
    gates = [GateResult(gate=g, passed=True, required=NASTY, measured="1", at=START) for g in ("lineage", "size")]
    promotions = box.promotions
    first = promotions.record_gates(promotions.propose(_version(box, run, own), actor="ada").id, gates)
    promotions.decide(first.id, approver="grace", decision="approve", comment=NASTY)
    second = promotions.propose(_version(box, run, own), actor="ada")
    second = promotions.record_gates(second.id, gates, {"replay": _replay(second)})
    return promotions.shadow_done(second.id, "seen enough")


def _replay(promotion: Promotion) -> Replay:
    """What a candidate answered to logged requests, as its gate keeps it."""
    pairing = Pairing(("who",))
    for place in range(40):
        given = Given(1, entities=[{"who": f"{NASTY}{place % 3}"}])
        beside = None if place == 7 else [place / 40]
        pairing.add(Beside(given, [0.5], 1.0, beside, 1.5))
    return Replay(
        model=promotion.model,
        version=promotion.version,
        spec=ReplaySpec(against=1),
        state="done",
        at=START,
        since=START,
        until=START,
        against=1,
        logged=40,
        source="logged traffic",
        rows=40,
        replayed=40,
        failed=1,
        error=NASTY,
        p50_ms=1.5,
        p95_ms=1.5,
        p99_ms=1.5,
        reproduced_share=1.0,
        computed=(NASTY,),
        figures=figures_of(pairing.seen(), pairing.seen_in()),
    )


def _predictions(box: Box, own: str) -> None:
    rng = np.random.default_rng(2)
    rows = [
        Prediction(
            id=new_id(),
            model=f"{own}churn",
            version=1,
            role="champion",
            at=box.clock.real(),
            domain_at=box.clock.now(),
            caller="ada",
            entity={"who": NASTY},
            features={own + FEATURE: float(value)},
            score=0.5,
            latency_ms=1.5,
        )
        for value in rng.normal(20, 3, 300)
    ]
    box.predictions.put(batches(rows))
    box.predictions.flush()
