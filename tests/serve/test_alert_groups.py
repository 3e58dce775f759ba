"""Alerts by model, the worst first."""

from __future__ import annotations

from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from mlbox.clock import parse_time
from mlbox.ids import new_id
from mlbox.records import Alert
from mlbox.serve.alerts.alert_groups import badness, grouped
from mlbox.store.monitoring.alert_rules import DEFAULT, NAMES, parse

START = parse_time("2026-01-01T00:00Z")


def an_alert(name: str, value: float | None, at: datetime = START, /, **labels: str) -> Alert:
    return Alert(
        id=new_id(), name=name, labels=labels, state="firing", summary=f"{name} {labels}", value=value, fired_at=at
    )


def test_a_season_is_one_line_and_what_is_worse_comes_before_it() -> None:
    later = parse_time("2026-06-01T00:00Z")
    season = [an_alert("feature_drift", n / 20, later, model="delay", feature=f"f{n}") for n in range(5, 15)]
    odd = an_alert("feature_missing", 0.4, model="delay", feature="wind")
    other = an_alert("concept_drift", 0.3, model="price")
    late = an_alert("staleness", 9.0, view="weather")
    first, second, third = grouped([late, *season, odd, other])
    assert (first.kind, first.name, first.firing) == ("model", "price", 1)
    assert (second.name, second.firing, second.since) == ("delay", 11, START)
    assert second.counts == {"feature_drift": 10, "feature_missing": 1}
    assert (second.worst.labels["feature"], second.worst.value) == ("f14", 0.7)
    assert (third.kind, third.name) == ("view", "weather")
    assert grouped([]) == []


def test_a_rule_that_calls_people_makes_its_alert_the_worst() -> None:
    rules = parse({"rule": {"feature_missing": {"severity": "page"}, "feature_drift": {"severity": "info"}}})
    drift = an_alert("feature_drift", 0.9, model="a", feature="x")
    missing = an_alert("feature_missing", 0.2, model="b", feature="y")
    assert [group.name for group in grouped([drift, missing])] == ["a", "b"]
    assert [group.name for group in grouped([drift, missing], rules)] == ["b", "a"]


def test_of_skew_the_lower_share_is_the_worse() -> None:
    shares = [an_alert("training_serving_skew", share, model="a", feature=str(share)) for share in (0.9, 0.2, 0.5)]
    assert [alert.value for alert in grouped(shares)[0].alerts] == [0.2, 0.5, 0.9]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(NAMES),
            st.sampled_from("abc"),
            st.none() | st.floats(0, 1),
            st.sampled_from(("model", "view")),
        ),
        max_size=12,
    )
)
def test_no_alert_is_lost_and_each_group_is_in_order(found: list[tuple[str, str, float | None, str]]) -> None:
    alerts = [an_alert(name, value, START, **{kind: owner}) for name, owner, value, kind in found]
    groups = grouped(alerts)
    assert sorted(a.id for group in groups for a in group.alerts) == sorted(a.id for a in alerts)
    for group in groups:
        assert sum(group.counts.values()) == group.firing == len(group.alerts)
        ranks = [badness(alert, DEFAULT) for alert in group.alerts]
        assert ranks == sorted(ranks)
