"""What a transform may do to columns: every operator and function, by the types that it takes.

A column is an array of values and, where some are null, an array that says which. All operations follow these rules:

- Null in, null out, but for `is_null`, `coalesce`, `and`, `or` and conditional expressions.
- What has no value of its type is null: INT64 past 64 bits, a whole number divided by zero, a text that is no number, a time
  outside the years 1 to 9999, a text of more than `MAX_TEXT` characters.
- FP64 is IEEE 754: 1.0 / 0.0 is infinite, 0.0 / 0.0 is NaN, NaN equals nothing.

Each value depends on its own row only, to the last bit. So functions that are not exact to the last bit by IEEE 754 are called
value by value: numpy's vector code for them may differ from its scalar code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlbox.records import DType

MAX_TEXT = 4096
EARLIEST_US, LATEST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999, in microseconds since 1970."""
_LEAST = np.iinfo(np.int64).min
_DAY, _HOUR = 86_400_000_000, 3_600_000_000
Array = Any
Kernel = Callable[..., Any]


class Values(NamedTuple):
    """A column: values, and which are null (None where none is). Either may have one element that stands for all rows."""

    data: Array
    nulls: Array | None = None


class Operation(NamedTuple):
    """One operation on columns of some types; `run` takes and gives `Values`."""

    takes: tuple[DType, ...]
    gives: DType
    run: Callable[..., Values]


def either(*nulls: Array | None) -> Array | None:
    """Where any is null."""
    found: Array | None = None
    for some in nulls:
        if some is not None:
            found = some if found is None else found | some
    return found


def _strict(takes: Sequence[DType], gives: DType, kernel: Kernel) -> Operation:
    """Null in, null out; a kernel that gives a pair says what else is null."""

    def run(*columns: Values) -> Values:
        nulls = either(*(column.nulls for column in columns))
        found = kernel(*(column.data for column in columns))
        if isinstance(found, tuple):
            return Values(found[0], either(nulls, found[1]))
        return Values(found, nulls)

    return Operation(tuple(takes), gives, run)


# -- numbers ----------------------------------------------------------------------------------------------------------------


