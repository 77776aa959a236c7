"""Pictures of a recording with less and less dose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent.report.drawing import new_figure, styled, to_png
from agent.study.replay import KEPT, Least, Replayed, ReplayRecord


@styled
def replay_figure(replayed: Replayed, records: Sequence[ReplayRecord], found: Least) -> bytes:
    """The whole recording's phase, those of the doses around what suffices, and the information over the dose; a PNG.

    Args:
        replayed: whose pictures are on disk.
        records: of the study.
        found: what it came to.
    """
    whole = next(r for r in records if r.policy == "whole")
    judged = sorted((r for r in records if r.truth is not None), key=lambda r: -r.budget)
    shown = [whole, *([found.measured] if found.measured is not None else []), *(r for r in judged if r.budget <= 0.25)]
    shown = [r for n, r in enumerate(shown) if r.key not in {each.key for each in shown[:n]}][:3]
    figure, axes = new_figure(4 * (len(shown) + 1), 4.2, columns=len(shown) + 1)
    levels: tuple[float, float] | None = None
    for record, axis in zip(shown, axes, strict=False):
        with np.load(replayed.picture(record)) as stored:
            phase, pixel = stored["phase"], stored["pixel"]
        phase = phase - np.median(phase)
        if levels is None:
            low, high = np.percentile(phase, [0.5, 99.5])
            levels = float(low), float(high)
        extent = (0.0, phase.shape[1] * pixel[1], phase.shape[0] * pixel[0], 0.0)
        axis.grid(visible=False)
        axis.imshow(phase, cmap="gray", vmin=levels[0], vmax=levels[1], extent=extent)
        kept = "" if record.regret is None else f", keeps {1 - record.regret:.0%}"
        axis.set(title=f"{record.budget:.3g} of the dose, step {record.step:.3g} Å{kept}", xlabel="Å")
    last = axes[len(shown)]
    for step in sorted({r.step for r in judged}):
        own = [r for r in judged if r.step == step]
        last.plot([r.budget for r in own], [1 - (r.regret or 0.0) for r in own], "o-", label=f"step {step:.3g} Å")
    last.axhline(KEPT, color="black", lw=0.8, ls="--")
    last.set(xscale="log", xlabel="part of the recording's dose", ylabel="information over the whole's score")
    last.legend()
    return to_png(figure)
