"""Drift of the specimen as two passes tell it, undone in the positions of all patterns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction import DiffractionData, Reconstruction
from agent.scoring.registration import Shift


def specimen_shift(first: Reconstruction, second: Reconstruction, pictures: Shift, data: DiffractionData) -> Shift:
    """By how much the specimen lies further along in the second pass.

    Object and probe of a reconstruction may be moved together without any change of the patterns, so the probe's own shift is
    not the specimen's. What is no larger than its uncertainty is taken for nothing.

    Args:
        first: of the first pass.
        second: of the second pass.
        pictures: shift of the second picture against the first.
        data: of both, for the frame of the probe.
    """
    by = np.array(pictures.by) - _probe_shift(first, second, data)
    sd = np.array(pictures.sd)
    known = max(0.0, 1 - 2 * float((sd**2).sum() / max((by**2).sum(), 1e-12)))
    return Shift((float(known * by[0]), float(known * by[1])), pictures.sd)


def without_drift(data: DiffractionData, shift: Shift) -> DiffractionData:
    """Positions as they lie on a specimen that drifts evenly from the first pattern to the last.

    A pass sees the specimen `shift` further along than the pass before it: so far it drifts in the time of a pass, which its
    patterns share evenly.

    Args:
        data: with `pass_index`.
        shift: of the specimen in the second pass.
    """
    assert data.pass_index is not None
    time = np.zeros(len(data.positions))
    for number in (0, 1):
        own = data.pass_index == number
        time[own] = number + (np.arange(own.sum()) + 0.5) / max(own.sum(), 1)
    return replace(data, positions=data.positions - np.outer(time - time.mean(), shift.by))


def _probe_shift(first: Reconstruction, second: Reconstruction, data: DiffractionData) -> NDArray[np.float64]:
    """(2,) (y, x), Å, scan's frame, by which the second probe lies further along; from the slope of its phase in the aperture."""
    one, other = first.probe, second.probe
    if one.shape[1:] != other.shape[1:] or first.pixel_size != second.pixel_size:
        return np.zeros(2)
    waves = [np.fft.fft2(np.fft.ifftshift(probe[0])) for probe in (one, other)]
    product = waves[0] * waves[1].conj()  # |P|² e^{2πik·u}
    slope = [np.angle((np.roll(product, -1, axis) * product.conj()).sum()) for axis in (0, 1)]
    extent = np.multiply(product.shape, first.pixel_size)  # 1/Δk
    matrix = np.eye(2) if data.detector_to_scan is None else np.asarray(data.detector_to_scan, np.float64)
    return np.asarray(matrix @ (np.array(slope) / (2 * np.pi) * extent))
