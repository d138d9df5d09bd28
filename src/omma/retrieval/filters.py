"""What `where` can ask of an index: its columns, where they stand in SQLite, and a condition as SQL.

    as_sql("kind == 'picture' and width >= 64", {}) == ("(kind = ? AND width >= ?)", ["picture", 64])

`omma.where` reads a condition first and says what is wrong with it. What SQLite might decide otherwise than that one's
arrow expressions (a list of floats, say), or no faster, is not translated, and is then decided there, row by row.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

COLUMNS = {"source": "file.source", "path": "file.source || '/' || file.path", "folder": "file.path",
           "name": "file.path", "kind": "kind", "date": "date", "size": "file.size", "page": "page", "line": "line",
           "start": "start", "end": '"end"', "width": "width", "height": "height", "caption": "caption",
           "text": "text"}  # fmt: skip
TYPES = pa.schema([(name, pa.int64() if name in ("size", "page", "line", "width", "height") else
                    pa.float64() if name in ("start", "end") else pa.string()) for name in COLUMNS])  # fmt: skip
COMPARE = {ast.Eq: "=", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
MOST = 300             # parts of a condition: SQLite nests no deeper than 1000
Sql = tuple[str, list[Any]]


class Apart(Exception):
    """SQLite may decide this otherwise, or takes as long."""


def as_sql(where: str, names: Mapping[str, str]) -> Sql | None:
    """A condition that `omma.where.parse` has read -> SQL over item JOIN file and its values, None where that could
    keep other rows. names: source -> what it is called in `source` and at the beginning of `path`."""
    tree = ast.parse(where.strip(), mode="eval").body
    if sum(isinstance(node, ast.expr) for node in ast.walk(tree)) > MOST or len(names) > MOST:
        return None
    try:
        return condition(tree, names)
    except Apart:
        return None


def condition(node: ast.AST, names: Mapping[str, str]) -> Sql:
    if isinstance(node, ast.BoolOp):
        return joined(" AND " if isinstance(node.op, ast.And) else " OR ", [condition(v, names) for v in node.values])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        sql, values = condition(node.operand, names)
        return f"(NOT {sql})", values
    if isinstance(node, ast.Compare):
        operands = [node.left, *node.comparators]
        links = [compared(left, op, right, names)
                 for left, op, right in zip(operands[:-1], node.ops, operands[1:], strict=True)]  # fmt: skip
        return joined(" AND ", links)
    raise Apart


def joined(word: str, parts: list[Sql]) -> Sql:
    return f"({word.join(sql for sql, _ in parts)})", [value for _, values in parts for value in values]


def compared(left: ast.AST, op: ast.cmpop, right: ast.AST, names: Mapping[str, str]) -> Sql:
    if isinstance(op, ast.Is | ast.IsNot):
        sql, values, _ = operand(left, names)
        return f"({sql} IS {'NOT ' * isinstance(op, ast.IsNot)}NULL)", values
    if isinstance(op, ast.In | ast.NotIn):
        if not isinstance(right, ast.Tuple | ast.List):
            raise Apart
        sql, values, type_ = operand(left, names)
        several = [operand(one, names) for one in right.elts]
        if not several or type_ is float or any(kind is not type_ for _, _, kind in several):
            raise Apart                                   # 0.0 and -0.0 are two values of a list and one number
        said = [value for _, more, _ in several for value in more]
        if part := named(left):
            inside, values = joined(" OR ", [cut(part, value) for value in said])
            return (f"(NOT {inside})" if isinstance(op, ast.NotIn) else inside), values
        return f"({sql} {'NOT ' * isinstance(op, ast.NotIn)}IN ({', '.join('?' * len(said))}))", values + said
    (a, first, kind), (b, second, other) = operand(left, names), operand(right, names)
    values = [*first, *second]
    if part := named(left) or named(right):
        if not isinstance(op, ast.Eq | ast.NotEq) or "?" not in (a, b) or kind is not other:
            raise Apart                                   # SQLite has no quick way to cut a path
        same, values = cut(part, values[0])
        return (f"(NOT {same})" if isinstance(op, ast.NotEq) else same), values
    if kind is not other and str in (kind, other):
        raise Apart
    return f"({a} {COMPARE[type(op)]} {b})", values


def named(node: ast.AST) -> str:
    """"folder" or "name", the columns that are a part of a path; "" for any other operand."""
    name = called_column(node)
    return name if name in ("folder", "name") else ""


def cut(part: str, value: str) -> Sql:
    """That a file's folder, or its name, is this one."""
    if part == "name":                                    # what has a "/" is no name, and ends no path behind a "/"
        return "(instr(?, '/') = 0 AND (file.path = ? OR substr(file.path, ?) = ?))", [
            value, value, -len(value) - 1, f"/{value}"]  # fmt: skip
    start = f"{value}/" if value else ""
    return "(substr(file.path, 1, ?) = ? AND instr(substr(file.path, ?), '/') = 0)", [len(start), start, len(start) + 1]


def operand(node: ast.AST, names: Mapping[str, str]) -> tuple[str, list[Any], type]:
    """SQL, its values and their type: a literal is "?"."""
    sign = 1
    while isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node, sign = node.operand, -sign
    literal: Any = getattr(node, "value", None)
    if isinstance(node, ast.Constant) and type(literal) in (int, float, str):
        value = literal if isinstance(literal, str) else sign * literal
        if isinstance(value, float) and not math.isfinite(value):
            raise Apart
        return "?", [value], type(value)
    name = called_column(node)
    if name not in COLUMNS:
        raise Apart
    sql, values = column(name, names)
    type_ = TYPES.field(name).type
    return sql, values, str if type_ == pa.string() else int if type_ == pa.int64() else float


def called_column(node: ast.AST) -> Any:
    """The name of a column that is written as one, or by col("its name")."""
    if isinstance(node, ast.Call) and len(node.args) == 1 and isinstance(node.args[0], ast.Constant):
        return node.args[0].value
    return getattr(node, "id", None)


def column(name: str, names: Mapping[str, str]) -> Sql:
    """A column as `seen_as` sees it; of folder and name, which are compared by `cut`, only whether they are there."""
    if name == "source" and names:
        return f"CASE file.source {'WHEN ? THEN ? ' * len(names)}ELSE file.source END", [
            value for pair in names.items() for value in pair]  # fmt: skip
    if name == "path" and names:
        values: list[Any] = []
        for source in sorted(names, key=len, reverse=True):
            start = source.rstrip("/") + "/"
            values += [len(start), start, f"{names[source]}/", len(start) + 1]
        path = COLUMNS["path"]
        case = f"WHEN substr({path}, 1, ?) = ? THEN ? || substr({path}, ?) "
        return f"CASE {case * len(names)}ELSE {path} END", values
    return COLUMNS[name], []


def seen_as(name: str, value: Any, names: Mapping[str, str]) -> Any:
    """A file's path as the folder it lies in, or as its name alone; a source by what it is called."""
    if name == "folder":
        return value.rpartition("/")[0]
    if name == "source":
        return names.get(value, value)
    if name == "path" and names:
        return called(value, names)
    return value.rpartition("/")[2] if name == "name" else value


def called(path: str, names: Mapping[str, str]) -> str:
    """A path with the name of the innermost source that it lies in, instead of where that lies."""
    inside = [source for source in names if path.startswith(source.rstrip("/") + "/")]
    source = max(inside, key=len, default=None)
    return path if source is None else f"{names[source]}/{path[len(source.rstrip('/')) + 1 :]}"
