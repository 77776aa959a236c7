# SPDX-License-Identifier: GPL-3.0-or-later
"""Knock-on damage: sulphur leaves the specimen as dose accumulates, also over restarts of the process.

An atom has survived a dose D with probability exp(−σD). The dose that each atom will survive is drawn in advance, so the
state of the specimen is a function of the dose map alone.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from instrument import AcquisitionPlan, ConflictError, optics
from sim_instrument.column import Column
from sim_instrument.specimen import SULPHUR, Specimen, SpecimenOptions

log = logging.getLogger(__name__)

BARN = 1e-8
"""Å²."""
_PIXEL = 1.0
_JOURNAL = "exposures.jsonl"
_SPECIMEN = "specimen.json"


class DamageState:
    """The dose that each place of the specimen has received, and what that did to it.

    Args:
        specimen: the pristine flake.
        column: cross-section, aperture and defocus calibration.
        state_dir: holds the exposures of earlier processes; None: nothing is kept.

    Raises:
        ConflictError: the directory belongs to another flake.
    """

    def __init__(self, specimen: Specimen, column: Column, state_dir: Path | None = None) -> None:
        size = math.ceil(specimen.options.size / _PIXEL)
        self._specimen, self._column = specimen, column
        self._dose = np.zeros((size, size))
        self._journal: Path | None = None
        rng = np.random.default_rng([specimen.options.seed, 4])
        survives = rng.exponential(size=len(specimen.numbers))
        survives[specimen.numbers != SULPHUR] = np.inf
        with np.errstate(divide="ignore"):
            self._survived_dose = survives / np.float64(column.knock_on * BARN)
        if state_dir is not None:
            self._journal = self._claim(state_dir)
            self._replay(self._journal)

    @property
    def dose(self) -> NDArray[np.float64]:
        """(y, x) accumulated e/Å² on pixels of 1 Å."""
        return self._dose.copy()

    def present(self, dose: NDArray[np.float64] | None = None) -> NDArray[np.bool_]:
        """Which atoms are still there.

        Args:
            dose: (y, x) map, e/Å² on pixels of 1 Å; None: what has been received so far.

        Returns:
            (n,) True for the atoms of the specimen that are present.
        """
        if not self._column.knock_on:
            return np.ones(len(self._survived_dose), dtype=bool)
        dose = self._dose if dose is None else dose
        index = np.clip((self._specimen.positions[:, :2] / _PIXEL).astype(int), 0, len(dose) - 1)
        present: NDArray[np.bool_] = dose[index[:, 0], index[:, 1]] < self._survived_dose
        return present

    def dose_of(self, plan: AcquisitionPlan, first: int, stop: int) -> NDArray[np.float64]:
        """The dose that a part of a scan deposits, spread over the geometric probe.

        Args:
            plan: the scan.
            first: first position.
            stop: one past the last position.

        Returns:
            (y, x) e/Å² on pixels of 1 Å.
        """
        hits = np.zeros_like(self._dose)
        index = np.floor(plan.scan_positions()[first:stop] / _PIXEL).astype(int)
        inside = np.all((index >= 0) & (index < len(hits)), axis=1)
        np.add.at(hits, tuple(index[inside].T), plan.electrons_per_pattern / _PIXEL**2)
        column = self._column.through(plan.semiangle)
        diameter = optics.probe_diameter(column.semiangle, column.true_defocus(plan.defocus), column.voltage)
        reach = math.ceil(diameter / 2 / _PIXEL)
        radius = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) * _PIXEL
        disc = np.clip((diameter / 2 - radius) / _PIXEL + 0.5, 0, 1)
        rows, columns = (np.flatnonzero(hits.any(axis=a)) for a in (1, 0))
        if not len(rows):
            return hits
        box = tuple(slice(max(i[0] - reach, 0), min(i[-1] + reach + 1, len(hits))) for i in (rows, columns))
        out = np.zeros_like(hits)
        out[box] = _convolve(hits[box], disc / disc.sum())
        return out

    def expose(self, plan: AcquisitionPlan, first: int, stop: int) -> None:
        """Book positions as exposed. They are on disk before this returns, so call it before the beam goes on.

        Args:
            plan: the scan.
            first: first position.
            stop: one past the last position.
        """
        self._dose += self.dose_of(plan, first, stop)
        if self._journal is not None:
            with self._journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"plan": plan.model_dump(), "first": first, "stop": stop}) + "\n")

    def _claim(self, state_dir: Path) -> Path:
        """Make sure that the directory is about this flake; returns the path of the journal."""
        state_dir.mkdir(parents=True, exist_ok=True)
        options, owner = self._specimen.options.model_dump(mode="json"), state_dir / _SPECIMEN
        if not owner.exists():
            owner.write_text(json.dumps(options), encoding="utf-8")
        elif _options_in(owner) != self._specimen.options:
            msg = (
                f"{state_dir} holds the exposures of another specimen ({owner.read_text(encoding='utf-8')}); choose another "
                "state directory, or the same specimen"
            )
            raise ConflictError(msg)
        return state_dir / _JOURNAL

    def _replay(self, journal: Path) -> None:
        text = journal.read_text(encoding="utf-8") if journal.exists() else ""
        for number, line in enumerate(text.splitlines(), 1):
            try:
                entry = json.loads(line)
                plan = AcquisitionPlan.model_validate(entry["plan"])
                self._dose += self.dose_of(plan, entry["first"], entry["stop"])
            except (ValueError, KeyError, TypeError):
                # A line cut short by a crash was being written before its electrons: nothing was exposed.
                log.warning("%s: line %d is not an exposure and is left out", journal, number)
        if text and not text.endswith("\n"):
            with journal.open("a", encoding="utf-8") as file:
                file.write("\n")


def _options_in(owner: Path) -> SpecimenOptions | None:
    """The flake that a directory is about; fields that its file does not know have their defaults. None: another one."""
    try:
        return SpecimenOptions.model_validate_json(owner.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _convolve(image: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of the convolution that lies on `image`, zero where rounding would make it negative."""
    full = tuple(a + b - 1 for a, b in zip(image.shape, kernel.shape, strict=True))
    product = fft.irfft2(fft.rfft2(image, full) * fft.rfft2(kernel, full), full)
    y, x = (n // 2 for n in kernel.shape)
    part: NDArray[np.float64] = np.maximum(product[y : y + image.shape[0], x : x + image.shape[1]], 0.0)
    return part
