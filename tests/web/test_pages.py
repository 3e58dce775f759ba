"""Every page: who may see it, what it may load, that nothing a user wrote becomes markup, and what it says when empty."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from mlbox.cli.main import COMMANDS, load
from mlbox.errors import Unavailable
from mlbox.records import Finding, Gpu, Job, JobSpec, RolloutDecision, Samples, Side
from mlbox.store.access.roles import ACTIONS
from mlbox.web.box import Box
from mlbox.web.pages import handlers
from mlbox.web.pages.headers import POLICY
from mlbox.web.pages.models import steps, why
from mlbox.web.pages.submitting import codes
from tests.web.site import EMPTY_PAGES, FEATURE, NASTY, START, Filled, Page, Site, fill, open_box, routes_of

PACKAGE = Path(__file__).parents[2] / "mlbox"
SCORING = {f"/models/{{model}}/{what}" for what in ("invocations", "ping", "health", "version")}
"""What MLflow's clients ask of a model lies beside its pages."""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    opened = open_box(tmp_path_factory.mktemp("filled") / "data")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def filled(box: Box) -> Filled:
    return fill(box)


@pytest.fixture(scope="module")
def site(box: Box, filled: Filled) -> Site:
    return Site(box)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    opened = open_box(tmp_path_factory.mktemp("empty") / "data")
    yield Site(opened)
    opened.close()


# -- all of them --------------------------------------------------------------------------------------------------------


def check_page(site: Site, path: str) -> Page:
    answer = site.get(path)
    assert answer.status_code == 200, (path, answer.text[:500])
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(answer)
    assert page.inline == [], path
    assert "<script>alert" not in answer.text, path
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert sorted(ids) == sorted(set(ids)), path
    assert len(page.all("h1")) == 1, path
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in page.all("svg")), path
    assert path == "/api" or "None" not in re.sub(r"<[^>]*>", " ", answer.text).split(), path
    return page


def test_every_page_shows_with_data_and_leads_on(site: Site, filled: Filled) -> None:
    seen: set[str] = set()
    for path in filled.pages():
        page = check_page(site, path)
        assert page.all("p")[0].get("id") == "clock", "the banner of replay mode"
        seen |= {link for link in page.links if link.startswith("/") and not link.startswith("/api/v1")}
        seen |= {a["src"] for a in page.all("script")} | {a["href"] for a in page.all("link")}
    for link in sorted(seen):
        assert site.get(link).status_code == 200, link


def test_no_page_is_left_out_of_those_that_are_walked(filled: Filled) -> None:
    """The lists of `tests.web.site` are what axe, the browser and the tests here go through."""
    walked = [path.partition("?")[0] for path in filled.pages()]
    pages = {
        path: re.compile(re.sub(r"\{\w+:path\}", ".+", re.sub(r"\{\w+:(?:str|int)\}", "[^/]+", path)) + "$")
        for handler in handlers
        if "GET" in handler.http_methods
        for path in handler.paths
    }
    assert len(pages) > 40
    missing = {path for path, pattern in pages.items() if not any(pattern.match(one) for one in walked)}
    assert missing == {"/login", "/static/{digest:str}/{name:path}"}


def test_every_page_shows_when_there_is_nothing(empty: Site) -> None:
    for path in EMPTY_PAGES:
        check_page(empty, path)


def test_without_a_session_every_page_leads_to_the_sign_in(empty: Site) -> None:
    stranger = Site(empty.box, user="")
    for path in EMPTY_PAGES:
        answer = stranger.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/login?next={path}")


def test_the_policy_lets_nothing_in_from_elsewhere(site: Site) -> None:
    for path in ("/", "/login", "/no-such-page", "/api/v1/models"):
        headers = site.get(path).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
    for rule in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "form-action 'self'"):
        assert rule in POLICY.split("; ")
    assert "unsafe" not in POLICY


def test_an_address_that_leads_nowhere_says_so_on_a_page(site: Site) -> None:
    for path in ("/no-such-page", "/models/none", "/runs/none", "/jobs/none", "/datasets/none", "/features/none"):
        answer = site.get(path)
        assert answer.status_code == 404, path
        assert "There is nothing here" in answer.text
    assert site.get("/runs/none", headers={"accept": "application/json"}).json()["error"]["code"] == "not_found"


