# SPDX-License-Identifier: GPL-3.0-or-later
"""Nion Swift's control stack as a `Microscope`, and its headless simulator to try it on.

Nion Swift is GPL-3.0: this module runs in an environment of its own, as a process that has `instrument`'s server in it, and is
imported by none of our packages. `python adapter_nion.py STATE_DIR` serves the simulator, with patterns of a known phase;
`python adapter_nion.py` finds the lag of its frames, and compares what comes without it with that phase.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nion.data import DataAndMetadata
from nion.instrumentation import Acquisition, HardwareSource, camera_base, scan_base
from nion.usim_device import DeviceConfiguration
from nion.utils import Geometry, Registry

from instrument import AcquisitionPlan, BlankedError, Description, Detector, Frame, Health, PlanCheck, Rectangle
from instrument.beam import Hold
from instrument.models import ELEMENTARY_CHARGE, Parameter
from instrument.optics import probe_diameter, wavelength
from instrument.serve import serve

FLYBACK = 2
"""Positions at the beginning of a line, which the camera sees and Nion Swift throws away."""
SHORTEST, LONGEST = 4e-3, 1.0
AREA = 120.0
PIXELS = 64


class Channel(Acquisition.DataAndMetadataDataChannel):
    """Hands on what has come of a camera's frames while the scan goes on."""

    def __init__(self, camera: str, begin: Any, take: Any) -> None:
        super().__init__()
        self._camera, self._begin, self._take = camera, begin, take

    def prepare(self, *arguments: Any, **named: Any) -> None:
        super().prepare(*arguments, **named)
        self._begin()

    def update_data(self, channel: Any, source_data: Any, source_slice: Any, dest_slice: slice, metadata: Any) -> None:
        super().update_data(channel, source_data, source_slice, dest_slice, metadata)
        if str(channel).startswith(self._camera):
            shape = source_data.shape[-2:]
            frames = np.clip(np.rint(source_data[source_slice]), 0, 65535).astype(np.uint16).reshape(-1, *shape)
            self._take(int(dest_slice.start) // int(np.prod(shape)), frames)


class NionMicroscope:
    """A Nion column, its scan engine and its camera.

    Args:
        angular_pixel: of the camera, mrad; its own calibration is the instrument's guess.
        lag: by how many positions a frame is ahead of its place in a line. `find_lag` finds it.
    """

    def __init__(self, angular_pixel: float, lag: int) -> None:
        self._stem = Registry.get_component("stem_controller")
        self._scan, self._camera = self._stem.scan_controller, self._stem.ronchigram_camera
        self._angular_pixel, self.lag = angular_pixel, lag
        self.physics: Phase | None = None
        self._blanked = threading.Event()
        self._hold = Hold(self.blank, lambda: None)
        self.partial, self._scanning = 0, False
        self.blank()

    @property
    def _rate(self) -> float:
        return float(self._stem.GetVal("BeamCurrent")) / ELEMENTARY_CHARGE

    async def describe(self) -> Description:
        camera = self._camera.get_frame_parameters(0)
        camera.binning = 1
        rows, columns = self._camera.get_expected_dimensions(camera)
        low, high = self._rate * SHORTEST, self._rate * LONGEST
        return Description(
            name="Nion Swift",
            voltage=float(self._stem.GetVal("EHT")),
            semiangle=1e3 * float(self._stem.GetVal("ConvergenceAngle")),
            beam_current=1e12 * float(self._stem.GetVal("BeamCurrent")),
            detector=Detector(
                shape=(rows, columns), angular_pixel=self._angular_pixel, dtype="uint16", saturation=65535
            ),
            step=Parameter(kind="continuous", unit="Å", minimum=0.2, maximum=10),
            defocus=Parameter(kind="continuous", unit="Å", minimum=-1000, maximum=1000),
            dose=Parameter(kind="continuous", unit="e/Å²", minimum=low / 100, maximum=high / 0.04),
            electrons_per_pattern=(low, high),
            area=Rectangle(y=0, x=0, height=AREA, width=AREA),
            line_overhead=(FLYBACK + self.lag) * LONGEST,
            settle_time=0.05,
            scan_rotation=0.0,
            mirrored=False,
            latency=60.0,  # Nion Swift hands frames on about once a second, and the simulator may be slow
            tolerances={"defocus": 0.5},
        )

    async def check(self, plan: AcquisitionPlan) -> PlanCheck:
        rows, columns = plan.shape
        dwell = plan.electrons_per_pattern / self._rate
        lit = rows * (columns + self.lag + FLYBACK) * dwell
        told = await self.describe()
        return PlanCheck(
            n_positions=plan.n_positions,
            shape=plan.shape,
            dwell_time=dwell,
            electrons=lit * self._rate,
            duration=lit,
            bytes=plan.n_positions * told.detector.shape[0] * told.detector.shape[1] * 2,
            illuminated=plan.field.grown(
                plan.step * (1 + self.lag) + probe_diameter(told.semiangle, plan.defocus, told.voltage) / 2
            ),
        )

    async def set(self, settings: Mapping[str, float]) -> None:
        if not await asyncio.to_thread(self._stem.SetValAndConfirm, "C10", -1e-10 * settings["defocus"], 1.0, 3000):
            raise RuntimeError("Nion Swift does not confirm C10")

    async def read_back(self) -> Mapping[str, float]:
        return {"defocus": -1e10 * float(await asyncio.to_thread(self._stem.GetVal, "C10"))}

    async def acquire(self, plan: AcquisitionPlan) -> AsyncGenerator[Frame]:
        self._blanked.clear()
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[int, np.ndarray] | None] = asyncio.Queue()
        columns = plan.shape[1] + self.lag

        def take(first: int, frames: np.ndarray) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, (first, frames))

        scan = asyncio.ensure_future(asyncio.to_thread(self._grab, plan, take))
        scan.add_done_callback(lambda _: arrived.put_nowait(None))
        count, self.partial = 0, 0
        try:
            while (found := await arrived.get()) is not None:
                self.partial += 1
                for number, pattern in enumerate(found[1], found[0]):
                    row, column = divmod(number, columns)
                    if column >= plan.shape[1]:
                        continue  # the last columns of a line repeat the last position
                    if self._blanked.is_set():
                        raise BlankedError(f"blanked after {count} of {plan.n_positions} patterns")
                    count += 1
                    with self._hold:
                        yield Frame(row * plan.shape[1] + column, pattern)
            await scan
            if self._blanked.is_set() and count < plan.n_positions:
                raise BlankedError(f"blanked after {count} of {plan.n_positions} patterns")
        finally:
            self.blank()
            await asyncio.wait({scan})

    def _grab(self, plan: AcquisitionPlan, take: Any) -> None:
        """Scan in Nion Swift, whose line begins `lag` positions before the field; blocks until it is over."""
        scan, camera = self._scan.get_frame_parameters(0), self._camera.get_frame_parameters(0)
        rows, columns = plan.shape[0], plan.shape[1] + self.lag
        dwell = plan.electrons_per_pattern / self._rate
        scan.pixel_size = Geometry.IntSize(rows, columns)
        scan.fov_nm = max(rows, columns) * plan.step / 10
        y, x = plan.scan_positions()[0] - np.array([0.0, self.lag * plan.step])
        centre = y + rows * plan.step / 2, x + columns * plan.step / 2  # Nion's position 0 is the edge of the field
        scan.center_nm = Geometry.FloatPoint(*((each - AREA / 2) / 10 for each in centre))
        scan.pixel_time_us = 1e6 * dwell
        camera.exposure_ms, camera.binning, camera.processing = 1e3 * dwell, 1, None
        self._scan.set_current_frame_parameters(scan)  # or the field of view stays what it was
        self._camera.set_current_frame_parameters(camera)
        self._scan.grab_synchronized(
            scan_frame_parameters=scan,
            camera=self._camera,
            camera_frame_parameters=camera,
            data_channel=Channel(self._camera.hardware_source_id, self._unblank, take),
        )
        self._stem.SetVal("C_Blank", 1.0)

    def _unblank(self) -> None:
        self._scanning = True
        if not self._blanked.is_set():
            self._stem.SetVal("C_Blank", 0.0)
        if self._blanked.is_set():
            self._stem.SetVal("C_Blank", 1.0)

    def blank(self) -> None:
        self._blanked.set()
        self._stem.SetVal("C_Blank", 1.0)
        if self._scanning:  # Nion Swift cannot abort before its first scan
            self._scan.grab_synchronized_abort()

    async def health(self) -> Health:
        return Health(blanked=bool(self._stem.GetVal("C_Blank")))


