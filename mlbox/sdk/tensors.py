"""Batches of tensors from the files of a dataset version, for training."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from mlbox.errors import InvalidInput
from mlbox.sdk import rows
from mlbox.sdk.cache import Hold

POOL_BYTES = 24_000_000
"""What the rows that are shuffled together take, unless the caller says how many."""

Batch = Any
"""A dict of tensors [B], or a pair of tensors (X [B, F], y [B])."""


class Batches(IterableDataset):  # type: ignore[misc]
    """Batches of one epoch each time it is iterated, of the rows of one of several ranks.

    Under a DataLoader use `batch_size=None`: batches come ready. Its workers share the rank's batches among them.
    """

    def __init__(
        self,
        sources: Sequence[rows.Source],
        layout: rows.Layout,
        *,
        batch_size: int,
        share: tuple[int, int],
        seed: int | None,
        drop_last: bool,
        buffer_rows: int | None,
    ) -> None:
        self.hold: Hold | None = None
        self._sources = list(sources)
        self._layout = layout
        self._batch_size = batch_size
        self._share = share
        self._seed = seed
        self._drop_last = drop_last
        self._buffer_rows = buffer_rows or POOL_BYTES // max(1, layout.row_bytes)
        # In memory that is shared, because workers that outlive an epoch must hear of the next one.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch whose order comes next."""
        return int(self._epoch.item())

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, before each one and on all ranks: each has an order of its own."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Batches that this rank sees in an epoch."""
        return -(-len(self._part((0, 1))) // self._batch_size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "hold": None}  # of this process, which outlives those that it hands this to

    def touched(self) -> list[int]:
        """The files that this rank reads where rows are not shuffled."""
        part = self._part((0, 1))
        return [piece.block.file for piece in rows.cut(rows.whole_files(self._sources), part.start, part.stop)]

    def _part(self, worker: tuple[int, int]) -> range:
        total = sum(source.rows for source in self._sources)
        return rows.part_of(total, self._batch_size, self._share, drop_last=self._drop_last, worker=worker)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        part = self._part((worker.id, worker.num_workers) if worker else (0, 1))
        if not part:
            return
        pieces = rows.cut(self._blocks(), part.start, part.stop)
        reader = rows.Reader(self._sources, self._layout.columns)
        full = max(1, self._buffer_rows // self._batch_size) * self._batch_size
        size = min(full, len(part))
        chunks = reader.chunks(pieces, size, mixed=self._seed is not None)
        draw = None if self._seed is None else np.random.default_rng([self._seed, self.epoch, part.start])
        for pool in rows.pools(chunks, self._layout, size):
            order = np.arange(pool.rows) if draw is None else draw.permutation(pool.rows)
            yield from self._batches(pool, order)

    def _blocks(self) -> list[rows.Block]:
        if self._seed is None:
            return rows.whole_files(self._sources)
        blocks = rows.row_groups(self._sources)
        order = np.random.default_rng([self._seed, self.epoch]).permutation(len(blocks))
        return [blocks[at] for at in order]

    def _batches(self, pool: rows.Pool, order: np.ndarray) -> Iterator[Batch]:
        # By numpy, because torch would wake a thread for each core, which takes longer than the rows of a batch do.
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            taken = {name: torch.from_numpy(values.take(chosen)) for name, values in pool.single.items()}
            if self._layout.label is None:
                yield taken
            else:
                yield torch.from_numpy(pool.matrix.take(chosen, axis=0)), taken[self._layout.label]


def share_of(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process among those that train together: as given, else as torch.distributed or the environment has it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        known = (torch.distributed.get_rank(), torch.distributed.get_world_size())
    else:
        known = (_number("RANK", 0), _number("WORLD_SIZE", 1))
    found = (known[0] if rank is None else rank, known[1] if world_size is None else world_size)
    if not 0 <= found[0] < found[1]:
        raise InvalidInput(
            f"Rank {found[0]} is none of {found[1]}.", hint="Ranks go from 0 to world_size - 1.", field="rank"
        )
    return found


def _number(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable) or str(otherwise)
    if not text.isdecimal():
        raise InvalidInput(f"{variable} is {text[:40]!r}, and no number.", hint="torchrun sets it.", field=variable)
    return int(text)
