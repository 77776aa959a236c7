"""What a reader of the report looks for: the optics, what was compared, what is not to be trusted, plain sentences."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from agent.cleaning_record import Cleaning
from agent.records import CampaignRecord, ModelView, Optics, Score, Trial
from agent.report import plots, write_report
from agent.report.page import pictured_trials
from agent.report.resolution import comes_back
from agent.scoring.information import score_spectrum
from agent.scoring.ring_correlation import Spectrum
from agent.storage.journal import load_campaign

VETO = "the model misfits the counts"


@pytest.fixture(autouse=True)
def _figures_stay_undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests read; what is in the files of the pictures does not matter, and costs most of the time."""

    def close(figure: Any) -> bytes:
        plt.close(figure)
        return b""

    for module in ("plots", "pictures"):
        monkeypatch.setattr(f"agent.report.{module}.to_png", close)


def text_of(record: CampaignRecord, folder: Path) -> str:
    html = write_report(record, folder).read_text(encoding="utf-8")
    without_style = re.sub(r"<style>.*?</style>", " ", html, flags=re.DOTALL)
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", without_style)))


def changed(record: CampaignRecord, role: str, **update: Any) -> CampaignRecord:
    """The record with the last trial of a role changed."""
    last = max(t.number for t in record.trials if t.role == role and t.score is not None)
    trials = tuple(t.model_copy(update=update) if t.number == last else t for t in record.trials)
    return record.model_copy(update={"trials": trials})


def vetoed(record: CampaignRecord, role: str) -> CampaignRecord:
    scored = [t.score for t in record.trials if t.role == role and t.score is not None]
    return changed(record, role, score=scored[-1].model_copy(update={"veto": VETO}))


def optics(defocus: float, **more: Any) -> Optics:
    return Optics(
        defocus=defocus,
        rotation=np.radians(-12.26),
        mirrored=True,
        centre=(63.2, 64.8),
        aberrations={"C12": 23.0, "phi12": np.radians(40.0)},
        sd={
            "defocus": 1.7,
            "rotation": np.radians(0.07),
            "row": 0.02,
            "column": 0.02,
            "C12": 2.0,
            "phi12": np.radians(3.0),
        },
        **more,
    )


def test_the_optics_are_shown_with_their_uncertainties(finished_campaign: Path) -> None:
    record = changed(load_campaign(finished_campaign), "final", optics=optics(321.0, handedness=14.2))
    text = text_of(record, finished_campaign)
    for expected in (
        "Final picture: +321.0 ± 1.7 Å (set-point +310 Å)",
        "rotation (−12.26 ± 0.07)°",
        "mirrored, measured: this hand explains the counts better than the other by 14.2 standard deviations",
        "C12 = 23.0 ± 2.0 Å, φ12 = (40 ± 3)°",
        "row 63.200 ± 0.020, column 64.800 ± 0.020 pixels",
        "+321.0 ± 1.7 5600",  # and in the table
    ):
        assert expected in text


def test_what_was_not_measured_is_said_to_be_so(finished_campaign: Path) -> None:
    known = Optics(defocus=321.0, rotation=0.1, mirrored=False, centre=(64.0, 64.0))
    text = text_of(changed(load_campaign(finished_campaign), "final", optics=known), finished_campaign)
    assert "not mirrored, as the instrument says" in text
    assert "(+321)" in text
    assert "In parentheses: a defocus that the trial's own counts do not tell" in text
    assert "Two-fold astigmatism not measured" in text
    faint = known.model_copy(update={"aberrations": {"C12": 1.0, "phi12": 0.3}, "sd": {"C12": 2.0, "phi12": 0.9}})
    text = text_of(changed(load_campaign(finished_campaign), "final", optics=faint), finished_campaign)
    assert "none that the counts tell from noise" in text


def test_a_campaign_of_an_earlier_version_has_no_optics_to_show(finished_campaign: Path) -> None:
    assert "Detector to scan" not in text_of(load_campaign(finished_campaign), finished_campaign)


