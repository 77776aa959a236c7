"""The score beside the truth: a map over step and defocus at one dose, on the simulated column with all its faults.

`pytest tests/benchmarks/test_bench_truth.py -s` prints, for each setting, the score (from half counts, without the truth), the
same integral from the correlation C with the true phase, ½ ∫ log2(1 + C²/(1 − C²)) 2πk dk, and what the truth's own power
spectrum would give over the diffraction-plane limit of the phase error, 1/(2D) rad²Å²; then the rank correlation.
"""

from __future__ import annotations

import itertools

import examples
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from agent.config import ScoreChoice
from agent.processing.cleaning import clean
from agent.processing.column import measure_column
from agent.processing.column_state import ColumnState
from agent.reconstruction import DiffractionData, ReconstructionSettings, tukey
from agent.scoring.halves import judge
from agent.scoring.regions import crop
from agent.scoring.ring_correlation import remove_plane, ring_correlation
from agent.scoring.truth import true_information
from instrument.models import Description
from sim_instrument import Column, build_specimen, simulate, true_phase

CHOICE = ScoreChoice()


def description(column: Column) -> Description:
    """What the simulated microscope says of itself, as far as calibration needs it."""
    return examples.description(
        voltage=column.voltage,
        semiangle=column.semiangle,
        defocus=examples.between(-1e6, 1e6),
        detector=examples.detector(128, column.angular_pixel, saturation=4095),
        scan_rotation=column.nominal_rotation,
        mirrored=column.mirrored,
    )


def limit_information(truth: NDArray[np.float64], pixel_size: tuple[float, float], dose: float) -> float:
    """½ ∫ log2(1 + 2 D P(k)) 2πk dk with P the ring means of the true phase's power spectrum, rad²Å²; bit/Å²."""
    n_y, n_x = truth.shape
    window = tukey(n_y, CHOICE.taper)[:, None] * tukey(n_x, CHOICE.taper)[None, :]
    area_of_pixel = pixel_size[0] * pixel_size[1]
    power = np.abs(np.fft.fft2(remove_plane(truth) * window)) ** 2 * area_of_pixel / (window**2).sum()
    k = np.hypot(np.fft.fftfreq(n_y, pixel_size[0])[:, None], np.fft.fftfreq(n_x, pixel_size[1])[None])
    edges = ring_correlation([(truth, truth)], pixel_size, CHOICE).edges
    rings = [power[(k >= low) & (k < high)].mean() for low, high in itertools.pairwise(edges)]
    return float((0.5 * np.log2(1 + 2 * dose * np.array(rings)) * np.pi * np.diff(edges**2)).sum())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_score_follows_the_truth(capsys: pytest.CaptureFixture[str]) -> None:
    specimen, column, known = build_specimen(), Column(), None
    grid = [(step, defocus) for step in (1.05, 1.5, 2.5) for defocus in (60.0, 150.0, 250.0, 500.0)]
    rows = []
    for number, (step, defocus) in enumerate(grid):
        y, x = 30.0 + 80 * (number // 4), 30.0 + 80 * (number % 4)
        plan = examples.plan(f"study-{number}", 26, y, x, step=step, defocus=defocus, dose=4e3)
        counts = simulate(plan, specimen, column).reshape(-1, 128, 128)
        data = DiffractionData(
            counts,
            plan.scan_positions(),
            column.voltage,
            column.semiangle,
            column.angular_pixel,
            defocus,
        )
        cleaned = clean(data, np.ones(len(counts), bool), plan.rasters())
        measured = measure_column(
            cleaned.data,
            description(column),
            raster=cleaned.raster,
            known=known,
            enabled=True,
            on_progress=lambda fraction: None,
        )
        known = measured.state
        assert isinstance(known, ColumnState)
        square = examples.square(18, y + 4, x + 4)
        judged = judge(measured.data, ReconstructionSettings(device="cpu"), [square], CHOICE, number)
        picture = judged.reconstruction
        pixel = picture.pixel_size
        image = crop(picture.phase, picture.origin, pixel, square)
        fine = 0.1
        truth = true_phase(specimen, square.grown(2.5), fine).astype(np.float64)
        limit = limit_information(truth[25:-25, 25:-25], (fine, fine), plan.dose)
        rows.append((step, defocus, judged.score, true_information(image, pixel, truth, fine, CHOICE), limit))
    scores, truths = [r[2].value for r in rows], [r[3] for r in rows]
    rank = spearmanr(scores, truths).statistic
    with capsys.disabled():
        print("\nstep Å  defocus Å     score, bit/Å²   from the truth   limit of the dose")
        for step, defocus, score, information, limit in rows:
            print(f"{step:6.2f} {defocus:10.0f} {score.value:8.2f} ± {score.sd:.2f} {information:12.2f} {limit:16.2f}")
        print(f"rank correlation (Spearman) {rank:.2f} over {len(rows)} settings at 4e3 e/Å²")
    assert rank > 0.7
