"""Arrays as the CPU's kernels take them: detector planes, planar objects and apertures, scratch memory.

Frequencies stand in the permuted order of `kernels.transform`, in groups of sixteen; the README of `kernels` has the layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.kernels import table, transform
from agent.reconstruction.kernels.machine_code import Packed, pack
from agent.reconstruction.kernels.threads import share
from agent.reconstruction.kernels.transform import LANES
from agent.reconstruction.model.forward import Problem, Unknowns


@lru_cache(maxsize=8)
def plan(n: int) -> transform.Plan:
    """How n numbers are transformed on this processor."""
    return transform.plan(n, eights=transform.registers()[1] > 16)


@lru_cache(maxsize=8)
def order(n_y: int, n_x: int) -> NDArray[np.int64]:
    """Flat index in FFT order of each number of a detector plane of n_y × n_x."""
    index = np.arange(n_y * n_x).reshape(n_y, n_x)[plan(n_y).order][:, plan(n_x).order]
    return np.ascontiguousarray(index.reshape(-1, LANES, n_x).transpose(0, 2, 1)).reshape(-1)


@lru_cache(maxsize=8)
def bins(n_y: int, n_x: int) -> NDArray[np.int64]:
    """Where a detector plane of n_y × n_x has the four pixels of each bin.

    Returns:
        (4, m) places in the plane, for each number of the plane of bins; where all bins come in runs of eight, the first
        of each run only.
    """
    where = np.empty(n_y * n_x, np.int64)
    where[order(n_y, n_x)] = np.arange(n_y * n_x)
    y, x = np.divmod(order(n_y // 2, n_x // 2), n_x // 2)
    places = np.stack([where[(2 * y + i) * n_x + 2 * x + j] for i in (0, 1) for j in (0, 1)])
    runs = places.reshape(4, -1, 8)
    return np.ascontiguousarray(runs[:, :, 0]) if (np.diff(runs) == 1).all() else places


def to_plane(image: NDArray[Any]) -> NDArray[Any]:
    """An image (ky, kx) in FFT order as a flat detector plane."""
    return np.asarray(image).reshape(-1).take(order(*image.shape))


def to_image(plane: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """A flat detector plane as an image (ky, kx) in FFT order."""
    image = np.empty(shape[0] * shape[1], plane.dtype)
    image[order(*shape)] = plane
    return image.reshape(shape)


def aligned(*shape: int) -> NDArray[np.float32]:
    """Zeros that begin at a cache line."""
    size = int(np.prod(shape))
    raw = np.zeros(size + LANES, np.float32)
    first = (-raw.ctypes.data // 4) % LANES
    return raw[first : first + size].reshape(shape)


def as_floats(array: NDArray[np.complex64]) -> NDArray[np.float32]:
    """An array (…, n) of complex numbers as a flat view of floats; of a copy where it is not contiguous."""
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return array.reshape(-1).view(np.float32)


def planar(array: NDArray[np.complex64]) -> table.PlanarArguments:
    """Real and imaginary parts of an array (…, n), flat."""
    re, im = np.empty((2, array.size), np.float32)
    parts = table.PlanarArguments(re=re, im=im)
    table.split(pack(table.ComplexArguments(z=as_floats(array))), pack(parts))
    return parts


def total(arrays: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Sum of arrays (…, n) of one shape, in their order."""
    result = arrays[0].copy()
    for array in arrays[1:]:
        result += array
    return result


