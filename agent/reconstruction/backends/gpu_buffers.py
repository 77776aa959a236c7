"""The memory of the GPU backend: what its kernels are compiled for and what they work in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agent.reconstruction.kernels.cuda import Sizes
from agent.reconstruction.model.forward import Problem, Unknowns

SEGMENT = 8
"""Patterns that one thread adds up."""
TILE_Y, TILE_X = 8, 32
"""Object pixels that share a list of the patterns that see them: one thread block."""
THREADS = 2**19
"""Threads that keep a device busy; a small object's pixels are fewer, so the patterns that see one are shared out."""
IN_SHARED = (32, 64, 96, 128)
"""Detector pixels along an axis for which a wave's transforms may happen in shared memory (`waves.cu`)."""
PER_THREAD = 16
"""Pixels of such a wave per thread: 1024 threads for 128²; half as many take 10 % longer."""


@dataclass(frozen=True)
class Dimensions:
    """What buffers and kernels are made for; sizes in pixels, of which `lit` in the support of the apertures."""

    n_y: int
    n_x: int
    modes: int
    apertures: int
    slices: int
    height: int
    width: int
    blurred: bool
    lit: int
    in_shared: bool
    """Whether a thread block of the device holds a wave in its shared memory."""

    @classmethod
    def of(cls, problem: Problem, unknowns: Unknowns, shared_memory: int) -> Dimensions:
        """The sizes of a reconstruction.

        Args:
            problem, unknowns: what it is given and what it finds.
            shared_memory: bytes that a thread block of the device may have.
        """
        apertures, n_y, n_x = unknowns.apertures.shape
        slices, height, width = unknowns.object.shape
        lit = n_y * n_x if problem.support is None else int(np.count_nonzero(problem.support))
        blurred = problem.transfer is not None
        dims = cls(n_y, n_x, problem.n_modes, apertures, slices, height, width, blurred, lit, in_shared=False)
        small = n_y in IN_SHARED and n_x in IN_SHARED and dims.block[1] <= shared_memory
        return replace(dims, in_shared=small)

    @property
    def plane(self) -> int:
        return self.n_y * self.n_x

    @property
    def pixels(self) -> int:
        """Per thread: more loads in flight, as registers allow."""
        return max(1, 4 // self.apertures)

    @property
    def groups(self) -> int:
        """Warps that share a detector plane."""
        return -(-self.plane // (32 * self.pixels))

    @property
    def lit_groups(self) -> int:
        """Warps that share the lit pixels of the aperture plane."""
        return -(-self.lit // (32 * self.pixels))

    @property
    def tiles(self) -> int:
        return -(-self.height // TILE_Y) * -(-self.width // TILE_X)

    @property
    def parts(self) -> int:
        """Threads among which the patterns that see an object pixel are shared out."""
        return min(8, -(-THREADS // (self.tiles * TILE_Y * TILE_X)))

    @property
    def block(self) -> tuple[int, int]:
        """Threads of a block that holds a wave, and its bytes of shared memory: see `ROW` in `waves.cu`."""
        row = (9 * (self.n_x // 8) + 7) // 16 * 16 + 8
        return self.plane // PER_THREAD, 8 * (self.n_y * row + self.n_y // 8 + self.n_x // 8)

    @property
    def sizes(self) -> Sizes:
        """What the kernels are compiled with."""
        return (
            ("NY", self.n_y),
            ("NX", self.n_x),
            ("MODES", self.modes),
            ("APERTURES", self.apertures),
            ("SEGMENT", SEGMENT),
            ("PIXELS", self.pixels),
            ("AHEAD", max(1, 4 // self.modes)),
            ("TILE_Y", TILE_Y),
            ("TILE_X", TILE_X),
            ("IN_SHARED", int(self.in_shared)),
            ("PER_THREAD", PER_THREAD),
        )

    def bytes_for(self, patterns: int) -> int:
        """Device memory for a chunk, cuFFT's work areas among it."""
        planes = 2 * self.slices + 1 if self.in_shared else self.slices + 2
        waves = self.modes * self.plane * 8 * planes + self.blurred * self.plane * 16
        partial = (4 * self.plane + 8 * self.apertures * self.lit) // SEGMENT
        partial += 8 * self.groups + 4 * (2 + self.apertures) * self.lit_groups
        fixed = self.plane * (8 * self.apertures + 4) + (24 * self.slices + 12 * self.parts) * self.height * self.width
        lists = 4 * self.tiles * (patterns + 2 * self.parts)
        return patterns * (waves + partial + 8 * (self.n_y + self.n_x + 1)) + lists + fixed


class Buffers:
    """Device memory for chunks of up to `chunk` patterns and batches of up to `total`, padding included."""

    def __init__(self, dims: Dimensions, chunk: int, total: int, xp: Any) -> None:
        f, c, i = xp.float32, xp.complex64, xp.int32
        self.dims, self.chunk, self.total = dims, chunk, total
        detector, area = (dims.n_y, dims.n_x), (dims.slices, dims.height, dims.width)
        segments = -(-chunk // SEGMENT)
        self.stash = xp.empty((dims.slices, chunk, dims.modes, *detector), c)
        self.residuals = xp.empty((dims.slices if dims.in_shared else 0, chunk, dims.modes, *detector), c)
        self.waves = xp.empty((chunk, dims.modes, *detector), c)
        self.planes = xp.empty((chunk if dims.blurred else 0, *detector), c)
        self.ramps = xp.empty((chunk, dims.n_y + dims.n_x), c)
        self.places = xp.empty((chunk, 2), i)
        self.lists = xp.empty(dims.tiles * dims.parts * (1 + -(-chunk // dims.parts)), i)
        self.part_ratio = xp.empty((segments, *detector), f)
        self.part_apertures = xp.empty((segments, dims.apertures, dims.lit), c)
        self.part_slopes = xp.empty((chunk, 2 + dims.apertures, dims.lit_groups), f)
        self.part_modelled, self.part_deviance = (xp.empty((chunk, dims.groups), f) for _ in range(2))
        self.part_numerator = xp.empty((dims.parts, *area[1:]), c)
        self.part_illumination = xp.empty((dims.parts, *area[1:]), f)
        self.index = xp.empty(total, i)
        self.modelled, self.deviance = (xp.zeros(total, f) for _ in range(2))
        self.slopes = xp.zeros((total, 2 + dims.apertures), f)
        self.ratio = xp.zeros(detector, f)
        self.numerator, self.illumination = xp.zeros(area, c), xp.zeros(area, f)
        self.apertures = xp.zeros((dims.apertures, dims.lit), c)
