"""Positions refined together with the object that follows them (README, "Positions")."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.backends.protocol import Backend
from agent.reconstruction.model.forward import Problem, Sums, Unknowns
from agent.reconstruction.model.geometry import Geometry
from agent.reconstruction.solver.illumination import PatternIllumination
from instrument.errors import BadInputError

Kind = Literal["free", "lines", "linear"]

DAMPING = 0.02
"""Part of a fixed object's curvature that is added."""
ITERATIONS = 12
"""Conjugate-gradient steps at most; displacements that are hardly seen come last and are left to later passes."""
STEP = 1.5
"""Of the Newton step. The phase-averaged information is above the true one, so that longer steps gain, up to 2 or so."""
LARGEST = 1.0
"""Pixels that a position may move in one pass."""
FLOOR = 0.05
"""Part of the largest illumination below which the object does not give way."""


def spare_pixels(kind: Kind | None, positions: NDArray[np.float64], pixel_size: tuple[float, float]) -> int:
    """Spare object pixels on each side: where positions are refined, enough for a scan with a scale wrong by 6 %.

    Args:
        kind: see `ReconstructionSettings.refine_positions`.
        positions: (n, 2), Å.
        pixel_size: (y, x) of the object, Å.
    """
    span = np.ptp(positions, axis=0).max() / min(pixel_size)
    return 4 if kind is None else 6 + int(np.ceil(0.03 * span))