def lay_out(
    patterns: NDArray[Any], roll: tuple[int, int], shape: tuple[int, int], out: NDArray[Any], workers: int
) -> None:
    """Write patterns into detector planes, rolled, with a rim of zeros.

    Args:
        patterns: (b, y, x) counts.
        roll: (row, column) pixels.
        shape: (ky, kx) pixels of the planes.
        out: (b, ky · kx), written to.
        workers: number of threads.
    """
    n, height, width = patterns.shape
    sources, places = [], []
    for length, shift, full in zip((height, width), roll, shape, strict=True):
        source = (plan(full).order - shift) % full  # detector pixel that stands there; ≥ length: none
        places.append(np.argsort(source)[:length])
        sources.append(np.where(source < length, source, -1))
    offsets = np.where(sources[0] < 0, -1, sources[0] * width)
    flat = patterns.reshape(n, -1)

    def work(first: int, stop: int) -> None:
        arguments = table.RelayoutArguments(
            patterns=flat[first:stop].reshape(-1),
            rows=offsets,
            columns=sources[1],
            places=places[1],
            out=out[first:stop].reshape(-1),
            block=aligned(2 * LANES * LANES),
        )
        table.relayout(pack(arguments))

    share(work, n, workers)


class Sizes(NamedTuple):
    """What planes and scratch memory are made for.

    Attributes:
        n_y, n_x: detector pixels.
        modes, slices, apertures: how many.
        pad_y, m_x: supported frequencies along each axis, those along y in whole groups.
        area: (y, x) object pixels.
        blurred: whether the detector has a point spread.
    """

    n_y: int
    n_x: int
    modes: int
    slices: int
    pad_y: int
    m_x: int
    apertures: int
    area: tuple[int, int]
    blurred: bool

    @classmethod
    def of(cls, problem: Problem, unknowns: Unknowns, support: Support) -> Sizes:
        """The sizes of a reconstruction."""
        apertures, n_y, n_x = unknowns.apertures.shape
        slices, height, width = unknowns.object.shape
        pad_y, m_x, blurred = len(support.frequencies_y), len(support.places_x), problem.transfer is not None
        return cls(n_y, n_x, problem.n_modes, slices, pad_y, m_x, apertures, (height, width), blurred)