def test_bad_filters_are_refused_in_words(site: Site) -> None:
    for path in (
        "/jobs?state=odd",
        "/monitoring?state=odd",
        "/runs/compare?run=one",
        "/models/churn/x",
        "/jobs/x?attempt=y",
    ):
        assert site.get(path).status_code in (400, 404), path


def offered(page: Page) -> set[tuple[str, str]]:
    """Method and address of every call that a page's forms and buttons would make."""
    found, method, action = set(), "POST", ""
    for tag, attributes in page.tags:
        if tag.startswith("mlbox-"):
            method = attributes.get("data-method", "POST")
        elif tag == "form":
            action = attributes.get("action", "") if attributes.get("method") != "get" else ""
        elif tag == "button":
            found.add((attributes.get("data-method", method), attributes.get("formaction", action)))
    return {(method, address) for method, address in found if address.startswith("/api/")}


def test_a_viewer_is_offered_no_button_that_would_be_refused(box: Box, filled: Filled, site: Site) -> None:
    box.access.create_user("vera", "viewer", actor="admin")
    routes = [
        (method, re.compile(re.sub(r"\{[^}]*\}", "[^/]+", route.path) + "$"), ACTIONS[handler.opt["action"]].role)
        for route in routes_of(box)
        for handler in route.route_handlers
        for method in handler.http_methods
        if handler.opt.get("action") in ACTIONS
    ]

    def roles(method: str, address: str) -> set[str]:
        found = {role for known, path, role in routes if known == method and path.match(address.partition("?")[0])}
        assert found, (method, address)
        return found

    viewer = Site(box, user="vera")
    for path in filled.pages():
        answer = viewer.get(path)
        if answer.status_code != 403:
            refused = {call for call in offered(Page(answer)) if "viewer" not in roles(*call)}
            assert refused == set(), path
    assert "takes the role approver" in viewer.get("/approvals").text
    for path, method, address in (
        (f"/runs/{filled.run}", "DELETE", f"/api/v1/runs/{filled.run}"),
        ("/models/churn", "PATCH", "/api/v1/models/churn/serving"),
        ("/models/churn/2", "POST", f"/api/v1/promotions/{filled.waiting.id}/withdraw"),
        ("/approvals", "POST", f"/api/v1/promotions/{filled.waiting.id}/reject"),
        ("/sources/sales", "PUT", "/api/v1/sources/sales/expectations"),
    ):
        assert (method, address) in offered(Page(site.get(path))), path


# -- one by one ---------------------------------------------------------------------------------------------------------


def test_the_overview_counts(site: Site) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", site.get("/").text))
    assert "In Production 1 model answers" in text
    first = site.get("/").text.partition('class="tile ')[2]
    assert "In Production" in first.partition('class="tile ')[0], (
        "how many models are in Production is the first figure"
    )
    assert "Approvals 1 waiting for someone" in text
    assert "Alerts 1 firing" in text
    assert re.search(r"churn version 1 .*300 0 1\.50.ms", text)


def test_the_trainer_is_told_before_and_refused_after(box: Box, filled: Filled, site: Site) -> None:
    trainer = Site(box, user="ada")
    page = trainer.get("/approvals")
    assert "You trained and submitted and proposed this version" in page.text
    assert "You trained" not in site.get("/approvals").text
    csrf = next(a["content"] for a in Page(page).all("meta") if a.get("name") == "csrf")
    action = f"/api/v1/promotions/{filled.waiting.id}/approve"
    assert action in [attributes.get("action") for attributes in Page(page).all("form")]
    answer = trainer.request("POST", action, json={"comment": "mine"}, headers={"x-csrf-token": csrf})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "refused")
    assert trainer.request("POST", action, json={"comment": "mine"}).status_code == 403, "no form token"


