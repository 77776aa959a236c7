"""The memory of the GPU backend: what its kernels are compiled for and what they work in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.reconstruction.cuda import Sizes
from agent.reconstruction.forward import Problem, Unknowns

SEGMENT = 8
"""Patterns that one thread adds up."""
TILE_Y, TILE_X = 8, 32
"""Object pixels that share a list of the patterns that see them: one thread block."""
THREADS = 2**19
"""Threads that keep a device busy; a small object's pixels are fewer, so the patterns that see one are shared out."""


@dataclass(frozen=True)
class Layout:
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

    @classmethod
    def of(cls, problem: Problem, unknowns: Unknowns) -> Layout:
        """The layout that a reconstruction needs."""
        apertures, n_y, n_x = unknowns.apertures.shape
        slices, height, width = unknowns.object.shape
        lit = n_y * n_x if problem.support is None else int(np.count_nonzero(problem.support))
        return cls(n_y, n_x, problem.n_modes, apertures, slices, height, width, problem.transfer is not None, lit)

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
        )

    def bytes_for(self, patterns: int) -> int:
        """Device memory for a chunk, cuFFT's work areas among it."""
        waves = self.modes * self.plane * 8 * (self.slices + 2) + self.blurred * self.plane * 16
        partial = (4 * self.plane + 8 * self.apertures * self.lit) // SEGMENT
        partial += 8 * self.groups + 4 * (2 + self.apertures) * self.lit_groups
        fixed = self.plane * (8 * self.apertures + 4) + (24 * self.slices + 12 * self.parts) * self.height * self.width
        return patterns * (waves + partial + 4 * self.tiles + 8 * (self.n_y + self.n_x + 1)) + fixed


class Buffers:
    """Device memory for chunks of up to `chunk` patterns and batches of up to `total`, padding included."""

    def __init__(self, layout: Layout, chunk: int, total: int, xp: Any) -> None:
        f, c, i = xp.float32, xp.complex64, xp.int32
        self.layout, self.chunk, self.total = layout, chunk, total
        detector, area = (layout.n_y, layout.n_x), (layout.slices, layout.height, layout.width)
        segments = -(-chunk // SEGMENT)
        self.stash = xp.empty((layout.slices, chunk, layout.modes, *detector), c)
        self.waves = xp.empty((chunk, layout.modes, *detector), c)
        self.planes = xp.empty((chunk if layout.blurred else 0, *detector), c)
        self.ramps = xp.empty((chunk, layout.n_y + layout.n_x), c)
        self.places = xp.empty((chunk, 2), i)
        self.lists = xp.empty(layout.tiles * (1 + chunk), i)
        self.part_ratio = xp.empty((segments, *detector), f)
        self.part_apertures = xp.empty((segments, layout.apertures, layout.lit), c)
        self.part_slopes = xp.empty((chunk, 2 + layout.apertures, layout.lit_groups), f)
        self.part_modelled, self.part_deviance = (xp.empty((chunk, layout.groups), f) for _ in range(2))
        self.part_numerator = xp.empty((layout.parts, *area[1:]), c)
        self.part_illumination = xp.empty((layout.parts, *area[1:]), f)
        self.index = xp.empty(total, i)
        self.modelled, self.deviance = (xp.zeros(total, f) for _ in range(2))
        self.slopes = xp.zeros((total, 2 + layout.apertures), f)
        self.ratio = xp.zeros(detector, f)
        self.numerator, self.illumination = xp.zeros(area, c), xp.zeros(area, f)
        self.apertures = xp.zeros((layout.apertures, layout.lit), c)