def _add(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    return total, ((a ^ total) & (b ^ total)) < 0


def _subtract(a: Array, b: Array) -> tuple[Array, Array]:
    rest = a - b
    return rest, ((a ^ b) & (a ^ rest)) < 0


def _multiply(a: Array, b: Array) -> tuple[Array, Array]:
    product = a * b
    divisor = np.where(b == 0, 1, b)
    least = ((b == -1) & (a == _LEAST)) | ((a == -1) & (b == _LEAST))
    wrong = (b != 0) & (np.where(divisor == -1, -product, product // divisor) != a)
    return product, least | wrong


def _floor_divide(a: Array, b: Array) -> tuple[Array, Array]:
    gone = (b == 0) | ((a == _LEAST) & (b == -1))
    return a // np.where(gone, 1, b), gone


def _modulo(a: Array, b: Array) -> tuple[Array, Array]:
    return a % np.where((b == 0) | (b == -1), 1, b), b == 0


def _least(a: Array, b: Array) -> Array:
    """The first where they are equal, so that the sign of a zero is always the same; NaN where either is."""
    return np.where(np.isnan(a) | (a <= b), a, b)


def _greatest(a: Array, b: Array) -> Array:
    return np.where(np.isnan(a) | (a >= b), a, b)


def _by_value(fn: Callable[..., float]) -> Kernel:
    """A function of floats, called for each row."""

    def kernel(*columns: Array) -> Array:
        if len(columns) == 1:
            return np.fromiter(map(fn, columns[0].tolist()), np.float64, len(columns[0]))
        lists = [column.tolist() for column in np.broadcast_arrays(*columns)]
        return np.fromiter(map(fn, *lists), np.float64, len(lists[0]))

    return kernel


def _ieee(fn: Callable[[float], float], *, pole: float | None = None, above: float = math.inf) -> Kernel:
    """One of `math`'s functions as IEEE 754 has it: -inf at its pole, NaN outside its domain, `above` past the largest float."""

    def value(x: float) -> float:
        try:
            return -math.inf if x == pole else fn(x)
        except ValueError:
            return math.nan
        except OverflowError:
            return above

    return _by_value(value)


def _power(base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except ValueError:
        odd = exponent % 2 == 1
        return (math.copysign(math.inf, base) if odd else math.inf) if base == 0 else math.nan
    except OverflowError:
        return -math.inf if base < 0 and exponent % 2 == 1 else math.inf


def _to_int(a: Array) -> tuple[Array, Array]:
    whole = np.trunc(a)
    fits = (whole >= -(2.0**63)) & (whole < 2.0**63)
    return np.where(fits, whole, 0.0).astype(np.int64), ~fits


def _negative(a: Array) -> tuple[Array, Array]:
    return -a, a == _LEAST


def _absolute(a: Array) -> tuple[Array, Array]:
    return np.abs(a), a == _LEAST


# -- text -------------------------------------------------------------------------------------------------------------------


def _objects(values: Sequence[Any]) -> Array:
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _rows(columns: Sequence[Array]) -> Sequence[Sequence[Any]]:
    return [column.tolist() for column in np.broadcast_arrays(*columns)]


def _text(fn: Callable[..., str | None]) -> Kernel:
    """A function of values that gives a text, or None; a text that is too long is none."""

    def kernel(*columns: Array) -> tuple[Array, Array]:
        found = [fn(*row) for row in zip(*_rows(columns), strict=True)]
        gone = [text is None or len(text) > MAX_TEXT for text in found]
        return _objects(["" if no else text for text, no in zip(found, gone, strict=True)]), np.array(gone, bool)

    return kernel


def _from_text(fn: Callable[..., Any], dtype: Any) -> Kernel:
    def kernel(*columns: Array) -> Array:
        return np.array([fn(*row) for row in zip(*_rows(columns), strict=True)], dtype)

    return kernel


def _parsed(read: Callable[[str], Any], dtype: Any) -> Kernel:
    """Numbers out of texts; null where a text is none."""

    def one(text: str) -> Any:
        try:
            return None if "_" in text or len(text) > 400 else read(text)
        except ValueError:
            return None

    def kernel(column: Array) -> tuple[Array, Array]:
        found = [one(text) for text in column.tolist()]
        return np.array([value or 0 for value in found], dtype), np.array([value is None for value in found], bool)

    return kernel


def _read_int(text: str) -> int | None:
    value = int(text)
    return value if -(2**63) <= value < 2**63 else None


def _read_float(text: str) -> float:
    return float(text)


def _replace(text: str, old: str, new: str) -> str | None:
    """Its length is known before it is made."""
    length = len(text) + text.count(old) * (len(new) - len(old))
    return text.replace(old, new) if length <= MAX_TEXT else None


def _joined(a: str, b: str) -> str | None:
    return a + b if len(a) + len(b) <= MAX_TEXT else None


def _part(text: str, start: int, count: int) -> str:
    first = max(0, start)
    return text[first : first + max(0, count)]


# -- time: microseconds since 1970, UTC ----------------------------------------------------------------------------------------


def _calendar(unit: str, of: str, plus: int) -> Kernel:
    """How many of a unit passed since the larger one began: months in the year, days in the month."""

    def kernel(a: Array) -> Array:
        moment = a.astype("M8[us]")
        count = moment.astype(f"M8[{unit}]")
        return (count - moment.astype(f"M8[{of}]").astype(f"M8[{unit}]")).astype(np.int64) + plus

    return kernel


def _year(a: Array) -> Array:
    return a.astype("M8[us]").astype("M8[Y]").astype(np.int64) + 1970


def _add_seconds(a: Array, seconds: Array) -> tuple[Array, Array]:
    shift = np.rint(seconds * 1e6)
    fits = np.abs(shift) <= float(LATEST_US - EARLIEST_US)
    found = a + np.where(fits, shift, 0.0).astype(np.int64)
    fits = fits & (found >= EARLIEST_US) & (found <= LATEST_US)
    return np.where(fits, found, 0), ~fits


# -- null -------------------------------------------------------------------------------------------------------------------


def _is_null(column: Values) -> Values:
    return Values(np.zeros(len(column.data), bool) if column.nulls is None else column.nulls)


def _not_null(column: Values) -> Values:
    return Values(~_is_null(column).data)


def _coalesce(a: Values, b: Values) -> Values:
    if a.nulls is None:
        return a
    return Values(np.where(a.nulls, b.data, a.data), None if b.nulls is None else a.nulls & b.nulls)


def _null_if(a: Values, b: Values) -> Values:
    same = a.data == b.data
    return Values(a.data, either(a.nulls, same if b.nulls is None else same & ~b.nulls))


def _and(a: Values, b: Values) -> Values:
    """False where either is, whatever the other; null where that cannot be said."""
    nulls = either(a.nulls, b.nulls)
    if nulls is None:
        return Values(a.data & b.data)
    false = (~a.data & _known(a)) | (~b.data & _known(b))
    return Values(a.data & b.data & ~nulls, nulls & ~false)


def _or(a: Values, b: Values) -> Values:
    nulls = either(a.nulls, b.nulls)
    if nulls is None:
        return Values(a.data | b.data)
    true = (a.data & _known(a)) | (b.data & _known(b))
    return Values(true, nulls & ~true)


def _known(column: Values) -> Array:
    return True if column.nulls is None else ~column.nulls


def _choose(condition: Values, a: Values, b: Values) -> Values:
    """`a` where the condition is true, `b` where it is false or null."""
    true = condition.data & _known(condition)
    data = np.where(true, a.data, b.data)
    if a.nulls is None and b.nulls is None:
        return Values(data)
    a_nulls, b_nulls = (False if side.nulls is None else side.nulls for side in (a, b))
    return Values(data, np.where(true, a_nulls, b_nulls))


# -- the table ----------------------------------------------------------------------------------------------------------------

_TYPES: tuple[DType, ...] = ("BOOL", "INT64", "FP64", "STRING", "TIMESTAMP")


def _numbers(whole: Kernel, real: Kernel, width: int = 2) -> tuple[Operation, ...]:
    return (_strict(["INT64"] * width, "INT64", whole), _strict(["FP64"] * width, "FP64", real))


def _reals(kernel: Kernel, width: int = 1) -> tuple[Operation, ...]:
    return (_strict(["FP64"] * width, "FP64", kernel),)


def _compared(kernel: Kernel, *types: DType) -> tuple[Operation, ...]:
    def plain(a: Array, b: Array) -> Array:
        return kernel(a, b).astype(bool)

    return tuple(_strict((dtype, dtype), "BOOL", plain) for dtype in types)


def _of_time(kernel: Kernel) -> tuple[Operation, ...]:
    return (_strict(["TIMESTAMP"], "INT64", kernel),)


OPERATORS: dict[str, tuple[Operation, ...]] = {
    "+": (*_numbers(_add, np.add), _strict(["STRING", "STRING"], "STRING", _text(_joined))),
    "-": _numbers(_subtract, np.subtract),
    "*": _numbers(_multiply, np.multiply),
    "/": _reals(np.true_divide, 2),
    "//": _numbers(_floor_divide, np.floor_divide),
    "%": _numbers(_modulo, np.remainder),
    "**": _reals(_by_value(_power), 2),
    "negative": _numbers(_negative, np.negative, 1),
    "not": (_strict(["BOOL"], "BOOL", np.logical_not),),
    "and": (Operation(("BOOL", "BOOL"), "BOOL", _and),),
    "or": (Operation(("BOOL", "BOOL"), "BOOL", _or),),
    "==": _compared(np.equal, *_TYPES),
    "!=": _compared(np.not_equal, *_TYPES),
    "<": _compared(np.less, *_TYPES[1:]),
    "<=": _compared(np.less_equal, *_TYPES[1:]),
    ">": _compared(np.greater, *_TYPES[1:]),
    ">=": _compared(np.greater_equal, *_TYPES[1:]),
    "if": tuple(Operation(("BOOL", dtype, dtype), dtype, _choose) for dtype in _TYPES),
}
"""By the sign that stands for it."""

FUNCTIONS: dict[str, tuple[Operation, ...]] = {
    "is_null": tuple(Operation((dtype,), "BOOL", _is_null) for dtype in _TYPES),
    "not_null": tuple(Operation((dtype,), "BOOL", _not_null) for dtype in _TYPES),
    "coalesce": tuple(Operation((dtype, dtype), dtype, _coalesce) for dtype in _TYPES),
    "null_if": tuple(Operation((dtype, dtype), dtype, _null_if) for dtype in _TYPES),
    "abs": _numbers(_absolute, np.abs, 1),
    "min": _numbers(np.minimum, _least),
    "max": _numbers(np.maximum, _greatest),
    "floor": _reals(np.floor),
    "ceil": _reals(np.ceil),
    "round": _reals(np.rint),
    "trunc": _reals(np.trunc),
    "sqrt": _reals(np.sqrt),
    "exp": _reals(_ieee(math.exp)),
    "log": _reals(_ieee(math.log, pole=0.0)),
    "log2": _reals(_ieee(math.log2, pole=0.0)),
    "log10": _reals(_ieee(math.log10, pole=0.0)),
    "log1p": _reals(_ieee(math.log1p, pole=-1.0)),
    "expm1": _reals(_ieee(math.expm1)),
    "sin": _reals(_ieee(math.sin)),
    "cos": _reals(_ieee(math.cos)),
    "tan": _reals(_ieee(math.tan)),
    "asin": _reals(_ieee(math.asin)),
    "acos": _reals(_ieee(math.acos)),
    "atan": _reals(_ieee(math.atan)),
    "atan2": _reals(_by_value(math.atan2), 2),
    "tanh": _reals(_ieee(math.tanh)),
    "pow": _reals(_by_value(_power), 2),
    "is_nan": (_strict(["FP64"], "BOOL", np.isnan),),
    "is_finite": (_strict(["FP64"], "BOOL", np.isfinite),),
    "int": (
        _strict(["INT64"], "INT64", lambda a: a),
        _strict(["FP64"], "INT64", _to_int),
        _strict(["BOOL"], "INT64", lambda a: a.astype(np.int64)),
        _strict(["STRING"], "INT64", _parsed(_read_int, np.int64)),
    ),
    "float": (
        _strict(["FP64"], "FP64", lambda a: a),
        _strict(["INT64"], "FP64", lambda a: a.astype(np.float64)),
        _strict(["BOOL"], "FP64", lambda a: a.astype(np.float64)),
        _strict(["STRING"], "FP64", _parsed(_read_float, np.float64)),
    ),
    "str": (
        _strict(["STRING"], "STRING", lambda a: a),
        _strict(["INT64"], "STRING", _text(str)),
        _strict(["FP64"], "STRING", _text(repr)),
        _strict(["BOOL"], "STRING", _text(lambda value: "true" if value else "false")),
    ),
    "length": (_strict(["STRING"], "INT64", _from_text(len, np.int64)),),
    "lower": (_strict(["STRING"], "STRING", _text(str.lower)),),
    "upper": (_strict(["STRING"], "STRING", _text(str.upper)),),
    "strip": (_strict(["STRING"], "STRING", _text(str.strip)),),
    "contains": (_strict(["STRING", "STRING"], "BOOL", _from_text(lambda text, part: part in text, bool)),),
    "starts_with": (_strict(["STRING", "STRING"], "BOOL", _from_text(str.startswith, bool)),),
    "ends_with": (_strict(["STRING", "STRING"], "BOOL", _from_text(str.endswith, bool)),),
    "replace": (_strict(["STRING", "STRING", "STRING"], "STRING", _text(_replace)),),
    "substring": (_strict(["STRING", "INT64", "INT64"], "STRING", _text(_part)),),
    "year": _of_time(_year),
    "month": _of_time(_calendar("M", "Y", 1)),
    "day": _of_time(_calendar("D", "M", 1)),
    "day_of_year": _of_time(_calendar("D", "Y", 1)),
    "weekday": _of_time(lambda a: (a // _DAY + 3) % 7),
    "hour": _of_time(lambda a: a % _DAY // _HOUR),
    "minute": _of_time(lambda a: a % _HOUR // 60_000_000),
    "second": _of_time(lambda a: a % 60_000_000 // 1_000_000),
    "epoch_seconds": (_strict(["TIMESTAMP"], "FP64", lambda a: a.astype(np.float64) / 1e6),),
    "seconds_between": (_strict(["TIMESTAMP"] * 2, "FP64", lambda a, b: (b - a).astype(np.float64) / 1e6),),
    "add_seconds": (_strict(["TIMESTAMP", "FP64"], "TIMESTAMP", _add_seconds),),
    "start_of_day": (_strict(["TIMESTAMP"], "TIMESTAMP", lambda a: a // _DAY * _DAY),),
    "start_of_hour": (_strict(["TIMESTAMP"], "TIMESTAMP", lambda a: a // _HOUR * _HOUR),),
}
"""By name, as a transform calls it."""

ANY_NUMBER = frozenset({"min", "max", "coalesce"})
"""Functions of two or more arguments: `min(a, b, c)` is `min(min(a, b), c)`."""
