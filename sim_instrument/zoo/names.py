# SPDX-License-Identifier: GPL-3.0-or-later
"""A column or a specimen by its name: one of the zoo, or `random-SEED`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from instrument.errors import BadInputError
from sim_instrument.column import Column
from sim_instrument.specimen import SpecimenOptions
from sim_instrument.zoo.columns import COLUMNS
from sim_instrument.zoo.draws import random_column, random_specimen
from sim_instrument.zoo.specimens import SPECIMENS

_T = TypeVar("_T")
_RANDOM = re.compile(r"random-(\d+)")


def named_column(name: str) -> Column:
    """The column of that name.

    Args:
        name: a key of COLUMNS, or `random-SEED`.

    Raises:
        BadInputError: there is none; the message lists all.
    """
    return _named("column", name, COLUMNS, random_column)


def named_specimen(name: str) -> SpecimenOptions:
    """The specimen of that name.

    Args:
        name: a key of SPECIMENS, or `random-SEED`.

    Raises:
        BadInputError: there is none; the message lists all.
    """
    return _named("specimen", name, SPECIMENS, random_specimen)


def _named(kind: str, name: str, known: Mapping[str, _T], draw: Callable[[int], _T]) -> _T:
    if match := _RANDOM.fullmatch(name):
        return draw(int(match[1]))
    if name not in known:
        msg = f"there is no {kind} {name!r}; there are {', '.join(known)}, and random-SEED, such as random-7"
        raise BadInputError(msg)
    return known[name]
