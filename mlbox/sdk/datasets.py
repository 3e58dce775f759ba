"""A dataset version on this machine: files are mounted, or fetched once, checked, and kept in a cache."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mlbox.client import Client
from mlbox.errors import InvalidInput, MlboxError
from mlbox.records import Column, DataFile, DatasetVersion, DType, html_table
from mlbox.sdk import cache
from mlbox.sdk.mounts import mounted

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from mlbox.sdk import rows
    from mlbox.sdk.tensors import Batches

FETCHES = 4
"""Files that are fetched at a time where all are needed."""


@dataclass(frozen=True)
class Matrix:
    """Rows to train on: X [N, F] float32 with NaN for missing, y [N], and the features that the columns are."""

    X: np.ndarray
    y: np.ndarray
    features: tuple[str, ...]


class Dataset:
    """A dataset version. `info` says what it is made of."""

    def __init__(self, client: Client, info: DatasetVersion, folder: Path | None = None) -> None:
        self.info = info
        self._client = client
        self._folder = folder
        self._holds: dict[str | None, cache.Hold | None] = {}

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns: entity keys, event time, features, and the label last."""
        return self.info.columns

    @property
    def features(self) -> tuple[str, ...]:
        """The columns that are features, by full reference."""
        return tuple(column.name for column in self.info.columns if ":" in column.name)

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts that the version is split into, such as train and test; none where it is whole."""
        return tuple(dict.fromkeys(file.split for file in self.info.files if file.split))

    def __repr__(self) -> str:
        return f"Dataset({self.info.ref}, {self.info.rows:,} rows, {len(self.features)} features)"

    def _repr_html_(self) -> str:
        rows, features = f"{self.info.rows:,}", len(self.features)
        return html_table({"dataset": self.info.ref, "rows": rows, "features": features, "sha256": self.info.hash})

    # -- reading ----------------------------------------------------------------------------------------------------

    def files(self, *, split: str | None = None) -> list[Path]:
        """The files, fetched if they are not here. They stay as long as this object does."""
        files = self._of(split)
        self._holds[split] = self._fetch_all(files)
        return [self._path(file) for file in files]

    def to_arrow(self, *, columns: Sequence[str] | None = None, split: str | None = None) -> pa.Table:
        """All rows, in their order, as an Arrow table."""
        needed("pyarrow")
        from mlbox.sdk import parquet

        return parquet.table(self._tables(split), self._locate, self._named(columns))

    def to_pandas(self, *, columns: Sequence[str] | None = None, split: str | None = None) -> Any:
        """All rows, in their order, as a pandas frame."""
        needed("pandas")
        return self.to_arrow(columns=columns, split=split).to_pandas()

    def to_polars(self, *, columns: Sequence[str] | None = None, split: str | None = None) -> Any:
        """All rows, in their order, as a polars frame."""
        polars = needed("polars")
        return polars.from_arrow(self.to_arrow(columns=columns, split=split))

    def batches(
        self, *, columns: Sequence[str] | None = None, split: str | None = None, batch_size: int = 65_536
    ) -> Iterator[pa.RecordBatch]:
        """The rows, in their order, as Arrow record batches of at most `batch_size`; none reaches over the end of a file.

        A file is fetched while the one before is read, so that neither memory nor the cache has to hold them all.
        """
        needed("pyarrow")
        from mlbox.sdk import parquet

        _positive("batch_size", batch_size)
        return parquet.batches(self._tables(split), self._locate, self._named(columns), batch_size)

    def matrix(self, *, split: str | None = None) -> Matrix:
        """Features and label as arrays; raises InvalidInput without a label, or where a feature is no number.

        A number that float32 does not hold exactly is rounded, as it is when the model is served.
        """
        needed("pyarrow")
        import numpy as np
        import pyarrow as pa

        if self.info.label_set is None:
            raise InvalidInput(f"{self.info.ref} has no label.", hint="Build it with a label set.", field="label_set")
        label = self.info.columns[-1].name
        for name in self.features:
            self.check_number(name)
        table = self.to_arrow(columns=[*self.features, label], split=split)
        columns = [table.column(name).cast(pa.float32(), safe=False).to_numpy() for name in self.features]
        return Matrix(X=np.stack(columns, axis=1), y=table.column(label).to_numpy(), features=self.features)

    def to_torch(
        self,
        *,
        batch_size: int,
        columns: Sequence[str] | None = None,
        label: str | None = None,
        split: str | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
        buffer_rows: int | None = None,
    ) -> Batches:
        """Batches of tensors, epoch after epoch, of which this process gets its share; memory is bounded.

        Without `columns`, batches of a version with features and a label are pairs (X [B, F] float32, NaN for missing, y [B]).
        With `columns` they are dicts of tensors [B] by name, or pairs where `label` is given too, X in the order of `columns`.
        FP64 comes as float32, INT64 as int64, BOOL as bool, TIMESTAMP as int64 microseconds since 1970; text is refused.

        `shuffle` draws the order of blocks (row groups) from `seed` and the epoch (see `Batches.set_epoch`), and shuffles
        the rows of `buffer_rows` (by default 24 MB of them) at a time, which come from several blocks.

        Of `world_size` processes (by default those of torch.distributed, else WORLD_SIZE in the environment) each sees other
        rows, and together they see each row once. With `drop_last` all have the same number of full batches.

        Files are fetched now, unless they are here, and stay as long as the batches are in use.
        """
        needed("pyarrow")
        needed("torch")
        from mlbox.sdk import rows, tensors

        _positive("batch_size", batch_size)
        if seed < 0:
            raise InvalidInput(f"seed is {seed}.", hint="Use 0 or more.", field="seed")
        if buffer_rows is not None:
            _positive("buffer_rows", buffer_rows)
        files = self._tables(split)
        share = tensors.share_of(rank, world_size)
        batches = tensors.Batches(
            [rows.Source(self._path(file), file.rows) for file in files],
            self._layout(columns, label),
            batch_size=batch_size,
            share=share,
            seed=seed if shuffle else None,
            drop_last=drop_last,
            buffer_rows=buffer_rows,
        )
        batches.hold = self._fetch_all(files if shuffle else [files[at] for at in batches.touched()])
        return batches

    # -- columns and splits -----------------------------------------------------------------------------------------

    def _layout(self, columns: Sequence[str] | None, label: str | None) -> rows.Layout:
        from mlbox.sdk import rows

        if columns is None and label is None and self.info.label_set and self.features:
            label = self.info.columns[-1].name
        if columns is None and label is not None:
            columns = self.features or [column.name for column in self.columns if column.name != label]
        chosen = [name for name in self._named(columns) if name != label]
        dtypes = {name: self.check_number(name) for name in (*chosen, *(self._named([label]) if label else ()))}
        return rows.Layout(dtypes, features=tuple(chosen) if label else (), label=label)

    def check_number(self, name: str) -> DType:
        """The type of a column that a tensor can hold; raises InvalidInput for another."""
        dtype = next(column.dtype for column in self.columns if column.name == name)
        if dtype == "STRING" or (dtype == "TIMESTAMP" and ":" in name):
            what = "feature" if ":" in name else "column"
            raise InvalidInput(
                f"The {what} {name} is a {dtype} and no number.",
                hint="Encode it in its view." if ":" in name else "Leave it out: name the others in `columns`.",
                field=name,
            )
        return dtype

    def _named(self, columns: Sequence[str] | None) -> list[str]:
        known = [column.name for column in self.columns]
        for name in columns or ():
            if name not in known:
                raise InvalidInput(
                    f"{self.info.ref} has no column {name!r:.100}.", hint=f"It has {_some(known)}.", field="columns"
                )
        if columns is not None and (not columns or len(set(columns)) < len(columns)):
            raise InvalidInput("`columns` is empty, or names one twice.", hint="Name each once.", field="columns")
        return known if columns is None else list(columns)

    def _of(self, split: str | None) -> list[DataFile]:
        """The files of a split, or all of them."""
        found = [file for file in self.info.files if split is None or file.split == split]
        if not found:
            has = f"It has {_some(self.splits)}." if self.splits else "It is not split: leave `split` out."
            raise InvalidInput(f"{self.info.ref} has no split {split!r:.100}.", hint=has, field="split")
        return found

    def _tables(self, split: str | None) -> list[DataFile]:
        found = self._of(split)
        for file in found:
            if not file.path.endswith(".parquet"):
                raise InvalidInput(
                    f"{file.path} of {self.info.ref} is no table.", hint="Read its files by `files()`.", field="dataset"
                )
        return found

    # -- files ------------------------------------------------------------------------------------------------------

    def _path(self, file: DataFile) -> Path:
        """Where a file is, or will be once it is fetched."""
        return self._cache().path(file.sha256) if self._folder is None else self._folder / file.path

    def _locate(self, file: DataFile) -> Path:
        if self._folder is not None:
            return self._folder / file.path
        address = f"/api/v1/datasets/{quote(self.info.ref, safe='@')}/files/{quote(file.path)}"
        return self._cache().fetch(file, lambda: self._client.stream(address))

    def _fetch_all(self, files: Sequence[DataFile]) -> cache.Hold | None:
        """Bring all of these here, to stay as long as what is returned."""
        if self._folder is not None:
            return None
        hold = self._cache().hold(file.sha256 for file in files)
        with ThreadPoolExecutor(FETCHES, thread_name_prefix="mlbox-fetch") as pool:
            for fetch in [pool.submit(self._locate, file) for file in files]:
                fetch.result()
        return hold

    def _cache(self) -> cache.Cache:
        return cache.Cache(cache.folder(), cache.limit_bytes())


def find(client: Client, ref: str) -> Dataset:
    """A version by `NAME@vN`, or the latest of `NAME`: the one that is mounted here, else what the box says; raises NotFound."""
    ready = mounted(client.url, ref)
    if ready is not None:
        return Dataset(client, *ready)
    return Dataset(client, client.get(f"/api/v1/datasets/{quote(ref, safe='@')}", DatasetVersion))


def needed(package: str) -> Any:
    """A package that the client alone does not bring along; raises MlboxError that names it where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as err:
        raise MlboxError(
            f"The package {package} is not installed here: {err}.", hint=f"Install it: pip install {package}"
        ) from err


def _positive(field: str, value: int) -> None:
    if value < 1:
        raise InvalidInput(f"{field} is {value}.", hint="Use 1 or more.", field=field)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
