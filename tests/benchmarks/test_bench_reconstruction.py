"""What a reconstruction costs: `pytest tests/benchmarks/test_bench_reconstruction.py -s`.

Ratios are medians of interleaved measurements against a torch FFT-only pass (two 2-D FFTs a pattern, batch 64), because
timings on a shared machine scatter by a quarter and more.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from agent.config import ScoreChoice
from agent.reconstruction import DiffractionData, ReconstructionSettings, Reconstructor
from agent.reconstruction.counts.thinning import halves
from agent.reconstruction.model import forward, geometry, probe
from agent.reconstruction.solver.passes import make_pass
from agent.reconstruction.solver.schedule import Step, schedule
from agent.scoring.halves import score_halves
from agent.scoring.regions import crop
from instrument.models import Rectangle

ANGULAR_PIXEL, SEMIANGLE = 1.096, 21.4


def scan(n_side: int, step: float, dose: float = 3e3, n: int = 128, patterns: int | None = None) -> DiffractionData:
    """Counts of n_side² patterns of n² of atoms at random places; `patterns`: so many different ones, repeated."""
    axis = (np.arange(n_side) + 0.5) * step
    positions = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    pixel = ANGULAR_PIXEL * 128 / n  # the same object pixel whatever the detector
    data = DiffractionData(np.zeros((n_side**2, n, n), np.uint16), positions, 80e3, SEMIANGLE, pixel, 200.0 * n / 256)
    geo = geometry.locate(data)
    rng = np.random.default_rng(0)
    y, x = (geo.origin[i] + geo.pixel_size[i] * np.arange(geo.object_shape[i]) for i in (0, 1))
    places = rng.uniform(-20, n_side * step + 20, (900, 2))
    rows, columns = (np.exp(-((a[:, None] - places[:, i]) ** 2) / 0.4) for i, a in ((0, y), (1, x)))
    obj = np.exp(0.5j * rows @ columns.T)
    wave = probe.aperture_wave((n, n), pixel, 80e3, SEMIANGLE, {"C10": -data.defocus}) * np.sqrt(dose * step**2)
    problem, unknowns = forward.known(obj[None], wave[None], geo.corners, geo.subpixel_shifts)
    different = np.arange(patterns or len(positions))
    model = np.roll(forward.expected_counts(problem, unknowns, different, np), (n // 2, n // 2), axis=(1, 2))
    counts = rng.poisson(model).astype(np.uint16)
    return replace(data, patterns=np.resize(counts, (len(positions), n, n)))


def fft_only_pass(n_positions: int, n: int = 128) -> float:
    """Seconds of two torch FFTs per position, batch 64, on the threads torch takes."""
    import torch

    batch = torch.zeros((64, n, n), dtype=torch.complex64)
    started = time.perf_counter()
    for _ in range(2 * n_positions // 64):
        torch.fft.fft2(batch)
    return time.perf_counter() - started


def pass_and_ratio(worker: Reconstructor, step: Step, n: int, repeats: int = 7) -> tuple[float, float]:
    """(median seconds of a pass, median of its ratio to the torch pass before it)."""
    make_pass(worker.experiment, worker.state, step)
    seconds, ratios = [], []
    for _ in range(repeats):
        yardstick = fft_only_pass(len(worker.experiment.counts.totals), n)
        started = time.perf_counter()
        make_pass(worker.experiment, worker.state, step)
        seconds.append(time.perf_counter() - started)
        ratios.append(seconds[-1] / yardstick)
    return float(np.median(seconds)), float(np.median(ratios))


MINI, FULL = Step(batch=64, size=0.3, probe=0.3), Step(batch=None, size=0.5, probe=0.5)


def test_seconds_a_pass(capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for n_side, batch, step in ((40, "64", MINI), (40, "all", FULL), (21, "64", MINI)):
        data = scan(n_side, 0.85, patterns=200)
        worker = Reconstructor(data, ReconstructionSettings(device="cpu", background=False))
        seconds, ratio = pass_and_ratio(worker, step, 128)
        lines.append(
            f"{n_side**2:5d} positions of 128², batch {batch:>3}: {seconds:.3f} s a pass, {ratio:.2f} torch passes"
        )
    for modes, slices in ((2, 1), (4, 1), (1, 2), (1, 3), (4, 3)):
        data = scan(20, 0.85, patterns=200)
        settings = ReconstructionSettings(device="cpu", background=False, probe_modes=modes, slices=slices)
        seconds, ratio = pass_and_ratio(Reconstructor(data, settings), FULL, 128, repeats=3)
        lines.append(
            f"  400 positions of 128², {modes} modes, {slices} slices: {seconds:.3f} s, {ratio:.2f} torch passes, "
            f"{ratio / modes / slices:.2f} for each mode and slice"
        )
    for n in (64, 96, 192, 256):
        data = scan(20, 0.85, n=n, patterns=100)
        worker = Reconstructor(data, ReconstructionSettings(device="cpu", background=False))
        seconds, ratio = pass_and_ratio(worker, FULL, n)
        lines.append(f"  400 positions of {n}²: {seconds:.3f} s, {ratio:.2f} torch passes")
    with capsys.disabled():
        print("", *lines, sep="\n")


def test_with_one_core_taken(capsys: pytest.CaptureFixture[str]) -> None:
    worker = Reconstructor(scan(40, 0.85, patterns=200), ReconstructionSettings(device="cpu", background=False))
    make_pass(worker.experiment, worker.state, MINI)

    def median() -> float:
        seconds = []
        for _ in range(9):
            started = time.perf_counter()
            make_pass(worker.experiment, worker.state, MINI)
            seconds.append(time.perf_counter() - started)
        return float(np.median(seconds))

    alone = median()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        shared = median()
    finally:
        busy.kill()
        busy.wait()
    with capsys.disabled():
        print(
            f"\n1600 positions: {alone:.3f} s a pass alone, {shared:.3f} s beside a busy process: {shared / alone:.2f}"
        )


_FRESH = """
import time, sys; started = time.perf_counter()
import agent.reconstruction
print(time.perf_counter() - started)
"""


def test_import(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        subprocess.run([sys.executable, "-c", _FRESH], capture_output=True, text=True, check=True) for _ in range(7)
    ]
    seconds = float(np.median([float(run.stdout) for run in runs]))
    with capsys.disabled():
        print(f"\nimport agent.reconstruction: {seconds:.2f} s (at most 0.3)")


_MEMORY = """
import re, sys, tempfile
import numpy as np
from pathlib import Path
from agent.reconstruction import DiffractionData, ReconstructionSettings, Reconstructor
from agent.reconstruction.solver.passes import make_pass
from agent.reconstruction.solver.schedule import Step
import time
n_side, n, on_disk = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "disk"
axis = np.arange(n_side) * 0.85
positions = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
shape = (n_side**2, n, n)
patterns = np.memmap(tempfile.TemporaryFile(), np.uint8, "w+", shape=shape) if on_disk else np.empty(shape, np.uint16)
rng = np.random.default_rng(0)
block = rng.poisson(0.4, (256, n, n)).astype(patterns.dtype)
for i in range(0, len(patterns), 256):
    patterns[i : i + 256] = block[: len(patterns) - i]
