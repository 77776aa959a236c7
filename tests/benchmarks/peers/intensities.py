"""The same probe, object and positions through the forward model of each peer: do the intensities agree with ours?

    python intensities.py make FOLDER [--tiny]     writes inputs.npz
    python intensities.py PEER FOLDER              writes PEER.npz; to be run in the peer's environment
    python intensities.py compare FOLDER           one line per peer; to be run in ours, like `make` and `golden`
    python intensities.py golden FOLDER OUT.npz    packs inputs and answers into one file for the tests

Every peer is run through its own propagator, its own sub-pixel shift and its own forward call. Two conventions differ and are
matched here: quantem and phaser propagate paraxially, exp(−iπλ Δz k²), PtyRAD and pty-chi take the angular spectrum,
exp(2πi Δz √(1/λ² − k²)). Some round positions to the nearest pixel and some down, which cuts another window; the sub-pixel
parts here are below one half, where both agree.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Propagator = Literal["fresnel", "angular spectrum"]
PROPAGATOR: dict[str, Propagator] = {
    "ptyrad": "angular spectrum",
    "ptychi": "angular spectrum",
    "quantem": "fresnel",
    "phaser": "fresnel",
}
PACKAGE = {"ptyrad": "ptyrad", "ptychi": "ptychi", "quantem": "quantem", "phaser": "phaserEM"}
CASES = tuple((s, p, where) for s in (1, 3) for p in (1, 4) for where in ("integer", "subpixel"))
TINY = ((3, 2, "subpixel"),)
Case = tuple[int, int, str]
"""Slices, modes, and whether the positions lie on pixels."""


def name_of(case: Case) -> str:
    """Of a case in the files."""
    return "s{}_p{}_{}".format(*case)


def cases_of(inputs: dict[str, NDArray[Any]]) -> tuple[Case, ...]:
    """As many slices and modes as there are."""
    return CASES if len(inputs["probe"]) == 4 else TINY


def make_inputs(
    window: int, extent: int, n_positions: int, modes: int, slices: int, seed: int = 7
) -> dict[str, NDArray[Any]]:
    """A defocused probe in several modes over a random object.

    Returns:
        probe (modes, window, window) complex64, real space, centred at N//2; object (slices, extent, extent) complex64;
        corners (n, 2) first object pixel of each window; fractions (n, 2) pixels, by which the probe is shifted from the
        window's pixel N//2; pixel_size, slice_spacing, wavelength in Å; voltage in eV.
    """
    random = np.random.default_rng(seed)
    pixel_size, voltage, semiangle, c10 = 0.3, 80e3, 21.4, 60.0
    wavelength = 12398.419843320026 / np.sqrt(voltage * (2 * 510998.95 + voltage))
    k = np.fft.fftfreq(window, pixel_size)
    k2 = k[:, None] ** 2 + k[None, :] ** 2
    angle = 1e3 * wavelength * np.sqrt(k2)
    wave = np.clip((semiangle - angle) / (1e3 * wavelength * k[1]) + 0.5, 0, 1) * np.exp(
        -1j * np.pi * wavelength * c10 * k2
    )
    # coma-like phases of growing strength make the modes unequal and leave no symmetry that could hide a wrong axis
    tilt = (k[:, None] - 0.4 * k[None, :]) / np.abs(k).max()
    stack = np.stack([0.6**m * wave * np.exp(2j * np.pi * m * tilt * (1 + 3 * k2)) for m in range(modes)])
    # orthogonal and of falling energy, because quantem makes them so (Gram–Schmidt, which changes the sum of intensities)
    flat = stack.reshape(modes, -1)
    _, turn = np.linalg.eigh(flat @ flat.conj().T)
    stack = (turn[:, ::-1].conj().T @ flat).reshape(stack.shape)
    probe = np.fft.fftshift(np.fft.ifft2(stack), axes=(-2, -1))
    probe *= np.sqrt(1000.0 / (np.abs(probe) ** 2).sum())
    smooth = np.exp(-(np.fft.fftfreq(extent)[:, None] ** 2 + np.fft.fftfreq(extent)[None, :] ** 2) / (2 * 0.3**2))
    fields = np.fft.ifft2(np.fft.fft2(random.normal(size=(2, slices, extent, extent))) * smooth).real
    fields /= fields.std()
    return {
        "probe": probe.astype(np.complex64),
        "object": ((1 - 0.05 * np.abs(fields[0])) * np.exp(0.6j * fields[1])).astype(np.complex64),
        "corners": random.integers(1, extent - window, size=(n_positions, 2)),
        "fractions": random.uniform(0.02, 0.48, size=(n_positions, 2)),
        "pixel_size": np.float64(pixel_size),
        "slice_spacing": np.float64(6.15),
        "wavelength": np.float64(wavelength),
        "voltage": np.float64(voltage),
    }


def part(inputs: dict[str, NDArray[Any]], case: Case) -> dict[str, NDArray[Any]]:
    """The inputs of one case."""
    slices, modes, where = case
    fractions = inputs["fractions"] if where == "subpixel" else np.zeros_like(inputs["fractions"])
    chosen = {"probe": inputs["probe"][:modes], "object": inputs["object"][:slices], "fractions": fractions}
    return {**inputs, **chosen}


def transfer(case: dict[str, NDArray[Any]], propagator: Propagator) -> NDArray[np.complex128]:
    """(ky, kx), corner-centred: what a wave is multiplied with from slice to slice."""
    n, lam, dz = case["probe"].shape[-1], float(case["wavelength"]), float(case["slice_spacing"])
    k = np.fft.fftfreq(n, float(case["pixel_size"]))
    k2 = k[:, None] ** 2 + k[None, :] ** 2
    return np.exp(
        1j * (-np.pi * lam * dz * k2 if propagator == "fresnel" else 2 * np.pi * dz * np.sqrt(1 / lam**2 - k2))
    )


def reference(case: dict[str, NDArray[Any]], propagator: Propagator) -> NDArray[np.float64]:
    """Plain multislice in double precision: (n, ky, kx), zero beam at N//2, Σ = Σ|probe|² where nothing absorbs."""
    step = transfer(case, propagator)
    n = len(step)
    f = np.fft.fftfreq(n)
    patterns = np.empty((len(case["corners"]), n, n))
    for j, ((row, column), (dy, dx)) in enumerate(zip(case["corners"], case["fractions"], strict=True)):
        ramp = np.exp(-2j * np.pi * (f[:, None] * dy + f[None, :] * dx))
        wave = np.fft.ifft2(np.fft.fft2(case["probe"].astype(np.complex128)) * ramp)
        for s, layer in enumerate(case["object"].astype(np.complex128)):
            if s:
                wave = np.fft.ifft2(np.fft.fft2(wave) * step)
            wave = wave * layer[row : row + n, column : column + n]
        far = np.fft.fftshift(np.fft.fft2(wave, norm="ortho"), axes=(-2, -1))
        patterns[j] = (np.abs(far) ** 2).sum(axis=0)
    return patterns


