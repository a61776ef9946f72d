"""Small faults that can be planted in a source: their kinds and positions, and which are known to change nothing."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any

OTHER: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
DROPPED = ("detach", "clone", "compact", "flip", "abs")
"""Methods whose calls a mutant drops; `no_grad` becomes `enable_grad`."""
IGNORED = ("strict", "maxsize", "frozen")
"""Arguments without effect in correct code."""


@dataclass(frozen=True)
class Mutant:
    """Replaces bytes `begin` to `end` of `file` by `text`; tests that reach one of `lines` may detect it."""

    file: str
    line: int
    kind: str
    begin: int
    end: int
    text: str
    lines: tuple[int, int] | None

    def source(self, original: str) -> str:
        raw = original.encode()
        return (raw[: self.begin] + self.text.encode() + raw[self.end :]).decode()

    def diff(self, original: str) -> str:
        old, new = original.splitlines(), self.source(original).splitlines()
        return "\n".join(difflib.unified_diff(old, new, self.file, f"{self.kind}, line {self.line}", "", "", 2, ""))


def with_operator(node: ast.AST, field: str, value: Any) -> str:
    changed = copy(node)
    setattr(changed, field, value)
    return f"({ast.unparse(changed)})"


def faults(node: ast.AST) -> Iterator[tuple[str, Any, str]]:
    """(kind, node that is replaced, its replacement) of every fault that can be planted at a node."""
    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                yield "comparison", node, with_operator(node, "ops", [*ops[:i], OTHER[type(op)](), *ops[i + 1 :]])
        case ast.BinOp(op=op) if type(op) in OTHER:
            yield "arithmetic", node, with_operator(node, "op", OTHER[type(op)]())
        case ast.AugAssign(op=op) if type(op) in OTHER:
            yield "arithmetic", node, with_operator(node, "op", OTHER[type(op)]())[1:-1]
            yield "statement", node, "pass"
        case ast.BoolOp(op=op):
            yield "boolean", node, with_operator(node, "op", OTHER[type(op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield "boolean" if isinstance(node.op, ast.Not) else "arithmetic", node, f"({ast.unparse(operand)})"
        case ast.Constant(value=bool() as value):
            yield "constant", node, str(not value)
        case ast.Constant(value=int() as value):
            yield "constant", node, str(value + 1)
        case ast.Constant(value=float() as value):
            yield "constant", node, str(2 * value or 1.0)
        case ast.Slice(lower=lower, upper=upper):
            for bound in (lower, upper):
                if bound is not None and not any(isinstance(n, ast.Constant) for n in (bound, *ast.walk(bound))):
                    yield "slice", bound, f"({ast.unparse(bound)} + 1)"
        case ast.Call(func=ast.Attribute(value=value, attr=attr), args=[], keywords=[]) if attr in DROPPED:
            yield "dropped call", node, f"({ast.unparse(value)})"
        case ast.Attribute(attr="no_grad"):
            yield "gradient", node, f"{ast.unparse(node.value)}.enable_grad"
        case ast.Call(args=[first, second, *rest]) if not any(isinstance(a, ast.Starred) for a in (first, second)):
            if not isinstance(node.func, ast.Name) or node.func.id not in ("isinstance", "min", "max", "zip"):
                yield "swapped arguments", node, with_operator(node, "args", [second, first, *rest])
        case ast.Expr(value=ast.Call()) | ast.Raise():
            yield "statement", node, "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "statement", node, "pass"
    if isinstance(node, (ast.If, ast.IfExp)) and not isinstance(node.test, ast.Compare):
        yield "condition", node.test, f"(not ({ast.unparse(node.test)}))"


def planted(file: str, source: str) -> list[Mutant]:
    """All mutants of a file, in source order; messages, annotations and assertions are left out."""
    starts, found = [0], list[Mutant]()
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def visit(node: Any, function: bool, lines: tuple[int, int] | None) -> None:
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):  # a fault in its signature shows in its body
            function, lines = True, (node.lineno, node.end_lineno or node.lineno)
        elif isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            lines = (node.lineno, max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno)
        for kind, at, text in faults(node):
            begin, end = (
                starts[n - 1] + c for n, c in ((at.lineno, at.col_offset), (at.end_lineno, at.end_col_offset))
            )  # type: ignore[attr-defined]
            found.append(Mutant(file, at.lineno, kind, begin, end, text, lines if function else None))  # type: ignore[attr-defined]
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert)) or getattr(node, "arg", None) in IGNORED:
            return
        for name, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and name not in ("annotation", "returns"):
                    visit(child, function, lines)

    visit(ast.parse(source), False, None)
    return sorted(found, key=lambda m: (m.begin, m.end, m.text))


def explained(text: str) -> dict[tuple[str, str, str], str]:
    """Reasons by (file, original line, mutated line): one paragraph each; # begins a comment."""
    parts = [[row for row in part.splitlines() if row[:1] != "#"] for part in text.strip().split("\n\n")]
    return {(part[0], part[1][2:], part[2][2:]): " ".join(part[3:]) for part in parts if part}


def changed_lines(mutant: Mutant, original: str) -> tuple[str, str, str]:
    """The key of a mutant in `explained`, which is independent of line numbers."""
    rows = mutant.diff(original).splitlines()[2:]
    old, new = (" ".join(row[1:].strip() for row in rows if row[0] == sign) for sign in "-+")
    return mutant.file, old, new
