"""The first passes on bins of the detector: every count is there, the model is the same, and held-out counts stay out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import phantom
import pytest
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.reconstruction import Reconstructor, reconstruct
from agent.reconstruction.backends.arrays import ArrayBackend
from agent.reconstruction.backends.cpu import CpuBackend
from agent.reconstruction.counts.layout import framed
from agent.reconstruction.counts.patterns import in_bins
from agent.reconstruction.model import binning, forward
from agent.reconstruction.model.settings import ReconstructionSettings
from agent.reconstruction.solver.passes import make_pass, planned, seen_in_bins

SETTINGS = ReconstructionSettings(max_passes=12, stop_early=False, background=False, quantitative=False, device="cpu")
NARROW = 100.0
"""Å of defocus at which the phantom's probe fills a quarter of its window."""


def summed(images: NDArray[Any]) -> NDArray[np.float64]:
    """2 × 2 pixels added up, pixel by pixel."""
    return np.asarray(sum(images[..., i::2, j::2].astype(np.float64) for i in (0, 1) for j in (0, 1)))


@pytest.mark.parametrize("shape", [(64, 128), (96, 96), (160, 32), (192, 64)])
@pytest.mark.parametrize(("kind", "most"), [("u1", 2**8), ("u2", 40), ("u2", 2**16), ("f4", 9)])
def test_bins_hold_every_count(shape: tuple[int, int], kind: str, most: int) -> None:
    patterns = np.random.default_rng(0).integers(0, most, (9, *shape)).astype(kind)
    rolled = framed(patterns, (shape[0] // 2, -2), shape)
    expected, half = summed(rolled), (shape[0] // 2, shape[1] // 2)
    worker = CpuBackend(2)
    counts = worker.load([patterns[:5], patterns[5:]], 9, (shape[0] // 2, -2), shape)
    plain = ArrayBackend(np, "plain")
    assert np.array_equal(plain.bin_counts(rolled, shape), expected)
    found = worker.bin_counts(counts, shape)
    # the same numbers as from bins that are laid out
    assert np.array_equal(found, worker.load([expected.astype(np.float32)], 9, (0, 0), half))
    assert np.array_equal(in_bins(patterns), summed(patterns))
    for total, mean in (worker.sum_counts(counts, shape), plain.sum_counts(rolled, shape)):
        assert total == pytest.approx(patterns.sum(axis=(1, 2), dtype=float), rel=1e-6)
        assert mean == pytest.approx(rolled.sum(axis=0, dtype=float), rel=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"centre": (31.4, 33.3)},
        {"probe_modes": 2},
        {"source_size": 1.0, "focal_spread": 30.0},
        {"slices": 2, "slice_spacing": 5.0},
        {"aberrations": {"C12": 40.0, "phi12": 0.7}},
    ],
    ids=str,
)
def test_the_model_of_bins_is_the_model_in_bins(change: dict[str, Any]) -> None:
    optics = {
        name: change.pop(name) for name in ("centre", "aberrations", "source_size", "focal_spread") if name in change
    }
    data = replace(phantom.experiment(dose=1e5, defocus=NARROW), **optics)
    worker = Reconstructor(data, replace(SETTINGS, **change))
    # any object will do, as long as it scatters
    phases = phantom.atoms(
        worker.experiment.geometry.object_shape,
        worker.experiment.geometry.origin,
        worker.experiment.geometry.pixel_size,
    )
    worker.state.unknowns.object[...] = np.exp(1j * phases / worker.experiment.settings.slices)
    worker.state.unknowns.count_offset = 0.0
    index = np.arange(0, len(data.positions), 7)
    fine, _ = forward.intensities(worker.experiment.problem(), worker.state.unknowns, index, np)
    problem, unknowns = seen_in_bins(worker.experiment, worker.state)
    coarse, _ = forward.intensities(problem, unknowns, index, np)
    # what is left is the blur of the bins: the fringes of the probe's full width lose a quarter of their contrast
    difference = float(np.linalg.norm(coarse - summed(fine)) / np.linalg.norm(summed(fine)))
    assert difference < 0.03
    assert float(coarse.sum()) == pytest.approx(float(fine.sum()), rel=1e-3)


@pytest.mark.parametrize("change", [{}, {"slices": 2, "slice_spacing": 5.0}, {"background": True}], ids=str)
def test_passes_over_bins_are_as_good_as_over_pixels(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(3).random((phantom.N, phantom.N)) > 0.01
    data = replace(phantom.experiment(dose=1e4, defocus=NARROW, step=0.75), mask=mask)
    errors = {}
    for possible in (binning.can_bin, lambda *_: False):
        monkeypatch.setattr(binning, "can_bin", possible)
        worker = Reconstructor(data, replace(SETTINGS, **change))
        for step in planned(worker.experiment, worker.state):
            if not step.binned:
                break
            make_pass(worker.experiment, worker.state, step)
        found, truth, _ = phantom.inner(worker.result())
        errors[worker.experiment.can_bin] = float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
    assert errors[True] < 1.1 * errors[False] < 0.7  # low frequencies take more passes


@pytest.mark.parametrize(
    ("defocus", "shape", "shown", "legal"),
    [
        (NARROW, (64, 64), 1.0, True),
        (NARROW, (64, 64), 0.99, True),
        (NARROW, (64, 64), 0.8, False),  # four dead pixels in ten bins
        (250.0, (64, 64), 1.0, False),  # a probe of half the window
        (NARROW, (80, 80), 1.0, False),  # no transform of length 40
        (NARROW, (60, 60), 1.0, False),  # a rim is needed for the transform
    ],
)
def test_when_patterns_are_binned(defocus: float, shape: tuple[int, int], shown: float, legal: bool) -> None:
    data = phantom.experiment(defocus=defocus, shape=shape, step=3.0)
    worker = Reconstructor(replace(data, mask=np.random.default_rng(0).random(shape) < shown), SETTINGS)
    assert worker.experiment.can_bin == legal


def test_light_on_the_edge_of_the_disc_is_no_background(monkeypatch: pytest.MonkeyPatch) -> None:
    data = phantom.experiment(dose=1e6, defocus=NARROW)
    settings = replace(SETTINGS, background=True)
    binned = Reconstructor(data, settings).state.unknowns.background
    monkeypatch.setattr(binning, "can_bin", lambda *_: False)
    assert binned.sum() < 1.1 * Reconstructor(data, settings).state.unknowns.background.sum()


class Watched(CpuBackend):
    """Keeps what the passes were given."""

    def __init__(self) -> None:
        super().__init__(2)
        self.given: list[tuple[tuple[int, ...], float, frozenset[int]]] = []

    def accumulate(self, problem: Any, unknowns: Any, index: Any, wanted: Any) -> Any:
        if wanted.adjoint:
            self.given.append((problem.mask.shape, float(problem.counts.sum()), frozenset(index.tolist())))
        return super().accumulate(problem, unknowns, index, wanted)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    worker = Watched()
    monkeypatch.setattr("agent.reconstruction.backends.choice.choose", lambda device: worker)
    return worker


def test_held_out_counts_stay_out_of_the_bins(watched: Watched) -> None:
    data = phantom.experiment(dose=1e4, defocus=NARROW)
    reconstruct(data, replace(SETTINGS, max_passes=20, stop_early=True))
    counts = float(data.patterns.sum())
    binned = [total for shape, total, _ in watched.given if shape == (32, 32)]
    assert binned
    assert binned == pytest.approx([0.9 * counts] * len(binned), rel=0.01)
    assert watched.given[-1][:2] == ((64, 64), counts)


def test_counts_that_come_later_are_in_the_bins(watched: Watched) -> None:
    data = phantom.experiment(dose=1e4, defocus=NARROW)
    first = slice(0, 160)
    worker = Reconstructor(replace(data, patterns=data.patterns[first], positions=data.positions[first]), SETTINGS)
    worker.append(data.patterns[160:], data.positions[160:])
    worker.run()
    assert watched.given[0][:2] == ((32, 32), float(data.patterns.sum()))


def test_patterns_that_change_under_way_are_noticed() -> None:
    data = phantom.experiment(dose=1e4, defocus=NARROW)
    buffer = data.patterns.copy()
    worker = Reconstructor(replace(data, patterns=buffer), SETTINGS)
    buffer[7] = data.patterns[8]
    with pytest.raises(
        BadInputError, match="the patterns were changed while their reconstruction was under way; give it"
    ):
        worker.append(data.patterns[:3], data.positions[:3])


def test_a_dense_scan_begins_with_one_half_and_then_the_other(watched: Watched) -> None:
    data = phantom.experiment(dose=1e4, step=0.75)
    told: list[tuple[int, int]] = []
    worker = Reconstructor(data, replace(SETTINGS, max_passes=5))
    worker.run(lambda done, total: told.append((done, total)))
    n = len(data.positions)
    everything = [frozenset(range(n))] * 5
    halves = [frozenset(range(0, n, 2)), frozenset(range(1, n, 2)), *everything[1:]]
    passes: list[frozenset[int]] = []
    seen: frozenset[int] = frozenset()
    for *_, index in watched.given:
        seen |= index
        if seen == halves[len(passes)]:
            passes.append(seen)
            seen = frozenset()
    assert passes == halves
    assert told == [(done, 6) for done in range(1, 7)]
    assert worker.state.passes == worker.result().passes == 5
    sparse = Reconstructor(phantom.experiment(step=1.5), replace(SETTINGS, max_passes=5))
    assert len(planned(sparse.experiment, sparse.state)) == 5
