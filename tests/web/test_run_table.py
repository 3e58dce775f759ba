"""The table of runs: what its address says is what it shows, and an address it cannot read is refused in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from mlbox.records import Metric
from mlbox.web.box import Box
from mlbox.web.pages.form import natural
from mlbox.web.pages.run_columns import Column, column, less_is_better
from tests.web.site import NASTY, START, Page, Site, open_box

RUNS = 30


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Thirty runs of a sweep, a parent with three children, and one whose names are what they should not be."""
    box = open_box(tmp_path_factory.mktemp("runs") / "data")
    now = box.clock.real()

    def begin(experiment: str, name: str, values: dict[str, list[float]], at: int, **more: Any) -> str:
        run = box.tracker.start_run(
            experiment=experiment, user="ada", name=name, started=START + timedelta(hours=at), **more
        )
        points = [Metric(key=k, value=v, step=s, at=now) for k, vs in values.items() for s, v in enumerate(vs)]
        box.tracker.log(run.id, metrics=points)
        return run.id

    for n in range(RUNS):
        values = {"auc": [n / RUNS, 0.5], "loss": [1.0, 1 - n / RUNS]}
        begin("sweep", f"run {n}", values, n, params={"net": "wide" if n % 2 else "deep", "lr": str(n)})
    parent = begin("nested", "parent", {}, 0)
    for n in range(3):
        begin("nested", f"child {n}", {"auc": [n / 10]}, n + 1, tags={"mlflow.parentRunId": parent})
    begin("odd", NASTY[:250], {"a b/c": [1.0]}, 0, params={"it's": "o'clock", NASTY[:200]: NASTY})
    yield box
    box.close()


@pytest.fixture(scope="module")
def site(box: Box) -> Site:
    return Site(box)


def names(answer: Any) -> list[str]:
    """What the rows are called."""
    return [a["title"] for a in Page(answer).all("a") if a.get("class") == "cut"]


def table(site: Site, **state: Any) -> Any:
    answer = site.get(f"/runs?{urlencode(state, doseq=True)}")
    assert answer.status_code == 200, answer.text
    return answer


def test_newest_first_and_then_as_the_address_says(site: Site) -> None:
    assert names(table(site, experiment="sweep"))[:2] == ["run 29", "run 28"]
    assert names(table(site, experiment="sweep", order="max:metrics.auc DESC"))[0] == "run 29"
    assert names(table(site, experiment="sweep", order="metrics.loss ASC"))[0] == "run 29"
    assert names(table(site, experiment="sweep", order="min:metrics.auc ASC"))[0] == "run 0"
    assert names(table(site, experiment="sweep", order="params.lr DESC"))[0] == "run 9"  # as a text
    assert names(table(site, experiment="sweep", order="num:params.lr DESC"))[0] == "run 29"
    assert names(table(site, experiment="sweep", order="attributes.start_time ASC"))[0] == "run 0"


def test_every_head_leads_to_an_order_and_a_second_time_to_the_other_way(site: Site) -> None:
    columns = ["attributes.status", "metrics.loss", "best:metrics.loss", "params.net", "attributes.duration"]
    heads = [
        a["href"] for a in Page(table(site, experiment="sweep", column=columns)).all("a") if a.get("class") == "sort"
    ]
    orders = [dict(parse_qsl(urlsplit(href).query))["order"] for href in heads]
    assert orders == [
        *(
            "attributes.status ASC",
            "metrics.loss ASC",
            "min:metrics.loss ASC",
            "num:params.net ASC",
            "attributes.duration DESC",
        )
    ]
    for href, order in zip(heads, orders, strict=True):
        page = Page(site.get(href))
        now = [a for a in page.all("th") if a.get("aria-sort", "none") != "none"]
        assert [a["aria-sort"] for a in now] == ["ascending" if order.endswith("ASC") else "descending"]
        again = next(a["href"] for a in page.all("a") if a.get("class") == "sort" and "order" in a["href"])
        assert again


def test_a_metric_column_shows_its_last_least_greatest_and_best_value(site: Site) -> None:
    columns = ["metrics.loss", "min:metrics.loss", "max:metrics.loss", "best:metrics.loss", "best:metrics.auc"]
    page = Page(table(site, filter="attributes.run_name = 'run 15'", column=columns))
    assert [float(cell["data-value"]) for cell in page.all("td") if "data-value" in cell] == [0.5, 0.5, 1.0, 0.5, 0.5]
    assert less_is_better("val_loss")
    assert less_is_better("logLoss")
    assert not less_is_better("auc")
    assert not less_is_better("glossary")


