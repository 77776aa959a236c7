"""How much of the likelihood's curvature is left at each spatial frequency of the object (README, "What is seen of a frequency").

The illumination is the curvature of a coherent beam on a detector without end. Where states of the beam add up incoherently, or
electrons miss the detector, less is left, and steps that are divided by the illumination alone crawl.

Runs on NumPy and CuPy arrays alike and never waits for the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.solver.experiment import Experiment
from agent.reconstruction.solver.state import Sloped, SolverState

DAMPING = 0.15
"""Added to what is seen of a frequency before steps are divided by it: with 0.1 they overshoot where patterns are few."""
EARLY, EVERY = 8, 4
"""Passes of which each looks at the object anew, and from then on every so many: what reaches the dark field grows first."""
FORGETS = 0.8
"""Part of a curvature that was found which the next step still goes by."""
FAINT = 1e-5
"""Least counts expected in a pixel, relative to the brightest: rounding of the transforms."""


def look(experiment: Experiment, state: SolverState, count_offset: float) -> None:
    """Find, now and then, what is seen of the object's frequencies (`SolverState.seen`).

    With several slices steps are divided by what is seen of their depths, and a prior's proximal step takes its steps to be
    those of the illumination; there it stays None.

    Args:
        experiment: what is given.
        state: changed in place.
        count_offset: of the pass, counts.
    """
    if experiment.n_modes == 1 or experiment.settings.slices > 1 or experiment.settings.regularise:
        return
    if state.seen is None or state.passes < EARLY or state.passes % EVERY == 0:
        state.seen = _seen(experiment, state, count_offset)


def divided(slope: Any, seen: Any, root: Any, xp: Any) -> Any:
    """A gradient over the curvature, as large as the illumination alone makes it where all is seen.

    Args:
        slope: (1, y, x) complex64, by log amplitude and phase.
        seen: (y, x//2 + 1), of `SolverState`.
        root: (1, y, x) of one over the illumination.
        xp: array module.

    Returns:
        (1, y, x) complex64.
    """
    gain, shape = (1 + DAMPING) / (seen + DAMPING), slope.shape[-2:]
    logarithms, phases = (xp.fft.irfft2(xp.fft.rfft2(part * root) * gain, s=shape) for part in (slope.real, slope.imag))
    return ((logarithms + 1j * phases) * root).astype(xp.complex64)


def held_back(state: SolverState, slope: Any, root: Any, size: float, xp: Any) -> Any:
    """A step's size, less where the last steps have found the likelihood more curved than `divided` takes it to be.

    `seen` is a mean over places and a diagonal: frequencies that act together may be more curved. Between two points y whose
    slopes s are known, −⟨Δs, MΔs⟩/⟨Δs, Δy⟩ (M: `divided`) is the curvature along what has changed most (Barzilai & Borwein,
    IMA J. Numer. Anal. 8 (1988) 141), and of a step that overshoots that is the largest.

    Args:
        state: remembers the slopes; changed in place.
        slope: (1, y, x) at its object, as for `divided`.
        root: likewise.
        size: wanted.
        xp: array module.

    Returns:
        A scalar on the device.
    """
    here, before = state.unknowns.object.copy(), state.sloped
    curved = xp.zeros((), xp.float32)
    if before is not None:
        change = slope - before.slope
        ratio = here / xp.where(before.object == 0, 1, before.object)
        moved = xp.log(xp.maximum(xp.abs(ratio), 1e-6)) + 1j * xp.angle(ratio)
        along = -(change.conj() * moved).real.sum()
        found = (change.conj() * divided(change, state.seen, root, xp)).real.sum() / xp.maximum(along, 1e-30)
        curved = xp.maximum(xp.where(along > 0, found, 0), FORGETS * before.curved)
    state.sloped = Sloped(here, slope, curved)
    return xp.minimum(xp.float32(size), 1 / xp.maximum(curved, 1e-6)).astype(xp.float32)


def _seen(experiment: Experiment, state: SolverState, count_offset: float) -> Any:
    """(y, x//2 + 1) on the device, 0 … 1, in the layout of `rfft2`."""
    xp, found, shape = experiment.backend.xp, state.unknowns, experiment.shape
    modes, obj = found.apertures[: experiment.n_modes], found.object[0]
    total = (xp.abs(modes) ** 2).sum(axis=0)
    power = _power(obj, shape, xp)
    spectrum = xp.fft.fft2(total)
    expected = xp.maximum(xp.fft.ifft2(power * spectrum).real, 0) + found.background
    weight = experiment.constants.mask / (expected + FAINT * expected.max() + count_offset)
    # what nothing is expected in, or counted, is taken to say all
    kernel = spectrum.conj() * xp.fft.fft2(1 - weight * expected)
    for m in range(len(modes)):  # in pairs, m ≥ n, of which all but the last stand for n > m too
        pairs = xp.fft.fft2(modes[m] * modes[: m + 1].conj())
        terms = pairs.conj() * xp.fft.fft2(xp.fft.ifft2(power * pairs) * weight)
        kernel += 2 * terms.sum(axis=0) - terms[m]
    on_grid = xp.zeros(obj.shape, xp.float32)
    on_grid[_corners(shape, obj.shape, xp)] = kernel.real / (total.sum() * (shape[0] * shape[1]))
    return xp.clip(xp.fft.rfft2(on_grid).real, 0, 1).astype(xp.float32)


def _power(obj: Any, shape: tuple[int, int], xp: Any) -> Any:
    """(ky, kx) the transform of the object's power at the detector's frequencies, sum 1: its autocorrelation within a window."""
    correlation = xp.fft.ifft2(xp.abs(xp.fft.fft2(obj)) ** 2)
    taper_y, taper_x = (xp.asarray(_bohman(2 * np.abs(np.fft.fftfreq(n)))) for n in shape)
    window = correlation[_corners(shape, obj.shape, xp)] * taper_y[:, None] * taper_x
    return (window.conj() / correlation[0, 0].real).astype(xp.complex64)


def _bohman(x: NDArray[np.float64]) -> NDArray[np.float32]:
    """Bohman's window at 0 ≤ x ≤ 1; its transform is nowhere below 0 and falls so fast that a disc stays dark outside."""
    return ((1 - x) * np.cos(np.pi * x) + np.sin(np.pi * x) / np.pi).astype(np.float32)


def _corners(shape: tuple[int, int], of: tuple[int, int], xp: Any) -> tuple[Any, Any]:
    """Where the pixels of a corner-centred window are in a larger corner-centred image."""
    rows, columns = (np.fft.fftfreq(n, 1 / n).astype(int) % larger for n, larger in zip(shape, of, strict=True))
    return xp.asarray(rows)[:, None], xp.asarray(columns)[None, :]
