# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the atoms of each kind of specimen are; knows nothing of options, microscopes or electrons."""

from sim_instrument.structures.atoms import Atoms
from sim_instrument.structures.flat import bilayer, graphene

__all__ = ["Atoms", "bilayer", "graphene"]
