"""How a reconstruction is made: every choice with its bounds in the type and its meaning beside the default."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from instrument.errors import BadInputError

LARGEST_SPACING = 1e4
"""Å from slice to slice."""
PARTS: Mapping[str, tuple[str, ...]] = {
    "background": ("background",),
    "amplitude": ("object_type",),
    "slices": ("slices", "slice_spacing"),
    "intensity": ("refine_intensity",),
    "positions": ("refine_positions",),
    "spread": (),
    "modes": ("probe_modes",),
    "variations": ("variable_modes",),
}
"""Part of the model that counts can be asked for, the likeliest first -> the settings that it stands in; `spread`, of the
detector, stands in the data."""


class Bounds(NamedTuple):
    """Legal values, both ends included; `above`: not the lower one. (pydantic's fields would take half of the import's time.)"""

    low: float
    high: float
    above: bool = False


@dataclass(frozen=True)
class ReconstructionSettings:
    """How to reconstruct.

    Raises:
        BadInputError: a value that is not legal, with what would be.
    """

    probe_modes: Annotated[int, Bounds(1, 64)] = 1
    """Number of mutually incoherent probe states that are free. The first of them is split into further ones where the data
    have a source size or a focal spread (`model.coherence`)."""
    coherence: Annotated[float, Bounds(0.5, 0.9999)] = 0.99
    """Part of the intensity that the states of source size and focal spread carry; the more, the more of them, and the slower."""
    slices: Annotated[int, Bounds(1, 1000)] = 1
    """Number of object slices."""
    slice_spacing: float | tuple[float, ...] = 10.0
    """Å from slice to slice, or a tuple of such distances, one less than slices. Each slice stands for a slab that atoms fill
    evenly, as thick as the smaller of its distances. Layers of a crystal that are thinner than the space between them are best
    taken for two slices each: (1.0, 5.15, 1.0) for four slices of bilayer MoS₂."""
    padding: Annotated[float, Bounds(1, 4)] | None = None
    """Factor by which the detector is extended with pixels that do not count, and the object's pixels made smaller: what a
    specimen scatters beyond the detector's edge is missing there, not absorbed, and is not folded back into the pattern. None:
    1.5 for several slices and at least 300 counts per object pixel, where it shows; 1 otherwise."""
    object_type: Literal["complex", "phase"] | None = None
    """Whether slices may absorb (`complex`) or only shift the phase (`phase`). None: phase only below 300 counts per object
    pixel, where amplitudes would be noise; above, one slice is complex, and several are what follows from their phase
    (`model.transmission`), unless they are thick and the detector is extended: amplitudes of their own could hardly be told from
    their neighbours' phases."""
    positivity: bool = False
    """Whether phases below that of vacuum are set to it."""
    variable_modes: Annotated[int, Bounds(0, 64)] = 0
    """Number of variations of the first probe state from pattern to pattern (orthogonal probe relaxation)."""
    refine_intensity: bool = False
    """Whether each pattern has an intensity of its own."""
    refine_probe: bool = True
    """Whether the probe is refined within its aperture, from the second pass on (the third where the first ones see bins)."""
    refine_positions: Literal["free", "lines", "linear"] | None = None
    """`free`: each by itself; `lines`: a drift per scan line and a linear distortion; `linear`: only scale, rotation and shear;
    None: as given."""
    positions_start: Annotated[int, Bounds(2, 10**6)] = 2
    """Full passes before the first step of positions: the object has to show something that can be out of place."""
    refine_optics: tuple[str, ...] = ()
    """What of the optics is measured by likelihood before the first pass, out of `calibration.parameters.GROUPS`: defocus, C12,
    C21, C23, C30, C32, C34, rotation, centre, source, ellipse, focal_spread."""
    loss: Literal["poisson", "amplitude", "gaussian"] = "poisson"
    """The likelihood of the counts; Gaussian has one variance for all."""
    max_passes: Annotated[int, Bounds(1, 10**6)] = 80
    """Passes over all patterns at most."""
    stop_early: bool = True
    """Whether held-out counts choose the number of passes; the result is made from all counts."""
    quantitative: bool = True
    """Whether phases are divided by what noise is found to have weakened them by (`solver.bias`), and those of several slices by
    what a slab shows of each frequency (`model.transmission`)."""
    regularise: bool = False
    """Whether phases (and amplitudes, where there are any) are expected to have no power where only noise is seen, at spatial
    frequencies and in places (`solver.prior`): less error the fewer counts there are. It acts from the fourth pass on. Not for
    halves that are compared."""
    batch_size: Annotated[int, Bounds(1, 10**9)] | None = None
    """Patterns per update in the first pass, doubled in each further one; None: a sixth of them, at least 16."""
    step_size: Annotated[float, Bounds(0, 2, above=True)] = 1.4
    """Fraction of the preconditioned gradient taken in the first pass; it falls with the passes. Beyond 2 nothing converges."""
    momentum: Annotated[float, Bounds(0, 1)] = 1.0
    """Part of Nesterov's extrapolation that full passes take; 0: none."""
    background: bool = True
    """Whether counts that the coherent model does not explain are modelled."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to compute."""
    seed: Annotated[int, Bounds(0, 2**63 - 1)] = 0
    """Of the order of the mini-batches and of the counts held out."""

    def __post_init__(self) -> None:
        """See `Raises` of the class."""
        for name, hint in _hints().items():
            value = getattr(self, name)
            legal = _legal(value, hint)
            if legal is not None:
                _refuse(name, value, legal)
        if not self._is_spaced():
            legal = f"0 … {LARGEST_SPACING:g}, or a tuple of one less than slices of them"
            _refuse("slice_spacing", self.slice_spacing, legal)
        names: Any = self.refine_optics
        if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
            _refuse("refine_optics", names, "a tuple of names, such as ('defocus', 'C12')")

    def _is_spaced(self) -> bool:
        """Whether every slice but the last has a distance to the next."""
        spacing: Any = self.slice_spacing
        gaps = spacing if isinstance(spacing, tuple | list) else (spacing,)
        legal = all(isinstance(gap, Real) and 0 <= float(gap) <= LARGEST_SPACING for gap in gaps)
        return legal and (gaps is not spacing or len(gaps) == self.slices - 1)

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


