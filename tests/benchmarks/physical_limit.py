"""Error of the phase over the physical limit, frequency by frequency: `make limit` prints the table and draws the figure.

A measurement in the diffraction plane leaves a phase error of at least 1/(2 dose) rad²Å² at every spatial frequency. Here the
error spectrum of reconstructions is divided by it: a thin object (random atoms, one slice, simulated by the engine's own
forward model) and bilayer MoS₂ (abTEM; its truth is the phase of what abTEM multiplied its waves by: see `seen`). Every seed has
counts of its own. Step 1.5 Å, 80 kV, 21.4 mrad, 20 nm; the engine starts from a defocus that is 3 % wrong.
Both without and with regularisation. How near an experiment with these settings can come is in `information.py`. Peers come from
the results of `make bench-peers`.

    python tests/benchmarks/physical_limit.py [--seeds 4] [--doses 3e2 …] [--objects thin] [--device gpu] [--no-information] …
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "peers"), str(HERE.parent / "physics")]

import data as recordings  # noqa: E402
import phantom  # noqa: E402
import score  # noqa: E402
from information import Information  # noqa: E402

from agent.reconstruction import (  # noqa: E402
    DiffractionData,
    Reconstruction,
    ReconstructionSettings,
    reconstruct,
)
from agent.reconstruction.counts.layout import framed  # noqa: E402
from agent.reconstruction.model import forward, geometry, probe, start  # noqa: E402
from instrument import optics  # noqa: E402

DOSES = (1e2, 3e2, 1e3, 3e3, 1e4, 3e4, 1e5, 1e6)
FINE = tuple((k, k + 0.125) for k in np.arange(0.0, 1.5, 0.125))
VOLTAGE, SEMIANGLE = phantom.VOLTAGE, phantom.SEMIANGLE
N, ANGULAR_PIXEL, STEP, FIELD, DEFOCUS = 128, 1.096, 1.5, 32.0, 200.0
SLICES, GRID, SPACING, APART = 0.205, 384, 6.15, 1.0
"""Å and pixels of the simulated bilayer, and Å from layer to layer. abTEM moves atoms to the next slice: with slices of 0.5 Å its
layers come to lie 5.9 Å apart. On fewer pixels nothing is scattered beyond the detector, as it is in a microscope. The
engine takes each layer, 3.1 Å from S to S, for two planes that lie APART Å: two that share every atom stand for a heavier atom
between two lighter ones. Without noise 0.75 Å apart make all phases 0.1 % too strong, 1.25 Å 0.5 % too weak."""
WRONG = 1.03
"""Factor of the defocus that the engine is told: a microscope's calibration is good to a few per cent."""
REGULARISED = ", regularised"
SCORED = 22.0
"""Edge in Å of the square in the middle that is compared."""


def thin_object() -> tuple[DiffractionData, NDArray[np.float64], NDArray[np.float64]]:
    """(experiment without counts, true phase on its object grid, expected electrons per e/Å² of dose and position)."""
    return phantom.thin_object((N, N), ANGULAR_PIXEL, step=STEP, field=FIELD, defocus=DEFOCUS, rim=20, count=1800)


def first_pixel(origin: tuple[float, float], pixel: tuple[float, float]) -> list[int]:
    """(row, column) where the scored square begins in an image whose first pixel lies at `origin`, Å from the scan's corner."""
    return [round(((FIELD - SCORED) / 2 - o) / p) for o, p in zip(origin, pixel, strict=True)]


def middle(image: NDArray[np.floating], origin: tuple[float, float], pixel: tuple[float, float]) -> NDArray[np.float64]:
    """The scored square of an image whose first pixel lies at `origin`."""
    n = round(SCORED / pixel[0])
    row, column = first_pixel(origin, pixel)
    return np.asarray(image[row : row + n, column : column + n], np.float64)


