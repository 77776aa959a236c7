"""What a campaign learns of its column and carries from one acquisition to the next.

The first acquisition measures disc centre, rotation, handedness, defocus, astigmatism, coma, source and focal spread. Every
further one measures its defocus, which the lens sets a little differently each time, and whatever is still uncertain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agent.processing.cleaning import Raster
from agent.processing.column_state import ColumnState
from agent.processing.parallax import (
    defocus_alone,
    orientation_and_defocus,
    parallax_note,
    parallax_sd,
    with_defocus,
)
from agent.reconstruction import DiffractionData
from instrument import optics
from instrument.models import Description, same_angle

if TYPE_CHECKING:
    from agent.reconstruction import BrightFieldDisc

PARAMETERS = ("defocus", "C12", "C21", "rotation", "centre", "source", "focal_spread", "drift")
"""What is measured of a column, named as in `ReconstructionSettings.refine_optics`."""
SETPOINT, SETPOINT_SCALE = 25.0, 0.03
"""By how much a lens misses its set-point at 25 mrad, Å, and relative; the depth of focus goes with the angle's square."""
HALF_A_SPECIMEN = 40.0
"""Å, standard deviation, by which the middle of an unknown specimen lies below the plane that a defocus was set for."""
DRIFT = ("stretch", "shear")
ADVERTISED_ROTATION = 0.015
"""By how much a detector is turned otherwise than its instrument says, rad."""
PARALLAX = 3.0
"""By how many of its own standard deviations parallax is believed to miss the defocus."""
CONTRADICTION = 2.5
"""A set-point that is off by so many times what lenses miss theirs by is told to the operator."""
SURE = 0.15
"""A parameter whose uncertainty has fallen to this part of that of an unknown column is not measured again."""
TELLING = 0.5
"""Counts over those that have taught the column, from which on an acquisition can tell more of it than its own defocus."""


@dataclass(frozen=True)
class Measured:
    """An acquisition with its optics.

    Attributes:
        data: with the optics that it was taken with, as far as they are known.
        state: what the next acquisition starts from.
        notes: what a person should be told, one sentence each.
    """

    data: DiffractionData
    state: ColumnState
    notes: tuple[str, ...]


def measure_column(
    data: DiffractionData,
    description: Description,
    *,
    raster: Raster | None,
    known: ColumnState | None,
    enabled: bool,
    on_progress: Callable[[float], None],
) -> Measured:
    """Give `data` the optics that it was taken with.

    Args:
        data: with nominal defocus and no calibration; a centre that it has is kept.
        description: what the instrument advertises.
        raster: the patterns where they are one; None otherwise.
        known: from an earlier acquisition of the same column.
        enabled: False takes the advertised geometry and the nominal defocus as they are.
        on_progress: called with the fraction done.

    Raises:
        BadInputError: the instrument does not advertise how its detector is turned, and the scan does not tell.
    """
    if known is not None:
        fixed = description.defocus.kind == "fixed"
        return _measure_again(data, known, enabled=enabled and not fixed, on_progress=on_progress)
    nominal = data.defocus
    sd: dict[str, float] = {}
    if data.centre is None:
        disc = _disc(data)
        data = replace(data, centre=disc.centre)
        sd = {"row": disc.centre_sd, "column": disc.centre_sd}
    data, found, found_sd, handedness = _oriented(data, description, raster, enabled=enabled)
    notes, widths = list(found), dict[str, float]()
    sd |= found_sd
    if enabled:
        # before the search: what a wrong rim makes of the disc, the optics would have to explain
        data = _with_better_aperture(data) or data
        before = first_widths(data, found_sd, centre_known=not sd.get("row"))
        data, told, widths = _by_likelihood(data, nominal, before, on_progress)
        notes.append(told)
        sd |= _measured_sd(data, widths)
    if data.aperture is not None:
        notes.append("the bright-field disc is taken as measured, it explains the counts better than an even one")
    assert data.centre is not None
    state = ColumnState(
        centre=data.centre,
        matrix=np.asarray(data.detector_to_scan),
        defocus_offset=data.defocus - nominal,
        aberrations=dict(data.aberrations),
        aperture="round" if data.aperture is None else "measured",
        sd=sd,
        handedness=handedness,
        source_size=_fwhm(data),
        focal_spread=data.focal_spread,
        widths=widths,
        counts=counts_used(data) if widths else 0.0,
        semiangle=data.semiangle,
    )
    return Measured(data, state, tuple(notes))


