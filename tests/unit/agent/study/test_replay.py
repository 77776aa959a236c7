"""The least dose of a recording, judged by what was held out of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from examples import description, detector, square

from agent.cli.replay_study import sentences
from agent.config import Metadata, ScoreChoice
from agent.scoring.truth import true_information
from agent.storage.acquisition_file import Acquisition
from agent.study.replay import ReplayRecord, ladder, least_dose, middle, signal_part
from instrument import AcquisitionPlan, Outcome


def recording(edge: int = 16) -> Acquisition:
    """A raster whose patterns hold their own number in one pixel, and 100 counts in another."""
    plan = AcquisitionPlan(
        id="r", campaign="r", region="r", field=square(2.0 * edge), step=2.0, defocus=100.0, dose=25.0
    )
    patterns = np.zeros((edge**2, 8, 8), np.uint16)
    patterns[:, 0, 0] = np.arange(edge**2)
    patterns[:, 4, 4] = 1000
    return Acquisition(
        patterns=patterns,
        received=np.ones(edge**2, bool),
        plan=plan,
        description=description(detector=detector(8)),
        metadata=Metadata(),
        outcome=Outcome(id="r", state="done", frames=edge**2),
    )


def where(acquisition: Acquisition) -> set[tuple[float, float]]:
    return {(float(y), float(x)) for y, x in np.round(acquisition.plan.scan_positions(), 6)}


def test_nothing_that_is_judged_was_held_out() -> None:
    whole = recording()
    steps = {(policy, part): taken for policy, part, taken in ladder(whole, 0)}
    held = where(steps["held-out", 0.5])
    assert len(held) == 128
    for (policy, part), taken in steps.items():
        assert where(taken) <= where(whole), "patterns stay where they were recorded"
        counts = taken.patterns[:, 4, 4].sum()
        assert counts == pytest.approx(part * 256 * 1000, rel=0.05), "the part of the dose is what it says"
        if policy == "ladder":
            assert not where(taken) & held


def test_the_middle_of_a_recording_keeps_its_patterns_in_their_places() -> None:
    whole = recording()
    part = middle(whole, 8)
    assert part.plan.shape == (8, 8)
    index = {tuple(p): n for n, p in enumerate(np.round(whole.plan.scan_positions(), 6).tolist())}
    found = [index[tuple(p)] for p in np.round(part.plan.scan_positions(), 6).tolist()]
    whole_numbers = whole.patterns[found, 0, 0]
    assert np.array_equal(part.patterns[:, 0, 0], whole_numbers)


def test_information_is_the_same_whether_the_other_picture_is_the_truth_or_has_noise_that_is_known() -> None:
    rng = np.random.default_rng(0)
    choice = ScoreChoice(k_min=0.1, k_max=1.2, ring_width=0.1, taper=0.3)
    n, margin, pixel = 120, 10, 0.25

    def smooth(shape: int) -> np.ndarray:
        spectrum = np.fft.fft2(rng.normal(size=(shape, shape)))
        k = np.hypot(*np.meshgrid(np.fft.fftfreq(shape, pixel), np.fft.fftfreq(shape, pixel)))
        return np.fft.ifft2(spectrum * np.exp(-((k / 0.7) ** 2))).real

    truth = smooth(n + 2 * margin)
    noisy = truth + 0.2 * rng.normal(size=truth.shape)
    twins = [truth + 0.2 * np.sqrt(2) * rng.normal(size=truth.shape) for _ in range(2)]
    picture = truth[margin:-margin, margin:-margin] + 0.1 * rng.normal(size=(n, n))
    from agent.scoring.ring_correlation import ring_correlation

    inner = [t[margin:-margin, margin:-margin] for t in twins]
    known = signal_part(ring_correlation([(inner[0], inner[1])], (pixel, pixel), choice).frc)
    exact = true_information(picture, (pixel, pixel), truth, pixel, choice)
    against_noise = true_information(picture, (pixel, pixel), noisy, pixel, choice, known)
    uncorrected = true_information(picture, (pixel, pixel), noisy, pixel, choice)
    assert against_noise == pytest.approx(exact, rel=0.2)
    assert uncorrected < 0.75 * exact


def made(policy: str, part: float, truth: float | None, step: float = 2.0, score: float = 1.0) -> ReplayRecord:
    frequency = tuple(np.arange(0.1, 1.0, 0.1))
    return ReplayRecord(
        policy=policy,
        column="r",
        seed=0,
        dose=part * 100,
        budget=part,
        electrons=part * 1e6,
        step=step,
        defocus=100.0,
        score=score,
        sd=0.05,
        truth=truth,
        frequency=frequency,
        frc=tuple(np.linspace(0.9, 0.1, len(frequency))),
        pairs=(500.0,) * len(frequency),
    )


def test_the_least_dose_is_looked_for_over_step_and_dose_alike() -> None:
    records = [
        made("whole", 1.0, None),
        made("held-out", 0.5, None),
        made("ladder", 0.5, 0.97),
        made("ladder", 0.25, 0.85),
        made("ladder", 0.25, 0.93, step=4.0),
        made("ladder", 0.125, 0.6),
    ]
    found = least_dose(records)
    assert found is not None
    assert found.measured is not None
    assert (found.measured.budget, found.measured.step) == (0.25, 4.0)
    assert 0.125 < found.part < 0.25
    assert "A quarter of the recording's dose keeps 93%" in " ".join(sentences(found, 1.0))


def test_where_a_quarter_does_not_suffice_it_is_said_what_does() -> None:
    found = least_dose([made("whole", 1.0, None), made("ladder", 0.5, 0.8), made("ladder", 0.25, 0.5)])
    assert found is not None
    assert found.measured is None
    assert 0.5 < found.part < 1
    said = " ".join(sentences(found, 1.0))
    assert "A quarter of the recording's dose does not suffice: it keeps 50%" in said
    assert f"by the recording's own spectrum {found.part:.0%} of its dose would" in said


def test_without_a_recording_the_study_says_what_it_needs(tmp_path: Path) -> None:
    from agent.cli.replay_study import run_replay_study
    from agent.errors import BadInputError
    from instrument.recordings import RecordingOptions

    with pytest.raises(BadInputError, match="study replay needs --recording FILE"):
        run_replay_study(None, RecordingOptions(), tmp_path / "r.json", None, 0, quick=True, resume=False)
