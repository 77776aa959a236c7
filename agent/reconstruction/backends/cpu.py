"""The CPU backend: threads, scratch memory and the permuted layout round the kernels of `kernels.diffraction`."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.counts.layout import drawn
from agent.reconstruction.counts.patterns import as_type, counts_type, in_bins, narrow
from agent.reconstruction.counts.thinning import halves, thin
from agent.reconstruction.kernels import transform
from agent.reconstruction.kernels.machine_code import Kernel, Packed, packed
from agent.reconstruction.kernels.threads import cores, pool, share
from agent.reconstruction.kernels.transform import LANES
from agent.reconstruction.model.forward import LOSSES, Problem, Sums, Unknowns, Wanted
from instrument.memory import allocate

_block = Kernel("diffraction", "block")
_relayout, _add_up, _bin_up = (Kernel("detector", name) for name in ("relayout", "add_up", "bin_up"))
_split, _gather, _turn = (Kernel("object", name) for name in ("split", "gather", "turn"))
_SMALL = 8
"""Patterns per thread below which a batch is not worth a thread of its own."""


@lru_cache(maxsize=8)
def _plan(n: int) -> transform.Plan:
    return transform.plan(n, eights=transform.registers()[1] > 16)


@lru_cache(maxsize=8)
def _order(n_y: int, n_x: int) -> NDArray[np.int64]:
    """Flat index in FFT order of each number of a detector plane."""
    index = np.arange(n_y * n_x).reshape(n_y, n_x)[_plan(n_y).order][:, _plan(n_x).order]
    return np.ascontiguousarray(index.reshape(-1, LANES, n_x).transpose(0, 2, 1)).reshape(-1)


@lru_cache(maxsize=8)
def _bins(n_y: int, n_x: int) -> NDArray[np.int64]:
    """Places (4, m) in a detector plane of what the plane of bins holds; of runs of eight, where all are such, the first."""
    where = np.empty(n_y * n_x, np.int64)
    where[_order(n_y, n_x)] = np.arange(n_y * n_x)
    y, x = np.divmod(_order(n_y // 2, n_x // 2), n_x // 2)
    places = np.stack([where[(2 * y + i) * n_x + 2 * x + j] for i in (0, 1) for j in (0, 1)])
    runs = places.reshape(4, -1, 8)
    return np.ascontiguousarray(runs[:, :, 0]) if (np.diff(runs) == 1).all() else places


def _floats(*shape: int) -> NDArray[np.float32]:
    """Zeros that begin at a cache line."""
    size = int(np.prod(shape))
    raw = np.zeros(size + LANES, np.float32)
    first = (-raw.ctypes.data // 4) % LANES
    return raw[first : first + size].reshape(shape)


@dataclass
class _Support:
    """Where apertures may pass electrons.

    Attributes:
        mask: (ky, kx) bool it was made for.
        places_y, places_x: places of the supported frequencies in the permuted order.
        frequencies_y, frequencies_x: their integer frequencies, the first padded with zeros to whole groups.
        index: (m_x, m_y) flat FFT indices, to cut the supported frequencies out of an aperture.
        factor: (m_x, m_y) of apertures on their way in and of their sums on the way out: (−1)^(ky + kx), which puts the probe
            into the middle of the window, over the number of pixels.
        packed: places and frequencies as kernels take them.
    """

    mask: NDArray[np.bool_]
    places_y: NDArray[np.int64]
    places_x: NDArray[np.int64]
    frequencies_y: NDArray[np.float32]
    frequencies_x: NDArray[np.float32]
    index: NDArray[np.int64]
    factor: NDArray[np.float32]
    packed: Packed


def _support(inside: NDArray[np.bool_]) -> _Support:
    places, frequencies, indices = [], [], []
    for axis, n in enumerate(inside.shape):
        order = _plan(n).order
        lit = np.asarray(inside.any(axis=1 - axis))
        chosen = np.flatnonzero(lit[order])
        places.append(chosen)
        indices.append(order[chosen])
        frequencies.append(np.where(order[chosen] < n - n // 2, order[chosen], order[chosen] - n))
    padded = np.zeros(-(-len(places[0]) // LANES) * LANES, np.float32)
    padded[: len(places[0])] = frequencies[0]
    sign = 1.0 - 2.0 * ((frequencies[1][:, None] + frequencies[0][None, :]) % 2)
    index = indices[0][None, :] * inside.shape[1] + indices[1][:, None]
    places_y, places_x, frequencies_x = places[0], places[1], frequencies[1].astype(np.float32)
    return _Support(
        inside,
        places_y,
        places_x,
        padded,
        frequencies_x,
        index,
        (sign / inside.size).astype(np.float32),
        packed(places_y, places_x, padded, frequencies_x),
    )


class _Planes:
    """Object and apertures as kernels take them, planar; kept between batches, because making them anew costs time.

    Args:
        key: sizes of all that is kept, as `_accumulate` finds them.
    """

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key
        _, _, modes, slices, pad_y, m_x, apertures, area, _ = key
        planes = [_floats(slices * area[0] * area[1]) for _ in range(2)]
        self.apertures = [_floats(apertures, m_x, pad_y) for _ in range(2)]
        self._object = packed(*planes)
        self.packed = packed(*planes, slices, area[1], *(a.reshape(-1) for a in self.apertures), modes)

    def take(self, unknowns: Unknowns, support: _Support) -> None:
        """Copy what `unknowns` holds now."""
        _split(packed(_flat(unknowns.object)), self._object)
        cut = unknowns.apertures.reshape(len(unknowns.apertures), -1)[:, support.index]
        for part, target in zip((cut.real, cut.imag), self.apertures, strict=True):
            np.multiply(part, support.factor, out=target[:, :, : len(support.places_y)])
            target[:, :, len(support.places_y) :] = 0  # a support before may have reached further


class _Scratch:
    """What one thread works in, kept likewise. `number`: which of the threads, from 0 on."""

    def __init__(self, key: tuple[Any, ...], number: int) -> None:
        n_y, n_x, modes, slices, pad_y, m_x, apertures, area, blurred = key
        plane = n_y * n_x
        work = (
            *(_floats(max(n_y, n_x) * LANES) for _ in range(2)),
            *(_floats(plane if blurred else n_x * pad_y) for _ in range(2)),
            *(_floats(modes * slices * plane) for _ in range(2)),
            *(_floats(modes * plane) for _ in range(4)),
            _floats(n_x * LANES),
            *(_floats(plane if blurred else LANES) for _ in range(2)),
            _floats(2, pad_y),
            _floats(2, m_x),
        )
        self.object = [_floats(slices, *area) for _ in range(3)]
        self.apertures = [_floats(apertures, m_x, pad_y) for _ in range(2)]
        self.ratio = _floats(plane)
        self.packed = packed(*(a.reshape(-1) for a in (*self.object, *self.apertures)), self.ratio, *work)
        self.collected = packed(*(a.reshape(-1) for a in self.object), float(plane), number)

    def clear(self) -> None:
        """Zero the accumulators."""
        for array in (*self.object, *self.apertures, self.ratio):
            array[...] = 0


class CpuBackend:
    """See `backend.Backend`. `workers` threads; None: one for each core."""

    name = "cpu"
    xp: Any = np

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or cores()
        self._planes: _Planes | None = None
        self._scratch: list[_Scratch] = []
        self._busy = threading.Lock()  # reconstructions that share the scratch memory take turns, batch by batch
        self._support: _Support | None = None
        self._constant: _Constant | None = None

    def load(
        self, chunks: Iterable[NDArray[Any]], n: int, roll: tuple[int, int], shape: tuple[int, int]
    ) -> NDArray[Any]:
        """(n, ky · kx) counts in detector planes; on disk where they would take more than half of the free memory."""
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
            _lay_out(contiguous, roll, shape, out[first : first + len(chunk)], self.workers)
            first += len(chunk)
        assert out is not None
        return out

    def thin(self, counts: NDArray[Any], fraction: float, seed: int) -> NDArray[Any]:
        """See `Backend.thin`."""
        return thin(counts, fraction, seed, allocate(counts.shape, counts.dtype))

    def summed(self, counts: NDArray[Any], shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Backend.summed`."""
        totals = np.zeros(len(counts))
        parts: dict[int, NDArray[np.float32]] = {}

        def work(first: int, stop: int) -> None:
            parts[first] = _floats(counts.shape[1])
            _add_up(packed(counts[first:stop].reshape(-1), totals[first:stop], parts[first]))

        share(work, len(counts), self.workers)
        return totals, self._image(_total([part for _, part in sorted(parts.items())]).astype(np.float64), shape)

    def binned(self, counts: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
        """See `Backend.binned`."""
        places, plane = _bins(*shape), counts.shape[1]

        def work(first: int, stop: int, out: NDArray[Any], largest: NDArray[np.float32]) -> None:
            _bin_up(packed(counts[first:stop].reshape(-1), plane, places, out[first:stop].reshape(-1), largest))

        return narrow(work, (len(counts), plane // 4), counts.dtype, self.workers)

    def to_host(self, array: Any) -> NDArray[Any]:
        """The array itself."""
        return np.asarray(array)

    def expected(self, problem: Problem, unknowns: Unknowns, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Backend.expected`."""
        counts = np.zeros((len(unknowns.corners), problem.mask.size), np.float32)
        wanted = Wanted(adjoint=False, probe=False, ratio=False, deviance=False)
        with self._busy:
            self._accumulate(replace(problem, counts=counts), unknowns, index, wanted, counts.reshape(-1))
        return counts[index]

    def drawn(self, model: NDArray[np.float32], seed: tuple[int, ...]) -> NDArray[Any]:
        """See `Backend.drawn`."""
        return np.asarray(drawn(model, np.random.default_rng(seed)))

    def turn(self, obj: Any, sums: Sums, size: float, floor: Any, positive: bool) -> None:
        """See `forward.turn`."""
        lit = sums.illumination.reshape(-1)
        how = packed(float(size), float(floor), int(positive))
        _turn(packed(_flat(obj), _flat(sums.object_numerator), lit), how)

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
        apertures, obj = unknowns.apertures, unknowns.object
        n_y, n_x = apertures.shape[1:]
        support = self._find_support(problem, apertures)
        pad_y, m_x = len(support.frequencies_y), len(support.places_x)
        n_threads = max(1, min(self.workers, len(index) // _SMALL))
        key = (
            n_y,
            n_x,
            problem.n_modes,
            len(obj),
            pad_y,
            m_x,
            len(apertures),
            obj.shape[1:],
            problem.transfer is not None,
        )
        planes = self._planes
        if planes is None or planes.key != key:
            planes = self._planes = _Planes(key)
            self._scratch = []
        while len(self._scratch) < n_threads:
            self._scratch.append(_Scratch(key, len(self._scratch)))
        planes.take(unknowns, support)
        slopes = np.zeros((len(unknowns.corners), 2 + len(apertures)), np.float32)
        modelled = np.zeros(len(unknowns.corners), np.float32)
        constant = self._find_constant(problem, unknowns)
        fixed = (
            constant.packed, support.packed, planes.packed,
            packed(
                self._plane(unknowns.background), float(unknowns.guard), float(problem.variance), LOSSES.index(problem.loss),
                wanted.adjoint, wanted.probe, wanted.ratio, wanted.deviance, expected, slopes, modelled,
            ),
        )  # fmt: skip
        ordered, used = np.sort(index), self._scratch[:n_threads]
        bounds = [len(index) * number // n_threads for number in range(n_threads + 1)]
        parts = [ordered[first:stop] for first, stop in pairwise(bounds)]
        counts = problem.counts.reshape(-1)  # not among what is kept: they would outlive their reconstruction

        def work(part: NDArray[np.int64], scratch: _Scratch) -> float:
            scratch.clear()
            return _block(packed(part, counts), *fixed, scratch.packed)

        others = [pool(self.workers).submit(work, *each) for each in zip(parts[1:], used[1:], strict=True)]
        done = [work(parts[0], used[0]), *(other.result() for other in others)]
        return self._collected(unknowns, support, used, index, 2 * sum(done), slopes, modelled, wanted)

    def _collected(
        self,
        unknowns: Unknowns,
        support: _Support,
        used: list[_Scratch],
        index: NDArray[np.int64],
        deviance: float,
        slopes: NDArray[np.float32],
        modelled: NDArray[np.float32],
        wanted: Wanted,
    ) -> Sums:
        """The threads' accumulators in the form of `Sums`."""
        obj, apertures = unknowns.object, unknowns.apertures
        n_y, n_x = apertures.shape[1:]
        sums = Sums(None, None, None, None, deviance, None, modelled[index])
        if wanted.adjoint:
            sums.object_numerator, sums.illumination = np.empty_like(obj), np.empty(obj.shape, np.float32)
            out = packed(_flat(sums.object_numerator), sums.illumination.reshape(-1))
            for scratch in used:
                _gather(scratch.collected, out)
            if wanted.probe:
                compact = np.empty((len(apertures), *support.index.shape), np.complex64)
                for part, target in enumerate((compact.real, compact.imag)):
                    whole = _total([s.apertures[part][:, :, : len(support.places_y)] for s in used])
                    np.multiply(whole, support.factor, out=target)
                sums.aperture_numerator = np.zeros_like(apertures)
                sums.aperture_numerator.reshape(len(apertures), -1)[:, support.index] = compact
                sums.slopes = slopes[index]
        if wanted.ratio:
            sums.ratio = self._image(_total([s.ratio for s in used]), (n_y, n_x))
        return sums

    def _find_support(self, problem: Problem, apertures: NDArray[np.complex64]) -> _Support:
        inside = (apertures != 0).any(axis=0) if problem.support is None else problem.support
        known = self._support
        if known is None or not (known.mask is inside or np.array_equal(known.mask, inside)):
            known = self._support = _support(inside)
        return known

    def _find_constant(self, problem: Problem, unknowns: Unknowns) -> _Constant:
        located = (unknowns.corners, unknowns.fractions, unknowns.weights)
        made_of = (*located, problem.propagators, problem.mask, problem.transfer)
        known, shape = self._constant, unknowns.apertures.shape[1:]
        if known is None or any(a is not b for a, b in zip(known.made_of, made_of, strict=True)):
            size = np.float32(shape[0] * shape[1])
            planes = [self._plane(p / size) for p in problem.propagators] or [np.zeros(1, np.complex64)]
            transfer = np.zeros(0, np.float32)
            if problem.transfer is not None:
                transfer = self._plane(np.asarray(problem.transfer, np.float32) / size)
            transforms = [(plan.passes, plan.twiddles) for plan in map(_plan, shape)]
            known = self._constant = _Constant(
                made_of,
                packed(
                    *located,
                    *_planar(np.concatenate(planes)),
                    self._plane(problem.mask),
                    transfer,
                    *chain.from_iterable(transforms),
                    *(_plan(n).order for n in shape),
                ),
            )
        return known

    @staticmethod
    def _plane(image: NDArray[Any]) -> NDArray[Any]:
        """(ky, kx) in FFT order -> flat detector plane."""
        return np.asarray(image).reshape(-1).take(_order(*image.shape))

    @staticmethod
    def _image(plane: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
        """The inverse of `_plane`."""
        image = np.empty(shape[0] * shape[1], plane.dtype)
        image[_order(*shape)] = plane
        return image.reshape(shape)


@dataclass(frozen=True)
class _Constant:
    """What stays from batch to batch, as kernels take it, and the arrays that it was made of."""

    made_of: tuple[Any, ...]
    packed: Packed


def _planar(array: NDArray[np.complex64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Flat real and imaginary parts."""
    re, im = np.empty((2, array.size), np.float32)
    _split(packed(_flat(array), re, im))
    return re, im


def _flat(array: NDArray[np.complex64]) -> NDArray[np.float32]:
    """A view as floats, real and imaginary parts in turn."""
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return array.reshape(-1).view(np.float32)


def _lay_out(
    patterns: NDArray[Any], roll: tuple[int, int], shape: tuple[int, int], out: NDArray[Any], workers: int
) -> None:
    """Write patterns (b, y, x), rolled, with a rim up to `shape`, into detector planes (b, ky · kx)."""
    n, height, width = patterns.shape
    sources, places = [], []
    for length, shift, full in zip((height, width), roll, shape, strict=True):
        source = (_plan(full).order - shift) % full  # detector pixel that stands there; ≥ length: none
        places.append(np.argsort(source)[:length])
        sources.append(np.where(source < length, source, -1))
    offsets = np.where(sources[0] < 0, -1, sources[0] * width)
    flat = patterns.reshape(n, -1)

    def work(first: int, stop: int) -> None:
        part, target = flat[first:stop].reshape(-1), out[first:stop].reshape(-1)
        _relayout(packed(part, offsets, sources[1], places[1], target, _floats(2 * LANES * LANES)))

    share(work, n, workers)


def _total(arrays: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    result = arrays[0].copy()
    for array in arrays[1:]:
        result += array
    return result


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
        worker.summed(loaded, shape)
        worker.binned(loaded, shape)
        in_bins(counts)
        problem = Problem(loaded, np.ones(shape, np.float32), 1, [])
        unknowns = Unknowns(
            object=np.ones((1, 40, 40), np.complex64),
            apertures=np.ones((1, *shape), np.complex64),
            corners=np.zeros((2, 2), np.int32),
            fractions=np.zeros((2, 2), np.float32),
            weights=np.ones((2, 1), np.float32),
            background=np.ones(shape, np.float32),
            guard=0.1,
        )
        sums = worker.accumulate(problem, unknowns, np.arange(2), Wanted())
        worker.turn(unknowns.object, sums, 0.5, 1.0, False)