def test_a_candidate_that_was_rolled_back_is_shown_stopped_where_it_was(box: Box, filled: Filled) -> None:
    in_shadow = replace(filled.waiting, state="rolled_back", reason="it differs")
    assert [step.name for step in steps(in_shadow) if step.state == "stopped"] == ["Shadow"]
    (champion,) = box.promotions.of("churn", 1)
    in_canary = replace(in_shadow, approvals=champion.approvals)
    assert [step.name for step in steps(in_canary) if step.state == "stopped"] == ["5 %"]
    later = replace(in_canary, step=1)
    assert [step.name for step in steps(later) if step.state == "stopped"] == ["25 %"]


@pytest.mark.parametrize(
    ("guard", "actor", "reason", "said"),
    [
        (
            "errors",
            "mlbox",
            "9 of 10",
            "Rolled back at 5 %, because it fails more often than version 1: 9 of 10 runs failed.",
        ),
        ("", "mlbox", "19 of the last 20 runs failed", "Rolled back at 5 %, because 19 of the last 20 runs failed."),
        ("", "ann", "complaints", "Rolled back at 5 %, by ann: complaints."),
        ("", "ann", "", "Rolled back at 5 %, by ann: without a word."),
    ],
)
def test_a_sentence_says_why_a_candidate_was_rolled_back(
    box: Box, filled: Filled, guard: str, actor: str, reason: str, said: str
) -> None:
    ended = replace(filled.waiting, state="rolled_back", reason=reason, champion=1, step=0)
    finding = Finding(guard=guard, state="worse", words="9 of 10 runs failed")
    decision = RolloutDecision(
        at=box.clock.real(),
        actor=actor,
        rule=1,
        action="roll_back",
        reason=reason,
        findings=(finding,) if guard else (),
        samples=Samples(
            state="canary", step=0, since=box.clock.real(), candidate=Side(), control=Side(), champion=Side()
        ),
        done="roll_back",
    )
    assert why(ended, [decision]) == f"{said} Version 1 answers everything."
    assert why(replace(ended, state="withdrawn"), [decision]) == reason


def test_a_run_shows_its_metrics_thinned_to_what_a_screen_can_show(site: Site, filled: Filled) -> None:
    page = Page(site.get(f"/runs/{filled.run}"))
    assert [figure["data-key"] for figure in page.all("figure")] == ["auc", "loss"]
    drawn = site.get(f"/api/v1/curves?key=auc&run={filled.run}&most=300").json()["lines"]
    assert [len(line["steps"]) < 320 for line in drawn] == [True]
    compared = Page(site.get(f"/runs/compare?run={filled.run}&run={filled.other_run}"))
    assert all(one["data-runs"].count("label") == 2 for one in compared.all("mlbox-curveset"))


def test_a_feature_shows_its_two_distributions_and_its_past(site: Site) -> None:
    page = Page(site.get(f"/monitoring/churn/{FEATURE}"))
    assert len(page.all("mlbox-chart")) == 2


def test_long_lists_are_paged_without_gaps(empty: Site) -> None:
    tracker = empty.box.tracker
    made = [tracker.start_run(experiment="many", user="ada", name=f"r{n}").id for n in range(120)]
    found: list[str] = []
    address: str | None = "/runs?experiment=many"
    while address:
        page = Page(empty.get(address))
        found += [a["value"] for a in page.all("input") if a.get("name") == "run"]
        address = next((a["href"] for a in page.all("a") if "data-more" in a), None)
        assert address is None or "experiment=many" in address
    assert found == made[::-1]


def test_the_api_page_lists_what_the_schema_lists(site: Site) -> None:
    schema = site.get("/api/v1/schema/openapi.json").json()
    text = site.get("/api").text
    for path, methods in schema["paths"].items():
        assert f"<code>{path}</code>" in text
        assert path in SCORING or not path.startswith(("/static", "/login", "/models"))
        for method in methods.values():
            assert method.get("description") or method.get("summary")


