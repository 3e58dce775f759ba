"""Every state machine's picture in the docs is the machine in the code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from mlbox.clock import ManualClock
from mlbox.events import EventBus
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.jobs import states as job_states
from mlbox.store.registry import promotion_moves

DOCS = Path(__file__).parents[1] / "docs" / "explanation"
HOLDS = {
    hold or "going_on": [other or "going_on" for other in others] for hold, others in promotion_moves.HOLD_MOVES.items()
}


def arrows(page: str, place: int) -> set[tuple[str, str]]:
    """The moves of a state diagram of a page."""
    picture = (DOCS / page).read_text().split("stateDiagram-v2")[place].split("```")[0]
    return {(a, b) for a, b in re.findall(r"(\w+) --> (\w+)", picture)}


@pytest.mark.parametrize(
    ("page", "place", "moves"),
    [
        ("promotion.md", 1, promotion_moves.MOVES),
        ("promotion.md", 3, HOLDS),
        ("jobs.md", 1, job_states.MOVES),
    ],
)
def test_the_picture_shows_every_move_and_no_other(page: str, place: int, moves: Mapping[str, Iterable[str]]) -> None:
    assert arrows(page, place) == {(source, target) for source, targets in moves.items() for target in targets}


def test_the_picture_of_stages_is_the_table_that_the_database_goes_by(tmp_path: Path, clock: ManualClock) -> None:
    db = Database(tmp_path / "registry.sqlite", migrations.registry, clock, EventBus())
    try:
        assert arrows("promotion.md", 2) == {
            (row["source"], row["target"]) for row in db.all("SELECT * FROM stage_move")
        }
    finally:
        db.close()
