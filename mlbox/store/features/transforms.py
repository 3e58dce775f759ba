"""On-demand transforms: one small function, in a checked subset of Python, compiled to operations on columns.

    def ratio(amount, limit):
        used = coalesce(amount, 0.0) / limit
        return {"used": used, "over": used > 1}

No code of a user's ever runs: the text is parsed, walked against a list of what is allowed, typed, and becomes a list of steps,
each one of the operations in `transform_ops`. The same steps run over whole columns in training and over one row in serving,
and every value depends on its own row alone, so both give the same to the last bit.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from mlbox.errors import InvalidInput, suggest
from mlbox.records import Column, DType
from mlbox.store.features.transform_program import BARE, Program, Step, Type

if TYPE_CHECKING:
    from mlbox.store.features.transform_ops import Operation

MAX_CODE = 8192
MAX_NODES = 1000
MAX_DEPTH = 40
_BINARY: dict[type[ast.AST], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.And: "and",
    ast.Or: "or",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_INSTEAD: dict[type[ast.AST], tuple[str, str]] = {
    ast.Attribute: ("an attribute", "Use a function of the table, such as lower(x) for x.lower()."),
    ast.For: ("a loop", "Compute the feature in a view's SQL, where rows can be aggregated."),
    ast.While: ("a loop", "Compute the feature in a view's SQL, where rows can be aggregated."),
    ast.ListComp: ("a loop", "Compute the feature in a view's SQL, where rows can be aggregated."),
    ast.GeneratorExp: ("a loop", "Compute the feature in a view's SQL, where rows can be aggregated."),
    ast.If: ("an if statement", "Write a conditional expression: x = A if CONDITION else B."),
    ast.Import: ("an import", "The functions of the table need none."),
    ast.ImportFrom: ("an import", "The functions of the table need none."),
    ast.Lambda: ("a lambda", "Assign to a local name instead."),
    ast.AugAssign: ("an assignment with an operator", "Write x = x + 1."),
    ast.Subscript: ("a subscript", "Use substring(text, start, count) for a part of a text."),
    ast.JoinedStr: ("an f-string", "Join texts with +, and numbers with str(x)."),
    ast.Is: ("`is`", "Write x is None, is_null(x) or ==."),
}


# -- compiling ----------------------------------------------------------------------------------------------------------------


def compile_transform(code: str, inputs: Sequence[Column], outputs: Sequence[Column]) -> Program:
    """Check a transform's text and compile it; raises InvalidInput naming line and column."""
    return _Compiler(inputs, outputs).compile(_parsed(code))


def refuse(node: ast.AST | None, message: str, hint: str) -> NoReturn:
    """Raise InvalidInput at a place in the text; columns count from 1, as editors do."""
    line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1
    raise InvalidInput(f"Line {line}, column {column}: {message}", hint=hint, field="code")


def _parsed(code: str) -> ast.FunctionDef:
    if len(code.encode(errors="replace")) > MAX_CODE:
        raise InvalidInput(f"The code is longer than {MAX_CODE:,} bytes.", hint="Split the transform.", field="code")
    code = code.replace("\r\n", "\n").replace("\r", "\n")
    try:
        module = ast.parse(code)
    except SyntaxError as err:
        words = f"Line {err.lineno or 1}, column {err.offset or 1}: {err.msg}."
        raise InvalidInput(words, hint="It has to be one Python function.", field="code") from err
    except (ValueError, MemoryError, RecursionError) as err:
        raise InvalidInput(f"The code cannot be parsed: {err}.", hint="Make it simpler.", field="code") from err
    _check_size(module)
    if not code.isascii():
        _count_characters(module, code)
    if len(module.body) != 1 or not isinstance(module.body[0], ast.FunctionDef):
        wrong = next((node for node in module.body if not isinstance(node, ast.FunctionDef)), None)
        refuse(wrong, "the code is not one function.", "Write def NAME(INPUTS): and nothing before or after it.")
    return module.body[0]


