"""Which parameters mattered: those that did come first, the others come to nothing, and too little is told as too little."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlbox.serve.sweeps.importance import LEAST_RUNS, WEAK, Importance, importance


def sweep(runs: int, noise: float = 0.01) -> Importance:
    """A metric that a rate and a kind of net make, and a seed does not."""
    rng = np.random.default_rng(1)
    found = []
    for number in range(runs):
        rate, net = 10 ** rng.uniform(-4, -1), rng.choice(["deep", "wide", "thin"])
        value = -((math.log10(rate) + 2.5) ** 2) + (0.4 if net == "wide" else 0.0) + rng.normal(0, noise)
        params = {"lr": repr(rate), "net": str(net), "seed": str(number), "epochs": "10"}
        found.append((params if number % 9 else {**params, "warmup": "5"}, float(value)))
    return importance("auc", found)


def test_what_mattered_comes_first_and_chance_comes_to_nothing() -> None:
    found = sweep(120)
    assert [one.name for one in found.params][:2] == ["lr", "net"]
    assert found.explained is not None
    assert found.explained > 0.8
    by_name = {one.name: one for one in found.params}
    assert by_name["lr"].importance > 0.5 > by_name["net"].importance > 0.02
    assert abs(by_name["seed"].importance) < 0.05
    assert abs(by_name["warmup"].importance) < 0.05
    assert "epochs" not in by_name
    assert by_name["net"].correlation is None
    assert by_name["seed"].correlation == pytest.approx(0, abs=0.3)


def test_what_no_parameter_explains_is_told_as_that() -> None:
    rng = np.random.default_rng(2)
    found = importance("auc", [({"lr": repr(rng.random())}, float(rng.normal())) for _ in range(60)])
    assert found.explained is not None
    assert found.explained < WEAK


def test_the_same_runs_say_the_same() -> None:
    assert sweep(30) == sweep(30)


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([({"lr": str(n)}, float(n)) for n in range(LEAST_RUNS - 1)], "fewer than"),
        ([({"lr": str(n)}, math.nan) for n in range(50)], "0 of these runs"),
        ([({"lr": "1"}, float(n)) for n in range(50)], "No parameter differs"),
        ([({"lr": str(n)}, 0.5) for n in range(50)], "is the same"),
        ([], "0 of these runs"),
    ],
)
def test_what_cannot_be_told_is_refused_in_words(runs: list[tuple[dict[str, str], float]], words: str) -> None:
    found = importance("auc", runs)
    assert words in found.refused
    assert found.params == ()


def test_numbers_that_no_forest_takes_are_texts_to_it() -> None:
    odd = ["1e308", "inf", "nan", "-1e39"]
    found = importance("auc", [({"lr": odd[n % 4]}, float(n % 4)) for n in range(40)])
    assert found.params[0].importance > 0.5
    assert found.params[0].correlation is None
