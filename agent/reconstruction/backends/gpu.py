"""The GPU backend: in which order kernels (`diffraction.cu`, `waves.cu`) and the transforms of cuFFT follow.

A chunk of patterns is held at once, as many as there is memory for:

    aperture × weights × ramp -> F⁻¹ -> × object [-> F -> × propagator -> F⁻¹ -> × object]… -> F -> residual -> F⁻¹ ->
    conj(wave)· and conj(object)· [-> F -> × conj(propagator) -> F⁻¹ -> …]… -> F -> × conj(ramp), summed

Where a thread block can hold a wave (`Dimensions.in_shared`), two kernels do all but the residual and the sums, and the
transforms with it: for S slices a pass moves 32·S + 32 bytes per pixel and mode of complex64. Elsewhere the transforms are
cuFFT's, 4·S of 32 bytes each, and with the kernels between them it is 200·S − 8. Counts and ratio add 2 to 5 per pixel
whatever the number of modes; object and apertures stay in the second-level cache.

Nothing waits for the device: the order of the patterns is uploaded, chunks are padded to one size, sums stay where they
are. That makes a batch one CUDA graph (`cuda.CupyDevice.replay`), as long as object, apertures, weights and background are
updated in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.backends.gpu_buffers import SEGMENT, TILE_X, TILE_Y, Buffers, Dimensions
from agent.reconstruction.counts.layout import bins_of, drawn, sums_of
from agent.reconstruction.counts.patterns import counts_type
from agent.reconstruction.kernels.cuda import CupyDevice, Device, GpuFailedError, Launch, failures
from agent.reconstruction.model.forward import LOSSES, Problem, Sums, Unknowns, Wanted, expected, turn

WAVES = 2048
"""Waves of 128² at once, where memory allows: twice as many gain 3 %."""
GRAPH_CHUNKS = 256
"""Batches of more chunks keep the device busy without a graph."""
SHARE = 0.8
"""Part of the free memory that buffers may take."""

_DRAWN = 256
"""Patterns whose counts are thinned at once: drawing takes 12 bytes per pixel."""
_KINDS = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


@dataclass(frozen=True)
class _Job:
    """One batch: what the launches read, and how it is cut."""

    layout: Dimensions
    problem: Problem
    unknowns: Unknowns
    lit: Any
    lit_rows: Any
    wanted: Wanted
    chunk: int
    chunks: int

    @property
    def arrays(self) -> tuple[Any, ...]:
        """All that the launches read besides the buffers."""
        p, u = self.problem, self.unknowns
        between = () if self.layout.slices == 1 else (p.propagators,)
        blur = () if p.transfer is None else (p.transfer,)
        found = (u.object, u.apertures, u.corners, u.fractions, u.weights, u.background)
        return (p.counts, p.mask, self.lit, self.lit_rows, *between, *blur, *found)

    @property
    def propagators(self) -> Any:
        """Those of the problem, or anything where there is one slice and none is needed."""
        return self.unknowns.apertures if self.problem.propagators is None else self.problem.propagators


class GpuBackend:
    """See `backend.Backend`.

    Args:
        device: None: the current CUDA device.
        waves: of 128² at once at most (mode × pattern); fewer of more pixels.

    Raises GpuFailedError, here and from every method, where the device has too little memory, fails or is not there.
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
        """(n, ky, kx) counts on the device as uint8, uint16 or float32 (`patterns.counts_type`)."""
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

    def turn(self, obj: Any, sums: Sums, size: float, floor: Any, positive: bool) -> None:
        """See `forward.turn`."""
        with failures():
            turn(obj, sums, size, floor, positive, self.xp)

    def thin(self, counts: Any, fraction: float, seed: int) -> Any:
        """As `thinning.thin` of counts that `load` has made, by another random sequence than on the CPU."""
        with failures():
            random, drawn = self.xp.random.RandomState(seed), self.xp.empty_like(counts)
            for first in range(0, len(counts), _DRAWN):
                part = slice(first, first + _DRAWN)
                drawn[part] = random.binomial(counts[part].astype(np.int32), fraction)
            return drawn

    def summed(self, counts: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
        """See `Backend.summed`."""
        with failures():
            return sums_of(counts)

    def binned(self, counts: Any, shape: tuple[int, int]) -> Any:
        """See `Backend.binned`."""
        with failures():
            return bins_of(counts)

    def drawn(self, model: Any, seed: tuple[int, ...]) -> Any:
        """See `Backend.drawn`; by another random sequence than on the CPU."""
        with failures():
            state = int(np.random.SeedSequence(seed).generate_state(1)[0])
            return drawn(model, self.xp.random.RandomState(state))

    def to_host(self, array: Any) -> NDArray[Any]:
        """Copied from the device; waits for it."""
        with failures():
            return array.get() if hasattr(array, "get") else np.asarray(array)

    def expected(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64]) -> Any:
        """See `Backend.expected`; in the plain form, since it is asked for once or twice in a reconstruction."""
        with failures():
            return expected(problem, unknowns, index, self.xp)

    def accumulate(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64], wanted: Wanted) -> Sums:
        """See `Backend.accumulate`. `index` may be on the device; the deviance is an array of no dimension there."""
        with failures():
            layout = Dimensions.of(problem, unknowns, self._device.shared_memory())
            job, buffers = self._cut(layout, problem, unknowns, len(index), wanted)
            buffers.index[: len(index)] = self.xp.asarray(index)
            buffers.index[len(index) : job.chunk * job.chunks] = -1
            launch = self._device.kernels(layout.sizes)

            def sequence() -> None:
                for first in range(0, job.chunk * job.chunks, job.chunk):
                    self._forward(job, buffers, launch, first)
                    if wanted.adjoint:
                        self._back(job, buffers, launch, first)

            if job.chunks <= GRAPH_CHUNKS:
                key = (job.chunk, job.chunks, wanted, problem.loss, float(problem.variance), float(unknowns.guard))
                self._device.replay(key, job.arrays, sequence)
            else:
                sequence()
            return self._collected(job, buffers, len(index))

    def _cut(
        self, layout: Dimensions, problem: Problem, unknowns: Unknowns, n: int, wanted: Wanted
    ) -> tuple[_Job, Buffers]:
        """The batch in chunks of one size, and buffers for it, smaller ones where the device says that it has no more."""
        while True:
            limit = self._limit[1] if self._limit is not None and self._limit[0] == layout else self._most(layout)
            self._limit = layout, limit
            chunk = _rounded(-(-n // -(-n // limit)), limit)
            chunks = -(-n // chunk)
            lit, rows = self._lit_pixels(problem, layout)
            job = _Job(
                layout, _typed(problem, self.xp), _contiguous(unknowns, self.xp), lit, rows, wanted, chunk, chunks
            )
            held = self._buffers
            if held is not None and held.layout == layout and held.chunk >= chunk and held.total >= chunk * chunks:
                return job, held
            try:
                self._drop()
                self._buffers = Buffers(layout, chunk, chunk * chunks, self.xp)
            except MemoryError:
                if limit == 1:
                    self._check(layout.bytes_for(1) / SHARE + 1, "one pattern at a time", refused=True)
                self._limit = layout, limit // 2
            else:
                return job, self._buffers

    def _lit_pixels(self, problem: Problem, layout: Dimensions) -> tuple[Any, Any]:
        """Flat indices of the support, and for each row whether it has any, on the device; uploaded when it is another array."""
        held, sizes = self._lit, (layout.lit, layout.n_y)
        if held is None or held[0] is not problem.support or (held[1].size, held[2].size) != sizes:
            shape, xp = (layout.n_y, layout.n_x), self.xp
            lit = np.ones(shape, bool) if problem.support is None else problem.support
            pixels, rows = np.flatnonzero(lit), lit.any(axis=1)
            held = problem.support, xp.asarray(pixels, np.int32), xp.asarray(rows, np.int32)
            self._lit = held
        return held[1:]

    def _drop(self) -> None:
        """Give the buffers back, and what was recorded with them."""
        self._buffers = None
        self._device.forget()

    def _most(self, layout: Dimensions) -> int:
        """Patterns in a chunk: as many as are worth while and as there is memory for."""
        self._drop()
        worth = max(1, round(self._waves * 128**2 / layout.plane / layout.modes))
        worth = min(worth, (2**31 - 1) // (layout.plane * layout.modes))  # the kernels' indices have 32 bits
        self._check(layout.bytes_for(1) / SHARE, "one pattern at a time")
        each = layout.bytes_for(1) - layout.bytes_for(0)
        return int(min(worth, (SHARE * self._device.free_memory() - layout.bytes_for(0)) // each))

    def _check(self, needed: float, what: str, refused: bool = False) -> None:
        """Raise GpuFailedError where `needed` bytes are not free, or were refused."""
        free = self._device.free_memory()
        if needed > free or refused:
            msg = f"the GPU has too little memory: {what} need {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB are free"
            raise GpuFailedError(msg)

    def _transform(self, source: Any, target: Any, inverse: bool = False) -> None:
        self._device.transform(source, target, inverse)

    def _forward(self, job: _Job, buffers: Buffers, launch: Launch, first: int) -> None:
        """Chunk `first` to the detector, compared with its counts; leaves residual waves there."""
        layout, problem, unknowns, chunk = job.layout, job.problem, job.unknowns, job.chunk
        index = buffers.index[first : first + chunk]
        segments, waves = -(-chunk // SEGMENT), buffers.waves[:chunk]
        launch(
            "prepare", chunk * (layout.n_y + layout.n_x), index, unknowns.corners, unknowns.fractions, buffers.ramps,
            buffers.places,
        )  # fmt: skip
        if layout.in_shared:
            launch(
                "to_detector", chunk * layout.modes, layout.slices, layout.height, layout.width,
                buffers.chunk * layout.modes, index, job.lit_rows, unknowns.apertures, unknowns.weights, buffers.ramps,
                buffers.places, unknowns.object, job.propagators, buffers.stash, waves, block=layout.block,
            )  # fmt: skip
        else:
            self._through(job, buffers, launch, index)
        field = waves
        if problem.transfer is not None:
            field = buffers.planes[:chunk]
            launch("intensity", chunk * layout.plane, waves, field)
            self._blur(job, launch, field)
        wanted = job.wanted
        launch(
            "detect" if problem.transfer is None else "compare", segments * layout.groups * 32, chunk, index,
            problem.counts, _KINDS.index(problem.counts.dtype), problem.mask, unknowns.background,
            float(unknowns.guard), float(problem.variance), LOSSES.index(problem.loss), wanted.adjoint, wanted.ratio,
            wanted.deviance, field, buffers.part_ratio, buffers.part_modelled, buffers.part_deviance,
        )  # fmt: skip
        launch("sum_columns", chunk * 32, layout.groups, buffers.part_modelled, buffers.modelled[first:])
        if wanted.deviance:
            launch("sum_columns", chunk * 32, layout.groups, buffers.part_deviance, buffers.deviance[first:])
        if wanted.ratio:
            _sum_rows(launch, buffers.part_ratio[:segments], buffers.ratio, first > 0)
        if problem.transfer is not None and wanted.adjoint:
            self._blur(job, launch, field)
            launch("modulate", chunk * layout.plane, field, waves)

    def _through(self, job: _Job, buffers: Buffers, launch: Launch, index: Any) -> None:
        """What `to_detector` does, with cuFFT."""
        layout, unknowns, chunk = job.layout, job.unknowns, job.chunk
        waves, stash = buffers.waves[:chunk], buffers.stash[:, :chunk]
        launch(
            "illuminate", -(-chunk // SEGMENT) * layout.plane, chunk, index, unknowns.apertures, unknowns.weights,
            buffers.ramps, stash[0],
        )  # fmt: skip
        self._transform(stash[0], stash[0], inverse=True)
        for s in range(layout.slices):
            if s > 0:
                self._propagate(job, launch, waves, stash[s], s - 1)
            launch(
                "transmit", chunk * layout.plane, layout.width, buffers.places, unknowns.object[s], stash[s], waves
            )  # fmt: skip
        self._transform(waves, waves)

    def _back(self, job: _Job, buffers: Buffers, launch: Launch, first: int) -> None:
        """Residual waves of chunk `first` back to object and aperture."""
        layout, unknowns, chunk = job.layout, job.unknowns, job.chunk
        index, waves = buffers.index[first : first + chunk], buffers.waves[:chunk]
        segments, probe, fused = -(-chunk // SEGMENT), job.wanted.probe, layout.in_shared
        launch(
            "cover", layout.parts * layout.tiles, chunk, layout.height, layout.width, layout.parts, buffers.places,
            buffers.lists,
        )  # fmt: skip
        if fused:
            launch(
                "from_detector", chunk * layout.modes, layout.slices, layout.height, layout.width,
                buffers.chunk * layout.modes, probe, index, job.lit_rows, buffers.places, unknowns.object,
                job.propagators, buffers.residuals, waves, block=layout.block,
            )  # fmt: skip
        else:
            self._transform(waves, waves, inverse=True)
        for s in range(layout.slices - 1, -1, -1):
            launch(
                "transmit_back", layout.parts * layout.tiles * TILE_Y * TILE_X, chunk, layout.height, layout.width,
                layout.parts, not fused and (s > 0 or probe), buffers.places, buffers.lists, unknowns.object[s],
                buffers.stash[s], buffers.residuals[s] if fused else waves, buffers.part_numerator,
                buffers.part_illumination,
            )  # fmt: skip
            _sum_rows(launch, buffers.part_numerator, buffers.numerator[s], first > 0)
            _sum_rows(launch, buffers.part_illumination, buffers.illumination[s], first > 0)
            if s > 0 and not fused:
                self._propagate(job, launch, waves, waves, s - 1, backwards=True)
        if not probe:
            return
        if not fused:
            self._transform(waves, waves)
        launch(
            "collect", segments * layout.lit_groups * 32, chunk, layout.lit, index, job.lit, unknowns.apertures,
            unknowns.weights, buffers.ramps, waves, buffers.part_apertures, buffers.part_slopes,
        )  # fmt: skip
        _sum_rows(launch, buffers.part_apertures[:segments], buffers.apertures, first > 0)
        rows = chunk * (2 + layout.apertures)
        launch("sum_columns", rows * 32, layout.lit_groups, buffers.part_slopes, buffers.slopes[first:])

    def _propagate(self, job: _Job, launch: Launch, waves: Any, target: Any, s: int, backwards: bool = False) -> None:
        """`waves` to or from the slice behind slice s, into `target`."""
        self._transform(waves, waves)
        n, segments = job.chunk * job.layout.modes, -(-job.chunk * job.layout.modes // SEGMENT)
        launch("propagate", segments * job.layout.plane, n, backwards, job.problem.propagators[s], waves)
        self._transform(waves, target, inverse=True)

    def _blur(self, job: _Job, launch: Launch, planes: Any) -> None:
        """The detector's point spread."""
        self._transform(planes, planes)
        launch("filter", job.chunk * job.layout.plane, job.problem.transfer, planes)
        self._transform(planes, planes, inverse=True)

    def _collected(self, job: _Job, buffers: Buffers, n: int) -> Sums:
        """Copies of the sums: the next batch writes over the buffers."""
        wanted, layout = job.wanted, job.layout
        sums = Sums(None, None, None, None, 0.0, None, buffers.modelled[:n].copy())
        if wanted.adjoint:
            sums.object_numerator, sums.illumination = buffers.numerator.copy(), buffers.illumination.copy()
            if wanted.probe:
                flat = self.xp.zeros((layout.apertures, layout.plane), np.complex64)
                flat[:, job.lit] = buffers.apertures
                sums.aperture_numerator = flat.reshape(-1, layout.n_y, layout.n_x)
                sums.slopes = buffers.slopes[:n].copy()
        if wanted.ratio:
            sums.ratio = buffers.ratio.copy()
        if wanted.deviance:
            sums.deviance = 2 * buffers.deviance[:n].sum(dtype=np.float64)
        return sums


def _sum_rows(launch: Launch, parts: Any, total: Any, add: bool) -> None:
    """The sum of `parts` over its first axis is, or is added to, `total`."""
    columns = total.size * (2 if total.dtype.kind == "c" else 1)
    launch("sum_rows", columns, len(parts), columns, add, parts, total)


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
        fractions=xp.ascontiguousarray(unknowns.fractions, np.float32),
        weights=xp.ascontiguousarray(unknowns.weights, np.float32),
        background=xp.ascontiguousarray(unknowns.background, np.float32),
    )
