# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the atoms of each kind of specimen are; knows nothing of options, microscopes or electrons."""

from sim_instrument.structures.atoms import Atoms
from sim_instrument.structures.flat import bilayer, graphene
from sim_instrument.structures.solids import from_file, gold_in_carbon, protein_in_ice, strontium_titanate

__all__ = ["Atoms", "bilayer", "from_file", "gold_in_carbon", "graphene", "protein_in_ice", "strontium_titanate"]
