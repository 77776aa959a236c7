"""A study in pictures: what was measured over what is true."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent.formatting import electrons
from agent.report.drawing import BLUE, GREEN, GREY, ORANGE, new_figure, styled, to_png
from agent.study.records import KINDS, CalibrationRecord, ScoreRecord
from agent.study.summary import TOLERANCE

_LARGEST_PULL = 10.0
"""Standard deviations at which the axis of pulls ends; what is farther is drawn there."""


@styled
def calibration_figure(records: Sequence[CalibrationRecord]) -> bytes:
    """Defocus and rotation errors over what they were before they were measured, and errors in standard deviations; a PNG.

    Args:
        records: of the study.
    """
    figure, (left, middle, right) = new_figure(11, 3.6, columns=3)
    known = [
        r for r in records if r.defocus is not None and r.true_defocus is not None and r.nominal_defocus is not None
    ]
    for label, colour, marker, chosen in (
        ("found", BLUE, "o", [r for r in known if r.found]),
        ("not found", ORANGE, "x", [r for r in known if not r.found]),
    ):
        before = [_of(r.nominal_defocus) - _of(r.true_defocus) for r in chosen]
        left.plot(before, [_of(r.defocus) - _of(r.true_defocus) for r in chosen], marker, color=colour, label=label)
    left.axhline(0, color=GREY, lw=0.8)
    left.set(xlabel="error of the set-point, Å", ylabel="error of the calibration, Å", title="Defocus")
    left.legend()
    turned = [r.rotation_error for r in known if r.rotation_error is not None and r.right_hand is not False]
    middle.hist(np.abs(turned), bins=20, color=GREEN)
    middle.set(xlabel="|error|, degrees", ylabel="columns", title="Rotation")
    pulls = [(_of(r.defocus) - _of(r.true_defocus)) / r.defocus_sd for r in known if r.defocus_sd]
    bins = np.linspace(-_LARGEST_PULL, _LARGEST_PULL, 41)
    right.hist(np.clip(pulls, -_LARGEST_PULL, _LARGEST_PULL), bins=bins, color=BLUE)
    right.set(xlabel="defocus error over its sd", ylabel="columns", title="Uncertainty")
    return to_png(figure)


@styled
def score_figure(records: Sequence[ScoreRecord]) -> bytes:
    """Scores over the truth for each kind of halves, with the band of 15 %; vetoed ones hollow. A PNG.

    Args:
        records: of the study.
    """
    figure, axes = new_figure(9, 4.2, columns=len(KINDS))
    told = [r for r in records if r.score is not None and r.truth is not None]
    largest = 1.05 * max((max(_of(r.score), _of(r.truth)) for r in told), default=1.0)
    for kind, axis in zip(KINDS, axes, strict=True):
        line = np.array([0.0, largest])
        axis.fill_between(line, (1 - TOLERANCE) * line, (1 + TOLERANCE) * line, color=GREY, alpha=0.2, lw=0)
        axis.plot(line, line, color=GREY, lw=0.8)
        ours = [r for r in told if r.halves == kind]
        for dose, colour in zip(sorted({_of(r.dose) for r in ours}), (ORANGE, BLUE, GREEN) * len(ours), strict=False):
            for vetoed, face in ((False, colour), (True, "none")):
                chosen = [r for r in ours if r.dose == dose and (r.veto is not None) is vetoed]
                label = f"{electrons(dose)} e/Å²" if not vetoed else None
                x, y = [_of(r.truth) for r in chosen], [_of(r.score) for r in chosen]
                axis.scatter(x, y, s=18, edgecolors=colour, facecolors=face, label=label)
        axis.set(xlabel="truth, bit/Å²", ylabel="score, bit/Å²", title=f"Halves: {kind}", xlim=(0, largest))
        axis.set_ylim(min(0.0, min((_of(r.score) for r in ours), default=0.0)), largest)
        if ours:
            axis.legend()
    return to_png(figure)


def _of(value: float | None) -> float:
    assert value is not None
    return value