def _count_characters(module: ast.Module, code: str) -> None:
    """Python counts a line's bytes, and people its characters."""
    lines = [line.encode() for line in code.split("\n")]
    for node in ast.walk(module):
        if isinstance(node, ast.expr | ast.stmt | ast.arg | ast.keyword):
            node.col_offset = len(lines[node.lineno - 1][: node.col_offset].decode(errors="ignore"))


def _check_size(module: ast.Module) -> None:
    level: list[ast.AST] = [module]
    count = depth = 0
    while level:
        count, depth = count + len(level), depth + 1
        place = next((node for node in level if hasattr(node, "lineno")), level[0])
        if count > MAX_NODES:
            refuse(place, f"the code has more than {MAX_NODES:,} parts.", "Split the transform.")
        if depth > MAX_DEPTH:
            refuse(place, f"the code is nested more than {MAX_DEPTH} deep.", "Use local names for its parts.")
        level = [child for node in level for child in ast.iter_child_nodes(node)]


class _Compiler:
    def __init__(self, inputs: Sequence[Column], outputs: Sequence[Column]) -> None:
        from mlbox.store.features import transform_ops

        self._ops = transform_ops
        self._inputs = {column.name: column for column in inputs}
        self._wanted: dict[str, DType] = {column.name: column.dtype for column in outputs}
        self._types: list[Type] = [column.dtype for column in inputs]
        self._names = {column.name: slot for slot, column in enumerate(inputs)}
        self._made: list[Step | tuple[Type, Any]] = []
        """What is in each slot after the inputs."""
        self._known: dict[Any, int] = {}

    def compile(self, function: ast.FunctionDef) -> Program:
        self._check_signature(function)
        body = list(function.body)
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body = body[1:]  # its docstring
        for statement in body[:-1]:
            self._assign(statement)
        last = body[-1] if body else function
        if not isinstance(last, ast.Return) or last.value is None:
            if isinstance(last, ast.stmt) and type(last) in _INSTEAD:
                self._assign(last)
            refuse(last, "the function does not end with a value.", "End it with return EXPRESSION.")
        return self._program(self._returned(last.value))

    def _check_signature(self, function: ast.FunctionDef) -> None:
        found = function.args
        if function.decorator_list:
            refuse(function.decorator_list[0], "a decorator is not allowed.", "Leave it out.")
        extra = [*found.posonlyargs, *found.kwonlyargs, *found.defaults, found.vararg, found.kwarg]
        for node in extra:
            if node is not None:
                refuse(node, "only plain inputs are allowed.", "Write def NAME(a, b): with the names of the inputs.")
        for arg in found.args:
            if arg.annotation is not None:
                refuse(arg, f"the input {arg.arg!r} has a type.", "Types are declared with the inputs: leave it out.")
            if arg.arg not in self._inputs:
                refuse(arg, f"{arg.arg!r} is no declared input.", suggest(arg.arg, self._inputs))
        names = [arg.arg for arg in found.args]
        for name in self._inputs:
            if name not in names:
                refuse(function, f"the input {name!r} is not taken.", "Name each input once, or leave it out of both.")

    def _assign(self, node: ast.stmt) -> None:
        if not isinstance(node, ast.Assign):
            if isinstance(node, ast.Return):
                refuse(node, "nothing may follow a return.", "Return once, at the end.")
            what, hint = _INSTEAD.get(type(node), (f"{type(node).__name__}", "Assign to local names, and return."))
            refuse(node, f"{what} is not allowed.", hint)
        if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            refuse(node.targets[0], "only a plain name can be assigned to.", "Write NAME = EXPRESSION.")
        self._names[node.targets[0].id] = self._slot(node.value)

    def _returned(self, node: ast.expr) -> dict[str, int]:
        if not isinstance(node, ast.Dict):
            if len(self._wanted) != 1:
                refuse(node, f"{len(self._wanted)} outputs are declared.", 'Return {"NAME": EXPRESSION, ...}.')
            (name,) = self._wanted
            return {name: self._output(name, node)}
        found: dict[str, int] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
                refuse(key or node, "the name of an output is no text.", 'Return {"NAME": EXPRESSION, ...}.')
            if key.value not in self._wanted or key.value in found:
                refuse(
                    key, f"{key.value!r} is no declared output, or is there twice.", suggest(key.value, self._wanted)
                )
            found[key.value] = self._output(key.value, value)
        for name in self._wanted:
            if name not in found:
                refuse(node, f"the output {name!r} is not returned.", "Return each declared output.")
        return {name: found[name] for name in self._wanted}

    def _output(self, name: str, node: ast.expr) -> int:
        slot, wanted = self._slot(node), self._wanted[name]
        found = self._types[slot]
        if found == wanted:
            return slot
        if found == "NULL":
            return self._null_of(wanted)
        if (found, wanted) == ("INT64", "FP64"):
            return self._apply(node, "float", self._ops.FUNCTIONS["float"], [slot])
        refuse(node, f"the output {name!r} is {found}, and {wanted} is declared.", "Convert it, or declare its type.")

    # -- expressions --------------------------------------------------------------------------------------------------

    def _slot(self, node: ast.expr) -> int:
        """The slot that holds an expression's value."""
        match node:
            case ast.Constant():
                return self._constant(node)
            case ast.Name():
                if node.id not in self._names:
                    refuse(node, f"{node.id!r} is no input and no local name.", suggest(node.id, self._names))
                return self._names[node.id]
            case ast.BinOp() if type(node.op) in _BINARY:
                return self._operator(node, _BINARY[type(node.op)], [self._slot(node.left), self._slot(node.right)])
            case ast.UnaryOp():
                return self._unary(node)
            case ast.BoolOp():
                return self._folded(node, _BINARY[type(node.op)], [self._slot(value) for value in node.values])
            case ast.Compare():
                return self._compare(node)
            case ast.IfExp():
                slots = self._alike(node, [self._slot(node.body), self._slot(node.orelse)])
                return self._operator(node, "if", [self._slot(node.test), *slots])
            case ast.Call():
                return self._call(node)
        return self._other(node)

    @staticmethod
    def _other(node: ast.expr) -> int:
        what, hint = _INSTEAD.get(type(node), (type(node).__name__, "Use arithmetic, comparisons and the table."))
        if isinstance(node, ast.BinOp):
            what, hint = f"the operator {type(node.op).__name__}", "Use + - * / // % **."
        refuse(node, f"{what} is not allowed.", hint)

    def _constant(self, node: ast.Constant) -> int:
        value = node.value
        kind: Type
        match value:
            case None:
                kind = "NULL"
            case bool():
                kind = "BOOL"
            case int():
                if value >= 2**63:
                    refuse(node, "the number does not fit into 64 bits.", "Write it as a float: 1e30.")
                kind = "INT64"
            case float():
                kind = "FP64"
            case str():
                kind = "STRING"
                if not value.isascii() and value != value.encode(errors="replace").decode():
                    refuse(node, "the text is no Unicode.", "Write whole characters.")
            case _:
                refuse(node, f"a {type(value).__name__} is not allowed.", "Use numbers, texts, True, False and None.")
        # 0.0 and -0.0, 1 and True are equal, and not the same
        return self._make((kind, repr(value)), (kind, value), kind)

    def _unary(self, node: ast.UnaryOp) -> int:
        if isinstance(node.op, ast.UAdd):
            return self._slot(node.operand)
        if isinstance(node.op, ast.Not):
            return self._operator(node, "not", [self._slot(node.operand)])
        if not isinstance(node.op, ast.USub):
            refuse(node, "~ is not allowed.", "Write not.")
        inner = node.operand
        if isinstance(inner, ast.Constant) and type(inner.value) in (int, float):
            value = -inner.value  # type: ignore[operator]
            if isinstance(value, int) and value < -(2**63):
                refuse(node, "the number does not fit into 64 bits.", "Write it as a float: -1e30.")
            kind: Type = "INT64" if isinstance(value, int) else "FP64"
            return self._make((kind, repr(value)), (kind, value), kind)
        return self._operator(node, "negative", [self._slot(inner)])

    def _compare(self, node: ast.Compare) -> int:
        """A chain is all of its comparisons: a < b < c."""
        found, left = [], node.left
        for sign, right in zip(node.ops, node.comparators, strict=True):
            found.append(self._comparison(node, left, sign, right))
            left = right
        return self._folded(node, "and", found)

    def _comparison(self, node: ast.Compare, left: ast.expr, sign: ast.cmpop, right: ast.expr) -> int:
        if isinstance(right, ast.Constant) and right.value is None:
            if not isinstance(sign, ast.Is | ast.IsNot):
                refuse(node, "a comparison with None is always null.", "Write x is None.")
            name = "is_null" if isinstance(sign, ast.Is) else "not_null"
            return self._apply(node, name, self._ops.FUNCTIONS[name], [self._slot(left)])
        if isinstance(sign, ast.In | ast.NotIn):
            return self._membership(node, left, sign, right)
        if type(sign) not in _BINARY:
            what, hint = _INSTEAD[ast.Is]
            refuse(node, f"{what} is not allowed.", hint)
        return self._operator(node, _BINARY[type(sign)], [self._slot(left), self._slot(right)])

    def _membership(self, node: ast.Compare, left: ast.expr, sign: ast.cmpop, right: ast.expr) -> int:
        if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not right.elts:
            refuse(right, "`in` takes a list of values.", 'Write x in ("a", "b"), or contains(text, part).')
        value = self._slot(left)
        found = [self._operator(node, "==", [value, self._slot(one)]) for one in right.elts]
        slot = self._folded(node, "or", found)
        return slot if isinstance(sign, ast.In) else self._operator(node, "not", [slot])

    def _call(self, node: ast.Call) -> int:
        if not isinstance(node.func, ast.Name):
            what, hint = _INSTEAD.get(type(node.func), ("such a call", "Call a function of the table."))
            refuse(node.func, f"{what} is not allowed.", hint)
        name = node.func.id
        if name not in self._ops.FUNCTIONS:
            refuse(node.func, f"{name!r} is no function of the table.", suggest(name, self._ops.FUNCTIONS))
        for argument in node.keywords:
            refuse(argument, "an argument has a name.", "Give arguments by place.")
        slots = [self._slot(argument) for argument in node.args]
        if name in self._ops.ANY_NUMBER and len(slots) > 1:
            slots = self._alike(node, slots)
            found = slots[0]
            for slot in slots[1:]:
                found = self._apply(node, name, self._ops.FUNCTIONS[name], [found, slot])
            return found
        return self._apply(node, name, self._ops.FUNCTIONS[name], slots)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _operator(self, node: ast.AST, name: str, slots: Sequence[int]) -> int:
        return self._apply(node, name, self._ops.OPERATORS[name], slots)

    def _folded(self, node: ast.AST, name: str, slots: Sequence[int]) -> int:
        found = slots[0]
        for slot in slots[1:]:
            found = self._operator(node, name, [found, slot])
        return found

    def _alike(self, node: ast.AST, slots: Sequence[int]) -> list[int]:
        """Values of one type: whole numbers become floats where one is."""
        kinds = {self._types[slot] for slot in slots} - {"NULL"}
        if kinds != {"INT64", "FP64"}:
            return list(slots)
        turn = self._ops.FUNCTIONS["float"]
        return [self._apply(node, "float", turn, [s]) if self._types[s] == "INT64" else s for s in slots]

    def _apply(self, node: ast.AST, name: str, choices: Sequence[Operation], slots: Sequence[int]) -> int:
        kinds = [self._types[slot] for slot in slots]
        number = _choice(kinds, choices)
        if number is not None:
            operation = choices[number]
            turned = [self._turned(node, slot, wanted) for slot, wanted in zip(slots, operation.takes, strict=True)]
            return self._make((name, number, *turned), Step(name, operation, tuple(turned)), operation.gives)
        takes = " or ".join(dict.fromkeys(f"({', '.join(operation.takes)})" for operation in choices))
        given = ", ".join(kinds)
        refuse(node, f"{name} does not take ({given}).", f"It takes {takes}; int(x), float(x) and str(x) convert.")

    def _turned(self, node: ast.AST, slot: int, wanted: DType) -> int:
        kind = self._types[slot]
        if kind == "INT64" and wanted == "FP64":
            return self._apply(node, "float", self._ops.FUNCTIONS["float"], [slot])
        if kind == "NULL":
            return self._null_of(wanted)
        return slot

    def _null_of(self, wanted: DType) -> int:
        """A null in a type's own form: a text is an object, and a where() of both has to know."""
        bare = BARE[wanted]
        kind: Type = "INT64" if wanted == "TIMESTAMP" else wanted
        value = self._make((kind, repr(bare)), (kind, bare), kind)
        operation = next(one for one in self._ops.FUNCTIONS["null_if"] if one.takes[0] == kind)
        return self._make(("null", wanted), Step("null_if", operation._replace(gives=wanted), (value, value)), wanted)

    def _make(self, key: Any, made: Step | tuple[Type, Any], kind: Type) -> int:
        """A slot for what is made; the same thing is made once."""
        if key not in self._known:
            self._known[key] = len(self._types)
            self._types.append(kind)
            self._made.append(made)
        return self._known[key]

    def _program(self, outputs: Mapping[str, int]) -> Program:
        """What the outputs need, constants first, in an order that the text's layout has no part in."""
        first = len(self._inputs)
        order: dict[int, None] = {}
        for slot in outputs.values():
            self._visit(slot, first, order)
        constants = [s for s in order if not isinstance(self._made[s - first], Step)]
        steps = [s for s in order if isinstance(self._made[s - first], Step)]
        places = {slot: place for place, slot in enumerate([*range(first), *constants, *steps])}
        return Program(
            list(self._inputs.values()),
            [self._made[slot - first] for slot in constants],  # type: ignore[misc]
            [_moved(self._made[slot - first], places) for slot in steps],
            {name: (places[slot], self._wanted[name]) for name, slot in outputs.items()},
        )

    def _visit(self, slot: int, first: int, order: dict[int, None]) -> None:
        """Depth first without recursion: assignments can make a chain as long as the text."""
        waiting = [slot]
        while waiting:
            top = waiting[-1]
            made = self._made[top - first] if top >= first else None
            needed = [s for s in made.slots if s >= first and s not in order] if isinstance(made, Step) else []
            if needed and top not in order:
                waiting.extend(reversed(needed))
                continue
            waiting.pop()
            if top >= first:
                order.setdefault(top)


def _moved(made: Any, places: Mapping[int, int]) -> Step:
    step: Step = made
    return step._replace(slots=tuple(places[slot] for slot in step.slots))


def _choice(kinds: Sequence[Type], choices: Sequence[Operation]) -> int | None:
    """The first of the choices that takes these types as they are, else the first that they can be turned into."""
    for fits in (_is_taken, _can_be_turned):
        for number, operation in enumerate(choices):
            if len(operation.takes) == len(kinds) and all(map(fits, kinds, operation.takes)):
                return number
    return None


def _is_taken(kind: Type, wanted: DType) -> bool:
    return kind in (wanted, "NULL")


def _can_be_turned(kind: Type, wanted: DType) -> bool:
    return kind in (wanted, "NULL") or (kind == "INT64" and wanted == "FP64")