@pytest.mark.parametrize(
    ("split", "expected"),
    [("counts", "two random halves of the counts"), ("positions", "two halves of the scan positions, every other one")],
)
def test_captions_say_which_halves_were_compared(finished_campaign: Path, split: str, expected: str) -> None:
    record = load_campaign(finished_campaign)
    score = record.config.score.model_copy(update={"split": split})
    record = record.model_copy(update={"config": record.config.model_copy(update={"score": score})})
    assert text_of(record, finished_campaign).count(f"between reconstructions of {expected}") == 2


def with_halves(record: CampaignRecord, kinds: list[str]) -> CampaignRecord:
    """The record with scores of these halves, the last kind for all that are left."""
    trials = []
    for number, trial in enumerate(record.trials):
        kind = kinds[min(number, len(kinds) - 1)]
        score = None if trial.score is None else trial.score.model_copy(update={"halves": kind})
        trials.append(trial.model_copy(update={"score": score}))
    return record.model_copy(update={"trials": tuple(trials)})


def test_scores_of_two_passes_are_told_from_those_of_one(finished_campaign: Path) -> None:
    record = load_campaign(finished_campaign)
    text = text_of(with_halves(record, ["thinned", "passes"]), finished_campaign)
    assert "between reconstructions of the two passes, or (‡) two random halves of the counts of one pass" in text
    assert "‡ From halves of one pass" in text
    text = text_of(with_halves(record, ["passes"]), finished_campaign)
    assert text.count("between reconstructions of the two passes") == 2
    assert "‡" not in text


def test_a_beam_of_unknown_current_is_said_in_english(finished_campaign: Path) -> None:
    record = load_campaign(finished_campaign)
    record = record.model_copy(update={"description": record.description.model_copy(update={"beam_current": None})})
    assert "80 kV, 21.4 mrad, current not known" in text_of(record, finished_campaign)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (3.0, "and reached the target."),
        (4.08, ", which is the target within the uncertainty."),
        (5.0, "did not reach the target."),
    ],
)
def test_whether_the_target_was_reached_is_a_sentence(finished_campaign: Path, target: float, expected: str) -> None:
    record = load_campaign(finished_campaign)
    goal = record.config.goal.model_copy(update={"kind": "cheapest", "score": target})
    trials = tuple(t for t in record.trials if t.role != "exploration")
    record = record.model_copy(
        update={"target": target, "trials": trials, "config": record.config.model_copy(update={"goal": goal})}
    )
    if target == 3.0:  # another trial is the cheapest, so that the final one has a sentence of its own
        expert = record.trials[-1].suggestion
        cheap = expert.model_copy(update={"settings": expert.settings.model_copy(update={"dose": 100.0})})
        record = changed(record, "expert", suggestion=cheap)
    assert expected in text_of(record, finished_campaign)


def test_a_score_that_is_not_to_be_trusted_is_marked_wherever_it_stands(finished_campaign: Path) -> None:
    record = vetoed(load_campaign(finished_campaign), "final")
    html = write_report(record, finished_campaign).read_text(encoding="utf-8")
    text = text_of(record, finished_campaign)
    assert "<s>4.05 ± 0.06</s>" in html
    assert f"The score of the final picture is not to be trusted: {VETO}." in text
    assert f"4.05 ± 0.06 bit/Å² (not to be trusted) {VETO}" in text, "the card"
    assert "cannot be compared by their scores" in text
    assert "A cross through a point" in text
    assert "more information per area" not in text


def test_an_expert_who_got_less_dose_is_compared_at_the_same(finished_campaign: Path) -> None:
    record = load_campaign(finished_campaign)
    final, expert = record.trial("final"), record.trial("expert")
    assert final is not None
    assert expert is not None
    half = expert.settings.model_copy(update={"dose": final.settings.dose / 2})
    text = text_of(
        changed(record, "expert", suggestion=expert.suggestion.model_copy(update={"settings": half})), finished_campaign
    )
    assert "Expert's settings, 50% of the dose" in text
    assert "gave the expert's scan 50% of the dose; at the same dose" in text
    assert "% of the dose" not in text_of(record, finished_campaign)


def test_an_expert_whose_scan_took_more_electrons_for_the_same_dose_is_said_to_have(finished_campaign: Path) -> None:
    record = load_campaign(finished_campaign)
    final = record.trial("final")
    assert final is not None
    text = text_of(changed(record, "expert", electrons=1.4 * final.electrons), finished_campaign)
    assert "Expert's settings, same dose" in text
    assert "the scan took 140% of the final picture's electrons" in text
    assert "of the final picture's electrons" not in text_of(record, finished_campaign)


