"""Drawings of a search: parallel coordinates, and what was gained for how many reconstructions. Each returns a PNG."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize

from agent.report.drawing import BLUE, GREY, ORANGE, new_figure, styled, to_png
from agent.tuning.records import TuningTrial
from agent.tuning.space import Dimension, Space, Value, Values
from agent.tuning.standing import gains

COLOURS = "viridis"


@styled
def parallel_coordinates(space: Space, trials: Sequence[TuningTrial], stages: int, taken: int) -> bytes:
    """A line for each trial across all that is searched, coloured by how it ranks at the farthest stage it reached, as a PNG.

    Args:
        space: what is searched.
        trials: of the search, the start first.
        stages: of the ladder.
        taken: number of the recommended trial.
    """
    dimensions = space.dimensions
    figure, axes = new_figure(max(10.0, 1.05 * len(dimensions) + 2.5), 5.6)
    for stage in range(stages):
        at = {number: each.relative for number, each in gains(trials, stage).items() if trials[number].stage == stage}
        whole = stage == stages - 1
        order = sorted(at, key=lambda number: at[number])
        for rank, number in enumerate(order):
            share = rank / max(len(order) - 1, 1)
            colour = mpl.colormaps[COLOURS](share) if whole else "#9CA3AF"
            heights = _heights(dimensions, trials[number].values, number)
            axes.plot(heights, color=colour, lw=1.4 if whole else 0.7, alpha=0.9 if whole else 0.35, zorder=2 + whole)
    axes.plot(_heights(dimensions, space.start, 0, spread=0), color="black", lw=2.2, ls="--", zorder=5, label="start")
    if taken != 0:
        values = trials[taken].values
        axes.plot(_heights(dimensions, values, 0, spread=0), color=ORANGE, lw=3, zorder=6, label="recommended")
    for x, each in enumerate(dimensions):
        axes.axvline(x, color="#4B5563", lw=0.8, zorder=1)
        _ticks(axes, x, each)
    axes.set_xticks(range(len(dimensions)), [_wrapped(each) for each in dimensions], rotation=35, ha="right")
    axes.set(xlim=(-0.4, len(dimensions) - 0.2), ylim=(-0.06, 1.06), yticks=[])
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    figure.colorbar(
        mpl.cm.ScalarMappable(Normalize(0, 1), COLOURS), ax=axes, pad=0.01, shrink=0.8, ticks=[0, 1]
    ).ax.set_yticklabels(["worst", "best"])
    axes.plot([], [], color="#9CA3AF", lw=1, label="given up at a cheap stage")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=3)
    return to_png(figure)


@styled
def gains_by_cost(trials: Sequence[TuningTrial], stages: int) -> bytes:
    """Gain in held-out counts of each stage over the reconstructions spent until then, as a PNG.

    Args:
        trials: of the search, the start first.
        stages: of the ladder.
    """
    figure, axes = new_figure(6.4, 3.6)
    spent, order = 0.0, []
    for trial in trials:
        for judged in trial.stages:
            spent += judged.cost
            order.append((spent, trial.number, judged.stage))
    at = [gains(trials, stage) for stage in range(stages)]
    best, steps = 0.0, [(0.0, 0.0)]
    for stage in range(stages):
        points = [
            (cost, 100 * at[stage][n].relative) for cost, n, s in order if s == stage and n in at[stage] and n != 0
        ]
        whole = stage == stages - 1
        label = "whole" if whole else f"stage {stage + 1} of {stages}"
        if points:
            x, y = zip(*points, strict=True)
            colour = ORANGE if whole else (GREY, BLUE)[stage % 2]
            axes.plot(x, y, "o", ms=5 if whole else 3, color=colour, alpha=0.9 if whole else 0.6, label=label)
        if whole:
            for cost, value in points:
                best = max(best, value)
                steps.append((cost, best))
    x, y = zip(*steps, strict=True)
    axes.step(x, y, where="post", color="black", lw=1.4, label="best whole one")
    tallest = max([value for _, value in steps] + [each.relative * 100 for found in at for each in found.values()])
    axes.set(xlabel="whole reconstructions, trial by trial", ylabel="held-out counts better by, %")
    axes.set_ylim(-max(tallest, 0.05), 1.15 * max(tallest, 0.05))
    axes.legend(loc="lower right")
    return to_png(figure)


def _heights(dimensions: Sequence[Dimension], values: Values, number: int, spread: float = 0.05) -> list[float]:
    """0 … 1 on each axis; lines through one level are drawn beside each other."""
    random = np.random.default_rng(number)
    heights = []
    for each in dimensions:
        height = each.place(values[each.name])
        if each.kind == "choice":
            height /= max(len(each.levels) - 1, 1)
        beside = random.uniform(-spread, spread) if each.kind != "number" else 0.0
        heights.append(float(np.clip(height + beside / max(len(each.levels) - 1, 1), -0.03, 1.03)))
    return heights


def _ticks(axes: mpl.axes.Axes, x: int, dimension: Dimension) -> None:
    if dimension.kind == "number":
        marks = [(place, f"{dimension.value(place):.3g}") for place in (0.0, 0.5, 1.0)]
    else:
        n = max(len(dimension.levels) - 1, 1)
        marks = [(i / n, _word(level)) for i, level in enumerate(dimension.levels)]
    for height, text in marks:
        axes.text(
            x + 0.05, height, text, fontsize=8, va="center", zorder=7,
            bbox={"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 0.8},
        )  # fmt: skip


def _word(level: Value) -> str:
    if isinstance(level, bool):
        return "on" if level else "off"
    return f"{level:g}" if isinstance(level, int | float) else str(level)


def _wrapped(dimension: Dimension) -> str:
    name = dimension.name.replace("_", " ")
    return f"{name}, {dimension.unit}" if dimension.unit else name
