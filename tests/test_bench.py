"""What all benchmarks share: the last line, the exit code, the page."""

from __future__ import annotations

import importlib

import msgspec
import pytest

from bench.__main__ import HOME, page, read_result, replaced, table
from bench.harness import Figure, Report, Result, interleave


def test_the_exit_code_says_whether_every_goal_holds(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("speed", conditions={"rows": "10"})
    report.tell("peer", 2.0, "ms")
    report.at_most("ours", 1.0, 1.0, "ms")
    report.skip("gpu", "there is none")
    assert report.finish() == 0
    report.at_least("ratio", 1.9, 2, "times")
    assert report.finish() == 1
    *people, last = capsys.readouterr().out.splitlines()
    result = msgspec.json.decode(last, type=Result)
    assert [(f.name, f.goal, f.ok) for f in result.figures] == [
        ("peer", "", True),
        ("ours", "<= 1", True),
        ("ratio", ">= 2", False),
    ]
    assert [s.reason for s in result.skipped] == ["there is none"]
    assert result.conditions["rows"] == "10"
    assert any(line.startswith("ratio") and line.endswith("MISSED") for line in people)


def test_measures_take_turns_after_one_round_to_warm_up() -> None:
    order: list[str] = []
    first, second = interleave(2, lambda: order.append("a") or 1.0, lambda: order.append("b") or 2.0)
    assert "".join(order) == "ababab"
    assert (first, second) == ([1.0, 1.0], [2.0, 2.0])


def test_a_benchmark_that_broke_is_told_on_the_page() -> None:
    assert "did not come to its end" in page({"broken": read_result("Traceback")}, ["--quick"])


def test_one_table_is_replaced_and_the_others_stay() -> None:
    first, second = (Result([Figure(name, 1.0, "ms", "", True)], [], {"cpus": "2"}) for name in ("a", "b"))
    whole = page({"auth": first, "auth_more": second, "drift": first}, ["--quick"])
    other = Result([Figure("c", 2.0, "ms", "", True)], [], {"cpus": "4"})
    changed = replaced(whole, table("auth", other, []))
    assert changed == page({"auth": other, "auth_more": second, "drift": first}, ["--quick"]).replace(
        "`python -m bench.auth --quick`", "`python -m bench.auth`"
    )
    with pytest.raises(LookupError, match="no table that begins"):
        replaced(whole, table("serve", other, []))


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in HOME.glob("[a-z]*.py") if not path.stem.endswith("_side"))
)
def test_every_benchmark_can_be_begun(name: str) -> None:
    importlib.import_module(f"bench.{name}")
