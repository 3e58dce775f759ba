"""A promotion policy is edited as text: looked at before it is set, refused at its line, restored, and set by whoever may."""

from __future__ import annotations

from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox import policy_file
from mlbox.cli import main
from mlbox.errors import InvalidInput
from mlbox.records import FairnessSpec, GateCommand, GateResult, Guard, Promotion, PromotionPolicy, RampStep, ReplayRule
from mlbox.store.registry.registry import NewVersion
from mlbox.web.box import Box
from tests.conftest import Server
from tests.web.site import NASTY, Page, Site, open_box

STEPS = (RampStep(percent=10, hold_seconds=60), RampStep(percent=100, hold_seconds=0))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    box = open_box(tmp_path_factory.mktemp("policies") / "data")
    box.access.create_user("bea", "approver", actor="admin")
    box.access.create_user("vic", "viewer", actor="admin")
    yield box
    box.close()


@pytest.fixture(scope="module")
def admin(box: Box) -> Site:
    return Site(box)


def approved(box: Box, model: str) -> Promotion:
    """A model's second version, of two approvals it has one."""
    box.registry.policies.set(model, PromotionPolicy(steps=STEPS), actor="admin")
    for _ in range(2):
        version = box.registry.register(
            NewVersion(model=model, artifact="a" * 64, trained_by="ann", submitted_by="ann")
        )
        gate = GateResult(gate="size", passed=True, required="", measured="", at=box.clock.real())
        promotion = box.promotions.record_gates(box.promotions.propose(version, actor="ann").id, [gate])
        if promotion.state == "shadow":
            promotion = box.promotions.shadow_done(promotion.id, "seen")
        promotion = box.promotions.decide(promotion.id, approver="bea", decision="approve")
    assert promotion.state == "canary"
    return promotion


def text(**changes: Any) -> str:
    return policy_file.write(PromotionPolicy(steps=STEPS, **changes))


def ask(site: Site, model: str, what: str, **body: Any) -> Any:
    """What the page asks, with its form token."""
    token = next(one["content"] for one in Page(site.get("/approvals")).all("meta") if one.get("name") == "csrf")
    headers = {"x-csrf-token": token, "accept": "application/json"}
    method, path = "POST" if what == "preview" else "PUT", f"/api/v1/models/{model}/policy/{what}"
    answer = site.request(method, path, json=body, headers=headers)
    return answer.json() if answer.status_code == 200 else (answer.status_code, answer.json()["error"])


def test_what_it_changes_is_told_and_agreed_to_before_it_is_set(box: Box, admin: Site) -> None:
    promotion = approved(box, "delay")
    seen = ask(admin, "delay", "preview", toml=text(minimum=0.8))
    assert seen["follows"] == 1
    assert "-# minimum: nothing is asked for" in seen["diff"]
    assert "+minimum = 0.8" in seen["diff"]
    (effect,) = seen["effects"]
    assert (effect["version"], effect["ends"]) == (2, True)
    assert "the approval by bea becomes void" in effect["words"]
    assert effect["anew"] == ["metric: auc at least 0.8000 and as logged by the run"]
    assert box.registry.policies.in_force("delay").revision == 1  # to look sets nothing
    unagreed = ask(admin, "delay", "toml", toml=text(minimum=0.8), follows=1, ends=[])
    assert unagreed[0] == 409
    assert "end another promotion" in unagreed[1]["message"]
    assert box.promotions.get(promotion.id).state == "canary"
    stale = ask(admin, "delay", "toml", toml=text(minimum=0.8), follows=0, ends=[promotion.id])
    assert stale[0] == 409
    assert "revision 1 by now" in stale[1]["message"]
    kept = ask(admin, "delay", "toml", toml=text(minimum=0.8), follows=1, ends=[promotion.id])
    assert (kept["revision"], kept["set_by"], kept["policy"]["minimum"]) == (2, "admin", 0.8)
    ended = box.promotions.get(promotion.id)
    assert (ended.state, ended.reason) == (
        "withdrawn",
        "its approval is void: the policy changed to revision 2",
    )
    assert ask(admin, "delay", "preview", toml=text(minimum=0.8))["diff"] == []


