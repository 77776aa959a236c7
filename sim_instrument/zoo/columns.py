# SPDX-License-Identifier: GPL-3.0-or-later
"""Named columns: every kind of gun, 60 to 300 kV, with and without corrector, with fast and slow detectors.

None is a certain instrument. Each combines values that instruments of its kind have: energy spread of the gun, Cc and C3 of the
lens, dwell times, flyback and line trigger of the scan engine, frame rate and dead time of the detector. `README.md` has a table.
"""

from __future__ import annotations

from typing import Any

from sim_instrument.column import Column

_HYBRID_PIXEL: dict[str, Any] = {"max_frame_rate": 1.2e5, "saturation": 4095, "point_spread": 0.3, "hot_rate": 100.0}
"""A fast hybrid-pixel detector, binned."""
_COUNTING_12_BIT: dict[str, Any] = {"max_frame_rate": 1.6e3, "saturation": 4095, "point_spread": 0.45, "hot_rate": 50.0}
"""A counting detector of 12 bits without dead time."""
_INTEGRATING: dict[str, Any] = {
    "max_frame_rate": 1e3,
    "readout": 0.86e-3,
    "dwell_times": (1e-3, 2e-3, 5e-3, 1e-2),
    "saturation": 65535,
    "point_spread": 0.5,
    "hot_pixels": 0,
    "dead_pixels": 2,
}
"""An integrating detector that is read out for 0.86 ms after each frame."""
_EVERY_FRAME_11_US: dict[str, Any] = {
    "max_frame_rate": 8.7e4,
    "dwell_times": (11.5e-6,),
    "saturation": 255,
    "point_spread": 0.35,
    "dead_pixels": 8,
    "hot_rate": 20.0,
}
"""A camera of 87,000 frames/s that takes the place of the dwell time: 11.5 µs, nothing else."""

