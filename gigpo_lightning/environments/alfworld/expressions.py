"""The expressions in a game's grammar, computed without running them as a program.

A grammar says ``{o.indefinite + ' ' + o.name}``, and textworld hands what is in the braces to ``eval``: a game file
from elsewhere could run anything. ALFWorld's own grammars need names, their attributes, texts, ``+`` and ``or``.
"""

import ast
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

_KEPT = 4096


def value_of(expression: str, variables: Mapping[str, Any]) -> Any:
    """What an expression is worth, given its variables.

    Raises:
        ValueError: If there is more in it than names, attributes, texts, ``+`` and ``or``.

    Example:
        >>> value_of("name + '.'", {"name": "mug 1"})
        'mug 1.'
    """
    return _value(_parsed(expression), expression, variables)


@lru_cache(_KEPT)
def _parsed(expression: str) -> ast.expr:
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"a grammar's expression must be names, texts, + and or, got {expression!r}") from error


def _value(node: ast.expr, expression: str, variables: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name) if name in variables:
            return variables[name]
        case ast.Attribute(value=owner, attr=name) if not name.startswith("_"):
            return getattr(_value(owner, expression, variables), name)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left, expression, variables) + _value(right, expression, variables)
        case ast.BoolOp(op=ast.Or(), values=values):
            for each in values[:-1]:
                if value := _value(each, expression, variables):
                    return value
            return _value(values[-1], expression, variables)
    raise ValueError(
        f"a grammar's expression must be names, their attributes, texts, + and or, got {expression!r}, where the names "
        f"are {sorted(variables)}"
    )
