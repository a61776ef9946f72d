"""Evaluates formulas in a fixture's text on tensors: arithmetic and a few functions, nothing else."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from adastate.parity.fixture import FixtureError

BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    name: getattr(torch, name) for name in ("tanh", "sin", "cos", "exp", "abs", "sqrt", "sigmoid", "clamp", "flip")
}


def formula_value(key: str, text: str, values: Mapping[str, Tensor | float]) -> Tensor:
    """The value of the formula `text`, from the key `key` of meta.json, with the named `values`."""

    def value(node: ast.AST) -> Any:
        match node:
            case ast.Expression(body=body):
                return value(body)
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.Name(id=name) if name in values:
                return values[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
                return BINARY[type(op)](value(left), value(right))
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(value=ast.Name(id="torch"), attr=name), args=args) if (
                name in FUNCTIONS and not node.keywords
            ):
                return FUNCTIONS[name](*map(value, args))
        raise FixtureError(f"cannot evaluate {ast.unparse(node)!r} in the formula of the key {key!r}")

    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise FixtureError(f"the key {key!r} is not a formula: {text!r}") from error
    return torch.as_tensor(value(tree))