def aligned(picture: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """`truth` moved by the sub-pixel shift that fits `picture` best: where probe and object lie together nobody can tell."""
    n = len(truth)
    window = np.hanning(n)[:, None] * np.hanning(n)[None, :]
    k = np.fft.fftfreq(n)
    ramps = 2j * np.pi * k[:, None] + 0 * k[None, :], 2j * np.pi * k[None, :] + 0 * k[:, None]
    spectrum, goal = np.fft.fft2(truth), np.fft.fft2((picture - picture.mean()) * window)
    shift = np.zeros(2)
    for _ in range(4):
        moved = np.fft.ifft2(spectrum * np.exp(ramps[0] * shift[0] + ramps[1] * shift[1])).real
        slopes = [np.fft.ifft2(np.fft.fft2(moved) * ramp).real for ramp in ramps]
        tapered = [np.fft.fft2((image - image.mean()) * window).ravel() for image in (*slopes, moved)]
        matrix = np.array([[np.vdot(a, b).real for b in tapered[:2]] for a in tapered[:2]])
        shift += np.linalg.solve(matrix, [np.vdot(a, goal.ravel() - tapered[2]).real for a in tapered[:2]])
    return np.fft.ifft2(spectrum * np.exp(ramps[0] * shift[0] + ramps[1] * shift[1])).real


class Row:
    """Means over seeds of one object at one dose."""

    def __init__(self, name: str, dose: float) -> None:
        self.name, self.dose = name, dose
        self.bands: list[tuple[float, ...]] = []
        self.fine: list[tuple[float, ...]] = []
        self.scales: list[float] = []
        self.passes: list[int] = []

    def add(self, picture: NDArray[np.float64], truth: NDArray[np.float64], pixel: float, passes: int) -> None:
        """One reconstruction of a truth that is aligned with it."""
        picture = picture - picture.mean() + truth.mean()
        self.bands.append(score.error_over_limit(picture, truth, pixel, self.dose))
        self.fine.append(score.error_over_limit(picture, truth, pixel, self.dose, FINE))
        self.scales.append(score.phase_scale(picture, truth, pixel))
        self.passes.append(passes)

    def text(self) -> str:
        """A line of the table."""
        bands = " ".join(f"{value:7.2f}" for value in np.mean(self.bands, axis=0))
        if len(self.bands) > 4:  # their errors, where there are enough to tell
            bands += " ±" + " ".join(f"{v:5.2f}" for v in np.std(self.bands, axis=0, ddof=1) / np.sqrt(len(self.bands)))
        scale = f"{np.mean(self.scales):.3f} ± {np.std(self.scales) / np.sqrt(max(len(self.scales), 1)):.3f}"
        return f"{self.name:<35} {self.dose:6.0e} {bands}   {scale}   {np.mean(self.passes):.0f}"


def averaged(
    name: str,
    data: DiffractionData,
    expected: NDArray[np.floating],
    truth: Callable[[Reconstruction], NDArray[np.float64]],
    settings: ReconstructionSettings,
    doses: Sequence[float],
    seeds: int,
) -> list[Row]:
    """One object at every dose.

    Args:
        data: the experiment, without counts.
        expected: (n, ky, kx) electrons per e/Å² of dose.
        truth: the true phase on the scored square of a reconstruction.
    """
    rows = []
    for dose in doses:
        row = Row(name + REGULARISED * settings.regularise, dose)
        for seed in range(seeds):
            counts = np.random.default_rng([seed, int(dose)]).poisson(expected * dose)
            told = replace(data, patterns=counts.astype(np.uint32), defocus=WRONG * data.defocus)
            result = reconstruct(told, replace(settings, seed=seed))
            picture = middle(result.phase, result.origin, result.pixel_size)
            row.add(picture, aligned(picture, truth(result)), result.pixel_size[0], result.passes)
        rows.append(row)
        print(row.text(), flush=True)
    return rows


def ours_thin(doses: Sequence[float], seeds: int, regularise: bool, device: Literal["cpu", "gpu"]) -> list[Row]:
    """The thin object in one slice."""
    data, phase, expected = thin_object()
    geo = geometry.locate(data)
    truth = middle(phase, geo.origin, geo.pixel_size)
    settings = ReconstructionSettings(device=device, regularise=regularise)
    return averaged("thin object, 1 slice", data, expected, lambda _: truth, settings, doses, seeds)


def seen() -> NDArray[np.float64]:
    """(2, DETECTOR, DETECTOR) rad, what the bilayer's electrons saw of each layer: Σ over slices of their transmission's angle.

    abTEM cuts exp(iσV) of every slice off at two thirds of its grid's highest frequency. Mo columns shift the phase by more than
    a radian, so that what is left absorbs, and its phase is not that of the projected potential: a layer's is 0.4 % weaker over
    0.25–1.0 1/Å, 2 % in 0.75–1.0 1/Å.
    """
    from abtem.core.energy import energy2sigma

    k = np.fft.fftfreq(GRID)
    kept = np.hypot(k[:, None], k[None, :]) < np.abs(k).max() * 2 / 3
    transmission = np.exp(1j * energy2sigma(VOLTAGE) * recordings.potential(SLICES, GRID).array.astype(np.float64))
    phase = np.angle(np.fft.ifft2(np.fft.fft2(transmission) * kept))
    atoms = recordings.bilayer()
    heights = atoms.positions[:, 2]
    between = round(len(phase) * (heights.min() + heights.max()) / 2 / atoms.cell[2, 2])
    layers = np.stack([phase[:between].sum(axis=0), phase[between:].sum(axis=0)])
    spectra = np.fft.fftshift(np.fft.fft2(layers), axes=(1, 2))
    spectra = recordings.central(spectra) * (recordings.DETECTOR / GRID) ** 2
    return np.fft.ifft2(np.fft.ifftshift(spectra, axes=(1, 2))).real


@cache
def bilayer() -> tuple[DiffractionData, NDArray[np.float32], float]:
    """(experiment without counts, expected electrons per e/Å² of dose, Å from the cell's corner to the first position)."""
    intensity, start = recordings.diffraction(recordings.potential(SLICES, GRID), STEP, DEFOCUS)
    axis = np.arange(len(intensity)) * STEP
    positions = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    expected = np.maximum(intensity, 0).reshape(-1, *intensity.shape[2:]) * np.float32(STEP**2)
    angular_pixel = 1e3 * optics.wavelength(VOLTAGE) / recordings.CELL
    # abTEM's positive C10 is overfocus
    data = DiffractionData(np.zeros(expected.shape, np.uint8), positions, VOLTAGE, SEMIANGLE, angular_pixel, -DEFOCUS)
    return data, expected, start


def on_grid(image: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """A periodic image of an even number of pixels on n × n, without new frequencies."""
    spectrum, rim = np.fft.fftshift(np.fft.fft2(image)), (n - len(image)) // 2
    return np.fft.ifft2(np.fft.ifftshift(np.pad(spectrum, rim))).real * (n / len(image)) ** 2


def ours_bilayer(doses: Sequence[float], seeds: int, regularise: bool, device: Literal["cpu", "gpu"]) -> list[Row]:
    """Bilayer MoS₂ in four slices, two for each layer."""
    data, expected, first_position = bilayer()
    phase = seen().sum(axis=0)

    def truth(result: Reconstruction) -> NDArray[np.float64]:
        pixel = result.pixel_size[0]
        n, corner = round(SCORED / pixel), np.array(first_pixel(result.origin, result.pixel_size))
        corner = corner + [(first_position + o) / pixel for o in result.origin]
        return score.sample(on_grid(phase, round(recordings.CELL / pixel)), corner, n)

    gaps = (APART, SPACING - APART, APART)
    settings = ReconstructionSettings(device=device, slices=4, slice_spacing=gaps, regularise=regularise)
    return averaged("bilayer MoS2, 4 slices", data, expected, truth, settings, doses, seeds)


def information(seeds: int) -> None:
    """Print the Cramér–Rao bound with the probe known: of the thin object, and of the bilayer as one slice for each layer."""
    thin, phase, _ = thin_object()
    fine = round(1.5 * N)  # the detector extended as the engine does
    extended = replace(thin, patterns=np.zeros((len(thin.positions), fine, fine), np.uint8))
    geo = geometry.locate(extended)
    period = round(recordings.CELL / geo.pixel_size[0])
    tiles = [-(-size // period) for size in geo.object_shape]
    periodic = [np.tile(on_grid(layer, period), tiles) for layer in seen()]
    layers = np.stack([image[: geo.object_shape[0], : geo.object_shape[1]] for image in periodic])
    for name, told, slices, alike in (
        ("thin object", thin, phase[None], False),
        ("bilayer, free slices", extended, layers, False),
        ("bilayer, difference known", extended, layers, True),
    ):
        geo, shape = geometry.locate(told), told.patterns.shape[1:]
        wave = probe.aperture_wave(shape, ANGULAR_PIXEL, VOLTAGE, SEMIANGLE, {"C10": -DEFOCUS})
        wave = wave * (STEP / np.linalg.norm(wave))
        problem, unknowns = forward.known(np.exp(1j * slices), wave[None], geo.corners, geo.subpixel_shifts)
        settings = ReconstructionSettings(slices=len(slices), slice_spacing=SPACING)
        problem.propagators = start.propagators(told, settings, geo, shape)
        problem.mask = framed(np.ones((1, N, N), np.float32), (-N // 2, -N // 2), shape)[0]
        experiment = Information(problem, unknowns)
        errors = [middle(experiment.drawn(seed, alike), geo.origin, geo.pixel_size) for seed in range(seeds)]
        bands = np.mean([score.error_over_limit(e, 0 * e, geo.pixel_size[0], 1.0) for e in errors], axis=0)
        print(f"{'bound: ' + name:<41}", " ".join(f"{value:7.2f}" for value in bands), flush=True)


def draw(rows: list[Row], peers: list[dict[str, Any]], figure: Path) -> None:
    """Error over limit against frequency, a panel for each object; below, the peers' bands beside ours on the bilayer."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row.name for row in rows))
    doses = sorted({line["file"] for line in peers}, key=lambda file: float(str(file).split("_d")[1]))
    across, down = max(len(names), len(doses)), 2 if peers else 1
    canvas, panels = plt.subplots(down, across, figsize=(4.2 * across, 4 * down), sharey=True, squeeze=False)
    centres = [sum(band) / 2 for band in FINE]
    for panel, name in zip(panels[0], names, strict=False):
        for row in (row for row in rows if row.name == name):
            panel.plot(centres, np.mean(row.fine, axis=0), marker="o", ms=3, label=f"{row.dose:.0e} e/Å²")
        panel.set_title(f"ours: {name}")
    bands = [sum(band) / 2 for band in score.BANDS]
    for panel, file in zip(panels[-1], doses, strict=False):
        for line in (line for line in peers if line["file"] == file):
            best = min(line["rows"], key=lambda row: max(row["limits"]))
            ours = line["peer"] == "ptychopilot"
            label = " ".join([str(line["peer"]), *map(str, line["options"].values())])
            panel.plot(bands, best["limits"], "k-o" if ours else "-o", ms=3, lw=2.5 if ours else 1, label=label)
        panel.set_title(f"MoS2, {float(str(file).split('_d')[1]):.0e} e/Å², each at its best pass")
    for panel in panels.ravel():
        panel.set(xlabel="spatial frequency, 1/Å", yscale="log", ylim=(0.1, 1e3), xlim=(0, 1.5))
        if not panel.lines:
            panel.set_axis_off()
            continue
        panel.legend(fontsize=7)
        panel.axhline(1, color="k", lw=0.8)
        panel.axhline(1.3, color="k", lw=0.8, ls=":")
    panels[0, 0].set_ylabel("power of the phase error / (1/(2 dose))")
    canvas.tight_layout()
    canvas.savefig(figure, dpi=110)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = HERE.parents[1]
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--doses", type=float, nargs="+", default=list(DOSES))
    parser.add_argument("--objects", nargs="+", choices=("thin", "bilayer"), default=["thin", "bilayer"])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--figure", type=Path, default=root / ".peers" / "limit.png")
    parser.add_argument("--peers", type=Path, help="results of make bench-peers; default: the newest")
    parser.add_argument("--no-information", action="store_true", help="leave out the Cramér–Rao bound (two minutes)")
    chosen = parser.parse_args()
    print(f"{'error power / limit':<42} {'.25-.50':>7} {'.50-.75':>7} {'.75-1.0':>7}   phase scale     passes")
    doses = tuple(chosen.doses)
    if not chosen.no_information:
        information(chosen.seeds)
    rows = []
    for regularise in (False, True):
        if "thin" in chosen.objects:
            rows += ours_thin(doses, chosen.seeds, regularise, chosen.device)
        if "bilayer" in chosen.objects:
            rows += ours_bilayer(doses, chosen.seeds, regularise, chosen.device)
    made = sorted((root / ".peers" / "results").glob("*.jsonl"))
    results = chosen.peers or (made[-1] if made else None)
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results else []
    peers = [
        line for line in lines if line["kind"] == "trace" and "limits" in line["rows"][0] and "s1.5" in line["file"]
    ]
    for line in peers:
        best = min(line["rows"], key=lambda row: max(row["limits"]))
        print(
            f"{line['peer']:<14}{line['file']:<18}",
            " ".join(f"{v:7.2f}" for v in best["limits"]),
            f"  {best['scale']:.3f}",
        )
    chosen.figure.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, peers, chosen.figure)
    print(f"figure: {chosen.figure}")


if __name__ == "__main__":
    main()
