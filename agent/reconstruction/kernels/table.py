"""The kernels and their arguments, by name: what the backends pack and what the compiled functions take.

Each kernel is listed with the groups of its arguments in their order. A group is a NamedTuple: it is filled by name, and
its fields are the kernel's parameters (checked when a kernel is compiled, and by a test). Planes and stacks of planes are
flat; their layout is described in the README of this room.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.kernels.machine_code import Kernel

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
Counts = NDArray[Any]
"""uint8, uint16 or float32."""


class PartArguments(NamedTuple):
    """The patterns of one thread: their numbers, and the counts (n · n_y · n_x) of all patterns in detector planes."""

    pattern_index: Indices
    counts: Counts


class ConstantArguments(NamedTuple):
    """What stays from batch to batch.

    Attributes:
        corners: (n, 2) int32, first object pixel of each window.
        subpixel_shifts: (n, 2) pixels.
        weights: (n, V) of each aperture in each pattern.
        propagators_re, propagators_im: S − 1 detector planes, over the number of pixels.
        mask: a detector plane, 1 where the detector counts.
        transfer: a detector plane, over the number of pixels; empty for a perfect detector.
        plan_y, plan_x: passes of the transforms (`transform.Plan`).
        twiddles_y, twiddles_x: their factors.
        order_y, order_x: FFT index of the frequency at each place.
    """

    corners: NDArray[np.int32]
    subpixel_shifts: Floats
    weights: Floats
    propagators_re: Floats
    propagators_im: Floats
    mask: Floats
    transfer: Floats
    plan_y: Indices
    twiddles_y: Floats
    plan_x: Indices
    twiddles_x: Floats
    order_y: Indices
    order_x: Indices


class SupportArguments(NamedTuple):
    """Frequencies at which apertures may be other than 0.

    Attributes:
        places_y, places_x: (m_y,), (m_x,) where they stand in the permuted order.
        frequencies_y, frequencies_x: (pad_y,), (m_x,) integer frequencies, the first padded with zeros to whole groups.
    """

    places_y: Indices
    places_x: Indices
    frequencies_y: Floats
    frequencies_x: Floats


class PlaneArguments(NamedTuple):
    """Object and apertures.

    Attributes:
        object_re, object_im: (S · Y · width).
        n_slices: S.
        width: pixels of an object row.
        apertures_re, apertures_im: (V · m_x · pad_y), the supported frequencies.
        n_modes: how many of the apertures are probe modes; the rest are variations of the first.
    """

    object_re: Floats
    object_im: Floats
    n_slices: int
    width: int
    apertures_re: Floats
    apertures_im: Floats
    n_modes: int


class BatchArguments(NamedTuple):
    """What one batch is asked for, and what it says of each pattern.

    Attributes:
        background: a detector plane, counts.
        count_offset: counts added to data and model.
        variance: of the counts, where the loss is Gaussian.
        loss: code of the likelihood, `forward.LOSSES`.
        want_adjoint, want_probe, want_ratio, want_deviance: 0 or 1.
        expected: (n · n_y · n_x) takes the model; empty: not wanted.
        slopes: (n, 2 + V).
        modelled: (n,).
    """

    background: Floats
    count_offset: float
    variance: float
    loss: int
    want_adjoint: int
    want_probe: int
    want_ratio: int
    want_deviance: int
    expected: Floats
    slopes: Floats
    modelled: Floats


class ScratchArguments(NamedTuple):
    """What one thread adds up, and what it works in.

    Attributes:
        numerator_re, numerator_im, illumination: (S · Y · width) sums.
        aperture_sum_re, aperture_sum_im: (V · m_x · pad_y) sums.
        ratio_sum: a detector plane.
        t_re, t_im: one group of columns.
        c_re, c_im: compact planes of the supported ky, or a whole plane where the detector blurs.
        s_re, s_im: waves incident on each slice, (modes · S) planes.
        w_re, w_im: waves in detector planes, one for each mode.
        v_re, v_im: the same in object planes.
        model: one group of columns.
        d_re, d_im: a plane where the detector blurs.
        ramp_y, ramp_x: (2, pad_y), (2, m_x) real and imaginary parts.
    """

    numerator_re: Floats
    numerator_im: Floats
    illumination: Floats
    aperture_sum_re: Floats
    aperture_sum_im: Floats
    ratio_sum: Floats
    t_re: Floats
    t_im: Floats
    c_re: Floats
    c_im: Floats
    s_re: Floats
    s_im: Floats
    w_re: Floats
    w_im: Floats
    v_re: Floats
    v_im: Floats
    model: Floats
    d_re: Floats
    d_im: Floats
    ramp_y: Floats
    ramp_x: Floats


class RelayoutArguments(NamedTuple):
    """See `detector.relayout`."""

    patterns: Counts
    rows: Indices
    columns: Indices
    places: Indices
    out: Counts
    block: Floats


class AddUpArguments(NamedTuple):
    """See `detector.add_up`."""

    planes: Counts
    totals: NDArray[np.float64]
    sums: Floats


class BinUpArguments(NamedTuple):
    """See `detector.bin_up`."""

    planes: Counts
    pixels: int
    places: Indices
    out: Counts
    largest: Floats


class PairUpArguments(NamedTuple):
    """See `detector.pair_up`."""

    patterns: Counts
    width: int
    out: Counts
    largest: Floats


class ComplexArguments(NamedTuple):
    """Complex numbers as floats (2 m), real and imaginary parts in turn."""

    z: Floats


class PlanarArguments(NamedTuple):
    """Real and imaginary parts (m)."""

    re: Floats
    im: Floats


class AccumulatedArguments(NamedTuple):
    """One thread's sums (m); `illumination_scale` makes up for its transforms; `more`: they are added to what is there."""

    re: Floats
    im: Floats
    illumination: Floats
    illumination_scale: float
    more: int


class GatheredArguments(NamedTuple):
    """Sums of all threads: numerator (2 m), real and imaginary parts in turn, and illumination (m)."""

    numerator: Floats
    total_illumination: Floats


class StepPhasesArguments(NamedTuple):
    """See `object.step_phases`."""

    z: Floats
    numerator: Floats
    illumination: Floats
    size: float
    floor: float
    positive: int


class HalveArguments(NamedTuple):
    """See `thinning.halve`."""

    counts: Counts
    first: int
    seed: int
    out: Counts


class ThinArguments(NamedTuple):
    """See `thinning.thin`."""

    counts: Counts
    limit: int
    first: int
    seed: int
    out: Counts


block = Kernel(
    "diffraction",
    "block",
    PartArguments,
    ConstantArguments,
    SupportArguments,
    PlaneArguments,
    BatchArguments,
    ScratchArguments,
)
relayout = Kernel("detector", "relayout", RelayoutArguments)
add_up = Kernel("detector", "add_up", AddUpArguments)
bin_up = Kernel("detector", "bin_up", BinUpArguments)
pair_up = Kernel("detector", "pair_up", PairUpArguments)
split = Kernel("object", "split", ComplexArguments, PlanarArguments)
gather = Kernel("object", "gather", AccumulatedArguments, GatheredArguments)
step_phases = Kernel("object", "step_phases", StepPhasesArguments)
halve = Kernel("thinning", "halve", HalveArguments)
thin = Kernel("thinning", "thin", ThinArguments)

KERNELS = (block, relayout, add_up, bin_up, pair_up, split, gather, step_phases, halve, thin)
