"""Which shift map is right where a crystal is sampled coarsely: the one whose diffracted discs overlap where they are seen to.

Rodenburg, McCallum & Nellist, Ultramicroscopy 48 (1993) 304; README, "Overlap of discs".
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.calibration.parallax import (
    BrightFieldSpectra,
    ShiftMap,
    chosen_frequencies,
    detector_transforms,
    refine,
)

_STRONGEST = 40  # frequencies that judge first; a lattice has fewer
_JUDGES = 300  # frequencies that decide
_CANDIDATES = 10  # of each hand whose overlaps are looked at
_ORDERS = np.array([(i, j) for i in (0, -1, 1) for j in (0, -1, 1)])
_APART = 0.3  # relative difference from which a map is another geometry, not another value of the same
_CLEAR = 1.1  # ratio of likelihoods by which a candidate must beat the map found without aliases …
_CLEAR_BY = 25.0  # … and difference, in nats: the other model errors of a few per cent must not decide


def settle_aliases(
    spectra: BrightFieldSpectra, found: ShiftMap, spacing: float, searched: tuple[float, float]
) -> ShiftMap:
    """`found`, or the map that takes some frequencies for aliases where the overlaps of the discs speak clearly for it.

    Args:
        spectra: of the bright-field images.
        found: maximum of the search without aliases.
        spacing: λ / (step · semi-angle): distance of the discs of one cycle per scan step, in disc radii.
        searched: smallest and largest shift of the disc's edge, scan steps.

    Returns:
        A ShiftMap whose `handedness` is the likelihood's preference for its hand, √(2 Δ log L), in standard deviations, and with
        `rival` filled in.
    """
    g, values = chosen_frequencies(spectra)
    order = np.argsort(-(np.abs(values) ** 2).sum(axis=1))
    noise = float(np.median(np.abs(values) ** 2)) / math.log(2)

    def likelihood(matrix: NDArray[np.float64], n: int) -> tuple[float, NDArray[np.float64]]:
        total, true = overlap_likelihood(spectra, g[order[:n]], values[order[:n]], matrix, spacing)
        return total / noise, true

    finalists = [found.matrix]
    for hand in _candidates(spectra, g[order[:_STRONGEST]], values[order[:_STRONGEST]], spacing, searched):
        judged = sorted(hand, key=lambda matrix: -likelihood(matrix, _STRONGEST)[0])
        for matrix in judged[:2]:
            true = likelihood(matrix, _STRONGEST)[1]
            ring = np.zeros(len(true), dtype=np.intp)
            finalists += [matrix, refine(spectra, true, values[order[:_STRONGEST]], ring, matrix)[0]]
    likelihoods = np.array([likelihood(matrix, _JUDGES)[0] for matrix in [*finalists, -found.matrix]])
    # The least likely shows what noise alone explains, given the best of nine orders.
    likelihoods = (likelihoods - likelihoods.min())[:-1]
    best = int(np.argmax(likelihoods))
    same = np.linalg.norm(finalists[best] - found.matrix) < _APART * np.linalg.norm(found.matrix)
    if same or likelihoods[best] < max(_CLEAR * likelihoods[0], likelihoods[0] + _CLEAR_BY):
        best = 0  # all frequencies together have refined it
    matrix, reached = finalists[best], max(float(likelihoods[best]), 1e-30)
    hands = np.array([np.linalg.det(m) < 0 for m in finalists])
    margin = reached - float(likelihoods[hands != hands[best]].max())
    apart = np.array([np.linalg.norm(m - matrix) > _APART * np.linalg.norm(matrix) for m in finalists])
    found = replace(
        found,
        handedness=math.copysign(math.sqrt(2 * abs(margin)), margin),
        rival=float(likelihoods[apart].max(initial=0.0)) / reached,
    )
    if best == 0:
        return found
    true = overlap_likelihood(spectra, g, values, matrix, spacing, doubt=_CLEAR_BY * noise)[1]
    ring = np.rint(np.hypot(g[:, 0], g[:, 1]) * max(spectra.values.shape[:2])).astype(np.intp)
    finer, covariance = refine(spectra, true, values, ring, matrix)
    # The images of a lattice fade out of the overlaps, which the refinement does not know and may run away from.
    if likelihood(finer, _JUDGES)[0] > 0.95 * likelihood(matrix, _JUDGES)[0]:
        matrix = finer
    return replace(found, matrix=matrix, covariance=covariance)


def overlap_likelihood(
    spectra: BrightFieldSpectra,
    g: NDArray[np.float64],
    values: NDArray[np.complex64],
    matrix: NDArray[np.float64],
    spacing: float,
    doubt: float = 0.0,
) -> tuple[float, NDArray[np.float64]]:
    """Power of the images along the pattern of overlaps.

    Args:
        spectra: of the bright-field images.
        g: (f, 2) frequencies, cycles per scan step.
        values: (f, q) of the images at these frequencies.
        matrix: (2, 2) shift map to judge, scan steps per disc radius.
        spacing: wavelength over scan step, in disc radii.
        doubt: a frequency stays itself where an alias explains less than this much more.

    Returns:
        The power summed over the frequencies, and the (f, 2) frequencies that they are: of each the alias that explains it best.
    """
    u, _, vt = np.linalg.svd(matrix)
    frame = u @ vt
    curvature = matrix @ frame.T  # −A, symmetric
    q = spectra.angles.astype(np.float32)
    within = (q**2).sum(axis=1)[:, None]
    cycles = q @ matrix.T.astype(np.float32)
    own = np.exp(2j * np.pi * (cycles @ g.T)).astype(np.complex64) * values.T  # (q, f), images shifted back …
    further = np.exp(2j * np.pi * (cycles @ _ORDERS.T)).astype(np.complex64)  # … and if they are aliases
    total, true = 0.0, g.copy()
    for i, frequency in enumerate(g):
        candidates = frequency + _ORDERS
        offset = spacing * (candidates @ frame)
        length = (offset**2).sum(axis=1)
        chi = -np.pi * spacing * np.einsum("ni,ij,nj->n", candidates, curvature, candidates)
        along, reach = 2 * (q @ offset.T.astype(np.float32)), within + length
        minus, plus = reach - along < 1, reach + along < 1
        back = own[:, i, None] * further
        amplitude = np.exp(-1j * chi) * (back * minus).sum(axis=0) - np.exp(1j * chi) * (back * plus).sum(axis=0)
        norm = minus.sum(axis=0) + plus.sum(axis=0) - 2 * np.cos(2 * chi) * (minus & plus).sum(axis=0)
        power = np.where((norm > 20) & (length < 1.9**2), np.abs(amplitude) ** 2 / np.maximum(norm, 1), 0.0)
        best = int(np.argmax(power))
        if power[best] - power[0] < doubt:
            best = 0
        total += float(power[best])
        true[i] = candidates[best]
    return total, true


def _candidates(
    spectra: BrightFieldSpectra,
    g: NDArray[np.float64],
    values: NDArray[np.complex64],
    spacing: float,
    searched: tuple[float, float],
) -> list[list[NDArray[np.float64]]]:
    """For each hand its _CANDIDATES maps, without astigmatism, that add up to the most power when aliases are admitted."""
    powers = detector_transforms(spectra, values)
    padded = powers.shape[1]
    weight = 1 / np.maximum(powers.max(axis=(1, 2)), 1e-30)  # a vote each
    every = (g[:, None] + _ORDERS).reshape(-1, 2)
    legal = (np.hypot(every[:, 0], every[:, 1]) * spacing < 1.9).reshape(len(g), -1)
    index = np.arange(len(g))[:, None]
    chosen: list[list[NDArray[np.float64]]] = []
    for hand in (1.0, -1.0):
        scores, matrices = [], []
        for size in np.arange(searched[0], searched[1] + 0.5, 0.5):
            angles = np.arange(n := max(16, int(4 * np.pi * size))) * (2 * np.pi / n)
            c, s = size * np.cos(angles), size * np.sin(angles)
            turned = np.stack([hand * c, -s, hand * s, c], axis=-1).reshape(-1, 2, 2)
            at = np.rint(every @ turned * (padded / spectra.radius)).astype(np.intp) % padded
            at = at.reshape(len(angles), *legal.shape, 2)
            scores.append((powers[index, at[..., 0], at[..., 1]] * legal).max(axis=2) @ weight)
            matrices.append(turned)
        kept: list[NDArray[np.float64]] = []
        every_matrix = np.concatenate(matrices)
        for i in np.argsort(-np.concatenate(scores)):
            if all(np.linalg.norm(every_matrix[i] - other) > 1.0 for other in kept):
                kept.append(every_matrix[i])
            if len(kept) == _CANDIDATES:
                break
        chosen.append(kept)
    return chosen