@dataclass
class Support:
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

    @classmethod
    def of(cls, inside: NDArray[np.bool_]) -> Support:
        """The support of apertures that are 0 where `inside` (ky, kx) is false."""
        places, frequencies, indices = [], [], []
        for axis, n in enumerate(inside.shape):
            permuted = plan(n).order
            lit = np.asarray(inside.any(axis=1 - axis))
            chosen = np.flatnonzero(lit[permuted])
            places.append(chosen)
            indices.append(permuted[chosen])
            frequencies.append(np.where(permuted[chosen] < n - n // 2, permuted[chosen], permuted[chosen] - n))
        padded = np.zeros(-(-len(places[0]) // LANES) * LANES, np.float32)
        padded[: len(places[0])] = frequencies[0]
        sign = 1.0 - 2.0 * ((frequencies[1][:, None] + frequencies[0][None, :]) % 2)
        index = indices[0][None, :] * inside.shape[1] + indices[1][:, None]
        arguments = table.SupportArguments(
            places_y=places[0],
            places_x=places[1],
            frequencies_y=padded,
            frequencies_x=frequencies[1].astype(np.float32),
        )
        return cls(inside, *arguments, index, (sign / inside.size).astype(np.float32), pack(arguments))


class Constant:
    """What stays from batch to batch, as kernels take it, and the arrays that it was made of."""

    def __init__(self, problem: Problem, unknowns: Unknowns) -> None:
        self.made_of = self.sources(problem, unknowns)
        n_y, n_x = unknowns.apertures.shape[1:]
        size = np.float32(n_y * n_x)
        planes = [to_plane(p / size) for p in problem.propagators] or [np.zeros(1, np.complex64)]
        propagators = planar(np.concatenate(planes))
        transfer = np.zeros(0, np.float32)
        if problem.transfer is not None:
            transfer = to_plane(np.asarray(problem.transfer, np.float32) / size)
        plan_y, plan_x = plan(n_y), plan(n_x)
        self.packed = pack(
            table.ConstantArguments(
                corners=unknowns.corners,
                subpixel_shifts=unknowns.subpixel_shifts,
                weights=unknowns.weights,
                propagators_re=propagators.re,
                propagators_im=propagators.im,
                mask=to_plane(problem.mask),
                transfer=transfer,
                plan_y=plan_y.passes,
                twiddles_y=plan_y.twiddles,
                plan_x=plan_x.passes,
                twiddles_x=plan_x.twiddles,
                order_y=plan_y.order,
                order_x=plan_x.order,
            )
        )

    @staticmethod
    def sources(problem: Problem, unknowns: Unknowns) -> tuple[Any, ...]:
        """The arrays that it depends on."""
        located = (unknowns.corners, unknowns.subpixel_shifts, unknowns.weights)
        return (*located, problem.propagators, problem.mask, problem.transfer)

    def serves(self, problem: Problem, unknowns: Unknowns) -> bool:
        """Whether it was made of the same arrays."""
        return all(a is b for a, b in zip(self.made_of, self.sources(problem, unknowns), strict=True))


class Planes:
    """Object and apertures as kernels take them, planar; kept between batches, because making them anew costs time."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        re, im = (aligned(sizes.slices * sizes.area[0] * sizes.area[1]) for _ in range(2))
        self.apertures = [aligned(sizes.apertures, sizes.m_x, sizes.pad_y) for _ in range(2)]
        self._object = pack(table.PlanarArguments(re=re, im=im))
        self.packed = pack(
            table.PlaneArguments(
                object_re=re,
                object_im=im,
                n_slices=sizes.slices,
                width=sizes.area[1],
                apertures_re=self.apertures[0].reshape(-1),
                apertures_im=self.apertures[1].reshape(-1),
                n_modes=sizes.modes,
            )
        )

    def take(self, unknowns: Unknowns, support: Support) -> None:
        """Copy what `unknowns` holds now."""
        table.split(pack(table.ComplexArguments(z=as_floats(unknowns.object))), self._object)
        cut = unknowns.apertures.reshape(len(unknowns.apertures), -1)[:, support.index]
        for part, target in zip((cut.real, cut.imag), self.apertures, strict=True):
            np.multiply(part, support.factor, out=target[:, :, : len(support.places_y)])
            target[:, :, len(support.places_y) :] = 0  # a support before may have reached further


class Scratch:
    """What one thread works in and adds up, kept likewise.

    Args:
        sizes: of the reconstruction.
        number: which of the threads, from 0 on.
    """

    def __init__(self, sizes: Sizes, number: int) -> None:
        n_y, n_x, modes, slices, pad_y, m_x, apertures, area, blurred = sizes
        plane = n_y * n_x
        self.object = [aligned(slices, *area) for _ in range(3)]
        self.apertures = [aligned(apertures, m_x, pad_y) for _ in range(2)]
        self.ratio = aligned(plane)
        flat = [a.reshape(-1) for a in (*self.object, *self.apertures)]
        compact, blur = plane if blurred else n_x * pad_y, plane if blurred else LANES
        self.packed = pack(
            table.ScratchArguments(
                numerator_re=flat[0],
                numerator_im=flat[1],
                illumination=flat[2],
                aperture_sum_re=flat[3],
                aperture_sum_im=flat[4],
                ratio_sum=self.ratio,
                t_re=aligned(max(n_y, n_x) * LANES),
                t_im=aligned(max(n_y, n_x) * LANES),
                c_re=aligned(compact),
                c_im=aligned(compact),
                s_re=aligned(modes * slices * plane),
                s_im=aligned(modes * slices * plane),
                w_re=aligned(modes * plane),
                w_im=aligned(modes * plane),
                v_re=aligned(modes * plane),
                v_im=aligned(modes * plane),
                model=aligned(n_x * LANES),
                d_re=aligned(blur),
                d_im=aligned(blur),
                ramp_y=aligned(2, pad_y),
                ramp_x=aligned(2, m_x),
            )
        )
        self.collected = pack(
            table.AccumulatedArguments(
                re=flat[0], im=flat[1], illumination=flat[2], illumination_scale=float(plane), more=number
            )
        )

    def clear(self) -> None:
        """Zero the accumulators."""
        for array in (*self.object, *self.apertures, self.ratio):
            array[...] = 0
