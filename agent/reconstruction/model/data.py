"""What a reconstruction is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.counts.patterns import selected
from agent.reconstruction.counts.survey import Survey
from agent.reconstruction.counts.survey import survey as take_survey
from agent.reconstruction.model.coherence import SourceSize
from instrument import optics


@dataclass(frozen=True)
class DiffractionData:
    """Diffraction patterns and everything that is known of how they came about.

    Attributes:
        patterns: (n, ky, kx) counts, unsigned integers (floats are accepted), zero beam at `centre`.
        positions: (n, 2), (y, x), Å, of the probe in the scan's frame.
        voltage: eV; of X-rays and light instrument.optics.EquivalentVoltage(wavelength).
        semiangle: convergence semi-angle, mrad.
        angular_pixel: reciprocal-space sampling, mrad per detector pixel.
        defocus: Å, positive for underfocus, at the entrance surface.
        centre: (row, column) of the zero beam in pixels; None: N//2.
        detector_to_scan: orthogonal 2 × 2 matrix, (row, column) direction on the detector to the scan's frame.
        mask: (ky, kx) bool, True where the detector counts; None: everywhere.
        aberrations: Krivanek polar coefficients besides defocus, Å and rad (instrument.optics.ABERRATIONS).
        aperture: (ky, kx) amplitude of the bright-field disc as measured, zero beam at `centre`; None: round and even.
        probe: (modes, y, x) waves to start from, in real space over the window 1/Δk, centred at N//2, of any scale; None: from
            semi-angle, defocus and aberrations. The first is that of the coherent beam.
        source_size: FWHM of the source's image on the specimen, Å: a number, or (major, minor, angle of the major axis in rad,
            counted like the angles of aberrations); 0: a point.
        focal_spread: standard deviation of the defocus, Å: what the energy spread makes of it.
        position_jitter: standard deviation, Å along each axis, of what the scan engine misses each position by; 0: not known.
            Positions that are refined freely are held by it (`ReconstructionSettings.refine_positions`).
        intensity: (n,) of the beam in each pattern, relative to their mean; None: the same in all.
        counts_per_electron: variance of the counts over their mean: 1 where every electron gives one count.
        point_spread: standard deviation of the detector's point spread, detector pixels.
        area_integration: whether a detector pixel counts what falls on its whole area, rather than at its centre.
        pass_index: (n,) in which of two passes over the field each pattern was recorded, 0 or 1; None: there was one pass.
        survey: of the patterns, in all pixels; None, or that of others: they are read again where it is asked for. Whoever
            changes patterns in place has to leave it out.
    """

    patterns: NDArray[Any]
    positions: NDArray[np.float64]
    voltage: float
    semiangle: float
    angular_pixel: float
    defocus: float = 0.0
    centre: tuple[float, float] | None = None
    detector_to_scan: NDArray[np.float64] | None = None
    mask: NDArray[np.bool_] | None = None
    aberrations: Mapping[str, float] = field(default_factory=dict)
    aperture: NDArray[np.floating] | None = None
    probe: NDArray[np.complexfloating] | None = None
    source_size: SourceSize = 0.0
    focal_spread: float = 0.0
    position_jitter: float = 0.0
    intensity: NDArray[np.float64] | None = None
    counts_per_electron: float = 1.0
    point_spread: float = 0.0
    area_integration: bool = False
    pass_index: NDArray[np.int64] | None = None
    survey: Survey | None = field(default=None, compare=False, repr=False)

    def look(self) -> Survey:
        """What the patterns hold: as `survey` has it where that is of these patterns, otherwise from reading them once."""
        known = self.survey
        return known if known is not None and known.patterns is self.patterns else take_survey(self.patterns)

    def counted(self) -> float:
        """Counts of all patterns in the pixels that count."""
        survey = self.look()
        mean = survey.mean if self.mask is None else survey.mean[np.asarray(self.mask, dtype=bool)]
        return float(len(self.patterns) * mean.sum())

    def at(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> DiffractionData:
        """Some of the patterns, with what belongs to each.

        Args:
            which: (n,) True for those wanted, or their numbers (m,).
        """
        number = np.flatnonzero(which) if which.dtype == np.bool_ else which
        chosen = np.zeros(len(self.patterns), bool)
        chosen[number] = True
        in_order = len(number) == chosen.sum() and bool((np.diff(number) > 0).all())
        return replace(
            self,
            patterns=selected(self.patterns, chosen) if in_order else self.patterns[number],
            positions=self.positions[number],
            intensity=None if self.intensity is None else self.intensity[number],
            pass_index=None if self.pass_index is None else self.pass_index[number],
        )

    @property
    def largest_defocus(self) -> float:
        """|Δf|, Å, at which the geometric probe disc fills the window 1/Δk of one pattern."""
        return optics.largest_defocus(self.semiangle, self.angular_pixel, self.voltage)

    @property
    def depth_of_focus(self) -> float:
        """λ/α², Å: over so much of defocus the phase at the aperture's rim turns by π."""
        return optics.wavelength(self.voltage) / (1e-3 * self.semiangle) ** 2

    @property
    def pixel_size(self) -> tuple[float, float]:
        """(y, x) sampling of the object, Å: 1/(N Δk)."""
        n_y, n_x = self.patterns.shape[-2:]
        return (
            optics.pixel_size(self.angular_pixel, n_y, self.voltage),
            optics.pixel_size(self.angular_pixel, n_x, self.voltage),
        )
