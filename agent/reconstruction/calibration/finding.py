"""The optics of a scan found from set-points that are far off, or why they are not found (README, "From far away")."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.calibration import parameters
from agent.reconstruction.calibration.expectation import central_part, short_settings
from agent.reconstruction.calibration.incoherence import measure_incoherence
from agent.reconstruction.calibration.surface import APART, Minimum, Surface
from agent.reconstruction.kernels import cuda
from agent.reconstruction.kernels.cuda import GpuFailedError
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.geometry import legal_length
from agent.reconstruction.model.settings import ReconstructionSettings

COARSE_POSITIONS, FINE_POSITIONS = 121, 256
REACH = 3.0
"""Standard deviations of what was known before within which the defocus is sought."""
DEEP, MOST_STARTS = 0.6, 2
"""Part of the range of losses that a minimum has to be deep, and how many are followed."""
FLOOR, FLOORED = 0.1, ("defocus", "C12a", "C12b")
"""Smallest standard deviation in natural units, and of which parameters."""
UNKNOWN_C30 = 0.25
"""Natural units of defocus that a spherical aberration nobody has told leaves open (README, "From far away")."""
FARTHEST, SURELY, TOLD = 3.5, 3.0, 0.7
"""Standard deviations of what was known before within which a defocus is believed, with so many of its own to either side, and
part of them that its own has to be below."""

BAD, VAGUE = 0.15, 2.0
"""Deviance that counting does not explain, over the one that it does, from which on it is told (0.02 to 0.06 of thin crystals);
natural units that the defocus is uncertain by for each of it."""
DEFOCUS_REPEATS = 20.0
"""Standard deviation, Å, of what a lens makes of the same set-point from one acquisition to the next."""
SURROUNDINGS = 1.2
"""Radius, in radii of the disc, that nothing is folded into where patterns are cut to their middle."""


@dataclass(frozen=True)
class Tuned:
    """The data with the optics found, and what is known of them.

    Attributes:
        data: as given, with the parameters replaced.
        uncertainty: parameter -> standard deviation in its unit, what was known before included.
        deviance: per detector pixel used, of a short reconstruction; NaN where nothing but noise was seen.
        evaluations: reconstructions made.
        improved: whether anything better than the start was found; False: `data` is the start.
        doubt: why what was found is not believed; empty where nothing was found, or nothing speaks against it.
    """

    data: DiffractionData
    uncertainty: Mapping[str, float]
    deviance: float
    evaluations: int
    improved: bool = True
    doubt: str = ""


def find(
    data: DiffractionData,
    widths: Mapping[str, float],
    *,
    settings: ReconstructionSettings | None = None,
    n_positions: int = FINE_POSITIONS,
    deeper: float = 0.0,
    on_progress: Callable[[float], None] | None = None,
) -> Tuned:
    """Find the parameters named in `widths`: the defocus first and from afar, then all together.

    Args:
        data: what was known before.
        widths: parameter (see `parameters`) -> standard deviation, in its unit, of what was known.
        settings: the physics that reconstructions are made with.
        n_positions: positions used, the dense square in the middle of the scan.
        deeper: Å, standard deviation, by which the specimen's middle may lie below what the defocus was set for, beside `widths`.
        on_progress: called with the fraction done.

    Returns:
        What was found; `improved` is False, and the data as they were given, where the counts do not tell.
    """
    chosen = short_settings(settings or ReconstructionSettings(background=False))
    small, (row, column) = middle_of_patterns(data)
    surface = Surface(part_of_scan(small, COARSE_POSITIONS), chosen, widths, deeper=deeper)
    starts = [surface.before]
    if "defocus" in widths:
        starts = _starts(surface, widths["defocus"], deeper, parameters.unit(data, "defocus"))
    tell(on_progress, 0.2)
    ends = sorted((surface.descend(start) for start in starts), key=lambda end: end.loss)
    rival = surface.rival(ends)
    tell(on_progress, 0.6)
    fine = Surface(part_of_scan(small, n_positions), chosen, widths, deeper=deeper)
    end = fine.refine(ends[0].values)
    tell(on_progress, 1.0)
    assert end.sd is not None
    sd = dict(zip(surface.names, np.hypot(end.sd, _floors(data, surface.names, end.misfit)).tolist(), strict=True))
    found = dict(zip(surface.names, end.values.tolist(), strict=True))
    deviance, evaluations = end.loss / fine.counts.size, surface.function.evaluations + fine.function.evaluations
    if doubt := _doubt(data, widths, deeper, found, sd, end.misfit) or _two_defoci(surface.names, ends[0], rival):
        return Tuned(data, dict(widths), deviance, evaluations, improved=False, doubt=doubt)
    offset = {"row": row, "column": column}
    found = {name: value + offset.get(name, 0) for name, value in found.items()}
    return Tuned(parameters.with_values(data, found), sd, deviance, evaluations)


def measure(data: DiffractionData, settings: ReconstructionSettings, known: Mapping[str, float]) -> Tuned:
    """`find` for a reconstruction with these settings.

    Args:
        known: parameter -> standard deviation, where an earlier acquisition of the same column has told; a defocus is set anew.

    Raises:
        BadInputError: for an unknown name in `settings.refine_optics`.
    """
    widths = parameters.widths(data, settings.refine_optics)
    for name in widths.keys() & known.keys():
        again = DEFOCUS_REPEATS if name == "defocus" else 0.0
        widths[name] = min(widths[name], float(np.hypot(known[name], again)))
    try:
        with cuda.failures():
            return _measured(data, widths, settings)
    except GpuFailedError:
        return _measured(data, widths, replace(settings, device="cpu"))


def _measured(data: DiffractionData, widths: Mapping[str, float], settings: ReconstructionSettings) -> Tuned:
    """Geometry and aberrations first; then, with these, source size and focal spread."""
    blur = {name: width for name, width in widths.items() if name in parameters.INCOHERENCE}
    other = {name: width for name, width in widths.items() if name not in blur}
    tuned = find(data, other, settings=settings) if other else Tuned(data, {}, np.nan, 0)
    if not blur:
        return tuned
    found, sd = measure_incoherence(tuned.data, blur, settings)
    return replace(tuned, data=found, uncertainty={**tuned.uncertainty, **sd})


def _doubt(
    data: DiffractionData,
    widths: Mapping[str, float],
    deeper: float,
    found: Mapping[str, float],
    sd: Mapping[str, float],
    misfit: float,
) -> str:
    """Why what was found is not believed; empty: it is."""
    if not all(bool(np.isfinite(width)) for width in sd.values()):
        return "the counts leave parameters open"
    if "defocus" not in widths:
        return ""
    value, error = found["defocus"], sd["defocus"]
    reach = np.hypot(widths["defocus"], deeper if value < data.defocus else 0.0)
    if abs(value - data.defocus) + SURELY * error < FARTHEST * reach and error < TOLD * reach:
        return ""
    best = f"{value:.4g} ± {error:.2g} Å is best, too far from what was expected or too vague to be believed"
    if misfit < BAD:
        return best
    return f"{best}: the deviance is {1 + misfit:.1f} times what counting explains, as where the specimen is thick"


def _two_defoci(names: tuple[str, ...], best: Minimum, rival: Minimum | None) -> str:
    """That two defoci explain the counts; empty: one does."""
    if rival is None:
        return ""
    one, other = (end.values[names.index("defocus")] for end in (best, rival))
    return f"{one:.4g} and {other:.4g} Å explain the counts alike"


def _floors(data: DiffractionData, names: tuple[str, ...], misfit: float) -> list[float]:
    """What a specimen that is not thin and a detector that is not perfect leave open, in the parameters' units."""
    units = [FLOOR if name in FLOORED else 0.0 for name in names]
    if "defocus" in names:
        lens = FLOOR if "C30" in names or data.aberrations.get("C30") else UNKNOWN_C30
        units[names.index("defocus")] = float(np.hypot(lens, VAGUE * misfit))
    return [each * parameters.unit(data, name) for each, name in zip(units, names, strict=True)]