class Displacement:
    """Steps of all positions, one per full pass.

    Args:
        kind: see `ReconstructionSettings.refine_positions`.
        geometry: object grid and nominal places on it.
        nominal: (n, 2), Å, in the scan's frame.
        jitter: standard deviation, Å along each axis, of free displacements before any count was seen; 0: not known.
        first: full passes before the first step.

    Raises:
        BadInputError: where `kind` is `lines` and the positions are no raster.
    """

    def __init__(
        self, kind: Kind, geometry: Geometry, nominal: NDArray[np.float64], jitter: float = 0.0, first: int = 2
    ) -> None:
        known = jitter > 0 and kind == "free"
        self.precision = (np.asarray(geometry.pixel_size) / jitter) ** 2 if known else np.zeros(2)
        self.kind, self.geometry, self.first = kind, geometry, first
        self.places = geometry.corners + geometry.subpixel_shifts.astype(np.float64)
        self.line = scan_lines(nominal) if kind == "lines" else None
        self.passes = 0
        self.velocity = np.zeros((len(nominal), 2))
        centred = nominal - nominal.mean(axis=0)
        if self.line is not None:
            # within its line: the rest is a drift of the line
            fast = centred[:, _fast_axis(nominal)]
            fast = fast - _mean_by(self.line, fast[:, None])[:, 0]
            self.columns = (fast / max(float(np.linalg.norm(fast)), 1e-30))[:, None]
        elif kind == "linear":
            left, size, _ = np.linalg.svd(centred, full_matrices=False)
            self.columns = left[:, size > 1e-6 * max(float(size[0]), 1e-30)]

    def in_model(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """The part of displacements that the scan's model allows, with a mean of 0: the object may lie anywhere.

        Args:
            steps: (n, 2) pixels.
        """
        result = steps - steps.mean(axis=0)
        if self.kind == "free":
            return np.asarray(result)
        along = self.columns @ (self.columns.T @ result)
        return np.asarray(along if self.line is None else along + _mean_by(self.line, result))

    def positions(self, unknowns: Unknowns, backend: Backend) -> NDArray[np.float64]:
        """(n, 2), Å, in the scan's frame."""
        geo = self.geometry
        half = np.asarray(unknowns.apertures.shape[1:]) // 2
        pixels = backend.to_host(unknowns.corners) + half + backend.to_host(unknowns.subpixel_shifts).astype(np.float64)
        return np.asarray((pixels * np.asarray(geo.pixel_size) + np.asarray(geo.origin)) @ geo.matrix.T)

    def update(self, unknowns: Unknowns, sums: Sums, problem: Problem, backend: Backend, reach: Any) -> Any:
        """Move the windows and sub-pixel shifts; returns the displacement (2, y, x) of the object in pixels, or None.

        The equations are solved on the host.
        """
        self.passes += 1
        if self.passes <= self.first:
            return None
        xp = backend.xp
        now = np.asarray(backend.to_host(unknowns.corners) + backend.to_host(unknowns.subpixel_shifts), np.float64)
        pull = 4 * backend.to_host(sums.slopes)[:, :2].astype(np.float64)
        curvature = _Curvature(unknowns, problem, backend, self.precision)
        off = now - self.places
        pull -= self.precision * (off - off.mean(axis=0))
        steps = self._with_momentum(self._solved(pull, curvature), float(backend.to_host(reach)))
        wanted = self.places + self.in_model(off) + off.mean(axis=0) + steps
        if not np.isfinite(wanted).all():  # an object that is no longer one moves no window out of its grid
            return None
        limit = np.asarray(unknowns.object.shape[1:]) - np.asarray(unknowns.apertures.shape[1:]) - 1e-3
        wanted = np.clip(wanted, 0, limit)
        corners = np.floor(wanted)
        unknowns.corners[...] = xp.asarray(corners.astype(np.int32))
        unknowns.subpixel_shifts[...] = xp.asarray((wanted - corners).astype(np.float32))
        return curvature.followed(wanted - now)

    def _solved(self, pull: NDArray[np.float64], curvature: _Curvature) -> NDArray[np.float64]:
        """Preconditioned conjugate gradients in the space of the model: (n, 2) pixels."""
        left = self.in_model(pull)
        steps = np.zeros_like(left)
        ready = self.in_model(curvature.alone(left))
        search, size = ready, float((left * ready).sum())
        start = size
        for _ in range(ITERATIONS):
            if size <= 1e-3 * start or size <= 0:
                break
            turned = self.in_model(curvature.times(search))
            length = size / max(float((search * turned).sum()), 1e-30)
            steps = steps + length * search
            left = left - length * turned
            ready = self.in_model(curvature.alone(left))
            last, size = size, float((left * ready).sum())
            search = ready + (size / last) * search
        return steps

    def _with_momentum(self, steps: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
        """Steps with Nesterov's momentum, the same as that of the object."""
        single = STEP * steps
        if self.kind == "free":
            length = np.hypot(*single.T)
            middle = float(np.median(length))
            limit = middle + 5 * float(np.median(np.abs(length - middle)))
            single *= np.minimum(1.0, limit / np.maximum(length, 1e-30))[:, None]
        self.velocity = reach * (self.velocity + single)
        total = single + self.velocity
        return np.asarray(total * min(1.0, LARGEST / max(float(np.hypot(*total.T).max()), 1e-30)))


class _Curvature:
    """The left side of the equations of the README, times displacements (n, 2) in pixels.

    Args:
        precision: (2,) per pixel², of what is known of displacements beforehand.
    """

    def __init__(self, unknowns: Unknowns, problem: Problem, backend: Backend, precision: NDArray[np.float64]) -> None:
        xp = self.xp = backend.xp
        self.backend = backend
        # a pull grows with the electrons of its pattern, and so must the curvature
        intensity = unknowns.weights[:, 0].astype(np.float64) ** 2
        self.by_pattern = PatternIllumination(unknowns, unknowns.apertures[: problem.n_modes], intensity, xp)
        transmission = unknowns.object.prod(axis=0)
        spectrum = xp.fft.fft2(transmission)
        k_y, k_x = (2j * xp.pi * xp.fft.fftfreq(n) for n in transmission.shape)
        slope_y, slope_x = xp.fft.ifft2(spectrum * k_y[:, None]), xp.fft.ifft2(spectrum * k_x[None, :])
        self.fisher = [2 * (a.conj() * b).real for a, b in ((slope_y, slope_y), (slope_y, slope_x), (slope_x, slope_x))]
        illumination = self._spread(np.ones(len(intensity)))
        self.illumination = xp.maximum(illumination, 0) + FLOOR * illumination.max()
        yy, yx, xx = (self._seen(part) for part in self.fisher)
        self.own = np.stack([yy, yx, yx, xx], axis=-1).reshape(-1, 2, 2)
        middle = np.median(yy + xx)
        self.own += 0.05 * middle * np.eye(2)  # a pattern that sees next to nothing stays where it is
        self.own += np.diag(precision)

    def alone(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Displacements that a pull (n, 2) would give if the object did not move."""
        return np.asarray(np.linalg.solve(self.own, steps[:, :, None])[:, :, 0])

    def times(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Curvature times displacements."""
        moved_y, moved_x = self.followed(steps)
        yy, yx, xx = self.fisher
        given = np.stack([self._seen(yy * moved_y + yx * moved_x), self._seen(yx * moved_y + xx * moved_x)], axis=-1)
        own = (self.own @ steps[:, :, None])[:, :, 0]
        return np.asarray((1 + DAMPING) * own - given)

    def followed(self, steps: NDArray[np.float64]) -> Any:
        """(2, y, x) mean displacement of the patterns that see each pixel."""
        return self.xp.stack([self._spread(steps[:, axis]) / self.illumination for axis in (0, 1)])

    def _spread(self, values: NDArray[np.float64]) -> Any:
        """Σ_j value_j I_j on the object grid."""
        return self.by_pattern.spread(self.xp.asarray(values))

    def _seen(self, image: Any) -> NDArray[np.float64]:
        """Σ_r I_j(r) image(r) of every pattern."""
        return np.asarray(self.backend.to_host(self.by_pattern.seen(image)), np.float64)


def moved(obj: Any, displacement: Any, xp: Any) -> Any:
    """Objects (S, y, x) moved by a displacement (2, y, x) in pixels, to second order."""
    spectrum = xp.fft.fft2(obj)
    k_y, k_x = (2j * xp.pi * xp.fft.fftfreq(n) for n in obj.shape[1:])
    k_y, k_x = k_y[:, None], k_x[None, :]
    d_y, d_x = displacement
    first = d_y * xp.fft.ifft2(spectrum * k_y) + d_x * xp.fft.ifft2(spectrum * k_x)
    second = (
        d_y * d_y * xp.fft.ifft2(spectrum * k_y**2)
        + 2 * d_y * d_x * xp.fft.ifft2(spectrum * (k_y * k_x))
        + d_x * d_x * xp.fft.ifft2(spectrum * k_x**2)
    )
    return (obj - first + 0.5 * second).astype(obj.dtype)


def scan_lines(positions: NDArray[np.float64]) -> NDArray[np.int64]:
    """The scan lines of a raster: equal coordinates along the slow axis. Raises BadInputError where there are none.

    Args:
        positions: (n, 2), (y, x), of a raster.

    Returns:
        (n,) number of the line of each.
    """
    slow = positions[:, 1 - _fast_axis(positions)]
    order = np.argsort(slow, kind="stable")
    gaps = np.diff(slow[order])
    step = float(np.median(gaps[gaps > 1e-3 * max(float(gaps.max()), 1e-30)])) if len(gaps) and gaps.max() > 0 else 0.0
    line = np.zeros(len(slow), np.int64)
    line[order] = np.concatenate([[0], np.cumsum(gaps > 0.2 * step)])
    number = int(line.max()) + 1
    if number < 2 or len(slow) < 3 * number:
        msg = (
            f"{len(slow)} positions have {number} different slow-scan coordinates, so they are no raster with lines; "
            "refine_positions: 'free' or 'linear' is legal for them"
        )
        raise BadInputError(msg)
    return line


def _fast_axis(positions: NDArray[np.float64]) -> int:
    """The axis along which successive positions lie."""
    return int(np.median(np.abs(np.diff(positions, axis=0)), axis=0).argmax()) if len(positions) > 1 else 1


def _mean_by(group: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each of (n, c) values replaced by the mean of its group."""
    number = np.bincount(group)
    means = np.stack([np.bincount(group, weights=column) / number for column in values.T], axis=-1)
    return np.asarray(means[group])