def engine(case: dict[str, NDArray[Any]], propagator: Propagator) -> NDArray[np.float32]:
    """The same by the engine's own forward model in single precision."""
    from agent.reconstruction.model import forward

    n, modes, slices = case["probe"].shape[-1], len(case["probe"]), len(case["object"])
    apertures = np.fft.fft2(np.fft.ifftshift(case["probe"], axes=(-2, -1)), norm="ortho")
    problem = forward.Problem(
        counts=None,
        mask=np.ones((n, n), np.float32),
        n_modes=modes,
        propagators=np.repeat(transfer(case, propagator)[None].astype(np.complex64), slices - 1, axis=0),
    )
    unknowns = forward.Unknowns(
        object=case["object"],
        apertures=apertures.astype(np.complex64),
        corners=case["corners"].astype(np.int32),
        subpixel_shifts=case["fractions"].astype(np.float32),
        weights=np.ones((len(case["corners"]), modes), np.float32),
        background=np.zeros((n, n), np.float32),
        count_offset=0.0,
    )
    patterns, _ = forward.intensities(problem, unknowns, np.arange(len(case["corners"])), np)
    return np.fft.fftshift(patterns, axes=(-2, -1))


def ptyrad(case: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """PtychoModel with variables of our making."""
    import torch
    import torchvision_shim  # noqa: F401
    from ptyrad.core import PtychoModel
    from ptyrad.optics.propagator import near_field_evolution

    n, pixel = case["probe"].shape[-1], float(case["pixel_size"])
    spacing, wavelength = float(case["slice_spacing"]), float(case["wavelength"])
    positions = len(case["corners"])
    names = ("obja", "objp", "obj_tilts", "slice_thickness", "probe", "probe_pos_shifts")
    still = {name: {"start_iter": None, "end_iter": None, "lr": 0} for name in names}
    moving = {"start_iter": 1, "end_iter": None, "lr": 1e-4}  # it divides by the number of variables it may change
    model = PtychoModel(
        {
            "measurements": np.ones((positions, n, n), np.float32),
            "obj": case["object"][None],
            "obj_tilts": np.zeros((1, 2)),
            "slice_thickness": spacing,
            "probe": case["probe"],
            "probe_pos_shifts": case["fractions"],
            "omode_occu": np.ones(1),
            "H": near_field_evolution((n, n), pixel, spacing, wavelength),
            "N_scan_slow": 1,
            "N_scan_fast": positions,
            "crop_pos": case["corners"],
            "dx": pixel,
            "dk": 1 / (n * pixel),
            "lambd": wavelength,
            "random_seed": 0,
            "length_unit": "Ang",
            "scan_affine": None,
            "meas_Npix": n,
            "simu_Npix": n,
            "simu_match_mode": None,
            "recon_provenance": {},
        },
        {
            "detector_blur_std": None,
            "update_params": still | {"objp": moving},
            "optimizer_params": {"name": "Adam", "configs": {}},
        },
        device="cpu",
    )
    with torch.no_grad():
        return model(torch.arange(positions)).numpy()


def ptychi(case: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The forward model of a PtychographyTask. It shifts its first mode only, so shifted modes are run one by one."""
    import torch
    import torchvision_shim  # noqa: F401
    from ptychi import api
    from ptychi.api.task import PtychographyTask

    if case["fractions"].any() and len(case["probe"]) > 1:
        return sum(ptychi({**case, "probe": mode[None]}) for mode in case["probe"])
    n, extent, slices = case["probe"].shape[-1], case["object"].shape[-1], len(case["object"])
    settings = api.LSQMLOptions()
    settings.data_options.free_space_propagation_distance_m = np.inf
    settings.data_options.wavelength_m = float(case["wavelength"]) * 1e-10
    settings.data_options.fft_shift = True
    settings.data_options.save_data_on_device = False
    settings.object_options.pixel_size_m = float(case["pixel_size"]) * 1e-10
    if slices > 1:
        settings.object_options.slice_spacings_m = [float(case["slice_spacing"]) * 1e-10] * (slices - 1)
    settings.reconstructor_options.default_device = api.Devices.CPU
    # (0, 0) is the middle of the object; the probe's own middle is N//2
    positions = case["corners"] + case["fractions"] - (extent // 2 - n // 2)
    job = PtychographyTask(
        settings,
        diffraction_data=np.ones((len(positions), n, n), np.float32),
        object_data=case["object"],
        probe_data=case["probe"][None] / n,  # its FFT is not normalised
        probe_position_x_px=positions[:, 1].copy(),
        probe_position_y_px=positions[:, 0].copy(),
    )
    with torch.no_grad():
        patterns = job.reconstructor.forward_model(torch.arange(len(positions)))
    return np.fft.fftshift(patterns.cpu().numpy(), axes=(-2, -1))


def quantem(case: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Probe model, object model, forward operator and detector model of a Ptychography job."""
    import torch
    from quantem.core.datastructures import Dataset4dstem
    from quantem.diffractive_imaging.dataset_models import PtychographyDatasetRaster
    from quantem.diffractive_imaging.detector_models import DetectorPixelated
    from quantem.diffractive_imaging.object_models import ObjectPixelated
    from quantem.diffractive_imaging.probe_models import ProbePixelated
    from quantem.diffractive_imaging.ptychography import Ptychography

    n, pixel, extent = case["probe"].shape[-1], float(case["pixel_size"]), case["object"].shape[-1]
    frequency = 1 / (n * pixel)
    # a raster of one-pixel steps, only to have a job: its positions are replaced below
    counts = np.random.default_rng(0).poisson(5.0, size=(4, 4, n, n)).astype(np.float32)
    raw = Dataset4dstem.from_array(
        array=counts, sampling=(pixel, pixel, frequency, frequency), units=("A", "A", "A^-1", "A^-1")
    )
    data = PtychographyDatasetRaster.from_dataset4dstem(raw)
    data.preprocess(
        com_fit_function="constant",
        force_com_rotation=0,
        force_com_transpose=False,
        plot_rotation=False,
        plot_com=False,
        probe_energy=float(case["voltage"]),
    )
    spacing = float(case["slice_spacing"]) if len(case["object"]) > 1 else None
    object_model = ObjectPixelated.from_array(case["object"], slice_thicknesses=spacing, obj_type="complex")
    parameters = {"energy": float(case["voltage"]), "semiangle_cutoff": 21.4, "defocus": 0.0}
    probe_model = ProbePixelated.from_array(case["probe"], probe_params=parameters)
    job = Ptychography.from_models(
        dset=data, obj_model=object_model, probe_model=probe_model, detector_model=DetectorPixelated(), verbose=False
    )
    with torch.no_grad():
        job.probe_model._probe.data = torch.tensor(case["probe"])
        corners = torch.tensor(case["corners"])
        y = corners[:, 0, None, None] + torch.arange(n)[None, :, None]
        x = corners[:, 1, None, None] + torch.arange(n)[None, None, :]
        patches = object_model._get_obj_patches(torch.tensor(case["object"]), y * extent + x)
        probes = job.probe_model.forward(torch.tensor(case["fractions"], dtype=torch.float32))
        _, waves = job.forward_operator(patches, probes)
        return job.detector_model.forward(waves).numpy()


def phaser(case: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """`run_model` of the gradient engine, with a noise model that hands the intensities out instead of a loss."""
    from phaser.engines.common.simulation import make_propagators
    from phaser.engines.gradient.run import SolverStates, run_model
    from phaser.state import IterState, PixelatedObjectState, PixelatedProbeState, ReconsState, ScanState
    from phaser.utils.num import Sampling
    from phaser.utils.object import ObjectSampling

    class Intensities:
        def calc_loss(self, wave: Any, intensity: Any, *_others: Any) -> tuple[Any, None]:
            return intensity, None

    n, pixel, extent = case["probe"].shape[-1], float(case["pixel_size"]), case["object"].shape[-1]
    # its windows are centred between pixels, at (N − 1)/2, and so are its positions
    scan = (case["corners"] + case["fractions"] + (n - 1) / 2) * pixel
    thickness = np.full(len(case["object"]), float(case["slice_spacing"]), np.float32)
    state = ReconsState(
        iter=IterState.empty(),
        wavelength=float(case["wavelength"]),
        probe=PixelatedProbeState(Sampling((n, n), sampling=(pixel, pixel)), case["probe"]),
        object=PixelatedObjectState(
            ObjectSampling((extent, extent), (pixel, pixel), corner=(0.0, 0.0)), case["object"], thickness
        ),
        scan=ScanState(scan, scan),
    )
    patterns, _ = run_model(
        {},
        state,
        group=np.arange(len(scan))[None],
        props=make_propagators(state, bwlim_frac=None),
        mtf=None,
        group_patterns=np.ones((len(scan), n, n), np.float32),
        pattern_mask=np.ones((n, n), np.float32),
        noise_model=Intensities(),
        regularizers=(),
        solver_states=SolverStates(None, [], [], []),
        xp=np,
        dtype=np.float32,
        jit_unroll_slices=False,
    )
    return np.fft.fftshift(np.asarray(patterns), axes=(-2, -1))


PEERS = {"ptyrad": ptyrad, "ptychi": ptychi, "quantem": quantem, "phaser": phaser}


def agreement(theirs: NDArray[Any], ours: NDArray[Any]) -> tuple[float, float]:
    """(relative L2 norm of the difference, largest difference over the largest intensity)."""
    difference = theirs.astype(np.float64) - ours
    return float(np.linalg.norm(difference) / np.linalg.norm(ours)), float(np.abs(difference).max() / ours.max())


def compare(folder: Path) -> list[str]:
    """One line per peer that has run: the worst of its cases, against the double-precision reference and the engine."""
    inputs = dict(np.load(folder / "inputs.npz"))
    lines = []
    for peer, propagator in PROPAGATOR.items():
        if not (folder / f"{peer}.npz").exists():
            lines.append(f"{peer:<8} has not run")
            continue
        theirs = np.load(folder / f"{peer}.npz")
        against: dict[str, dict[str, tuple[float, float]]] = {"reference": {}, "engine": {}}
        for case in cases_of(inputs):
            given, answer = part(inputs, case), theirs[name_of(case)]
            against["reference"][name_of(case)] = agreement(answer, reference(given, propagator))
            against["engine"][name_of(case)] = agreement(answer, engine(given, propagator).astype(np.float64))
        figures = [f"{kind} {max(v)[0]:.1e} (largest {max(p[1] for p in v):.1e})" for kind, v in _values(against)]
        bad = [f"{kind} {name} {l2:.1e}" for kind, of in against.items() for name, (l2, _) in of.items() if l2 > 1e-5]
        verdict = "agrees" if not bad else "DOES NOT AGREE: " + ", ".join(bad)
        lines.append(f"{theirs['version']!s:<16} {propagator:<17} relative L2 against {', '.join(figures)}: {verdict}")
    return lines


def _values(against: dict[str, dict[str, tuple[float, float]]]) -> list[tuple[str, list[tuple[float, float]]]]:
    return [(kind, list(of.values())) for kind, of in against.items()]


def pack(folder: Path, out: Path) -> None:
    """Inputs and answers of the tiny case in one file; answers in single precision, keyed by peer, with its version."""
    packed = dict(np.load(folder / "inputs.npz"))
    for peer in PEERS:
        with np.load(folder / f"{peer}.npz") as theirs:
            packed[peer] = theirs[name_of(TINY[0])]
            packed[f"{peer}_version"] = theirs["version"]
    np.savez_compressed(out, **packed)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "compare", "golden", *PEERS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--tiny", action="store_true", help="32 × 32 pixels, 4 positions, 2 modes, 3 slices")
    chosen = parser.parse_args()
    if chosen.what == "make":
        chosen.folder.mkdir(parents=True, exist_ok=True)
        sizes = (32, 40, 4, 2, 3) if chosen.tiny else (64, 96, 6, 4, 3)
        np.savez(chosen.folder / "inputs.npz", **make_inputs(*sizes))
    elif chosen.what == "compare":
        lines = compare(chosen.folder)
        print("\n".join(lines))
        sys.exit(any(not line.endswith(": agrees") for line in lines))
    elif chosen.what == "golden":
        pack(chosen.folder, chosen.out)
    else:
        inputs = dict(np.load(chosen.folder / "inputs.npz"))
        answers = {name_of(case): PEERS[chosen.what](part(inputs, case)) for case in cases_of(inputs)}
        package = PACKAGE[chosen.what]
        answers = {name: patterns.astype(np.float32) for name, patterns in answers.items()}
        np.savez(chosen.folder / f"{chosen.what}.npz", version=f"{package} {version(package)}", **answers)


if __name__ == "__main__":
    main()
