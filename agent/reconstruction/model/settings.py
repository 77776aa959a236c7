"""How a reconstruction is made: every choice, its bounds and its default."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from instrument.errors import BadInputError

_WHOLE = {
    "probe_modes": (1, 64),
    "slices": (1, 1000),
    "variable_modes": (0, 64),
    "max_passes": (1, 10**6),
    "batch_size": (1, 10**9),
    "seed": (0, 2**63 - 1),
}
_REAL = {"step_size": 2.0, "source_size": 1e3, "focal_spread": 1e5}
MOST_APART = 1e4
"""Å from slice to slice."""
_WORDS = {
    "object_type": ("complex", "phase", None),
    "refine_positions": ("free", "lines", "linear", None),
    "loss": ("poisson", "amplitude", "gaussian"),
    "device": ("auto", "cpu", "gpu"),
}
_SWITCHES = ("positivity", "refine_intensity", "refine_probe", "stop_early", "quantitative", "regularise", "background")


@dataclass(frozen=True)
class ReconstructionSettings:
    """How to reconstruct.

    Attributes:
        probe_modes: number of mutually incoherent probe states.
        slices: number of object slices.
        slice_spacing: Å from slice to slice, or a tuple of such distances, one less than slices. Each stands for a slab that
            atoms fill evenly, as thick as the smaller of its distances. Layers of a crystal that are thinner than the space
            between them are best taken for two slices each: (1.0, 5.15, 1.0) for four slices of bilayer MoS₂.
        padding: by what factor, 1 … 4, the detector is extended with pixels that do not count, and the object's pixels made
            smaller: what a specimen scatters beyond the detector's edge is missing there, not absorbed, and is not folded back
            into the pattern. None: for several slices and at least 300 counts per object pixel, where it tells, 1.5; 1 otherwise.
        object_type: whether slices may absorb (`complex`) or only shift the phase (`phase`). None: phase only below 300 counts
            per object pixel, where amplitudes would be noise; above, one slice is complex, and several are what follows from
            their phase (`transmission`), unless they are thick and the detector is extended: amplitudes of their own could hardly
            be told from their neighbours' phases.
        positivity: whether phases below that of vacuum are set to it.
        variable_modes: number of variations of the first probe state from pattern to pattern (orthogonal probe relaxation).
        refine_intensity: whether each pattern has an intensity of its own.
        refine_probe: whether the probe is refined within its aperture, from the second pass on (the third where the
            first ones see the detector in bins).
        refine_positions: `free`: each by itself; `lines`: a drift per scan line and a linear distortion; `linear`: only
            scale, rotation and shear; None: as given.
        refine_optics: what of the optics is measured by likelihood before the first pass, out of `parameters.GROUPS`: defocus,
            C12, C21, C23, C30, C32, C34, rotation, centre.
        loss: the likelihood of the counts; Gaussian has one variance for all.
        max_passes: passes over all patterns at most.
        stop_early: whether held-out counts choose the number of passes; the result is made from all counts.
        quantitative: whether phases are divided by what noise is found to have weakened them by (`noise`), and those of several
            slices by what a slab shows of each frequency (`transmission`).
        regularise: whether phases (and amplitudes, where there are any) are expected to have no power where only noise is seen,
            at spatial frequencies and in places (`prior`): a picture with less error the fewer counts there are. It acts from
            the fourth pass on. Not for halves that are compared.
        batch_size: patterns per update in the first pass, doubled in each further one; None: a sixth of them, at least 16.
        step_size: fraction of the preconditioned gradient taken in the first pass; it falls with the passes. Beyond 2 nothing
            converges.
        source_size: standard deviation of the finite source in Å that several probe modes start from.
        focal_spread: standard deviation of the defocus in Å (chromatic aberration) that several probe modes start from.
        background: whether counts that the coherent model does not explain are modelled.
        device: where to compute.
        seed: of the order of the mini-batches and of the counts held out.
    """

    probe_modes: int = 1
    slices: int = 1
    slice_spacing: float | tuple[float, ...] = 10.0
    padding: float | None = None
    object_type: Literal["complex", "phase"] | None = None
    positivity: bool = False
    variable_modes: int = 0
    refine_intensity: bool = False
    refine_probe: bool = True
    refine_positions: Literal["free", "lines", "linear"] | None = None
    refine_optics: tuple[str, ...] = ()
    loss: Literal["poisson", "amplitude", "gaussian"] = "poisson"
    max_passes: int = 80
    stop_early: bool = True
    quantitative: bool = True
    regularise: bool = False
    batch_size: int | None = None
    step_size: float = 1.4
    source_size: float = 0.3
    focal_spread: float = 0.0
    background: bool = True
    device: Literal["auto", "cpu", "gpu"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises BadInputError for a value that is not legal."""
        for name, (low, high) in _WHOLE.items():
            value = getattr(self, name)
            whole = isinstance(value, Integral) and low <= int(value) <= high
            if not whole and (name, value) != ("batch_size", None):
                _refuse(name, value, f"whole numbers from {low} to {high:g}")
        for name, most in _REAL.items():
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0 <= float(value) <= most):
                _refuse(name, value, f"0 … {most:g}")
        padding: Any = self.padding
        if padding is not None and not (isinstance(padding, Real) and 1 <= float(padding) <= 4):
            _refuse("padding", padding, "1 … 4, or None")
        if not self._spaced():
            _refuse(
                "slice_spacing", self.slice_spacing, f"0 … {MOST_APART:g}, or a tuple of one less than slices of them"
            )
        if self.step_size == 0:
            _refuse("step_size", 0, "above 0")
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                _refuse(name, getattr(self, name), ", ".join(map(repr, words)))
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool | np.bool_):
                _refuse(name, getattr(self, name), "True or False")
        names: Any = self.refine_optics
        if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
            _refuse("refine_optics", names, "a tuple of names, such as ('defocus', 'C12')")

    def _spaced(self) -> bool:
        """Whether every slice but the last has a distance to the next."""
        spacing: Any = self.slice_spacing
        apart = spacing if isinstance(spacing, tuple | list) else (spacing,)
        legal = all(isinstance(gap, Real) and 0 <= float(gap) <= MOST_APART for gap in apart)
        return legal and (apart is not spacing or len(apart) == self.slices - 1)

    @property
    def depths(self) -> NDArray[np.float64]:
        """(S,) Å of the slices below the first."""
        gaps = np.broadcast_to(np.asarray(self.slice_spacing, float), self.slices - 1)
        return np.concatenate([[0.0], np.cumsum(gaps)])

    @property
    def thicknesses(self) -> NDArray[np.float64]:
        """(S,) Å of the slab that a slice stands for: as thick as the smaller distance to a neighbour; 0 of a single slice."""
        gaps = np.diff(self.depths)
        return np.minimum(np.append(gaps, gaps[-1:]), np.append(gaps[:1], gaps)) if len(gaps) else np.zeros(1)


def _refuse(name: str, value: object, legal: str) -> None:
    msg = f"{name} of {value!r} is not possible; legal: {legal}"
    raise BadInputError(msg)
