"""Predicates: a line such as "status == 'ok' and width >= 64" -> a pyarrow expression and the columns it reads.

Only comparisons, in / not in, is None / is not None, and / or / not, literals and columns are understood; nothing is
evaluated as Python. A column is its name (`width`), a dotted name (`clip.score`) or, for any other name,
`col("embed.vlmo-nano")`; a dotted name that is no column reaches into a struct (`knobs.size`). Nulls behave as in
SQL: a comparison with null is neither true nor false, so such a row is kept by neither `x == 1` nor `not x == 1`.
"""

from __future__ import annotations

import ast
import operator
import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

GRAMMAR = "column, literal, == != < <= > >=, in, not in, is None, is not None, and, or, not, col('any.name')"
if_else = getattr(pc, "if_else")  # noqa: B009  (pyarrow makes its functions at run time)
COMPARE = {ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
           ast.Gt: operator.gt, ast.GtE: operator.ge}


@dataclass(frozen=True)
class Predicate:
    """A row filter: the bound expression, the columns it reads and the text a person wrote."""

    expression: pc.Expression
    columns: tuple[str, ...]
    text: str

    def __and__(self, other: Predicate) -> Predicate:
        columns = tuple(dict.fromkeys(self.columns + other.columns))
        return Predicate(self.expression & other.expression, columns, f"({self.text}) and ({other.text})")


def no_column(name: object, columns: list[str], uri: Path | str, step: str | None = None) -> ValueError:
    """The error for a column that isn't there: the name, what there is, and how to get it (step, else a table's)."""
    if step is not None:
        pass
    elif isinstance(name, str) and name.startswith("embed."):
        step = f"Create it: omma embed {uri} --encoder {name.removeprefix('embed.')}"
    else:
        step = "Create it with table.add_column(name, values) or omma.jobs.run(table, op)"
    return ValueError(f"no column {name!r} in {uri}; it has {', '.join(columns)}. {step}")


def parse(where: str | pc.Expression, schema: pa.Schema, uri: Path | str = "the table", step: str | None = None
          ) -> Predicate:
    """where (text or pyarrow expression) -> Predicate, checked against the columns and types of schema.

    uri, step: for messages, where the columns are and what to do about one that isn't there.

    Raises ValueError for a column that isn't there, syntax outside the grammar above, or types that don't compare.
    """
    if isinstance(where, pc.Expression):
        _bind(where, schema, str(where), uri)
        # pyarrow does not list the fields of an expression: a column is needed when binding fails without it
        used = [name for name in schema.names if not _binds(where, pa.schema([f for f in schema if f.name != name]))]
        return Predicate(where, tuple(used or schema.names[:1]), str(where))     # a constant one still counts rows
    if not isinstance(where, str):
        raise ValueError(f"where is {where!r}; give a string such as \"status == 'ok'\", or a pyarrow expression")
    try:
        try:
            tree = ast.parse(where.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"cannot read where={where!r}: {error}. It may use {GRAMMAR}") from None
        parser = _Parser(where, schema, uri, step)
        expression = parser.condition(tree)
    except (RecursionError, MemoryError):                 # what Python says of too many brackets and of too many "not"
        raise ValueError(f"cannot read where={where[:80]!r}...: it is nested too deeply; take fewer brackets") from None
    _bind(expression, schema, where, uri)
    return Predicate(expression, tuple(dict.fromkeys(parser.used)), where)


def _bind(expression: pc.Expression, schema: pa.Schema, text: str, uri: Path | str) -> None:
    try:
        schema.empty_table().filter(expression)
    except (pa.ArrowException, TypeError) as error:
        types = ", ".join(f"{field.name} {field.type}" for field in schema)
        apart = re.search(r"no kernel matching input types \((\w+), (\w+)\)", str(error))
        why = (f"{apart[1]} can't be compared with {apart[2]}; texts and dates stand in quotes, numbers don't" if apart
               else str(error))  # fmt: skip
        raise ValueError(f"where={text!r} does not fit {uri}: {why}. Its columns: {types}") from None


