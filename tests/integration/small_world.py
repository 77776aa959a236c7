"""A small specimen under a small microscope, and a small reconstruction of it: real counts, real files, in milliseconds.

The microscope deflects a disc by the gradient of a known phase (differential phase contrast); the processing measures the
deflection from two random halves of the counts and scores their correlation. Files in the folder that SMALL_WORLD
names switch on faults: `die-N`, `raise-N`, `hang-N`, `veto-N`, `wait-N` (N: number of the acquisition), `leak` (no vacuum);
`measure` has the processing tell optics.
Every exposure is written into `exposures.jsonl` there, by the microscope itself; every job into `jobs.jsonl`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from examples import between, check, description, detector, one_of
from fail_points import arm_from_environment

from instrument import (
    AcquisitionPlan,
    BlankedError,
    Condition,
    Description,
    Frame,
    Health,
    PlanCheck,
)
from instrument.models import ELEMENTARY_CHARGE

if TYPE_CHECKING:  # the microscope's process does without them
    from agent.processing.process import ProcessingJob, ProcessingResult, Progress
    from agent.records import Optics

SHAPE = (16, 16)
MARGIN = 12.0
HELD_AT, SLOW = 40, 0.25
"""Frame from which on an acquisition goes slowly, and s that each takes then, where `wait-N` is there."""


def world() -> Path:
    """Where the faults and the list of exposures are."""
    return Path(os.environ["SMALL_WORLD"])


def deflection(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Relative asymmetry of the disc at specimen position (y, x), Å."""
    return 0.4 * np.sin(2 * np.pi * y / 7) * np.cos(2 * np.pi * x / 5)


class SmallMicroscope:
    """80 kV, 21.4 mrad, a specimen of 400 × 400 Å; `frame_interval` s per pattern."""

    def __init__(self, *, frame_interval: float = 0.0, repeatable: bool = False) -> None:
        self.frame_interval = frame_interval
        self.repeatable = repeatable
        self._blanked = threading.Event()
        self._beam_time = 0.0

    async def describe(self) -> Description:
        recording: dict[str, Any] = {
            "defocus": one_of(150.0),
            "step": one_of(1.0, 2.0, 3.0),
            "dose": between(10.0, 2000.0, "e/Å²"),
            "repeatable": True,
            "consumable": True,
        }
        values: dict[str, Any] = {
            "name": "small microscope",
            "detector": detector(SHAPE[0], 3.5),
            "step": between(0.5, 4.0),
            "defocus": between(-200.0, 200.0),
            "dose": between(10.0, 1e5, "e/Å²"),
            "electrons_per_pattern": (10.0, 5e4),
            "scan_patterns": ("raster", "spiral"),
        }
        return description(**(values | (recording if self.repeatable else {})))

    async def check(self, plan: AcquisitionPlan) -> PlanCheck:
        return check(
            plan,
            overhead=5.0 * plan.shape[0],
            margin=0.0214 * abs(plan.defocus) / 2 + 1,
            duration=plan.n_positions * max(self.frame_interval, 1e-3),
            bytes=plan.n_positions * 512,
        )

    async def acquire(self, plan: AcquisitionPlan) -> AsyncIterator[Frame]:
        with (world() / "exposures.jsonl").open("a") as lines:
            lines.write(json.dumps({"id": plan.id, "field": plan.field.model_dump()}) + "\n")
        self._blanked.clear()
        light = world() / "light" / plan.id  # a byte for every pattern, where somebody has made the folder
        counter = os.open(light, os.O_APPEND | os.O_CREAT | os.O_WRONLY) if light.parent.exists() else None
        rng = np.random.default_rng(zlib.crc32(plan.model_dump_json(include={"field", "step", "dose"}).encode()))
        rows, columns = np.indices(SHAPE) - 8
        disc = (np.hypot(rows, columns) < 6.5) / 6.5
        for index, (y, x) in enumerate(plan.scan_positions()):
            self._beam_time += plan.electrons_per_pattern * ELEMENTARY_CHARGE / 10e-12
            if self.frame_interval:
                await asyncio.sleep(self.frame_interval)
            if index >= HELD_AT and (world() / f"wait-{plan.id[-3:].lstrip('0')}").exists():
                await asyncio.sleep(SLOW)
            if self._blanked.is_set():
                raise BlankedError("blanked")
            intensity = disc * (1 + deflection(y, x) * columns / 6.5)
            if counter is not None:
                os.write(counter, b".")
            pattern = rng.poisson(plan.electrons_per_pattern * intensity / disc.sum()).astype(np.uint16)
            yield Frame(index, pattern)

    def beam_time(self) -> float:
        return self._beam_time

    def blank(self) -> None:
        self._blanked.set()

    async def health(self) -> Health:
        vacuum = Condition(name="vacuum", ok=not (world() / "leak").exists())
        if not vacuum.ok:
            (world() / "leak-told").touch()
        return Health(blanked=self._blanked.is_set(), conditions=(vacuum,))


