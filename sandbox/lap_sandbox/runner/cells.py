"""Compiles and runs one cell in the worker's namespace: the value of its last expression,
top-level `await`, and what stopped it.  Sends nothing anywhere."""

from __future__ import annotations

import ast
import asyncio
import ctypes
import inspect
import io
import sys
import tokenize
from dataclasses import dataclass
from types import CodeType
from typing import Any

from lap_sandbox.runner import trace, wheels

_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception of the user's code, described."""

    name: str
    value: str
    traceback: str


_libc = ctypes.CDLL(None)

NO_VALUE = object()
"""A cell that ends in no expression, in `None`, or in a semicolon."""


def _silenced(code: str) -> bool:
    """The cell ends in a semicolon, which by custom means: do not show the value."""
    if not code.rstrip().endswith(";") and "#" not in code.rsplit("\n", 1)[-1]:
        return False
    last = ""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type not in skipped:
                last = token.string
    except (tokenize.TokenError, SyntaxError):
        return False
    return last == ";"


def _translated(code: str, name: str) -> str:
    """What is no Python is read with its `%pip` lines made calls, where those can work."""
    try:
        compile(code, name, "exec", _FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
    except SyntaxError:
        if wheels.is_there():
            return wheels.translate(code)
    return code


def _compile(code: str, name: str) -> tuple[CodeType | None, CodeType | None]:
    """The statements, and the last one where it is an expression."""
    tree = compile(code, name, "exec", _FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
    last: CodeType | None = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        expression = ast.Expression(tree.body.pop().value)
        last = compile(expression, name, "eval", _FLAGS, dont_inherit=True)
    body = compile(tree, name, "exec", _FLAGS, dont_inherit=True) if tree.body else None
    return body, last


class Cells:
    """Runs cells one after the other in `namespace`, on one event loop."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self.count = 0
        self._runner: asyncio.Runner | None = None

    def run(self, code: str) -> Any:
        """The value of the last expression, or `NO_VALUE`.  Raises what the cell raises."""
        self.count += 1
        name = f"Cell {self.count}"
        trace.remember(name, code)
        if "pip" in code:
            code = _translated(code, name)
        body, last = _compile(code, name)
        if body is not None:
            self._evaluate(body)
        if last is None:
            return NO_VALUE
        value = self._evaluate(last)
        if value is None:
            return NO_VALUE
        self.namespace["_"] = value
        return NO_VALUE if _silenced(code) else value

    def _evaluate(self, code: CodeType) -> Any:
        value = eval(code, self.namespace)
        if not code.co_flags & inspect.CO_COROUTINE:
            return value
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(value)


def raised_by(error: BaseException) -> Raised | None:
    """`error` described; `None` for an exit that reports success."""
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return None
    name, value, text = trace.describe(error, error.__traceback__)
    return Raised(name, value, text)


def flush_streams() -> None:
    """Python's buffers and those of C libraries."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except BaseException:  # closed, replaced or deleted by the user's code
            continue
    _libc.fflush(None)
