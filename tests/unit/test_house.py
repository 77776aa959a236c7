"""The rules of the house: a module fits in the head, a function on a screen, and arrays are described by shape and unit."""

from __future__ import annotations

import ast
import gc
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("agent", "instrument", "sim_instrument")
KERNELS = ROOT / "agent" / "reconstruction" / "kernels"
FILES = sorted(path for room in (*PACKAGES, "tests") for path in (ROOT / room).rglob("*.py"))
PUBLIC = [path for path in FILES if path.relative_to(ROOT).parts[0] in ("agent", "instrument")]

LINES_OF_A_MODULE = 400
LINES_OF_A_FUNCTION = 60
SHAPE = re.compile(r"\(\w+(, [\w·/… 0-9]+)+,?\)|\(n,\)|\(b,\)|\(…, ")
"""The shape of an array as docstrings write it, such as (n, ky, kx)."""
LINES_OF_A_HEADING = 12

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    parsed = ast.parse(path.read_text(encoding="utf-8"))
    gc.freeze()  # kept, and more than half of the time goes into looking through it again and again
    return parsed


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements below a node; `ast.walk` would visit every name and number as well."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for each in getattr(node, field, ()):
            yield each
            yield from statements(each)


def public_functions(path: Path) -> Iterator[tuple[str, Function]]:
    """Functions of the module and methods of its classes whose names, and their class's, do not begin with `_`."""
    for node in tree(path).body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for each in node.body:
                if isinstance(each, Function) and not each.name.startswith("_"):
                    yield f"{node.name}.{each.name}", each


def array_parameters(function: Function) -> list[str]:
    """The parameters whose annotation holds an array type."""
    arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return [each.arg for each in arguments if each.annotation and "NDArray" in ast.unparse(each.annotation)]


def promised() -> set[str]:
    """Names of the methods whose arrays a Protocol describes; who implements them need not say it again."""
    return {
        each.name
        for path in PUBLIC
        for node in tree(path).body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("Protocol") for base in node.bases)
        for each in node.body
        if isinstance(each, Function) and "Args:" in (ast.get_docstring(each) or "")
    }


def test_a_module_fits_in_the_head() -> None:
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {path: number for path, number in lines.items() if number > LINES_OF_A_MODULE}


def test_a_function_fits_on_a_screen() -> None:
    lines = {
        f"{name(path)}: {node.name}": node.end_lineno - node.lineno + 1
        for path in FILES
        if not path.is_relative_to(KERNELS)
        for node in statements(tree(path))
        if isinstance(node, Function) and node.end_lineno is not None
    }
    assert not {function: number for function, number in lines.items() if number > LINES_OF_A_FUNCTION}


def test_a_module_says_in_a_few_lines_what_it_is_for() -> None:
    headings = {name(path): ast.get_docstring(tree(path)) for path in FILES if tree(path).body}
    assert not [path for path, heading in headings.items() if not heading]
    lines = {path: len((heading or "").splitlines()) for path, heading in headings.items()}
    assert not {path: number for path, number in lines.items() if number > LINES_OF_A_HEADING}


def test_arrays_are_described() -> None:
    elsewhere = promised()
    silent = []
    for path in PUBLIC:
        for called, function in public_functions(path):
            told = ast.get_docstring(function) or ""
            if "\n" not in told and SHAPE.search(told):
                continue  # the one line says it all
            inherited = "." in called and function.name in elsewhere
            if (arrays := array_parameters(function)) and "Args:" not in told and not inherited:
                silent.append(f"{name(path)}: {called}({', '.join(arrays)})")
    assert not silent, "no Args: for\n" + "\n".join(silent)


def test_the_results_are_one_table_a_subject() -> None:
    lines = (ROOT / "tests" / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150, "what was tried, and older figures, belong into the README of their room"
