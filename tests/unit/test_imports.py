"""No module imports itself by way of others, be it under `TYPE_CHECKING` or inside a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """The modules of all packages below `root`, by their dotted names."""
    files = (path for package in sorted(root.glob("*/__init__.py")) for path in package.parent.rglob("*.py"))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imported(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules among `known` that a statement anywhere in the module imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            wanted = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        for each in wanted:
            found = each if each in known else each.rpartition(".")[0]  # a name of a module, not a module
            if found in known and found != name:
                yield found


def circle(root: Path = ROOT) -> str:
    """One circle of imports as `a → b → a`; empty where there is none."""
    known = modules(root)
    graph = {name: set(imported(name, path, known)) for name, path in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " → ".join(reversed(error.args[1]))
    return ""


def test_all_packages_are_walked() -> None:
    assert {name for name in modules() if "." not in name} == {"agent", "instrument", "sim_instrument"}


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circle() == ""


@pytest.mark.parametrize(
    ("back", "found"),
    [
        ("import room.one", True),
        ("from room import one", True),
        ("from . import one", True),
        ("from .one import f", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from room.one import f", True),
        ("def g():\n    from room.one import f", True),
        ("import one", False),
        ("from other import one", False),
    ],
)
def test_a_circle_of_any_kind_is_found(tmp_path: Path, back: str, found: bool) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "__init__.py").touch()
    (tmp_path / "room" / "one.py").write_text("from room import two\n\ndef f(): ...\n")
    (tmp_path / "room" / "two.py").write_text(back)
    assert bool(circle(tmp_path)) is found
