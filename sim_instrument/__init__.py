# SPDX-License-Identifier: GPL-3.0-or-later
"""A microscope that is not there: abTEM specimens in an imperfect column, or a recording played back."""

from sim_instrument.column import Column
from sim_instrument.microscope import SimulatedMicroscope
from sim_instrument.simulation import expected_intensities, simulate
from sim_instrument.specimen import Specimen, SpecimenOptions, build_specimen
from sim_instrument.truth import true_defocus, true_phase

__all__ = [
    "Column",
    "SimulatedMicroscope",
    "Specimen",
    "SpecimenOptions",
    "build_specimen",
    "expected_intensities",
    "simulate",
    "true_defocus",
    "true_phase",
]