def _binds(expression: pc.Expression, schema: pa.Schema) -> bool:
    try:
        schema.empty_table().filter(expression)
    except (pa.ArrowException, TypeError):
        return False
    return True


class _Parser:
    """One pass over the syntax tree; `used` collects the columns met."""

    def __init__(self, text: str, schema: pa.Schema, uri: Path | str, step: str | None = None):
        self.text, self.schema, self.uri, self.step = text, schema, uri, step
        self.used: list[str] = []

    def condition(self, node: ast.AST) -> pc.Expression:
        if isinstance(node, ast.BoolOp):
            join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
            parts = [self.condition(value) for value in node.values]
            whole = parts[0]
            for part in parts[1:]:
                whole = join(whole, part)
            return whole
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.condition(node.operand)
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            links = [self.compare(left, op, right)
                     for left, op, right in zip(operands[:-1], node.ops, operands[1:], strict=True)]
            whole = links[0]
            for link in links[1:]:                       # 64 <= width < 128 means both
                whole = whole & link
            return whole
        return self.column(node)                          # a bare column: a boolean one

    def compare(self, left: ast.AST, op: ast.cmpop, right: ast.AST) -> pc.Expression:
        if isinstance(op, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self.error(right, "only None stands after is / is not")
            column = self.column(left)
            return column.is_valid() if isinstance(op, ast.IsNot) else column.is_null()
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List):
                raise self.error(right, "after in / not in stands a list of literals, such as ('train', 'val')")
            column = self.column(left)
            # is_in calls a null "not in"; here it stays null, as every other comparison with null does
            literals = [self.literal(element) for element in right.elts]
            try:
                values = pa.array(literals)
            except pa.ArrowException:
                raise self.error(right, "the list holds values of different types") from None
            inside = if_else(column.is_valid(), column.isin(values), pa.scalar(None, pa.bool_()))
            return ~inside if isinstance(op, ast.NotIn) else inside
        if isinstance(left, ast.Constant | ast.UnaryOp) and isinstance(right, ast.Constant | ast.UnaryOp):
            raise self.error(left, "a comparison needs a column on one side")
        return COMPARE[type(op)](self.operand(left), self.operand(right))

    def operand(self, node: ast.AST) -> pc.Expression:
        if isinstance(node, ast.Constant | ast.UnaryOp):
            return pc.scalar(self.literal(node))
        return self.column(node)

    def literal(self, node: ast.AST) -> str | int | float | bool:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self.literal(node.operand)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return -value
        if isinstance(node, ast.Constant):
            if node.value is None:
                raise self.error(node, "compare with None by `is None` or `is not None`")
            if isinstance(node.value, int) and not -(2**63) <= node.value < 2**63:
                raise self.error(node, "no column holds a number of more than 64 bits")
            if isinstance(node.value, str | int | float):
                return node.value
        raise self.error(node, "a string, a number, True or False is expected")

    def column(self, node: ast.AST) -> pc.Expression:
        path: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            path.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            path.insert(0, inner.id)
        elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "col":
            arguments = inner.args
            if len(arguments) != 1 or not isinstance(arguments[0], ast.Constant) or inner.keywords:
                raise self.error(inner, "col takes one name, such as col('embed.vlmo-nano')")
            path.insert(0, str(arguments[0].value))
        else:
            raise self.error(node, "a column is expected")
        for cut in range(len(path), 0, -1):               # the longest name wins: clip.score before field score of clip
            name, fields = ".".join(path[:cut]), path[cut:]
            if name in self.schema.names:
                self.used.append(name)
                return pc.field(name, *fields) if fields else pc.field(name)
        raise no_column(".".join(path), self.schema.names, self.uri, self.step)

    def error(self, node: ast.AST, reason: str) -> ValueError:
        part = ast.get_source_segment(self.text.strip(), node) if isinstance(node, ast.expr) else None
        return ValueError(f"cannot read {part or self.text!r} in where={self.text!r}: {reason}. It may use {GRAMMAR}")
