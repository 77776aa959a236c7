# SPDX-License-Identifier: GPL-3.0-or-later
"""One acquisition, from the plan to counts, without clock or network."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrument import optics
from instrument.models import AcquisitionPlan
from sim_instrument.column import Column
from sim_instrument.damage import DamageState
from sim_instrument.data_faults import FrameFaults
from sim_instrument.detector import PixelDetector
from sim_instrument.multislice import Multislice, Scene, build_scene
from sim_instrument.specimen import Specimen, build_specimen

THREADS = 2
BLOCK = 32
"""Positions computed in one piece."""
_DAMAGE_STEPS = 16
"""An acquisition sees its own damage in at most this many steps."""


@dataclass(frozen=True)
class Timing:
    """When the scan engine does what, on the instrument's clock; 0 is the start of the first dwell.

    A second pass begins after the flyback of the first one's last line. What is scanned without flyback waits for line triggers
    all the same, at the beginning of each row of a serpentine.

    Attributes:
        dwell: s per position in which electrons are counted.
        pitch: s per position, with the detector's dead time.
        line: s per scan line, with flyback and the wait for a line trigger.
        per_line: positions of such a line.
        flyback_blanked: whether the beam is off between the last position of a line and the first of the next.
    """

    dwell: float
    pitch: float
    line: float
    per_line: int
    flyback_blanked: bool

    @classmethod
    def of(cls, plan: AcquisitionPlan, column: Column) -> Timing:
        """The timing of a plan: dwell time dose · step² · e / I, shared by the passes.

        Args:
            plan: the scan.
            column: current, dead time, flyback and line trigger.
        """
        dwell = plan.electrons_per_pattern / column.electrons_per_second
        pitch = dwell + column.readout
        per_line, flyback = plan.line_length, column.flyback
        if column.line_trigger and plan.scan_pattern == "serpentine":
            per_line, flyback = plan.shape[1], 0.0
        line = per_line * pitch + flyback
        if column.line_trigger:
            line = math.ceil(line * column.line_trigger - 1e-9) / column.line_trigger
        return cls(dwell, pitch, line, per_line, column.flyback_blanked)

    def start(self, plan: AcquisitionPlan, index: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """Begin of the dwell.

        Args:
            plan: the scan.
            index: positions in scan order.

        Returns:
            s, shape of `index`.
        """
        row, column = np.divmod(np.asarray(index), self.per_line)
        return row * self.line + column * self.pitch

    def lit(self, plan: AcquisitionPlan, index: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """How long the beam has been on before a dwell begins.

        Args:
            plan: the scan.
            index: positions in scan order; the number of positions: at the end of the scan.

        Returns:
            s, shape of `index`.
        """
        return np.asarray(index) * self.pitch if self.flyback_blanked else self.start(plan, index)

    def duration(self, plan: AcquisitionPlan) -> float:
        """How long the scan takes, with flyback, s.

        Args:
            plan: the scan.
        """
        return plan.n_positions // self.per_line * self.line


@dataclass(frozen=True)
class Block:
    """Positions first … stop − 1 and the scene they see."""

    first: int
    stop: int
    stage: int


class Exposure:
    """Everything an acquisition needs, computed once; `counts` may then be called from several threads.

    Making one draws the positions and computes the potentials that the probe will see (seconds of work).

    Args:
        plan: what to acquire; the limits have been checked.
        specimen: pristine.
        column: with its faults.
        seed: of the instrument; the same seed and acquisition id give the same counts.
        damage: what earlier acquisitions did to the specimen; None: nothing.

    Attributes:
        positions: (n, 2), (y, x), Å: where the probe really is, specimen frame.
        blocks: pieces of the scan, in order.
    """

    def __init__(
        self,
        plan: AcquisitionPlan,
        specimen: Specimen,
        column: Column,
        seed: int = 0,
        damage: DamageState | None = None,
    ) -> None:
        column = column.through(plan.semiangle)
        self.plan, self.column = plan, column
        self.timing = Timing.of(plan, column)
        self.detector = PixelDetector(column, seed)
        digest = hashlib.sha256(plan.id.encode()).digest()
        self._entropy = [seed, int.from_bytes(digest[:8], "big")]
        self.positions = self._true_positions()
        faulty = np.random.default_rng([*self._entropy, 6])
        self._faults = FrameFaults.draw(column, plan.scan_positions(), plan.shape[1], faulty)
        self.blocks, self._scenes = self._stages(specimen, damage)
        self._local = self.positions @ optics.detector_to_scan(column.rotation, column.mirrored)
        self._idle: dict[int, list[Multislice]] = {stage: [] for stage in range(len(self._scenes))}
        self._lock = threading.Lock()

    def _true_positions(self) -> NDArray[np.float64]:
        """Set-points plus jitter plus drift since the start of the scan."""
        rng = np.random.default_rng([*self._entropy, 0])
        points = self.plan.scan_positions()
        time = self.timing.start(self.plan, np.arange(len(points))) + 0.5 * self.timing.dwell
        jitter = self.column.jitter * rng.standard_normal(points.shape)
        return points + jitter + time[:, None] * self.column.drift_velocity()

    def _stages(self, specimen: Specimen, damage: DamageState | None) -> tuple[list[Block], list[Scene]]:
        """Cut the scan into blocks, with a new scene wherever atoms have left by then."""
        n = len(self.positions)
        blocks: list[Block] = []
        scenes: list[Scene] = []
        defocus = self.column.true_defocus(self.plan.defocus)
        present = None if damage is None else damage.present()
        dose = None if damage is None else damage.dose
        length = -(-n // _DAMAGE_STEPS)
        current = present
        for begin in range(0, n, length):
            end = min(begin + length, n)
            if not scenes or (present is not None and current is not None and not np.array_equal(present, current)):
                scenes.append(build_scene(specimen, self.column, defocus, self.positions, present))
                current = present
            blocks += [Block(i, min(i + BLOCK, end), len(scenes) - 1) for i in range(begin, end, BLOCK)]
            if damage is not None and dose is not None and self.column.knock_on:
                dose = dose + damage.dose_of(self.plan, begin, end)
                present = damage.present(dose)
        return blocks, scenes

    def intensities(self, block: Block, stop: Callable[[], bool] = lambda: False) -> NDArray[np.float32]:
        """Noise-free patterns of a block, without faults of frames other than descan.

        Args:
            block: of `blocks`.
            stop: asked before each pattern; True ends early, with fewer.

        Returns:
            (n, ky, kx) intensity per electron.
        """
        out = list(self._patterns(block.stage, np.arange(block.first, block.stop), stop))
        return np.array(out, dtype=np.float32).reshape(-1, *[self.column.detector_pixels] * 2)

    def counts(self, block: Block, stop: Callable[[], bool] = lambda: False) -> NDArray[np.uint16]:
        """Frames of a block as they get into the file.

        Args:
            block: of `blocks`.
            stop: asked before each pattern; True ends early, with fewer.

        Returns:
            (n, ky, kx) counts.
        """
        rng = np.random.default_rng([*self._entropy, 1, block.first])
        electrons, dwell, faults = self.plan.electrons_per_pattern, self.timing.dwell, self._faults
        patterns = self._patterns(block.stage, faults.source[block.first : block.stop], stop)
        frames = np.zeros((block.stop - block.first, *[self.column.detector_pixels] * 2), dtype=np.uint16)
        done = 0
        for index, intensity in enumerate(patterns, block.first):
            expected = self.detector.expected(intensity, electrons * float(faults.current[index]), dwell)
            counts = self.detector.count(expected, rng)
            if faults.written[index]:
                frames[done] = counts
            done += 1
        return frames[:done]

    def _patterns(
        self, stage: int, positions: NDArray[np.int64], stop: Callable[[], bool]
    ) -> Iterator[NDArray[np.float32]]:
        """Intensities at positions in scan order, until `stop`."""
        engine = self._borrow(stage)
        try:
            for index in positions:
                if stop():
                    break
                yield engine.pattern(self._local[index], self._faults.shift[index])
        finally:
            with self._lock:
                self._idle[stage].append(engine)

    def _borrow(self, stage: int) -> Multislice:
        with self._lock:
            # FFTW plans are made one at a time.
            return self._idle[stage].pop() if self._idle[stage] else Multislice(self._scenes[stage])


def simulate(
    plan: AcquisitionPlan,
    specimen: Specimen | None = None,
    column: Column | None = None,
    *,
    seed: int = 0,
    damage: DamageState | None = None,
) -> NDArray[np.uint16]:
    """The counts of one acquisition, for tests and benchmarks. Nothing is checked against limits.

    Args:
        plan: the scan.
        specimen: None: the default one.
        column: None: the default one.
        seed: of the instrument.
        damage: dose received before; read, not changed. None: nothing.

    Returns:
        (scan_y, scan_x, detector_y, detector_x) counts; those of a second pass follow as further rows.
    """
    exposure = Exposure(plan, specimen or build_specimen(), column or Column(), seed, damage)
    return _run(exposure, exposure.counts, np.uint16)


def expected_intensities(
    plan: AcquisitionPlan, specimen: Specimen | None = None, column: Column | None = None, *, seed: int = 0
) -> NDArray[np.float32]:
    """The intensities of one acquisition, before the detector's own faults.

    Args:
        plan: the scan.
        specimen: None: the default one.
        column: None: the default one.
        seed: of the instrument.

    Returns:
        (scan_y, scan_x, detector_y, detector_x), per electron; those of a second pass follow as further rows.
    """
    exposure = Exposure(plan, specimen or build_specimen(), column or Column(), seed)
    return _run(exposure, exposure.intensities, np.float32)


def _run(exposure: Exposure, compute: Callable[[Block], NDArray[Any]], dtype: type) -> NDArray[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        results: Iterator[NDArray[Any]] = pool.map(compute, exposure.blocks)
        pixels = exposure.column.detector_pixels
        frames: NDArray[Any] = np.concatenate(list(results)).astype(dtype, copy=False)
        return frames.reshape(-1, exposure.plan.shape[1], pixels, pixels)
