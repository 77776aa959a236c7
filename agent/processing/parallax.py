"""Optics of an acquisition from the shifts of its bright-field images, told as a campaign tells them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from agent.errors import BadInputError
from agent.processing.cleaning import Raster
from agent.reconstruction import DiffractionData
from instrument import optics

if TYPE_CHECKING:
    from agent.reconstruction import Calibration

SMALLEST_RASTER = 8
"""Positions along each edge of a scan whose images tell the geometry."""
AGREES = 0.94
"""Cosine of the turn, some 20°, up to which an orientation that is given and one that is found are the same."""


def orientation_and_defocus(
    data: DiffractionData, raster: Raster | None
) -> tuple[DiffractionData, Calibration, tuple[str, ...]]:
    """The optics of an uncalibrated raster, all that was found, and notes.

    Args:
        data: with nominal defocus.
        raster: the patterns where they are one; None otherwise.

    Raises:
        BadInputError: the scan does not tell.
    """
    if raster is None or min(raster.intensity.shape) < SMALLEST_RASTER:
        seen = "no raster"
        if raster is not None:
            seen = "a raster of {} × {}".format(*raster.intensity.shape)
        msg = (
            f"nothing says how the detector is turned, and these patterns are {seen}, not one of at least 8 × 8 to find "
            "out; give its rotation, or scan a larger field or with a finer step"
        )
        raise BadInputError(msg)
    found = _calibrated(data, raster)
    if not found.found:
        reason = "; ".join(found.notes) or f"the defocus is {found.defocus:.3g} ± {found.defocus_sd:.2g} Å"
        msg = f"the first acquisition does not tell how the detector is turned: {reason}; raise its dose, or give the rotation"
        raise BadInputError(msg)
    data = replace(data, detector_to_scan=found.detector_to_scan, aberrations={**data.aberrations, **found.aberrations})
    data, beyond = with_defocus(data, found.defocus)
    return data, found, beyond


def defocus_alone(
    data: DiffractionData, raster: Raster | None
) -> tuple[DiffractionData, tuple[str, ...], dict[str, float]]:
    """Defocus and astigmatism of a raster whose detector's orientation is known; as it is where the scan does not tell.

    The images tell the defocus up to half a turn of the detector, which is known here, and with it the sign.

    Args:
        data: with the orientation that is known.
        raster: as in `orientation_and_defocus`.

    Returns:
        The data, notes, and standard deviations named as in `Optics.sd`; none where the scan does not tell.
    """
    if raster is None or min(raster.intensity.shape) < SMALLEST_RASTER:
        return data, (), {}
    try:
        found = _calibrated(data, raster)
    except BadInputError as error:
        return data, (f"the defocus is taken to be 0 Å: {error}",), {}
    if not found.found:
        return data, (), {}
    assert data.detector_to_scan is not None
    same = float(np.trace(found.detector_to_scan.T @ data.detector_to_scan)) / 2  # cosine of the turn between the two
    given, mirrored = optics.rotation_and_hand(data.detector_to_scan)
    if found.mirrored != mirrored or abs(same) < AGREES:
        note = (
            f"the images say that the detector is turned by {np.degrees(found.rotation):.1f}°{' and mirrored' * found.mirrored}, "
            f"not by {np.degrees(given):.1f}°{' and mirrored' * mirrored}, which is used; is it so?"
        )
        return data, (note,), {}
    sign = 1.0 if same > 0 else -1.0
    aberrations = {
        **data.aberrations,
        **found.aberrations,
        "phi12": found.astigmatism.phi12 + (0 if sign > 0 else np.pi / 2),
    }
    data, beyond = with_defocus(replace(data, aberrations=aberrations), sign * found.defocus)
    return data, (f"parallax: defocus {data.defocus:.4g} ± {found.defocus_sd:.2g} Å", *beyond), parallax_sd(found)


def _calibrated(data: DiffractionData, raster: Raster) -> Calibration:
    from agent.reconstruction import calibrate

    even = bool((raster.intensity == 1).all())
    return calibrate(
        raster.patterns,
        raster.step,
        data.voltage,
        data.semiangle,
        data.angular_pixel,
        nominal_defocus=data.defocus or None,
        mask=data.mask,
        intensity=None if even else raster.intensity,
    )


def with_defocus(data: DiffractionData, defocus: float) -> tuple[DiffractionData, tuple[str, ...]]:
    """The data with a defocus, Å, that was measured, and a note where it is not taken as it is.

    The specimen is exposed already, so a probe that is wider than its window costs a note and not the acquisition: the
    widest that the engine can describe is used.
    """
    limit = data.largest_defocus
    if abs(defocus) <= limit:
        return replace(data, defocus=defocus), ()
    used = limit if defocus > 0 else -limit
    note = (
        f"the column's defocus of {defocus:.4g} Å makes the probe wider than the window 1/Δk; {used:.4g} Å, the largest "
        "that fits, is used instead; narrow search.defocus or lower search.window"
    )
    return replace(data, defocus=used), (note,)


def parallax_note(found: Calibration) -> str:
    """What was found, in a sentence."""
    return (
        f"parallax: defocus {found.defocus:.4g} ± {found.defocus_sd:.2g} Å, detector rotation "
        f"{np.degrees(found.rotation):.1f} ± {np.degrees(found.rotation_sd):.1g}°"
        f"{', mirrored' if found.mirrored else ''}"
        f"{''.join(f'; {told}' for told in found.notes)}"
    )


def parallax_sd(found: Calibration) -> dict[str, float]:
    """Standard deviations of what parallax has found, named as in `Optics.sd`."""
    size, angle = found.astigmatism_sd
    return {
        "defocus": found.defocus_sd,
        "rotation": found.rotation_sd,
        "C12": size,
        "phi12": min(angle, np.pi / np.sqrt(12)),
    }
