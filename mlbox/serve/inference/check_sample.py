"""In the disposable process: samples of what a source model answered, unpacked within bounds and compared with the ONNX model.

A sample is an .npz. Of a tabular model it has `inputs` [N, F] and `outputs` [N]; of any other, `input/NAME` for each of the
model's inputs and `output/NAME` for those of its outputs that are to be compared.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput
from mlbox.records import TensorSpec
from mlbox.serve.inference.runtime import Session
from mlbox.serve.inference.tensors import FLOATS, NUMPY, fits

if TYPE_CHECKING:
    import numpy as np

SAMPLE_BYTES = 64 * 1024**2
"""Of a sample, unpacked: 10,000 rows of 1,600 features."""
WRITES_ONE = "`mlbox.export_onnx` writes one."


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """A sample's arrays; raises InvalidInput for what is none, holds pickles, or unpacks to too much."""
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())  # zipfile reads no more than that out of it
        if size > SAMPLE_BYTES:
            raise InvalidInput(
                f"The sample unpacks to {size / 2**20:,.0f} MiB, and {SAMPLE_BYTES // 2**20} MiB are taken.",
                hint="Keep fewer rows.",
                field="sample",
            )
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except InvalidInput:
        raise
    except Exception as err:  # of every kind: the archive, the arrays' headers, their types
        raise InvalidInput("The sample is no .npz of arrays.", hint=WRITES_ONE, field="sample") from err


def compared(session: Session, path: Path) -> dict[str, Any]:
    """How far a model's answers are from the sample's, and between which numbers they lie; None stands for no finite number."""
    arrays = arrays_of(path)
    if session.tabular and "inputs" in arrays:
        feeds = {session.inputs[0].name: arrays["inputs"].astype(np_type("FP32"))}
        scores = session.score(feeds[session.inputs[0].name])
        expected: Mapping[str, Any] = {"score": arrays.get("outputs", scores[:0]).reshape(-1)}
        found: Mapping[str, Any] = {"score": scores}
        floats = {"score"}
    else:
        feeds = {spec.name: _input(spec, arrays) for spec in session.inputs}
        names = [spec.name for spec in session.outputs if f"output/{spec.name}" in arrays]
        if not names:
            raise _no_array("output/" + session.outputs[0].name)
        expected = {name: arrays[f"output/{name}"] for name in names}
        found = dict(zip(names, session.run(feeds, names), strict=True))
        floats = {spec.name for spec in session.outputs if spec.dtype in FLOATS} & set(names)
    differences = {name: _difference(found[name], expected[name]) for name in found}
    worst = max(differences, key=lambda name: _order(differences[name]))
    low, high = _range([found[name] for name in sorted(floats) or found])
    return {
        "difference": _plain(differences[worst]),
        "output": worst,
        "low": _plain(low),
        "high": _plain(high),
        "rows": len(next(iter(feeds.values()))) if all(data.ndim for data in feeds.values()) else 1,
    }


def np_type(dtype: str) -> Any:
    """numpy's type of one of the protocol's."""
    import numpy as np

    return np.dtype(NUMPY[dtype])


def _input(spec: TensorSpec, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    data = arrays.get(f"input/{spec.name}")
    if data is None:
        raise _no_array(f"input/{spec.name}")
    is_text = data.dtype.kind in "US"
    if is_text != (spec.dtype == "BYTES") or not fits(spec.shape, data.shape):
        raise InvalidInput(
            f"The sample's input {spec.name!r:.80} is {data.dtype}{list(data.shape)}, and the model takes"
            f" {spec.dtype}{list(spec.shape)}.",
            hint=WRITES_ONE,
            field="sample",
        )
    return data.astype(str).astype(object) if is_text else data.astype(np_type(spec.dtype))


def _no_array(name: str) -> InvalidInput:
    return InvalidInput(f"The sample has no array {name!r:.80}.", hint=WRITES_ONE, field="sample")


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference; infinite between other shapes, other texts, and a number and none."""
    import numpy as np

    if found.shape != expected.shape:
        return math.inf
    if found.dtype.kind not in "fiub" or expected.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(found.astype(str), expected.astype(str)) else math.inf
    a, b = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):  # between infinities
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.nan_to_num(apart, nan=math.inf).max(initial=0.0))


def _order(difference: float) -> float:
    return math.inf if math.isnan(difference) else difference


def _range(outputs: list[np.ndarray]) -> tuple[float, float]:
    """The least and the greatest number; of texts how many there are. NaN where one is no finite number."""
    import numpy as np

    if all(output.dtype.kind not in "fiub" for output in outputs):
        return 0.0, float(len({str(value) for output in outputs for value in output.reshape(-1)}) - 1)
    values = np.concatenate(
        [np.zeros(0)] + [o.astype(np.float64).reshape(-1) for o in outputs if o.dtype.kind in "fiub"]
    )
    if not values.size or not np.isfinite(values).all():
        return math.nan, math.nan
    return float(values.min()), float(values.max())


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
