"""Divergence rules as `mlbox submit --rule` takes them, in the words of a job file."""

from __future__ import annotations

from typing import Literal

from mlbox.errors import InvalidInput
from mlbox.records import DivergenceRule

NO_RULES = "none"
METAVAR = "'KIND [METRIC] [NUMBER] [higher] [stop]'"
_HINT = "Write it like 'nonfinite stop', 'no_better val_loss 2000 stop', 'no_better auc 50 higher' or 'above grad_norm 1e3'."


def read_rules(texts: list[str]) -> tuple[DivergenceRule, ...]:
    """Rules of a job, or none at all; raises InvalidInput."""
    return () if texts == [NO_RULES] else tuple(map(read_rule, texts))


def read_rule(text: str) -> DivergenceRule:
    """One rule, such as `no_better val_loss 2000 stop`; raises InvalidInput."""
    words, said = text.split(), set()
    while words and words[-1] in ("stop", "notify", "higher"):
        said.add(words.pop())
    action: Literal["notify", "stop"] = "stop" if "stop" in said else "notify"
    try:
        match words:
            case ["nonfinite", *metric] if len(metric) <= 1 and "higher" not in said:
                return DivergenceRule(kind="nonfinite", metric="".join(metric), action=action)
            case ["no_better", metric, steps]:
                higher = "higher" in said
                return DivergenceRule(
                    kind="no_better", metric=metric, steps=int(steps), higher_is_better=higher, action=action
                )
            case ["above", metric, bound] if "higher" not in said:
                return DivergenceRule(kind="above", metric=metric, bound=float(bound), action=action)
    except ValueError:
        pass
    raise InvalidInput(f"{text!r:.80} is no rule.", hint=_HINT, field="rule")