def test_a_vetoed_score_is_not_the_best_so_far(finished_campaign: Path) -> None:
    record = load_campaign(finished_campaign)
    trials = tuple(
        t.model_copy(update={"reconstruction_file": "x.h5"}) for t in record.trials if t.role == "exploration"
    )
    record = record.model_copy(update={"trials": trials})
    assert [t.number for t in pictured_trials(record)] == [4]
    assert [t.number for t in pictured_trials(vetoed(record, "exploration"))] == [3]


def test_reasons_are_folded_and_what_went_wrong_is_not(finished_campaign: Path) -> None:
    html = write_report(load_campaign(finished_campaign), finished_campaign).read_text(encoding="utf-8")
    assert html.count("<details><summary>Covers &lt;the&gt; search space.</summary></details>") == 6
    assert "<strong>failed: the reconstruction died</strong>" in html
    assert '<div class="full"><table>' in html, "the table has the page's width"


def dipping(back: float) -> Score:
    """F(k) of 0.9 up to 0.5 1/Å, 0 to 0.8, and `back` beyond."""
    edges = np.arange(0.15, 1.26, 0.05)
    k = (edges[1:] + edges[:-1]) / 2
    frc = np.where(k < 0.5, 0.9, np.where(k < 0.8, 0.0, back))
    return score_spectrum(Spectrum(edges, frc, np.full(len(k), 60.0)))


def test_a_correlation_that_comes_back_behind_a_zero_of_the_transfer_is_said_to(finished_campaign: Path) -> None:
    score = dipping(back=0.9)
    assert score.resolution == pytest.approx(1 / 0.55, rel=0.1)
    assert comes_back(score) == pytest.approx(1 / 1.25, rel=0.01)
    text = text_of(changed(load_campaign(finished_campaign), "final", score=score), finished_campaign)
    assert (
        "at the first crossing, as at a zero of the contrast transfer; the correlation comes back beyond it, down to 0.8 Å"
        in text
    )
    assert "the half-bit resolution is its first crossing" in text
    assert "†" in text


def test_noise_beyond_the_resolution_does_not_come_back(finished_campaign: Path) -> None:
    assert comes_back(dipping(back=0.1)) is None
    text = text_of(load_campaign(finished_campaign), finished_campaign)
    assert "†" not in text


def test_the_model_is_drawn_where_settings_can_be_chosen(
    finished_campaign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "to_png", lambda figure: drawn.append(figure) or b"")
    legal = np.zeros((10, 12), bool)
    legal[3:7, 2:6] = True
    values = tuple(map(tuple, np.ones((10, 12)).tolist()))
    view = ModelView(
        x_name="step", y_name="defocus", x=tuple(np.arange(1.0, 13.0)), y=tuple(np.arange(0.0, 1000.0, 100.0)),
        mean=values, sd=values, legal=tuple(map(tuple, legal.tolist())),
    )  # fmt: skip
    trials: tuple[Trial, ...] = ()
    plots.model_maps(view, trials, None, None, "bit/Å²", "e/Å²")
    axes = drawn[0].axes[0]
    assert axes.get_xlim() == pytest.approx((2.5, 6.5))
    assert axes.get_ylim() == pytest.approx((250, 650))


def test_the_report_says_what_was_left_out_and_masked(finished_campaign: Path) -> None:
    example = load_campaign(finished_campaign)
    assert "Patterns as they came" not in text_of(example, finished_campaign)
    found = Cleaning(patterns=280, empty=3, partial=1, dead_pixels=64, descan=(1.4, 0.6), descan_sd=0.02)
    trials = tuple(t.model_copy(update={"cleaning": Cleaning(patterns=280)}) for t in example.trials)
    record = changed(example.model_copy(update={"trials": trials}), "final", cleaning=found)
    text = text_of(record, finished_campaign)
    assert (
        "of 280 patterns 4 are left out: 3 empty, 1 partial; masked pixels: 64 dead, 0 hot; the zero beam moved" in text
    )
    assert "nothing had to be left out or masked" in text
