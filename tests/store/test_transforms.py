"""On-demand transforms: the same values for one row and for many, right by an interpreter of its own, and nothing else runs."""

from __future__ import annotations

import ast
import functools
import math
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.errors import InvalidInput
from mlbox.records import Column, DType
from mlbox.store.features.transform_ops import MAX_TEXT
from mlbox.store.features.transform_program import Program, from_arrow, plain, to_arrow, values_of
from mlbox.store.features.transforms import compile_transform

INPUTS: dict[str, DType] = {
    "a": "FP64",
    "b": "FP64",
    "i": "INT64",
    "j": "INT64",
    "s": "STRING",
    "t": "STRING",
    "p": "BOOL",
}
DECLARED = [Column(name=name, dtype=dtype) for name, dtype in INPUTS.items()]
INT64 = range(-(2**63), 2**63)

floats = st.sampled_from([0.0, -0.0, 1.0, -1.5, math.nan, math.inf, -math.inf, 5e-324, 1.7e308, 2.0**63]) | st.floats()
ints = st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), 2**32, 3_037_000_500]) | st.integers(-(2**63), 2**63 - 1)
texts = st.sampled_from(["", "a", "B", " 7 ", "1e3", "é", "nan", "9" * 30]) | st.text(max_size=5)
values: dict[DType, Any] = {"FP64": floats, "INT64": ints, "STRING": texts, "BOOL": st.booleans()}
rows = st.fixed_dictionaries({name: st.none() | values[dtype] for name, dtype in INPUTS.items()})


def program(expression: str, dtype: DType) -> Program:
    code = f"def f({', '.join(INPUTS)}):\n    return {expression}"
    return compile_transform(code, DECLARED, [Column(name="o", dtype=dtype)])


def run(compiled: Program, given_rows: list[dict[str, Any]]) -> list[Any]:
    columns = [values_of([row[column.name] for row in given_rows], column.dtype) for column in compiled.inputs]
    return plain(compiled.run(columns, len(given_rows))[0])


def bits(value: Any) -> Any:
    return (float, struct.pack("<d", value)) if isinstance(value, float) else (type(value), value)


# -- expressions by chance -----------------------------------------------------------------------------------------------------

_FLOAT = [
    "abs",
    "floor",
    "ceil",
    "round",
    "trunc",
    "sqrt",
    "exp",
    "log",
    "log1p",
    "sin",
    "cos",
    "tanh",
    "atan",
    "expm1",
]


@functools.cache  # a strategy is costly to make, and the same each time
def expressions(dtype: DType, depth: int) -> st.SearchStrategy[str]:
    """Texts of expressions that give a type."""
    names = st.sampled_from([name for name, kind in INPUTS.items() if kind == dtype])
    literals: dict[DType, Any] = {
        "FP64": st.sampled_from(["0.0", "-0.0", "1.5", "1e308", "3.0"]),
        "INT64": st.sampled_from(["0", "1", "-1", "7", "9223372036854775807", "-9223372036854775808"]),
        "STRING": st.sampled_from(["''", "'a'", "'7'", "'é'"]),
        "BOOL": st.sampled_from(["True", "False"]),
    }
    if depth == 0:
        return names | literals[dtype]
    real, whole, text, truth = (st.deferred(lambda d=d: expressions(d, depth - 1)) for d in INPUTS_TYPES)
    own = {"FP64": real, "INT64": whole, "STRING": text, "BOOL": truth}[dtype]
    shared = [
        names,
        st.builds("coalesce({}, {})".format, own, own),
        st.builds("null_if({}, {})".format, own, own),
        st.builds("({} if {} else {})".format, own, truth, own),
        st.builds("({} if {} else None)".format, own, truth),
    ]
    signs = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    special: dict[DType, list[Any]] = {
        "FP64": [
            st.builds("({} {} {})".format, real, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), real),
            st.builds("({} / {})".format, whole, whole),
            st.builds("({} + {})".format, whole, real),
            st.builds("{}({})".format, st.sampled_from(_FLOAT), real),
            st.builds("{}({}, {})".format, st.sampled_from(["min", "max", "atan2", "pow"]), real, real),
            st.builds("(-{})".format, real),
            st.builds("float({})".format, whole | text | truth),
        ],
        "INT64": [
            st.builds("({} {} {})".format, whole, st.sampled_from(["+", "-", "*", "//", "%"]), whole),
            st.builds("{}({})".format, st.sampled_from(["abs", "-"]), whole),
            st.builds("{}({}, {})".format, st.sampled_from(["min", "max"]), whole, whole),
            st.builds("int({})".format, real | text | truth),
            st.builds("length({})".format, text),
        ],
        "STRING": [
            st.builds("({} + {})".format, text, text),
            st.builds("{}({})".format, st.sampled_from(["lower", "upper", "strip"]), text),
            st.builds("str({})".format, whole | real | truth),
            st.builds("replace({}, {}, {})".format, text, text, text),
            st.builds("substring({}, {}, {})".format, text, whole, whole),
        ],
        "BOOL": [
            st.builds("({} {} {})".format, real, signs, real),
            st.builds("({} {} {})".format, whole, signs, whole | real),
            st.builds("({} {} {})".format, text, signs, text),
            st.builds("({} {} {})".format, truth, st.sampled_from(["and", "or"]), truth),
            st.builds("(not {})".format, truth),
            st.builds("({} is {})".format, real | whole | text | truth, st.sampled_from(["None", "not None"])),
            st.builds("({} in ({}, {}))".format, text, text, text),
            st.builds("{}({}, {})".format, st.sampled_from(["contains", "starts_with", "ends_with"]), text, text),
            st.builds("{}({})".format, st.sampled_from(["is_nan", "is_finite"]), real),
        ],
    }
    return st.one_of(*shared, *special[dtype])


