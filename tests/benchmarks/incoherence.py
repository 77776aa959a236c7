"""What partial coherence leaves of the information, and how much of that the engine reaches, on columns drawn by seed.

For each column: the information that the picture has of the true phase, ½ ∫ log2(1 + C²/(1 − C²)) 2πk dk with the ring
correlation C, in bit/Å², beside that of a picture whose error is as large as the Cramér–Rao bound with the column's incoherence
(`information.py`; optics and positions known, one slice); with one probe mode, and with the modes of source size and
focal spread. The engine is told the true optics. Seconds are of one mode, of these modes, and of as many free ones.

    python tests/benchmarks/incoherence.py [--seeds 200 …] [--doses 1e3 1e4 1e5] [--passes 20] [--no-bound]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import examples  # noqa: E402
from information import Information  # noqa: E402
from scipy.ndimage import shift as shifted  # noqa: E402
from scipy.optimize import minimize  # noqa: E402

from agent.config import ScoreChoice  # noqa: E402
from agent.reconstruction import DiffractionData, ReconstructionSettings, reconstruct  # noqa: E402
from agent.reconstruction.model import forward, geometry, start  # noqa: E402
from agent.scoring.regions import crop  # noqa: E402
from agent.scoring.ring_correlation import ring_correlation  # noqa: E402
from instrument import optics  # noqa: E402
from instrument.models import Rectangle  # noqa: E402
from sim_instrument import Column, SpecimenOptions, build_specimen, true_phase  # noqa: E402
from sim_instrument.simulation import expected_intensities  # noqa: E402
from sim_instrument.zoo import random_column, random_specimen  # noqa: E402

CHOICE = ScoreChoice()
SIDE = 20
"""Positions along an edge of the scan."""
MARGIN = 8
"""Pixels of the truth beyond the scored square."""
KNOWN: dict[str, Any] = {
    "rotation": 0.0, "rotation_error": 0.0, "mirrored": False, "defocus_offset": 0.0, "defocus_scale": 1.0, "drift": 0.0,
    "point_spread": 0.0, "dead_pixels": 0, "hot_pixels": 0, "jitter": 0.0, "max_defocus": 1e6,
}  # fmt: skip
"""Fields of a column that are not looked at here: told, or 0."""


@dataclass(frozen=True)
class Case:
    """An experiment without counts.

    Attributes:
        name: of the column.
        data: with the true optics, defocus that of the specimen's middle.
        expected: (n, ky, kx) intensities per electron.
        truth: (y, x) rad on the pixels of reconstructions, MARGIN larger than `square` on every side.
        square: that is scored.
    """

    name: str
    data: DiffractionData
    expected: NDArray[np.float32]
    truth: NDArray[np.float64]
    square: Rectangle


def drawn(seed: int, *, jitter: bool = False) -> Case:
    """A column, a specimen and settings, all drawn."""
    column = random_column(seed)
    keep = {"jitter": column.jitter} if jitter else {}
    column = column.model_copy(update=KNOWN | keep)
    rng = np.random.default_rng([seed, 25])
    finest = 1e3 * optics.wavelength(column.voltage) / column.semiangle
    step = float(rng.uniform(0.8, 1.3)) * finest
    defocus = float(rng.uniform(2, 5)) * step / (2e-3 * column.semiangle) * (1 if rng.random() < 0.7 else -1)
    return made(f"seed {seed}", column, random_specimen(seed), step, defocus)


def made(name: str, column: Column, options: SpecimenOptions, step: float, defocus: float) -> Case:
    """An experiment in a column whose optics are told.

    Args:
        step: Å.
        defocus: of the specimen's middle, Å.
    """
    specimen = build_specimen(options)
    middle = float(np.mean(specimen.layer_depth))
    size = SIDE * step
    y = x = options.size / 2 - size / 2
    plan = examples.plan("incoherence", size, y, x, step=step, defocus=defocus + middle, dose=1.0)
    expected = expected_intensities(plan, specimen, column)
    data = DiffractionData(
        expected.reshape(-1, *expected.shape[2:]),
        plan.scan_positions(),
        column.voltage,
        column.semiangle,
        column.angular_pixel,
        defocus,
        aberrations=dict(column.aberrations),
        area_integration=column.pixel_area,
        source_size=column.source_size,
        focal_spread=column.focal_spread,
        position_jitter=column.jitter,
    )
    rim = max(2.0, 1.5 * step)
    square = Rectangle(y=y + rim, x=x + rim, height=size - 2 * rim, width=size - 2 * rim)
    pixel = data.pixel_size[0]
    return Case(name, data, data.patterns, _truth(specimen, square, pixel, column.voltage), square)


def _truth(specimen: Any, square: Rectangle, pixel: float, voltage: float) -> NDArray[np.float64]:
    """The true phase on pixels that are not those of any picture: it is moved to them when they are compared."""
    return true_phase(specimen, square.grown(MARGIN * pixel), pixel, voltage).astype(np.float64)


def counted(case: Case, dose: float, seed: int = 0) -> DiffractionData:
    """Counts at a dose, e/Å²."""
    step = float(np.abs(case.data.positions[1] - case.data.positions[0]).max())
    drawn_counts = np.random.default_rng([seed, round(dose)]).poisson(case.expected.astype(np.float64) * dose * step**2)
    return replace(case.data, patterns=drawn_counts.astype(np.uint16))


def information(picture: NDArray[np.floating], origin: Any, pixel: tuple[float, float], case: Case) -> float:
    """Bit/Å² that a picture has of the truth, after the best sub-pixel shift."""
    image = crop(picture, origin, pixel, case.square)
    return _informed(np.asarray(image, np.float64), case.truth, pixel)


def _moved(truth: NDArray[np.float64], offset: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    moved = shifted(truth, offset, order=3)
    return np.asarray(moved[MARGIN : MARGIN + shape[0], MARGIN : MARGIN + shape[1]], np.float64)


def _informed(image: NDArray[np.float64], truth: NDArray[np.float64], pixel: tuple[float, float]) -> float:
    size = tuple(min(n, m - 2 * MARGIN) for n, m in zip(image.shape, truth.shape, strict=True))
    image = image[: size[0], : size[1]]

    def correlation(offset: NDArray[np.float64]) -> NDArray[np.float64]:
        return ring_correlation([(image, _moved(truth, offset, size))], pixel, CHOICE).frc

    starts = [(y, x) for y in range(-5, 6, 2) for x in range(-5, 6, 2)]
    best = max(starts, key=lambda s: correlation(np.array(s, float)).sum())
    options = {"xatol": 0.02, "maxiter": 60}
    found = minimize(lambda s: -correlation(s).sum(), best, method="Nelder-Mead", options=options).x
    spectrum = ring_correlation([(image, _moved(truth, found, size))], pixel, CHOICE)
    c = np.clip(spectrum.frc, 0, 0.9995)
    return float((0.5 * np.log2(1 + c**2 / (1 - c**2)) * np.pi * np.diff(spectrum.edges**2)).sum())


def bound(case: Case, specimen_phase: NDArray[np.float64], doses: list[float]) -> list[float]:
    """Bit/Å² of the truth with errors as large as the Cramér–Rao bound, at each dose.

    Args:
        specimen_phase: (y, x) rad, true, on the whole object grid.
    """
    data, settings = case.data, ReconstructionSettings()
    shape = geometry.extended(data.patterns.shape, 1.0)
    geo = geometry.locate(data, shape=shape)
    step = float(np.abs(data.positions[1] - data.positions[0]).max())
    modes, _ = start.model_probe(data, settings, geo, shape)
    problem, unknowns = forward.known(np.exp(1j * specimen_phase)[None], modes * step, geo.corners, geo.subpixel_shifts)
    problem.transfer = start.transfer(data, shape)
    experiment = Information(problem, unknowns)
    error = experiment.drawn(0, alike=True)
    found = []
    for dose in doses:
        image = crop(specimen_phase + error / np.sqrt(dose), geo.origin, geo.pixel_size, case.square)
        clean = crop(specimen_phase, geo.origin, geo.pixel_size, case.square)
        spectrum = ring_correlation([(image.astype(np.float64), clean.astype(np.float64))], geo.pixel_size, CHOICE)
        c = np.clip(spectrum.frc, 0, 0.9995)
        found.append(float((0.5 * np.log2(1 + c**2 / (1 - c**2)) * np.pi * np.diff(spectrum.edges**2)).sum()))
    return found


def _phase(case: Case, seed: int) -> NDArray[np.float64]:
    """(y, x) rad, true, on the object grid of the case."""
    data = case.data
    geo = geometry.locate(data, shape=geometry.extended(data.patterns.shape, 1.0))
    (n_y, n_x), pixel = geo.object_shape, geo.pixel_size[0]
    window = Rectangle(y=geo.origin[0], x=geo.origin[1], height=n_y * pixel, width=n_x * pixel)
    phase = true_phase(build_specimen(random_specimen(seed)), window, pixel, data.voltage)
    return phase[:n_y, :n_x].astype(np.float64)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(200, 206)))
    parser.add_argument("--doses", type=float, nargs="+", default=[1e3, 1e4, 1e5])
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--no-bound", action="store_true", help="leave out the Cramér–Rao bound (minutes a column)")
    chosen = parser.parse_args()
    settings = ReconstructionSettings(max_passes=chosen.passes, stop_early=False, quantitative=False, device="cpu")
    print("                                                                     bit/Å²               s of 12 passes")
    print("column    kV  mrad  source Å  focus Å  modes   dose   bound  one mode  tied  tied/bound   one  tied  free")
    for seed in chosen.seeds:
        case = drawn(seed)
        told, blind = case.data, replace(case.data, source_size=0.0, focal_spread=0.0)
        bounds = [np.nan] * len(chosen.doses) if chosen.no_bound else bound(case, _phase(case, seed), chosen.doses)
        for dose, allowed in zip(chosen.doses, bounds, strict=True):
            patterns = counted(case, dose).patterns
            one, tied = (reconstruct(replace(data, patterns=patterns), settings) for data in (blind, told))
            modes = len(tied.probe)
            free = reconstruct(replace(blind, patterns=patterns), replace(settings, max_passes=12, probe_modes=modes))
            reached = [information(r.phase, r.origin, r.pixel_size, case) for r in (one, tied)]
            seconds = [r.seconds * 12 / r.passes for r in (one, tied, free)]
            print(
                f"{case.name:9}{told.voltage / 1e3:3.0f} {told.semiangle:5.1f} {np.max(told.source_size):9.2f} "
                f"{told.focal_spread:8.1f} {modes:6d} {dose:6.0e} {allowed:7.2f} {reached[0]:9.2f} {reached[1]:5.2f} "
                f"{reached[1] / allowed:11.2f} {' '.join(f'{s:5.1f}' for s in seconds)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
