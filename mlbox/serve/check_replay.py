"""Rows that are asked of models one by one, by a disposable process, in files that it shares with whoever asks.

What came of a row is there as soon as it came: a model that ends its process leaves what it answered before, and at which row it
was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from mlbox.serve.runtime import Session

WAITING, ASKED, ANSWERED, FAILED = range(4)
"""What became of a row."""
MOST_ERROR = 300


class Sheet:
    """The rows [N, F] of one model, and what came of each."""

    def __init__(self, folder: Path | str, mode: Any = "r") -> None:
        import numpy as np

        self.rows: np.ndarray = np.load(Path(folder, "rows.npy"), mmap_mode="r", allow_pickle=False)
        self.marks, self.scores, self.times = (
            np.load(Path(folder, f"{name}.npy"), mmap_mode=mode, allow_pickle=False)
            for name in ("marks", "scores", "times")
        )
        """The last are the scores, NaN where there is none, and the milliseconds that each row took."""


def lay(folder: Path, rows: np.ndarray) -> None:
    """Make a sheet of rows of which none was asked."""
    import numpy as np

    folder.mkdir()
    np.save(folder / "rows.npy", rows.astype(np.float32), allow_pickle=False)
    np.save(folder / "marks.npy", np.full(len(rows), WAITING, np.uint8), allow_pickle=False)
    for name in ("scores", "times"):
        np.save(folder / f"{name}.npy", np.full(len(rows), np.nan), allow_pickle=False)


class Asked:
    """A model that is asked the rows of a sheet."""

    def __init__(self, session: Session, folder: str) -> None:
        self._session = session
        self._sheet = Sheet(folder, "r+")
        self.error = ""
        self.rows = len(self._sheet.rows)

    def ask(self, place: int) -> None:
        """One row."""
        sheet = self._sheet
        sheet.marks[place] = ASKED
        began = time.perf_counter()
        try:
            (score,) = self._session.score(sheet.rows[place : place + 1])
        except Exception as err:  # of any kind: what a model may do, it may do to its callers
            self.error = self.error or (str(err).strip().splitlines() or [type(err).__name__])[0][:MOST_ERROR]
            sheet.marks[place] = FAILED
            return
        sheet.times[place] = (time.perf_counter() - began) * 1000
        sheet.scores[place] = score
        sheet.marks[place] = ANSWERED


def replay(asked: Sequence[Asked], seconds: float) -> None:
    """Ask the newest row first, each of all models by turns, so that none has the machine to itself; until the time is over."""
    end = time.monotonic() + seconds
    for place in reversed(range(asked[0].rows)):
        for one in asked if place % 2 else reversed(asked):
            one.ask(place)
        if time.monotonic() > end:
            return
