"""What a campaign learns of its column and carries from one acquisition to the next.

The first acquisition measures disc centre, rotation, handedness, defocus and low-order aberrations; every further one
only corrects its defocus, which the lens sets a little differently each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.processing.cleaning import Raster
from agent.processing.parallax import (
    defocus_alone,
    orientation_and_defocus,
    parallax_note,
    parallax_sd,
    with_defocus,
)
from agent.reconstruction import DiffractionData
from agent.records import Optics
from agent.storage.atomic import atomic_write
from instrument import optics
from instrument.models import Description

if TYPE_CHECKING:
    from agent.reconstruction import BrightFieldDisc, Tuned


@dataclass(frozen=True)
class ColumnState:
    """What is known of the column.

    Attributes:
        centre: (row, column) of the zero beam, pixels.
        matrix: (2, 2) from the detector's axes to the scan's.
        defocus_offset: measured minus nominal, Å, of the last acquisition.
        aberrations: besides defocus, Krivanek polar, Å and rad.
        aperture: whether a round, even disc or the measured one explains the counts better.
        sd: standard deviations of what was measured, named as in `Optics.sd`; that of the defocus is of the last acquisition.
        handedness: by how many standard deviations this hand explains the counts better than the other; None: it was not
            measured, the instrument says it.
    """

    centre: tuple[float, float]
    matrix: NDArray[np.float64]
    defocus_offset: float
    aberrations: dict[str, float] = field(default_factory=dict)
    aperture: Literal["round", "measured"] = "round"
    sd: dict[str, float] = field(default_factory=dict)
    handedness: float | None = None

    def optics_at(self, defocus: float) -> Optics:
        """The optics of an acquisition.

        Args:
            defocus: that it was reconstructed with, Å.
        """
        rotation, mirrored = optics.rotation_and_hand(self.matrix)
        return Optics(
            defocus=defocus,
            rotation=rotation,
            mirrored=mirrored,
            centre=self.centre,
            aberrations=self.aberrations,
            sd=self.sd,
            handedness=self.handedness,
        )

    def save(self, path: Path) -> None:
        """Write as JSON, in one step."""
        content = {
            "centre": list(self.centre),
            "detector_to_scan": self.matrix.tolist(),
            "defocus_offset_A": self.defocus_offset,
            "aberrations": self.aberrations,
            "aperture": self.aperture,
            "standard_deviations": self.sd,
            "handedness_sd": self.handedness,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(content, indent=1))

    @classmethod
    def load(cls, path: Path) -> ColumnState:
        """Read what `save` wrote.

        Raises:
            BadInputError: there is no such file, or it holds something else.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                centre=(float(content["centre"][0]), float(content["centre"][1])),
                matrix=np.asarray(content["detector_to_scan"], dtype=np.float64),
                defocus_offset=float(content["defocus_offset_A"]),
                aberrations={str(k): float(v) for k, v in content["aberrations"].items()},
                aperture="measured" if content["aperture"] == "measured" else "round",
                sd={str(k): float(v) for k, v in content.get("standard_deviations", {}).items()},
                handedness=content.get("handedness_sd"),
            )
        except (OSError, ValueError, KeyError, IndexError) as error:
            msg = f"{path}: not a column state file ({error})"
            raise BadInputError(msg) from error


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
    data, found, found_sd, handedness = _oriented(data, description, raster, enabled=enabled, on_progress=on_progress)
    notes = list(found)
    sd |= found_sd
    if enabled and (uneven := _with_better_aperture(data)) is not None:
        data = uneven
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
    )
    return Measured(data, state, tuple(notes))


def _oriented(
    data: DiffractionData,
    description: Description,
    raster: Raster | None,
    *,
    enabled: bool,
    on_progress: Callable[[float], None],
) -> tuple[DiffractionData, tuple[str, ...], dict[str, float], float | None]:
    """The data with orientation, defocus and astigmatism; notes; standard deviations; how surely the hand was measured."""
    advertised = description.scan_rotation is not None and description.mirrored is not None
    if enabled and not advertised:
        data, found, beyond = orientation_and_defocus(data, raster)
        return data, (parallax_note(found), *beyond), parallax_sd(found), found.handedness
    matrix = optics.detector_to_scan(description.scan_rotation or 0.0, bool(description.mirrored))
    data = replace(data, detector_to_scan=matrix)
    if not enabled:
        return data, (), {}, None
    notes: tuple[str, ...] = ()
    if data.defocus == 0:
        data, notes, sd = defocus_alone(data, raster)
        if sd:
            return data, notes, sd, None
    data, note, sd = _from_likelihood(data, on_progress)
    return data, (*notes, note), sd, None


