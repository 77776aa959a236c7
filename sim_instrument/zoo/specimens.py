# SPDX-License-Identifier: GPL-3.0-or-later
"""Named specimens: what the microscope may look at, each as its options."""

from __future__ import annotations

from sim_instrument.specimen import SpecimenOptions

SPECIMENS: dict[str, SpecimenOptions] = {
    "2h-mos2": SpecimenOptions(),
    "twisted-mos2": SpecimenOptions(material="twisted-mos2"),
    "2h-wse2": SpecimenOptions(material="2h-wse2"),
    "mose2-ws2": SpecimenOptions(material="mose2-ws2"),
    "graphene": SpecimenOptions(material="graphene", vacancies=0.1),
    "srtio3": SpecimenOptions(material="srtio3"),
    "gold-carbon": SpecimenOptions(material="gold-carbon"),
    "protein-ice": SpecimenOptions(material="protein-ice"),
    "vacuum": SpecimenOptions(material="vacuum"),
}
"""Name -> options."""
