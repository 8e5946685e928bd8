"""Which error codes our sources can raise, read from the sources themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1]
SOURCES = [*(PROJECT / "include" / "keyserver").rglob("*.py"), *(PROJECT / "api").rglob("*.py")]


def first_arguments(tree: ast.Module, function: str) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function:
            yield node.args[0]


def constants(tree: ast.Module) -> dict[str, str]:
    """The module's names for a text."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def raised_codes(*errors: str) -> set[str]:
    """The codes of all errors of these classes that our sources make; one that is not plainly there fails."""
    found = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = constants(tree)
        for given in [argument for error in errors for argument in first_arguments(tree, error)]:
            if isinstance(given, ast.Constant):
                found.add(given.value)
            elif isinstance(given, ast.Name) and given.id in names:
                found.add(names[given.id])
            else:  # the argument of a function of this module, which is called with the code
                assert isinstance(given, ast.Name), path
                (function,) = [
                    node
                    for node in tree.body
                    if isinstance(node, ast.FunctionDef) and given.id in [each.arg for each in node.args.args]
                ]
                place = [each.arg for each in function.args.args].index(given.id)
                calls = [
                    node
                    for node in ast.walk(tree)
                    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function.name
                ]
                assert calls, path
                found |= {call.args[place].value for call in calls}
    return found
