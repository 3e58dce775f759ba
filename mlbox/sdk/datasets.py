"""A dataset version on this machine: files are fetched once, checked, and kept in a cache."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlbox.client import Client
from mlbox.errors import InvalidInput, MlboxError
from mlbox.records import Column, DataFile, DatasetVersion, html_table

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass(frozen=True)
class Matrix:
    """Rows to train on: X [N, F] float32 with NaN for missing, y [N], and the features that the columns are."""

    X: np.ndarray
    y: np.ndarray
    features: tuple[str, ...]


class Dataset:
    """A dataset version. `info` says what it is made of."""

    def __init__(self, client: Client, info: DatasetVersion) -> None:
        self.info = info
        self._client = client

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns: entity keys, event time, features, and the label last."""
        return self.info.columns

    @property
    def features(self) -> tuple[str, ...]:
        """The columns that are features, by full reference."""
        return tuple(column.name for column in self.info.columns if ":" in column.name)

    def __repr__(self) -> str:
        return f"Dataset({self.info.ref}, {self.info.rows:,} rows, {len(self.features)} features)"

    def _repr_html_(self) -> str:
        rows, features = f"{self.info.rows:,}", len(self.features)
        return html_table({"dataset": self.info.ref, "rows": rows, "features": features, "sha256": self.info.hash})

    def files(self) -> list[Path]:
        """The Parquet files, fetched if they are not here."""
        return [self._fetch(file) for file in self.info.files]

    def arrow(self) -> pa.Table:
        """All rows as an Arrow table."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pa.concat_tables(pq.read_table(path) for path in self.files())

    def pandas(self) -> Any:
        """All rows as a pandas DataFrame."""
        return self.arrow().to_pandas()

    def matrix(self) -> Matrix:
        """Features and label as arrays; raises InvalidInput without a label, or where a feature is no number.

        A number that float32 does not hold exactly is rounded, as it is when the model is served.
        """
        import numpy as np
        import pyarrow as pa

        if self.info.label_set is None:
            raise InvalidInput(f"{self.info.ref} has no label.", hint="Build it with a label set.", field="label_set")
        for column in self.columns:
            if ":" in column.name and column.dtype in ("STRING", "TIMESTAMP"):
                raise InvalidInput(
                    f"The feature {column.name} is a {column.dtype} and no number.",
                    hint="Encode it in its view.",
                    field=column.name,
                )
        table = self.arrow()
        columns = [table.column(name).cast(pa.float32(), safe=False).to_numpy() for name in self.features]
        label = table.column(self.info.columns[-1].name).to_numpy()
        return Matrix(X=np.stack(columns, axis=1), y=label, features=self.features)

    def _fetch(self, file: DataFile) -> Path:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        target = Path(base) / "mlbox" / file.sha256[:2] / f"{file.sha256}.parquet"
        if target.is_file() and target.stat().st_size == file.size:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        try:
            self._client.download(f"/api/v1/datasets/{self.info.ref}/files/{file.path}", partial)
            with partial.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found != file.sha256:
                raise MlboxError(
                    f"{file.path} of {self.info.ref} arrived damaged.",
                    hint="Try again; if it stays so, check the box's disk.",
                )
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target