data = DiffractionData(patterns, positions, 80e3, 21.4, 1.096 * 128 / n, 100.0)
worker = Reconstructor(data, ReconstructionSettings(device="cpu"))
for step in (Step(None, 0.5, 0.5), Step(None, 0.5, 0.5)):
    started = time.perf_counter(); make_pass(worker.experiment, worker.state, step); seconds = time.perf_counter() - started
status = Path("/proc/self/status").read_text()
peak, anonymous = (int(re.search(name + r":\\s+(\\d+) kB", status)[1]) / 1024 for name in ("VmHWM", "RssAnon"))
print(seconds / len(positions) * 1e6, peak, anonymous)
"""


def test_memory_and_linear_cost(capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for n_side, n, where in (
        (40, 128, "memory"),
        (32, 64, "memory"),
        (64, 64, "memory"),
        (128, 64, "memory"),
        (256, 64, "disk"),
    ):
        command = [sys.executable, "-c", _MEMORY, str(n_side), str(n), where]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        cost, peak, anonymous = (float(word) for word in done.stdout.split())
        lines.append(
            f"{n_side**2:6d} positions of {n}², patterns in {where}: {cost:.0f} µs a position and pass, "
            f"peak {peak:.0f} MB, of which {anonymous:.0f} MB are not files"
        )
    with capsys.disabled():
        print("", *lines, sep="\n")


@pytest.mark.parametrize(("n_side", "step"), [(21, 1.5), (40, 0.85)])
def test_time_to_score(n_side: int, step: float, capsys: pytest.CaptureFixture[str]) -> None:
    data = scan(n_side, step)
    settings = ReconstructionSettings(device="cpu", max_passes=10, quantitative=False)
    # time until the two halves agree to 95 % of what they will agree to in the end
    field = n_side * step
    square = Rectangle(y=field / 2 - 9, x=field / 2 - 9, height=18, width=18)
    pair = [
        Reconstructor(replace(data, patterns=half), replace(settings, seed=i))
        for i, half in enumerate(halves(data.patterns, 1))
    ]
    seconds, scores, clock = [], [], 0.0
    for number in range(settings.max_passes):
        for half in pair:
            started = time.perf_counter()
            make_pass(half.experiment, half.state, schedule(half.experiment.settings, len(data.patterns))[number])
            clock += (time.perf_counter() - started) / 2
        images = [crop(r.phase, r.origin, r.pixel_size, square) for r in (half.result() for half in pair)]
        scores.append(score_halves([(images[0], images[1])], data.pixel_size, ScoreChoice()).value)
        seconds.append(clock)
    reached = next(i for i, value in enumerate(scores) if value >= 0.95 * scores[-1])
    with capsys.disabled():
        print(
            f"\n{n_side**2} positions: 95 % of the final score ({scores[-1]:.2f} bit/Å²) after pass {reached + 1}, "
            f"{seconds[reached]:.2f} s"
        )
    assert scores[-1] > 1
