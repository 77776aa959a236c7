"""The GPU backend: memory, chunks and sums round the launches of `gpu_launches`.

A chunk of patterns is held at once, as many as there is memory for. Nothing waits for the device: the order of the patterns
is uploaded, chunks are padded to one size, sums stay where they are. That makes a batch one CUDA graph
(`cuda.CupyDevice.replay`), as long as object, apertures, weights and background are updated in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.backends.gpu_buffers import SEGMENT, Buffers, Dimensions
from agent.reconstruction.backends.gpu_launches import Job, Launches
from agent.reconstruction.counts.layout import bin_counts, draw_counts, sum_counts
from agent.reconstruction.counts.patterns import counts_type
from agent.reconstruction.kernels.cuda import CupyDevice, Device, GpuFailedError, failures
from agent.reconstruction.model.forward import Problem, Sums, Unknowns, Wanted, expected_counts, step_phases

WAVES = 2048
"""Waves of 128² at once, where memory allows: twice as many gain 3 %."""
GRAPH_CHUNKS = 256
"""Batches of more chunks keep the device busy without a graph."""
SHARE = 0.8
"""Part of the free memory that buffers may take."""

_DRAWN = 256
"""Patterns whose counts are thinned at once: drawing takes 12 bytes per pixel."""


class GpuBackend:
    """The kernels of a GPU; see `protocol.Backend`.

    Args:
        device: None: the current CUDA device.
        waves: of 128² at once at most (mode × pattern); fewer of more pixels.

    Raises:
        GpuFailedError: here and from every method, where the device has too little memory, fails or is not there.
    """

    name = "gpu"

    def __init__(self, device: Device | None = None, waves: int = WAVES) -> None:
        self._device = device or CupyDevice()
        self._waves = waves
        self._buffers: Buffers | None = None
        self._limit: tuple[Dimensions, int] | None = None
        self._lit: tuple[NDArray[np.bool_] | None, Any, Any] | None = None
        self.xp: Any = self._device.xp

    def load(self, chunks: Iterable[NDArray[Any]], n: int, roll: tuple[int, int], shape: tuple[int, int]) -> Any:
        """See `Backend.load`: (n, ky, kx) counts on the device as uint8, uint16 or float32 (`patterns.counts_type`)."""
        xp = self.xp
        with failures():
            out, first = None, 0
            for chunk in chunks:
                kind = counts_type(chunk)
                if out is None:
                    self._check(n * shape[0] * shape[1] * kind.itemsize, f"{n} patterns of {shape[0]} × {shape[1]}")
                    out = xp.empty((n, *shape), kind)
                elif np.promote_types(out.dtype, kind) != out.dtype:
                    out = out.astype(np.promote_types(out.dtype, kind))
                part = xp.asarray(np.ascontiguousarray(chunk, out.dtype))
                if part.shape[1:] != shape:
                    rim = [(0, full - size) for full, size in zip(shape, part.shape[1:], strict=True)]
                    part = xp.pad(part, [(0, 0), *rim])
                out[first : first + len(part)] = xp.roll(part, roll, axis=(1, 2))
                first += len(part)
            assert out is not None
            return out

    def step_phases(self, obj: Any, sums: Sums, size: float, floor: Any, positive: bool) -> None:
        """See `forward.step_phases`."""
        with failures():
            step_phases(obj, sums, size, floor, positive, self.xp)

    def thin_counts(self, counts: Any, fraction: float, seed: int) -> Any:
        """See `Backend.thin_counts`; by another random sequence than on the CPU."""
        with failures():
            random, drawn = self.xp.random.RandomState(seed), self.xp.empty_like(counts)
            for first in range(0, len(counts), _DRAWN):
                part = slice(first, first + _DRAWN)
                drawn[part] = random.binomial(counts[part].astype(np.int32), fraction)
            return drawn

    def sum_counts(self, counts: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
        """See `Backend.sum_counts`."""
        with failures():
            return sum_counts(counts)

    def bin_counts(self, counts: Any, shape: tuple[int, int]) -> Any:
        """See `Backend.bin_counts`."""
        with failures():
            return bin_counts(counts)

    def draw_counts(self, model: Any, seed: tuple[int, ...]) -> Any:
        """See `Backend.draw_counts`; by another random sequence than on the CPU."""
        with failures():
            state = int(np.random.SeedSequence(seed).generate_state(1)[0])
            return draw_counts(model, self.xp.random.RandomState(state))

    def to_host(self, array: Any) -> NDArray[Any]:
        """Copied from the device; waits for it."""
        with failures():
            return array.get() if hasattr(array, "get") else np.asarray(array)

    def expected_counts(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64]) -> Any:
        """See `Backend.expected_counts`; in the plain form, since it is asked for once or twice in a reconstruction."""
        with failures():
            return expected_counts(problem, unknowns, index, self.xp)

    def accumulate(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64], wanted: Wanted) -> Sums:
        """See `Backend.accumulate`. `index` may be on the device; the deviance is an array of no dimension there."""
        with failures():
            dims = Dimensions.of(problem, unknowns, self._device.shared_memory())
            job, buffers = self._cut(dims, problem, unknowns, len(index), wanted)
            buffers.index[: len(index)] = self.xp.asarray(index)
            buffers.index[len(index) : job.chunk * job.chunks] = -1
            launches = Launches(job, buffers, self._device)
            if job.chunks <= GRAPH_CHUNKS:
                key = (
                    job.chunk,
                    job.chunks,
                    wanted,
                    problem.loss,
                    float(problem.variance),
                    float(unknowns.count_offset),
                )
                self._device.replay(key, job.arrays, launches.all)
            else:
                launches.all()
            return self._collected(job, buffers, len(index))

    def _cut(
        self, dims: Dimensions, problem: Problem, unknowns: Unknowns, n: int, wanted: Wanted
    ) -> tuple[Job, Buffers]:
        """The batch in chunks of one size, and buffers for it, smaller ones where the device says that it has no more."""
        while True:
            limit = self._limit[1] if self._limit is not None and self._limit[0] == dims else self._most(dims)
            self._limit = dims, limit
            chunk = _rounded(-(-n // -(-n // limit)), limit)
            chunks = -(-n // chunk)
            lit, rows = self._lit_pixels(problem, dims)
            job = Job(dims, _typed(problem, self.xp), _contiguous(unknowns, self.xp), lit, rows, wanted, chunk, chunks)
            held = self._buffers
            if held is not None and held.dims == dims and held.chunk >= chunk and held.total >= chunk * chunks:
                return job, held
            try:
                self._drop()
                self._buffers = Buffers(dims, chunk, chunk * chunks, self.xp)
            except MemoryError:
                if limit == 1:
                    self._check(dims.bytes_for(1) / SHARE + 1, "one pattern at a time", refused=True)
                self._limit = dims, limit // 2
            else:
                return job, self._buffers

    def _lit_pixels(self, problem: Problem, dims: Dimensions) -> tuple[Any, Any]:
        """Flat indices of the support, and for each row whether it has any, on the device; uploaded when it is another array."""
        held, sizes = self._lit, (dims.lit, dims.n_y)
        if held is None or held[0] is not problem.support or (held[1].size, held[2].size) != sizes:
            shape, xp = (dims.n_y, dims.n_x), self.xp
            lit = np.ones(shape, bool) if problem.support is None else problem.support
            pixels, rows = np.flatnonzero(lit), lit.any(axis=1)
            held = problem.support, xp.asarray(pixels, np.int32), xp.asarray(rows, np.int32)
            self._lit = held
        return held[1:]

    def _drop(self) -> None:
        """Give the buffers back, and what was recorded with them."""
        self._buffers = None
        self._device.forget()

    def _most(self, dims: Dimensions) -> int:
        """Patterns in a chunk: as many as are worth while and as there is memory for."""
        self._drop()
        worth = max(1, round(self._waves * 128**2 / dims.plane / dims.modes))
        worth = min(worth, (2**31 - 1) // (dims.plane * dims.modes))  # the kernels' indices have 32 bits
        self._check(dims.bytes_for(1) / SHARE, "one pattern at a time")
        each = dims.bytes_for(1) - dims.bytes_for(0)
        return int(min(worth, (SHARE * self._device.free_memory() - dims.bytes_for(0)) // each))

    def _check(self, needed: float, what: str, refused: bool = False) -> None:
        """Raise GpuFailedError where `needed` bytes are not free, or were refused."""
        free = self._device.free_memory()
        if needed > free or refused:
            msg = f"the GPU has too little memory: {what} need {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB are free"
            raise GpuFailedError(msg)

    def _collected(self, job: Job, buffers: Buffers, n: int) -> Sums:
        """Copies of the sums: the next batch writes over the buffers."""
        wanted, dims = job.wanted, job.dims
        sums = Sums(None, None, None, None, 0.0, None, buffers.modelled[:n].copy())
        if wanted.adjoint:
            sums.object_numerator, sums.illumination = buffers.numerator.copy(), buffers.illumination.copy()
            if wanted.probe:
                flat = self.xp.zeros((dims.apertures, dims.plane), np.complex64)
                flat[:, job.lit] = buffers.apertures
                sums.aperture_numerator = flat.reshape(-1, dims.n_y, dims.n_x)
                sums.slopes = buffers.slopes[:n].copy()
        if wanted.ratio:
            sums.ratio = buffers.ratio.copy()
        if wanted.deviance:
            sums.deviance = 2 * buffers.deviance[:n].sum(dtype=np.float64)
        return sums


def _rounded(chunk: int, limit: int) -> int:
    """Batches of nearly the same size take chunks of one size, so that plans and recordings serve again."""
    return min(limit, -(-chunk // SEGMENT) * SEGMENT)


def _typed(problem: Problem, xp: Any) -> Problem:
    """The arrays of a problem as the kernels read them; those that are so already are not copied."""
    return replace(
        problem,
        mask=xp.ascontiguousarray(problem.mask, np.float32),
        propagators=None if problem.propagators is None else xp.ascontiguousarray(problem.propagators, np.complex64),
        transfer=None if problem.transfer is None else xp.ascontiguousarray(problem.transfer, np.float32),
    )


def _contiguous(unknowns: Unknowns, xp: Any) -> Unknowns:
    """The arrays of the unknowns as the kernels read them; those that are so already are not copied."""
    return replace(
        unknowns,
        object=xp.ascontiguousarray(unknowns.object, np.complex64),
        apertures=xp.ascontiguousarray(unknowns.apertures, np.complex64),
        corners=xp.ascontiguousarray(unknowns.corners, np.int32),
        subpixel_shifts=xp.ascontiguousarray(unknowns.subpixel_shifts, np.float32),
        weights=xp.ascontiguousarray(unknowns.weights, np.float32),
        background=xp.ascontiguousarray(unknowns.background, np.float32),
    )
