"""Conditions in the advice files: `has_nvidia and usable_memory_bytes < 8 * GiB`. Names, numbers, comparisons."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "true": True, "false": False}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class BadExpression(ValueError):
    """An expression in an advice file that is not one."""


@dataclass(frozen=True)
class Expression:
    """A condition or a number over named facts."""

    text: str

    @property
    def names(self) -> frozenset[str]:
        """The facts that it asks for."""
        nodes = ast.walk(_parse(self.text))
        return frozenset(node.id for node in nodes if isinstance(node, ast.Name)) - set(_UNITS)

    def evaluate(self, fact: Callable[[str], Any]) -> Any:
        """Its value; `fact` gives the value of a name. BadExpression for anything that the language does not have."""
        return _value(_parse(self.text), fact)


def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise BadExpression(f"{text!r} is no expression: {error.msg}") from error


def _value(node: ast.expr, fact: Callable[[str], Any]) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str)):
        return node.value
    if isinstance(node, ast.Name):
        return _UNITS[node.id] if node.id in _UNITS else fact(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return not _value(node.operand, fact)
    if isinstance(node, ast.BoolOp):
        decisive = isinstance(node.op, ast.Or)
        return next((decisive for part in node.values if bool(_value(part, fact)) is decisive), not decisive)
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](_value(node.left, fact), _value(node.right, fact))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
        return _COMPARISONS[type(node.ops[0])](_value(node.left, fact), _value(node.comparators[0], fact))
    raise BadExpression(f"{ast.unparse(node)!r} is more than an advice file may say")
