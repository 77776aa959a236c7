"""Makes the recordings that every engine reconstructs: bilayer MoS2 under abTEM, with counting noise of fixed seeds.

2H bilayer with 14 S vacancies in a periodic cell 38.1 Å wide, 80 kV, 21.4 mrad, infinite projection in 1 Å slices, 128 × 128
detector pixels of 1.096 mrad. The cell is the probe's window, so the true phase is known on the reconstruction's own grid.

    python data.py FOLDER [--steps 1.5 0.8] [--doses 1e3 1e4 1e6] [--c10 200]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VOLTAGE, SEMIANGLE = 80e3, 21.4
CELL = 38.1  # Å, 12 a × 7 √3 a of MoS2 strained by less than 0.6 % to a square
GRID, DETECTOR = (
    192,
    128,
)  # two thirds of the grid survive the anti-aliasing: the detector, beyond which nothing is scattered
FIELD = 32.0  # Å, edge of the scanned square
SEED = 20261122


def bilayer() -> Any:
    """2H (AA') MoS2 bilayer as ase.Atoms."""
    import abtem
    from ase import Atoms
    from ase.build import mx2

    layer = mx2("MoS2", kind="2H", a=3.16, thickness=3.17, size=(1, 1, 1), vacuum=0)
    symbols = layer.get_chemical_symbols()
    lower = layer.get_positions()
    lower[:, 2] -= lower[:, 2].mean()
    mo, s = lower[symbols.index("Mo"), :2], lower[symbols.index("S"), :2]
    upper = lower.copy()
    for i, symbol in enumerate(symbols):  # Mo over S and S over Mo
        upper[i, :2] = s if symbol == "Mo" else mo
    lower[:, 2] += 5.0
    upper[:, 2] += 5.0 + 6.15
    cell = [*layer.cell.array[:2], [0, 0, 20]]
    unit = Atoms(symbols * 2, positions=np.vstack([lower, upper]), cell=cell, pbc=True)
    atoms = abtem.orthogonalize_cell(unit) * (12, 7, 1)
    atoms.set_cell([CELL, CELL, atoms.cell[2, 2]], scale_atoms=True)
    atoms.positions[:, 2] += 2.0 - atoms.positions[:, 2].min()
    atoms.cell[2, 2] = atoms.positions[:, 2].max() + 2.0
    sulphur = np.flatnonzero(np.array(atoms.get_chemical_symbols()) == "S")
    keep = np.ones(len(atoms), bool)
    keep[np.random.default_rng(3).choice(sulphur, size=14, replace=False)] = False
    atoms = atoms[keep]
    atoms.wrap()
    return atoms


def potential(slices: float = 1.0, grid: int = GRID) -> Any:
    """The bilayer's, in slices of so many Å on grid × grid pixels, as a built abtem.Potential of atoms that stand still."""
    import abtem

    abtem.config.set({"precision": "float32", "diagnostics.progress_bar": False})
    atoms = bilayer()
    planned = abtem.Potential(atoms, gpts=grid, slice_thickness=slices, parametrization="lobato", projection="infinite")
    return planned.build(lazy=False)


def true_phase(potential: Any) -> NDArray[np.float32]:
    """(DETECTOR, DETECTOR) rad: Σ σ V dz, limited to the detector's band."""
    from abtem.core.energy import energy2sigma

    phase = potential.array.sum(axis=0) * energy2sigma(VOLTAGE)
    spectrum = central(np.fft.fftshift(np.fft.fft2(phase))) * (DETECTOR / len(phase)) ** 2
    return np.fft.ifft2(np.fft.ifftshift(spectrum)).real.astype(np.float32)


def central(pattern: NDArray[Any]) -> NDArray[Any]:
    """The central DETECTOR × DETECTOR pixels of the last two axes."""
    half, middle = DETECTOR // 2, pattern.shape[-1] // 2
    inner = slice(middle - half, middle + half)
    return np.ascontiguousarray(pattern[..., inner, inner])


def diffraction(potential: Any, step: float, c10: float) -> tuple[NDArray[np.float32], float]:
    """(n, n, ky, kx) intensities of a probe of unit intensity, and the first position in Å."""
    import abtem
    import dask

    n = round(FIELD / step)
    start = (CELL - n * step) / 2
    scan = abtem.GridScan(start=(start, start), end=(start + n * step,) * 2, gpts=(n, n), endpoint=False)
    probe = abtem.Probe(
        energy=VOLTAGE,
        semiangle_cutoff=SEMIANGLE,
        C10=c10,
        soft=True,
        gpts=potential.gpts,
        extent=potential.extent,
    )
    exit_waves = probe.multislice(potential, scan=scan, max_batch=64, lazy=True)
    with dask.config.set(scheduler="threads", num_workers=2):
        patterns = exit_waves.diffraction_patterns(max_angle=None).compute(progress_bar=False)
    return central(np.asarray(patterns.array)), start


def make(folder: Path, steps: Sequence[float], doses: Sequence[float], c10: float) -> list[Path]:
    """Write the recordings that are not there yet; returns all of them."""
    wanted = {(step, dose): folder / f"s{step:g}_c{c10:g}_d{dose:g}.h5" for step in steps for dose in doses}
    missing = {key: path for key, path in wanted.items() if not path.exists()}
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        _simulate(missing, c10)
    return list(wanted.values())


def _simulate(missing: dict[tuple[float, float], Path], c10: float) -> None:
    import h5py
    from abtem.core.energy import energy2wavelength

    specimen = potential()
    wavelength = float(energy2wavelength(VOLTAGE))
    for step in sorted({step for step, _ in missing}):
        intensity, start = diffraction(specimen, step, c10)
        for dose in (dose for other, dose in missing if other == step):
            # seeded by what the file is, so that adding a file to the family changes no other
            random = np.random.default_rng([SEED, round(1e3 * step), round(c10), round(dose)])
            counts = random.poisson(np.maximum(intensity, 0) * dose * step**2).astype(np.uint16)
            path = missing[step, dose]
            part = path.with_suffix(".part")
            with h5py.File(part, "w") as file:
                file.create_dataset("patterns", data=counts, compression="lzf", chunks=(1, *counts.shape[1:]))
                file["true_phase"] = true_phase(specimen)
                file.attrs.update(
                    voltage=VOLTAGE,
                    semiangle=SEMIANGLE,
                    c10=c10,
                    step=step,
                    pixel_size=CELL / DETECTOR,
                    wavelength=wavelength,
                    scan_start=start,
                    frequency_pixel=1 / CELL,
                    angular_pixel=1e3 * wavelength / CELL,
                    dose=dose,
                )
            part.rename(path)
            print(f"{path.name}: {counts.shape[0] ** 2} patterns, {counts.mean():.3g} counts per pixel", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=float, nargs="+", default=[1.5, 0.8])
    parser.add_argument("--doses", type=float, nargs="+", default=[1e3, 1e4, 1e6])
    parser.add_argument("--c10", type=float, default=200.0)
    chosen = parser.parse_args()
    make(chosen.folder, chosen.steps, chosen.doses, chosen.c10)