def test_gpus_show_who_holds_them(empty: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [
        Gpu(uuid="GPU-1", index=0, name="H200", memory_gb=139),
        Gpu(uuid="GPU-2", index=1, taken_by="process 7 (game)"),
        Gpu(uuid="VIRTUAL-2", index=2, virtual=True, held=1.0),
    ]
    monkeypatch.setattr(empty.box.scheduler, "gpus", lambda: gpus)
    text = empty.get("/jobs").text
    for said in ("H200", "free", "taken", "process 7 (game)", "GPU 2 (virtual)", "another team&#39;s job"):
        assert said in text, said
    text = empty.get("/").text
    for said in ("H200", "taken", "process 7 (game)", "held by another team’s job"):
        assert said in text, said


# -- tokens and weight --------------------------------------------------------------------------------------------------


def test_a_form_token_looks_different_in_each_page_and_fits_its_own_session(site: Site, empty: Site) -> None:
    def token(of: Site) -> str:
        return next(a["content"] for a in Page(of.get("/")).all("meta") if a.get("name") == "csrf")

    one, other = token(site), token(site)
    assert one != other
    for sent in (one, other):
        assert _stop(site, sent) == 404
    for wrong in (token(empty), one[:-2], "", "zz", "é"):
        assert _stop(site, wrong) == 403, wrong


def _stop(site: Site, token: str) -> int:
    return site.request("POST", "/api/v1/jobs/none/stop", headers={"x-csrf-token": token.encode()}).status_code


def test_a_page_is_compressed_for_who_reads_that(site: Site) -> None:
    packed = site.get("/audit", headers={"accept-encoding": "gzip"})
    plain = site.get("/audit", headers={"accept-encoding": "identity"})
    assert (packed.headers.get("content-encoding"), plain.headers.get("content-encoding")) == ("gzip", None)
    assert packed.headers["vary"] == plain.headers["vary"] == "accept-encoding"
    assert int(packed.headers["content-length"]) < len(plain.content) / 3
    assert "<h1>Audit" in packed.text


FIRST_LOAD, FURTHER = 300_000, 100_000
"""Bytes that travel for the first page, and for any other once that was read."""


def test_what_travels_for_a_page_stays_small(site: Site, filled: Filled) -> None:
    had = loaded_by(site, "/", set())
    assert sum(had.values()) < FIRST_LOAD
    for path in filled.pages():
        assert sum(loaded_by(site, path, set(had)).values()) < FURTHER, path


def loaded_by(site: Site, path: str, had: set[str]) -> dict[str, int]:
    """The bytes of a page, and of what it loads that was not loaded before; each address is one of this server's own."""
    page = Page(site.get(path))
    waiting = [path, *(a["src"] for a in page.all("script")), *(a["href"] for a in page.all("link"))]
    found: dict[str, int] = {}
    while waiting:
        address = waiting.pop()
        if address in had or address in found:
            continue
        assert address.startswith("/"), (path, address)
        answer = site.get(address, headers={"accept-encoding": "gzip"})
        found[address] = int(answer.headers["content-length"])
        if address.endswith(".js"):
            waiting += [str(answer.url.join(name).path) for name in re.findall(r'from "(\./[^"]+)"', answer.text)]
    return found


# -- words --------------------------------------------------------------------------------------------------------------


def test_every_command_that_a_page_names_exists(empty: Site, site: Site, filled: Filled) -> None:
    texts = [empty.get(path).text for path in EMPTY_PAGES] + [site.get(path).text for path in filled.pages()]
    named = {tuple(found.split()) for text in texts for found in re.findall(r"<code>mlbox ([a-z]+(?: [a-z]+)?)", text)}
    assert len(named) >= 5
    for noun, *verb in named:
        assert noun in COMMANDS, noun
        commands = getattr(load(noun), "commands", None)
        assert commands is None or verb[0] in commands, (noun, verb)


def test_a_store_that_is_down_takes_only_its_own_part_of_the_overview(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> list[object]:
        raise Unavailable("The monitoring store could not be read.")

    monkeypatch.setattr(site.box.monitor, "alerts", broken)
    answer = site.get("/")
    assert answer.status_code == 200
    assert "The monitoring store could not be read." in answer.text
    assert "model answers" in answer.text


def test_pages_cost_the_idle_server_no_heavy_library() -> None:
    heavy = "numpy pyarrow duckdb torch scipy sklearn onnxruntime"
    code = f"import sys, mlbox.web.pages; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_name_that_is_markup_stays_text(site: Site, filled: Filled) -> None:
    text = site.get(f"/runs/{filled.other_run}").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert NASTY[:20] not in text


def test_a_cron_says_when_it_comes_and_offers_what_one_may_do(box: Box, site: Site, filled: Filled) -> None:
    page = site.get(f"/crons/{filled.cron}")
    assert "At 03:00 every day" in page.text
    assert page.text.count("03:00:00 UTC</td>") == 5
    assert f'action="/api/v1/crons/{filled.cron}/pause"' in page.text
    assert "submitted" in page.text
    box.crons.pause(filled.cron, True, actor="ada")
    listed = site.get("/crons").text
    assert f'action="/api/v1/crons/{filled.cron}/resume"' in listed
    assert ">paused<" in listed
    assert "Next times" not in site.get(f"/crons/{filled.cron}").text
    box.crons.pause(filled.cron, False, actor="ada")
    box.access.create_user("guest", "viewer", actor="admin")
    assert f"/api/v1/crons/{filled.cron}/pause" not in Site(box, "guest").get("/crons").text


def test_who_may_not_submit_is_offered_no_form(box: Box, site: Site, filled: Filled) -> None:
    box.access.create_user("onlooker", "viewer", actor="admin")
    onlooker = Site(box, "onlooker")
    for path, link in (
        ("/jobs", "/jobs/new"),
        (f"/jobs/{filled.job}", f"/jobs/new?from={filled.job}"),
        ("/crons", "/crons/new"),
    ):
        assert link in Page(site.get(path)).links
        assert link not in Page(onlooker.get(path)).links
    for path in ("/jobs/new", "/crons/new", f"/crons/{filled.cron}/edit"):
        assert onlooker.get(path).status_code == 403
    assert f"/crons/{filled.cron}/edit" not in Page(site.get(f"/crons/{filled.cron}")).links  # it is ada's
    assert f"/crons/{filled.cron}/edit" in Page(Site(box, "ada").get(f"/crons/{filled.cron}")).links


def test_only_its_owner_changes_a_cron(box: Box, site: Site, filled: Filled) -> None:
    spec = box.crons.crons.get(filled.cron).spec
    body = to_builtins(replace(spec, schedule="0 4 * * *"))
    bearer = {"authorization": f"Bearer {box.access.create_token('grace', 'x', actor='grace')[1]}"}
    refused = site.request("PUT", f"/api/v1/crons/{filled.cron}", json=body, headers=bearer)
    assert refused.status_code == 403
    assert "is ada's" in refused.json()["error"]["message"]
    assert site.get(f"/crons/{filled.cron}/edit").status_code == 403
    bearer = {"authorization": f"Bearer {box.access.create_token('ada', 'x', actor='ada')[1]}"}
    changed = site.request("PUT", f"/api/v1/crons/{filled.cron}", json=body, headers=bearer)
    assert changed.json()["spec"]["schedule"] == "0 4 * * *"
    body["job"]["team"] = "none-such"
    assert site.request("PUT", f"/api/v1/crons/{filled.cron}", json=body, headers=bearer).status_code in (403, 404)
    box.crons.change(filled.cron, spec, actor="ada")


def test_code_that_was_sent_once_is_offered_once(box: Box) -> None:
    code = {"snapshot": "a" * 64, "git_commit": "b" * 40}
    jobs = [fake_job(number, JobSpec(command=("x",), **code)) for number in range(3)]
    jobs.append(fake_job(9, JobSpec(command=("x",), snapshot="c" * 64)))
    offered = codes(jobs, JobSpec(command=()))
    assert [(one.fields, one.chosen) for one in offered] == [(code, False), ({"snapshot": "c" * 64}, False)]
    assert offered[0].words.startswith("commit bbbbbbbbbb, of ")
    own = codes(jobs, JobSpec(command=(), **code))
    assert [one.chosen for one in own] == [True, False]


def fake_job(number: int, spec: JobSpec) -> Job:
    return Job(id=f"job-{number}", user="ada", spec=spec, state="queued", created_at=START)