def _oriented(
    data: DiffractionData, description: Description, raster: Raster | None, *, enabled: bool
) -> tuple[DiffractionData, tuple[str, ...], dict[str, float], float | None]:
    """The data with what instrument and parallax say; notes; standard deviations; how surely the hand was measured."""
    advertised = description.scan_rotation is not None and description.mirrored is not None
    if enabled and not advertised:
        data, found, beyond = orientation_and_defocus(data, raster)
        return data, (parallax_note(found), *beyond), parallax_sd(found), found.handedness
    matrix = optics.detector_to_scan(description.scan_rotation or 0.0, bool(description.mirrored))
    data = replace(data, detector_to_scan=matrix)
    if enabled and data.defocus == 0:
        data, notes, sd = defocus_alone(data, raster)
        return data, notes, sd, None
    return data, (), {}, None


def first_widths(data: DiffractionData, found: Mapping[str, float], *, centre_known: bool) -> dict[str, float]:
    """Standard deviation of each parameter before the counts were asked, of a column that nothing is known of.

    Args:
        data: as the instrument says, or parallax.
        found: what parallax has measured, with its standard deviations.
        centre_known: whether somebody has said where the zero beam is.
    """
    from agent.reconstruction import DEFOCUS_WIDTH, widths

    result = widths(data, [name for name in PARAMETERS if not (centre_known and name == "centre")])
    setpoint = SETPOINT * (25 / data.semiangle) ** 2 + SETPOINT_SCALE * abs(data.defocus)
    if "defocus" in found:
        setpoint = PARALLAX * found["defocus"]
        result["defocus"] -= DEFOCUS_WIDTH * abs(data.defocus)
    result["defocus"] = max(result["defocus"], setpoint)
    result["rotation"] = max(ADVERTISED_ROTATION, 2 * found.get("rotation", 0.0))
    return result


def _by_likelihood(
    data: DiffractionData, nominal: float, widths: Mapping[str, float], on_progress: Callable[[float], None]
) -> tuple[DiffractionData, str, dict[str, float]]:
    """The data with the parameters named in `widths` as the counts have them; a note; their standard deviations."""
    from agent.reconstruction import find, with_usual_coherence

    tuned = find(with_usual_coherence(data), widths, deeper=HALF_A_SPECIMEN, on_progress=on_progress)
    if not tuned.improved and data.defocus != nominal:
        return data, "the counts of short reconstructions do not tell more than parallax, whose numbers are used", {}
    if not tuned.improved:
        note = (
            f"not found: the counts do not tell the defocus better than the set-point of {nominal:.4g} Å "
            f"± {widths['defocus']:.2g} Å, which is used with what the instrument says{f' ({tuned.doubt})' * bool(tuned.doubt)}; "
            "a higher dose, a finer step or a larger field tells more"
        )
        return tuned.data, note, {}
    data, found = replace(tuned.data, positions=data.positions), _of_column(tuned.uncertainty)
    sd = _measured_sd(data, found)
    assert data.detector_to_scan is not None
    rotation, _ = optics.rotation_and_hand(data.detector_to_scan)
    note = (
        f"measured: defocus {data.defocus:.4g} ± {sd['defocus']:.2g} Å at the specimen's middle (set-point {nominal:.4g} Å), "
        f"detector rotation {np.degrees(rotation):.2f} ± {np.degrees(sd['rotation']):.1g}°, "
        f"two-fold astigmatism {data.aberrations.get('C12', 0.0):.2g} ± {sd['C12']:.1g} Å, {_coma(data, sd)}"
        f"source {_fwhm(data):.2g} Å, focal spread {data.focal_spread:.2g} Å"
    )
    if abs(data.defocus - nominal) > CONTRADICTION * widths["defocus"]:
        note += f"; the set-point is off by {abs(data.defocus - nominal):.3g} Å, far more than lenses are: check the focus offset"
    return data, note, found


