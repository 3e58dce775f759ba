"""What becomes of the prediction log: how long it is kept, what is held, and what was removed."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from mlbox.records.base import Record
from mlbox.records.monitoring import ServeRole


class PredictionSampling(Record, frozen=True, kw_only=True):
    """Which of a model's predictions are kept: those of a share of the requests, the same requests in every role."""

    share: float = 1.0
    roles: dict[ServeRole, float] = {}
    """Of the roles whose share is another one."""

    def of(self, role: ServeRole) -> float:
        """The share that is kept of a role."""
        return self.roles.get(role, self.share)


class HoldSpec(Record, frozen=True, kw_only=True):
    """Which predictions are to be held, from when to when, why, and until when; see `PredictionHold`."""

    model: str | None = None
    entity: dict[str, Any] = {}
    since: datetime | None = None
    until: datetime | None = None
    reason: str
    expires_at: datetime | None = None


class PredictionHold(Record, frozen=True, kw_only=True):
    """Predictions that nothing removes, neither their age nor an erasure: those that are all of what is named."""

    id: str
    model: str | None = None
    """None for every model."""
    entity: dict[str, Any] = {}
    """Keys that a prediction's entity must have; nothing for any."""
    since: datetime | None = None
    """Of the predictions, in domain time: from here on."""
    until: datetime | None = None
    """Before this."""
    reason: str
    author: str
    created_at: datetime
    expires_at: datetime | None = None
    """Real time; None until it is released."""
    released_at: datetime | None = None
    released_by: str = ""
    active: bool
    """Whether it holds now."""


class PredictionRemoval(Record, frozen=True, kw_only=True):
    """Predictions that were removed for good: by their age, or because somebody asked for what is known of an entity to go."""

    id: str
    kind: Literal["age", "erasure"]
    model: str | None = None
    """None for every model."""
    key: str = ""
    """Of an erasure: the entity's keys, or their HMAC where the setting `erasure_audit` is digest."""
    reason: str = ""
    actor: str
    asked_at: datetime
    state: Literal["pending", "done", "refused"]
    """One that a crash broke off is pending, and made by the next start; one that a hold stops meanwhile is refused."""
    done_at: datetime | None = None
    predictions: int = 0
    outcomes: int = 0
    """Business numbers that had come of these predictions."""


class PredictionKeeping(Record, frozen=True, kw_only=True):
    """How long a model's predictions are kept."""

    model: str
    days: float
    own: bool
    """Whether the model says so itself, instead of the setting `prediction_days`."""
    sampling: PredictionSampling
    left_out: int
    """Predictions that the sampling left out since the server started; all others were kept."""
    oldest: datetime | None
    """When the oldest one that is kept was made, in real time."""
    files: int
    bytes: int
    """On disk."""
    holds: int
    """Of those that hold now, how many are of this model."""
