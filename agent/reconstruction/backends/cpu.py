"""The CPU backend: threads and kept memory round the kernels of `kernels.diffraction`."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.backends import cpu_planes
from agent.reconstruction.backends.cpu_planes import Constant, Planes, Scratch, Sizes, Support, as_floats, to_plane
from agent.reconstruction.counts.layout import draw_counts
from agent.reconstruction.counts.patterns import as_type, counts_type, in_bins, narrow
from agent.reconstruction.counts.thinning import halves, thin
from agent.reconstruction.kernels import table
from agent.reconstruction.kernels.machine_code import pack
from agent.reconstruction.kernels.threads import cores, pool, share
from agent.reconstruction.model.forward import LOSSES, Problem, Sums, Unknowns, Wanted
from instrument.memory import allocate

_SMALL = 8
"""Patterns per thread below which a batch is not worth a thread of its own."""


class CpuBackend:
    """The fused kernels of the CPU; see `protocol.Backend`.

    Args:
        workers: number of threads; None: one for each core.
    """

    name = "cpu"
    xp: Any = np

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or cores()
        self._planes: Planes | None = None
        self._scratch: list[Scratch] = []
        self._busy = threading.Lock()  # reconstructions that share the scratch memory take turns, batch by batch
        self._support: Support | None = None
        self._constant: Constant | None = None

    def load(
        self, chunks: Iterable[NDArray[Any]], n: int, roll: tuple[int, int], shape: tuple[int, int]
    ) -> NDArray[Any]:
        """See `Backend.load`: (n, ky · kx) counts in detector planes.

        On disk where they would take more than half of the free memory.
        """
        out: NDArray[Any] | None = None
        first = 0
        for chunk in chunks:
            kind = counts_type(chunk)
            if out is None:
                out = allocate((n, shape[0] * shape[1]), kind)
            elif np.promote_types(out.dtype, kind) != out.dtype:
                out = as_type(out, np.promote_types(out.dtype, kind))
            # the kernel makes bytes of 16 bits on its way; of other types it would have to be compiled first
            contiguous = np.ascontiguousarray(chunk, None if chunk.dtype in (np.uint8, np.uint16) else out.dtype)
            cpu_planes.lay_out(contiguous, roll, shape, out[first : first + len(chunk)], self.workers)
            first += len(chunk)
        assert out is not None
        return out

    def thin_counts(self, counts: NDArray[Any], fraction: float, seed: int) -> NDArray[Any]:
        """See `Backend.thin_counts`."""
        return thin(counts, fraction, seed, allocate(counts.shape, counts.dtype))

    def sum_counts(
        self, counts: NDArray[Any], shape: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Backend.sum_counts`."""
        totals = np.zeros(len(counts))
        parts: dict[int, NDArray[np.float32]] = {}

        def work(first: int, stop: int) -> None:
            sums = parts[first] = cpu_planes.aligned(counts.shape[1])
            planes = counts[first:stop].reshape(-1)
            table.add_up(pack(table.AddUpArguments(planes=planes, totals=totals[first:stop], sums=sums)))

        share(work, len(counts), self.workers)
        added = cpu_planes.total([part for _, part in sorted(parts.items())])
        return totals, cpu_planes.to_image(added.astype(np.float64), shape)

    def bin_counts(self, counts: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
        """See `Backend.bin_counts`."""
        places, plane = cpu_planes.bins(*shape), counts.shape[1]

        def work(first: int, stop: int, out: NDArray[Any], largest: NDArray[np.float32]) -> None:
            arguments = table.BinUpArguments(
                planes=counts[first:stop].reshape(-1),
                pixels=plane,
                places=places,
                out=out[first:stop].reshape(-1),
                largest=largest,
            )
            table.bin_up(pack(arguments))

        return narrow(work, (len(counts), plane // 4), counts.dtype, self.workers)

    def draw_counts(self, model: NDArray[np.float32], seed: tuple[int, ...]) -> NDArray[Any]:
        """See `Backend.draw_counts`."""
        return np.asarray(draw_counts(model, np.random.default_rng(seed)))

    def to_host(self, array: Any) -> NDArray[Any]:
        """The array itself."""
        return np.asarray(array)

    def expected_counts(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Backend.expected_counts`."""
        counts = np.zeros((len(unknowns.corners), problem.mask.size), np.float32)
        wanted = Wanted(adjoint=False, probe=False, ratio=False, deviance=False)
        with self._busy:
            self._accumulate(replace(problem, counts=counts), unknowns, index, wanted, counts.reshape(-1))
        return counts[index]

    def step_phases(self, obj: Any, sums: Sums, size: float, floor: Any, positive: bool) -> None:
        """See `forward.step_phases`."""
        arguments = table.StepPhasesArguments(
            z=as_floats(obj),
            numerator=as_floats(sums.object_numerator),
            illumination=sums.illumination.reshape(-1),
            size=float(size),
            floor=float(floor),
            positive=int(positive),
        )
        table.step_phases(pack(arguments))

    def accumulate(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64], wanted: Wanted) -> Sums:
        """See `Backend.accumulate`."""
        with self._busy:
            return self._accumulate(problem, unknowns, index, wanted, np.zeros(0, np.float32))

    def _accumulate(
        self,
        problem: Problem,
        unknowns: Unknowns,
        index: NDArray[np.int64],
        wanted: Wanted,
        expected: NDArray[np.float32],
    ) -> Sums:
        """The sums of one batch; `expected` takes the model of its patterns, or is empty."""
        support = self._find_support(problem, unknowns)
        n_threads = max(1, min(self.workers, len(index) // _SMALL))
        planes = self._find_memory(Sizes.of(problem, unknowns, support), n_threads)
        planes.take(unknowns, support)
        batch = table.BatchArguments(
            background=to_plane(unknowns.background),
            count_offset=float(unknowns.count_offset),
            variance=float(problem.variance),
            loss=LOSSES.index(problem.loss),
            want_adjoint=wanted.adjoint,
            want_probe=wanted.probe,
            want_ratio=wanted.ratio,
            want_deviance=wanted.deviance,
            expected=expected,
            slopes=np.zeros((len(unknowns.corners), 2 + len(unknowns.apertures)), np.float32),
            modelled=np.zeros(len(unknowns.corners), np.float32),
        )
        fixed = self._find_constant(problem, unknowns).packed, support.packed, planes.packed, pack(batch)
        ordered, used = np.sort(index), self._scratch[:n_threads]
        bounds = [len(index) * number // n_threads for number in range(n_threads + 1)]
        parts = [ordered[first:stop] for first, stop in pairwise(bounds)]
        counts = problem.counts.reshape(-1)  # not among what is kept: they would outlive their reconstruction

        def work(part: NDArray[np.int64], scratch: Scratch) -> float:
            scratch.clear()
            return table.block(pack(table.PartArguments(pattern_index=part, counts=counts)), *fixed, scratch.packed)

        others = [pool(self.workers).submit(work, *each) for each in zip(parts[1:], used[1:], strict=True)]
        done = [work(parts[0], used[0]), *(other.result() for other in others)]
        sums = Sums(None, None, None, None, 2 * sum(done), None, batch.modelled[index])
        if wanted.adjoint:
            self._gather_object(sums, unknowns, used)
            if wanted.probe:
                self._gather_apertures(sums, unknowns, support, used)
                sums.slopes = batch.slopes[index]
        if wanted.ratio:
            sums.ratio = cpu_planes.to_image(cpu_planes.total([s.ratio for s in used]), unknowns.apertures.shape[1:])
        return sums

    @staticmethod
    def _gather_object(sums: Sums, unknowns: Unknowns, used: list[Scratch]) -> None:
        """Numerator and illumination of all threads."""
        obj = unknowns.object
        sums.object_numerator, sums.illumination = np.empty_like(obj), np.empty(obj.shape, np.float32)
        gathered = table.GatheredArguments(
            numerator=as_floats(sums.object_numerator), total_illumination=sums.illumination.reshape(-1)
        )
        out = pack(gathered)
        for scratch in used:
            table.gather(scratch.collected, out)

    @staticmethod
    def _gather_apertures(sums: Sums, unknowns: Unknowns, support: Support, used: list[Scratch]) -> None:
        """The apertures' sums of all threads, in FFT order."""
        apertures = unknowns.apertures
        compact = np.empty((len(apertures), *support.index.shape), np.complex64)
        for part, target in enumerate((compact.real, compact.imag)):
            whole = cpu_planes.total([s.apertures[part][:, :, : len(support.places_y)] for s in used])
            np.multiply(whole, support.factor, out=target)
        sums.aperture_numerator = np.zeros_like(apertures)
        sums.aperture_numerator.reshape(len(apertures), -1)[:, support.index] = compact

    def _find_memory(self, sizes: Sizes, n_threads: int) -> Planes:
        """Planes, and scratch memory for so many threads: those of the batch before, where the sizes are the same."""
        planes = self._planes
        if planes is None or planes.sizes != sizes:
            planes = self._planes = Planes(sizes)
            self._scratch = []
        while len(self._scratch) < n_threads:
            self._scratch.append(Scratch(sizes, len(self._scratch)))
        return planes

    def _find_support(self, problem: Problem, unknowns: Unknowns) -> Support:
        inside = (unknowns.apertures != 0).any(axis=0) if problem.support is None else problem.support
        known = self._support
        if known is None or not (known.mask is inside or np.array_equal(known.mask, inside)):
            known = self._support = Support.of(inside)
        return known

    def _find_constant(self, problem: Problem, unknowns: Unknowns) -> Constant:
        known = self._constant
        if known is None or not known.serves(problem, unknowns):
            known = self._constant = Constant(problem, unknowns)
        return known


def warm_up() -> None:
    """Compile every kernel for every kind of counts."""
    shape = (32, 32)
    worker = CpuBackend()
    for kind, count in ((np.uint8, 1), (np.uint16, 1), (np.uint16, 300), (np.float32, 1)):
        counts = np.full((2, *shape), count, kind)
        if counts.dtype.kind == "u":
            halves(counts, seed=0)
            thin(counts, 0.1, seed=0)
        loaded = worker.load([counts], 2, (16, 16), shape)
        worker.sum_counts(loaded, shape)
        worker.bin_counts(loaded, shape)
        in_bins(counts)
        problem = Problem(loaded, np.ones(shape, np.float32), 1, [])
        unknowns = Unknowns(
            object=np.ones((1, 40, 40), np.complex64),
            apertures=np.ones((1, *shape), np.complex64),
            corners=np.zeros((2, 2), np.int32),
            subpixel_shifts=np.zeros((2, 2), np.float32),
            weights=np.ones((2, 1), np.float32),
            background=np.ones(shape, np.float32),
            count_offset=0.1,
        )
        sums = worker.accumulate(problem, unknowns, np.arange(2), Wanted())
        worker.step_phases(unknowns.object, sums, 0.5, 1.0, False)
