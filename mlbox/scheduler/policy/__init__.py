"""The policy: who starts, who gives way and why, as pure functions of what waits, what runs and what the box has.

`decide(state, now)` is the whole of it; `docs/explanation/scheduling.md` says the rules in words.
"""

from mlbox.scheduler.policy.capacity import Capacity, cost, gpus
from mlbox.scheduler.policy.decision import decide
from mlbox.scheduler.policy.fairness import charge, decay, holding
from mlbox.scheduler.policy.impossible import impossible
from mlbox.scheduler.policy.reasons import Explainer, explain, waiting_for
from mlbox.scheduler.policy.types import (
    DEFAULT_QUEUE,
    RANKS,
    Box,
    Decision,
    Device,
    Explanation,
    Need,
    Preemption,
    PreemptionCause,
    Queue,
    Quota,
    Reason,
    Rules,
    Running,
    Start,
    State,
    Usage,
    Waiting,
    Window,
)
from mlbox.scheduler.policy.windows import span

__all__ = [
    "DEFAULT_QUEUE",
    "RANKS",
    "Box",
    "Capacity",
    "Decision",
    "Device",
    "Explainer",
    "Explanation",
    "Need",
    "Preemption",
    "PreemptionCause",
    "Queue",
    "Quota",
    "Reason",
    "Rules",
    "Running",
    "Start",
    "State",
    "Usage",
    "Waiting",
    "Window",
    "charge",
    "cost",
    "decay",
    "decide",
    "explain",
    "gpus",
    "holding",
    "impossible",
    "span",
    "waiting_for",
]
