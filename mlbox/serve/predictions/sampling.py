"""Which predictions the log keeps of a model whose owner does not want them all: a share of the requests, drawn by their keys.

A key has a fixed place from 0 to 1, uniform over keys, and a role keeps the rows whose place lies below its share. So the rows
of one request, whoever answers them, stay together, and what a role with a small share keeps a role with a larger one keeps too.
The place is drawn apart from the one that decides who answers: what is kept is a fair sample of what each version was asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from mlbox.records import PredictionSampling
from mlbox.serve.predictions.batches import Batch

Sampling = PredictionSampling
EVERY = PredictionSampling()
SALT = b"prediction log"


def place(key: str) -> float:
    """A key's fixed place in 0..1, uniform over keys."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=SALT).digest()
    return int.from_bytes(digest, "big") / 2**64


def parted(batch: Batch, sampling: Sampling) -> tuple[Batch, Batch]:
    """The rows of a batch that are kept, with the share of their role, and the others; the same ones, if it is done again."""
    share = min(batch.share, sampling.of(batch.role))
    if share >= 1:
        return batch, _part(batch, (), share=1.0)
    kept: list[int] = []
    left: list[int] = []
    for at, key in enumerate(batch.keys or batch.ids):
        (kept if place(key) < share else left).append(at)
    return _part(batch, kept, share=share), _part(batch, left, share=1.0)


def _part(batch: Batch, rows: Sequence[int], *, share: float) -> Batch:
    latency = batch.latency_ms
    return msgspec.structs.replace(
        batch,
        share=share,
        keys=_some(batch.keys or batch.ids, rows),
        ids=_some(batch.ids, rows),
        scores=_some(batch.scores, rows),
        values=_some_values(batch.values, rows),
        entities=_some(batch.entities, rows) if batch.entities else (),
        latency_ms=_some(latency, rows) if isinstance(latency, list) else latency,
    )


def _some(rows: Sequence[Any], kept: Sequence[int]) -> list[Any]:
    return [rows[at] for at in kept]


def _some_values(values: Any, kept: Sequence[int]) -> Any:
    if values is None or isinstance(values, Sequence):
        return None if values is None else _some(values, kept)
    return values[list(kept)]
