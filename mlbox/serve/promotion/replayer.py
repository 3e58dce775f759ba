"""What a version answers to requests that were made, asked offline, beside what was answered to them.

The model runs in a disposable process with its limits of memory and time, and so does the one that it is compared with: by turns
and under the same circumstances, which makes their times comparable. Answers are compared by the code that compares a shadow's.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from mlbox.clock import from_us
from mlbox.errors import InvalidInput, Unavailable
from mlbox.records import ModelVersion, Replay, ShadowFigures
from mlbox.serve.inference.check import Leash, replay_onnx
from mlbox.serve.inference.check_replay import ANSWERED, ASKED, FAILED, WAITING, Sheet
from mlbox.serve.inference.runtime import score_output
from mlbox.serve.inference.tensor_sample import TensorRows
from mlbox.serve.predictions.routing import Beside
from mlbox.serve.promotion.logged import Rows
from mlbox.serve.rollout.segments import Pairing
from mlbox.serve.rollout.shadow import figures_of
from mlbox.store.artifacts import Artifacts
from mlbox.store.registry.model_folders import ModelFolders
from mlbox.store.registry.registry import Registry

if TYPE_CHECKING:
    import numpy as np

SECONDS = 60.0
"""How long a version is asked, and the one beside it."""
SAME_RTOL, SAME_ATOL = 1e-5, 1e-6
"""Answers that differ by less are the same: rows that were answered together are summed in another order."""


class Replayer:
    """Asks versions again."""

    def __init__(self, registry: Registry, artifacts: Artifacts, *, seconds: float = SECONDS) -> None:
        self._registry = registry
        self._seconds = seconds
        self._folders = ModelFolders(artifacts)
        self._leash = Leash()

    def stop(self) -> None:
        """The server ends: so does what runs, and whoever waits for it hears Unavailable."""
        self._leash.pull()

    def check(self, version: ModelVersion) -> None:
        """Raise InvalidInput for a version that logged requests cannot be asked of."""
        if version.artifact is None or not version.servable:
            raise InvalidInput(
                f"{version.ref} cannot be served: {version.unservable}", hint="Register an ONNX file.", field="version"
            )

    def run(
        self,
        begun: Replay,
        rows: Rows | TensorRows,
        version: ModelVersion,
        against: ModelVersion | None,
        *,
        segments: tuple[str, ...] = (),
    ) -> Replay:
        """A replay that has begun, with what came of it: done, or failed where the version ended its process or never ran."""
        with tempfile.TemporaryDirectory() as folder:
            own, other = Path(folder, "own"), Path(folder, "other")
            rows.lay(own, version)
            beside = None
            if against is not None:
                rows.lay(other, against)
                beside = (self._file(against), other, len(against.features))
            broken, error = "", ""
            try:
                error = replay_onnx(
                    self._file(version),
                    own,
                    width=len(version.features),
                    seconds=self._seconds,
                    beside=beside,
                    leash=self._leash,
                )[0]
            except InvalidInput as err:
                broken = err.message
            if self._leash.pulled:
                raise Unavailable("The server ends.", hint="The next one begins it anew.")
            sheets = Sheet(own), Sheet(other) if against is not None else None
            found = _measured(begun, rows, sheets, (version, against), segments)
            return _ended(replace(found, error=error), sheets, broken, self._seconds, rows.note)

    def _file(self, version: ModelVersion) -> Path:
        return self._folders.of_version(self._registry, version)


def _measured(
    begun: Replay,
    rows: Rows | TensorRows,
    sheets: tuple[Sheet, Sheet | None],
    versions: tuple[ModelVersion, ModelVersion | None],
    segments: tuple[str, ...],
) -> Replay:
    import numpy as np

    own, other = sheets
    version, against = versions
    asked = np.flatnonzero(np.isin(own.marks, (ANSWERED, FAILED)))
    answered = own.marks == ANSWERED
    scores, logged = _answers(rows, other, against)
    valid = _valid(own, scores, gives=bool(version.features or score_output(version.outputs)))
    times = own.times[answered]
    quantiles = np.quantile(times, (0.5, 0.95, 0.99)).tolist() if len(times) else [None] * 3
    return replace(
        begun,
        source=rows.source,
        computed=rows.computed,
        against=against.version if against is not None else None,
        logged=int(logged[asked].sum()) if logged is not None else 0,
        since=from_us(int(min(rows.domain_us))) if len(rows.domain_us) else None,
        until=from_us(int(max(rows.domain_us))) if len(rows.domain_us) else None,
        rows=rows.total,
        replayed=len(asked),
        failed=int((own.marks == FAILED).sum()),
        invalid=int((answered & ~valid).sum()),
        p50_ms=quantiles[0],
        p95_ms=quantiles[1],
        p99_ms=quantiles[2],
        reproduced_share=_reproduced(rows, other, logged),
        alike=_alike(own, other) if other is not None and not version.features else None,
        figures=_figures(rows, own, other, scores, segments) if scores is not None and other is not None else (),
    )


def _valid(own: Sheet, scores: np.ndarray | None, *, gives: bool) -> np.ndarray:
    """Which requests were given a finite score for every row, or for each that the other version gave one; [N].

    A model that `gives` none, such as one of texts, is not to blame for that.
    """
    import numpy as np

    finite = np.isfinite(own.scores) if scores is None else np.isfinite(own.scores) | ~np.isfinite(scores)
    found: np.ndarray = np.logical_and.reduceat(finite | (scores is None and not gives), own.starts[:-1])
    return found


def _alike(own: Sheet, other: Sheet) -> int:
    """Requests that both answered with the very same outputs."""
    return int(((own.marks == ANSWERED) & (other.marks == ANSWERED) & (own.digests == other.digests)).sum())


def _answers(
    rows: Rows | TensorRows, other: Sheet | None, against: ModelVersion | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The scores of the version that it is compared with: those that were logged as its own, and where there are none, what it
    answers now. And which are logged."""
    import numpy as np

    if other is None or against is None:
        return None, None
    if rows.by is None or rows.scores is None:
        return np.array(other.scores), np.zeros(rows.total, bool)
    logged = rows.by == against.version
    return np.where(logged, rows.scores, other.scores), logged