def _coma(data: DiffractionData, sd: Mapping[str, float]) -> str:
    """The coma in words, with a comma, where it was asked for."""
    return f"coma {data.aberrations.get('C21', 0.0):.2g} ± {sd['C21']:.1g} Å, " if "C21" in sd else ""


def _of_column(widths: Mapping[str, float]) -> dict[str, float]:
    """Without drift: it belongs to a single acquisition, and is looked for only because a rotation resembles it."""
    return {name: width for name, width in widths.items() if name not in DRIFT}


def _measure_again(
    data: DiffractionData, known: ColumnState, *, enabled: bool, on_progress: Callable[[float], None]
) -> Measured:
    """What is known of the column, corrected by this acquisition as far as it is uncertain; the defocus is measured anew."""
    from agent.reconstruction import DEFOCUS_REPEATS, find, with_usual_coherence

    nominal, known = data.defocus, _with_aperture_of(data, known)
    data = replace(
        data,
        centre=known.centre,
        detector_to_scan=known.matrix,
        aberrations=known.aberrations,
        source_size=known.source_size,
        focal_spread=known.focal_spread,
    )
    data, notes = with_defocus(data, nominal + known.defocus_offset)
    if known.aperture == "measured":
        data = replace(data, aperture=measured_aperture(data))
    if not enabled:
        return Measured(data, known, notes)
    first = first_widths(data, {}, centre_known="row" not in known.sd)
    now = {name: known.widths.get(name, width) for name, width in first.items()}
    telling = counts_used(data) >= TELLING * known.counts
    uncertain = {name: width for name, width in now.items() if telling and width > SURE * first[name]}
    turned = "rotation" in uncertain
    before = {name: width for name, width in uncertain.items() if turned or name not in DRIFT}
    before["defocus"] = first["defocus"]
    if "defocus" in known.widths:
        before["defocus"] = min(first["defocus"], float(np.hypot(DEFOCUS_REPEATS, known.widths["defocus"])))
    start = data if known.widths else with_usual_coherence(data)
    tuned = find(start, before, on_progress=on_progress)
    if not tuned.improved:
        return Measured(data, known, notes)
    data, widths = replace(tuned.data, positions=data.positions), {**known.widths, **_of_column(tuned.uncertainty)}
    assert data.centre is not None
    state = replace(
        known,
        centre=data.centre,
        matrix=np.asarray(data.detector_to_scan),
        defocus_offset=data.defocus - nominal,
        aberrations=dict(data.aberrations),
        sd={**known.sd, **_measured_sd(data, widths)},
        source_size=_fwhm(data),
        focal_spread=data.focal_spread,
        widths=widths,
        counts=max(known.counts, counts_used(data)),
    )
    return Measured(data, state, notes)


def _with_aperture_of(data: DiffractionData, known: ColumnState) -> ColumnState:
    """What is known of the column with the aperture of `data`: apertures do not lie in the middle, each has a centre of its own.

    Aberrations, rotation, hand, source and focal spread are the column's, whichever aperture is in.
    """
    if known.semiangle is None or same_angle(known.semiangle, data.semiangle):
        return known
    if data.centre is not None:  # a person has said it
        return replace(known, semiangle=data.semiangle)
    disc = _disc(data)
    return replace(
        known,
        centre=disc.centre,
        sd={**known.sd, "row": disc.centre_sd, "column": disc.centre_sd},
        widths={name: width for name, width in known.widths.items() if name not in ("row", "column")},
        semiangle=data.semiangle,
    )


