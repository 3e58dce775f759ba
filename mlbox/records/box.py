"""What is told to others, and what was deleted."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from mlbox.records.base import Record


class Backup(Record, frozen=True, kw_only=True):
    """A copy of everything that a box keeps."""

    name: str
    path: str
    """Its folder, on the machine of the box."""
    made_at: datetime
    release: str
    files: int
    size: int


class Webhook(Record, frozen=True, kw_only=True):
    """An address that is told what happens to registered models."""

    id: str
    name: str
    url: str
    events: tuple[str, ...]
    """MLflow's names, such as model_version.created."""
    description: str = ""
    signed: bool = False
    active: bool = True
    owner: str = ""
    """It is told only of what this user may know of."""
    status: str = ""
    """What was answered last."""
    tries: int = 0
    """How often the next event was tried."""
    lost: int = 0
    """Events that were tried too often."""
    created_at: datetime
    updated_at: datetime


class WebhookDelivery(Record, frozen=True, kw_only=True):
    """What became of telling a webhook of one event."""

    event: str
    state: Literal["due", "delivered", "gave_up"]
    status: str
    """What was answered last, or why it was not reached."""
    tries: int
    at: datetime
    """Of the last try."""


class Delivery(Record, frozen=True, kw_only=True):
    """One message to one address."""

    id: str
    address: str
    """Of a URL only its host: the rest is often a secret."""
    text: str
    created_at: datetime
    state: Literal["due", "delivered", "gave_up"]
    tries: int
    status: str = ""
    """What was answered last."""
    next_at: datetime | None = None


class Deleted(Record, frozen=True, kw_only=True):
    """Something that was deleted and can be taken back."""

    id: str
    """`KIND:ID`; a kind is run, experiment, logged-model, model, version or dataset."""
    name: str
    owner: str
    """The experiment, model or dataset that it belongs to, which says whose it is."""
    deleted_at: datetime
    deleted_by: str = ""
    goes_at: datetime
    """When the retention is over; the next collection after it removes it for good."""
    place: str
    """`after` of the next page."""


class Collected(Record, frozen=True, kw_only=True):
    """What a collection removed for good, or would remove."""

    runs: int
    experiments: int
    logged_models: int
    versions: int
    """Deleted versions whose files went; who made and approved them stays known."""
    datasets: int = 0
    """Dataset versions whose files went."""
    predictions: int = 0
    """Rows of the prediction log that were older than their model's are kept for."""
    files: int
    bytes: int
    """Freed on disk."""
    dry_run: bool
    cutoff: datetime
    """What was deleted before went."""


class SearchHit(Record, frozen=True, kw_only=True):
    """Something that a search found."""

    kind: str
    ref: str
    """What commands and addresses name it by."""
    name: str
    about: str = ""
    at: datetime
    """When it was made, or changed last."""


class SearchResult(Record, frozen=True, kw_only=True):
    """What a search found, by kind."""

    hits: tuple[SearchHit, ...]
    down: tuple[str, ...] = ()
    """Stores that did not answer: what they hold is missing here."""
