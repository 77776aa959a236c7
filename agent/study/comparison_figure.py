"""A comparison of policies in a picture."""

from __future__ import annotations

from collections.abc import Sequence

from agent.report.drawing import new_figure, styled, to_png
from agent.study.comparison import ComparisonRecord
from agent.study.comparison_summary import summarise


@styled
def regret_figure(records: Sequence[ComparisonRecord]) -> bytes:
    """Median regret over the electrons of exploration, or over the final dose where each has one budget; a PNG.

    Args:
        records: of the study.
    """
    rows = summarise(records)
    over_dose = len({row.dose for row in rows}) > 1
    figure, axes = new_figure(7, 4.5)
    for policy in dict.fromkeys(row.policy for row in rows):
        own = [row for row in rows if row.policy == policy]
        x = [row.dose if over_dose else row.cost for row in own]
        line = axes.plot(x, [100 * row.regret for row in own], "o-", label=policy, lw=1.2, ms=4)[0]
        axes.fill_between(
            x, [100 * row.band[0] for row in own], [100 * row.band[1] for row in own], color=line.get_color(), alpha=0.1
        )
    if over_dose:
        axes.set_xscale("log")
    axes.set(
        xlabel="dose of the final picture, e/Å²"
        if over_dose
        else "electrons of exploration over those of the final picture",
        ylabel="truth lost, %, median and 90 % band",
    )
    axes.legend(fontsize=7)
    return to_png(figure)