def test_what_nobody_approved_goes_on_under_its_own_policy(box: Box, admin: Site) -> None:
    version = box.registry.register(NewVersion(model="calm", trained_by="ann", submitted_by="ann"))
    box.promotions.propose(version, actor="ann")
    (effect,) = ask(admin, "calm", "preview", toml="minimum = 0.7")["effects"]
    assert not effect["ends"]
    assert effect["words"] == "it goes on under the house's default, which it began with"
    ask(admin, "calm", "toml", toml="minimum = 0.7", follows=0)
    assert [one.state for one in box.promotions.open("calm")] == ["testing"]


def test_gates_that_would_ask_something_else_are_told(box: Box, admin: Site) -> None:
    version = box.registry.register(
        NewVersion(
            model="swift",
            artifact="a" * 64,
            features=("x",),
            metrics={"auc": 0.8},
            trained_by="ann",
            submitted_by="ann",
        )
    )
    box.registry.policies.set(
        "swift", PromotionPolicy(test=GateCommand(command=("true",)), replay=ReplayRule(min_rows=5)), actor="admin"
    )
    box.promotions.propose(version, actor="ann")
    changed = "minimum = 0.9\nmax_latency_ms_p95 = 20\n[replay]\nmax_failed = 0.1\n[integration]\ncommand = 'true'"
    (effect,) = ask(admin, "swift", "preview", toml=changed)["effects"]
    told = dict(one.split(": ", 1) for one in effect["anew"])
    assert set(told) == {"metric", "latency", "replay", "integration", "test"}
    assert told["metric"] == "auc at least 0.9000 and as logged by the run"
    assert told["latency"] == "p95 at most 20.0 ms, with 1 row and 1 at a time"
    assert told["test"] == "asks nothing any more"
    (same,) = ask(admin, "swift", "preview", toml=admin_text(box, "swift"))["effects"]
    assert same["anew"] == []


def admin_text(box: Box, model: str) -> str:
    return policy_file.write(box.registry.policies.of(model))


def test_a_former_revision_is_restored_as_a_new_one(box: Box, admin: Site) -> None:
    for minimum in (0.5, 0.6):
        box.registry.policies.set("again", PromotionPolicy(minimum=minimum), actor="admin")
    page = unescape(admin.get("/models/again/policy?revision=1").text)
    former = policy_file.write(PromotionPolicy(minimum=0.5))
    assert former in page
    assert "This is a former revision" in page
    ask(admin, "again", "toml", toml=former, follows=2)
    revisions = admin.get("/api/v1/models/again/policy/revisions").json()
    assert [(one["revision"], one["policy"]["minimum"]) for one in revisions] == [(3, 0.5), (2, 0.6), (1, 0.5)]
    assert "+minimum = 0.5" in revisions[0]["diff"]
    assert "-minimum = 0.6" in revisions[0]["diff"]
    assert [one["revision"] for one in admin.get("/api/v1/models/again/policy/revisions?after=3&limit=1").json()] == [2]
    assert admin.get("/api/v1/models/again/policy/revisions/0").json()["policy"]["minimum"] is None
    assert admin.get("/api/v1/models/again/policy/revisions/9").status_code == 404


def test_the_page_says_whose_word_it_is_and_a_viewer_sees_no_button(box: Box, admin: Site) -> None:
    box.registry.create_model("plain", actor="admin")
    page = admin.get("/models/plain/policy").text
    assert "The house's default: nobody set one" in page
    assert "Nobody set one." in page
    box.registry.policies.set("plain", PromotionPolicy(label=NASTY), actor="admin")
    page = admin.get("/models/plain/policy").text
    assert "Revision 1, set by admin" in page
    assert NASTY not in page
    for person in ("vic", "bea"):
        site = Site(box, person)
        page = site.get("/models/plain/policy").text
        assert "In force" in page
        assert "max_latency_ms_p95 = 50" in page
        assert "<textarea" not in page
        assert "/policy/preview" not in page
        assert "Restore" not in page
        for what in ("preview", "toml"):
            assert ask(site, "plain", what, toml="", follows=1)[0] == 403
    assert admin.get("/models/none/policy").status_code == 404
    for odd in ("x", "-1", str(2**64)):
        assert admin.get(f"/models/plain/policy?revision={odd}").status_code == 400


