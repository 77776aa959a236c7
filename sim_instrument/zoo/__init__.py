# SPDX-License-Identifier: GPL-3.0-or-later
"""Columns and specimens to try things on: by name, drawn by seed, or from a file that lists them."""

from sim_instrument.zoo.columns import COLUMNS
from sim_instrument.zoo.draws import random_column, random_specimen
from sim_instrument.zoo.files import Entry, load_columns
from sim_instrument.zoo.names import named_column, named_specimen
from sim_instrument.zoo.specimens import SPECIMENS

__all__ = [
    "COLUMNS",
    "SPECIMENS",
    "Entry",
    "load_columns",
    "named_column",
    "named_specimen",
    "random_column",
    "random_specimen",
]
