"""In which order the GPU's kernels (`diffraction.cu`, `waves.cu`) and the transforms of cuFFT follow.

    aperture × weights × ramp -> F⁻¹ -> × object [-> F -> × propagator -> F⁻¹ -> × object]… -> F -> residual -> F⁻¹ ->
    conj(wave)· and conj(object)· [-> F -> × conj(propagator) -> F⁻¹ -> …]… -> F -> × conj(ramp), summed

Where a thread block can hold a wave (`Dimensions.in_shared`), two kernels do all but the residual and the sums, and the
transforms with it; elsewhere the transforms are cuFFT's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.reconstruction.backends.gpu_buffers import SEGMENT, TILE_X, TILE_Y, Buffers, Dimensions
from agent.reconstruction.kernels.cuda import Device
from agent.reconstruction.model.forward import LOSSES, Problem, Unknowns, Wanted

_KINDS = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


@dataclass(frozen=True)
class Job:
    """One batch: what the launches read, and how it is cut into chunks of patterns.

    Attributes:
        dims: sizes of the kernels and buffers.
        problem, unknowns: contiguous, in the types that the kernels read.
        lit: (lit,) flat indices of the support, on the device.
        lit_rows: (ky,) whether a row of the support has any.
        wanted: which sums.
        chunk: patterns held at once.
        chunks: how many chunks.
    """

    dims: Dimensions
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
        between = () if self.dims.slices == 1 else (p.propagators,)
        blur = () if p.transfer is None else (p.transfer,)
        found = (u.object, u.apertures, u.corners, u.subpixel_shifts, u.weights, u.background)
        return (p.counts, p.mask, self.lit, self.lit_rows, *between, *blur, *found)

    @property
    def propagators(self) -> Any:
        """Those of the problem, or anything where there is one slice and none is needed."""
        return self.unknowns.apertures if self.problem.propagators is None else self.problem.propagators


class Launches:
    """The launches of one batch.

    Args:
        job: what to do.
        buffers: what to do it in.
        device: where.
    """

    def __init__(self, job: Job, buffers: Buffers, device: Device) -> None:
        self.job, self.buffers, self.device = job, buffers, device
        self.launch = device.kernels(job.dims.sizes)

    def all(self) -> None:
        """The patterns of the batch through the model, and back where an adjoint is wanted."""
        chunk = self.job.chunk
        for first in range(0, chunk * self.job.chunks, chunk):
            self._forward(first)
            if self.job.wanted.adjoint:
                self._back(first)

    def _forward(self, first: int) -> None:
        """Chunk `first` to the detector."""
        dims, unknowns, buffers, chunk = self.job.dims, self.job.unknowns, self.buffers, self.job.chunk
        index = buffers.index[first : first + chunk]
        self.launch(
            "prepare",
            chunk * (dims.n_y + dims.n_x),
            index=index,
            corners=unknowns.corners,
            subpixel_shifts=unknowns.subpixel_shifts,
            ramps=buffers.ramps,
            places=buffers.places,
        )
        if dims.in_shared:
            self.launch(
                "to_detector",
                chunk * dims.modes,
                block=dims.block,
                slices=dims.slices,
                height=dims.height,
                width=dims.width,
                stride=buffers.chunk * dims.modes,
                index=index,
                lit=self.job.lit_rows,
                apertures=unknowns.apertures,
                weights=unknowns.weights,
                ramps=buffers.ramps,
                places=buffers.places,
                object=unknowns.object,
                propagators=self.job.propagators,
                incident=buffers.stash,
                waves=buffers.waves[:chunk],
            )
        else:
            self._through(index)
        self._compare(first, index)

    def _through(self, index: Any) -> None:
        """What `to_detector` does, with cuFFT."""
        dims, unknowns, buffers, chunk = self.job.dims, self.job.unknowns, self.buffers, self.job.chunk
        waves, stash = buffers.waves[:chunk], buffers.stash[:, :chunk]
        self.launch(
            "illuminate",
            -(-chunk // SEGMENT) * dims.plane,
            patterns=chunk,
            index=index,
            apertures=unknowns.apertures,
            weights=unknowns.weights,
            ramps=buffers.ramps,
            waves=stash[0],
        )
        self._transform(stash[0], stash[0], inverse=True)
        for s in range(dims.slices):
            if s > 0:
                self._propagate(waves, stash[s], s - 1)
            self.launch(
                "transmit",
                chunk * dims.plane,
                width=dims.width,
                places=buffers.places,
                slice=unknowns.object[s],
                incident=stash[s],
                waves=waves,
            )
        self._transform(waves, waves)

    def _compare(self, first: int, index: Any) -> None:
        """Waves on the detector with the counts; leaves residual waves there."""
        job, dims, buffers, chunk = self.job, self.job.dims, self.buffers, self.job.chunk
        problem, wanted, blurred = job.problem, job.wanted, job.problem.transfer is not None
        segments, waves = -(-chunk // SEGMENT), buffers.waves[:chunk]
        field = waves
        if blurred:
            field = buffers.planes[:chunk]
            self.launch("intensity", chunk * dims.plane, waves=waves, planes=field)
            self._blur(field)
        self.launch(
            "compare" if blurred else "detect",
            segments * dims.groups * 32,
            patterns=chunk,
            index=index,
            counts=problem.counts,
            kind=_KINDS.index(problem.counts.dtype),
            mask=problem.mask,
            background=job.unknowns.background,
            count_offset=job.unknowns.count_offset,
            variance=problem.variance,
            loss=LOSSES.index(problem.loss),
            want_adjoint=wanted.adjoint,
            want_ratio=wanted.ratio,
            want_deviance=wanted.deviance,
            field=field,
            ratios=buffers.part_ratio,
            modelled=buffers.part_modelled,
            deviances=buffers.part_deviance,
        )
        self._sum_columns(chunk, dims.groups, buffers.part_modelled, buffers.modelled[first:])
        if wanted.deviance:
            self._sum_columns(chunk, dims.groups, buffers.part_deviance, buffers.deviance[first:])
        if wanted.ratio:
            self._sum_rows(buffers.part_ratio[:segments], buffers.ratio, first > 0)
        if blurred and wanted.adjoint:
            self._blur(field)
            self.launch("modulate", chunk * dims.plane, planes=field, waves=waves)

    def _back(self, first: int) -> None:
        """Residual waves of chunk `first` back to object and aperture."""
        job, dims, buffers, chunk = self.job, self.job.dims, self.buffers, self.job.chunk
        index, waves, probe = buffers.index[first : first + chunk], buffers.waves[:chunk], job.wanted.probe
        self.launch(
            "cover",
            dims.parts * dims.tiles,
            patterns=chunk,
            height=dims.height,
            width=dims.width,
            parts=dims.parts,
            places=buffers.places,
            lists=buffers.lists,
        )
        if dims.in_shared:
            self.launch(
                "from_detector",
                chunk * dims.modes,
                block=dims.block,
                slices=dims.slices,
                height=dims.height,
                width=dims.width,
                stride=buffers.chunk * dims.modes,
                go_on=probe,
                index=index,
                lit=job.lit_rows,
                places=buffers.places,
                object=job.unknowns.object,
                propagators=job.propagators,
                residuals=buffers.residuals,
                waves=waves,
            )
        else:
            self._transform(waves, waves, inverse=True)
        for s in range(dims.slices - 1, -1, -1):
            go_on = not dims.in_shared and (s > 0 or probe)
            self._transmit_back(s, buffers.residuals[s] if dims.in_shared else waves, go_on, first > 0)
            if s > 0 and not dims.in_shared:
                self._propagate(waves, waves, s - 1, backwards=True)
        if probe:
            if not dims.in_shared:
                self._transform(waves, waves)
            self._collect(first, index)

    def _transmit_back(self, s: int, waves: Any, go_on: bool, add: bool) -> None:
        """Residual waves back through slice s; its sums."""
        dims, buffers = self.job.dims, self.buffers
        self.launch(
            "transmit_back",
            dims.parts * dims.tiles * TILE_Y * TILE_X,
            patterns=self.job.chunk,
            height=dims.height,
            width=dims.width,
            parts=dims.parts,
            go_on=go_on,
            places=buffers.places,
            lists=buffers.lists,
            slice=self.job.unknowns.object[s],
            incident=buffers.stash[s],
            waves=waves,
            numerator=buffers.part_numerator,
            illumination=buffers.part_illumination,
        )
        self._sum_rows(buffers.part_numerator, buffers.numerator[s], add)
        self._sum_rows(buffers.part_illumination, buffers.illumination[s], add)

    def _collect(self, first: int, index: Any) -> None:
        """Residual waves in the aperture plane: sums of the apertures, slopes of shifts and weights."""
        dims, buffers, chunk = self.job.dims, self.buffers, self.job.chunk
        segments = -(-chunk // SEGMENT)
        self.launch(
            "collect",
            segments * dims.lit_groups * 32,
            patterns=chunk,
            n_lit=dims.lit,
            index=index,
            lit=self.job.lit,
            apertures=self.job.unknowns.apertures,
            weights=self.job.unknowns.weights,
            ramps=buffers.ramps,
            waves=buffers.waves[:chunk],
            sums=buffers.part_apertures,
            slopes=buffers.part_slopes,
        )
        self._sum_rows(buffers.part_apertures[:segments], buffers.apertures, first > 0)
        self._sum_columns(chunk * (2 + dims.apertures), dims.lit_groups, buffers.part_slopes, buffers.slopes[first:])

    def _propagate(self, waves: Any, target: Any, s: int, backwards: bool = False) -> None:
        """`waves` to or from the slice behind slice s, into `target`."""
        self._transform(waves, waves)
        n = self.job.chunk * self.job.dims.modes
        self.launch(
            "propagate",
            -(-n // SEGMENT) * self.job.dims.plane,
            n_waves=n,
            backwards=backwards,
            propagator=self.job.problem.propagators[s],
            waves=waves,
        )
        self._transform(waves, target, inverse=True)

    def _blur(self, planes: Any) -> None:
        """The detector's point spread."""
        self._transform(planes, planes)
        n = self.job.chunk * self.job.dims.plane
        self.launch("filter", n, transfer=self.job.problem.transfer, planes=planes)
        self._transform(planes, planes, inverse=True)

    def _transform(self, source: Any, target: Any, inverse: bool = False) -> None:
        self.device.transform(source, target, inverse)

    def _sum_rows(self, parts: Any, total: Any, add: bool) -> None:
        """The sum of `parts` over its first axis is, or is added to, `total`."""
        columns = total.size * (2 if total.dtype.kind == "c" else 1)
        self.launch("sum_rows", columns, rows=len(parts), columns=columns, add=add, partial=parts, out=total)

    def _sum_columns(self, rows: int, columns: int, partial: Any, out: Any) -> None:
        """Each of the first numbers of `out` is the sum of a row of `partial`."""
        self.launch("sum_columns", rows * 32, columns=columns, partial=partial, out=out)
