"""The patterns of an experiment as the backend holds them: bins first where these will do, pixels once they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.backends.protocol import Backend
from agent.reconstruction.counts.patterns import chunks, in_bins, joined, kept_on_disk
from agent.reconstruction.model import binning
from agent.reconstruction.model.data import DiffractionData
from instrument.errors import BadInputError


@dataclass
class LoadedCounts:
    """Counts in the backend's layout.

    Attributes:
        backend: whose layout it is.
        data: the patterns (n, ky, kx) and their mask; read again for the pixels where bins came first.
        roll: (row, column) that brings the zero beam to pixel (0, 0).
        shape: (ky, kx) of the detector as it is computed.
        totals: (n,) counts of each pattern in the counting pixels.
        mean: (ky, kx) mean pattern, corner-centred; each bin's mean where bins came first.
    """

    backend: Backend
    data: DiffractionData
    roll: tuple[int, int]
    shape: tuple[int, int]
    totals: NDArray[np.float64]
    mean: NDArray[np.float64]
    _pixels: Any = None
    _bins: Any = None

    @classmethod
    def load(
        cls, backend: Backend, data: DiffractionData, roll: tuple[int, int], shape: tuple[int, int], *, bins_first: bool
    ) -> LoadedCounts:
        """Read the patterns of `data`: only their 2 × 2 bins, which are at hand sooner, where `bins_first`."""
        loaded = cls(backend, data, roll, shape, np.zeros(0), np.zeros((0, 0)))
        if bins_first:
            loaded._bins = loaded._read(data.patterns, binned=True)
            totals, sums = backend.sum_counts(loaded._bins, binning.half_shape(shape))
            sums = binning.enlarge(backend.to_host(sums)) / 4
        else:
            loaded._pixels = loaded._read(data.patterns)
            totals, sums = backend.sum_counts(loaded._pixels, shape)
        loaded.totals = backend.to_host(totals)
        loaded.mean = backend.to_host(sums) / len(loaded.totals)
        return loaded

    def pixels(self) -> Any:
        """Counts (n, …) as `Backend.load` lays them out.

        Raises:
            BadInputError: the patterns changed since the bins were made (noticed on the CPU only: a device would be waited for).
        """
        if self._pixels is None:
            pixels = self._read(self.data.patterns)
            if self.backend.xp is np and not np.allclose(self._totals(pixels), self.totals, rtol=1e-5):
                msg = "the patterns were changed while their reconstruction was under way; give it a copy of them"
                raise BadInputError(msg)
            self._pixels = pixels
        return self._pixels

    def bins(self) -> Any:
        """Counts of 2 × 2 pixels each, as `Backend.load` lays them out for half the detector."""
        return self.backend.bin_counts(self.pixels(), self.shape) if self._bins is None else self._bins

    def forget_bins(self) -> None:
        """Free the bins' memory; they serve the first passes only."""
        self._bins = None

    def of(self, patterns: NDArray[Any]) -> Any:
        """Other patterns of the same detector, in the same layout.

        Args:
            patterns: (m, ky, kx) counts.
        """
        return self._read(patterns)

    def joined(self, patterns: NDArray[Any], data: DiffractionData) -> LoadedCounts:
        """These counts and those of further patterns.

        Args:
            patterns: (m, ky, kx) counts that arrived later.
            data: has both.
        """
        more = self._read(patterns)
        totals = np.concatenate([self.totals, self._totals(more)])
        pixels = joined(self.pixels(), more, self.backend.xp)
        return replace(self, data=data, totals=totals, _pixels=pixels, _bins=None)

    def replaced(self, pixels: Any, totals: NDArray[np.float64]) -> LoadedCounts:
        """Other counts of the same detector.

        Args:
            pixels: counts (n, …), laid out already.
            totals: (n,) counts of each pattern.
        """
        return replace(self, totals=totals, _pixels=pixels, _bins=None)

    @contextmanager
    def holding_out(self, fraction: float, seed: int) -> Iterator[Any]:
        """Take a binomial `fraction` of the counts out, in place, and put it back at the end; yields what is held out."""
        pixels = self.pixels()
        held = self.backend.thin_counts(pixels, fraction, seed)
        pixels -= held
        self._bins = None
        try:
            yield held
        finally:
            pixels += held
            self._bins = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of where the counts are kept."""
        return kept_on_disk(self._pixels)

    def _totals(self, pixels: Any) -> NDArray[np.float64]:
        return self.backend.to_host(self.backend.sum_counts(pixels, self.shape)[0])

    def _read(self, patterns: Any, *, binned: bool = False) -> Any:
        parts, roll, shape = chunks(patterns, self.data.mask), self.roll, self.shape
        if binned:
            parts, roll, shape = map(in_bins, parts), (roll[0] // 2, roll[1] // 2), binning.half_shape(shape)
        return self.backend.load(parts, len(patterns), roll, shape)
