"""A model card as text: Hugging Face's Markdown with YAML ahead (https://huggingface.co/docs/hub/model-cards).

Facts come from the registry; what only people can say is theirs, or said to be missing. Scalars are written as JSON, which YAML
reads as it is, so that no name and no text can be more than that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mlbox.records import CardParts, Fairness, Governance, ModelVersion, Rate

_NOTHING = "*Nothing was said about this.*"
_PARTS = (
    ("intended_use", "Intended use"),
    ("out_of_scope", "Out of scope"),
    ("limitations", "Bias, risks and limitations"),
    ("ethics", "Ethical considerations"),
    ("contact", "Contact"),
)


def render(version: ModelVersion, facts: Governance, parts: CardParts, fairness: Fairness | None) -> str:
    """The card of one version."""
    sections = [
        f"---\n{yaml(_front(version, parts))}---\n",
        f"# {version.model}, version {version.version}\n",
        f"{facts.purpose or _NOTHING}\n",
        "## Facts\n",
        _table(("", ""), _facts(version, facts)),
        "## Metrics\n",
        _table(("metric", "value"), [(name, f"{value:.6g}") for name, value in sorted(version.metrics.items())]),
    ]
    for name, title in _PARTS:
        sections += [f"## {title}\n", f"{getattr(parts, name).strip() or _NOTHING}\n"]
    sections += ["## Fairness\n", _fairness(fairness)]
    return "\n".join(sections)


def _front(version: ModelVersion, parts: CardParts) -> dict[str, Any]:
    """What Hugging Face's hub reads; `model-index` carries the metrics."""
    finite = {name: value for name, value in sorted(version.metrics.items()) if math.isfinite(value)}
    dataset = {"type": version.dataset or "unknown", "name": version.dataset or "unknown"}
    if version.dataset_hash:
        dataset["revision"] = version.dataset_hash
    result = {
        "task": {"type": "tabular-classification" if version.features else "other"},
        "dataset": dataset,
        "metrics": [{"type": name, "name": name, "value": value} for name, value in finite.items()],
    }
    front: dict[str, Any] = {"library_name": "onnx"} if version.servable else {}
    if parts.license:
        front["license"] = parts.license
    if version.dataset:
        front["datasets"] = [version.dataset]
    if finite:
        front |= {"metrics": list(finite), "model-index": [{"name": version.ref, "results": [result]}]}
    return {**front, "tags": ["mlbox", *sorted(version.tags)]}


def yaml(value: Any, indent: int = 0) -> str:
    """A tree of dicts, lists, texts and numbers as block YAML; every scalar as JSON."""
    pad, text = "  " * indent, ""
    if isinstance(value, dict):
        for key, inner in value.items():
            nested = isinstance(inner, dict | list) and inner
            text += f"{pad}{key}:" + (f"\n{yaml(inner, indent + 1)}" if nested else f" {_scalar(inner)}\n")
    else:
        for inner in value:
            nested = isinstance(inner, dict | list) and inner
            text += pad + "- " + (yaml(inner, indent + 1).lstrip() if nested else f"{_scalar(inner)}\n")
    return text


def _scalar(value: Any) -> str:
    """JSON, with the dot that YAML 1.1 wants of a number with an exponent."""
    text = json.dumps(value)
    if isinstance(value, float) and "e" in text and "." not in text:
        return text.replace("e", ".0e")
    return text


def _facts(version: ModelVersion, facts: Governance) -> list[tuple[str, str]]:
    approved = [f"{a.approver}, {_day(a.at)}" for a in facts.approvals if a.decision == "approve"]
    stays = [f"{_day(stay.since)} until {_day(stay.until) if stay.until else 'now'}" for stay in facts.in_production]
    return [
        ("owner", facts.owner),
        ("trained by", f"{facts.trained_by} ({facts.lineage})"),
        ("code", facts.git_commit or "no commit"),
        (
            "dataset",
            " ".join(filter(None, [facts.dataset, facts.dataset_hash and f"({facts.dataset_hash})"])) or "none",
        ),
        ("run", facts.run_id or "none"),
        ("features", ", ".join(version.features) or "none named"),
        ("approved by", "; ".join(approved) or "nobody yet"),
        ("in Production", "; ".join(stays) or "never"),
        ("stage", facts.stage),
        ("to be looked at again", _day(facts.expires_at) if facts.expires_at else "not set"),
        ("SHA-256 of the file", version.artifact or "none"),
    ]


def _day(at: datetime) -> str:
    return at.date().isoformat()


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return "None.\n"
    lines = [head, tuple("---" for _ in head), *(tuple(map(_cell, row)) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Text that stays in its cell, and no HTML."""
    for char, instead in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("\n", " ")):
        text = text.replace(char, instead)
    return text


def _fairness(found: Fairness | None) -> str:
    if found is None:
        return "Not judged.\n"
    spec, parts = found.spec, []
    for column in found.columns:
        rows = [
            (
                group.group,
                f"{group.rows:,}" + ("" if group.judged else " (too few to be judged)"),
                *(_rate(r) for r in (group.selection_rate, group.true_positive_rate, group.false_positive_rate)),
                *(_rate(r) for r in (group.precision, group.auc)),
            )
            for group in column.groups
        ]
        head = (column.column, "rows", "selected", "true positives", "false positives", "precision", "AUC")
        parts.append(_table(head, rows))
    parts.append(f"On {spec.dataset}, selected from a score of {spec.threshold:g}. {found.words}.\n")
    return "\n".join(parts)


def _rate(rate: Rate | None) -> str:
    return "–" if rate is None else f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})"
