"""How good a picture is, without knowing the truth: the information that two half-count reconstructions share.

F(k) is the Fourier ring correlation of the two phase images. The full data then have the spectral signal-to-noise ratio
S = 2F/(1 − F), and a real image carries ½ log2(1 + S) bit per Fourier pixel pair member, so that per area

    score = ½ ∫ log2(1 + S) 2πk dk = (1/ln 2) ∫ atanh F(k) 2πk dk     in bit/Å²

atanh is odd: rings of noise average to zero. Its variance is that of Fisher's z, 1/(2(n − 3)) for n independent Fourier
pairs (R. A. Fisher, Metron 1 (1921) 3). Half-bit threshold: van Heel & Schatz, J. Struct. Biol. 151 (2005) 250.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.config import ScoreChoice
from agent.records import Score
from instrument.models import Rectangle

LARGEST_FRC = 0.999
"""|F| is capped here before atanh."""


@dataclass(frozen=True)
class Spectrum:
    """Fourier ring correlation of two images.

    Attributes:
        edges: (rings + 1,) ring limits, 1/Å.
        frc: (rings,) signed correlation.
        pairs: (rings,) independent Fourier pairs, corrected for the taper.
    """

    edges: NDArray[np.float64]
    frc: NDArray[np.float64]
    pairs: NDArray[np.float64]

    @property
    def frequency(self) -> NDArray[np.float64]:
        """(rings,) middle of each ring, 1/Å."""
        middle: NDArray[np.float64] = (self.edges[1:] + self.edges[:-1]) / 2
        return middle


def tukey(n: int, tapered: float) -> NDArray[np.float64]:
    """Tukey window of n samples, of which the part `tapered` falls off as a cosine (half of it on each side)."""
    x = (np.arange(n) + 0.5) / n
    edge = np.minimum(x, 1 - x)
    if tapered <= 0:
        return np.ones(n)
    return np.where(edge < tapered / 2, 0.5 * (1 - np.cos(2 * np.pi * edge / tapered)), 1.0)


def crop(
    image: NDArray[np.floating], origin: tuple[float, float], pixel_size: tuple[float, float], square: Rectangle
) -> NDArray[np.float64]:
    """The part of an image that covers `square` (Å, same frame as `origin`), to the nearest pixel.

    Raises ValueError where the image does not reach that far.
    """
    first = [round((lo - o) / p) for lo, o, p in zip((square.y, square.x), origin, pixel_size, strict=True)]
    size = [round(length / p) for length, p in zip((square.height, square.width), pixel_size, strict=True)]
    if min(first) < 0 or first[0] + size[0] > image.shape[0] or first[1] + size[1] > image.shape[1]:
        msg = f"the scored field {square.height:g} × {square.width:g} Å reaches beyond the reconstruction"
        raise ValueError(msg)
    part = image[first[0] : first[0] + size[0], first[1] : first[1] + size[1]]
    return np.asarray(part, dtype=np.float64)


def flattened(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without its best plane: constant and linear phase are the gauge of ptychography."""
    y, x = (np.linspace(-1, 1, n) for n in image.shape)
    plane = np.stack([np.ones(image.shape), np.broadcast_to(y[:, None], image.shape), np.broadcast_to(x, image.shape)])
    basis = plane.reshape(3, -1).T
    coefficients, *_ = np.linalg.lstsq(basis, image.ravel(), rcond=None)
    return image - (basis @ coefficients).reshape(image.shape)


def ring_correlation(
    pairs_of_tiles: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    pixel_size: tuple[float, float],
    choice: ScoreChoice,
) -> Spectrum:
    """Fourier ring correlation over one or several tiles of equal size.

    Args:
        pairs_of_tiles: (first, second) image of each tile, all (y, x) of one shape.
        pixel_size: (y, x), Å.
        choice: rings and taper.
    """
    shape = pairs_of_tiles[0][0].shape
    window = tukey(shape[0], choice.taper)[:, None] * tukey(shape[1], choice.taper)[None, :]
    ky, kx = np.fft.fftfreq(shape[0], pixel_size[0]), np.fft.fftfreq(shape[1], pixel_size[1])
    k = np.hypot(ky[:, None], kx[None, :]).ravel()
    n_rings = max(1, round((choice.k_max - choice.k_min) / choice.ring_width))
    edges = choice.k_min + choice.ring_width * np.arange(n_rings + 1, dtype=np.float64)
    ring = np.digitize(k, edges) - 1
    inside = (ring >= 0) & (ring < n_rings)

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(ring[inside], weights=values.ravel()[inside], minlength=n_rings).astype(np.float64)

    cross, first_power, second_power = (np.zeros(n_rings) for _ in range(3))
    for first, second in pairs_of_tiles:
        a, b = np.fft.fft2(flattened(first) * window), np.fft.fft2(flattened(second) * window)
        cross += total((a * b.conj()).real)
        first_power += total(np.abs(a) ** 2)
        second_power += total(np.abs(b) ** 2)
    members = np.bincount(ring[inside], minlength=n_rings)
    frc = np.asarray(cross / np.sqrt(np.maximum(first_power * second_power, 1e-300)), dtype=np.float64)
    independent = (window**2).sum() ** 2 / (window**4).sum() / window.size
    return Spectrum(edges, frc, (len(pairs_of_tiles) * members / 2 * independent).astype(np.float64))


