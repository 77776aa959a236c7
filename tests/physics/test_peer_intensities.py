"""Known answers that nobody here made: other engines' forward models for the same probe, object and positions.

`make bench-peers` compares more cases live; this is a small stored one (tests/physics/golden/README.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.reconstruction.model import forward

GOLDEN = Path(__file__).parent / "golden" / "peer_intensities.npz"
PARAXIAL = {"ptyrad": False, "ptychi": False, "quantem": True, "phaser": True}
"""Whether a peer propagates by exp(−iπλ Δz k²); the others take exp(2πi Δz √(1/λ² − k²))."""


def propagator(case: dict[str, Any], paraxial: bool) -> np.ndarray:
    """(ky, kx), corner-centred."""
    k = np.fft.fftfreq(case["probe"].shape[-1], float(case["pixel_size"]))
    k2 = k[:, None] ** 2 + k[None, :] ** 2
    wavelength, spacing = float(case["wavelength"]), float(case["slice_spacing"])
    phase = -np.pi * wavelength * spacing * k2 if paraxial else 2 * np.pi * spacing * np.sqrt(wavelength**-2 - k2)
    return np.exp(1j * phase)


def ours(case: dict[str, Any], paraxial: bool) -> np.ndarray:
    """(n, ky, kx), zero beam at N//2, by the engine's forward model."""
    n, modes = case["probe"].shape[-1], len(case["probe"])
    apertures = np.fft.fft2(np.fft.ifftshift(case["probe"], axes=(-2, -1)), norm="ortho")
    step = propagator(case, paraxial).astype(np.complex64)
    problem = forward.Problem(
        counts=None,
        mask=np.ones((n, n), np.float32),
        n_modes=modes,
        propagators=np.stack([step] * (len(case["object"]) - 1)),
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


def relative(theirs: np.ndarray, mine: np.ndarray) -> float:
    """Relative L2 norm of the difference."""
    return float(np.linalg.norm(theirs.astype(float) - mine) / np.linalg.norm(mine))


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("peer", PARAXIAL)
def test_intensities_are_those_of_other_engines(golden: dict[str, Any], peer: str) -> None:
    mine = ours(golden, PARAXIAL[peer])
    assert relative(golden[peer], mine) < 1e-5
    assert np.abs(golden[peer] - mine).max() < 1e-5 * mine.max()


@pytest.mark.parametrize(
    "wrong",
    [
        {"fractions": -1.0},  # the probe shifted the other way
        {"slice_spacing": -1.0},  # propagated backwards
        {"slice_spacing": 1.001},
    ],
)
def test_the_comparison_sees_a_wrong_convention(golden: dict[str, Any], wrong: dict[str, float]) -> None:
    spoilt = golden | {name: golden[name] * factor for name, factor in wrong.items()}
    assert relative(golden["quantem"], ours(spoilt, paraxial=True)) > 1e-4


def test_order_of_slices_and_kind_of_propagator_matter(golden: dict[str, Any]) -> None:
    backwards = golden | {"object": golden["object"][::-1]}
    assert relative(golden["quantem"], ours(backwards, paraxial=True)) > 1e-2
    assert relative(golden["quantem"], ours(golden, paraxial=False)) > 1e-4
