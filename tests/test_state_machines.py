"""Every state machine's picture in the docs is the machine in the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlbox.store import job_states, promotion_moves

DOCS = Path(__file__).parents[1] / "docs" / "explanation"


def arrows(page: str) -> set[tuple[str, str]]:
    """The moves of a page's first state diagram."""
    picture = (DOCS / page).read_text().split("stateDiagram-v2")[1].split("```")[0]
    return {(a, b) for a, b in re.findall(r"(\w+) --> (\w+)", picture)}


@pytest.mark.parametrize(("page", "moves"), [("promotion.md", promotion_moves.MOVES), ("jobs.md", job_states.MOVES)])
def test_the_picture_shows_every_move_and_no_other(page: str, moves: dict[str, tuple[str, ...]]) -> None:
    assert arrows(page) == {(source, target) for source, targets in moves.items() for target in targets}