def _starts(surface: Surface, width: float, deeper: float, unit: float) -> list[NDArray[np.float64]]:
    """Values to descend from: the deep minima along the defocus, those that were expected more first."""
    below, above = (int(np.ceil(REACH * reach / unit)) for reach in (np.hypot(width, deeper), width))
    offsets = unit * np.arange(-below, above + 1)
    losses = np.array([surface.along("defocus", offset) for offset in offsets])
    padded = np.concatenate([[np.inf], losses, [np.inf]])
    inner = [i for i in range(len(losses)) if padded[i + 1] <= min(padded[i], padded[i + 2])]
    deep = [i for i in inner if losses.max() - losses[i] > DEEP * np.ptp(losses)]
    deep.sort(key=lambda i: abs(offsets[i]))
    kept: list[int] = []
    for i in deep:
        if all(abs(i - other) >= APART for other in kept):
            kept.append(i)
    where, starts = surface.names.index("defocus"), []
    for i in kept[:MOST_STARTS]:
        start = surface.before.copy()
        start[where] += offsets[i]
        starts.append(start)
    return starts


def part_of_scan(data: DiffractionData, n_positions: int) -> DiffractionData:
    """The dense square in the middle of the scan."""
    part = central_part(data, n_positions)
    return data.at(part)


def middle_of_patterns(data: DiffractionData) -> tuple[DiffractionData, tuple[int, int]]:
    """The middle of the patterns, and its first (row, column).

    A wave scattered by an object of N pixels reaches N/2 beyond the disc's rim and is folded back to N/2 less the disc's radius
    at most: within SURROUNDINGS the smaller patterns are those of a band-limited object. Counts beyond are kept all the same:
    without them the noise in the object goes unpunished, and the defocus is biased by 2 sd at 1e3 e/Å².
    """
    radius = data.semiangle / data.angular_pixel
    shape = data.patterns.shape[1:]
    size = [min(n, legal_length(int(np.ceil(2 * (1 + SURROUNDINGS) * radius)))) for n in shape]
    if tuple(size) == shape:
        return data, (0, 0)
    centre = np.array([n // 2 for n in shape] if data.centre is None else data.centre, float)
    first = [int(np.clip(round(c) - s // 2, 0, n - s)) for c, s, n in zip(centre, size, shape, strict=True)]
    part = tuple(slice(f, f + s) for f, s in zip(first, size, strict=True))
    return replace(
        data,
        patterns=data.patterns[:, part[0], part[1]],
        centre=(float(centre[0] - first[0]), float(centre[1] - first[1])),
        mask=None if data.mask is None else data.mask[part],
        aperture=None if data.aperture is None else data.aperture[part],
    ), (first[0], first[1])


def tell(on_progress: Callable[[float], None] | None, done: float) -> None:
    """Pass on which fraction is done."""
    if on_progress is not None:
        on_progress(done)
