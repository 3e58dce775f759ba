"""Every state machine's picture in the docs is the machine in the code."""

from __future__ import annotations

import re
from pathlib import Path

from mlbox.store.promotions import MOVES

DOCS = Path(__file__).parents[1] / "docs" / "explanation"


def arrows(page: str) -> set[tuple[str, str]]:
    """The moves of a page's first state diagram."""
    picture = (DOCS / page).read_text().split("stateDiagram-v2")[1].split("```")[0]
    return {(a, b) for a, b in re.findall(r"(\w+) --> (\w+)", picture)}


def test_the_promotion_picture_shows_every_move_and_no_other() -> None:
    assert arrows("promotion.md") == {(source, target) for source, targets in MOVES.items() for target in targets}
