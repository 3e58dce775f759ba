"""Logged requests as another version wants them: its features by name, and those that the log lacks out of the history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlbox.errors import InvalidInput, NotFound
from mlbox.records import ModelVersion
from mlbox.serve.inference.check_replay import lay
from mlbox.serve.predictions.as_known import as_known
from mlbox.serve.predictions.batches import Given
from mlbox.serve.predictions.log import PredictionLog
from mlbox.serve.predictions.window import Window
from mlbox.store.asking import asking
from mlbox.store.features.ondemand import Transforms
from mlbox.store.registry.registry import Registry

if TYPE_CHECKING:
    import numpy as np


MOST_CELLS = 20_000_000
"""Values that are read at once: 160 MB, of which there are a few copies."""


class Rows(NamedTuple):
    """Requests of one row each, oldest first."""

    columns: Mapping[str, np.ndarray]
    """By feature [N], NaN for missing."""
    source: str
    """Where they are from, in words."""
    by: np.ndarray | None = None
    """The version that answered each [N], where they were answered; so the next two."""
    scores: np.ndarray | None = None
    """NaN for none."""
    took_ms: np.ndarray | None = None
    entities: Sequence[dict[str, Any]] = ()
    domain_us: np.ndarray | Sequence[int] = ()
    computed: tuple[str, ...] = ()
    """Features that the log lacks."""
    note: str = ""

    @property
    def total(self) -> int:
        """How many."""
        return min((len(values) for values in self.columns.values()), default=0)

    def matrix(self, features: Sequence[str]) -> np.ndarray:
        """The rows [N, F] of a version; raises InvalidInput for a feature that there is no column of."""
        import numpy as np

        absent = [name for name in features if name not in self.columns]
        if absent:
            raise InvalidInput(
                f"The requests, from {self.source}, have no {absent[0]!r}.",
                hint="It takes other features.",
                field="version",
            )
        return np.stack([self.columns[name] for name in features], axis=1)

    def lay(self, folder: Path, version: ModelVersion) -> None:
        """Make a sheet of them for a version to be asked."""
        lay(folder, self.matrix(version.features))

    def givens(self) -> Callable[[int], Given]:
        """What each request was made of, by its place."""
        import numpy as np

        names, values = tuple(self.columns), np.stack(list(self.columns.values()), axis=1)
        return lambda place: Given(1, names, values[place : place + 1], [self.entities[place]] if self.entities else [])


class Logged:
    """Finds requests in the prediction log."""

    def __init__(self, registry: Registry, predictions: PredictionLog, features: Transforms) -> None:
        self._registry = registry
        self._predictions = predictions
        self._features = features

    def count(self, model: str, *, most: int, since: datetime | None = None) -> int:
        """How many requests of a model there are, up to so many."""
        return self._predictions.window(model, limit=most, since=since).rows

    def of(self, versions: Sequence[ModelVersion], *, last: int, since: datetime | None = None) -> Rows:
        """The last requests of a model, with the features that these versions of it take.

        Raises InvalidInput where the log lacks one that the history cannot give.
        """
        import numpy as np

        model, features = versions[0].model, dict.fromkeys(name for one in versions for name in one.features)
        most = min(last, max(1, MOST_CELLS // max(1, len(features))))
        found = self._predictions.answered(model, limit=most, since=since)
        columns, there, computed = self._completed(model, tuple(features), found)
        dropped, sampled = found.rows - len(there), int((np.asarray(found.shares) < 1).sum())
        words = [f"{dropped:,} more name no entity to look {computed[0]} up by"] if dropped else []
        words += [f"no more than {most:,} fit into memory"] if found.rows == most < last else []
        words += ["the log keeps a sample of the model's requests"] if sampled else []
        return Rows(
            {name: values[there] for name, values in columns.items()},
            "logged traffic",
            found.versions[there],
            found.scores[there],
            _take(found.latency_ms, there),
            [found.entities[place] for place in there],
            _take(found.domain_us, there),
            computed,
            "; ".join(words),
        )

    def _completed(
        self, model: str, features: Sequence[str], found: Window
    ) -> tuple[dict[str, np.ndarray], list[int], tuple[str, ...]]:
        """The log's columns with the features that it lacks, the places of rows that have all, and what was computed."""
        import numpy as np

        columns = {name: values.copy() for name, values in found.features.items()}
        lacking = self._lacking(model, features, found)
        there = np.ones(found.rows, bool)
        for names in _by_view(lacking):
            places = np.flatnonzero(lacking[names[0]])
            some, values = self._known(names, found, places)
            there[np.setdiff1d(places, places[some])] = False
            for name in names:
                column = columns.setdefault(name, np.full(found.rows, np.nan))
                column[places[some]] = np.array(values.get(name, []), np.float64)
        if found.rows and not there.any():
            raise InvalidInput(
                f"The log has no {next(iter(lacking))!r}, and its requests name no entity to look it up by.",
                hint="Replay takes requests by entity, or with the same features.",
                field="version",
            )
        return columns, np.flatnonzero(there).tolist(), tuple(lacking)

    def _lacking(self, model: str, features: Sequence[str], found: Window) -> dict[str, np.ndarray]:
        """By feature, which rows were answered without it."""
        import numpy as np

        lacking = {name: np.zeros(found.rows, bool) for name in features}
        for number in np.unique(found.versions).tolist():
            known = self._features_of(model, number, found)
            for name in features:
                if name not in known:
                    lacking[name] |= found.versions == number
        return {name: rows for name, rows in lacking.items() if rows.any()}

    def _features_of(self, model: str, number: int, found: Window) -> Sequence[str]:
        try:
            return self._registry.version(model, number).features
        except NotFound:
            return tuple(found.features)

    def _known(
        self, names: Sequence[str], found: Window, places: np.ndarray
    ) -> tuple[list[int], dict[str, list[float | None]]]:
        entities = [found.entities[place] for place in places]
        moments = [int(found.domain_us[place]) for place in places]
        with asking(None):  # who may ask a model may have it look at what it needs
            try:
                return as_known(self._features, names, entities, moments)
            except (NotFound, InvalidInput) as err:
                raise InvalidInput(
                    f"The log has no {names[0]!r}, and it cannot be computed: {err.message}",
                    hint=err.hint,
                    field="version",
                ) from err


def _by_view(lacking: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Features that are looked up together: of one view, and for the same rows."""
    alike: dict[tuple[str, bytes], list[str]] = {}
    for name, rows in lacking.items():
        alike.setdefault((name.partition(":")[0], rows.tobytes()), []).append(name)
    return list(alike.values())


def _take(values: Any, places: Sequence[int]) -> np.ndarray:
    import numpy as np

    found: np.ndarray = np.asarray(values)[places]
    return found