def make() -> SmallMicroscope:
    """Factory for `python -m instrument serve`; SMALL_WORLD_INTERVAL is the time of a frame, s. It heeds FAIL_POINT."""
    arm_from_environment()
    return SmallMicroscope(frame_interval=float(os.environ.get("SMALL_WORLD_INTERVAL", "0")))


def make_recording() -> SmallMicroscope:
    """One whose area can be acquired again and again."""
    return SmallMicroscope(repeatable=True)


def process(job: ProcessingJob, on_progress: Progress) -> ProcessingResult:
    """Deflection images from two halves of the counts; information of their correlation, bit/Å²."""
    from agent.processing.process import ProcessingResult
    from agent.reconstruction.solver.result import Reconstruction
    from agent.scoring.information import score_spectrum
    from agent.scoring.ring_correlation import Spectrum
    from agent.storage.acquisition_file import read_acquisition
    from agent.storage.reconstruction_file import write_reconstruction

    started = time.monotonic()
    number = job.acquisition.name[:3].lstrip("0")
    if (world() / f"die-{number}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if (world() / f"raise-{number}").exists():
        raise ValueError("the data make no sense")
    if (world() / f"hang-{number}").exists():
        time.sleep(3600)
    with (world() / "jobs.jsonl").open("a") as lines:
        lines.write(job.model_dump_json() + "\n")
    on_progress("halves", 0.5)
    acquisition = read_acquisition(job.acquisition)
    rng = np.random.default_rng(job.seed)
    first = rng.binomial(acquisition.patterns, 0.5)
    images = [_deflections(half, acquisition.plan.rasters()[0]) for half in (first, acquisition.patterns - first)]
    r = float(np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1])
    pairs = np.full(2, images[0].size / 2)
    score = score_spectrum(Spectrum(edges=np.array([0.1, 0.3, 0.5]), frc=np.array([r, r]), pairs=pairs))
    if (world() / f"veto-{number}").exists():
        score = score.model_copy(update={"veto": "the model explains noise"})
    phase = (images[0] + images[1]).astype(np.float32)
    reconstruction = Reconstruction(
        object=np.exp(1j * phase)[None].astype(np.complex64),
        phase=phase,
        pixel_size=(acquisition.plan.step, acquisition.plan.step),
        origin=(acquisition.plan.field.y, acquisition.plan.field.x),
        probe=np.ones((1, 4, 4), np.complex64),
        positions=acquisition.plan.scan_positions(),
        defocus=acquisition.plan.defocus,
        aberrations={},
        background=None,
        deviance=(1.0,),
        passes=1,
        illuminated=np.ones_like(phase),
        device="cpu",
        seconds=0.0,
    )
    write_reconstruction(job.output, reconstruction, score, np.stack(images), job.scored, acquisition)
    job.column_output.parent.mkdir(parents=True, exist_ok=True)
    job.column_output.write_text(f"after {job.column.stem if job.column else 'nothing'}")
    on_progress("halves", 1.0)
    return ProcessingResult(
        score=score,
        defocus_measured=acquisition.plan.defocus,
        optics=_optics(),
        deviance=1.0,
        passes=1,
        device="cpu",
        seconds={"halves": time.monotonic() - started},
    )


def _optics() -> Optics | None:
    from agent.records import Optics

    if not (world() / "measure").exists():
        return None
    return Optics(defocus=100.0, rotation=0.0, mirrored=False, centre=(8.0, 8.0), sd={"defocus": 5.0})


def _deflections(patterns: np.ndarray, raster: np.ndarray) -> np.ndarray:
    columns = np.arange(SHAPE[1]) - 8
    total = np.maximum(patterns.sum(axis=(1, 2)), 1)
    return ((patterns * columns).sum(axis=(1, 2)) / total)[raster].astype(np.float32)