BAD = [
    ("metric = 'auc'\nmargin = ", 2, "this is no TOML"),
    ("metric = 'auc'\n\n[[steps]]\npercent = 5\nhold_seconds = 1", 3, "The ramp's steps must rise"),
    ("# it\nminimum = 1.5", 2, "No version can pass auc of at least 1.5"),
    ("minimum = nan", 1, "minimum is nan"),
    ("minimum = 1e400", 1, "minimum is inf"),
    ("margin = '0.1'", 1, "Expected `float`, got `str`"),
    ("approvals = 99999999999999999999", 1, "out of range"),
    ("marign = 0.1", 1, "marign is nothing that a policy knows"),
    ("[[steps]]\npercent = 5\nhold_seconds = 1\n[[steps]]\npercent = 100\nhold_seconds = 'x'", 6, "steps[1]"),
    ("[[guards]]\nkind = 'errors'\nstop = 1\nmarign = 1", 4, "guards[0].marign"),
    ("[compare]\ndataset = 'none@v1'\nlabel = 'y'", 2, "none"),
    ("[test]\ncommand = 'echo \"open'", 2, "no line of a shell"),
    ("[test]\ncommand = 'true'\ncode = 'gates'", 1, "no SHA-256"),
    ("[test]\ncommand = 'true'\ncpus = 1000000", 1, "cannot run"),
    ("revision = 'x'", 1, "Expected `int`"),
    ("steps = 2020-01-01", 1, "Expected `array`"),
    (".".join("a" * 9000) + " = 1", None, "nested too deeply"),
    ("a = " + "[" * 5000, None, ""),
    ("#" * 70_000, None, "70,000 characters"),
    ("\ud7ff\x00", 1, "no TOML"),
]