INPUTS_TYPES: tuple[DType, ...] = ("FP64", "INT64", "STRING", "BOOL")
typed = st.sampled_from(INPUTS_TYPES).flatmap(lambda dtype: st.tuples(expressions(dtype, 3), st.just(dtype)))


@given(typed, st.lists(rows, min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_one_row_and_many_give_the_same_bits_and_those_of_a_plain_interpreter(
    made: tuple[str, DType], given_rows: list[dict[str, Any]]
) -> None:
    check_bits(made, given_rows)


@pytest.mark.slow
@given(typed, st.lists(rows, min_size=1, max_size=12))
@settings(max_examples=600, deadline=None)
def test_the_same_bits_in_many_cases(made: tuple[str, DType], given_rows: list[dict[str, Any]]) -> None:
    check_bits(made, given_rows)


def check_bits(made: tuple[str, DType], given_rows: list[dict[str, Any]]) -> None:
    compiled = program(*made)
    whole = run(compiled, given_rows * 7)
    tree = ast.parse(made[0], mode="eval").body
    for number, row in enumerate(given_rows):
        (one,) = run(compiled, [row])
        assert bits(one) == bits(whole[number]) == bits(whole[-len(given_rows) + number]), (made, row)
        assert bits(one) == bits(Plain(row).value(tree)), (made, row)


class Plain:
    """What an expression is for one row, one Python value after the other: written apart from the code that it checks."""

    def __init__(self, row: dict[str, Any]) -> None:
        self._row = row

    def value(self, node: ast.expr) -> Any:
        found = self._value(node)
        if isinstance(found, str) and len(found) > MAX_TEXT:
            return None
        return math.nan if isinstance(found, float) and math.isnan(found) else found

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self._row[node.id]
            case ast.IfExp():
                chosen = node.body if self.value(node.test) is True else node.orelse
                return self.value(chosen)
            case ast.UnaryOp():
                return self._unary(type(node.op), self.value(node.operand))
            case ast.BoolOp():
                return self._logic(isinstance(node.op, ast.And), [self.value(one) for one in node.values])
            case ast.Compare():
                return self._compared(node)
            case ast.BinOp():
                return _arithmetic(type(node.op), self.value(node.left), self.value(node.right))
            case ast.Call(func=ast.Name(id=name)):
                return _called(name, [self.value(one) for one in node.args])
        raise AssertionError(ast.dump(node))

    def _unary(self, op: type, value: Any) -> Any:
        if value is None:
            return None
        if op is ast.Not:
            return not value
        return _fit(-value)

    @staticmethod
    def _logic(is_and: bool, found: list[Any]) -> Any:
        decides = not is_and
        return decides if decides in found else None if None in found else is_and

    def _compared(self, node: ast.Compare) -> Any:
        left, sign, right = self.value(node.left), type(node.ops[0]), node.comparators[0]
        if sign in (ast.Is, ast.IsNot):
            return (left is None) == (sign is ast.Is)
        if sign is ast.In:
            same = [None if None in (left, one) else left == one for one in map(self.value, right.elts)]  # type: ignore[attr-defined]
            return self._logic(False, same)
        other = self.value(right)
        if left is None or other is None:
            return None
        if isinstance(left, float) or isinstance(other, float):
            left, other = float(left), float(other)
        signs = {ast.Lt: left < other, ast.LtE: left <= other, ast.Gt: left > other, ast.GtE: left >= other}
        return {**signs, ast.Eq: left == other, ast.NotEq: left != other}[sign]


def _fit(value: Any) -> Any:
    return None if isinstance(value, int) and not isinstance(value, bool) and value not in INT64 else value


def _arithmetic(op: type, a: Any, b: Any) -> Any:
    if a is None or b is None:
        return None
    if isinstance(a, str):
        return a + b
    if op in (ast.Div, ast.Pow) or isinstance(a, float) or isinstance(b, float):
        return _float_arithmetic(op, float(a), float(b))
    if op in (ast.FloorDiv, ast.Mod):
        return None if b == 0 else _fit(a // b if op is ast.FloorDiv else a % b)
    return _fit({ast.Add: a + b, ast.Sub: a - b, ast.Mult: a * b}[op])


def _float_arithmetic(op: type, a: float, b: float) -> float:
    if op is ast.Pow:
        return _power(a, b)
    if op is ast.Div and b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)
    if op is ast.FloorDiv:
        return _floor_division(a, b)
    if op is ast.Mod:
        return math.nan if b == 0 or math.isinf(a) else _signed_zero(a % b, b)
    return {ast.Add: lambda: a + b, ast.Sub: lambda: a - b, ast.Mult: lambda: a * b, ast.Div: lambda: a / b}[op]()


def _signed_zero(value: float, like: float) -> float:
    return math.copysign(0.0, like) if value == 0 else value


def _floor_division(a: float, b: float) -> float:
    if b == 0:
        return _float_arithmetic(ast.Div, a, b)
    if math.isnan(a) or math.isnan(b) or math.isinf(a):
        return math.nan
    return a // b


def _power(a: float, b: float) -> float:
    odd = math.isfinite(b) and b % 2 == 1
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0 and odd else math.inf
    except ValueError:
        if a == 0:
            return math.copysign(math.inf, a) if odd else math.inf
        return math.nan


def _real(name: str, x: float) -> float:
    if name in ("floor", "ceil", "round", "trunc"):
        if not math.isfinite(x):
            return x
        return math.copysign(float({"floor": math.floor, "ceil": math.ceil, "round": round, "trunc": int}[name](x)), x)
    if (name, x) in {("log", 0.0), ("log1p", -1.0)}:
        return -math.inf
    try:
        return abs(x) if name == "abs" else float(getattr(math, name)(x))
    except ValueError:
        return math.nan
    except OverflowError:
        return math.inf


def _number(text: str, kind: type) -> Any:
    try:
        return None if "_" in text else _fit(kind(text))
    except ValueError:
        return None


def _called(name: str, given_values: list[Any]) -> Any:
    if name == "coalesce":
        return next((value for value in given_values if value is not None), None)
    if name == "null_if":
        a, b = given_values
        return None if b is not None and a == b else a
    if None in given_values:
        return None
    a, b, c = (*given_values, None, None)[:3]
    if name in _FLOAT and isinstance(a, float):
        return _real(name, a)
    if name in ("min", "max") and isinstance(a, float):
        if math.isnan(a) or math.isnan(b):
            return math.nan
        return a if a == b else {"min": min, "max": max}[name](a, b)
    if name == "int" and isinstance(a, float):
        return _fit(int(a)) if math.isfinite(a) else None
    if name in ("int", "float") and isinstance(a, str):
        return _number(a, int if name == "int" else float)
    if name == "str" and isinstance(a, bool):
        return str(a).lower()
    table: dict[str, Any] = {
        "abs": lambda: _fit(abs(a)),
        "min": lambda: min(a, b),
        "max": lambda: max(a, b),
        "atan2": lambda: math.atan2(a, b),
        "pow": lambda: _power(a, b),
        "int": lambda: int(a),
        "float": lambda: float(a),
        "str": lambda: str(a),
        "length": lambda: len(a),
        "lower": lambda: a.lower(),
        "upper": lambda: a.upper(),
        "strip": lambda: a.strip(),
        "replace": lambda: a.replace(b, c),
        "substring": lambda: a[max(0, b) : max(0, b) + max(0, c)],
        "contains": lambda: b in a,
        "starts_with": lambda: a.startswith(b),
        "ends_with": lambda: a.endswith(b),
        "is_nan": lambda: math.isnan(a),
        "is_finite": lambda: math.isfinite(a),
    }
    return table[name]()


@given(st.lists(st.none() | st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)), min_size=1, max_size=9), floats)
@settings(deadline=None)
def test_times_are_as_the_calendar_has_them(moments: list[datetime | None], shift: float) -> None:
    parts = ("year", "month", "day", "hour", "minute", "second", "weekday", "day_of_year")
    code = f"def f(at, by):\n  return {{{', '.join(f'{p!r}: {p}(at)' for p in parts)}, 'to': add_seconds(at, by)}}"
    outputs = [*(Column(name=part, dtype="INT64") for part in parts), Column(name="to", dtype="TIMESTAMP")]
    inputs = [Column(name="at", dtype="TIMESTAMP"), Column(name="by", dtype="FP64")]
    compiled = compile_transform(code, inputs, outputs)
    arrow = from_arrow(pa.array(moments, pa.timestamp("us")), "TIMESTAMP")
    found = compiled.run([arrow, values_of([shift] * len(moments), "FP64")], len(moments))
    columns = dict(zip(compiled.outputs, map(plain, found), strict=True))
    for number, moment in enumerate(moments):
        for part in parts:
            wanted = None if moment is None else _calendar(moment, part)
            assert columns[part][number] == wanted, part
        assert columns["to"][number] == _shifted(moment, shift)
    assert to_arrow(arrow, "TIMESTAMP").to_pylist() == moments


