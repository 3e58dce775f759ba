"""A dataset version on this machine: files are fetched once, checked, and kept in a cache."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlbox.client import Client
from mlbox.errors import InvalidInput, MlboxError
from mlbox.records import DataFile, DatasetVersion

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
    def features(self) -> tuple[str, ...]:
        """The columns that are features, by full reference."""
        return tuple(column.name for column in self.info.columns if ":" in column.name)

    def __repr__(self) -> str:
        return f"Dataset({self.info.ref}, {self.info.rows:,} rows, {len(self.features)} features)"

    def _repr_html_(self) -> str:
        import html

        facts = {
            "dataset": self.info.ref,
            "rows": f"{self.info.rows:,}",
            "features": len(self.features),
            "sha256": self.info.hash,
        }
        rows = "".join(f"<tr><th>{key}</th><td>{html.escape(str(value))}</td></tr>" for key, value in facts.items())
        return f"<table>{rows}</table>"

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
        """Features and label as arrays; raises InvalidInput for a dataset without a label, or with text as a feature."""
        import numpy as np
        import pyarrow as pa

        if self.info.label_set is None:
            raise InvalidInput(f"{self.info.ref} has no label.", hint="Build it with a label set.", field="label_set")
        table = self.arrow()
        for name in self.features:
            if pa.types.is_string(table.schema.field(name).type):
                raise InvalidInput(f"The feature {name} is text.", hint="Encode it in its view.", field=name)
        columns = [table.column(name).cast(pa.float32()).to_numpy() for name in self.features]
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