@pytest.mark.parametrize(("toml", "line", "words"), BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_said_at_its_line(box: Box, admin: Site, toml: str, line: int | None, words: str) -> None:
    if "wrong" not in [model.name for model in box.registry.models()]:
        box.registry.create_model("wrong", actor="admin")
    for what in ("preview", "toml"):
        status, error = ask(admin, "wrong", what, toml=toml, follows=0)
        assert (status, error["field"]) == (400, "toml")
        assert words in error["message"]
        assert error["message"].startswith(f"Line {line}: ") or line is None
    assert box.registry.policies.in_force("wrong").revision == 0


@pytest.mark.parametrize(
    ("body", "field", "close"),
    [
        ({"minimun": 0.9}, "minimun", "minimum"),
        ({"replay": {"max_fail": 0.0}}, "replay.max_fail", "max_failed"),
        ({"guards": [{"kind": "errors", "stop": 1, "marign": 0.01}]}, "guards[0].marign", "margin"),
        ({"zzz": {"kind": 1}}, "zzz", None),
    ],
)
def test_json_with_a_misspelt_name_is_refused_and_told_the_nearest(
    box: Box, admin: Site, body: dict[str, Any], field: str, close: str | None
) -> None:
    if "odd" not in [model.name for model in box.registry.models()]:
        box.registry.create_model("odd", actor="admin")
    token = box.access.create_token("admin", field, actor="admin")[1]
    headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
    answer = Site(box, "").request("PUT", "/api/v1/models/odd/policy", json=body, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["field"]) == (400, field), answer.text
    assert error["message"] == f"{field} is nothing that a policy knows."
    assert error["hint"] == (f"Did you mean {close}?" if close else "The text in force shows what a policy knows.")
    assert box.registry.policies.in_force("odd").revision == 0


# -- as text ------------------------------------------------------------------------------------------------------------

FLOATS = st.floats(0, 1e6) | st.sampled_from([0.0, 1e-9, 86400.0])
WORDS = st.text(st.characters(codec="utf-8"), max_size=8)
POLICIES = st.builds(
    PromotionPolicy,
    label=WORDS,
    minimum=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    higher_is_better=st.booleans(),
    segments=st.lists(WORDS, max_size=2).map(tuple),
    steps=st.sampled_from([STEPS, ()]),
    guards=st.lists(st.builds(Guard, kind=st.just("labels"), stop=FLOATS, margin=st.none() | FLOATS), max_size=2).map(
        tuple
    ),
    test=st.none() | st.builds(GateCommand, command=st.lists(WORDS, max_size=2).map(tuple), cpus=st.none() | FLOATS),
    fairness=st.none()
    | st.builds(
        FairnessSpec, dataset=WORDS, label=WORDS, sensitive=st.just(("a",)), min_parity_ratio=st.none() | FLOATS
    ),
)


@pytest.mark.hypothesis
@settings(max_examples=60)
@given(policy=POLICIES)
def test_a_policy_reads_as_it_was_written(policy: PromotionPolicy) -> None:
    written = policy_file.write(policy)
    assert policy_file.read(written) == policy
    assert policy_file.diff(policy, policy) == ()


@pytest.mark.hypothesis
@settings(max_examples=60)
@given(text=st.text(st.sampled_from("[]{}=.\"'#\n ax1") | st.characters(codec="utf-8"), max_size=40))
def test_any_text_is_a_policy_or_is_refused(text: str) -> None:
    try:
        found: object = policy_file.read(text)
    except InvalidInput as err:
        found = err.field
    assert found in (PromotionPolicy(), "toml")  # a policy that names nothing, or no policy


def test_each_revision_is_kept_as_it_was(box: Box) -> None:
    book = box.registry.policies
    first = book.set("kept", PromotionPolicy(steps=STEPS), actor="ann")
    book.set("kept", msgspec.structs.replace(first, minimum=0.9), actor="bob")
    assert [(one.revision, one.set_by) for one in book.revisions("kept")] == [(2, "bob"), (1, "ann")]
    assert book.revision("kept", 1).policy == first


def test_the_command_shows_looks_sets_and_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server = Server(tmp_path / "data", "--gpus", "none")
    try:
        server.http.post("/api/v1/models", json={"name": "delay"})
        monkeypatch.setenv("MLBOX_URL", server.url)
        monkeypatch.setenv("MLBOX_TOKEN", server.token)

        def mlbox(*words: str) -> str:
            assert main.run(["model", "policy", "delay", *words]) == 0, capfd.readouterr().err
            return capfd.readouterr().out

        file = tmp_path / "policy.toml"
        file.write_text(mlbox("--toml").replace("# minimum: nothing is asked for", "minimum = 0.7"))
        assert "+minimum = 0.7" in mlbox("--set", str(file), "--dry-run")
        assert "admin" not in mlbox("--history")
        assert "0.7" in mlbox("--set", str(file))
        said = mlbox("--history").splitlines()
        assert said[0].startswith("revision 1, set by admin, ")
        assert "  +minimum = 0.7" in said, "its diff, line by line"
        assert "minimum = 0.7" in mlbox("--toml")
        assert "minimum = 0.7" not in mlbox("--revision", "0", "--toml")
        file.write_text("metric = 'auc'\nminimum = 2")
        assert main.run(["model", "policy", "delay", "--set", str(file)]) == 2
        file.write_text("metric = 'auc'\nminium = 2")
        assert main.run(["model", "policy", "delay", "--set", str(file)]) == 2
        assert "Line 2: minium is nothing that a policy knows" in capfd.readouterr().err
    finally:
        server.stop()