def _calendar(moment: datetime, part: str) -> int:
    other = {"weekday": moment.weekday(), "day_of_year": moment.timetuple().tm_yday}
    return other[part] if part in other else int(getattr(moment, part))


def _shifted(moment: datetime | None, seconds: float) -> int | None:
    if moment is None or not math.isfinite(seconds) or not abs(seconds) < 4e11:
        return None
    try:
        to = moment.replace(tzinfo=UTC) + timedelta(microseconds=round(seconds * 1e6))
    except OverflowError:
        return None
    return (to - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_many_parts_are_joined_as_one() -> None:
    compiled = program("a * 2.0 if p else None", "FP64")
    row = {"a": 1.5, "b": None, "i": 1, "j": 1, "s": "", "t": "", "p": True}
    found = run(compiled, [row, {**row, "p": False}] * 70_000)
    assert found == [3.0, None] * 70_000


def test_a_text_that_grows_without_end_is_null_and_takes_no_memory() -> None:
    lines = ["x = s", *["x = x + x"] * 60, "y = replace(t, '', t)", "return {'x': x, 'y': y}"]
    code = f"def f({', '.join(INPUTS)}):\n  " + "\n  ".join(lines)
    outputs = [Column(name=name, dtype="STRING") for name in "xy"]
    compiled = compile_transform(code, DECLARED, outputs)
    columns = [values_of(["a" * 4000 if column.dtype == "STRING" else None], column.dtype) for column in DECLARED]
    assert [plain(column) for column in compiled.run(columns, 1)] == [[None], [None]]


def test_arrow_keeps_nan_apart_from_null() -> None:
    column = from_arrow(pa.chunked_array([[1.0, None], [math.nan]]), "FP64")
    found = to_arrow(column, "FP64")
    assert found.null_count == 1
    assert math.isnan(found[2].as_py())
    assert to_arrow(from_arrow(pa.array([None, "é"]), "STRING"), "STRING").to_pylist() == [None, "é"]
    assert to_arrow(from_arrow(pa.array([None, True]), "BOOL"), "BOOL").to_pylist() == [None, True]


# -- what is the same, and what is refused ---------------------------------------------------------------------------------------


def digest(body: str) -> str:
    code = f"def f({', '.join(INPUTS)}):\n{body}"
    return compile_transform(code, DECLARED, [Column(name="o", dtype="FP64")]).digest


def test_layout_comments_and_names_of_locals_make_no_version() -> None:
    one = digest("    x = a + b\n    unused = i\n    return x / 2.0")
    assert one == digest('    "What it is."\n    # why\n    total = (a+b)\n    return (total) / 2.0')
    assert one != digest("    return (b + a) / 2.0")
    assert one != digest("    return (a + b) / 2.5")
    assert digest("    return a + 0.0") != digest("    return a + -0.0")


@pytest.mark.parametrize(
    ("body", "place", "words"),
    [
        ("  return a.real", (2, 10), "attribute"),
        ("  return open(s)", (2, 10), "'open' is no function"),
        ("  return s.__class__.__mro__", (2, 10), "attribute"),
        ("  return (lambda: a)()", (2, 11), "lambda"),
        ("  return [a for a in s]", (2, 10), "loop"),
        ("  for x in s:\n    pass\n  return a", (2, 3), "loop"),
        ("  while True:\n    pass", (2, 3), "loop"),
        ("  import os\n  return a", (2, 3), "import"),
        ("  if p:\n    return a\n  return b", (2, 3), "if statement"),
        ("  return 'é€' + x", (2, 17), "'x' is no input"),
        ("  x = a\n  return  x + t", (3, 11), "does not take (FP64, STRING)"),
        ("  return a + missing", (2, 14), "'missing' is no input"),
        ("  return min(a, b=b)", (2, 17), "an argument has a name"),
        ("  return s[0]", (2, 10), "subscript"),
        ("  return f'{s}'", (2, 10), "f-string"),
        ("  return a == None", (2, 10), "comparison with None"),
        ("  return a if a else b", (2, 10), "if does not take (FP64"),
        ("  return 9223372036854775808", (2, 10), "64 bits"),
        ("  return b''", (2, 10), "bytes"),
        ("  return s", (2, 10), "is STRING, and FP64 is declared"),
        ("  return {'x': a}", (2, 11), "no declared output"),
        ("  x, y = a, b\n  return x", (2, 3), "plain name"),
        ("  x += 1\n  return x", (2, 3), "assignment with an operator"),
        ("  return a @ b", (2, 10), "MatMult"),
        ("  x = a", (2, 3), "does not end with a value"),
        ("  return (a\n", (2, 10), "never closed"),
        ("  return " + "-" * 60 + "a", (2, 47), "nested more than 40"),
        ("  return " + " + ".join(["a"] * 30), None, ""),
        ("  x = a\n" + "  x = x + (a * b)\n" * 200 + "  return x", (3, 7), "more than 1,000 parts"),
    ],
)
def test_what_is_not_allowed_is_refused_with_its_place(body: str, place: tuple[int, int] | None, words: str) -> None:
    code = f"def f({', '.join(INPUTS)}):\n{body}"
    outputs = [Column(name="o", dtype="FP64")]
    if place is None:
        compile_transform(code, DECLARED, outputs)
        return
    with pytest.raises(InvalidInput, match="Line") as caught:
        compile_transform(code, DECLARED, outputs)
    assert words in caught.value.message
    assert caught.value.message.startswith(f"Line {place[0]}, column {place[1]}:"), caught.value.message
    assert caught.value.hint
    assert caught.value.field == "code"


@pytest.mark.parametrize(
    "code",
    [
        "",
        "x = 1",
        "async def f(a):\n  return a",
        "@f\ndef f(a):\n  return a",
        "def f(a, *b):\n  return a",
        "def f(a=1):\n  return a",
        "def f(a: float):\n  return a",
        "def f(b):\n  return b",
        "def f():\n  return 1.0",
        "def f(a):\n  return a\x00",
        "def f(a):\r  x = 'é'\r  return y",
        "def f(a):\n  return " + "(" * 500,
        "def f(a):\n  return " + "not " * 2000 + "a",
        "def f(a):\n  return '\ud800'",
        "def f(a):\n  return " + "9" * 5000,
        "x" * 10_000,
        "def f(a):\n  return a\nimport os",
    ],
)
def test_hostile_texts_are_plain_errors(code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        compile_transform(code, [Column(name="a", dtype="FP64")], [Column(name="o", dtype="FP64")])
    assert caught.value.field == "code"
