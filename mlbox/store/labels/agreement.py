"""How far raters agree beyond chance.

- Cohen's kappa of two raters (Cohen, 1960), Fleiss' kappa of many with as many claims on each item (Fleiss, 1971), and
  Krippendorff's alpha for nominal data, which takes items with any number of claims from two on (Krippendorff, 2011,
  "Computing Krippendorff's Alpha-Reliability").
- All are 1 for perfect agreement and 0 for that of chance; where only one class is ever said, chance agrees always and there is
  no figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from mlbox.records import Agreement

if TYPE_CHECKING:
    import numpy as np

MAX_RATERS = 50
"""Pairs are compared of so many raters at most: those with the most claims."""


def over(claims: Sequence[tuple[int, str, str, str]]) -> Agreement:
    """All figures over claims: item, rater, source and value. Items of one claim say nothing."""
    import numpy as np

    items, item = _codes(np.array([claim[0] for claim in claims], dtype=np.int64))
    raters, rater = _codes([claim[1] for claim in claims])
    classes, value = _codes([claim[3] for claim in claims])
    counts = np.zeros((len(items), len(classes)), dtype=np.int64)
    np.add.at(counts, (item, value), 1)
    often = np.bincount(rater, minlength=len(raters))
    busiest = sorted(range(len(raters)), key=lambda code: (-often[code], code))[:MAX_RATERS]
    return Agreement(
        items=int((counts.sum(axis=1) > 1).sum()),
        raters=len(raters),
        krippendorff_alpha=krippendorff_alpha(counts),
        fleiss_kappa=fleiss_kappa(counts),
        cohen_kappa=dict(_pairs(item, rater, value, [(code, raters[code]) for code in sorted(busiest)])),
        by_rater=_with_others(counts, item, rater, value, raters),
        by_class={
            str(name): krippendorff_alpha(np.stack([counts[:, code], counts.sum(axis=1) - counts[:, code]], axis=1))
            for code, name in enumerate(classes)
        },
        confusion=_confusion(claims),
    )


def cohen_kappa(first: Sequence[Any], second: Sequence[Any]) -> float | None:
    """Of two raters on the same items [N] each."""
    import numpy as np

    classes, codes = _codes([*first, *second])
    table = np.zeros((len(classes), len(classes)))
    np.add.at(table, (codes[: len(first)], codes[len(first) :]), 1)
    total = table.sum()
    if not total:
        return None
    expected = float((table.sum(axis=0) * table.sum(axis=1)).sum() / total**2)
    return None if expected >= 1 else float((np.trace(table) / total - expected) / (1 - expected))


def fleiss_kappa(counts: np.ndarray) -> float | None:
    """Of claims counted by item and class [items, classes]; None unless each item has as many claims, two at least."""
    import numpy as np

    claims = counts.sum(axis=1)
    if not len(counts) or claims.min() < 2 or claims.min() != claims.max():
        return None
    each = int(claims[0])
    agreed = ((counts.astype(np.float64) ** 2).sum(axis=1) - each) / (each * (each - 1))
    expected = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return None if expected >= 1 else float((agreed.mean() - expected) / (1 - expected))


def krippendorff_alpha(counts: np.ndarray) -> float | None:
    """For nominal classes, of claims counted by item and class [items, classes]; items of one claim are left out."""
    import numpy as np

    kept = counts[counts.sum(axis=1) > 1].astype(np.float64)
    if not len(kept):
        return None
    claims = kept.sum(axis=1)
    pairs = claims.sum()
    observed = ((claims**2 - (kept**2).sum(axis=1)) / (claims - 1)).sum() / pairs
    share = kept.sum(axis=0)
    expected = (pairs**2 - (share**2).sum()) / (pairs * (pairs - 1))
    return None if expected <= 0 else float(1 - observed / expected)


def _codes(values: Any) -> tuple[list[Any], np.ndarray]:
    import numpy as np

    if isinstance(values, list):
        known: dict[Any, int] = {}
        codes = np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)
        order = sorted(known, key=str)
        place = np.zeros(len(known), dtype=np.int64)
        for number, value in enumerate(order):
            place[known[value]] = number
        return order, place[codes] if len(codes) else codes
    kinds, codes = np.unique(values, return_inverse=True)
    return list(kinds), codes


def _pairs(
    item: np.ndarray, rater: np.ndarray, value: np.ndarray, raters: Sequence[tuple[int, str]]
) -> Iterable[tuple[str, float | None]]:
    own = {code: dict(zip(item[rater == code], value[rater == code], strict=True)) for code, _ in raters}
    for (one, first), (other, second) in combinations(raters, 2):
        shared = own[one].keys() & own[other].keys()
        if shared:
            yield f"{first} | {second}", cohen_kappa([own[one][k] for k in shared], [own[other][k] for k in shared])


def _with_others(
    counts: np.ndarray, item: np.ndarray, rater: np.ndarray, value: np.ndarray, raters: Sequence[str]
) -> dict[str, float]:
    """How often each rater says what another claim on the same item says, over all such pairs of claims."""
    import numpy as np

    others = counts.sum(axis=1)[item] - 1
    same = counts[item, value] - 1
    pairs = np.bincount(rater, weights=others, minlength=len(raters))
    agreed = np.bincount(rater, weights=same, minlength=len(raters))
    return {name: float(agreed[code] / pairs[code]) for code, name in enumerate(raters) if pairs[code]}


def _confusion(claims: Sequence[tuple[int, str, str, str]]) -> dict[str, dict[str, dict[str, int]]]:
    """What one source says against what another says of the same item, each pair of their claims counted."""
    by_item: dict[int, list[tuple[str, str]]] = {}
    for item, _, source, value in claims:
        by_item.setdefault(item, []).append((source, value))
    found: dict[str, dict[str, dict[str, int]]] = {}
    for said in by_item.values():
        for (one, first), (other, second) in combinations(sorted(said), 2):
            if one != other:
                row = found.setdefault(f"{one} | {other}", {}).setdefault(first, {})
                row[second] = row.get(second, 0) + 1
    return found
