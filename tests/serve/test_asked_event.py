"""A prediction may say which event it is about: other ids than the join keys are kept, and change no feature."""

from __future__ import annotations

from mlbox.serve.inference.server import PredictRow
from tests.serve.house import House


def test_ids_that_no_view_asks_for_are_kept_in_the_log(serving: House) -> None:
    serving.with_view()
    serving.serve_one()
    said = {"who": "a", "flight": 17, "event_time": serving.clock.now().isoformat()}
    plain, more = serving.ask(PredictRow(key="x", entity={"who": "a"}), PredictRow(key="x", entity=said))
    assert (plain.score, plain.features) == (more.score, more.features)
    assert [row.entity for row in serving.log.recent("score", 2)] == [said, {"who": "a"}]
