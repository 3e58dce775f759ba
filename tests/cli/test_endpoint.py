"""`mlbox endpoint` against a box with a model in Production."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.cli.conftest import Ran
from tests.web.served import Site, open_site, sigmoid


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = open_site(tmp_path_factory.mktemp("endpoint") / "data")
    yield made
    made.server.stop()


@pytest.fixture
def endpoint(cli: Callable[..., Ran], site: Site) -> Callable[..., Ran]:
    def run(*arguments: str) -> Ran:
        return cli("endpoint", *arguments, MLBOX_URL=site.server.url, MLBOX_TOKEN=site.server.token)

    return run


def test_what_serves_is_listed_and_shown(endpoint: Callable[..., Ran]) -> None:
    (found,) = json.loads(endpoint("ls", "-o", "json").out)
    assert (found["model"], found["champion"]) == ("score", 1)
    assert json.loads(endpoint("show", "score", "-o", "json").out) == found
    missing = endpoint("show", "nope")
    assert (missing.code, "Nothing serves" in missing.line) == (3, True)


def test_a_prediction_by_ids_or_by_features_is_in_the_log(endpoint: Callable[..., Ran]) -> None:
    (by_ids,) = json.loads(endpoint("predict", "score", "-e", "who=u3", "--key", "a", "-o", "json").out)
    (by_features,) = json.loads(endpoint("predict", "score", "-f", "amount=3", "--version", "1", "-o", "json").out)
    assert by_ids["score"] == by_features["score"] == pytest.approx(sigmoid(3), rel=1e-5)
    (missing,) = json.loads(endpoint("predict", "score", "-f", "amount=", "-o", "json").out)
    assert missing["score"] is None
    logged = endpoint("log", "score", "--limit", "2", "-o", "id").out.split()
    assert logged == [missing["id"], by_features["id"]]
    assert endpoint("log", "score", "--limit", "1", "--after", logged[1], "-o", "id").out.split() == [by_ids["id"]]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "nothing to predict from"),
        (("-e", "whom=u3"), 2, "They are who"),
        (("-e", "who"), 2, "not KEY=VALUE"),
        (("-e", "who=0042"), 3, "No view knows the entity {'who': '0042'}"),  # a text, by the view's own word
        (("-f", "amount=high"), 2, "a finite number is wanted"),
        (("-f", "amount=inf"), 2, "a finite number is wanted"),
        (("-f", "colour=1"), 2, "has no feature 'colour'"),
        (("-f", "amount=1", "--version", "9"), 3, "no version 9"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(
    endpoint: Callable[..., Ran], arguments: tuple[str, ...], code: int, words: str
) -> None:
    ran = endpoint("predict", "score", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.line
