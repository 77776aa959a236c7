"""Seconds per pass and seconds to 95 % of the final score, for 441 and 1600 positions of 128²; a torch FFT-only pass beside.

The patterns are random atoms at 3e3 e/Å², step 0.85 or 1.5 Å, +200 Å. `pytest tests/benchmarks -s -k reconstruction`.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from agent.config import ScoreChoice
from agent.half_counts import score_halves
from agent.quality import crop
from agent.reconstruction import DiffractionData, ReconstructionSettings, Reconstructor, forward, geometry, probe
from agent.reconstruction.engine import Step, schedule
from agent.reconstruction.thinning import halves
from instrument.models import Rectangle

N, ANGULAR_PIXEL = 128, 1.096


def scan(n_side: int, step: float, dose: float = 3e3) -> DiffractionData:
    """Counts of n_side² patterns of 128² of atoms at random places."""
    axis = (np.arange(n_side) + 0.5) * step
    positions = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    data = DiffractionData(np.zeros((n_side**2, N, N), np.uint16), positions, 80e3, 21.4, ANGULAR_PIXEL, 200.0)
    geo = geometry.locate(data)
    rng = np.random.default_rng(0)
    y, x = (geo.origin[i] + geo.pixel_size[i] * np.arange(geo.object_shape[i]) for i in (0, 1))
    phase = np.zeros(geo.object_shape)
    for py, px in rng.uniform(-20, n_side * step + 20, (900, 2)):
        phase += 0.5 * np.exp(-((y - py) ** 2)[:, None] / 0.4 - ((x - px) ** 2)[None, :] / 0.4)
    obj = np.exp(1j * phase).astype(np.complex64)
    wave = probe.aperture_wave((N, N), ANGULAR_PIXEL, 80e3, 21.4, {"C10": -200.0}) * np.sqrt(dose * step**2)
    problem, unknowns = forward.known(obj[None], wave[None], geo.corners, geo.fractions)
    counts = []
    for part in np.array_split(np.arange(len(positions)), len(positions) // 50):
        model, _ = forward.intensities(problem, unknowns, part, np)
        counts.append(rng.poisson(model).astype(np.uint16))
    return replace(data, patterns=np.roll(np.concatenate(counts), (N // 2, N // 2), axis=(1, 2)))


def fft_only_pass(n_positions: int) -> float:
    """Seconds of two torch FFTs per position, batch 64, on the threads torch takes."""
    import torch

    batch = torch.zeros((64, N, N), dtype=torch.complex64)
    started = time.perf_counter()
    for _ in range(2 * n_positions // 64):
        torch.fft.fft2(batch)
    return time.perf_counter() - started


@pytest.mark.parametrize(("n_side", "step"), [(21, 1.5), (40, 0.85)])
def test_pass_and_time_to_score(
    n_side: int, step: float, benchmark: object, capsys: pytest.CaptureFixture[str]
) -> None:
    data = scan(n_side, step)
    settings = ReconstructionSettings(device="cpu")
    worker = Reconstructor(data, settings)
    one = Step(batch=64, size=0.3, probe=0.3)
    worker.one_pass(one)
    benchmark.pedantic(worker.one_pass, args=(one,), rounds=5)
    ratios = []
    for _ in range(5):
        fft = fft_only_pass(n_side**2)
        started = time.perf_counter()
        worker.one_pass(one)
        ratios.append((time.perf_counter() - started) / fft)

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
            half.one_pass(schedule(settings, len(data.patterns))[number])
            clock += (time.perf_counter() - started) / 2
        images = [crop(r.phase, r.origin, r.pixel_size, square) for r in (half.result() for half in pair)]
        scores.append(score_halves([(images[0], images[1])], data.pixel_size, ScoreChoice()).value)
        seconds.append(clock)
    reached = next(i for i, value in enumerate(scores) if value >= 0.95 * scores[-1])
    with capsys.disabled():
        print(
            f"\n{n_side**2} positions of 128²: {benchmark.stats['median']:.3f} s a pass (probe refined, batch 64), "
            f"{np.median(ratios):.2f} torch FFT-only passes; 95 % of the final score ({scores[-1]:.2f} bit/Å²) after "
            f"pass {reached + 1}, {seconds[reached]:.2f} s"
        )
    assert scores[-1] > 1