def _reproduced(rows: Rows | TensorRows, other: Sheet | None, logged: np.ndarray | None) -> float | None:
    import numpy as np

    if other is None or logged is None or rows.scores is None:
        return None
    both = logged & (other.marks == ANSWERED)
    if not both.any():
        return None
    same = np.isclose(other.scores[both], rows.scores[both], rtol=SAME_RTOL, atol=SAME_ATOL, equal_nan=True)
    return float(same.mean())


def _figures(
    rows: Rows | TensorRows, own: Sheet, other: Sheet, scores: np.ndarray, segments: tuple[str, ...]
) -> tuple[ShadowFigures, ...]:
    """As of a shadow: each request that the other version answered, beside what the version makes of it.

    None where neither gives scores: that both have none is no agreement.
    """
    import numpy as np

    if not np.isfinite(scores).any() and not np.isfinite(own.scores).any() and isinstance(rows, TensorRows):
        return ()
    pairing, given = Pairing(segments), rows.givens()
    there = (other.marks == ANSWERED) & np.isin(own.marks, (ANSWERED, FAILED))
    for place in np.flatnonzero(there).tolist():
        asked = own.rows(place)
        beside = [_score(score) for score in own.scores[asked]] if own.marks[place] == ANSWERED else None
        answered = [_score(score) for score in scores[asked]]
        pairing.add(Beside(given(place), answered, other.times[place], beside, own.times[place]))
    return figures_of(pairing.seen(), pairing.seen_in())


def _score(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _ended(found: Replay, sheets: tuple[Sheet, Sheet | None], broken: str, seconds: float, note: str) -> Replay:
    """How it ended, in words."""
    import numpy as np

    if broken:
        for name, sheet in zip((found.ref, f"version {found.against}"), sheets, strict=True):
            at: list[int] = np.flatnonzero(sheet.marks == ASKED).tolist() if sheet is not None else []
            if at:
                where = f" {name} was asked request {found.rows - at[0]:,} of {found.rows:,}, the newest first."
                return replace(found, state="failed", reason=broken + where)
        return replace(found, state="failed", reason=broken)
    waiting = int((sheets[0].marks == WAITING).sum())
    words = [f"{seconds:g} s were enough for {found.replayed:,} of them"] if waiting else []
    return replace(found, state="done", reason="; ".join([*words, *([note] if note else [])]))