def _measure_again(
    data: DiffractionData, known: ColumnState, *, enabled: bool, on_progress: Callable[[float], None]
) -> Measured:
    """What is known of the column; only the defocus is measured anew, around what the last acquisition was off by."""
    from agent.reconstruction import DEFOCUS_REPEATS, tune

    nominal = data.defocus
    data = replace(data, centre=known.centre, detector_to_scan=known.matrix, aberrations=known.aberrations)
    data, notes = with_defocus(data, nominal + known.defocus_offset)
    if known.aperture == "measured":
        data = replace(data, aperture=measured_aperture(data))
    sd = {name: value for name, value in known.sd.items() if name != "defocus"}
    if enabled:
        tuned = tune(data, {"defocus": DEFOCUS_REPEATS}, on_progress=on_progress)
        data = tuned.data
        sd |= _measured_sd(tuned)
    return Measured(data, replace(known, defocus_offset=data.defocus - nominal, sd=sd), notes)


def refined(measured: Measured, wanted: tuple[str, ...], on_progress: Callable[[float], None]) -> Measured:
    """An acquisition with more of its optics measured by likelihood, around what is known of it.

    Args:
        measured: the acquisition.
        wanted: names as in `ReconstructionSettings.refine_optics`.
        on_progress: called with the fraction done.
    """
    from agent.reconstruction import tune, widths

    before, state = measured.data, measured.state
    tuned = tune(before, widths(before, wanted), on_progress=on_progress)
    if not tuned.improved:
        return measured
    data = tuned.data
    state = replace(
        state,
        centre=state.centre if data.centre is None else data.centre,
        matrix=np.asarray(data.detector_to_scan),
        defocus_offset=state.defocus_offset + data.defocus - before.defocus,
        aberrations=dict(data.aberrations),
        sd={**state.sd, **_measured_sd(tuned)},
    )
    return replace(measured, data=data, state=state)


def _disc(data: DiffractionData) -> BrightFieldDisc:
    """The bright-field disc in the mean pattern."""
    from agent.reconstruction import fit_disc

    return fit_disc(data.look().mean, data.mask)


def _measured_sd(tuned: Tuned) -> dict[str, float]:
    """Standard deviations of what was found, named as in `Optics.sd`; empty where the start was kept.

    Aberrations are found in Cartesian form, C_a = C cos mφ and C_b = C sin mφ, and are told as magnitude and angle. The angle
    of an aberration that is nothing but noise is unknown; its deviation ends at that of all angles alike, (2π/m)/√12.
    """
    if not tuned.improved:
        return {}
    sd = dict(tuned.uncertainty)
    for name in sorted(name[:3] for name in sd if len(name) == 4 and name.endswith("a")):
        m = int(name[2])
        size, angle = tuned.data.aberrations.get(name, 0.0), m * tuned.data.aberrations.get(f"phi{name[1:]}", 0.0)
        a, b = sd.pop(f"{name}a"), sd.pop(f"{name}b")
        sd[name] = float(np.hypot(a * np.cos(angle), b * np.sin(angle)))
        across = float(np.hypot(a * np.sin(angle), b * np.cos(angle)))
        sd[f"phi{name[1:]}"] = min(across / max(m * size, 1e-9), 2 * np.pi / m / np.sqrt(12))
    return sd


def _from_likelihood(
    data: DiffractionData, on_progress: Callable[[float], None]
) -> tuple[DiffractionData, str, dict[str, float]]:
    """Defocus, two-fold astigmatism and rotation, around what set-point and instrument say; a note; standard deviations."""
    from agent.reconstruction import tune, widths

    nominal = data.defocus
    tuned = tune(data, widths(data, ("defocus", "C12", "rotation")), on_progress=on_progress)
    if not tuned.improved:
        note = (
            f"the counts do not tell defocus, astigmatism and rotation better than the set-point of {nominal:g} Å and what "
            "the instrument says, which are used"
        )
        return data, note, {}
    data, sd = tuned.data, _measured_sd(tuned)
    assert data.detector_to_scan is not None
    rotation, _ = optics.rotation_and_hand(data.detector_to_scan)
    note = (
        f"measured: defocus {data.defocus:.4g} ± {sd['defocus']:.2g} Å (set-point {nominal:.4g} Å), "
        f"detector rotation {np.degrees(rotation):.2f} ± {np.degrees(sd['rotation']):.1g}°, "
        f"two-fold astigmatism {data.aberrations.get('C12', 0.0):.2g} ± {sd['C12']:.1g} Å"
    )
    return data, note, sd


def _with_better_aperture(data: DiffractionData) -> DiffractionData | None:
    """The data with the aperture as measured, where it explains the counts better than an even disc; None otherwise."""
    from agent.reconstruction import deviance_of_part

    uneven = replace(data, aperture=measured_aperture(data))
    return uneven if deviance_of_part(uneven) < deviance_of_part(data) else None


def measured_aperture(data: DiffractionData) -> NDArray[np.float64]:
    """(ky, kx) amplitude of the bright-field disc: the root of the mean pattern. The engine cuts it outside the disc."""
    mean = data.look().mean
    return np.sqrt(mean if data.mask is None else np.where(data.mask, mean, 0.0))
