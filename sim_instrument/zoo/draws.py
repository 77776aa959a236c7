# SPDX-License-Identifier: GPL-3.0-or-later
"""Columns and specimens drawn by seed, from the distributions in `README.md`.

The same seed gives the same column in every version that does not say otherwise in its changelog. Seeds below FIRST_TEST_SEED
are for development and tuning; those from there on are for tests and studies, and nothing may be tuned on them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from instrument import optics
from sim_instrument.column import Column
from sim_instrument.specimen import SpecimenOptions

FIRST_TEST_SEED = 1000
"""Seeds from here on are never used for tuning."""

VOLTAGES = (60e3, 80e3, 120e3, 200e3, 300e3)
ENERGY_SPREAD = {"cold": (0.3, 0.45), "monochromated": (0.1, 0.2), "schottky": (0.6, 1.0)}
"""eV FWHM, uniform between."""
DETECTORS = {"fast": (1e5, (5.0, 20.0)), "medium": (1e4, (1.0, 6.0)), "slow": (1e3, (0.1, 0.8))}
"""Frame rate, 1/s, and range of beam currents, pA, that go with it."""
DWELL_TIMES = tuple(base * 10.0**decade for decade in range(-6, 0) for base in (1, 2, 5))
"""s, of a scan engine with fixed steps."""
THICKNESSES = {"srtio3": (40.0, 120.0), "gold-carbon": (30.0, 60.0), "protein-ice": (80.0, 150.0)}
"""Å, of the materials that may have any."""
MOST_PIXELS = 128
"""Detector pixels along an edge."""


def random_column(seed: int) -> Column:
    """A column that could stand somewhere.

    Args:
        seed: of the draw.
    """
    rng = np.random.default_rng([seed, 23])
    voltage = float(rng.choice(VOLTAGES))
    gun = str(rng.choice(list(ENERGY_SPREAD)))
    corrected = bool(voltage < 200e3 or rng.random() < 0.75)
    optics_ = _corrected(rng, voltage) if corrected else _uncorrected(rng, voltage)
    # What is a small error of the defocus depends on the depth of focus.
    depth = (25 / optics_["semiangle"]) ** 2
    return Column(
        voltage=voltage,
        energy_spread=rng.uniform(*ENERGY_SPREAD[gun]),
        source_size=rng.uniform(0.3, 0.9),
        defocus_offset=rng.normal(0, 25 * depth),
        defocus_scale=rng.normal(1, 0.02),
        max_defocus=round(400 * depth, -1),
        **optics_,
        **_scan(rng),
        **_detector(rng, optics_["semiangle"]),
        knock_on=0.3 if voltage < 70e3 else rng.uniform(0, 2),
    )


def _corrected(rng: np.random.Generator, voltage: float) -> dict[str, Any]:
    semiangle = rng.uniform(20, 35) if voltage < 100e3 else rng.uniform(18, 32)
    return {
        "semiangle": semiangle,
        "chromatic_aberration": rng.uniform(0.9, 1.6),
        "aberrations": _residuals(rng, voltage, semiangle, c30=None),
    }


def _uncorrected(rng: np.random.Generator, voltage: float) -> dict[str, Any]:
    c30 = rng.uniform(0.6e7, 2.7e7)
    # About the aperture of Scherzer's incoherent condition, (4 λ/C3)^¼.
    semiangle = 1e3 * (4 * optics.wavelength(voltage) / c30) ** 0.25 * rng.uniform(0.85, 1.1)
    return {
        "semiangle": semiangle,
        "chromatic_aberration": rng.uniform(1.2, 2.7),
        "aberrations": _residuals(rng, voltage, semiangle, c30),
    }


def _residuals(rng: np.random.Generator, voltage: float, semiangle: float, c30: float | None) -> dict[str, float]:
    """Each residual as a phase at the aperture's edge, 0.4 rad rms, in a random direction."""
    values: dict[str, float] = {}
    for name in ("C12", "C21", "C23", "C30"):
        order = int(name[1]) + 1
        per_radian = order * optics.wavelength(voltage) / (2 * math.pi * (1e-3 * semiangle) ** order)
        phase = rng.normal(0, 0.4)
        if name == "C30":
            values[name] = c30 if c30 is not None else phase * per_radian
        else:
            values[name] = abs(phase) * per_radian
            values["phi" + name[1:]] = rng.uniform(-math.pi, math.pi) / int(name[2])
    return values


def _scan(rng: np.random.Generator) -> dict[str, Any]:
    trigger = float(rng.choice([0.0, 0.0, 0.0, 50.0, 60.0]))
    return {
        "jitter": rng.uniform(0, 0.12),
        "drift": _log_uniform(rng, 0.05, 1.5),
        "drift_direction": rng.uniform(-math.pi, math.pi),
        "rotation": rng.uniform(-math.pi, math.pi),
        "rotation_error": rng.normal(0, math.radians(0.6)),
        "mirrored": bool(rng.random() < 0.25),
        "flyback": _log_uniform(rng, 5e-5, 4e-3),
        "line_trigger": trigger,
        "flyback_blanked": bool(trigger or rng.random() < 0.5),
    }


def _detector(rng: np.random.Generator, semiangle: float) -> dict[str, Any]:
    frame_rate, currents = DETECTORS[str(rng.choice(list(DETECTORS)))]
    radius = rng.uniform(8, 25)
    # The whole bright-field disc, and dark field up to 1.6 … 3.2 times its angle.
    edge = 2 * radius * rng.uniform(1.6, 3.2)
    stepped = rng.random() < 0.4
    return {
        "max_frame_rate": frame_rate,
        "beam_current": _log_uniform(rng, *currents),
        "dwell_times": tuple(t for t in DWELL_TIMES if t >= 1 / frame_rate) if stepped else None,
        "readout": float(rng.choice([0.0, 0.0, 1.0])) * (0.86e-3 if frame_rate < 1e4 else 0.0),
        "detector_pixels": min(max(16 * math.ceil(edge / 16), 32), MOST_PIXELS),
        "angular_pixel": semiangle / radius,
        "point_spread": rng.uniform(0, 0.6),
        "dead_pixels": int(rng.integers(0, 7)),
        "hot_pixels": int(rng.integers(0, 5)),
        "hot_rate": _log_uniform(rng, 10, 1000),
        "saturation": int(rng.choice([4095, 65535])),
    }


def random_specimen(seed: int) -> SpecimenOptions:
    """A specimen that could lie in it.

    Args:
        seed: of the draw, and of the specimen.
    """
    rng = np.random.default_rng([seed, 24])
    material, thickness = _material(rng)
    return SpecimenOptions.model_validate(
        {
            "material": material,
            "thickness": thickness,
            "orientation": rng.uniform(-180, 180),
            "twist": rng.uniform(1, 30),
            "vacancies": rng.uniform(0, 1),
            "seed": seed,
        }
    )


def _material(rng: np.random.Generator) -> tuple[str, float | None]:
    """Three in four are thin crystals."""
    if rng.random() < 0.75:
        return str(rng.choice(["2h-mos2", "twisted-mos2", "2h-wse2", "mose2-ws2", "graphene"])), None
    material = str(rng.choice(list(THICKNESSES)))
    return material, rng.uniform(*THICKNESSES[material])


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(low * (high / low) ** rng.random())