_BY_NAME: dict[str, dict[str, Any]] = {
    "cold-60": _HYBRID_PIXEL
    | {
        "voltage": 60e3, "semiangle": 33.0, "beam_current": 8.0, "energy_spread": 0.35, "chromatic_aberration": 1.1,
        "source_size": 0.55, "detector_pixels": 96, "angular_pixel": 2.0, "defocus_offset": -18.0, "defocus_scale": 0.985,
        "aberrations": {"C12": 8.0, "phi12": 1.2, "C21": 120.0, "phi21": 0.3, "C23": 90.0, "phi23": -0.6, "C30": -6e3},
        "rotation": -1.13, "rotation_error": 0.006, "drift": 0.2, "drift_direction": 2.4, "flyback": 2e-4,
        "max_defocus": 400.0, "knock_on": 0.3,
    },
    "cold-80": {"max_defocus": 600.0, "energy_spread": 0.35, "semiangle": 24.0, "beam_current": 4.0},
    "cold-200": _HYBRID_PIXEL
    | {
        "voltage": 200e3, "semiangle": 29.0, "beam_current": 15.0, "energy_spread": 0.4, "chromatic_aberration": 1.3,
        "source_size": 0.5, "detector_pixels": 96, "angular_pixel": 1.7, "defocus_offset": 12.0, "defocus_scale": 1.01,
        "aberrations": {"C12": 6.0, "phi12": -0.4, "C21": 150.0, "phi21": 2.0, "C23": 110.0, "phi23": 0.9, "C30": 5e3},
        "rotation": 2.61, "rotation_error": -0.008, "mirrored": True, "drift": 0.5, "flyback": 1e-4, "flyback_blanked": True,
        "dwell_times": tuple(1e-6 * t for t in (10, 20, 50, 100, 200, 500, 1000)), "max_defocus": 400.0,
    },
    "cold-300": _COUNTING_12_BIT
    | {
        "voltage": 300e3, "semiangle": 27.0, "beam_current": 0.8, "energy_spread": 0.45, "chromatic_aberration": 1.5,
        "source_size": 0.45, "detector_pixels": 128, "angular_pixel": 1.2, "defocus_offset": -9.0, "defocus_scale": 0.97,
        "aberrations": {"C12": 7.0, "phi12": 0.1, "C21": 200.0, "phi21": -2.2, "C23": 160.0, "phi23": 0.2, "C30": -8e3},
        "rotation": 0.05, "rotation_error": 0.012, "drift": 0.3, "drift_direction": -1.9, "flyback": 5e-4,
        "max_defocus": 400.0,
    },
    "mono-60": _COUNTING_12_BIT
    | {
        "voltage": 60e3, "semiangle": 35.0, "beam_current": 0.5, "energy_spread": 0.1, "chromatic_aberration": 1.1,
        "source_size": 0.85, "detector_pixels": 128, "angular_pixel": 1.6, "defocus_offset": 22.0, "defocus_scale": 1.0,
        "aberrations": {"C12": 12.0, "phi12": 0.9, "C21": 90.0, "phi21": 1.4, "C23": 130.0, "phi23": 0.0, "C30": 3e3},
        "rotation": 1.62, "rotation_error": 0.004, "drift": 0.15, "drift_direction": 0.2, "flyback": 1e-3,
        "max_defocus": 400.0, "knock_on": 0.3,
    },
    "mono-80": _HYBRID_PIXEL
    | {
        "voltage": 80e3, "semiangle": 27.0, "beam_current": 3.0, "energy_spread": 0.15, "chromatic_aberration": 1.2,
        "source_size": 0.7, "detector_pixels": 64, "angular_pixel": 2.4, "defocus_offset": -31.0, "defocus_scale": 1.03,
        "rotation": -2.2, "rotation_error": 0.015, "drift": 0.4, "flyback": 3e-4, "max_frame_rate": 2e4,
        "max_defocus": 400.0,
    },
    "mono-300": _EVERY_FRAME_11_US
    | {
        "voltage": 300e3, "semiangle": 25.0, "beam_current": 12.0, "energy_spread": 0.13, "chromatic_aberration": 1.4,
        "source_size": 0.6, "detector_pixels": 96, "angular_pixel": 1.4, "defocus_offset": 16.0, "defocus_scale": 1.02,
        "aberrations": {"C12": 9.0, "phi12": -0.8, "C21": 160.0, "phi21": 0.6, "C23": 140.0, "phi23": -0.3, "C30": 7e3},
        "rotation": -0.42, "rotation_error": -0.01, "drift": 0.4, "drift_direction": 1.3, "flyback": 3.6e-3,
        "flyback_blanked": True, "line_trigger": 60.0, "max_defocus": 400.0,
    },
    "schottky-60": _INTEGRATING
    | {
        "voltage": 60e3, "semiangle": 31.0, "beam_current": 1.0, "energy_spread": 0.8, "chromatic_aberration": 1.0,
        "source_size": 0.7, "detector_pixels": 128, "angular_pixel": 1.6, "defocus_offset": 35.0, "defocus_scale": 0.99,
        "aberrations": {"C12": 14.0, "phi12": 0.2, "C21": 110.0, "phi21": -0.5, "C23": 100.0, "phi23": 0.7, "C30": 9e3},
        "rotation": 3.0, "rotation_error": 0.009, "drift": 0.1, "flyback": 1e-3, "flyback_blanked": True,
        "max_defocus": 400.0, "knock_on": 0.3,
    },
    "schottky-80": _COUNTING_12_BIT
    | {
        "voltage": 80e3, "semiangle": 21.4, "beam_current": 1.0, "energy_spread": 0.9, "chromatic_aberration": 1.2,
        "source_size": 0.8, "detector_pixels": 128, "angular_pixel": 1.1, "defocus_offset": -25.0, "defocus_scale": 1.04,
        "rotation": -1.57, "rotation_error": 0.02, "mirrored": True, "drift": 0.6, "drift_direction": -2.8,
        "flyback": 2e-3, "line_trigger": 50.0, "flyback_blanked": True,
    },
    "schottky-200": _HYBRID_PIXEL
    | {
        "voltage": 200e3, "semiangle": 25.0, "beam_current": 10.0, "energy_spread": 0.8, "chromatic_aberration": 1.3,
        "source_size": 0.6, "detector_pixels": 128, "angular_pixel": 1.1, "defocus_offset": 28.0, "defocus_scale": 0.98,
        "aberrations": {"C12": 9.0, "phi12": 0.5, "C21": 180.0, "phi21": 1.9, "C23": 150.0, "phi23": -0.9, "C30": 1e4},
        "rotation": 0.93, "rotation_error": -0.013, "drift": 0.8, "drift_direction": 0.9, "flyback": 2e-4,
        "max_defocus": 400.0,
    },
    "schottky-200-uncorrected": _COUNTING_12_BIT
    | {
        "voltage": 200e3, "semiangle": 9.5, "beam_current": 1.5, "energy_spread": 0.9, "chromatic_aberration": 1.4,
        "source_size": 0.9, "detector_pixels": 64, "angular_pixel": 0.8, "defocus_offset": 110.0, "defocus_scale": 1.03,
        "aberrations": {"C12": 25.0, "phi12": 1.1, "C21": 300.0, "phi21": 0.2, "C30": 1.2e7},
        "rotation": -0.7, "rotation_error": 0.01, "drift": 0.7, "flyback": 1e-3, "max_defocus": 1500.0,
    },
    "schottky-300-uncorrected": _INTEGRATING
    | {
        "voltage": 300e3, "semiangle": 6.0, "beam_current": 0.6, "energy_spread": 0.8, "chromatic_aberration": 2.7,
        "source_size": 0.9, "detector_pixels": 64, "angular_pixel": 0.5, "defocus_offset": -160.0, "defocus_scale": 0.98,
        "aberrations": {"C12": 40.0, "phi12": -0.3, "C21": 500.0, "phi21": -1.0, "C30": 2.7e7},
        "rotation": 1.2, "rotation_error": 0.005, "drift": 0.3, "flyback": 3.6e-3, "line_trigger": 60.0,
        "flyback_blanked": True, "max_defocus": 3000.0,
    },
}  # fmt: skip

COLUMNS: dict[str, Column] = {"default": Column()} | {name: Column(**fields) for name, fields in _BY_NAME.items()}
"""Name -> column; "default" is that of the defaults: a cold field emission gun at 80 kV with a corrector."""
