"""The catalogue over HTTP and on its pages: found, followed to the endpoint, as private as its names."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from mlbox.records import (
    Column,
    Distribution,
    FeatureHit,
    FeatureLineage,
    FeatureView,
    LineageNode,
    ViewProfile,
    ViewSpec,
)
from mlbox.web.box import Box
from mlbox.web.pages.feature_pictures import HEIGHT, MOST_IN_COLUMN, WIDTH, bars, changes, draw, examples
from tests.web.site import START, Page, Site, fill, open_box

WHO = Column(name="who", dtype="STRING")
OWN = "zebra.quagga-"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    opened = open_box(tmp_path_factory.mktemp("catalogue") / "data")
    for name in ("ada", "grace", "otto"):
        opened.access.create_user(name, "approver", actor="admin")
    opened.teams.create("zebra", actor="admin")
    for name in ("ada", "grace"):
        opened.teams.add_member("zebra", name, "admin", actor="admin")
    for kind, name in (
        ("source", "sales"),
        ("view", "spend"),
        ("view", "ratio"),
        ("service", "all"),
        ("label", "left"),
        ("dataset", "churn"),
        ("experiment", "churn"),
        ("model", "churn"),
    ):
        opened.teams.set_private(kind, OWN + name, True, actor="admin")  # type: ignore[arg-type]
    fill(opened)
    fill(opened, OWN)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def site(box: Box) -> Site:
    return Site(box)


@pytest.fixture(scope="module")
def stranger(box: Box) -> Site:
    return Site(box, user="otto")


def ask(site: Site, path: str, type: Any) -> Any:
    answer = site.get(f"/api/v1/features/{path}", headers={"accept": "application/json"})
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=type)


def found(site: Site, query: str) -> list[str]:
    return [hit.ref for hit in ask(site, f"search?{query}", list[FeatureHit])]


# -- search -------------------------------------------------------------------------------------------------------------------


def test_search_finds_filters_and_pages(site: Site) -> None:
    mine = [f"{OWN}ratio@v1:share", f"{OWN}spend@v1:amount"]
    assert found(site, "") == ["ratio@v1:share", "spend@v1:amount", *mine]
    assert found(site, "q=amonut") == ["spend@v1:amount", mine[1]]
    assert found(site, "team=zebra&entity=who") == mine
    first = ask(site, "search?limit=1", list[FeatureHit])[0]
    assert (first.ref, first.team, first.entity) == ("ratio@v1:share", "everyone", ("who",))
    assert found(site, f"limit=1&after={first.cursor}") == ["spend@v1:amount"]


@pytest.mark.parametrize("query", ["after=x", "limit=0", "limit=1001", "q=" + "a+" * 30, "q=" + "x" * 1001])
def test_a_bad_search_is_refused_in_words(site: Site, query: str) -> None:
    answer = site.get(f"/api/v1/features/search?{query}", headers={"accept": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_what_is_private_is_neither_found_nor_told_of(stranger: Site) -> None:
    assert found(stranger, "") == ["ratio@v1:share", "spend@v1:amount"]
    assert found(stranger, "q=quagga") == found(stranger, "team=zebra") == []
    for part in ("lineage", "profile"):
        for ref in (f"{OWN}spend@v1", f"{OWN}ratio@v1", "nothing"):
            assert stranger.get(f"/api/v1/features/views/{ref}/{part}").status_code == 404, (ref, part)
        assert "quagga" not in stranger.get(f"/api/v1/features/views/spend/{part}").text
    for path in ("/features", "/features/spend@v1", "/features?q=quagga", "/features?entity=who"):
        assert OWN not in stranger.get(path).text, path


# -- lineage ------------------------------------------------------------------------------------------------------------------


def test_lineage_goes_from_the_source_to_the_endpoint(site: Site) -> None:
    seen = ask(site, "views/spend/lineage", FeatureLineage)
    assert seen.ref == "spend@v1"
    assert set(seen.edges) == {
        ("source:sales", "view:spend@v1"),
        ("view:spend@v1", "transform:ratio@v1"),
        ("view:spend@v1", "service:all@v1"),
        ("view:spend@v1", "dataset:churn@v1"),
        ("dataset:churn@v1", "model:churn/1"),
        ("dataset:churn@v1", "model:churn/2"),
        ("model:churn/1", "endpoint:churn"),
    }
    assert {edge for pair in seen.edges for edge in pair} == {node.id for node in seen.nodes}
    assert {node.features for node in seen.nodes if node.kind in ("dataset", "model", "endpoint")} == {("amount",)}
    assert not seen.cut
    of_transform = ask(site, "views/ratio@v1/lineage", FeatureLineage)
    assert [node.kind for node in of_transform.nodes] == ["transform", "view", "source"]


def test_a_drawing_goes_from_left_to_right_and_says_what_it_leaves_out() -> None:
    nodes = [LineageNode(id="source:s", kind="source", name="s"), LineageNode(id="view:v@v1", kind="view", name="v@v1")]
    nodes += [LineageNode(id=f"service:x{n}@v1", kind="service", name=f"x{n}@v1") for n in range(MOST_IN_COLUMN + 3)]
    edges = [("source:s", "view:v@v1"), *(("view:v@v1", node.id) for node in nodes[2:])]
    drawn = draw(FeatureLineage(ref="v@v1", nodes=tuple(nodes), edges=tuple(edges)))
    assert drawn.hidden == 3
    assert len(drawn.boxes) == MOST_IN_COLUMN + 2
    assert len(drawn.paths) == MOST_IN_COLUMN + 1
    xs = {box.what: box.x for box in drawn.boxes}
    assert xs["source"] < xs["feature view"] < xs["feature service"]
    assert [box.name for box in drawn.boxes if box.here] == ["v@v1"]
    assert all(0 <= box.x <= drawn.width - WIDTH and 0 <= box.y <= drawn.height - HEIGHT for box in drawn.boxes)
    assert len({(box.x, box.y) for box in drawn.boxes}) == len(drawn.boxes)
    assert draw(FeatureLineage(ref="v", nodes=(), edges=())).boxes == ()


def test_a_way_past_a_box_is_not_drawn_and_what_comes_from_nothing_stands_before_what_it_leads_to() -> None:
    kinds = {"s": "source", "v": "view", "d": "dataset", "r": "run", "m": "model", "c": "code"}
    nodes = tuple(LineageNode(id=one, kind=kind, name=one) for one, kind in kinds.items())
    edges = (("s", "v"), ("v", "d"), ("d", "r"), ("r", "m"), ("v", "m"), ("c", "r"))
    drawn = draw(FeatureLineage(ref="m", nodes=nodes, edges=edges))
    places = {box.name: box.x for box in drawn.boxes}
    assert len(drawn.paths) == len(edges) - 1
    assert places["c"] == places["d"]


# -- profile ------------------------------------------------------------------------------------------------------------------


def test_a_profile_shows_now_beside_each_training(site: Site) -> None:
    seen = ask(site, "views/spend/profile?refresh=true", ViewProfile)
    (amount,) = seen.features
    (training,) = seen.trainings
    assert (seen.built, seen.rows, amount.rows, sum(amount.counts)) == (True, 200, 200, 200)
    assert (training.dataset, set(training.models)) == ("churn@v1", {"churn/1", "churn/2"})
    assert training.distribution.edges == amount.edges
    assert sum(training.distribution.counts) == training.distribution.rows
    assert site.get("/api/v1/features/views/spend@v9/profile").status_code == 404


def test_bars_are_as_high_as_their_counts() -> None:
    drawn = bars(Distribution(feature="a", dtype="FP64", rows=3, nulls=0, edges=(0.0, 1.0, 2.0), counts=(1, 2)))
    assert [(x, height) for x, _, _, height, _ in drawn] == [(0.0, 14.0), (50.0, 28.0)]
    assert drawn[1][4] == "1 to 2: 2"
    assert bars(Distribution(feature="a", dtype="STRING", rows=0, nulls=0)) == []


# -- pages --------------------------------------------------------------------------------------------------------------------


def words_of(site: Site, path: str) -> str:
    answer = site.get(path)
    assert answer.status_code == 200, answer.text[:300]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text))


def test_the_search_is_a_form_whose_address_says_it_all(site: Site) -> None:
    page = Page(site.get("/features?q=amount&team=everyone&dtype=FP64"))
    searches = [(form["method"], form["action"]) for form in page.all("form") if form.get("role") == "search"]
    assert searches == [("get", "/search"), ("get", "/features")], "of everything, and of features"
    fields = {one["name"]: one.get("value", "") for one in page.all("input") if "name" in one}
    assert (fields["q"], fields["tag"], fields["owner"]) == ("amount", "", "")
    assert "/features/spend@v1" in page.links
    assert f"/features/{OWN}spend@v1" not in page.links
    assert "Nothing found" in words_of(site, "/features?q=zzzzzz")
    assert site.get("/features?after=x").status_code == 400


def test_a_view_shows_what_it_is_what_uses_it_and_how_to(site: Site) -> None:
    site.get("/api/v1/features/views/spend/profile?refresh=true")
    text = words_of(site, "/features/spend@v1")
    assert "of 200 rows" in text
    assert "churn@v1 trained" in text
    assert "mlbox feature get spend@v1:amount --key who=a" in text
    assert "mlbox.features(" in text
    assert "/api/v1/features/online" in text
    assert "first version" in text
    page = Page(site.get("/features/spend@v1"))
    of_transform = words_of(site, "/features/ratio@v1")
    assert "mlbox feature get ratio@v1:share --key who=a --key limit=1.5" in of_transform
    assert {"/sources/sales", "/datasets/churn@v1", "/models/churn/1", "/endpoints/churn"} <= set(page.links)
    assert len([one for one in page.all("svg") if one.get("class") == "hist"]) == 2


def test_the_examples_are_what_they_say() -> None:
    keys = tuple(Column(name=dtype.lower(), dtype=dtype) for dtype in ("STRING", "INT64", "FP64", "BOOL", "TIMESTAMP"))
    asked: list[Any] = []
    python, shell, http = (text for _, text in examples(["v@v2:who"], keys, "http://box"))
    exec(
        python.replace("import mlbox\n", "").replace("mlbox.features", "ask"),
        {"ask": lambda *given: asked.append(given)},
    )
    entity = {"string": "a", "int64": 1, "fp64": 1.5, "bool": True, "timestamp": "2026-01-01T00:00:00Z"}
    assert asked == [(["v@v2:who"], [entity])]
    assert shlex.split(shell)[3:] == [
        "v@v2:who",
        *itertools.chain(
            *(
                ("--key", f"{k}={said}")
                for k, said in zip(entity, ("a", "1", "1.5", "true", "2026-01-01T00:00:00Z"), strict=True)
            )
        ),
    ]
    assert json.loads(shlex.split(http)[2]) == {"features": ["v@v2:who"], "entities": [entity]}
    assert shlex.split(http)[-1] == "http://box/api/v1/features/online"


def test_the_history_says_what_changed(box: Box, site: Site) -> None:
    first = ViewSpec(
        name="changing",
        join_keys=(WHO,),
        features=(Column(name="amount", dtype="FP64"), Column(name="old", dtype="INT64")),
        sql="SELECT who, amount, 1 AS old,\n  moment AS event_time\nFROM sales",
        sources=("sales",),
    )
    box.features.apply_view(first, actor="ada")
    second = msgspec.structs.replace(
        first,
        features=(Column(name="amount", dtype="INT64"), Column(name="new", dtype="FP64")),
        sql="SELECT who, CAST(amount AS BIGINT) AS amount, 2.0 AS new,\n  moment AS event_time\nFROM sales",
        ttl_seconds=60,
    )
    box.features.apply_view(second, actor="ada")
    versions = [box.features.view(f"changing@v{number}") for number in (1, 2)]
    newest, oldest = changes(versions)
    assert oldest.words == ("first version",)
    assert newest.words == (
        "feature new added",
        "feature old removed",
        "feature amount is INT64, was FP64",
        "another time for which values count",
        "another SQL",
    )
    assert newest.diff is not None
    assert ("minus", "-SELECT who, amount, 1 AS old,") in newest.diff.lines
    assert oldest.diff is None
    assert '<span class="minus">-SELECT who, amount, 1 AS old,' in site.get("/features/changing").text
    assert "Version 2 is the latest" in words_of(site, "/features/changing@v1")
    assert "Version 2 is the latest" not in words_of(site, "/features/changing")
    assert "were not computed yet" in words_of(site, "/features/changing")


def test_a_thousand_views_come_in_pages(tmp_path_factory: pytest.TempPathFactory) -> None:
    many = open_box(tmp_path_factory.mktemp("many") / "data")
    try:
        columns = (WHO, Column(name="moment", dtype="TIMESTAMP"), Column(name="amount", dtype="FP64"))
        many.features.add_source("sales", columns, "moment", None, actor="ada")
        moment = pa.array([START], pa.timestamp("us", "UTC"))
        many.features.append("sales", pa.table({"who": ["a"], "moment": moment, "amount": [1.0]}), actor="ada")
        for number in range(1000):
            spec = ViewSpec(
                name=f"view{number:04}",
                join_keys=(WHO,),
                features=(Column(name="amount", dtype="FP64"),),
                sql=f"SELECT who, amount + {number} AS amount, moment AS event_time FROM sales",
                sources=("sales",),
            )
            many.features.save_view(spec, actor="ada")
        site = Site(many)
        seen: list[str] = []
        path: str | None = "/features?q=amount"
        while path:
            page = Page(site.get(path))
            seen += [link for link in page.links if link.startswith("/features/view")]
            path = next((one["href"] for one in page.all("a") if "data-more" in one), None)
        assert seen == [f"/features/view{number:04}@v1" for number in range(1000)]
    finally:
        many.close()


def test_a_view_of_which_nothing_is_known_has_a_page(box: Box, site: Site) -> None:
    view: FeatureView = box.features.view("spend")
    assert changes([view])[0].diff is None
    assert ask(site, "views/changing/profile", ViewProfile).built is False
