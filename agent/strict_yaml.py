"""YAML that means what it says: a key stands once, a number is a decimal number, and every value knows its line."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import yaml

from agent.errors import BadInputError

Lines = dict[tuple[str | int, ...], int]
"""Place of a value, such as ("search", "step", 0) -> line of the file, counted from 1."""

MAX_CHARACTERS = 1 << 20
"""Of a file: a campaign has some two thousand."""
MAX_VALUES = 100_000
"""Of a file, with everything that an alias (*name) repeats; merged keys count as well."""

_CORE = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_CORE + kind for kind in ("map", "seq", "str", "null", "bool", "int", "float", "merge")}
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _Loader(yaml.SafeLoader):
    """Scalars of YAML 1.2: `yes`, `012`, `1:20` and dates are text, and 1e7 is a number."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - as in the base class


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_CORE + _kind, re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor(_CORE + "float", lambda _, node: float(node.value))
_Loader.add_constructor(_CORE + "int", lambda _, node: int(node.value))


def parse_yaml(text: str, source: str) -> tuple[Any, Lines]:
    """Read one document.

    Args:
        text: the document.
        source: names it in messages.

    Returns:
        Its mappings, lists, texts, numbers, booleans and None, and the line of each.

    Raises:
        BadInputError: it is no YAML, a key stands twice, or a value is of a kind that is not used here; with the line.
    """
    if len(text) > MAX_CHARACTERS:
        msg = f"{source}: has {len(text)} characters, at most {MAX_CHARACTERS} are read; is it the right file?"
        raise BadInputError(msg)
    try:
        return _parsed(text, source)
    except RecursionError as error:
        msg = f"{source}: not a settings file: its lists and mappings are nested too deeply"
        raise BadInputError(msg) from error


def _parsed(text: str, source: str) -> tuple[Any, Lines]:
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        msg = f"{source}: not valid YAML in line {line}: the character #x{ord(text[error.position]):02x} is not allowed"
        raise BadInputError(msg) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None)
        raise BadInputError(f"{source}: not valid YAML{where}{f': {problem}' if problem else ''}") from error
    except (ValueError, OverflowError, LookupError) as error:  # of the library: \\U00110000 is no character
        raise BadInputError(f"{source}: not valid YAML: {error}") from error
    if root is None:
        return None, {}
    lines: Lines = {}
    builder = _Builder(loader, source, lines)
    builder.refuse_if_endless(root)
    return builder.build(root, (), ()), lines


class _Builder:
    def __init__(self, loader: _Loader, source: str, lines: Lines) -> None:
        self._loader = loader
        self._source = source
        self._lines = lines

    def build(self, node: yaml.Node, place: tuple[str | int, ...], above: tuple[yaml.Node, ...]) -> Any:
        """The value of a node; `above` are those that hold it."""
        self._lines[place] = node.start_mark.line + 1
        if node.tag not in _PLAIN_TAGS:
            self._refuse(node, f"{node.tag.replace(_CORE, '!!')} is not used here")
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*place, i), (*above, node)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, (*above, node))
        if _CONTROL.search(node.value):
            self._refuse(node, f"{_shown(node.value)} holds a control character, which no name and no text has")
        try:
            return self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, OverflowError):
            self._refuse(node, f"{_shown(node.value)} cannot be read as {node.tag.replace(_CORE, '!!')}")

    def refuse_if_endless(self, root: yaml.Node) -> None:
        """Refuse what aliases make larger than MAX_VALUES, or what holds itself, without writing any of it out.

        Args:
            root: of the document.
        """
        sizes: dict[int, int] = {}
        above: set[int] = set()

        def size(node: yaml.Node) -> int:
            if (key := id(node)) in sizes:
                return sizes[key]
            if key in above:
                self._refuse(node, "a value holds itself")
            above.add(key)
            children = node.value if isinstance(node, yaml.CollectionNode) else ()
            parts = (part for child in children for part in (child if isinstance(child, tuple) else (child,)))
            sizes[key] = 1 + sum(map(size, parts))
            above.discard(key)
            if sizes[key] > MAX_VALUES:
                self._refuse(
                    node,
                    f"more than {MAX_VALUES} values stand here, or aliases (*name) make so many; is it the right file?",
                )
            return sizes[key]

        size(root)

    def _mapping(self, node: yaml.MappingNode, place: tuple[str | int, ...], above: tuple[yaml.Node, ...]) -> Any:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._refuse(key, "a key must be a word")
            if key.value in first and key.value != "<<":
                msg = f"the key {'.'.join(map(str, (*place, key.value)))} stands twice, in line {first[key.value]} already"
                self._refuse(key, f"{msg}; which of the two holds is not to be guessed, remove one")
            first[key.value] = key.start_mark.line + 1
        try:
            self._loader.flatten_mapping(node)
        except yaml.YAMLError as error:
            self._refuse(node, str(getattr(error, "problem", error)))
        return {key.value: self.build(value, (*place, key.value), above) for key, value in node.value}

    def _refuse(self, node: yaml.Node, why: str) -> NoReturn:
        raise BadInputError(f"{self._source}: line {node.start_mark.line + 1}: {why}")


def _shown(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:60] + "…")