def score_spectrum(spectrum: Spectrum) -> Score:
    """Information per area with its standard deviation, and the half-bit resolution."""
    enough = spectrum.pairs > 3.5
    frc = np.clip(spectrum.frc, -LARGEST_FRC, LARGEST_FRC)
    weight = np.pi * np.diff(spectrum.edges**2) / np.log(2)  # ∫ 2πk dk over the ring
    z = np.where(enough, np.arctanh(frc), 0.0)
    variance = np.where(enough, 1 / (2 * np.maximum(spectrum.pairs - 3, 0.5)), 0.0)
    return Score(
        value=float((weight * z).sum()),
        sd=float(np.sqrt((weight**2 * variance).sum())),
        resolution=half_bit_resolution(spectrum),
        frequency=tuple(spectrum.frequency.tolist()),
        frc=tuple(spectrum.frc.tolist()),
        pairs=tuple(spectrum.pairs.tolist()),
    )


def half_bit_threshold(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """F at which a ring of n independent pairs carries half a bit per pixel (van Heel & Schatz 2005, eq. 17)."""
    root = np.sqrt(2 * np.maximum(pairs, 1.0))
    threshold: NDArray[np.float64] = (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)
    return threshold


def half_bit_resolution(spectrum: Spectrum) -> float | None:
    """1/k, Å, where the correlation falls below the half-bit curve; 1/k_max where it never does; None if it never is above.

    A crystal has nothing between its reflections, so three rings are averaged, and rings before the first signal are
    passed over.
    """
    kernel = np.ones(min(3, len(spectrum.frc)))
    norm = np.convolve(np.ones(len(spectrum.frc)), kernel, mode="same")
    frc = np.convolve(spectrum.frc, kernel, mode="same") / norm
    above = frc >= half_bit_threshold(np.convolve(spectrum.pairs, kernel, mode="same"))
    if not above.any():
        return None
    below = np.flatnonzero(~above[int(np.argmax(above)) :]) + int(np.argmax(above))
    return float(1 / (spectrum.edges[below[0]] if len(below) else spectrum.edges[-1]))


def scale_score(score: Score, factor: float) -> Score:
    """The score expected at `factor` times the dose: S grows with the dose in every ring.

    Odd in F like the score itself, so that rings of noise stay unbiased: |S| is scaled and the sign kept.
    """
    frc = np.clip(np.asarray(score.frc), -LARGEST_FRC, LARGEST_FRC)
    magnitude = 2 * np.abs(frc) / (1 - np.abs(frc)) * factor
    scaled = np.clip(np.sign(frc) * magnitude / (2 + magnitude), -LARGEST_FRC, LARGEST_FRC)
    width = score.frequency[1] - score.frequency[0]
    centre = np.asarray(score.frequency)
    edges = np.concatenate([centre - width / 2, centre[-1:] + width / 2])
    spectrum = Spectrum(edges, scaled, np.asarray(score.pairs))
    # dz'/dz of the map, for the uncertainty: z = atanh F, S = e^{2|z|} − 1
    slope = factor * (1 + magnitude / factor) / (1 + magnitude)
    weight = np.pi * np.diff(edges**2) / np.log(2)
    enough = spectrum.pairs > 3.5
    variance = np.where(enough, slope**2 / (2 * np.maximum(spectrum.pairs - 3, 0.5)), 0.0)
    result = score_spectrum(spectrum)
    return result.model_copy(update={"sd": float(np.sqrt((weight**2 * variance).sum())), "veto": score.veto})


def dose_knee(score: Score, dose: float) -> float | None:
    """D₀, e/Å², of score ∝ log2(1 + D/D₀) that this acquisition's own rings predict for four times its dose.

    None where there is too little signal to tell. S ∝ D in every ring (`scale_score`); D₀ is small where strong rings are
    saturated already, large where all are weak.
    """
    if not score.frequency or score.value < 4 * score.sd:
        return None
    ratio = scale_score(score, 4.0).value / score.value
    u = np.geomspace(1e-3, 1e3, 601)
    return float(dose / np.interp(-ratio, -np.log2(1 + 4 * u) / np.log2(1 + u), u))


def tiles(area: Rectangle, edge: float) -> list[Rectangle]:
    """Squares of `edge` Å that tile the middle of `area` without overlap; at least one."""
    n_y, n_x = max(1, int(area.height / edge + 1e-6)), max(1, int(area.width / edge + 1e-6))
    y0 = area.y + (area.height - n_y * edge) / 2
    x0 = area.x + (area.width - n_x * edge) / 2
    return [
        Rectangle(y=y0 + i * edge, x=x0 + j * edge, height=edge, width=edge) for i in range(n_y) for j in range(n_x)
    ]


def figure_of_merit(image: NDArray[np.floating], pixel_size: tuple[float, float], score: Score) -> NDArray[np.float32]:
    """The picture weighted ring by ring with C = √(2F/(1 + F)), the expected correlation of the full data with the truth.

    What is noise in the half-count correlation is taken out of the picture; what both halves see stays (Rosenthal &
    Henderson, J. Mol. Biol. 333 (2003) 721, eq. 18). Below the first ring the weight is that of the first, beyond the
    last 0.

    Args:
        image: (y, x) phase from all counts.
        score: with its rings; one without rings leaves the picture as it is.
    """
    if not score.frequency:
        return np.asarray(image, dtype=np.float32)
    frc = np.clip(np.asarray(score.frc), 0.0, LARGEST_FRC)
    weight = np.sqrt(2 * frc / (1 + frc))
    ky, kx = (np.fft.fftfreq(n, p) for n, p in zip(image.shape, pixel_size, strict=True))
    k = np.hypot(ky[:, None], kx[None, :])
    filtered = np.fft.ifft2(np.fft.fft2(image) * np.interp(k, score.frequency, weight, right=0.0)).real
    return filtered.astype(np.float32)
