"""Fairness of a version by sensitive columns: its answers on frozen rows, judged group by group, and the policy's thresholds.

Fairness is measured, not guaranteed: the figures say what happens on these rows, by these columns, at this threshold. The
arithmetic is done in a process of its own (`fairness_worker`): what it needs takes seconds to import.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import DatasetVersion, Fairness, FairnessColumn, FairnessSpec, ModelVersion, PromotionPolicy
from mlbox.serve.promotion import compare
from mlbox.serve.promotion.frozen_rows import FrozenRows, encode, numbers, seen_in_training

if TYPE_CHECKING:
    import numpy as np

MOST_GROUPS = 200
SECONDS = 600
LIMITS = (
    ("parity_ratio", "min_parity_ratio", "demographic parity ratio"),
    ("parity_difference", "max_parity_difference", "demographic parity difference"),
    ("equalized_odds_difference", "max_equalized_odds_difference", "equalized odds difference"),
    ("equal_opportunity_difference", "max_equal_opportunity_difference", "equal opportunity difference"),
)
"""A column's figure, the threshold for it, and what people call it; the one of the ratio is a least, the others a most."""


class FairnessJudge:
    """Judges versions."""

    def __init__(self, rows: FrozenRows) -> None:
        self._rows = rows

    def freeze(self, policy: PromotionPolicy) -> PromotionPolicy:
        """A policy that names the rows of its fairness by their hash; raises NotFound, and InvalidInput for absent columns."""
        spec = policy.fairness
        if spec is None:
            return policy
        return msgspec.structs.replace(policy, fairness=_named(spec, self._dataset(spec)))

    def judge(self, version: ModelVersion, spec: FairnessSpec) -> Fairness:
        """What a version does with the groups; raises NotFound, InvalidInput Conflict on other rows."""
        dataset = self._dataset(spec)
        table = self._rows.table(dataset)
        labels, scores = numbers(table, spec.label), self._rows.scores(version, table)
        compare.check("auc", labels, scores)
        groups = {name: _named_groups(name, *encode(table, name)) for name in spec.sensitive}
        columns = _columns(labels, scores, groups, spec.threshold)
        return Fairness(
            model=version.model,
            version=version.version,
            spec=_named(spec, dataset),
            columns=columns,
            breaches=tuple(words for one in columns for words in breaches(one, spec)),
            notes=seen_in_training([version], dataset.ref),
        )

    def _dataset(self, spec: FairnessSpec) -> DatasetVersion:
        return self._rows.dataset(spec.dataset, spec.hash, (spec.label, *spec.sensitive), field="fairness")


def _named(spec: FairnessSpec, dataset: DatasetVersion) -> FairnessSpec:
    return msgspec.structs.replace(spec, dataset=dataset.ref, hash=dataset.hash)


def _named_groups(name: str, groups: np.ndarray, values: list[object]) -> tuple[np.ndarray, list[str]]:
    if len(values) > MOST_GROUPS:
        raise InvalidInput(
            f"The column {name!r} has {len(values):,} values, and {MOST_GROUPS} groups are judged at most.",
            hint="Put numbers and dates into bands first.",
            field="fairness",
        )
    return groups, ["(missing)" if value is None else str(value) for value in values]


def _columns(
    labels: np.ndarray, scores: np.ndarray, groups: dict[str, tuple[np.ndarray, list[str]]], threshold: float
) -> tuple[FairnessColumn, ...]:
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.npz")
        arrays: dict[str, Any] = {f"groups{place}": found for place, (found, _) in enumerate(groups.values())}
        np.savez(rows, labels=labels, scores=scores, **arrays)
        task = {"rows": str(rows), "threshold": threshold, "columns": [(n, v) for n, (_, v) in groups.items()]}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mlbox.serve.promotion.fairness_worker"],
            input=msgspec.json.encode(task),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    if done.returncode:
        raise InvalidInput(
            f"The fairness could not be computed: {done.stderr.decode(errors='replace').strip()[-300:]}",
            hint="Look at the columns that the policy names.",
            field="fairness",
        )
    return msgspec.json.decode(done.stdout, type=tuple[FairnessColumn, ...])


def breaches(one: FairnessColumn, spec: FairnessSpec) -> list[str]:
    """What of a column exceeds its threshold, or could not be measured although there is one."""
    words = []
    for figure, limit, called in LIMITS:
        allowed, found = getattr(spec, limit), getattr(one, figure)
        if allowed is None:
            continue
        least = limit.startswith("min_")
        asked = f"{'at least' if least else 'at most'} {allowed:g} is asked for"
        if found is None:
            words.append(f"{one.column}: no {called} ({one.note}), {asked}")
        elif (found < allowed) if least else (found > allowed):
            words.append(f"{one.column}: {called} {found:.3f}, {asked}")
    return words