@lru_cache(maxsize=1)
def _hints() -> dict[str, Any]:
    """Field -> its type with bounds; those that `__post_init__` checks by hand left out."""
    hints = get_type_hints(ReconstructionSettings, include_extras=True)
    return {name: hint for name, hint in hints.items() if name not in ("slice_spacing", "refine_optics")}


def _legal(value: object, hint: Any) -> str | None:
    """None where `value` is of the type `hint`, otherwise what would be."""
    optional = get_origin(hint) in (Union, UnionType)
    if optional:
        if value is None:
            return None
        hint = next(kind for kind in get_args(hint) if kind is not NoneType)
    if hint is bool:
        return None if isinstance(value, bool | np.bool_) else "True or False"
    if get_origin(hint) is Literal:
        words = get_args(hint) + ((None,) if optional else ())
        return None if value in words else ", ".join(map(repr, words))
    kind, bounds = get_args(hint)
    number = float(value) if isinstance(value, Integral if kind is int else Real) else math.nan
    at_open_end = bounds.above and number == bounds.low
    if bounds.low <= number <= bounds.high and not at_open_end:
        return None
    if kind is int:
        return f"whole numbers from {bounds.low} to {bounds.high:g}"
    if at_open_end:
        return f"above {bounds.low}"
    return f"{bounds.low:g} … {bounds.high:g}" + (", or None" if optional else "")


def _refuse(name: str, value: object, legal: str) -> None:
    msg = f"{name} of {value!r} is not possible; legal: {legal}"
    raise BadInputError(msg)