def test_pages_have_no_gap_in_any_order(site: Site, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlbox.web.pages.run_table.PAGE", 7)
    for order in (
        "",
        "metrics.loss DESC",
        "max:metrics.auc ASC",
        "params.net DESC",
        "num:params.lr DESC",
        "attributes.duration ASC",
    ):
        found: list[str] = []
        address: str | None = f"/runs?{urlencode({'experiment': 'sweep', 'order': order})}"
        while address:
            page = Page(site.get(address))
            found += [a["value"] for a in page.all("input") if a.get("name") == "run"]
            address = next((a["href"] for a in page.all("a") if "data-more" in a), None)
        assert len(found) == len(set(found)) == RUNS, order
    text = table(site, experiment="sweep").text
    assert f"{RUNS} runs" in text


def test_a_wrong_filter_is_told_at_its_place(site: Site) -> None:
    answer = site.get("/runs?filter=" + "metrics.auc > 0.5 OR params.net = 'deep'")
    assert answer.status_code == 400
    assert "<mark>OR</mark>" in answer.text
    assert "joined by AND" in answer.text
    hurt = site.get("/runs?" + urlencode({"filter": "<script>alert(1)</script>"}))
    assert (hurt.status_code, "<script>alert" in hurt.text) == (400, False)


@pytest.mark.parametrize(
    "query",
    [
        *(
            "order=odd",
            "order=min:params.lr",
            "order=num:metrics.auc",
            "column=odd",
            "column=best:params.lr",
            "column=attributes.artifact_uri",
        ),
        *("group=metrics.auc", "group=attributes.run_id", "after=odd", "after=[]", "after=[99,1]", "after=[0,{}]"),
        *("after=[0," + "9" * 40 + ",1]", "after=[0,NaN]", "group=params.net&after=[1]", "pin=odd"),
        "column=" + "&column=".join(f"metrics.m{n}" for n in range(70)),
    ],
)
def test_an_address_that_cannot_be_read_is_refused(site: Site, query: str) -> None:
    assert site.get(f"/runs?{query}").status_code == 400


def test_nested_runs_are_within_their_parents(site: Site) -> None:
    answer = table(site, experiment="nested")
    assert names(answer) == ["parent"]
    fold = next(a["data-fold"] for a in Page(answer).all("button") if "data-fold" in a)
    assert names(site.get(fold)) == ["child 2", "child 1", "child 0"]
    assert len(names(table(site, experiment="nested", flat="1"))) == 4
    assert names(table(site, experiment="nested", filter="metrics.auc > 0.15")) == ["child 2"]


def test_a_child_whose_parent_is_deleted_stands_by_itself(site: Site, box: Box) -> None:
    parent = box.tracker.start_run(experiment="orphans", user="ada", name="parent")
    box.tracker.start_run(experiment="orphans", user="ada", name="child", tags={"mlflow.parentRunId": parent.id})
    own = box.tracker.start_run(experiment="orphans", user="ada", name="own")
    box.tracker.log(own.id, tags={"mlflow.parentRunId": own.id})
    assert names(table(site, experiment="orphans")) == ["own", "parent"]
    box.tracker.delete(parent.id, actor="ada")
    assert names(table(site, experiment="orphans")) == ["own", "child"]


def test_groups_count_and_sum_up_and_unfold(site: Site) -> None:
    answer = table(site, experiment="sweep", group="params.net", column=["metrics.loss", "metrics.auc"])
    assert names(answer) == ["deep", "wide"]
    assert answer.text.count("15 runs") == 4  # in words, and on the button
    lines = [float(cell["data-value"]) for cell in Page(answer).all("td") if "data-value" in cell]
    assert lines == pytest.approx([1 - 28 / 30, 0.5, 1 - 29 / 30, 0.5])
    assert "mean 0.5333" in answer.text
    fold = next(a["data-fold"] for a in Page(answer).all("button") if "data-fold" in a)
    within = names(site.get(fold))
    assert (len(within), within[0]) == (15, "run 28")
    odd = table(site, group="params.it's")
    assert names(odd)[-1] == "o'clock"
    assert names(odd)[0] == "none"
    for button in Page(odd).all("button"):
        if "data-fold" in button:
            assert site.get(button["data-fold"]).status_code == 200


def widths(answer: Any) -> tuple[list[str], set[int]]:
    """What the columns are called, and how many cells a row has."""
    found = re.search(r"<thead><tr>(.*?)</tr></thead>", answer.text, re.S)
    heads = re.findall(r'<th scope="col".*?</th>', found[1], re.S) if found else []
    rows = re.findall(r'<tr><td class="check">(.*?)</tr>', answer.text, re.S)
    return [re.sub(r"<[^>]*>", "", head) for head in heads], {row.count("<td") + 1 for row in rows}


def test_what_folds_out_of_a_row_and_the_next_page_have_the_tables_own_columns(
    site: Site, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else those runs have in common: rows of another width would stand under the wrong heads."""
    for n in range(4):
        one = box.tracker.start_run(experiment="mixed", user="ada", name=f"one {n}", started=START + timedelta(hours=n))
        key = "f1" if n % 2 else "rmse"
        box.tracker.log(one.id, metrics=[Metric(key=key, value=n, step=0, at=START)], tags={"kind": key})
    monkeypatch.setattr("mlbox.web.pages.run_table.PAGE", 1)
    first = table(site, experiment="mixed")
    heads, cells = widths(first)
    assert "f1" in heads
    assert cells == {len(heads)}
    second = site.get(next(a["href"] for a in Page(first).all("a") if "data-more" in a))
    assert names(second) == ["one 2"]
    assert widths(second) == (heads, cells)
    monkeypatch.undo()
    for asked in ({"experiment": "nested"}, {"experiment": "mixed", "group": "tags.kind"}):
        answer = table(site, **asked)
        heads, cells = widths(answer)
        folds = [a["data-fold"] for a in Page(answer).all("button") if "data-fold" in a]
        assert folds
        assert cells == {len(heads)}
        for fold in folds:
            assert widths(site.get(fold))[1] == cells
        assert "auc" in heads or asked["experiment"] == "mixed", "what the runs within have"


def test_groups_are_in_the_order_of_their_size_and_no_head_says_otherwise(site: Site) -> None:
    answer = table(site, experiment="sweep", group="params.net")
    assert not [a for a in Page(answer).all("th") if "aria-sort" in a]
    assert not [a for a in Page(answer).all("a") if a.get("class") == "sort"]


def test_names_are_in_the_order_in_which_people_count(site: Site, box: Box) -> None:
    run = box.tracker.start_run(experiment="layers", user="ada", params={f"layer.{n}": "1" for n in (10, 9, 1)})
    text = site.get(f"/runs/{run.id}").text
    assert text.index("layer.1<") < text.index("layer.9<") < text.index("layer.10<")
    assert sorted(["b2", "b10", "a", "2", "b", "10" * 30], key=natural) == ["2", "10" * 30, "a", "b", "b2", "b10"]


def test_groups_are_paged_without_gaps(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlbox.web.pages.run_table.PAGE", 4)
    for by in ("params.lr", "params.it's", "attributes.user_id"):
        found: list[str] = []
        address: str | None = f"/runs?{urlencode({'group': by})}"
        while address:
            answer = site.get(address)
            found += names(answer)
            address = next((a["href"] for a in Page(answer).all("a") if "data-more" in a), None)
        assert len(found) == len(set(found)) > 0
        assert by != "params.lr" or len(found) == RUNS + 1


def test_columns_are_chosen_and_stay_in_the_address(site: Site) -> None:
    chooser = site.get("/runs/columns?experiment=sweep&filter=metrics.auc>0&column=metrics.loss&pin=metrics.loss")
    page = Page(chooser)
    boxes = [a for a in page.all("input") if a.get("type") == "checkbox"]
    assert {a["value"] for a in boxes if "checked" in a} == {"metrics.loss"}
    assert {"best:metrics.auc", "params.net", "attributes.duration"} <= {a["value"] for a in boxes}
    hidden = {a["name"]: a["value"] for a in page.all("input") if a.get("type") == "hidden" and a["name"] != "q"}
    assert hidden == {"experiment": "sweep", "filter": "metrics.auc>0"}
    shown = Page(table(site, experiment="sweep", column=["params.net", "metrics.loss"], pin="metrics.loss"))
    heads = [a for a in shown.all("th") if "aria-sort" in a]
    assert "pinned pin-1" in heads[0]["class"]
    assert all("column=params.net" in a["href"] for a in shown.all("a") if a.get("class") == "sort")


def test_a_view_of_ones_own_comes_back_and_is_nobody_elses(site: Site, box: Box) -> None:
    box.access.create_user("vera", "viewer", actor="admin")
    vera = Site(box, user="vera")
    shown = Page(vera.get("/runs?experiment=sweep&column=params.net&pin=params.net&filter=metrics.auc>0"))
    offered = [a["value"] for a in shown.all("input") if a.get("name") == "query"]
    assert [dict(parse_qsl(query)) for query in offered] == [
        {"column": "params.net", "pin": "params.net", "filter": "metrics.auc>0"}
    ]
    assert not any(a.get("name") == "query" for a in Page(vera.get("/runs?experiment=sweep")).all("input"))
    session = next(a["content"] for a in Page(vera.get("/runs")).all("meta") if a.get("name") == "csrf")

    def keep(query: str) -> Any:
        body = json.dumps({"experiment": "sweep", "query": query})
        headers = {"content-type": "application/json", "x-csrf-token": session, "origin": "http://localhost"}
        return vera.request("PUT", "/api/v1/run-views", content=body, headers=headers)

    assert keep("column=metrics.loss&order=metrics.loss+ASC").status_code == 200
    answer = vera.get("/runs?experiment=sweep&filter=")
    assert answer.status_code == 302
    assert names(vera.get(answer.headers["location"]))[0] == "run 29"
    assert vera.get("/runs?experiment=sweep&own=0").status_code == 200
    assert vera.get("/runs?experiment=nested").status_code == 200
    assert site.get("/runs?experiment=sweep").status_code == 200
    for bad in ("nonsense", "column=odd", "experiment=x", "after=1", "column=metrics." + "x" * 5000):
        assert keep(bad).status_code == 400, bad
    assert keep("").status_code == 200
    assert vera.get("/runs?experiment=sweep").status_code == 200


def test_columns_and_their_names_are_one(site: Site) -> None:
    for one in (
        Column("metric", "a b/c", "max"),
        Column("param", "it's"),
        Column("tag", 'a"b`c'),
        Column("attribute", "status"),
    ):
        assert column(one.id) == one
    text = table(
        site, experiment="odd", column=[Column("metric", "a b/c", "best").id, Column("param", NASTY[:200]).id]
    ).text
    assert "<script>alert" not in text
    assert 'data-value="1.0"' in text


# -- words --------------------------------------------------------------------------------------------------------------


def words(site: Site, text: str, at: int | None = None, experiment: str = "sweep") -> list[str]:
    query = {"text": text, "experiment": experiment, **({} if at is None else {"at": at})}
    answer = site.get(f"/api/v1/run-words?{urlencode(query)}")
    assert answer.status_code == 200
    return [one["text"] for one in answer.json()["suggestions"]]


def test_a_filter_is_completed_piece_by_piece(site: Site) -> None:
    assert words(site, "")[:4] == ["metrics.auc", "metrics.loss", "params.lr", "params.net"]
    assert words(site, "au")[:1] == ["metrics.auc"]
    assert words(site, "metric.lo") == ["metrics.loss"]
    assert words(site, "params.net ") == ["=", "!=", "LIKE", "ILIKE", "IS NULL", "IS NOT NULL"]
    assert words(site, "params.net = ") == ["'deep'", "'wide'"]
    assert words(site, "params.net = 'w") == ["'wide'"]
    assert words(site, "params.net = 'wide' ") == ["AND"]
    assert words(site, "metrics.auc > 0.1 AND sta") == ["attributes.start_time", "attributes.status"]
    assert words(site, "attributes.status = 'F") == ["'FINISHED'", "'FAILED'"]
    assert words(site, "status = ")[0] == "'SCHEDULED'"
    assert words(site, "metrics.loss < ") == ["0.0333333", "0.516667", "1"]
    assert words(site, "attributes.user_id = ") == ["'ada'"]
    assert words(site, "run_id IN (")[0].startswith("'")
    assert words(site, "metrics.auc > 0.5 AND params.lr = '1'", at=10) == ["metrics.auc"]
    assert words(site, "odd.thing ") == []
    assert words(site, "", experiment="nowhere")[0].startswith("attributes.")


def test_what_is_completed_can_be_read(site: Site) -> None:
    for experiment in ("odd", "sweep", "nested"):
        for name in words(site, "", experiment=experiment):
            operator = words(site, f"{name} ", experiment=experiment)[0]
            value = (words(site, f"{name} {operator} ", experiment=experiment) or ["1"])[0]
            answer = site.get(f"/runs?{urlencode({'filter': f'{name} {operator} {value}'})}")
            assert answer.status_code == 200 or value == "1", f"{name} {operator} {value}"


def test_what_is_wrong_is_said_with_its_place(site: Site) -> None:
    text = "metrics.auc LIKE 'x'"
    wrong = site.get(f"/api/v1/run-words?{urlencode({'text': text})}").json()["wrong"]
    assert text[wrong["begin"] : wrong["end"]] == "LIKE"
    assert site.get("/api/v1/run-words?text=metrics.auc>1").json()["wrong"] is None
    assert site.get("/api/v1/run-words?at=99999999999999999999").status_code == 400