def find_lag(patterns: np.ndarray) -> int:
    """How many positions at the end of every line repeat the one before: by so many the frames are ahead of their places.

    Args:
        patterns: (scan_y, scan_x, detector_y, detector_x) counts of a specimen that has some contrast.
    """
    before, after = patterns[:, :-1].astype(float), patterns[:, 1:].astype(float)
    seen = before + after > 10
    change = np.where(seen, (before - after) ** 2 / np.maximum(before + after, 1), 0)
    values = np.maximum(seen.sum(axis=(2, 3)), 1)
    # 0 ± noise where only the noise differs. The median of the lines: the very last frame may be dark, the scan being over.
    excess = np.median(change.sum(axis=(2, 3)) / values - 1, axis=0)
    noise = 1.25 * np.sqrt(2 / values.sum(axis=0))
    lag = 0
    while lag < len(excess) and excess[-1 - lag] < 3 * noise[-1 - lag]:
        lag += 1
    return lag


class Phase:
    """What the simulator's camera sees: a probe with the column's C10 on a phase of atoms, with counting noise."""

    def __init__(self, stem: Any, scan: Any, angular_pixel: float) -> None:
        self._stem, self._scan = stem, scan
        self._wavelength = wavelength(float(stem.GetVal("EHT")))
        self.pixel = self._wavelength / (PIXELS * angular_pixel * 1e-3)
        self.rng = np.random.default_rng(7)
        size = int(AREA / self.pixel) + 2 * PIXELS
        y, x = (np.arange(size) - PIXELS) * self.pixel, (np.arange(size) - PIXELS) * self.pixel
        phase = np.zeros((size, size))
        for centre in self.rng.uniform(-5, AREA + 5, (900, 2)):
            phase += 0.6 * np.exp(-((y[:, None] - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * 0.6**2))
        self._object = np.exp(1j * phase)
        k = np.fft.fftfreq(PIXELS, self.pixel)
        self._k = np.meshgrid(k, k, indexing="ij")
        self._aperture = np.hypot(*self._k) * self._wavelength <= float(stem.GetVal("ConvergenceAngle"))

    def intensity(self, y: float, x: float, defocus: float) -> np.ndarray:
        """Expected pattern, of sum 1, at a position of the specimen frame, Å."""
        corner = np.array([y, x]) / self.pixel + PIXELS / 2
        whole = np.floor(corner).astype(int)
        ky, kx = self._k
        rest = (corner - whole) * self.pixel
        aberration = -np.pi * self._wavelength * defocus * (ky**2 + kx**2)
        middle = PIXELS // 2 * self.pixel
        shift = 2 * np.pi * (ky * (rest[0] + middle) + kx * (rest[1] + middle))
        probe = np.fft.ifft2(self._aperture * np.exp(-1j * (aberration + shift)))
        patch = self._object[whole[0] : whole[0] + PIXELS, whole[1] : whole[1] + PIXELS]
        pattern = np.abs(np.fft.fftshift(np.fft.fft2(probe * patch))) ** 2
        return pattern / pattern.sum()

    def get_frame_data(self, area: Any, binning: Any, exposure: float, context: Any, parked: Any) -> Any:
        """As Nion's camera simulators have it."""
        electrons = float(self._stem.GetVal("BeamCurrent")) / ELEMENTARY_CHARGE * exposure
        if self._stem.GetVal("C_Blank") or self._stem.probe_state != "scanning":
            counts = np.zeros((PIXELS, PIXELS))
        else:
            told = self._scan.get_current_frame_parameters()
            at = np.array(self._scan.scan_device.current_probe_position)
            centre, fov = np.array(told.center_nm), np.array(told.fov_size_nm)
            y, x = AREA / 2 + 10 * (centre + (at - centre / told.fov_nm - 0.5) * fov)
            defocus = -1e10 * float(self._stem.GetVal("C10"))
            counts = self.rng.poisson(electrons * self.intensity(y, x, defocus))
        return DataAndMetadata.new_data_and_metadata(counts.astype(np.float32))


def simulated(angular_pixel: float = 1.75, lag: int = 1) -> NionMicroscope:
    """Nion's simulator without a window, with `Phase` behind its camera.

    Args:
        angular_pixel: of the camera, mrad.
        lag: as it was found.
    """
    folder = Path(tempfile.mkdtemp(prefix="nion-"))
    HardwareSource.run()
    camera_base.run(folder)
    scan_base.run(folder)
    configuration = DeviceConfiguration.AcquisitionContextConfiguration(set_configuration_location=False)
    camera = configuration._ronchigram_camera_device
    camera.readout_area = (0, 0, PIXELS, PIXELS)
    configuration.run()
    stem = Registry.get_component("stem_controller")
    stem.SetVal("BeamCurrent", 0.5e-12)
    physics = Phase(stem, stem.scan_controller, angular_pixel)
    camera.simulator.get_frame_data = physics.get_frame_data
    camera.simulator._min_exposure = SHORTEST
    microscope = NionMicroscope(angular_pixel, lag)
    microscope.physics = physics
    return microscope


async def compare(microscope: NionMicroscope) -> dict[str, float]:
    """Scan without knowing of a lag, find it, scan again: what was found, and which part of the frames is where it belongs."""
    assert microscope.physics is not None
    told = await microscope.describe()
    await microscope.set({"defocus": 50.0})
    found: dict[str, float] = {"defocus": (await microscope.read_back())["defocus"]}
    microscope.lag = 0
    for when in ("before", "after"):
        plan = AcquisitionPlan(
            id=when,
            campaign="c",
            region="r",
            field=Rectangle(y=40, x=20, height=8, width=14),
            step=1.0,
            defocus=50.0,
            dose=8 * told.electrons_per_pattern[0],
        )
        frames = {frame.index: frame.pattern async for frame in microscope.acquire(plan)}
        patterns = np.stack([frames[index] for index in range(plan.n_positions)])
        truth = np.stack([microscope.physics.intensity(y, x, 50.0) for y, x in plan.scan_positions()])
        one, other = (
            each.reshape(len(each), -1) - each.reshape(len(each), -1).mean(axis=0) for each in (patterns, truth)
        )
        nearest = (one @ other.T / np.linalg.norm(other, axis=1)).argmax(axis=1)
        lag = find_lag(patterns.reshape(*plan.shape, *patterns.shape[1:]))
        found |= {f"lag {when}": lag, f"right {when}": float((nearest == np.arange(len(nearest))).mean())}
        found |= {f"portions {when}": microscope.partial, f"electrons {when}": float(patterns.mean(axis=0).sum())}
        microscope.lag += lag
    return found | {"asked": plan.electrons_per_pattern}


def main() -> None:
    """Compare, or serve until a signal comes. Nion Swift's threads would keep the process, so it ends itself."""
    code = 1
    try:
        microscope = simulated()
        if len(sys.argv) == 1:
            print(json.dumps(asyncio.run(compare(microscope))))
            code = 0
        else:
            code = serve(microscope, Path(sys.argv[1]))
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
