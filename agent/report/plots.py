"""Curves of a campaign: correlation, score against trial, the model's view, electrons. Each returns a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.formatting import power_of, times_power
from agent.records import ModelView, Recommendation, Score, Trial
from agent.report.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure, styled, to_png
from agent.scoring.information import LARGEST_FRC
from agent.scoring.ring_correlation import half_bit_threshold

ROLE_STYLE = {
    "exploration": (BLUE, "o", "exploration"),
    "reference": (PURPLE, "D", "reference"),
    "final": (ORANGE, "*", "final picture"),
    "expert": (GREEN, "s", "expert"),
}
"""Colour, marker and label of each role."""
AXIS_LABEL = {"step": "scan step, Å", "defocus": "defocus, Å (positive: underfocus)", "dose": "dose, {dose_unit}"}


@styled
def correlation_curves(scores: Sequence[tuple[str, str, Score]]) -> bytes:
    """Fourier ring correlations with ±1 sd of Fisher's z as a band, and the half-bit threshold, as a PNG.

    Args:
        scores: (role, label, score) of each curve.
    """
    figure, axes = new_figure(6.4, 3.6)
    threshold_drawn = False
    for role, label, score in scores:
        colour = ROLE_STYLE[role][0]
        k, frc, pairs = (np.asarray(v) for v in (score.frequency, score.frc, score.pairs))
        z = np.arctanh(np.clip(frc, -LARGEST_FRC, LARGEST_FRC))
        sd = 1 / np.sqrt(2 * np.maximum(pairs - 3, 1))
        axes.fill_between(k, np.tanh(z - sd), np.tanh(z + sd), color=colour, alpha=0.2, lw=0)
        axes.plot(k, frc, color=colour, lw=1.8, marker=".", ms=4, label=label)
        if not threshold_drawn:
            axes.plot(k, half_bit_threshold(pairs), color=GREY, lw=1.2, ls="--", label="half-bit threshold")
            threshold_drawn = True
    axes.axhline(0, color="#9CA3AF", lw=0.8)
    axes.set(xlabel="spatial frequency, 1/Å", ylabel="F(k) of the two halves", ylim=(-0.3, 1.05))
    axes.set_xlim(left=0)
    axes.legend(loc="lower left")
    return to_png(figure)


@styled
def scores_by_trial(trials: Sequence[Trial], target: float | None, unit: str) -> bytes:
    """Score ± sd of each trial and what was predicted of it, as a PNG.

    Failed and vetoed trials are crosses on the axis, unfinished ones hollow dots, and a score that is not to be trusted has
    a cross through it.

    Args:
        trials: in the order of acquisition.
        target: score to reach, in `unit`; None: there is none.
        unit: of the scores.
    """
    figure, axes = new_figure(6.4, 3.6)
    scored = [t for t in trials if t.score is not None]
    power = power_of(max((abs(t.score.value) for t in scored if t.score), default=1.0))
    scale = 10.0**-power
    for role, (colour, marker, label) in ROLE_STYLE.items():
        chosen = [t for t in scored if t.role == role]
        if not chosen:
            continue
        axes.errorbar(
            [t.number for t in chosen],
            [t.score.value * scale for t in chosen if t.score],
            yerr=[t.score.sd * scale for t in chosen if t.score],
            color=colour,
            marker=marker,
            ms=11 if marker == "*" else 6,
            ls="none",
            capsize=3,
            label=label,
        )
    doubtful = [(t.number, t.score.value * scale) for t in scored if t.score and t.score.veto]
    if doubtful:
        axes.plot(*zip(*doubtful, strict=True), "x", color="black", ms=13, mew=1.5, label="not to be trusted")
    _mark_predictions(axes, trials, scale)
    _mark_without_score(axes, trials)
    if target is not None:
        axes.axhline(target * scale, color="black", lw=1.2, ls="--", label="target")
    axes.set(xlabel="trial", ylabel=f"score{times_power(-power)}, {unit}" if power else f"score, {unit}")
    axes.set_xticks([t.number for t in trials][:: max(1, len(trials) // 20)])
    axes.set_xlim(0.4, max((t.number for t in trials), default=1) + 0.6)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=axes.get_ylim()[1] * 1.05)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return to_png(figure)


def _mark_without_score(axes: Any, trials: Sequence[Trial]) -> None:
    """Crosses for trials that failed, hollow dots for those that are not finished."""
    failed = [t for t in trials if t.state in ("failed", "vetoed", "abandoned")]
    if failed:
        axes.plot([t.number for t in failed], [0] * len(failed), "x", color=GREY, ms=7, label="failed or vetoed")
    pending = [t for t in trials if t.score is None and t.state not in ("failed", "vetoed", "abandoned")]
    if pending:
        axes.plot([t.number for t in pending], [0] * len(pending), "o", mfc="none", color=GREY, label="not finished")


def _mark_predictions(axes: Any, trials: Sequence[Trial], scale: float) -> None:
    predicted = [t for t in trials if t.suggestion.predicted is not None]
    if predicted:
        axes.errorbar(
            [t.number + 0.22 for t in predicted],
            [(t.suggestion.predicted or 0.0) * scale for t in predicted],
            yerr=[(t.suggestion.predicted_sd or 0.0) * scale for t in predicted],
            color=GREY,
            marker="_",
            ms=7,
            ls="none",
            capsize=2,
            lw=1,
            label="predicted before it was taken",
        )


@styled
def model_maps(
    view: ModelView,
    trials: Sequence[Trial],
    recommended: Recommendation | None,
    expert: tuple[float, float] | None,
    unit: str,
    dose_unit: str,
) -> bytes:
    """The model's mean and sd over two settings, as a PNG; trials are dots. Only what can be chosen is drawn.

    Args:
        view: mean and sd on a grid, bit/Å².
        trials: of the campaign; those that explored are drawn.
        recommended: settings to mark; None: none yet.
        expert: (step, defocus) to mark, Å; None: no comparison.
        unit: of the scores.
        dose_unit: of doses.
    """
    figure, both = new_figure(12.8, 4.8, columns=2)
    legal = np.asarray(view.legal)
    rows, columns = (_span(np.any(legal, axis=axis, keepdims=False)) for axis in (1, 0))
    x, y, legal = np.asarray(view.x)[columns], np.asarray(view.y)[rows], legal[rows, columns]
    mean, sd = (np.asarray(v)[rows, columns] for v in (view.mean, view.sd))
    power = power_of(float(np.abs(mean[legal]).max()) if legal.any() else 1.0)
    for axes, values, title, colours in (
        (both[0], mean, "predicted score of the final picture", "viridis"),
        (both[1], sd, "its standard deviation", "cividis"),
    ):
        shown = np.where(legal, values * 10.0**-power, np.nan)
        axes.grid(False)
        mesh = axes.pcolormesh(x, y, shown, cmap=colours, shading="nearest", rasterized=True)
        figure.colorbar(mesh, ax=axes, label=f"{times_power(-power)} {unit}".strip())
        _mark_settings(axes, view, trials, recommended, expert)
        axes.set(
            title=title,
            xlabel=AXIS_LABEL[view.x_name].format(dose_unit=dose_unit),
            ylabel=AXIS_LABEL[view.y_name].format(dose_unit=dose_unit),
        )
        for name, axis, ticks in ((view.x_name, "x", x), (view.y_name, "y", y)):
            if name != "defocus" and max(ticks) > 8 * min(ticks):
                getattr(axes, f"set_{axis}scale")("log")
    handles, labels = both[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return to_png(figure)


def _mark_settings(
    axes: Any,
    view: ModelView,
    trials: Sequence[Trial],
    recommended: Recommendation | None,
    expert: tuple[float, float] | None,
) -> None:
    chosen = [t.settings for t in trials if t.role == "exploration" and t.state == "done"]
    axes.plot(
        [getattr(s, view.x_name) for s in chosen],
        [getattr(s, view.y_name) for s in chosen],
        "o",
        mfc="white",
        mec="black",
        ms=5,
        label="trials",
    )
    if recommended is not None:
        point = recommended.settings
        axes.plot(
            getattr(point, view.x_name),
            getattr(point, view.y_name),
            "*",
            mfc=ORANGE,
            mec="white",
            ms=16,
            ls="none",
            label="recommended",
        )
    if expert is not None and {view.x_name, view.y_name} == {"step", "defocus"}:
        point_by_name = {"step": expert[0], "defocus": expert[1]}
        axes.plot(
            point_by_name[view.x_name], point_by_name[view.y_name], "s", mfc=GREEN, mec="white", ms=8, ls="none",
            label="expert",
        )  # fmt: skip


def _span(legal: NDArray[np.bool_]) -> slice:
    """From the first to the last that is legal; all where none is."""
    found = np.flatnonzero(legal)
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(None)


@styled
def electrons_by_trial(trials: Sequence[Trial], budget: float, quantity: str) -> bytes:
    """Electrons of each trial as bars, and what the campaign has spent so far as a line against the budget, as a PNG.

    Args:
        trials: in the order of acquisition.
        budget: electrons of the campaign.
        quantity: what is counted, electrons or counts.
    """
    figure, axes = new_figure(6.4, 3.6)
    # the comparison with the expert is no part of the campaign's own budget: it is drawn but not added up
    own = [t for t in trials if t.role != "expert"]
    power = power_of(budget)
    scale = 10.0**-power
    for role, (colour, _, label) in ROLE_STYLE.items():
        chosen = [t for t in trials if t.role == role and t.electrons > 0]
        if chosen:
            axes.bar(
                [t.number for t in chosen], [t.electrons * scale for t in chosen], color=colour, label=label, width=0.7
            )
    axes.plot(
        [t.number for t in own],
        np.cumsum([t.electrons for t in own]) * scale,
        color="black",
        lw=1.5,
        drawstyle="steps-mid",
        label="spent so far",
    )
    axes.axhline(budget * scale, color="black", lw=1.2, ls="--", label="budget")
    axes.set(xlabel="trial", ylabel=f"{quantity}{times_power(-power)}")
    axes.set_xticks([t.number for t in trials][:: max(1, len(trials) // 20)])
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return to_png(figure)
