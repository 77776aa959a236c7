# SPDX-License-Identifier: GPL-3.0-or-later
"""A list of columns and specimens from a YAML file, for studies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from instrument.errors import BadInputError
from sim_instrument.column import Column
from sim_instrument.specimen import SpecimenOptions
from sim_instrument.zoo.names import named_column, named_specimen

_Model = TypeVar("_Model", bound=BaseModel)
_KEYS = ("name", "seed", "specimen", "column")


class Entry(BaseModel, frozen=True):
    """One column with its specimen.

    Attributes:
        name: for tables; unique in a file.
        seed: of jitter, noise and bad pixels, and of the specimen where that has none of its own.
        specimen: what lies in it.
        column: true parameters.
    """

    name: str
    seed: int
    specimen: SpecimenOptions
    column: Column


def load_columns(path: Path) -> list[Entry]:
    """Read a list of `{name, seed, specimen: …, column: …}`.

    `specimen` and `column` are each a mapping of fields of SpecimenOptions or Column, in their units, or a name of the zoo
    (also `random-SEED`); a mapping may change a named one with `zoo: NAME`. A relative `structure` lies beside the file.

    Args:
        path: of the YAML (or JSON) file.

    Raises:
        BadInputError: with the entry, the field, its value and what is legal.
    """
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"{path}: cannot be read as YAML: {' '.join(str(error).split())}"
        raise BadInputError(msg) from error
    if not isinstance(listed, list) or not listed:
        msg = f"{path}: not a list of columns; write one or more of `- {{name: …, seed: …, specimen: {{…}}, column: {{…}}}}`"
        raise BadInputError(msg)
    entries = [make_entry(each, f"{path}, entry {index}", path.parent) for index, each in enumerate(listed, 1)]
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"{path}: the name {twice[0]!r} stands twice; give each column a name of its own"
        raise BadInputError(msg)
    return entries


def make_entry(given: Any, where: str = "entry", folder: Path = Path()) -> Entry:
    """One entry from a dictionary `{name, seed, specimen, column}`; see `load_columns`.

    Args:
        given: the dictionary; `name` is needed, the rest has defaults.
        where: what messages begin with.
        folder: which relative file names refer to.

    Raises:
        BadInputError: as `load_columns`.
    """
    if not isinstance(given, Mapping):
        msg = f"{where}: {given!r} is not a mapping with the keys {', '.join(_KEYS)}"
        raise BadInputError(msg)
    if unknown := [str(key) for key in given if key not in _KEYS]:
        msg = f"{where}: unknown key {unknown[0]!r}; known: {', '.join(_KEYS)}"
        raise BadInputError(msg)
    name, seed = given.get("name"), given.get("seed", 0)
    if not isinstance(name, str) or not name:
        msg = f"{where}: name: {name!r} is not a name; write some text"
        raise BadInputError(msg)
    where = f"{where} ({name})"
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        msg = f"{where}: seed: {seed!r} is not a whole number from 0"
        raise BadInputError(msg)
    specimen = _fields(given.get("specimen"), f"{where}: specimen", named_specimen)
    if specimen.get("structure"):
        specimen["structure"] = str(folder / str(specimen["structure"]))
    column = _fields(given.get("column"), f"{where}: column", named_column)
    return Entry(
        name=name,
        seed=seed,
        specimen=_validate(SpecimenOptions, {"seed": seed} | specimen, f"{where}: specimen"),
        column=_validate(Column, column, f"{where}: column"),
    )


def _fields(given: Any, where: str, named: Any) -> dict[str, Any]:
    """The fields that are set, of a mapping, a name, or a mapping that changes a named one."""
    if given is None:
        return {}
    if isinstance(given, str):
        given = {"zoo": given}
    if not isinstance(given, Mapping):
        msg = f"{where}: {given!r} is neither a mapping of fields nor a name of the zoo"
        raise BadInputError(msg)
    fields = dict(given)
    if "zoo" not in fields:
        return fields
    try:
        base: BaseModel = named(str(fields.pop("zoo")))
    except BadInputError as error:
        msg = f"{where}: {error}"
        raise BadInputError(msg) from error
    return base.model_dump(exclude_unset=True) | fields


def _validate(model: type[_Model], values: Mapping[str, Any], where: str) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            what = f"there is no such field; there are {', '.join(model.model_fields)}"
        value = f" {first['input']!r}" if field and first["type"] != "extra_forbidden" else ""
        msg = f"{where}: {field}{value}: {what}" if field else f"{where}: {what}"
        raise BadInputError(msg) from error