def counts_used(data: DiffractionData) -> float:
    """Counts of the patterns that a column is measured from."""
    from agent.reconstruction import FINE_POSITIONS

    totals = data.look().totals
    return float(totals.mean() * min(len(totals), FINE_POSITIONS))


def refined(measured: Measured, wanted: tuple[str, ...], on_progress: Callable[[float], None]) -> Measured:
    """An acquisition with more of its optics measured by likelihood, around what is known of it.

    Args:
        measured: the acquisition.
        wanted: names as in `ReconstructionSettings.refine_optics`.
        on_progress: called with the fraction done.
    """
    from agent.reconstruction import find, widths

    before, state = measured.data, measured.state
    tuned = find(before, widths(before, wanted), on_progress=on_progress)
    if not tuned.improved:
        why = f" ({tuned.doubt})" * bool(tuned.doubt)
        note = f"not refined: the counts do not tell more of {', '.join(wanted)} than is known already{why}"
        return replace(measured, notes=(*measured.notes, note))
    data, widths_now = tuned.data, {**state.widths, **_of_column(tuned.uncertainty)}
    state = replace(
        state,
        centre=state.centre if data.centre is None else data.centre,
        matrix=np.asarray(data.detector_to_scan),
        defocus_offset=state.defocus_offset + data.defocus - before.defocus,
        aberrations=dict(data.aberrations),
        sd={**state.sd, **_measured_sd(data, tuned.uncertainty)},
        source_size=_fwhm(data),
        focal_spread=data.focal_spread,
        widths=widths_now,
    )
    return replace(measured, data=data, state=state)


def _disc(data: DiffractionData) -> BrightFieldDisc:
    """The bright-field disc in the mean pattern."""
    from agent.reconstruction import fit_disc

    return fit_disc(data.look().mean, data.mask)


def _measured_sd(data: DiffractionData, widths: Mapping[str, float]) -> dict[str, float]:
    """Standard deviations of what was found, named as in `Optics.sd`.

    Aberrations are found in Cartesian form, C_a = C cos mφ and C_b = C sin mφ, and are told as magnitude and angle. The angle
    of an aberration that is nothing but noise is unknown; its deviation ends at that of all angles alike, (2π/m)/√12.

    Args:
        data: with the values found.
        widths: parameter -> standard deviation.
    """
    from agent.reconstruction import deviations

    told = ("defocus", "rotation", "row", "column")
    sd = {name: width for name, width in widths.items() if name in told or (name.startswith("C") and len(name) == 3)}
    for name in sorted(name[:3] for name in widths if len(name) == 4 and name.endswith("a") and name.startswith("C")):
        m = int(name[2])
        size, angle = data.aberrations.get(name, 0.0), m * data.aberrations.get(f"phi{name[1:]}", 0.0)
        a, b = widths[f"{name}a"], widths[f"{name}b"]
        sd[name] = float(np.hypot(a * np.cos(angle), b * np.sin(angle)))
        across = float(np.hypot(a * np.sin(angle), b * np.cos(angle)))
        sd[f"phi{name[1:]}"] = min(across / max(m * size, 1e-9), 2 * np.pi / m / np.sqrt(12))
    return sd | deviations(data, widths)


def _fwhm(data: DiffractionData) -> float:
    """Mean FWHM of the source, Å."""
    source = data.source_size
    return float(source) if isinstance(source, int | float) else (source[0] + source[1]) / 2


def _with_better_aperture(data: DiffractionData) -> DiffractionData | None:
    """The data with the aperture as measured, where it explains the counts better than an even disc; None otherwise."""
    from agent.reconstruction import deviance_of_part

    uneven = replace(data, aperture=measured_aperture(data))
    return uneven if deviance_of_part(uneven) < deviance_of_part(data) else None


def measured_aperture(data: DiffractionData) -> NDArray[np.float64]:
    """(ky, kx) amplitude of the bright-field disc: the root of the mean pattern. The engine cuts it outside the disc."""
    mean = data.look().mean
    return np.sqrt(mean if data.mask is None else np.where(data.mask, mean, 0.0))
